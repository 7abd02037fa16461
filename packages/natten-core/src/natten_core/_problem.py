"""One neighborhood attention problem, checked and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from natten_core._arguments import (
    Facts,
    Plain,
    Shape,
    check_additional,
    check_axis,
    check_causal,
    check_key_value,
    check_one_additional,
    check_qkv,
    check_query,
    check_rpb,
    check_scale,
    check_slots,
    check_stride,
    check_weighted,
    facts,
    hashable,
    per_axis,
)


class Problem(NamedTuple):
    """What is to be computed, with every per-axis setting written out; hashable, holds no tensor."""

    rank: int
    spatial: Shape
    kernel_size: Shape
    stride: Shape
    dilation: Shape
    is_causal: tuple[bool, ...]
    scale: float
    batch: int
    heads: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    additional: int
    """Number of additional keys; -1 when none are given."""
    bias: bool
    dtype: torch.dtype
    compute_dtype: torch.dtype
    """Of scores, log-sum-exp and every accumulation: float32, or float64 for float64 inputs."""
    device: torch.device

    # No property, and no slice: the compiler of torch 2.7 knows neither of a NamedTuple.
    def settings(self) -> tuple[Shape, Shape, Shape, tuple[bool, ...], float]:
        """Kernel size, stride, dilation, causality and scale, as the kernels take them."""
        return self.kernel_size, self.stride, self.dilation, self.is_causal, self.scale


def check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    rank: int | None,
) -> Problem:
    """Checks every argument of an attention call.

    Args:
        rank: number of spatial axes that the caller promised (`na2d`: 2), or None to take it from `query`.

    Raises:
        TypeError: an argument of the wrong Python type.
        ValueError: a value that cannot work; the message names the argument, its value and what would work.
    """
    settings = (kernel_size, stride, dilation, is_causal, scale, rank)
    tensors = (
        facts("query", query),
        facts("key", key),
        facts("value", value),
        None if rpb is None else facts("rpb", rpb),
        None if additional_keys is None else facts("additional_keys", additional_keys),
        None if additional_values is None else facts("additional_values", additional_values),
    )
    return _run(_check, _check_once, query, settings, tensors)


def check_packed(
    qkv: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    rank: int | None,
) -> Problem:
    """As `check`, for one `qkv` of shape [batch, *spatial, 3, heads, head_dim]."""
    settings = (kernel_size, stride, dilation, is_causal, scale, rank)
    tensors = (
        facts("qkv", qkv),
        None if rpb is None else facts("rpb", rpb),
        None if additional_keys is None else facts("additional_keys", additional_keys),
        None if additional_values is None else facts("additional_values", additional_values),
    )
    return _run(_check_packed, _check_packed_once, qkv, settings, tensors)


def check_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    rank: int | None,
) -> Problem:
    """As `check`, for the first of two stages, which has no values."""
    settings = (kernel_size, stride, dilation, is_causal, scale, rank)
    queries, keys = facts("query", query), facts("key", key)
    bias = None if rpb is None else facts("rpb", rpb)
    more = None if additional_keys is None else facts("additional_keys", additional_keys)
    return _run(_check, _check_once, query, settings, (queries, keys, keys, bias, more, more))


def check_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    additional_values: Tensor | None,
    rank: int | None,
) -> Problem:
    """As `check`, for the second of two stages, which has attention weights instead of queries and keys."""
    settings = (kernel_size, stride, dilation, is_causal, rank)
    tensors = (
        facts("attn", attn),
        facts("value", value),
        None if additional_values is None else facts("additional_values", additional_values),
    )
    return _run(_check_av, _check_av_once, attn, settings, tensors)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tensors of `dtype` are computed with."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _run(build: Any, build_once: Any, query: Tensor, settings: Any, tensors: Any) -> Problem:
    # Traced and wrapped tensors have symbolic sizes, which no cache can hold.
    if torch.compiler.is_compiling() or type(query) not in (Tensor, torch.nn.Parameter) or not _exact(settings):
        problem: Problem = build(*map(hashable, settings), *tensors)
        return problem
    try:
        problem = build_once(*settings, *tensors)
    except TypeError:  # a list, or an argument of a wrong type, of which the plain check has the right message
        settings = tuple(map(hashable, settings))
        try:
            problem = build_once(*settings, *tensors)
        except TypeError:
            problem = build(*settings, *tensors)
    return problem


_PER_AXIS = (int, int, int, bool)
"""What kernel_size, stride, dilation and is_causal are made of."""


def _exact(settings: Any) -> bool:
    """Whether what is in tuples is of the very types that are asked for: a cache does not tell (3, 3.0) from (3, 3)."""
    for given, wanted in zip(settings, _PER_AXIS):  # noqa: B905  # these come first
        if type(given) is tuple or type(given) is list:
            for one in given:
                if type(one) is not wanted:
                    return False
    return True


def _check_packed(
    kernel_size: Any,
    stride: Any,
    dilation: Any,
    is_causal: Any,
    scale: Any,
    rank: int | None,
    qkv: Plain,
    rpb: Plain | None,
    additional_keys: Plain | None,
    additional_values: Plain | None,
) -> Problem:
    check_qkv(Facts(*qkv), rank)
    shape, *others = qkv
    one = (shape[:-3] + shape[-2:], *others)
    tensors = (one, one, one, rpb, additional_keys, additional_values)
    return _check(kernel_size, stride, dilation, is_causal, scale, rank, *tensors, name="qkv")  # type: ignore[arg-type]


def _check(
    kernel_size: Any,
    stride: Any,
    dilation: Any,
    is_causal: Any,
    scale: Any,
    rank: int | None,
    query_: Plain,
    key_: Plain,
    value_: Plain,
    rpb: Plain | None,
    additional_keys: Plain | None,
    additional_values: Plain | None,
    name: str = "query",
) -> Problem:
    query, key, value = Facts(*query_), Facts(*key_), Facts(*value_)
    rank = check_query(name, query, rank)
    batch, *spatial, heads, head_dim = query.shape
    heads_kv, head_dim_v = (heads, head_dim) if name == "qkv" else check_key_value(query, key, value)
    window = per_axis("kernel_size", kernel_size, rank)
    step = per_axis("stride", stride, rank)
    spread = per_axis("dilation", dilation, rank)
    for axis in range(rank):
        check_stride(axis, rank, window[axis], step[axis])
        check_axis(axis, rank, spatial[axis], window[axis], spread[axis])
    if rpb is not None:
        check_rpb(query, Facts(*rpb), (heads, *(2 * k - 1 for k in window)))
    return Problem(
        rank=rank,
        spatial=tuple(spatial),
        kernel_size=window,
        stride=step,
        dilation=spread,
        is_causal=check_causal(is_causal, rank),
        scale=check_scale(scale, head_dim, compute=compute_dtype(query.dtype)),
        batch=batch,
        heads=heads,
        heads_kv=heads_kv,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        additional=check_additional(query, key, value, additional_keys, additional_values),
        bias=rpb is not None,
        dtype=query.dtype,
        compute_dtype=compute_dtype(query.dtype),
        device=query.device,
    )


def _check_av(
    kernel_size: Any,
    stride: Any,
    dilation: Any,
    is_causal: Any,
    rank: int | None,
    attn: Plain,
    value: Plain,
    more: Plain | None,
) -> Problem:
    weights, values = Facts(*attn), Facts(*value)
    rank = check_query("attn", weights, rank, "slots")
    check_weighted(weights, values)
    like = values.shape
    window = per_axis("kernel_size", kernel_size, rank)
    count = 0
    if more is not None:
        count = more[0][1] if len(more[0]) == 4 else -1
        check_one_additional("attn", weights, "additional_values", Facts(*more), like, count)
    check_slots(weights, window, count)
    one = ((*weights.shape[:-1], like[-1]), weights.dtype, weights.device, True)
    key = (like, weights.dtype, weights.device, True)
    return _check(window, stride, dilation, is_causal, 1.0, rank, one, key, key, None, more, more)


# A problem seen before is not checked again. `typed`, because 3 == 3.0 == True + 2.
_check_packed_once = lru_cache(maxsize=1024, typed=True)(_check_packed)
_check_once = lru_cache(maxsize=1024, typed=True)(_check)
_check_av_once = lru_cache(maxsize=1024, typed=True)(_check_av)
