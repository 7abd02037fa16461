"""Tiles of queries with a gathered halo of keys, by plain torch ops and autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness.problems import Problem
from torch import Tensor

from peers.plan import TilePlan


class _Tiled:
    """Cuts into tiles, runs `_attend` on pieces whose scores fit `scores_bytes`, and puts the outputs together."""

    def __init__(self, problem: Problem, tile: tuple[int, ...], scores_bytes: int | None = None):
        self.plan = TilePlan(problem, tile)
        self.scale: float = problem.head_dim**-0.5
        self.chunks = self.plan.chunks(scores_bytes)
        self.sizes = [chunk.size for chunk in self.chunks]
        starts = sorted({chunk.blocks.start for chunk in self.chunks})
        self.bias_sizes = [b - a for a, b in zip(starts, [*starts[1:], self.plan.blocks], strict=True)]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        plan = self.plan
        # split, not slices: its gradient is one concatenation, that of a slice fills a whole tensor with zeros.
        bias = plan.bias(rpb).split(self.bias_sizes)
        tiles = (plan.queries(self._scaled(query)), plan.keys(key), plan.keys(value))
        pieces = zip(*(t.flatten(0, 1).split(self.sizes) for t in tiles), strict=True)
        outputs = [
            self._attend(q, k, v, bias[i % len(bias)], chunk.shape)
            for i, (chunk, (q, k, v)) in enumerate(zip(self.chunks, pieces, strict=True))
        ]
        return plan.merge(torch.cat(outputs) if len(outputs) > 1 else outputs[0])

    def _scaled(self, query: Tensor) -> Tensor:
        return query

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
        """`[rows * blocks, queries or keys, head_dim]` each, bias `[blocks, queries, keys]`."""
        raise NotImplementedError


class TiledSdpa(_Tiled):
    """`F.scaled_dot_product_attention` per tile: torch's flash kernel, or plain ops where the bias wants a gradient."""

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
        q, k, v = (t.view(*shape, *t.shape[1:]) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=self.scale).flatten(0, 1)


class TiledBmm(_Tiled):
    """`bmm`, softmax, `bmm` per tile."""

    def _scaled(self, query: Tensor) -> Tensor:
        return query * self.scale

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(*shape, *bias.shape[1:]).add_(bias)
        weights = scores.softmax(-1)
        return torch.bmm(weights, v)
