"""Semantic segmentation with UPerNet, and the ways to run it on a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dinat_zoo.dense.backbone import Backbone
from dinat_zoo.dense.upernet import FCNHead, UPerHead, resize

IGNORE = 255  # label of pixels that teach nothing
_AUXILIARY_LEVEL, _AUXILIARY_WEIGHT = 2, 0.4


class Segmenter(nn.Module):
    """A backbone of four levels, UPerNet's head, and an auxiliary head on the third level, for training alone.

    Called with targets it gives losses, without them logits.

    Args:
        backbone: gives the features.
        num_classes: classes.
        channels: width of UPerNet's head.
        auxiliary_channels: width of the auxiliary head.

    Raises:
        ValueError: a backbone that does not give four levels.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int = 150, channels: int = 512, auxiliary_channels: int = 256
    ) -> None:
        super().__init__()
        if len(backbone.channels) != 4:
            raise ValueError(f"backbone gives {len(backbone.channels)} levels; UPerNet takes 4.")
        self.num_classes = num_classes
        self.backbone = backbone
        self.decode_head = UPerHead(backbone.channels, num_classes, channels)
        self.auxiliary_head = FCNHead(backbone.channels[_AUXILIARY_LEVEL], num_classes, auxiliary_channels)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Losses, to be added up, where there are targets, else logits.

        The losses, `decode` and `auxiliary` (times 0.4), are cross entropies averaged over all pixels, those that are
        ignored too, as in the published training.

        Args:
            images: `[B, C, H, W]`, normalised.
            targets: labels `[B, H, W]`, int64, 255 where a pixel is ignored.

        Returns:
            The losses, or logits `[B, num_classes, H, W]`, bilinearly resized to the images.

        Raises:
            ValueError: targets of another size or with labels that do not exist.
        """
        if targets is not None:
            self._check(images, targets)
        features = self.backbone(images)
        logits: Tensor = self.decode_head(features)
        if targets is None:
            return resize(logits, images.shape[2:])
        auxiliary: Tensor = self.auxiliary_head(features[_AUXILIARY_LEVEL])
        return {
            "decode": pixel_loss(logits, targets),
            "auxiliary": _AUXILIARY_WEIGHT * pixel_loss(auxiliary, targets),
        }

    def _check(self, images: Tensor, targets: Tensor) -> None:
        wanted = (len(images), *images.shape[2:])
        if tuple(targets.shape) != wanted:
            raise ValueError(f"targets has shape {tuple(targets.shape)}; it must be that of the images, {wanted}.")
        labels = targets[targets != IGNORE]
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"targets has labels from {int(labels.min())} to {int(labels.max())}; "
                f"they must be 0 to {self.num_classes - 1}, or {IGNORE} for pixels to ignore."
            )


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits `[B, classes, h, w]`, resized to the targets `[B, H, W]`, over the number of pixels."""
    resized = resize(logits.float(), targets.shape[1:])
    return cross_entropy(resized, targets, ignore_index=IGNORE, reduction="sum") / targets.numel()


def slide(model: Callable[[Tensor], Tensor], images: Tensor, crop: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Logits of large images, from overlapping crops of one size, averaged where they overlap.

    Args:
        model: maps `[B, C, h, w]` to logits `[B, classes, h, w]`, as a `Segmenter` does.
        images: `[B, C, H, W]`.
        crop: height and width of a crop; one larger than the image is cut to it.
        stride: steps between crops, at most as large as they are; the last ones end with the image.

    Returns:
        Logits `[B, classes, H, W]`.

    Raises:
        ValueError: a stride that is not positive or would leave gaps.
    """
    if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
        raise ValueError(f"stride is {stride}; with crop={crop} it must be from 1 to that, or crops leave gaps.")
    size = images.shape[2:]
    starts = [
        sorted({min(start, max(length - side, 0)) for start in range(0, max(length - side, 0) + step, step)})
        for length, side, step in zip(size, crop, stride, strict=True)
    ]
    total: Tensor | None = None
    count = images.new_zeros(size)
    for y in starts[0]:
        for x in starts[1]:
            window = (..., slice(y, y + crop[0]), slice(x, x + crop[1]))
            logits = model(images[window])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *size)
            total[window] += logits
            count[window] += 1
    assert total is not None
    return total / count


def predict(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    size: tuple[int, int],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """The probabilities of every pixel of the original images.

    Args:
        model: maps images to logits of their size: a `Segmenter`, or one under `slide`.
        images: `[B, C, H, W]`, normalised, all of one original size.
        size: height and width of the originals.
        scales: sizes at which the images are looked at, relative to `images`; the probabilities are averaged. The
            multi-scale results of the papers are of (0.5, 0.75, 1, 1.25, 1.5, 1.75) with `flip`.
        flip: look at each also mirrored.

    Returns:
        Probabilities `[B, classes, *size]`; `argmax(1)` of them is the segmentation.
    """
    views = []
    for scale in scales:
        sides = [int(side * scale + 0.5) for side in images.shape[2:]]
        view = images if scale == 1 else resize(images, sides)
        views.append(resize(model(view), size).float().softmax(dim=1))
        if flip:
            views.append(resize(model(view.flip(-1)).flip(-1), size).float().softmax(dim=1))
    return torch.stack(views).mean(dim=0)
