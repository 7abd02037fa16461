"""Tiles as in `tiled`, with the backward pass written by hand so that scores never leave the cache."""

from __future__ import annotations

from typing import Any

import torch
from harness.problems import Problem
from torch import Tensor

from peers.plan import Chunk, TilePlan


class TiledRecompute:
    """`bmm`, softmax, `bmm` in one reused buffer of `scores_bytes`; the backward pass computes the scores again."""

    def __init__(self, problem: Problem, tile: tuple[int, ...], scores_bytes: int | None = 1 << 20):
        self.plan = TilePlan(problem, tile)
        self.scale: float = problem.head_dim**-0.5
        self.chunks = self.plan.chunks(scores_bytes)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        plan = self.plan
        tiles = (plan.queries(query * self.scale), plan.keys(key), plan.keys(value), plan.bias(rpb))
        output: Tensor = _Attend.apply(self.chunks, *tiles)
        return plan.merge(output)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: list[Chunk], q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        output = torch.empty_like(q)
        buffer = _buffer(chunks, bias)
        for chunk in chunks:
            weights = _weights(chunk, buffer, q, k, bias)
            torch.bmm(weights, chunk.of(v), out=chunk.of(output))
        ctx.save_for_backward(q, k, v, bias, output)
        ctx.chunks = chunks
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, output = ctx.saved_tensors
        grad = grad.contiguous()
        delta = (grad * output).sum(-1, keepdim=True)
        dq, dk, dv, dbias = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.zeros_like(bias)
        buffer, dbuffer = _buffer(ctx.chunks, bias), _buffer(ctx.chunks, bias)
        for chunk in ctx.chunks:
            weights, g = _weights(chunk, buffer, q, k, bias), chunk.of(grad)
            torch.bmm(weights.transpose(1, 2), g, out=chunk.of(dv))
            dscores = torch.bmm(g, chunk.of(v).transpose(1, 2), out=dbuffer[: chunk.size])
            dscores.sub_(chunk.of(delta)).mul_(weights)
            rows = dscores.view(*chunk.shape, *bias.shape[1:])
            dbias[chunk.blocks] += rows[0] if len(rows) == 1 else rows.sum(0)
            torch.bmm(dscores, chunk.of(k), out=chunk.of(dq))
            torch.bmm(dscores.transpose(1, 2), chunk.of(q), out=chunk.of(dk))
        return None, dq, dk, dv, dbias


def _buffer(chunks: list[Chunk], bias: Tensor) -> Tensor:
    return bias.new_empty(max(chunk.size for chunk in chunks), *bias.shape[1:])


def _weights(chunk: Chunk, buffer: Tensor, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    scores = buffer[: chunk.size]
    scores.view(*chunk.shape, *bias.shape[1:]).copy_(bias[chunk.blocks])
    scores.baddbmm_(chunk.of(q), chunk.of(k).transpose(1, 2))
    return torch.softmax(scores, -1, out=scores)
