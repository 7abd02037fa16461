"""The reference boxes of a region proposal network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def base_anchors(stride: int, scale: float = 8.0, ratios: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
    """The anchors of the first pixel of a map: `[ratios, 4]`, centred on 0, of area `(scale * stride) ** 2`.

    A ratio is height over width. The centre is the pixel's corner, not its middle, as in the published models.
    """
    height = scale * stride * torch.tensor(ratios, device="cpu").sqrt()
    width = (scale * stride) ** 2 / height
    return torch.stack([-width, -height, width, height], dim=1) / 2


def grid_anchors(size: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """All anchors of a map of `size`, height and width: `[height * width * ratios, 4]`, row by row."""
    y = torch.arange(size[0], device=device) * stride
    x = torch.arange(size[1], device=device) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (shifts + base_anchors(stride).to(device)).view(-1, 4)


def inside(size: tuple[int, int], valid: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """Which of `grid_anchors` belong to a pixel that covers the image and not only the batch's padding.

    Args:
        size: height and width of the map.
        valid: height and width of the image with its own padding, in image pixels.
        stride: image pixels per pixel of the map.
        device: of the result.

    Returns:
        Booleans `[height * width * ratios]`.
    """
    rows = torch.arange(size[0], device=device) < -(-valid[0] // stride)
    columns = torch.arange(size[1], device=device) < -(-valid[1] // stride)
    return (rows[:, None] & columns).flatten().repeat_interleave(len(base_anchors(stride)))
