"""Boxes: `[..., 4]`, left, top, right and bottom in pixels, not rounded; `torchvision.ops` has what is not here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

_LARGEST = abs(math.log(16 / 1000))  # a decoded side is at most 62.5 times that of its reference


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes `[..., 4]` to an image of `size`, height and width."""
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return torch.minimum(boxes.clamp(min=0), limit)


def with_image_index(boxes: Sequence[Tensor]) -> Tensor:
    """Join the boxes `[n, 4]` of every image to `[N, 5]`, the image's index first, as `torchvision.ops` takes them."""
    index = [x.new_full((len(x), 1), i) for i, x in enumerate(boxes)]
    return torch.cat([torch.cat(index), torch.cat(list(boxes))], dim=1)


@dataclass(frozen=True)
class BoxCoder:
    """Boxes as offsets from reference boxes: centre in units of the reference's sides, sides as logarithms.

    Equations (6)-(9) of R-CNN's appendix C (https://arxiv.org/abs/1311.2524), divided by `std`.

    Attributes:
        std: scale of the four offsets.
    """

    std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """The offsets `[..., 4]` that lead from references to boxes, both `[..., 4]`."""
        reference, box = (box_convert(x.float(), "xyxy", "cxcywh") for x in (references, boxes))
        centre = (box[..., :2] - reference[..., :2]) / reference[..., 2:]
        sides = (box[..., 2:] / reference[..., 2:]).log()
        offsets: Tensor = torch.cat([centre, sides], dim=-1) / box.new_tensor(self.std)
        return offsets

    def decode(self, references: Tensor, offsets: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The boxes that offsets lead to.

        Args:
            references: `[N, 4]`.
            offsets: `[N, 4 * classes]`, four for each class.
            size: height and width of the image, to clip the boxes to; None not to.

        Returns:
            Boxes `[N, 4 * classes]`, in fp32.
        """
        reference: Tensor = box_convert(references.float(), "xyxy", "cxcywh")[:, None]
        offsets = offsets.float().unflatten(-1, (-1, 4)) * reference.new_tensor(self.std)
        centre = reference[..., :2] + offsets[..., :2] * reference[..., 2:]
        sides = reference[..., 2:] * offsets[..., 2:].clamp(-_LARGEST, _LARGEST).exp()
        boxes: Tensor = box_convert(torch.cat([centre, sides], dim=-1), "cxcywh", "xyxy")
        if size is not None:
            boxes = clip(boxes, size)
        return boxes.flatten(1)


def of_class(per_class: Tensor, labels: Tensor) -> Tensor:
    """From `[N, 4 * classes]` the four values of each row's label: `[N, 4]`."""
    chosen: Tensor = per_class.unflatten(1, (-1, 4))[torch.arange(len(labels), device=labels.device), labels]
    return chosen
