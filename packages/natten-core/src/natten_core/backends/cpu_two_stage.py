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
    slots = prod(settings[0]) + (0 if additional_keys is None else additional_keys.shape[1])
    shape = (*query.shape[:-1], slots)
    if not query.numel():
        return query.new_empty(shape)
    call = _Scores(query, key, rpb, additional_keys, settings)
    scores = query.new_empty(shape)
    kernels().cpu_qk(call.problem, threads(), *call.spans, span(scores))
    return scores


def qk_backward(
    grad_scores: Tensor, query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of query, key, rpb and additional keys; empty for what was not given."""
    given = (query, key, rpb, additional_keys)
    if not query.numel():
        return _zeros(given, query)
    call = _Scores(query, key, rpb, additional_keys, settings)
    (grad,) = readable((grad_scores,), call.dtype)
    dtypes = (call.dtype, call.dtype, call.compute, call.compute)
    grads = [_room(tensor, dtype) for tensor, dtype in zip(given, dtypes, strict=True)]
    spans = (span(grads[0]), span(grads[1]), address(grads[2]), span(grads[3]))
    kernels().cpu_qk_backward(call.problem, threads(), *call.spans, span(grad), *spans)
    return _as_given(grads, given, query)


def av(attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any) -> Tensor:
    """Output [B, *spatial, heads, head_dim_v] in `attn`'s dtype."""
    shape = (*attn.shape[:-1], value.shape[-1])
    if not attn.numel():
        return attn.new_empty(shape)
    call = _Weights(attn, value, additional_values, settings)
    output = attn.new_empty(shape)
    kernels().cpu_av(call.problem, threads(), *call.spans, span(output))
    return output


def av_backward(
    grad_output: Tensor, attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of attn, value and additional values; empty for what was not given."""
    given = (attn, value, additional_values)
    if not attn.numel():
        return _zeros(given, attn)
    call = _Weights(attn, value, additional_values, settings)
    (grad,) = readable((grad_output,), call.dtype)
    dtypes = (call.dtype, call.dtype, call.compute)
    grads = [_room(tensor, dtype) for tensor, dtype in zip(given, dtypes, strict=True)]
    kernels().cpu_av_backward(call.problem, threads(), *call.spans, span(grad), *map(span, grads))
    return _as_given(grads, given, attn)


class _Call:
    """The problem of a stage.

    Attributes:
        dtype: of its tensors.
        compute: of the bias, and of the gradients that are sums over queries.
    """

    def __init__(self, dtype: torch.dtype, shapes: tuple[Any, ...], settings: tuple[Any, ...]) -> None:
        self.problem, self.dtype, self.compute = make(dtype, *shapes, *settings), dtype, compute_dtype(dtype)


class _Scores(_Call):
    """What the kernels of the first stage read."""

    def __init__(self, query: Tensor, key: Tensor, rpb: Any, additional_keys: Any, settings: Any) -> None:
        more = shape(additional_keys)
        super().__init__(query.dtype, (query.shape, key.shape, key.shape, shape(rpb), more, more), hashable(settings))
        tensors = readable((query, key, additional_keys), self.dtype)
        if rpb is not None and (rpb.dtype is not self.compute or not rpb.is_contiguous()):
            rpb = rpb.to(self.compute).contiguous()
        self.kept = (*tensors, rpb)
        self.spans = (span(tensors[0]), span(tensors[1]), address(rpb), span(tensors[2]))


class _Weights(_Call):
    """What the kernels of the second stage read."""

    def __init__(self, attn: Tensor, value: Tensor, additional_values: Any, settings: Any) -> None:
        slots = prod(settings[0]) + (0 if additional_values is None else additional_values.shape[1])
        if attn.shape[-1] != slots:
            raise ValueError(f"attn must have {slots} slots, got shape {list(attn.shape)}")
        query, more = (*attn.shape[:-1], value.shape[-1]), shape(additional_values)
        shapes = (query, value.shape, value.shape, None, more, more)
        super().__init__(attn.dtype, shapes, (*hashable(settings), 1.0))
        self.kept = readable((attn, value, additional_values), self.dtype)
        self.spans = tuple(map(span, self.kept))


def _room(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """For the gradient of `tensor`, all of which the kernels write."""
    return None if tensor is None else tensor.new_empty(tensor.shape, dtype=dtype)


def _zeros(given: tuple[Tensor | None, ...], like: Tensor) -> tuple[Tensor, ...]:
    """The gradients where there is no query."""
    return tuple(like.new_empty(0) if tensor is None else tensor.new_zeros(tensor.shape) for tensor in given)


def _as_given(grads: list[Tensor | None], given: tuple[Tensor | None, ...], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        like.new_empty(0) if grad is None or tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, given, strict=True)
    )
