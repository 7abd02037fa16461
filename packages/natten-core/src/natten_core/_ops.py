"""The operators as torch sees them: schemas, fakes, autograd of forward and backward, vmap; no computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from natten_core import _second_order, _vmap
from natten_core._problem import compute_dtype
from natten_core.backends import cpu

_Ints = Sequence[int]
_LIBRARY = torch.library.Library("natten_core", "DEF")
_SETTINGS = "int[] kernel_size, int[] dilation, float scale"
_SAVED = "Tensor? rpb, Tensor output, Tensor lse"


def _define(name: str, arguments: str, results: str, kernel: Any) -> Any:
    schema = f"{name}({arguments}, {_SETTINGS}) -> ({results})"
    # The kernels read pointers: what a compiler hands them must be laid out as in eager mode.
    _LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))
    _LIBRARY.impl(name, kernel, "CPU")
    return getattr(torch.ops.natten_core, name).default


na_forward = _define(
    "na_forward", "Tensor query, Tensor key, Tensor value, Tensor? rpb", "Tensor, Tensor", cpu.na_forward
)
na_backward = _define(
    "na_backward",
    f"Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, {_SAVED}",
    "Tensor, Tensor, Tensor, Tensor",
    cpu.na_backward,
)
na_qkvpacked_forward = _define(
    "na_qkvpacked_forward", "Tensor qkv, Tensor? rpb", "Tensor, Tensor", cpu.na_qkvpacked_forward
)
na_qkvpacked_backward = _define(
    "na_qkvpacked_backward",
    f"Tensor grad_output, Tensor? grad_lse, Tensor qkv, {_SAVED}",
    "Tensor, Tensor",
    cpu.na_qkvpacked_backward,
)


# Fakes: shapes and dtypes of the results, all contiguous.


def _fake_results(like: Tensor, shape: Any) -> tuple[Tensor, Tensor]:
    return like.new_empty(shape), like.new_empty(shape[:-1], dtype=compute_dtype(like.dtype))


def _fake_rpb(rpb: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=compute_dtype(like.dtype)) if rpb is None else rpb.new_empty(rpb.shape)


@torch.library.register_fake("natten_core::na_forward")
def _(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    return _fake_results(query, query.shape)


@torch.library.register_fake("natten_core::na_qkvpacked_forward")
def _(qkv: Tensor, rpb: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    return _fake_results(qkv, qkv.shape[:-3] + qkv.shape[-2:])


@torch.library.register_fake("natten_core::na_backward")
def _(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        query.new_empty(query.shape),
        key.new_empty(key.shape),
        value.new_empty(value.shape),
        _fake_rpb(rpb, query),
    )


@torch.library.register_fake("natten_core::na_qkvpacked_backward")
def _(
    grad_output: Tensor, grad_lse: Tensor | None, qkv: Tensor, rpb: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), _fake_rpb(rpb, qkv)


# Autograd: the backward of a forward operator is the backward operator, whose own backward is the reference's.


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, kernel_size, dilation, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.settings = kernel_size, dilation, scale
    ctx.set_materialize_grads(False)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_output, grad_lse, *tensors, _output, _lse, kernel_size, dilation, scale = inputs
    ctx.save_for_backward(grad_output, grad_lse, *tensors)
    ctx.settings = kernel_size, dilation, scale
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, rpb, output, lse = ctx.saved_tensors
    if grad_output is None:
        grad_output = torch.zeros_like(output)
    grads = na_backward(grad_output, grad_lse, query, key, value, rpb, output, lse, *ctx.settings)
    return *grads[:3], None if rpb is None else grads[3], None, None, None


def _packed_backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, rpb, output, lse = ctx.saved_tensors
    if grad_output is None:
        grad_output = torch.zeros_like(output)
    grads = na_qkvpacked_backward(grad_output, grad_lse, qkv, rpb, output, lse, *ctx.settings)
    return grads[0], None if rpb is None else grads[1], None, None, None


# The results of a backward operator are taken as functions of the gradients and of the forward's inputs: the forward's
# results are functions of these too, and get no gradient of their own.


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_output, grad_lse, *inputs = ctx.saved_tensors
    forward = _second_order.attention(*ctx.settings)
    found, outer = _second_order.gradients_of_gradients(forward, inputs, (grad_output, grad_lse), cotangents)
    return *outer, *found, None, None, None, None, None


def _packed_double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_output, grad_lse, *inputs = ctx.saved_tensors
    forward = _second_order.packed_attention(*ctx.settings)
    found, outer = _second_order.gradients_of_gradients(forward, inputs, (grad_output, grad_lse), cotangents)
    return *outer, *found, None, None, None, None, None


torch.library.register_autograd("natten_core::na_forward", _backward, setup_context=_save_forward)
torch.library.register_autograd("natten_core::na_backward", _double_backward, setup_context=_save_backward)
torch.library.register_autograd("natten_core::na_qkvpacked_forward", _packed_backward, setup_context=_save_forward)
torch.library.register_autograd(
    "natten_core::na_qkvpacked_backward", _packed_double_backward, setup_context=_save_backward
)

# vmap: the axis of the heads in the tensor arguments and in the results, and which argument is the bias.

_vmap.register(na_forward, (-2, -2, -2, 0), (-2, -1), rpb=3, gives_rpb=False)
_vmap.register(na_backward, (-2, -1, -2, -2, -2, 0, -2, -1), (-2, -2, -2, 0), rpb=5, gives_rpb=True)
_vmap.register(na_qkvpacked_forward, (-2, 0), (-2, -1), rpb=1, gives_rpb=False)
_vmap.register(na_qkvpacked_backward, (-2, -1, -2, 0, -2, -1), (-2, 0), rpb=3, gives_rpb=True)
