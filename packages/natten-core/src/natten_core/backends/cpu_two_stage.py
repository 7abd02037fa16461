"""The two stages on the CPU kernels, see `natten_core.two_stage`."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from natten_core._problem import compute_dtype
from natten_core.backends._handle import address, hashable, kernels, make, shape, span
from natten_core.backends.cpu import readable, threads


def qk(query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, *settings: Any) -> Tensor:
    """Scores [B, *spatial, heads, slots] in `query`'s dtype."""
    dtype = compute_dtype(query.dtype)
    additional = 0 if additional_keys is None else additional_keys.shape[1]
    scores = query.new_empty((*query.shape[:-1], prod(settings[0]) + additional), dtype=dtype)
    if query.numel():
        call = _Scores(dtype, query, key, rpb, additional_keys, settings)
        kernels().cpu_qk(call.problem, threads(), *call.spans, span(scores))
    return scores.to(query.dtype)


def qk_backward(
    grad_scores: Tensor, query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of query, key, rpb and additional keys; empty for what was not given."""
    dtype = compute_dtype(query.dtype)
    given = (query, key, rpb, additional_keys)
    grads = [None if tensor is None else tensor.new_zeros(tensor.shape, dtype=dtype) for tensor in given]
    if query.numel():
        call = _Scores(dtype, query, key, rpb, additional_keys, settings)
        (grad,) = readable((grad_scores,), dtype)
        kernels().cpu_qk_backward(
            call.problem,
            threads(),
            *call.spans,
            span(grad),
            span(grads[0]),
            span(grads[1]),
            address(grads[2]),
            span(grads[3]),
        )
    return tuple(_as_given(grad, tensor, query) for grad, tensor in zip(grads, given, strict=True))


def av(attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any) -> Tensor:
    """Output [B, *spatial, heads, head_dim_v] in `attn`'s dtype."""
    dtype = compute_dtype(attn.dtype)
    output = attn.new_empty((*attn.shape[:-1], value.shape[-1]), dtype=dtype)
    if attn.numel():
        call = _Weights(dtype, attn, value, additional_values, settings)
        kernels().cpu_av(call.problem, threads(), *call.spans, span(output))
    return output.to(attn.dtype)


def av_backward(
    grad_output: Tensor, attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of attn, value and additional values; empty for what was not given."""
    dtype = compute_dtype(attn.dtype)
    given = (attn, value, additional_values)
    grads = [None if tensor is None else tensor.new_zeros(tensor.shape, dtype=dtype) for tensor in given]
    if attn.numel():
        call = _Weights(dtype, attn, value, additional_values, settings)
        (grad,) = readable((grad_output,), dtype)
        kernels().cpu_av_backward(call.problem, threads(), *call.spans, span(grad), *map(span, grads))
    return tuple(_as_given(grad, tensor, attn) for grad, tensor in zip(grads, given, strict=True))


class _Scores:
    """What the kernels of the first stage read."""

    def __init__(
        self, dtype: torch.dtype, query: Tensor, key: Tensor, rpb: Any, additional_keys: Any, settings: Any
    ) -> None:
        query, key, rpb, more = self.tensors = readable((query, key, rpb, additional_keys), dtype)
        if rpb is not None:
            rpb = self.tensors[2] = rpb.contiguous()
        shapes = (query.shape, key.shape, key.shape, shape(rpb), shape(more), shape(more))
        self.problem = make(dtype, *shapes, *hashable(settings))
        self.spans = (span(query), span(key), address(rpb), span(more))


class _Weights:
    """What the kernels of the second stage read."""

    def __init__(self, dtype: torch.dtype, attn: Tensor, value: Tensor, additional_values: Any, settings: Any) -> None:
        attn, value, more = self.tensors = readable((attn, value, additional_values), dtype)
        slots = prod(settings[0]) + (0 if more is None else more.shape[1])
        if attn.shape[-1] != slots:
            raise ValueError(f"attn must have {slots} slots, got shape {list(attn.shape)}")
        query = (*attn.shape[:-1], value.shape[-1])
        shapes = (query, value.shape, value.shape, None, shape(more), shape(more))
        self.problem = make(dtype, *shapes, *hashable(settings), 1.0)
        self.spans = (span(attn), span(value), span(more))


def _as_given(grad: Tensor | None, tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if grad is None or tensor is None else grad.to(tensor.dtype)
