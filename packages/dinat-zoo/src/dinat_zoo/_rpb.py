"""Relative positional biases for another window."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor


def interpolate_rpb(rpb: Tensor, kernel_size: int | Sequence[int]) -> Tensor:
    """A bias table for another kernel size, by bicubic interpolation, as the authors made 11x11 models of 7x7 ones.

    The middle of the table, the bias of a query with itself, stays in the middle; its corners are not aligned
    (`align_corners=False`), which is Swin's way for windows that change.

    Args:
        rpb: `[heads, 2 * k - 1, 2 * l - 1]`, floating point.
        kernel_size: the new window, an int or one per axis.

    Returns:
        `[heads, 2 * kernel_size - 1, 2 * kernel_size - 1]` in the same dtype; `rpb` itself if nothing changes.

    Raises:
        ValueError: if `rpb` is not such a table, or `kernel_size` not one or two positive ints.

    Example:
        >>> import torch, dinat_zoo
        >>> dinat_zoo.interpolate_rpb(torch.zeros(6, 13, 13), 11).shape
        torch.Size([6, 21, 21])
    """
    sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"kernel_size is {kernel_size!r}; it must be one positive int, or two for the two axes.")
    if rpb.ndim != 3 or not all(side % 2 for side in rpb.shape[1:]):
        raise ValueError(f"rpb has shape {list(rpb.shape)}; it must be [heads, 2 * k - 1, 2 * l - 1].")
    resized: Tensor = resize_rel_pos_bias_table_simple(rpb, sizes, (len(rpb), *(2 * side - 1 for side in sizes)))
    return resized
