"""The two stages on the CUDA kernels, see `natten_core.two_stage`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from natten_core._problem import compute_dtype
from natten_core.backends import cuda
from natten_core.backends._handle import address, hashable, kernels, make, shape, span


def qk(query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, *settings: Any) -> Tensor:
    """Scores [B, *spatial, heads, slots] in `query`'s dtype."""
    additional = 0 if additional_keys is None else additional_keys.shape[1]
    scores = query.new_empty((*query.shape[:-1], prod(settings[0]) + additional))
    if query.numel():
        call = _Scores(query, key, rpb, additional_keys, settings)
        call.run(kernels().cuda_qk, *call.spans, span(scores))
    return scores


def qk_backward(
    grad_scores: Tensor, query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of query, key, rpb and additional keys; empty for what was not given."""
    grads = [_like(query), _like(key), _like(rpb, compute_dtype(query.dtype)), _like(additional_keys)]
    if query.numel():
        call = _Scores(query, key, rpb, additional_keys, settings)
        call.run(
            kernels().cuda_qk_backward,
            *call.spans,
            call.span(grad_scores),
            span(grads[0]),
            span(grads[1]),
            address(grads[2]),
            _span_of_some(grads[3]),
            call.allocate,
        )
    elif grads[2] is not None:
        grads[2].zero_()
    return _as_given(grads, (query, key, rpb, additional_keys))


def av(attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any) -> Tensor:
    """Output [B, *spatial, heads, head_dim_v] in `attn`'s dtype."""
    output = attn.new_empty((*attn.shape[:-1], value.shape[-1]))
    if attn.numel():
        call = _Weights(attn, value, additional_values, settings)
        call.run(kernels().cuda_av, *call.spans, span(output))
    return output


def av_backward(
    grad_output: Tensor, attn: Tensor, value: Tensor, additional_values: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of attn, value and additional values; empty for what was not given."""
    grads = [_like(attn), _like(value), _like(additional_values)]
    if attn.numel():
        call = _Weights(attn, value, additional_values, settings)
        call.run(
            kernels().cuda_av_backward,
            *call.spans,
            call.span(grad_output),
            span(grads[0]),
            span(grads[1]),
            _span_of_some(grads[2]),
            call.allocate,
        )
    return _as_given(grads, (attn, value, additional_values))


class _Stage(cuda.Kept):
    """What the kernels of one stage read."""

    problem: Any

    def run(self, kernel: Any, *arguments: Any) -> None:
        device = cuda._device_of(self.like)
        with cuda._on(device):
            kernel(self.problem, device, cuda._stream(device), *arguments)

    def some(self, additional: Tensor | None) -> tuple[int, ...] | None:
        """Of additional tokens, where there are any."""
        return self.span(additional) if additional is not None and additional.shape[1] else None


class _Scores(_Stage):
    def __init__(
        self, query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None, settings: Sequence[Any]
    ) -> None:
        super().__init__(query)
        more = shape(additional_keys)
        self.problem = make(self.dtype, query.shape, key.shape, key.shape, shape(rpb), more, more, *hashable(settings))
        self.spans = (self.span(query), self.span(key), self.bias(rpb), self.some(additional_keys))


class _Weights(_Stage):
    def __init__(self, attn: Tensor, value: Tensor, additional_values: Tensor | None, settings: Sequence[Any]) -> None:
        super().__init__(attn)
        more = shape(additional_values)
        slots = prod(settings[0]) + (0 if more is None else more[1])
        if attn.shape[-1] != slots:
            raise ValueError(f"attn must have {slots} slots, got shape {list(attn.shape)}")
        query = (*attn.shape[:-1], value.shape[-1])
        shapes = (query, value.shape, value.shape, None, more, more)
        self.problem = make(self.dtype, *shapes, *hashable(settings), 1.0)
        self.spans = (self.span(attn), self.span(value), self.some(additional_values))


def _like(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """Memory for the gradient."""
    return None if tensor is None else tensor.new_empty(tensor.shape, dtype=dtype or tensor.dtype)


def _span_of_some(grad: Tensor | None) -> tuple[int, ...] | None:
    return span(grad) if grad is not None and grad.shape[1] else None


def _as_given(grads: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    like = given[0]
    assert like is not None
    return tuple(
        like.new_empty(0) if grad is None or tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, given, strict=True)
    )
