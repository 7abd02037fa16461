"""What every argument must be. Every complaint about one is made here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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


class Facts(NamedTuple):
    """What a check needs to know about one tensor."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    unit: bool
    """Whether neighbours on the last axis are neighbours in memory."""


# The same as a plain tuple, which is made faster; most are only looked up.
Plain: TypeAlias = tuple[Shape, torch.dtype, torch.device, bool]


def facts(name: str, tensor: Any) -> Plain:
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
        check_stride(axis, rank, window[axis], step[axis])
    return window, step, per_axis("dilation", dilation, rank), check_causal(hashable(is_causal), rank)


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
    check_scale(qk_scale, embed_dim // num_heads, "qk_scale")


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


def check_qkv(qkv: Facts, rank: int | None) -> None:
    """One tensor of queries, keys and values: its layout, and what `check_query` asks."""
    layout, shape = "[batch, *spatial, 3, heads, head_dim]", qkv.shape
    if not (5 <= len(shape) <= 7 if rank is None else len(shape) == rank + 4):
        axes = "1 to 3 spatial axes" if rank is None else f"{rank} spatial {'axis' if rank == 1 else 'axes'}"
        raise ValueError(f"qkv must be {layout} with {axes}, got shape {list(shape)}")
    if shape[-3] != 3:
        raise ValueError(f"qkv must be {layout}: its third-last size must be 3, got shape {list(shape)}")
    check_query("qkv", qkv, len(shape) - 3)  # with the 3 as one more spatial axis, as it is given


def check_query(name: str, query: Facts, rank: int | None, last: str = "head_dim") -> int:
    """The tensor that the others are compared with; returns the number of its spatial axes."""
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


def check_key_value(query: Facts, key: Facts, value: Facts) -> tuple[int, int]:
    """Returns the heads of both, and the head_dim of `value`."""
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


def check_weighted(attn: Facts, value: Facts) -> None:
    """Values of which `attn` has the weights."""
    _check_like("attn", attn, "value", value)
    shape, like = attn.shape, value.shape
    if len(like) != len(shape) or like[:-2] != shape[:-2]:
        wanted = f"{list(shape[:-2])} for its batch and spatial sizes, as attn has"
        raise ValueError(f"value must have {wanted}, got shape {list(like)}")
    if like[-1] < 1:
        raise ValueError(f"value must have a head_dim of at least 1, got shape {list(like)}")
    if like[-2] < 1 or shape[-2] % like[-2]:
        raise ValueError(
            f"attn's {shape[-2]} heads must be a multiple of value's, got {like[-2]} in shape {list(like)}"
        )


def check_slots(attn: Facts, window: Shape, additional: int) -> None:
    """The last axis of weights: one of each key of a window, then one of each additional key."""
    if attn.shape[-1] != math.prod(window) + additional:
        more = f" and {additional} for additional_values" if additional else ""
        slots = f"{math.prod(window)} for the window{more}"
        raise ValueError(f"attn must have {slots} as its last size, got shape {list(attn.shape)}")


def check_stride(axis: int, rank: int, kernel: int, stride: int) -> None:
    """No key may fall between windows."""
    if stride > kernel:
        raise ValueError(
            f"stride {stride} is larger than kernel_size {kernel} on spatial axis {axis} of {rank}: "
            f"use a stride of 1 to {kernel}"
        )


def check_axis(axis: int, rank: int, length: int, kernel: int, dilation: int) -> None:
    """A dilated window must fit into the map."""
    if kernel * dilation > length:
        fits = length // kernel
        cure = f"the largest dilation that fits is {fits}" if fits else f"the largest kernel_size that fits is {length}"
        raise ValueError(
            f"kernel_size {kernel} with dilation {dilation} needs a length of at least {kernel * dilation} on spatial "
            f"axis {axis} of {rank}, got {length}: {cure} (or pad the input, as the NeighborhoodAttention modules do)"
        )


def check_additional(query: Facts, key: Facts, value: Facts, keys: Plain | None, values: Plain | None) -> int:
    """Both, or neither; returns their number, -1 where none are given."""
    if keys is None and values is None:
        return -1
    if keys is None or values is None:
        one, missing = ("values", "keys") if keys is None else ("keys", "values")
        raise ValueError(f"additional_{one} was given without additional_{missing}: give both, or neither")
    count = keys[0][1] if len(keys[0]) == 4 else -1
    for name, given, like in (("additional_keys", keys, key), ("additional_values", values, value)):
        check_one_additional("query", query, name, Facts(*given), like.shape, count)
    return count


def check_one_additional(reference: str, query: Facts, name: str, other: Facts, like: Shape, count: int) -> None:
    """Keys or values that every query has, `count` of them; `like`: the shape of the key or value that they go with."""
    _check_like(reference, query, name, other)
    wanted = (query.shape[0], count, *like[-2:])
    if other.shape != wanted:
        sizes = f"[{wanted[0]}, {'N' if count < 0 else count}, {wanted[2]}, {wanted[3]}]"
        raise ValueError(
            f"{name} must be [batch, N, heads of key, head_dim], here {sizes}, got shape {list(other.shape)}"
        )


def check_rpb(query: Facts, rpb: Facts, wanted: Shape) -> None:
    """The bias."""
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


def check_causal(given: Any, rank: int) -> tuple[bool, ...]:
    """A bool for every axis, or one per axis, as a tuple of `rank` bools."""
    values = given if isinstance(given, tuple) else (given,) * rank
    if len(values) != rank:
        raise ValueError(
            f"is_causal has {len(values)} values, {given!r}, for {rank} spatial axes: give {rank}, or one bool"
        )
    if not all(isinstance(value, bool) for value in values):
        raise TypeError(f"is_causal must be a bool or a tuple of {rank} bools, got {given!r}")
    return tuple(values)


def check_scale(scale: Any, head_dim: int, name: str = "scale", compute: torch.dtype = torch.float64) -> float:
    """The factor of scores, where None stands for the usual one."""
    if scale is None:
        return head_dim**-0.5  # type: ignore[no-any-return]  # a float, as 0 was refused
    if torch.compiler.is_compiling():
        return scale  # type: ignore[no-any-return]  # perhaps a symbol, which the checks below cannot be traced with
    if isinstance(scale, (bool, Tensor)) or not hasattr(scale, "__float__"):
        raise TypeError(f"{name} must be a float, or None for head_dim ** -0.5, got {scale!r}")
    if not abs(scale) <= torch.finfo(compute).max:
        raise ValueError(f"{name} must be finite in {compute}, got {scale!r}")
    return float(scale)


def hashable(given: Any) -> Any:
    """A list as the tuple that a cache can hold."""
    return tuple(given) if isinstance(given, list) else given


def _is_int(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return True
