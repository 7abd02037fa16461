"""The CPU kernels: allocates in torch, passes pointers, strides and integers to `_C`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from natten_core import _loader
from natten_core._problem import Problem, compute_dtype
from natten_core.backends._handle import address, facts, hashable, kernels, make, shape, span

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
    family = kernels().cpu_family(make(*facts(problem, problem.compute_dtype)))
    return f"{family}-{kernels().build_info()['isa_default']}"


def passed_over(problem: Problem, *tensors: Tensor) -> tuple[tuple[str, str], ...]:
    """The fused kernels, where the general ones have to do it, with the first thing that they do not support."""
    if any(stride != 1 for stride in problem.stride):
        lacks = "stride above 1"
    elif any(problem.is_causal):
        lacks = "causal axes"
    elif problem.heads_kv != problem.heads:
        lacks = "fewer heads in key and value than in query"
    elif problem.head_dim_v != problem.head_dim:
        lacks = "a head_dim of value other than that of query"
    elif problem.additional > 0:
        lacks = "additional keys"
    else:
        return ()
    return (("fused", f"it does not support {lacks}"),)


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
    dtype = compute_dtype(query.dtype)
    output = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=dtype)
    lse = torch.empty(query.shape[:-1], dtype=dtype)
    if query.numel():
        inputs = _inputs((query, key, value, rpb, additional_keys, additional_values), dtype)
        problem = make(dtype, *map(shape, inputs), *hashable(settings))
        kernels().cpu_forward(problem, threads(), *_spans(inputs), span(output), span(lse))
    return output if query.dtype is dtype else output.to(query.dtype), lse


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
    inputs = (query, key, value, rpb, additional_keys, additional_values)
    dtype = compute_dtype(query.dtype)
    grads = [torch.empty(tensor.shape, dtype=dtype) for tensor in (query, key, value)]
    more = _backward(grad_output, grad_lse, inputs, settings, grads)
    return *(grad.to(query.dtype) for grad in grads), *more


def na_qkvpacked_forward(qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """As `na_forward`, on qkv [B, *spatial, 3, heads, head_dim]."""
    query, key, value = qkv.unbind(-3)
    return na_forward(query, key, value, *rest)


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
    inputs = (*qkv.unbind(-3), rpb, additional_keys, additional_values)
    grad_qkv = torch.empty(qkv.shape, dtype=compute_dtype(qkv.dtype))
    more = _backward(grad_output, grad_lse, inputs, settings, grad_qkv.unbind(-3))
    return grad_qkv.to(qkv.dtype), *more


def _backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    given: Sequence[Any],
    settings: Sequence[Any],
    grads: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Fills `grads`, those of query, key and value in the compute dtype.

    Returns the gradients of rpb, additional keys and values. The kernels compute the softmax again and need neither
    the output nor the log-sum-exp.
    """
    like, dtype = grads[0], grads[0].dtype
    inputs = _inputs(given, dtype)
    more = [None if tensor is None else torch.zeros(tensor.shape, dtype=dtype) for tensor in inputs[3:]]
    if like.numel():
        problem = make(dtype, *map(shape, inputs), *hashable(settings))
        (grad_out,) = readable((grad_output,), dtype)
        kernels().cpu_backward(
            problem,
            threads(),
            *_spans(inputs),
            span(grad_out),
            span(grad_lse),
            *map(span, grads),
            address(more[0]),
            span(more[1]),
            span(more[2]),
        )
    return tuple(
        like.new_empty(0, dtype=dtype if i == 0 else given[0].dtype) if grad is None else grad.to(tensor.dtype)
        for i, (grad, tensor) in enumerate(zip(more, given[3:], strict=True))
    )


def readable(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Any]:
    """The tensors in the compute dtype and with a unit last stride, themselves where they are so already."""
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


def _inputs(given: Sequence[Tensor | None], dtype: torch.dtype) -> list[Any]:
    """Query, key, value, rpb, additional keys and values as the kernels read them."""
    inputs = readable(given, dtype)
    inputs[3] = None if inputs[3] is None else inputs[3].contiguous()
    return inputs


def _spans(inputs: Sequence[Any]) -> tuple[Any, ...]:
    query, key, value, rpb, additional_keys, additional_values = inputs
    return span(query), span(key), span(value), address(rpb), span(additional_keys), span(additional_values)


def _after_fork_in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
