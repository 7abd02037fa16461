"""Neighborhood attention in two stages: scores first, values after whatever the caller does in between.

`softmax` and dropout lie between the stages, in the caller's hands; whoever needs neither has `neighborhood_attention`,
which is faster and stores no weights. A query's weights are in the row-major order of its window, and those of
additional keys follow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from natten_core import _autocast, _problem, _two_stage_ops  # noqa: F401  # defines the operators
from natten_core._ops import run
from natten_core._problem import Problem
from natten_core._select import select, transformed
from natten_core.backends import reference, reference_two_stage
from natten_core.functional import Causal, PerAxis

__all__ = ["na1d_av", "na1d_qk", "na2d_av", "na2d_qk", "na3d_av", "na3d_qk"]


def na1d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = 1.0,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scores `scale * query @ key.T + rpb` of every token with its window; `softmax` over the last axis makes weights.

    Args:
        query: `[batch, x, heads, head_dim]`; float16, bfloat16, float32, float64.
        key: `[batch, x, heads_kv, head_dim]`; query head h reads head `h // (heads // heads_kv)`.
        kernel_size: window size K, see `neighborhood_attention` for it and the settings that follow.
        stride: queries per window position.
        dilation: distance between the tokens of a window.
        is_causal: whether the window ends at the query.
        scale: factor on the dot products; `head_dim ** -0.5` when None.
        rpb: `[heads, 2 * K - 1]`, the relative positional bias, in any floating dtype.
        additional_keys: `[batch, N, heads_kv, head_dim]` keys that every query sees besides its window.
        backend: "auto", or the name of one.

    Returns:
        `[batch, x, heads, K + N]` in the dtype of `query`: first the keys of the window in their order, then the
        additional ones. The slots that a causal window lacks come last in the window, and are `-inf`.

    Raises:
        ValueError, TypeError, NotImplementedError: as `neighborhood_attention`.

    Example:
        >>> import torch, natten_core
        >>> q, k, v = torch.randn(3, 1, 20, 4, 32)
        >>> weights = natten_core.na1d_qk(q, k, 7, scale=32**-0.5).softmax(-1)
        >>> natten_core.na1d_av(weights, v, 7).shape
        torch.Size([1, 20, 4, 32])
    """
    return _qk(query, key, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, backend, 1)


def na2d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = 1.0,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """As `na1d_qk`, on `[batch, y, x, heads, head_dim]`; the window is in row-major order."""
    return _qk(query, key, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, backend, 2)


def na3d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    scale: float | None = 1.0,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """As `na1d_qk`, on `[batch, z, y, x, heads, head_dim]`; the window is in row-major order."""
    return _qk(query, key, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, backend, 3)


def na1d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    additional_values: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The values of every window, weighted: what follows `na1d_qk`.

    Args:
        attn: `[batch, x, heads, K + N]` weights, as `na1d_qk` orders them. Those in slots that a causal window lacks
            are not read, and their gradient is zero.
        value: `[batch, x, heads_kv, head_dim_v]` in the dtype of `attn`.
        kernel_size: window size K.
        stride: queries per window position.
        dilation: distance between the tokens of a window.
        is_causal: whether the window ends at the query.
        additional_values: `[batch, N, heads_kv, head_dim_v]`, those of the additional keys.
        backend: "auto", or the name of one.

    Returns:
        `[batch, x, heads, head_dim_v]` in the dtype of `attn`.

    Raises:
        ValueError, TypeError, NotImplementedError: as `neighborhood_attention`.
    """
    return _av(attn, value, kernel_size, stride, dilation, is_causal, additional_values, backend, 1)


def na2d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    additional_values: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """As `na1d_av`, on `[batch, y, x, heads, ...]`."""
    return _av(attn, value, kernel_size, stride, dilation, is_causal, additional_values, backend, 2)


def na3d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    is_causal: Causal = False,
    additional_values: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """As `na1d_av`, on `[batch, z, y, x, heads, ...]`."""
    return _av(attn, value, kernel_size, stride, dilation, is_causal, additional_values, backend, 3)


def attend_with_dropout(
    qkv: Tensor,
    kernel_size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
    is_causal: Causal,
    scale: float | None,
    rpb: Tensor | None,
    rank: int,
    dropout: float,
) -> Tensor:
    """The output of attention on `[batch, *spatial, 3, heads, head_dim]`, with dropout of the weights."""
    (qkv,) = _autocast.cast(qkv)
    problem = _problem.check_packed(qkv, kernel_size, stride, dilation, is_causal, scale, rpb, None, None, rank)
    query, key, value = qkv.unbind(-3)
    if not has_kernels(problem, "auto"):
        output, _ = reference.neighborhood_attention(problem, query, key, value, rpb, None, None, dropout, False)
        return output
    scores = run("qk", (query, key, rpb, None), problem.settings())
    (weights,) = _autocast.cast(torch.nn.functional.dropout(torch.softmax(scores, -1), dropout))
    attended: Tensor = run("av", (weights, value, None), problem.settings()[:-1])
    return attended


def has_kernels(problem: Problem, backend: str) -> bool:
    """Whether the stages run on kernels."""
    return select(problem, backend) != "reference" and not transformed()


def _qk(
    query: Tensor,
    key: Tensor,
    kernel_size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
    is_causal: Causal,
    scale: float | None,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    backend: str,
    rank: int,
) -> Tensor:
    if _autocast.is_on():
        query, key, additional_keys = _autocast.cast(query, key, additional_keys)
    settings = (kernel_size, stride, dilation, is_causal, scale)
    problem = _problem.check_qk(query, key, *settings, rpb, additional_keys, rank)
    if not has_kernels(problem, backend):
        return reference_two_stage.qk(problem, query, key, rpb, additional_keys)
    scores: Tensor = run("qk", (query, key, rpb, additional_keys), problem.settings())
    return scores


def _av(
    attn: Tensor,
    value: Tensor,
    kernel_size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
    is_causal: Causal,
    additional_values: Tensor | None,
    backend: str,
    rank: int,
) -> Tensor:
    if _autocast.is_on():
        attn, value, additional_values = _autocast.cast(attn, value, additional_values)
    problem = _problem.check_av(attn, value, kernel_size, stride, dilation, is_causal, additional_values, rank)
    if not has_kernels(problem, backend):
        return reference_two_stage.av(problem, attn, value, additional_values)
    output: Tensor = run("av", (attn, value, additional_values), problem.settings()[:-1])
    return output
