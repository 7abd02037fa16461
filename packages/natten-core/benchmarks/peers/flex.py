"""Compiled FlexAttention: windows as a block mask, the bias in the score_mod. On CPUs torch has its forward alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from harness.problems import Problem
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

BLOCKS = ((64, {1: 64, 2: 8, 3: 4}), (32, {1: 32, 2: 4, 3: 3}))
"""Tokens of a block and a side of a tile by rank, first for large residue maps (four blocks and more)."""


class Flex:
    """Tokens are put in an order in which neighbors are near: residue map by residue map, in tiles of a block each.

    Flat order would make most blocks of keys visible to each block of queries. The mask is made beforehand.
    """

    def __init__(self, problem: Problem, compiler: Callable[..., Any] = torch.compile):
        self.problem = problem
        block, sides = BLOCKS[math.prod(problem.groups) < 4 * BLOCKS[0][0]]
        side = sides[problem.rank]
        tile_major = torch.zeros(problem.spatial, dtype=torch.int64)
        within = torch.zeros(problem.spatial, dtype=torch.int64)
        position, start, group = [], [], torch.zeros(problem.spatial, dtype=torch.int64)
        for axis, (length, kernel, dilation) in enumerate(
            zip(problem.spatial, problem.kernel_size, problem.dilation, strict=True)
        ):
            token = torch.arange(length).view(-1, *[1] * (problem.rank - 1 - axis))
            place, residue = token // dilation, token % dilation
            members = length // dilation + (residue < length % dilation)
            begin = torch.minimum((place - kernel // 2).clamp(min=0), members - kernel)
            position.append(place.expand(problem.spatial).flatten())
            start.append(begin.expand(problem.spatial).flatten())
            group = group * dilation + residue
            tile_major = tile_major * length + place // side
            within = within * side + place % side
        key = (group * problem.tokens + tile_major) * side**problem.rank + within
        self.order = key.flatten().argsort()
        self.back = self.order.argsort()
        position, start = ([table[self.order].contiguous() for table in tables] for tables in (position, start))
        group = group.flatten()[self.order].contiguous()
        kernels, entry_steps = problem.kernel_size, [1] * problem.rank
        for axis in reversed(range(problem.rank - 1)):
            entry_steps[axis] = entry_steps[axis + 1] * (2 * kernels[axis + 1] - 1)

        def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
            seen = group[q] == group[k]
            for place, first, kernel in zip(position, start, kernels, strict=True):
                seen = seen & (place[k] >= first[q]) & (place[k] < first[q] + kernel)
            return seen

        def entry(q: Any, k: Any) -> Any:
            total = 0
            for place, kernel, step in zip(position, kernels, entry_steps, strict=True):
                total = total + (place[k] - place[q] + kernel - 1).clamp(0, 2 * kernel - 2) * step
            return total

        def attend(query: Tensor, key: Tensor, value: Tensor, table: Tensor, blocks: Any) -> Tensor:
            def add_bias(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
                return score + table[h, entry(q, k)]

            output: Tensor = flex_attention(query, key, value, score_mod=add_bias, block_mask=blocks)  # type: ignore[assignment]
            return output

        tokens = problem.tokens
        self.blocks = create_block_mask(mask, None, None, tokens, tokens, device="cpu", BLOCK_SIZE=block)
        torch.compiler.reset()  # each problem is a compilation of its own, and torch gives up after eight
        self.attend = compiler(attend, dynamic=False)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        q, k, v = (x.flatten(1, -3).index_select(1, self.order).transpose(1, 2) for x in (query, key, value))
        output: Tensor = self.attend(q, k, v, rpb.flatten(1), self.blocks)
        return output.transpose(1, 2).index_select(1, self.back).view(query.shape)
