"""The CPU kernels: allocates in torch, passes pointers, strides and integers to `_C`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from natten_core import _loader
from natten_core._problem import Problem, compute_dtype
from natten_core.backends._handle import (
    address,
    hashable,
    kernels,
    make,
    results,
    shape,
    span,
    spans_of_three,
)

NAME = "cpu"

# After a fork libgomp's threads are gone, and waiting for them would never end.
_forked = False


def not_supported_reasons(problem: Problem) -> tuple[str, ...]:
    """Why these kernels cannot run `problem`; empty where they can."""
    if problem.device.type != "cpu":
        return (f"the tensors are on {problem.device.type!r}",)
    return (_loader.reason,) if _loader._C is None else ()


def kernel_name(problem: Problem, *tensors: Tensor) -> str:
    """The kernel that runs `problem`, for `natten_core.explain`."""
    return f"fused-{kernels().build_info()['isa_default']}"


def passed_over(problem: Problem, *tensors: Tensor) -> tuple[tuple[str, str], ...]:
    """None: there is one family of kernels, which takes everything."""
    return ()


def na_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Output [B, *spatial, heads, head_dim_v] in `query`'s dtype, lse [B, *spatial, heads] in the compute dtype."""
    shapes = (query.shape, key.shape, value.shape)
    return _Call((query, key, value), shapes, (rpb, additional_keys, additional_values), settings).forward()


def na_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    output: Tensor,
    lse: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of query, key, value, rpb, additional keys and values; empty for what was not given."""
    shapes = (query.shape, key.shape, value.shape)
    call = _Call((query, key, value), shapes, (rpb, additional_keys, additional_values), settings)
    grads = [empty_like(tensor) for tensor in (query, key, value)]
    return *grads, *call.backward(grad_output, grad_lse, [span(grad) for grad in grads])


def na_qkvpacked_forward(
    qkv: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """As `na_forward`, on qkv [B, *spatial, 3, heads, head_dim]."""
    shapes = (qkv.shape[:-3] + qkv.shape[-2:],) * 3
    return _Call((qkv,), shapes, (rpb, additional_keys, additional_values), settings).forward()


def na_qkvpacked_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    qkv: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    output: Tensor,
    lse: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """Gradients of qkv (contiguous, written in place by the kernel), rpb, additional keys and values."""
    shapes = (qkv.shape[:-3] + qkv.shape[-2:],) * 3
    call = _Call((qkv,), shapes, (rpb, additional_keys, additional_values), settings)
    grad_qkv = empty_like(qkv)
    grads = spans_of_three((grad_qkv.data_ptr(), *grad_qkv.stride()), grad_qkv.itemsize)
    return grad_qkv, *call.backward(grad_output, grad_lse, grads)


@lru_cache(maxsize=1024)
def _prepare(
    dtype: torch.dtype, query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *rest: Any
) -> tuple[Any, torch.dtype, tuple[tuple[int, ...], ...]]:
    """Everything about a call that needs no tensor.

    Returns:
        The problem in C++, or None where there is nothing to compute; `_Call.compute`; and how output and log-sum-exp
        are laid out.
    """
    problem = None if 0 in query else make(dtype, query, key, value, *rest)
    return problem, compute_dtype(dtype), results(query, value)


class _Call:
    """What the kernels read, and the tensors that had to be copied for it, which live as long as the call.

    Attributes:
        like: a tensor of the dtype of query, key, value, output and their gradients.
        compute: of the bias, the log-sum-exp and their gradients.
    """

    def __init__(
        self,
        main: Sequence[Tensor],
        shapes: Sequence[Any],
        optional: Sequence[Tensor | None],
        settings: Sequence[Any],
    ) -> None:
        like = main[0]
        self.like, self.optional = like, optional
        self.kept: list[Tensor] = []
        rpb, more_keys, more_values = optional
        given = (shape(rpb), shape(more_keys), shape(more_values))
        prepared = _prepare(like.dtype, *shapes, *given, *hashable(settings))
        self.problem, self.compute, self.results = prepared
        spans = [self.span(tensor) for tensor in main]
        if len(main) == 1:
            spans = spans_of_three(spans[0], like.itemsize)
        bias = 0
        if rpb is not None:
            if rpb.dtype is not self.compute or not rpb.is_contiguous():
                rpb = self.keep(rpb.to(self.compute).contiguous())
            bias = rpb.data_ptr()
        self.spans = (
            *spans,
            bias,
            None if more_keys is None else self.span(more_keys),
            None if more_values is None else self.span(more_values),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        empty, compute = self.like.new_empty_strided, self.compute
        shape, strides, lse_shape, lse_strides = self.results
        output = empty(shape, strides)
        same = self.like.dtype is compute  # quicker where no dtype is named
        lse = empty(lse_shape, lse_strides) if same else empty(lse_shape, lse_strides, dtype=compute)
        if self.problem is not None:
            spans = (output.data_ptr(), *strides), (lse.data_ptr(), *lse_strides)
            kernels().cpu_forward(self.problem, threads(), *self.spans, *spans)
        return output, lse

    def backward(
        self, grad_output: Tensor, grad_lse: Tensor | None, grads: Sequence[tuple[int, ...] | None]
    ) -> tuple[Tensor, ...]:
        """Fills what `grads` tell of; returns the gradients of rpb, additional keys and additional values.

        The kernels compute the softmax again and need neither the output nor the log-sum-exp.
        """
        like, dtype = self.like, self.compute
        more = [None if tensor is None else like.new_zeros(tensor.shape, dtype=dtype) for tensor in self.optional]
        if self.problem is not None:
            kernels().cpu_backward(
                self.problem,
                threads(),
                *self.spans,
                self.span(grad_output),
                span(grad_lse),
                *grads,
                address(more[0]),
                span(more[1]),
                span(more[2]),
            )
        absent = (dtype, like.dtype, like.dtype)
        return tuple(
            like.new_empty(0, dtype=dtype) if given is None or grad is None else grad.to(given.dtype)
            for grad, given, dtype in zip(more, self.optional, absent, strict=True)
        )

    def span(self, tensor: Tensor) -> tuple[int, ...]:
        """Address and strides of the tensor in the call's dtype, with a unit last stride; of itself where it is so."""
        strides = tensor.stride()
        if (strides[-1] != 1 and tensor.shape[-1] != 1) or tensor.dtype is not self.like.dtype:
            (tensor,) = readable((tensor,), self.like.dtype)
            strides = self.keep(tensor).stride()
        return (tensor.data_ptr(), *strides)

    def keep(self, tensor: Tensor) -> Tensor:
        self.kept.append(tensor)
        return tensor


def empty_like(tensor: Tensor) -> Tensor:
    """For the gradient of `tensor`."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def readable(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Any]:
    """The tensors in `dtype` and with a unit last stride, themselves where they are so already."""
    made: list[Tensor | None] = []
    for tensor in tensors:
        if tensor is not None:
            if tensor.dtype is not dtype:
                tensor = tensor.to(dtype)
            if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
                tensor = tensor.contiguous()
        made.append(tensor)
    return made


def threads() -> int:
    """How many a call may use."""
    return 1 if _forked else torch.get_num_threads()


def _after_fork_in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
