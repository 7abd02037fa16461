"""Neighborhood attention as functions: the public operators.

The tensors are heads last, `[batch, *spatial, heads, head_dim]`, with a unit stride over head_dim and any others, so
that query, key and value may be slices of one projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from natten_core import _autocast, _ops, _problem
from natten_core._problem import Problem
from natten_core._select import select, transformed
from natten_core.backends import reference

__all__ = [
    "na1d",
    "na1d_qkvpacked",
    "na2d",
    "na2d_qkvpacked",
    "na3d",
    "na3d_qkvpacked",
    "neighborhood_attention",
]

PerAxis: TypeAlias = "int | Sequence[int]"
Causal: TypeAlias = "bool | Sequence[bool]"
Result: TypeAlias = Any
"""The output, a Tensor; with `return_lse=True` the tuple (output, lse)."""


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    r"""Softmax attention of every token to the `kernel_size` nearest ones on every spatial axis.

    Computes `softmax(scale * query @ key.T + rpb) @ value` over the window of each query. Near a border the window is
    shifted inward, so that every query sees `kernel_size` keys per axis (NAT, arXiv:2204.07143); with
    `dilation` d it takes every d-th token (DiNAT, arXiv:2209.15001). With `kernel_size` equal to
    the map's size this is plain self attention, with `stride` equal to `kernel_size` blocked attention.

    An int or bool setting stands for every spatial axis, a tuple gives one per axis. Differentiable any number of
    times in all tensors, the returned `lse` included.

    Args:
        query: `[batch, *spatial, heads, head_dim]` with one to three spatial axes; float16, bfloat16, float32, float64.
        key: `[batch, *spatial, heads_kv, head_dim]`; query head h reads head `h // (heads // heads_kv)`.
        value: `[batch, *spatial, heads_kv, head_dim_v]`.
        kernel_size: window size. An even one, 2r, sees r tokens before the query and r - 1 after it.
        stride: queries per window position, 1 to `kernel_size`; groups of `stride` neighbours share one window.
        dilation: distance between the tokens of a window; `kernel_size * dilation` may not exceed the axis.
        is_causal: whether the window ends at the query on that axis.
        scale: factor on the dot products; `head_dim ** -0.5` when None.
        rpb: `[heads, 2 * kernel_size - 1, ...]`, the relative positional bias, in any floating dtype. A key's entry
            is at its position relative to the query, in units of the dilation, plus `kernel_size - 1`.
        additional_keys: `[batch, N, heads_kv, head_dim]` keys that every query sees besides its window, without bias.
        additional_values: `[batch, N, heads_kv, head_dim_v]`, their values.
        return_lse: whether to return the log-sum-exp of the scores too.
        backend: "auto" for the fastest that can run the problem (see `natten_core.explain`), or the name of one.

    Returns:
        The output `[batch, *spatial, heads, head_dim_v]` in the dtype of `query`. With `return_lse`, a tuple of it and
        the natural log-sum-exp `[batch, *spatial, heads]`, float32, or float64 for float64 inputs.

    Raises:
        ValueError: sizes, dtypes, devices or settings that do not go together.
        TypeError: an argument of the wrong Python type.
        NotImplementedError: an explicit `backend` that cannot run the problem.

    Example:
        >>> import torch, natten_core
        >>> q, k, v = torch.randn(3, 1, 14, 14, 4, 32)
        >>> natten_core.neighborhood_attention(q, k, v, kernel_size=7, dilation=2).shape
        torch.Size([1, 14, 14, 4, 32])
    """
    output, lse = _attend(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        None,
    )
    return (output, lse) if return_lse else output


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """`neighborhood_attention` on `[batch, x, heads, head_dim]`."""
    output, lse = _attend(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        1,
    )
    return (output, lse) if return_lse else output


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """`neighborhood_attention` on `[batch, y, x, heads, head_dim]`."""
    output, lse = _attend(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        2,
    )
    return (output, lse) if return_lse else output


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """`neighborhood_attention` on `[batch, z, y, x, heads, head_dim]`."""
    output, lse = _attend(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        3,
    )
    return (output, lse) if return_lse else output


def na1d_qkvpacked(
    qkv: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """`neighborhood_attention` on one `qkv` of shape `[batch, x, 3, heads, head_dim]`.

    That is how one projection to queries, keys and values leaves them. Faster in training than `na1d` on three
    slices: `qkv` is read in place and gets one gradient, nothing is copied or stacked. Everything else is as in
    `neighborhood_attention`; the output is `[batch, x, heads, head_dim]`.
    """
    output, lse = _attend_packed(
        qkv,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        1,
    )
    return (output, lse) if return_lse else output


def na2d_qkvpacked(
    qkv: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """As `na1d_qkvpacked`, on `qkv` of shape `[batch, y, x, 3, heads, head_dim]`."""
    output, lse = _attend_packed(
        qkv,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        2,
    )
    return (output, lse) if return_lse else output


def na3d_qkvpacked(
    qkv: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Result:
    """As `na1d_qkvpacked`, on `qkv` of shape `[batch, z, y, x, 3, heads, head_dim]`."""
    output, lse = _attend_packed(
        qkv,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        backend,
        return_lse,
        3,
    )
    return (output, lse) if return_lse else output


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
    is_causal: Causal,
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    backend: str,
    return_lse: bool,
    rank: int | None,
) -> tuple[Tensor, Tensor | None]:
    if _autocast.is_on():
        query, key, value, additional_keys, additional_values = _autocast.cast(
            query, key, value, additional_keys, additional_values
        )
    problem = _problem.check(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        rank,
    )
    if _takes_reference(problem, backend):
        return reference.neighborhood_attention(
            problem, query, key, value, rpb, additional_keys, additional_values, 0.0, return_lse
        )
    tensors = (query, key, value, rpb, additional_keys, additional_values)
    results: tuple[Tensor, Tensor] = _ops.run("na_forward", tensors, problem.settings())
    return results


def _attend_packed(
    qkv: Tensor,
    kernel_size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
    is_causal: Causal,
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    backend: str,
    return_lse: bool,
    rank: int | None,
) -> tuple[Tensor, Tensor | None]:
    if _autocast.is_on():
        qkv, additional_keys, additional_values = _autocast.cast(qkv, additional_keys, additional_values)
    problem = _problem.check_packed(
        qkv, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, additional_values, rank
    )
    if _takes_reference(problem, backend):
        query, key, value = qkv.unbind(-3)
        return reference.neighborhood_attention(
            problem, query, key, value, rpb, additional_keys, additional_values, 0.0, return_lse
        )
    tensors = (qkv, rpb, additional_keys, additional_values)
    results: tuple[Tensor, Tensor] = _ops.run("na_qkvpacked_forward", tensors, problem.settings())
    return results


def _takes_reference(problem: Problem, backend: str) -> bool:
    return select(problem, backend) == "reference" or transformed()
