"""Which boxes learn which object: assignment by overlap, and sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True)
class Assigner:
    """Gives each box the object that it overlaps most, or the background.

    Attributes:
        positive: from this IoU on a box learns the object.
        negative: below this IoU with every object a box learns the background; between the two it is ignored.
        low_quality: IoU from which on an object's best boxes learn it even below `positive`; None for never.
    """

    positive: float
    negative: float
    low_quality: float | None = None

    def __call__(self, boxes: Tensor, objects: Tensor) -> Tensor:
        """Assign boxes `[N, 4]` to objects `[M, 4]`.

        Returns:
            `[N]`, int64: the object's index, `BACKGROUND` or `IGNORED`. Where an object's best overlap is shared by
            several boxes all learn it, and of several objects that claim a box the last one has it.
        """
        if not len(objects):
            return boxes.new_full((len(boxes),), BACKGROUND, dtype=torch.int64)
        overlaps = box_iou(objects, boxes)  # [M, N]
        if not len(boxes):
            return boxes.new_zeros(0, dtype=torch.int64)
        best, index = overlaps.max(dim=0)
        assigned = torch.where(best < self.negative, BACKGROUND, IGNORED)
        assigned = torch.where(best >= self.positive, index, assigned)
        if self.low_quality is not None:
            best_of_object = overlaps.max(dim=1, keepdim=True).values
            claims = (overlaps == best_of_object) & (best_of_object >= self.low_quality)
            last = len(objects) - 1 - claims.flip(0).int().argmax(dim=0)
            assigned = torch.where(claims.any(dim=0), last, assigned)
        return assigned


@dataclass(frozen=True)
class Sampler:
    """Draws boxes at random, positive ones first.

    Attributes:
        number: how many to draw from an image.
        positive_fraction: the largest share of positive ones; the rest are negative, as far as there are any.
    """

    number: int
    positive_fraction: float

    def __call__(self, assigned: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from an assignment `[N]`: the indices of positive and of negative boxes."""
        positive = _draw(torch.nonzero(assigned >= 0)[:, 0], int(self.number * self.positive_fraction))
        return positive, _draw(torch.nonzero(assigned == BACKGROUND)[:, 0], self.number - len(positive))


def _draw(indices: Tensor, number: int) -> Tensor:
    if len(indices) <= number:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:number]]
