"""The fused CPU kernels: allocates in torch, passes pointers, strides and integers to `_C`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from natten_core import _loader
from natten_core._problem import Problem, compute_dtype

NAME = "cpu"

# After a fork libgomp's threads are gone, and waiting for them would never end.
_forked = False

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def not_supported_reasons(problem: Problem) -> tuple[str, ...]:
    """Why these kernels cannot run `problem`; empty where they can."""
    if problem.device.type != "cpu":
        return (f"the tensors are on {problem.device.type!r}",)
    reasons = [_loader.reason] if _loader._C is None else []
    if any(stride != 1 for stride in problem.stride):
        reasons.append("stride above 1 is not implemented")
    if any(problem.is_causal):
        reasons.append("causal axes are not implemented")
    if problem.heads_kv != problem.heads:
        reasons.append("fewer heads in key and value than in query are not implemented")
    if problem.head_dim_v != problem.head_dim:
        reasons.append("a head_dim of value other than that of query is not implemented")
    if problem.additional >= 0:
        reasons.append("additional keys are not implemented")
    return tuple(reasons)


def kernel_name(problem: Problem) -> str:
    """The kernel that runs `problem`, for `natten_core.explain`."""
    return f"fused-{_kernels().build_info()['isa_default']}"


def na_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output [B, *spatial, heads, head_dim] in the dtype of `query`, lse [B, *spatial, heads] in the compute dtype."""
    dtype = compute_dtype(query.dtype)
    output = torch.empty(query.shape, dtype=dtype)
    lse = torch.empty(query.shape[:-1], dtype=dtype)
    if query.numel():
        rank = len(kernel_size)
        q, k, v = _readable(query, dtype), _readable(key, dtype), _readable(value, dtype)
        bias = None if rpb is None else rpb.to(dtype).contiguous()
        _kernels().na_forward(
            *_sizes(q, kernel_size, dilation),
            scale,
            _span(q, rank),
            _span(k, rank),
            _span(v, rank),
            0 if bias is None else bias.data_ptr(),
            _span(output, rank),
            _span(lse, rank),
            _threads(),
        )
    return output if query.dtype is dtype else output.to(query.dtype), lse


def na_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    output: Tensor,
    lse: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value (contiguous) and rpb (empty without one), each in its tensor's dtype."""
    dtype = compute_dtype(query.dtype)
    grads = [torch.empty(query.shape, dtype=dtype) for _ in range(3)]
    grad_rpb = _backward(grad_output, grad_lse, (query, key, value), rpb, kernel_size, dilation, scale, grads)
    return grads[0].to(query.dtype), grads[1].to(query.dtype), grads[2].to(query.dtype), grad_rpb


def na_qkvpacked_forward(
    qkv: Tensor, rpb: Tensor | None, kernel_size: Sequence[int], dilation: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """As `na_forward`, on qkv [B, *spatial, 3, heads, head_dim]."""
    query, key, value = qkv.unbind(-3)
    return na_forward(query, key, value, rpb, kernel_size, dilation, scale)


def na_qkvpacked_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    qkv: Tensor,
    rpb: Tensor | None,
    output: Tensor,
    lse: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv (contiguous, written in place by the kernel) and of rpb."""
    grad_qkv = torch.empty(qkv.shape, dtype=compute_dtype(qkv.dtype))
    grad_rpb = _backward(
        grad_output,
        grad_lse,
        qkv.unbind(-3),
        rpb,
        kernel_size,
        dilation,
        scale,
        grad_qkv.unbind(-3),
    )
    return grad_qkv.to(qkv.dtype), grad_rpb


def _backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    inputs: Sequence[Tensor],
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    grads: Sequence[Tensor],
) -> Tensor:
    """Fills `grads`, those of query, key and value in the compute dtype, and returns the gradient of `rpb`.

    The kernel computes the softmax again and needs neither the output nor the log-sum-exp.
    """
    dtype = grads[0].dtype
    bias = None if rpb is None else rpb.to(dtype).contiguous()
    grad_bias = torch.empty(0, dtype=dtype) if bias is None else torch.zeros_like(bias)
    if grads[0].numel():
        rank = len(kernel_size)
        q, k, v = (_readable(tensor, dtype) for tensor in inputs)
        grad_out = _readable(grad_output, dtype)
        _kernels().na_backward(
            *_sizes(q, kernel_size, dilation),
            scale,
            _span(q, rank),
            _span(k, rank),
            _span(v, rank),
            0 if bias is None else bias.data_ptr(),
            _span(grad_out, rank),
            None if grad_lse is None else _span(grad_lse, rank),
            *(_span(grad, rank) for grad in grads),
            0 if bias is None else grad_bias.data_ptr(),
            _threads(),
        )
    return grad_bias if rpb is None else grad_bias.to(rpb.dtype)


def _kernels() -> Any:
    if _loader._C is None:
        raise NotImplementedError(_loader.reason)
    return _loader._C


def _sizes(query: Tensor, kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[Any, ...]:
    """dtype, batch, heads, head_dim, spatial, kernel_size, dilation: axes always z, y, x."""
    batch, *spatial, heads, head_dim = query.shape
    ones = (1,) * (3 - len(spatial))
    return (
        _DTYPES[query.dtype],
        batch,
        heads,
        head_dim,
        (*ones, *spatial),
        (*ones, *kernel_size),
        (*ones, *dilation),
    )


def _span(tensor: Tensor, rank: int) -> tuple[int, ...]:
    """Address and strides (batch, z, y, x, heads) of [B, *spatial, heads, ...]."""
    strides = tensor.stride()
    return (tensor.data_ptr(), strides[0], *(0,) * (3 - rank), *strides[1 : rank + 2])


def _readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the compute dtype and with a unit last stride, itself where it is so already."""
    if tensor.dtype is not dtype:
        tensor = tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _threads() -> int:
    return 1 if _forked else torch.get_num_threads()


def _after_fork_in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
