"""Neighborhood attention in plain torch operations: any device, any dtype, differentiable any number of times.

Queries are taken in tiles of neighbours of one dilation group. All that a tile needs lies in one small box of keys of
the same group, so a tile is a dense attention problem with a mask, and a batch of tiles two batched matrix products.
Tiles are processed in batches that keep the temporary arrays within a budget. A weight of zero times infinity is not
zero: what is not finite would spoil all queries of the tiles whose box it lies in, not only those that see it. Where
that can be asked, on a CPU and outside of compilers and transforms, such problems take the way of the two-stage form.

Inside, axes are ordered [batch, heads, tokens, head_dim]. Per-axis index arrays are combined into those of the whole
map one batch of tiles at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import reduce
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from natten_core._autocast import is_enabled
from natten_core._problem import Problem

NAME = "reference"

# Queries of a tile along each axis: large enough for matrix products, small enough that few keys are masked.
_TILE_SIDE = {1: 64, 2: 8, 3: 4}
# Elements of the largest temporary arrays together, while no gradient is recorded.
_BUDGET = 1 << 24


def not_supported_reasons(problem: Problem) -> tuple[str, ...]:
    """Why this backend cannot run `problem`: it always can."""
    return ()


def kernel_name(problem: Problem, *tensors: Tensor) -> str:
    """The kernel that runs `problem`, for `natten_core.explain`."""
    return "torch-tiled"


def passed_over(problem: Problem, *tensors: Tensor) -> tuple[tuple[str, str], ...]:
    """There is one kernel here."""
    return ()


def neighborhood_attention(
    problem: Problem,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    dropout: float = 0.0,
    return_lse: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Attends every query to its window, and to the additional keys.

    Args:
        problem: the checked problem that the tensors make up.
        query: [batch, *spatial, heads, head_dim].
        key: [batch, *spatial, heads_kv, head_dim].
        value: [batch, *spatial, heads_kv, head_dim_v].
        rpb: [heads, 2 * kernel_size - 1 per axis], any floating dtype.
        additional_keys: [batch, N, heads_kv, head_dim].
        additional_values: [batch, N, heads_kv, head_dim_v].
        dropout: probability of zeroing an attention weight, between the softmax and the sum over values.
        return_lse: whether the log-sum-exp is wanted.

    Returns:
        The output [batch, *spatial, heads, head_dim_v] in the dtype of `query`, and the log-sum-exp of the scores
        [batch, *spatial, heads] in `problem.compute_dtype`, or None.
    """
    problem = with_numbers(problem)
    if not _is_finite(problem, query, key, value, additional_keys, additional_values):
        return _gathered(problem, query, key, value, rpb, additional_keys, additional_values, dropout, return_lse)
    tensors = (query, key, value, rpb, additional_keys, additional_values)
    return tiled(Tiling(problem), *tensors, dropout=dropout, return_lse=return_lse)


def tiled(
    tiling: Tiling,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *,
    dropout: float = 0.0,
    return_lse: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`neighborhood_attention` of finite numbers, for a given way to cut the map."""
    problem = tiling.problem
    dtype = problem.compute_dtype
    queries, keys, values = (_heads_first(tensor, dtype) for tensor in (query, key, value))
    queries = queries * problem.scale
    extra_keys = None if additional_keys is None else additional_keys.to(dtype).transpose(1, 2)
    extra_values = None if additional_values is None else additional_values.to(dtype).transpose(1, 2)
    bias = None if rpb is None else rpb.to(dtype).flatten(1)
    outputs, sums = [], []
    with no_autocast(problem.device.type):
        for first in range(0, tiling.count, tiling.batch):
            tiles = tiling.tiles(first, min(first + tiling.batch, tiling.count))
            scores = _scores(problem, tiles, queries, keys, bias, extra_keys)
            weights = torch.nn.functional.dropout(torch.softmax(scores, -1), dropout)
            outputs.append(_weigh(problem, tiles, weights, values, extra_values))
            if return_lse:
                sums.append(torch.logsumexp(scores, -1).flatten(2))
    order = tiling.order()

    def assemble(parts: list[Tensor]) -> Tensor:
        tokens: Tensor = torch.cat(parts, 2).transpose(1, 2).index_select(1, order)
        whole: Tensor = tokens.unflatten(1, problem.spatial)
        return whole

    return assemble(outputs).to(problem.dtype), assemble(sums) if return_lse else None


def window(position: Tensor, members: Tensor, kernel_size: int, stride: int, is_causal: bool) -> tuple[Tensor, Tensor]:
    """First and one past the last key position of every query, on one axis and within its dilation group.

    Args:
        position: integer positions of the queries in their group, any shape.
        members: number of tokens in the group, of a shape that broadcasts with `position`.
    """
    if is_causal:
        lead = torch.minimum(position // stride * stride + stride - 1, members - 1)
        start = (lead - kernel_size + 1).clamp(min=0)
        return start, torch.minimum(position + 1, members)
    left, right = kernel_size // 2, kernel_size // 2 + kernel_size % 2 - 1
    lead = torch.minimum(position // stride * stride + stride // 2, members - 1)
    start = (lead - left).clamp(min=0) + (lead + right >= members) * (members - right - lead - 1)
    return start, start + kernel_size


def _is_finite(problem: Problem, *tensors: Tensor | None) -> bool:
    """Whether all numbers are finite; True where that cannot be asked."""
    given = [tensor for tensor in tensors if tensor is not None]
    if (
        problem.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
        or any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in given)
    ):
        return True
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in given)


def _gathered(
    problem: Problem,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    dropout: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same, one slot of the windows at a time: slower, and no query touches what it does not see."""
    from natten_core.backends import reference_two_stage

    wide = problem._replace(dtype=problem.compute_dtype)
    scores = reference_two_stage.qk(wide, query, key, rpb, additional_keys)
    with no_autocast(problem.device.type):
        weights = torch.nn.functional.dropout(torch.softmax(scores, -1), dropout)
        lse = torch.logsumexp(scores, -1) if return_lse else None
    output = reference_two_stage.av(wide, weights, value, additional_values)
    return output.to(problem.dtype), lse


def with_numbers(problem: Problem) -> Problem:
    """The problem with numbers where a compiler holds symbols: how a map is cut depends on all but the batch."""
    return Problem(
        rank=problem.rank,
        spatial=tuple(index(length) for length in problem.spatial),
        kernel_size=problem.kernel_size,
        stride=problem.stride,
        dilation=problem.dilation,
        is_causal=problem.is_causal,
        scale=problem.scale,
        batch=problem.batch,
        heads=index(problem.heads),
        heads_kv=index(problem.heads_kv),
        head_dim=index(problem.head_dim),
        head_dim_v=index(problem.head_dim_v),
        additional=index(problem.additional),
        bias=problem.bias,
        dtype=problem.dtype,
        compute_dtype=problem.compute_dtype,
        device=problem.device,
    )


class Tiles(NamedTuple):
    """Index arrays of some tiles, of one axis or of the whole map; T queries and S keys each."""

    query: Tensor  # [tiles, T] token of every query; the last tile of a group repeats its last query
    key: Tensor  # [tiles, S] token of every key of the box; clamped to the group, what is beyond is not seen
    seen: Tensor  # [tiles, T, S] whether the key is in the query's window
    offset: Tensor  # [tiles, T, S] entry of the bias table


class Tiling:
    """How a map is cut into tiles."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        side = _TILE_SIDE[problem.rank]
        self.shapes = []  # per axis: tiles of a dilation group, queries of a tile, keys of its box
        for length, kernel, stride, dilation in zip(
            problem.spatial, problem.kernel_size, problem.stride, problem.dilation, strict=True
        ):
            longest = -(-length // dilation)
            count = -(-longest // min(side, max(kernel, side // 2)))
            queries = -(-longest // count)
            self.shapes.append((count, queries, min(longest, queries + kernel - 1 + stride - 1)))
        self.axes = [self._axis(axis) for axis in range(problem.rank)]
        self.counts = [tiles.query.shape[0] for tiles in self.axes]
        self.count = _product(self.counts)
        queries, keys = (_product([shape[i] for shape in self.shapes]) for i in (1, 2))
        scores = problem.heads * queries * (keys + max(problem.additional, 0))
        gathered = problem.heads_kv * keys * (problem.head_dim + problem.head_dim_v)
        samples = 1 if torch.compiler.is_compiling() else max(1, problem.batch)
        self.batch = max(1, _BUDGET // (samples * (scores + gathered)))

    def _axis(self, axis: int) -> Tiles:
        problem, (count, queries, keys) = self.problem, self.shapes[axis]
        kernel, dilation = problem.kernel_size[axis], problem.dilation[axis]
        group = self._arange(dilation)[:, None, None]
        members = (problem.spatial[axis] - group + dilation - 1) // dilation
        position = self._arange(count)[:, None] * queries + self._arange(queries)
        position = torch.minimum(position, members - 1)
        start, end = window(position, members, kernel, problem.stride[axis], problem.is_causal[axis])
        near = start[..., :1] + self._arange(keys)
        seen = (near[..., None, :] >= start[..., None]) & (near[..., None, :] < end[..., None])
        offset = (near[..., None, :] - position[..., None] + kernel - 1).clamp(0, 2 * kernel - 2)
        near = torch.minimum(near, members - 1)
        parts = (position * dilation + group, near * dilation + group, seen, offset)
        return Tiles(*(part.flatten(0, 1) for part in parts))

    def tiles(self, first: int, last: int) -> Tiles:
        """The tiles `first` to `last - 1` of the whole map, in row-major order of their per-axis numbers."""
        problem, number = self.problem, self._arange(last - first) + first
        chosen: list[Tiles] = []
        for tiles, count in zip(reversed(self.axes), reversed(self.counts), strict=True):
            here = number % count
            number = number // count
            chosen.insert(0, Tiles(*(part.index_select(0, here) for part in tiles)))
        tables = [2 * kernel - 1 for kernel in problem.kernel_size]
        return Tiles(
            query=_row_major([tiles.query for tiles in chosen], problem.spatial),
            key=_row_major([tiles.key for tiles in chosen], problem.spatial),
            seen=reduce(_outer(torch.logical_and), [tiles.seen for tiles in chosen]),
            offset=_row_major([tiles.offset for tiles in chosen], tables),
        )

    def order(self) -> Tensor:
        """[tokens] where every token is found among the queries of all tiles, [tiles * T]."""
        tile, slot = [], []
        for length, dilation, (count, queries, _) in zip(
            self.problem.spatial, self.problem.dilation, self.shapes, strict=True
        ):
            token = self._arange(length)
            position = token // dilation
            tile.append((token % dilation * count + position // queries)[None])
            slot.append((position % queries)[None])
        queries_of = [queries for _, queries, _ in self.shapes]
        return (_row_major(tile, self.counts) * _product(queries_of) + _row_major(slot, queries_of)).flatten()

    def _arange(self, length: int) -> Tensor:
        return torch.arange(length, device=self.problem.device)


def _scores(
    problem: Problem, tiles: Tiles, query: Tensor, key: Tensor, bias: Tensor | None, extra_keys: Tensor | None
) -> Tensor:
    """[batch, heads, tiles, T, S + additional]."""
    count, queries = tiles.query.shape
    kv, group = problem.heads_kv, problem.heads // problem.heads_kv
    here = _take(query, tiles.query).unflatten(1, (kv, group)).transpose(2, 3).flatten(3, 4)
    scores = here @ _take(key, tiles.key).transpose(-1, -2)
    scores = _split_heads(scores, group, queries)
    if bias is not None:
        scores = scores + bias[:, tiles.offset]
    scores = scores.masked_fill(~tiles.seen, float("-inf"))
    if extra_keys is None:
        return scores
    extra = (here.flatten(2, 3) @ extra_keys.transpose(-1, -2)).unflatten(2, (count, group * queries))
    return torch.cat([scores, _split_heads(extra, group, queries)], -1)


def _weigh(problem: Problem, tiles: Tiles, weights: Tensor, value: Tensor, extra_values: Tensor | None) -> Tensor:
    """[batch, heads, tiles * T, head_dim_v]."""
    count, queries = tiles.query.shape
    kv, group = problem.heads_kv, problem.heads // problem.heads_kv
    near = tiles.key.shape[1]
    weights = weights.unflatten(1, (kv, group)).transpose(2, 3).flatten(3, 4)
    output = weights[..., :near] @ _take(value, tiles.key)
    if extra_values is not None:
        extra = weights[..., near:].flatten(2, 3) @ extra_values
        output = output + extra.unflatten(2, (count, group * queries))
    return _split_heads(output, group, queries).flatten(2, 3)


def _split_heads(tensor: Tensor, group: int, queries: int) -> Tensor:
    """[batch, heads_kv, tiles, group * T, n] -> [batch, heads, tiles, T, n]."""
    split: Tensor = tensor.unflatten(3, (group, queries)).transpose(2, 3).flatten(1, 2)
    return split


def _heads_first(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, *spatial, heads, n] -> [batch, heads, tokens, n]."""
    return tensor.to(dtype).flatten(1, -3).transpose(1, 2)


def _take(tensor: Tensor, tokens: Tensor) -> Tensor:
    """[batch, heads, tokens, n], [tiles, m] -> [batch, heads, tiles, m, n]."""
    taken: Tensor = tensor.index_select(2, tokens.flatten()).unflatten(2, tokens.shape)
    return taken


def _row_major(parts: list[Tensor], sizes: tuple[int, ...] | list[int]) -> Tensor:
    """Combines per-axis indices into those of the flattened map."""
    whole = parts[0]
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        whole = _outer(lambda outer, inner, size=size: outer * size + inner)(whole, part)  # type: ignore[misc]
    return whole


def _outer(merge: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """`merge` over all pairs: [t, A], [t, B] -> [t, A * B], or [t, A, C], [t, B, D] -> [t, A * B, C * D]."""

    def outer(a: Tensor, b: Tensor) -> Tensor:
        if a.ndim == 2:
            return merge(a[:, :, None], b[:, None, :]).flatten(1, 2)
        return merge(a[:, :, None, :, None], b[:, None, :, None, :]).flatten(3, 4).flatten(1, 2)

    return outer


def _product(sizes: list[int]) -> int:
    return reduce(lambda a, b: a * b, sizes, 1)


def no_autocast(device: str) -> torch.autocast | nullcontext[None]:
    """Half precision would be wrong in here: the half types ask for float32 accumulation."""
    if not is_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
