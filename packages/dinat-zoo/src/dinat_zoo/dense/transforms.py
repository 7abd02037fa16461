"""From pictures to what the models take, as the published models were trained and tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import interpolate, pad

from dinat_zoo.dense.data import Batch, Objects, Size

# Bounds of the shorter side in the tests of Mask2Former and OneFormer, and of the longer one as a multiple of it.
_TESTED = {"coco": (800, 1333 / 800), "ade20k": (640, 4.0), "cityscapes": (1024, 2.0), "mapillary": (2048, 1.0)}
_DIVISOR = 32  # a detector's images are padded to multiples of the coarsest level's stride


def padded_size(size: Size) -> Size:
    """`size` rounded up to multiples of 32."""
    return -(-size[0] // _DIVISOR) * _DIVISOR, -(-size[1] // _DIVISOR) * _DIVISOR


@dataclass(frozen=True)
class ImageTransform:
    """Resizes images with their proportions kept, normalises them and puts them into one batch.

    An image becomes as large as it can be with its longer side at most `longest` and its shorter at most `shortest`,
    by bilinear interpolation. Pixels are normalised by the mean and standard deviation of
    ImageNet's; the batch is padded with zeros at the right and the bottom.

    Attributes:
        longest: bound of the longer side: 1333 for detection, 2048 (2560 for the large models) for segmentation.
        shortest: bound of the shorter side: 800 for detection, 512 (640) for segmentation.
        divisor: the batch's sides are multiples of it: 32 for detection, 1 for UPerNet.
        antialias: smooth what becomes smaller, as Pillow and detectron2 do and OpenCV and mmdetection do not.
    """

    longest: int = 1333
    shortest: int = 800
    divisor: int = _DIVISOR
    antialias: bool = False

    def __call__(self, images: Sequence[Tensor]) -> Batch:
        """Make a batch of images.

        Args:
            images: `[3, H, W]` each, RGB, uint8.

        Returns:
            The batch, in fp32.

        Raises:
            ValueError: an image of another shape or dtype.
        """
        if not images:
            raise ValueError("images is empty; a batch needs at least one.")
        original: list[Size] = []
        resized = []
        for i, image in enumerate(images):
            if image.ndim != 3 or len(image) != 3 or image.dtype != torch.uint8:
                raise ValueError(f"images[{i}] is {image.dtype} {list(image.shape)}; it must be uint8 [3, H, W], RGB.")
            original.append((image.shape[1], image.shape[2]))
            resized.append(self._normalise(self._resize(image[None].float(), self.resized_size(original[-1]))[0]))
        sizes: list[Size] = [(x.shape[1], x.shape[2]) for x in resized]
        height, width = (-(-max(sides) // self.divisor) * self.divisor for sides in zip(*sizes, strict=True))
        batch = [pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in resized]
        return Batch(torch.stack(batch), sizes, original)

    def objects(self, objects: Objects, original_size: Size) -> Objects:
        """Resize an image's objects with it; masks keep their nearest pixel's value."""
        size = self.resized_size(original_size)
        scale = objects.boxes.new_tensor([size[1] / original_size[1], size[0] / original_size[0]]).repeat(2)
        masks = interpolate(objects.masks[:, None].to(torch.uint8), size=size, mode="nearest")[:, 0]
        return replace(objects, boxes=objects.boxes * scale, masks=masks)

    def resized_size(self, size: Size) -> Size:
        """Height and width that an image of `size` gets."""
        factor = min(self.longest / max(size), self.shortest / min(size))
        return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)

    @staticmethod
    def _normalise(image: Tensor) -> Tensor:
        mean, std = (255 * image.new_tensor(x).view(3, 1, 1) for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        return (image - mean) / std

    def _resize(self, images: Tensor, size: Size) -> Tensor:
        return interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=self.antialias)


def published_test(dataset: str, shortest: int | None = None) -> ImageTransform:
    """How the published Mask2Former and OneFormer models of a data set were tested.

    Args:
        dataset: "coco", "ade20k", "cityscapes" or "mapillary".
        shortest: bound of the shorter side where it is another one than the data set's usual.
    """
    usual, ratio = _TESTED[dataset]
    shortest = shortest or usual
    return ImageTransform(round(ratio * shortest), shortest, antialias=True)
