"""What neighborhood attention is, spelled out query by query, for tests to hold the backends against.

Nothing here is shared with the package: windows come from Python loops over single tokens, and attention is dense,
over all tokens, with what is not in a window left out.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor


def window(query: int, length: int, kernel_size: int, dilation: int, stride: int, is_causal: bool) -> list[int]:
    """The keys that a query sees on one axis, in order."""
    group, position = query % dilation, query // dilation
    members = [token for token in range(length) if token % dilation == group]
    if is_causal:
        leader = min(position // stride * stride + stride - 1, len(members) - 1)
        return members[max(leader - kernel_size + 1, 0) : position + 1]
    leader = min(position // stride * stride + stride // 2, len(members) - 1)
    first = leader - kernel_size // 2
    first = min(max(first, 0), len(members) - kernel_size)  # shifted inward at the borders
    return members[first : first + kernel_size]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; differentiable, and in the dtype of the inputs throughout."""
    spatial, heads = query.shape[1:-2], query.shape[-2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    repeat = heads // key.shape[-2]
    q, k, v = (tensor.flatten(1, -3).transpose(1, 2) for tensor in (query, key, value))
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    seen, entry = _relations(tuple(spatial), kernel_size, stride, dilation, is_causal)
    scores = scale * (q @ k.transpose(-1, -2))
    if rpb is not None:
        scores = scores + rpb.to(scores.dtype).flatten(1)[:, entry]
    scores = torch.where(seen, scores, -math.inf)
    if additional_keys is not None:
        extra_k = additional_keys.transpose(1, 2).repeat_interleave(repeat, 1)
        extra_v = additional_values.transpose(1, 2).repeat_interleave(repeat, 1)
        scores = torch.cat([scores, scale * (q @ extra_k.transpose(-1, -2))], -1)
        v = torch.cat([v, extra_v], 2)
    output = (torch.softmax(scores, -1) @ v).transpose(1, 2).unflatten(1, spatial)
    return output, torch.logsumexp(scores, -1).transpose(1, 2).unflatten(1, spatial)


@lru_cache
def _relations(
    spatial: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
) -> tuple[Tensor, Tensor]:
    """For every query and key, whether the one sees the other, and which entry of the flat bias table is theirs."""
    tokens = list(itertools.product(*map(range, spatial)))
    number = {token: i for i, token in enumerate(tokens)}
    seen = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    entry = torch.zeros(len(tokens), len(tokens), dtype=torch.long)
    for token in tokens:
        axes = zip(token, spatial, kernel_size, dilation, stride, is_causal, strict=True)
        for other in itertools.product(*(window(*axis) for axis in axes)):
            index = 0
            for a, b, kernel, spread in zip(token, other, kernel_size, dilation, strict=True):
                index = index * (2 * kernel - 1) + (b // spread - a // spread) + kernel - 1
            seen[number[token], number[other]] = True
            entry[number[token], number[other]] = index
    return seen, entry
