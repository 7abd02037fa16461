"""How one axis is cut into query tiles, and which keys each tile needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from harness.problems import Problem
from torch import Tensor


def window_start(position: Tensor, length: int, kernel: int) -> Tensor:
    """First key of the window of each query: centred, and shifted inward at the borders."""
    return (position - kernel // 2).clamp(0, length - kernel)


@dataclass(frozen=True)
class Axis:
    """One axis of a residue map, cut into tiles of `tile` queries that share `halo` consecutive keys.

    Attributes:
        groups: dilation; the full axis interleaves this many residue maps.
        length: length of a residue map.
        kernel: window size.
        tile: queries per tile.
    """

    groups: int
    length: int
    kernel: int
    tile: int

    @property
    def count(self) -> int:
        return self.length // self.tile

    @property
    def queries(self) -> Tensor:
        """Positions `[count, tile]`."""
        return torch.arange(self.length).view(self.count, self.tile)

    @property
    def halo(self) -> int:
        start = window_start(self.queries, self.length, self.kernel)
        return int((start[:, -1] - start[:, 0]).max()) + self.kernel

    @property
    def keys(self) -> Tensor:
        """Positions `[count, halo]`; the last tiles are shifted inward to stay in the map."""
        first = window_start(self.queries[:, 0], self.length, self.kernel).clamp(max=self.length - self.halo)
        return first[:, None] + torch.arange(self.halo)

    @property
    def bias_classes(self) -> tuple[Tensor, Tensor]:
        """Index into the axis of the bias table `[classes, tile, halo]`, -1 outside the window, and each tile's class.

        Tiles away from the borders all look alike, so there are about three classes however many tiles.
        """
        queries, keys = self.queries[:, :, None], self.keys[:, None, :]
        start = window_start(queries, self.length, self.kernel)
        inside = (keys >= start) & (keys < start + self.kernel)
        index = torch.where(inside, keys - queries + self.kernel - 1, -1)
        classes, tile_class = torch.unique(index, dim=0, return_inverse=True)
        return classes, tile_class


def make_axes(problem: Problem, tile: tuple[int, ...]) -> list[Axis]:
    axes = []
    for length, kernel, dilation, t in zip(problem.spatial, problem.kernel_size, problem.dilation, tile, strict=True):
        if length % dilation or length // dilation % t:
            raise ValueError(f"tile {t} with dilation {dilation} does not divide the axis of {length}")
        axes.append(Axis(dilation, length // dilation, kernel, t))
    return axes


def windows(problem: Problem) -> tuple[Tensor, Tensor]:
    """The keys of every token `[tokens, window]`, as flat tokens and as flat entries of the bias table."""
    keys, bias = (torch.zeros(1, 1, dtype=torch.int64) for _ in range(2))
    for length, kernel, dilation in zip(problem.spatial, problem.kernel_size, problem.dilation, strict=True):
        token = torch.arange(length)
        position, group = token // dilation, token % dilation
        members = length // dilation + (group < length % dilation)
        start = torch.stack([window_start(p, int(m), kernel) for p, m in zip(position, members, strict=True)])
        key = start[:, None] + torch.arange(kernel)
        keys = _combine(keys * length, key * dilation + group[:, None])
        bias = _combine(bias * (2 * kernel - 1), key - position[:, None] + kernel - 1)
    return keys, bias


def _combine(a: Tensor, b: Tensor) -> Tensor:
    """Adds `[tokens, window]` of the axes so far and of the next one, every token and key with every other."""
    return (a[:, None, :, None] + b[None, :, None, :]).flatten(2, 3).flatten(0, 1)
