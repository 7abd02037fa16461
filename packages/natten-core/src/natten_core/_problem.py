"""One neighborhood attention problem, checked and normalised. Every complaint about an argument is made here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import index
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_LAYOUT = {
    1: "[batch, x, heads, head_dim]",
    2: "[batch, y, x, heads, head_dim]",
    3: "[batch, z, y, x, heads, head_dim]",
}
_ANY_LAYOUT = "[batch, *spatial, heads, head_dim] with 1 to 3 spatial axes"

Shape = tuple[int, ...]


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


class Facts(NamedTuple):
    """What a check needs to know about one tensor."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    unit: bool
    """Whether neighbours on the last axis are neighbours in memory."""


# The same as a plain tuple, which is made faster; most are only looked up.
Plain: TypeAlias = tuple[Shape, torch.dtype, torch.device, bool]


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
        _facts("query", query),
        _facts("key", key),
        _facts("value", value),
        None if rpb is None else _facts("rpb", rpb),
        None if additional_keys is None else _facts("additional_keys", additional_keys),
        None if additional_values is None else _facts("additional_values", additional_values),
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
        _facts("qkv", qkv),
        None if rpb is None else _facts("rpb", rpb),
        None if additional_keys is None else _facts("additional_keys", additional_keys),
        None if additional_values is None else _facts("additional_values", additional_values),
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
    queries, keys = _facts("query", query), _facts("key", key)
    bias = None if rpb is None else _facts("rpb", rpb)
    more = None if additional_keys is None else _facts("additional_keys", additional_keys)
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
        _facts("attn", attn),
        _facts("value", value),
        None if additional_values is None else _facts("additional_values", additional_values),
    )
    return _run(_check_av, _check_av_once, attn, settings, tensors)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tensors of `dtype` are computed with."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_axis(name: str, given: Any, rank: int) -> Shape:
    """An int for every axis, or one per axis, as a tuple of `rank` positive ints."""
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    if len(values) != rank:
        raise ValueError(
            f"{name} has {len(values)} values, {given!r}, for {rank} spatial axes: give {rank}, or one int"
        )
    for value in values:
        if isinstance(value, bool) or not _is_int(value):
            raise TypeError(f"{name} must be an int or a tuple of {rank} ints, got {given!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1 on every axis, got {given!r}")
    return tuple(index(value) for value in values)


def check_settings(
    rank: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
) -> tuple[Shape, Shape, Shape, tuple[bool, ...]]:
    """What can be checked before there is a tensor: the settings, each as a tuple of `rank` values."""
    window = per_axis("kernel_size", kernel_size, rank)
    step = per_axis("stride", stride, rank)
    for axis in range(rank):
        _check_stride(axis, rank, window[axis], step[axis])
    return window, step, per_axis("dilation", dilation, rank), _check_causal(_hashable(is_causal), rank)


def check_module(embed_dim: Any, num_heads: Any, attn_drop: Any, proj_drop: Any, qk_scale: Any) -> None:
    """The arguments of a module that are not settings of its windows."""
    for name, count in (("embed_dim", embed_dim), ("num_heads", num_heads)):
        if isinstance(count, bool) or not _is_int(count):
            raise TypeError(f"{name} must be an int, got {count!r}")
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
    for name, drop in (("attn_drop", attn_drop), ("proj_drop", proj_drop)):
        if isinstance(drop, (bool, Tensor)) or not hasattr(drop, "__float__"):
            raise TypeError(f"{name} must be a float, got {drop!r}")
        if not 0 <= drop <= 1:
            raise ValueError(f"{name} must be a probability, got {drop!r}")
    _check_scale(qk_scale, embed_dim // num_heads, "qk_scale")


def check_module_input(x: Any, rank: int, embed_dim: int) -> None:
    """What a module is called with."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim != rank + 2 or x.shape[-1] != embed_dim:
        raise ValueError(f"x must be [batch, {rank} spatial sizes, {embed_dim}], got shape {list(x.shape)}")


def check_merge(outputs: Any, lses: Any) -> tuple[list[Any], list[Any]]:
    """The arguments of `merge_attentions`, as lists."""
    for name, parts in (("outputs", outputs), ("lses", lses)):
        if isinstance(parts, Tensor) or not isinstance(parts, Iterable):
            raise TypeError(f"{name} must be a sequence of tensors, got {type(parts).__name__}")
    outputs, lses = list(outputs), list(lses)
    for name, tensors in (("outputs", outputs), ("lses", lses)):
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}[{i}] must be a torch.Tensor, got {type(tensor).__name__}")
            if tensor.dtype not in FLOATS:
                raise ValueError(f"{name}[{i}] must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
            if tensor.device != outputs[0].device:
                device = outputs[0].device
                raise ValueError(f"{name}[{i}] must be on the device of outputs[0], {device}, got {tensor.device}")
    if not outputs or len(outputs) != len(lses):
        raise ValueError(
            f"outputs and lses must be as many, and at least one each, got {len(outputs)} outputs and {len(lses)} lses"
        )
    shape = outputs[0].shape
    if len(shape) == 0:
        raise ValueError("outputs[0] must be [batch, *spatial, heads, head_dim], got shape []")
    for i, (output, lse) in enumerate(zip(outputs, lses, strict=True)):
        if output.shape != shape:
            raise ValueError(f"outputs[{i}] must have the shape of outputs[0], {list(shape)}, got {list(output.shape)}")
        if lse.shape != shape[:-1]:
            raise ValueError(f"lses[{i}] must have the shape {list(shape[:-1])}, got {list(lse.shape)}")
    return outputs, lses


def _is_int(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return True


def _run(build: Any, build_once: Any, query: Tensor, settings: Any, tensors: Any) -> Problem:
    # Traced and wrapped tensors have symbolic sizes, which no cache can hold.
    if torch.compiler.is_compiling() or type(query) not in (Tensor, torch.nn.Parameter) or not _exact(settings):
        problem: Problem = build(*map(_hashable, settings), *tensors)
        return problem
    try:
        problem = build_once(*settings, *tensors)
    except TypeError:  # a list, or an argument of a wrong type, of which the plain check has the right message
        settings = tuple(map(_hashable, settings))
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


def _hashable(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


def _facts(name: str, tensor: Any) -> Plain:
    """What `Facts` holds."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.is_nested:
        raise ValueError(f"{name} must be a dense tensor, got a nested one: call once for each of {name}.unbind()")
    shape, strides = tensor.shape, tensor.stride()
    # Not `not strides`, which torch.compile cannot trace.
    unit = len(shape) == 0 or strides[-1] == 1 or shape[-1] == 1
    if not unit and tensor.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got one of layout {tensor.layout}")
    return shape, tensor.dtype, tensor.device, unit


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
    layout, (shape, *others) = "[batch, *spatial, 3, heads, head_dim]", qkv
    if not (5 <= len(shape) <= 7 if rank is None else len(shape) == rank + 4):
        axes = "1 to 3 spatial axes" if rank is None else f"{rank} spatial {'axis' if rank == 1 else 'axes'}"
        raise ValueError(f"qkv must be {layout} with {axes}, got shape {list(shape)}")
    if shape[-3] != 3:
        raise ValueError(f"qkv must be {layout}: its third-last size must be 3, got shape {list(shape)}")
    _check_query("qkv", Facts(*qkv), len(shape) - 3)  # with the 3 as one more spatial axis, as it is given
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
    rank = _check_query(name, query, rank)
    batch, *spatial, heads, head_dim = query.shape
    heads_kv, head_dim_v = (heads, head_dim) if name == "qkv" else _check_key_value(query, key, value)
    window = per_axis("kernel_size", kernel_size, rank)
    step = per_axis("stride", stride, rank)
    spread = per_axis("dilation", dilation, rank)
    for axis in range(rank):
        _check_stride(axis, rank, window[axis], step[axis])
        _check_axis(axis, rank, spatial[axis], window[axis], spread[axis])
    if rpb is not None:
        _check_rpb(query, Facts(*rpb), (heads, *(2 * k - 1 for k in window)))
    return Problem(
        rank=rank,
        spatial=tuple(spatial),
        kernel_size=window,
        stride=step,
        dilation=spread,
        is_causal=_check_causal(is_causal, rank),
        scale=_check_scale(scale, head_dim, compute=compute_dtype(query.dtype)),
        batch=batch,
        heads=heads,
        heads_kv=heads_kv,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        additional=_check_additional(query, key, value, additional_keys, additional_values),
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
    rank = _check_query("attn", weights, rank, "slots")
    _check_like("attn", weights, "value", values)
    shape, like = weights.shape, values.shape
    if len(like) != len(shape) or like[:-2] != shape[:-2]:
        wanted = f"{list(shape[:-2])} for its batch and spatial sizes, as attn has"
        raise ValueError(f"value must have {wanted}, got shape {list(like)}")
    if like[-1] < 1:
        raise ValueError(f"value must have a head_dim of at least 1, got shape {list(like)}")
    if like[-2] < 1 or shape[-2] % like[-2]:
        raise ValueError(
            f"attn's {shape[-2]} heads must be a multiple of value's, got {like[-2]} in shape {list(like)}"
        )
    window = per_axis("kernel_size", kernel_size, rank)
    count = 0
    if more is not None:
        count = more[0][1] if len(more[0]) == 4 else -1
        _check_one_additional("attn", weights, "additional_values", Facts(*more), like, count)
    if shape[-1] != math.prod(window) + count:
        slots = f"{math.prod(window)} for the window" + (f" and {count} for additional_values" if count else "")
        raise ValueError(f"attn must have {slots} as its last size, got shape {list(shape)}")
    one = ((*shape[:-1], like[-1]), weights.dtype, weights.device, True)
    key = (like, weights.dtype, weights.device, True)
    return _check(window, stride, dilation, is_causal, 1.0, rank, one, key, key, None, more, more)


# A problem seen before is not checked again. `typed`, because 3 == 3.0 == True + 2.
_check_packed_once = lru_cache(maxsize=1024, typed=True)(_check_packed)
_check_once = lru_cache(maxsize=1024, typed=True)(_check)
_check_av_once = lru_cache(maxsize=1024, typed=True)(_check_av)


def _check_query(name: str, query: Facts, rank: int | None, last: str = "head_dim") -> int:
    ndim = len(query.shape)
    if rank is None and not 4 <= ndim <= 6:
        raise ValueError(f"{name} must be {_ANY_LAYOUT}, got shape {list(query.shape)}")
    if rank is not None and ndim != rank + 3:
        layout = _LAYOUT[rank].replace("head_dim", last)
        raise ValueError(f"{name} must be {layout}, got shape {list(query.shape)}")
    if query.dtype not in FLOATS:
        raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {query.dtype}")
    if query.shape[-1] < 1 or query.shape[-2] < 1:
        raise ValueError(
            f"{name} must have at least one head and a {last} of at least 1, got shape {list(query.shape)}"
        )
    _check_unit(name, query, last)
    return ndim - 3


def _check_key_value(query: Facts, key: Facts, value: Facts) -> tuple[int, int]:
    q, k, v = query.shape, key.shape, value.shape
    for name, other in (("key", key), ("value", value)):
        _check_like("query", query, name, other)
        if len(other.shape) != len(q) or other.shape[:-2] != q[:-2]:
            wanted = f"{list(q[:-2])} for its batch and spatial sizes, as query has"
            raise ValueError(f"{name} must have {wanted}, got shape {list(other.shape)}")
    if k[-1] != q[-1]:
        raise ValueError(f"key must have query's head_dim, {q[-1]}, got shape {list(k)}")
    if k[-2] < 1 or q[-2] % k[-2]:
        raise ValueError(f"query's {q[-2]} heads must be a multiple of key's, got {k[-2]} in shape {list(k)}")
    if v[-2] != k[-2]:
        raise ValueError(f"value must have as many heads as key, {k[-2]}, got shape {list(v)}")
    if v[-1] < 1:
        raise ValueError(f"value must have a head_dim of at least 1, got shape {list(v)}")
    return k[-2], v[-1]


def _check_stride(axis: int, rank: int, kernel: int, stride: int) -> None:
    if stride > kernel:
        raise ValueError(
            f"stride {stride} is larger than kernel_size {kernel} on spatial axis {axis} of {rank}: "
            f"use a stride of 1 to {kernel}"
        )


def _check_axis(axis: int, rank: int, length: int, kernel: int, dilation: int) -> None:
    if kernel * dilation > length:
        fits = length // kernel
        cure = f"the largest dilation that fits is {fits}" if fits else f"the largest kernel_size that fits is {length}"
        raise ValueError(
            f"kernel_size {kernel} with dilation {dilation} needs a length of at least {kernel * dilation} on spatial "
            f"axis {axis} of {rank}, got {length}: {cure} (or pad the input, as the NeighborhoodAttention modules do)"
        )


def _check_additional(query: Facts, key: Facts, value: Facts, keys: Plain | None, values: Plain | None) -> int:
    if keys is None and values is None:
        return -1
    if keys is None or values is None:
        one, missing = ("values", "keys") if keys is None else ("keys", "values")
        raise ValueError(f"additional_{one} was given without additional_{missing}: give both, or neither")
    count = keys[0][1] if len(keys[0]) == 4 else -1
    for name, given, like in (("additional_keys", keys, key), ("additional_values", values, value)):
        _check_one_additional("query", query, name, Facts(*given), like.shape, count)
    return count


def _check_one_additional(reference: str, query: Facts, name: str, other: Facts, like: Shape, count: int) -> None:
    _check_like(reference, query, name, other)
    wanted = (query.shape[0], count, *like[-2:])
    if other.shape != wanted:
        sizes = f"[{wanted[0]}, {'N' if count < 0 else count}, {wanted[2]}, {wanted[3]}]"
        raise ValueError(
            f"{name} must be [batch, N, heads of key, head_dim], here {sizes}, got shape {list(other.shape)}"
        )


def _check_rpb(query: Facts, rpb: Facts, wanted: Shape) -> None:
    if rpb.dtype not in FLOATS:
        raise ValueError(f"rpb must be float16, bfloat16, float32 or float64, got {rpb.dtype}")
    if rpb.device != query.device:
        raise ValueError(f"rpb must be on the device of query, {query.device}, got {rpb.device}")
    if rpb.shape != wanted:
        raise ValueError(
            f"rpb must be [heads, 2 * kernel_size - 1 per spatial axis], here {list(wanted)}, "
            f"got shape {list(rpb.shape)}"
        )


def _check_like(reference: str, query: Facts, name: str, other: Facts) -> None:
    if other.dtype != query.dtype:
        raise ValueError(f"{name} must have the dtype of {reference}, {query.dtype}, got {other.dtype}")
    if other.device != query.device:
        raise ValueError(f"{name} must be on the device of {reference}, {query.device}, got {other.device}")
    _check_unit(name, other)


def _check_unit(name: str, tensor: Facts, last: str = "head_dim") -> None:
    if not tensor.unit:
        raise ValueError(
            f"{name} must have a stride of 1 on its last axis ({last}): pass {name}.contiguous(), "
            f"got shape {list(tensor.shape)}"
        )


def _check_causal(given: Any, rank: int) -> tuple[bool, ...]:
    values = given if isinstance(given, tuple) else (given,) * rank
    if len(values) != rank:
        raise ValueError(
            f"is_causal has {len(values)} values, {given!r}, for {rank} spatial axes: give {rank}, or one bool"
        )
    if not all(isinstance(value, bool) for value in values):
        raise TypeError(f"is_causal must be a bool or a tuple of {rank} bools, got {given!r}")
    return tuple(values)


def _check_scale(scale: Any, head_dim: int, name: str = "scale", compute: torch.dtype = torch.float64) -> float:
    if scale is None:
        return head_dim**-0.5  # type: ignore[no-any-return]  # a float, as 0 was refused
    if torch.compiler.is_compiling():
        return scale  # type: ignore[no-any-return]  # perhaps a symbol, which the checks below cannot be traced with
    if isinstance(scale, (bool, Tensor)) or not hasattr(scale, "__float__"):
        raise TypeError(f"{name} must be a float, or None for head_dim ** -0.5, got {scale!r}")
    if not abs(scale) <= torch.finfo(compute).max:
        raise ValueError(f"{name} must be finite in {compute}, got {scale!r}")
    return float(scale)
