"""The two-stage form in plain torch operations, one slot of the windows at a time.

It is what the kernels are held against, what runs where there are none, and how second derivatives are taken.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from natten_core._problem import Problem
from natten_core.backends.reference import no_autocast, window


def qk(
    problem: Problem, query: Tensor, key: Tensor, rpb: Tensor | None = None, additional_keys: Tensor | None = None
) -> Tensor:
    """Scores [batch, *spatial, heads, slots] in the dtype of `query`; `-inf` in slots that a causal window lacks."""
    dtype = problem.compute_dtype
    repeat = problem.heads // problem.heads_kv
    token, seen, entry = slots(problem)
    with no_autocast(problem.device.type):
        queries = query.to(dtype).flatten(1, -3) * problem.scale
        keys = key.to(dtype).flatten(1, -3).repeat_interleave(repeat, -2)
        products = [(queries * keys.index_select(1, here)).sum(-1) for here in token.unbind(1)]
        scores = torch.stack(products, -1)
        if rpb is not None:
            scores = scores + rpb.to(dtype).flatten(1)[:, entry].transpose(0, 1)
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
        if additional_keys is not None:
            extra = additional_keys.to(dtype).repeat_interleave(repeat, -2)
            scores = torch.cat([scores, torch.einsum("bthd,bnhd->bthn", queries, extra)], -1)
    whole: Tensor = scores.unflatten(1, problem.spatial)
    return whole.to(problem.dtype)


def av(problem: Problem, attn: Tensor, value: Tensor, additional_values: Tensor | None = None) -> Tensor:
    """The sum of values, weighted: [batch, *spatial, heads, head_dim_v] in the dtype of `attn`."""
    dtype = problem.compute_dtype
    repeat = problem.heads // problem.heads_kv
    token, seen, _ = slots(problem)
    with no_autocast(problem.device.type):
        weights = attn.to(dtype).flatten(1, -3)
        local = weights[..., : token.shape[1]].masked_fill(~seen[:, None], 0.0)
        values = value.to(dtype).flatten(1, -3).repeat_interleave(repeat, -2)
        terms = (
            weight[..., None] * values.index_select(1, here)
            for weight, here in zip(local.unbind(-1), token.unbind(1), strict=True)
        )
        output = reduce(torch.add, terms)
        if additional_values is not None:
            extra = additional_values.to(dtype).repeat_interleave(repeat, -2)
            output = output + torch.einsum("bthn,bnhd->bthd", weights[..., token.shape[1] :], extra)
    whole: Tensor = output.unflatten(1, problem.spatial)
    return whole.to(problem.dtype)


def slots(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, slots] of the window: the token of each key, whether the slot has one, and its entry of the bias."""
    token = entry = torch.zeros(1, 1, dtype=torch.int64, device=problem.device)
    seen = torch.ones(1, 1, dtype=torch.bool, device=problem.device)
    for length, kernel, stride, dilation, is_causal in zip(
        problem.spatial, problem.kernel_size, problem.stride, problem.dilation, problem.is_causal, strict=True
    ):
        query = torch.arange(length, device=problem.device)
        group, position = query % dilation, query // dilation
        members = (length - group + dilation - 1) // dilation
        start, end = window(position, members, kernel, stride, is_causal)
        near = start[:, None] + torch.arange(kernel, device=problem.device)
        here = near < end[:, None]
        offset = (near - position[:, None] + kernel - 1).clamp(max=2 * kernel - 2)
        near = torch.where(here, near, start[:, None]) * dilation + group[:, None]  # what is seen in any case
        token = _outer(token * length, near)
        entry = _outer(entry * (2 * kernel - 1), offset)
        seen = (seen[:, None, :, None] & here[None, :, None, :]).flatten(2).flatten(0, 1)
    return token, seen, entry


def _outer(whole: Tensor, part: Tensor) -> Tensor:
    """All sums: [a, b], [c, d] -> [a * c, b * d]."""
    return (whole[:, None, :, None] + part[None, :, None, :]).flatten(2).flatten(0, 1)
