"""How problems and tensors are told to the compiled kernels: a `Problem` of `_C`, and tuples of address and strides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from natten_core import _loader
from natten_core._problem import Problem

_DTYPES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def kernels() -> Any:
    """The compiled module."""
    if _loader._C is None:
        raise NotImplementedError(_loader.reason)
    return _loader._C


@lru_cache(maxsize=1024)
def make(
    dtype: torch.dtype,
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    rpb: tuple[int, ...] | None,
    additional_keys: tuple[int, ...] | None,
    additional_values: tuple[int, ...] | None,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
    scale: float,
) -> Any:
    """The problem, in C++. Who calls an operator itself has not had the shapes checked: wrong ones corrupt memory."""
    batch, *spatial, heads, head_dim = query
    heads_kv, head_dim_v = value[-2:]
    additional = 0 if additional_keys is None else additional_keys[1]
    found = (key, value[:-2], rpb, additional_keys, additional_values)
    more = (batch, additional, heads_kv)
    wanted = (
        (*query[:-2], heads_kv, head_dim),
        query[:-2],
        None if rpb is None else (heads, *(2 * kernel - 1 for kernel in kernel_size)),
        None if additional_keys is None else (*more, head_dim),
        None if additional_keys is None else (*more, head_dim_v),
    )
    if found != wanted:
        raise ValueError(f"shapes that do not go together: query {query}, key {key}, value {value}, and others {found}")
    return kernels().Problem(
        _DTYPES[dtype],
        batch,
        heads,
        heads_kv,
        head_dim,
        head_dim_v,
        additional,
        spatial,
        kernel_size,
        stride,
        dilation,
        [bool(causal) for causal in is_causal],
        scale,
    )


def facts(problem: Problem, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of `make` for a checked problem; a batch of none counts as one."""
    lead = (max(problem.batch, 1), *problem.spatial)
    more = (lead[0], problem.additional, problem.heads_kv)
    return (
        dtype,
        (*lead, problem.heads, problem.head_dim),
        (*lead, problem.heads_kv, problem.head_dim),
        (*lead, problem.heads_kv, problem.head_dim_v),
        None,
        (*more, problem.head_dim) if problem.additional >= 0 else None,
        (*more, problem.head_dim_v) if problem.additional >= 0 else None,
        problem.kernel_size,
        problem.stride,
        problem.dilation,
        problem.is_causal,
        problem.scale,
    )


def shape(tensor: Tensor | None) -> Any:
    """The shape, or None."""
    return None if tensor is None else tensor.shape


def hashable(settings: Sequence[Any]) -> tuple[Any, ...]:
    """Settings as an operator gets them, lists and numbers, as tuples and numbers."""
    if type(settings[0]) is tuple:
        return tuple(settings)
    return tuple(tuple(one) if isinstance(one, list) else one for one in settings)


@lru_cache(maxsize=1024)
def results(query: tuple[int, ...], value: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Shape and strides of the output, shape and strides of the log-sum-exp: for `new_empty_strided`, the quickest."""
    output, lse = (*query[:-1], value[-1]), tuple(query[:-1])
    return output, _contiguous(output), lse, _contiguous(lse)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    steps = accumulate((max(size, 1) for size in reversed(shape[1:])), mul, initial=1)
    return tuple(reversed(list(steps)))


def span(tensor: Tensor | None) -> tuple[int, ...] | None:
    """Address and strides."""
    return None if tensor is None else (tensor.data_ptr(), *tensor.stride())


def spans_of_three(packed: Sequence[int], itemsize: int) -> list[tuple[int, ...]]:
    """The spans of query, key and value in that of [B, *spatial, 3, heads, head_dim]."""
    start, *strides = packed
    step = strides.pop(-3) * itemsize
    return [(start + i * step, *strides) for i in range(3)]


def address(tensor: Tensor | None) -> int:
    """Where the tensor's memory begins, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
