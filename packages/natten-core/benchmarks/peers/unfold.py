"""Every query's window written out, `prod(kernel_size)` copies of the keys and values: the usual pure-torch way."""

from __future__ import annotations

from dataclasses import replace

import torch
from harness.problems import Problem
from torch import Tensor

from peers.geometry import make_axes, window_start, windows


class Unfold:
    """`Tensor.unfold` along each axis, then products of one query with its own keys."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.axes = make_axes(problem, problem.groups)
        self.scale: float = problem.head_dim**-0.5
        positions = [torch.arange(axis.length) for axis in self.axes]
        self.starts = [window_start(p, a.length, a.kernel) for p, a in zip(positions, self.axes, strict=True)]
        residue_map = replace(problem, spatial=problem.groups, dilation=(1,) * problem.rank)
        _, self.bias_index = windows(residue_map)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        heads, rank = rpb.shape[0], len(self.axes)
        lengths = [axis.length for axis in self.axes]
        bias = rpb.flatten(1).index_select(1, self.bias_index.flatten())
        bias = bias.view(heads, *lengths, 1, self.problem.window).movedim(0, rank)
        scores = self._split(query * self.scale).unsqueeze(-2) @ self._windows(key)
        weights = (scores + bias).softmax(-1)
        output = (weights @ self._windows(value).transpose(-1, -2)).squeeze(-2)
        order = [0, *(place for i in range(rank) for place in (1 + rank + i, 1 + i)), 1 + 2 * rank, 2 + 2 * rank]
        return output.permute(order).reshape(query.shape)

    def _split(self, x: Tensor) -> Tensor:
        """`[batch, *groups, *lengths, heads, head_dim]`: the residue maps of a dilated problem side by side."""
        rank = len(self.axes)
        x = x.view(x.shape[0], *(n for axis in self.axes for n in (axis.length, axis.groups)), *x.shape[-2:])
        groups, lengths = ([first + 2 * i for i in range(rank)] for first in (2, 1))
        return x.permute(0, *groups, *lengths, 1 + 2 * rank, 2 + 2 * rank)

    def _windows(self, x: Tensor) -> Tensor:
        """`[batch, *groups, *lengths, heads, head_dim, window]`."""
        x = self._split(x)
        for i, (axis, start) in enumerate(zip(self.axes, self.starts, strict=True)):
            place = 1 + len(self.axes) + i
            x = x.unfold(place, axis.kernel, 1).index_select(place, start)
        return x.flatten(-len(self.axes))
