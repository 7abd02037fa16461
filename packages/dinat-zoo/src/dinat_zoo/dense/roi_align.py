"""Features of regions, from the level of the pyramid that fits a region's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

_FINEST = 56  # regions of less than twice this side, the geometric mean of both, are taken from the finest level


def level_of(regions: Tensor, levels: int) -> Tensor:
    """The level of each region `[N, 4]`: equation (1) of the FPN paper, counted from the finest."""
    sides = (regions[:, 2:] - regions[:, :2]).clamp(min=0)
    level = (sides.prod(dim=1).sqrt() / _FINEST + 1e-6).log2().floor()
    return level.clamp(0, levels - 1).long()


def region_features(features: Sequence[Tensor], strides: Sequence[int], regions: Tensor, side: int) -> Tensor:
    """Average each region's features on a grid of `side` x `side` bins.

    Args:
        features: maps `[B, C, H_i, W_i]`, finest first.
        strides: image pixels per pixel of each.
        regions: `[N, 5]`, the image's index, then the box in image pixels.
        side: bins per side; each is the mean of as many samples as the region has pixels there.

    Returns:
        `[N, C, side, side]`.
    """
    level = level_of(regions[:, 1:], len(features))
    output = features[0].new_zeros(len(regions), features[0].shape[1], side, side)
    for i, (x, stride) in enumerate(zip(features, strides, strict=True)):
        index = torch.nonzero(level == i)[:, 0]
        if len(index):
            pooled = roi_align(x, regions[index].to(x.dtype), side, 1 / stride, sampling_ratio=0, aligned=True)
            output = output.index_copy(0, index, pooled.to(output.dtype))
    return output
