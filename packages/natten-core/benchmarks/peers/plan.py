"""Moves tokens into tiles and back: all that the tiled peers have in common."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from harness.problems import Problem
from torch import Tensor

from peers.geometry import make_axes


class TilePlan:
    """Tables for one problem and tile size.

    With `rows = batch * prod(dilation)` (residue maps are independent problems that share the bias) and `blocks =
    tiles * heads`, queries become `[rows, blocks, tile_queries, head_dim]` and keys and values `[rows, blocks,
    tile_keys, head_dim]`, contiguous, in one copy each. The bias becomes `[blocks, tile_queries, tile_keys]`.
    """

    def __init__(self, problem: Problem, tile: tuple[int, ...]):
        self.problem = problem
        self.axes = make_axes(problem, tile)
        self.rows = problem.batch * math.prod(axis.groups for axis in self.axes)
        self.tiles = math.prod(axis.count for axis in self.axes)
        self.blocks = self.tiles * problem.heads
        self.tile_queries = math.prod(tile)
        self.tile_keys = math.prod(axis.halo for axis in self.axes)
        self.key_rows = self._key_rows()
        index, self.tile_class = self._bias_index()
        self.classes = index.shape[0]
        self.bias_index = index.reshape(1, -1).expand(problem.heads, -1).contiguous()

    def queries(self, x: Tensor) -> Tensor:
        """`[batch, *spatial, heads, head_dim]` to `[rows, blocks, tile_queries, head_dim]`."""
        x = x.view(x.shape[0], *(n for a in self.axes for n in (a.count, a.tile, a.groups)), *x.shape[-2:])
        return x.permute(self._order()).reshape(self.rows, self.blocks, self.tile_queries, -1).contiguous()

    def merge(self, x: Tensor) -> Tensor:
        """The inverse of `queries`."""
        axes, order = self.axes, self._order()
        counts = [[getattr(axis, name) for axis in axes] for name in ("groups", "count", "tile")]
        x = x.view(self.problem.batch, *counts[0], *counts[1], self.problem.heads, *counts[2], -1)
        back = sorted(range(len(order)), key=order.__getitem__)
        return x.permute(back).reshape(self.problem.batch, *self.problem.spatial, self.problem.heads, -1)

    def keys(self, x: Tensor) -> Tensor:
        """`[batch, *spatial, heads, head_dim]` to `[rows, blocks, tile_keys, head_dim]`, halos repeated."""
        # One index_select over rows of head_dim: as fast as strided copies, and its gradient, an index_add, too.
        rows = x.reshape(-1, x.shape[-1]).index_select(0, self.key_rows)
        return rows.view(self.rows, self.blocks, self.tile_keys, -1)

    def bias(self, rpb: Tensor) -> Tensor:
        """The bias table to `[blocks, tile_queries, tile_keys]`, -inf outside the windows."""
        table = F.pad(rpb.flatten(1), (0, 1), value=-math.inf).gather(1, self.bias_index)
        table = table.view(rpb.shape[0], self.classes, self.tile_queries, self.tile_keys)
        return table.transpose(0, 1).index_select(0, self.tile_class).flatten(0, 1)

    def chunks(self, scores_bytes: int | None) -> list[Chunk]:
        """Cuts the work so that the scores of one piece stay below `scores_bytes` (None: one piece)."""
        row = self.blocks * self.tile_queries * self.tile_keys * self.problem.dtype.itemsize
        if scores_bytes is None or row <= scores_bytes:
            step = self.rows if scores_bytes is None else scores_bytes // row
            return [Chunk(i, min(i + step, self.rows), 0, self.blocks) for i in range(0, self.rows, step)]
        step = max(1, self.blocks * scores_bytes // row)
        spans = [(j, min(j + step, self.blocks)) for j in range(0, self.blocks, step)]
        return [Chunk(i, i + 1, *span) for i in range(self.rows) for span in spans]

    def _order(self) -> list[int]:
        """From batch, (count, tile, groups)*, heads, head_dim to batch, groups*, counts*, heads, tiles*, head_dim."""
        rank = len(self.axes)
        count, tile, groups = ([first + 3 * i for i in range(rank)] for first in (1, 2, 3))
        return [0, *groups, *count, 1 + 3 * rank, *tile, 2 + 3 * rank]

    def _key_rows(self) -> Tensor:
        rank, heads = len(self.axes), self.problem.heads
        rows = torch.zeros([1] * (2 + 3 * rank), dtype=torch.int64)
        stride = heads
        for i, axis in reversed(list(enumerate(self.axes))):
            token = axis.keys * axis.groups + torch.arange(axis.groups)[:, None, None]
            shape = [1] * rows.dim()
            shape[1 + i], shape[1 + rank + i], shape[2 + 2 * rank + i] = axis.groups, axis.count, axis.halo
            rows = rows + stride * token.view(shape)
            stride *= axis.length * axis.groups
        batch = stride * torch.arange(self.problem.batch).view(-1, *[1] * (1 + 3 * rank))
        head = torch.arange(heads).view(heads, *[1] * rank)
        return (rows + batch + head).flatten()

    def _bias_index(self) -> tuple[Tensor, Tensor]:
        """Flat index into a padded bias table `[classes, tile_queries, tile_keys]` and the class of every tile."""
        index, tile_class = torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        inside = torch.ones(1, 1, 1, dtype=torch.bool)
        for axis in self.axes:
            axis_index, axis_class = axis.bias_classes
            tile_class = (tile_class[:, None] * len(axis_index) + axis_class).flatten()
            index = _outer(index * (2 * axis.kernel - 1), axis_index, torch.add)
            inside = _outer(inside, axis_index >= 0, torch.logical_and)
        return torch.where(inside, index, math.prod(self.problem.bias_shape[1:])), tile_class


class Chunk:
    """Rows `i` to `j` and blocks `x` to `y`, which are either all blocks or those of one row."""

    def __init__(self, i: int, j: int, x: int, y: int):
        self.rows, self.blocks = slice(i, j), slice(x, y)
        self.shape = (j - i, y - x)
        self.size = (j - i) * (y - x)

    def of(self, tensor: Tensor) -> Tensor:
        """A view `[size, m, n]` of this part of `[rows, blocks, m, n]`."""
        return tensor[self.rows, self.blocks].view(self.size, *tensor.shape[2:])


def _outer(a: Tensor, b: Tensor, combine: object) -> Tensor:
    """Combines `[c, q, s]` and `[c', q', s']` into `[c * c', q * q', s * s']`."""
    assert callable(combine)
    both: Tensor = combine(a[:, None, :, None, :, None], b[None, :, None, :, None, :])
    return both.flatten(4, 5).flatten(2, 3).flatten(0, 1)
