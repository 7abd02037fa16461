"""What goes into a detector and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.ops import box_convert

from dinat_zoo.dense.rle import encode

Size = tuple[int, int]

_NAMES: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
_PRESENT = [i for i, name in enumerate(_NAMES) if name not in ("__background__", "N/A")]
COCO_CATEGORIES: dict[int, str] = {i: _NAMES[i] for i in _PRESENT}
"""COCO's 80 categories, name by id; label i of the published models is the i-th of them."""


@dataclass
class Batch:
    """Images of several sizes in one tensor.

    Attributes:
        images: `[B, C, H, W]`, normalised, each in the upper left corner and padded with zeros.
        sizes: height and width of each image, without padding.
        original_sizes: height and width of each before it was resized.
    """

    images: Tensor
    sizes: list[Size]
    original_sizes: list[Size]

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        return Batch(self.images.to(device), self.sizes, self.original_sizes)


@dataclass
class Objects:
    """What is to be found in one image, in the coordinates of the resized image.

    Attributes:
        boxes: `[N, 4]`, left, top, right, bottom in pixels, wider and higher than 0.
        labels: `[N]`, int64, from 0.
        masks: `[N, H, W]`, bool or uint8, of the image's size or as large as the padded batch.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor

    def to(self, device: torch.device | str) -> Objects:
        """The same on another device."""
        return Objects(self.boxes.to(device), self.labels.to(device), self.masks.to(device))


@dataclass
class Detections:
    """What was found in one image, best first, in the coordinates of the original image.

    Attributes:
        boxes: `[N, 4]`, left, top, right, bottom in pixels.
        labels: `[N]`, int64, from 0.
        scores: `[N]`, from 0 to 1.
        masks: `[N, H, W]`, bool.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor

    def to_coco(self, image_id: int, categories: Sequence[int] = tuple(COCO_CATEGORIES)) -> list[dict[str, Any]]:
        """The entries of a COCO result file.

        Args:
            image_id: the image's id.
            categories: the category's id of each label.

        Returns:
            Per detection `image_id`, `category_id`, `score`, `bbox` (left, top, width, height) and `segmentation`
            (`size` and compressed run lengths `counts`), ready for `json.dump`.
        """
        boxes = box_convert(self.boxes, "xyxy", "xywh").tolist()
        return [
            {
                "image_id": image_id,
                "category_id": categories[label],
                "bbox": box,
                "score": score,
                "segmentation": encode(mask),
            }
            for box, label, score, mask in zip(
                boxes, self.labels.tolist(), self.scores.tolist(), self.masks, strict=True
            )
        ]


def check_objects(batch: Batch, targets: Sequence[Objects], num_classes: int) -> None:
    """Check targets against their images.

    Raises:
        ValueError: what does not fit, with the number of its image.
    """
    if len(targets) != len(batch.sizes):
        raise ValueError(f"targets has {len(targets)} entries, for {len(batch.sizes)} images: one per image.")
    for i, (target, size) in enumerate(zip(targets, batch.sizes, strict=True)):
        shapes: Mapping[str, tuple[int, ...]] = {
            name: tuple(getattr(target, name).shape) for name in ("boxes", "labels", "masks")
        }
        number = len(target.labels)
        if shapes["boxes"] != (number, 4) or len(shapes["labels"]) != 1 or shapes["masks"][:1] != (number,):
            raise ValueError(
                f"targets[{i}] has shapes {shapes}; they must be boxes [N, 4], labels [N] and masks [N, H, W]."
            )
        if len(shapes["masks"]) != 3 or shapes["masks"][1] < size[0] or shapes["masks"][2] < size[1]:
            raise ValueError(f"targets[{i}].masks is {shapes['masks']}; the image is {size}: masks must cover it.")
        if number and not 0 <= int(target.labels.min()) <= int(target.labels.max()) < num_classes:
            raise ValueError(f"targets[{i}].labels is {target.labels.tolist()}; they must be 0 to {num_classes - 1}.")
        if bool((target.boxes[:, 2:] <= target.boxes[:, :2]).any()):
            raise ValueError(f"targets[{i}].boxes has an empty box; right must be above left and bottom above top.")
