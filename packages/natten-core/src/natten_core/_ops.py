"""The operators as torch sees them: schemas, fakes, autograd of forward and backward, vmap; no computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from natten_core import _direct, _second_order, _vmap
from natten_core._problem import compute_dtype
from natten_core._select import transformed
from natten_core.backends import cpu, cuda

_LIBRARY = torch.library.Library("natten_core", "DEF")
# Of is_causal as 0 or 1, since torch.jit.trace knows no lists of bool.
_SETTINGS = "int[] kernel_size, int[] stride, int[] dilation, int[] is_causal, float scale"
_SEPARATE = "Tensor query, Tensor key, Tensor value"
_OPTIONAL = "Tensor? rpb, Tensor? additional_keys, Tensor? additional_values"
_GRADS = "Tensor grad_output, Tensor? grad_lse"


_OPERATORS: dict[str, Any] = {}
_KERNELS: dict[str, dict[str, Any]] = {}
_GRADIENTS: dict[str, tuple[Any, Any]] = {}


def define(name: str, arguments: str, results: int, kernels: dict[str, Any]) -> Any:
    """Makes an operator of this package, and returns it.

    Args:
        name: its name, and that of its kernels.
        arguments: as in a schema; the causality of the axes comes after three settings.
        results: number of tensors that it returns.
        kernels: the module that has its kernel, by the type of the device.
    """
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    # The kernels read pointers: what a compiler hands them must be laid out as in eager mode.
    tags = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
    _LIBRARY.define(f"{name}({arguments}) -> {returned}", tags=tags)
    _KERNELS[name] = {device: getattr(module, name) for device, module in kernels.items()}
    for device, kernel in _KERNELS[name].items():
        _LIBRARY.impl(name, kernel, device.upper())
    _OPERATORS[name] = getattr(torch.ops.natten_core, name).default
    return _OPERATORS[name]


def differentiate(name: str, backward: Any, save: Any) -> None:
    """Gives a forward operator its gradient.

    Args:
        name: of the operator.
        backward: as `torch.library.register_autograd` wants it.
        save: the `setup_context` of it; it sets `ctx.settings`, the arguments after the tensors.
    """
    torch.library.register_autograd(f"natten_core::{name}", backward, setup_context=save)
    _GRADIENTS[name] = backward, save


def _define(name: str, arguments: str, results: int) -> Any:
    return define(name, f"{arguments}, {_SETTINGS}", results, {"cpu": cpu, "cuda": cuda})


na_forward = _define("na_forward", f"{_SEPARATE}, {_OPTIONAL}", 2)
na_backward = _define("na_backward", f"{_GRADS}, {_SEPARATE}, {_OPTIONAL}, Tensor output, Tensor lse", 6)
na_qkvpacked_forward = _define("na_qkvpacked_forward", f"Tensor qkv, {_OPTIONAL}", 2)
na_qkvpacked_backward = _define(
    "na_qkvpacked_backward", f"{_GRADS}, Tensor qkv, {_OPTIONAL}, Tensor output, Tensor lse", 4
)


# Fakes: shapes and dtypes of the results, all contiguous.


def _fake_results(query: Tensor, shape: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(shape), query.new_empty(shape[:-1], dtype=compute_dtype(query.dtype))


def _fake_gradients(like: Tensor, *optional: Tensor | None) -> tuple[Tensor, ...]:
    """Of rpb, additional_keys and additional_values; empty for what was not given."""
    rpb, *additional = (None if tensor is None else tensor.new_empty(tensor.shape) for tensor in optional)
    return (
        like.new_empty(0, dtype=compute_dtype(like.dtype)) if rpb is None else rpb,
        *(like.new_empty(0) if tensor is None else tensor for tensor in additional),
    )


@torch.library.register_fake("natten_core::na_forward")
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_results(query, query.shape[:-1] + value.shape[-1:])


@torch.library.register_fake("natten_core::na_qkvpacked_forward")
def _(qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_results(qkv, qkv.shape[:-3] + qkv.shape[-2:])


@torch.library.register_fake("natten_core::na_backward")
def _(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    main = (tensor.new_empty(tensor.shape) for tensor in (query, key, value))
    return *main, *_fake_gradients(query, rpb, additional_keys, additional_values)


@torch.library.register_fake("natten_core::na_qkvpacked_backward")
def _(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    qkv: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return qkv.new_empty(qkv.shape), *_fake_gradients(qkv, rpb, additional_keys, additional_values)


# Autograd: the backward of a forward operator is the backward operator, whose own backward is the reference's.

_N_SETTINGS = 5
_NO_SETTINGS = (None,) * _N_SETTINGS


_REFERENCE = {"na_backward": _second_order.attention, "na_qkvpacked_backward": _second_order.packed_attention}


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-_N_SETTINGS], *output)
    ctx.settings = inputs[-_N_SETTINGS:]
    ctx.set_materialize_grads(False)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[: -_N_SETTINGS - 2])  # without the forward's results
    ctx.settings = inputs[-_N_SETTINGS:]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, name: str, grad_output: Tensor | None, grad_lse: Tensor | None) -> list[Tensor | None]:
    *inputs, output, lse = ctx.saved_tensors
    if transformed():
        return _second_order.gradients(_REFERENCE[name](*ctx.settings), inputs, (grad_output, grad_lse))
    if grad_output is None:
        grad_output = torch.zeros_like(output)
    grads = run(name, (grad_output, grad_lse, *inputs, output, lse), ctx.settings)
    return [None if given is None else grad for given, grad in zip(inputs, grads, strict=True)]


def _backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_gradients(ctx, "na_backward", grad_output, grad_lse), *_NO_SETTINGS


def _packed_backward(ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_gradients(ctx, "na_qkvpacked_backward", grad_output, grad_lse), *_NO_SETTINGS


# The results of a backward operator are taken as functions of the gradients and of the forward's inputs: the forward's
# results are functions of these too, and get no gradient of their own.


def _second_gradients(ctx: Any, name: str, cotangents: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    grad_output, grad_lse, *inputs = ctx.saved_tensors
    found, outer = _second_order.gradients_of_gradients(
        _REFERENCE[name](*ctx.settings), inputs, (grad_output, grad_lse), cotangents
    )
    return *outer, *found, None, None, *_NO_SETTINGS


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    return _second_gradients(ctx, "na_backward", cotangents)


def _packed_double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    return _second_gradients(ctx, "na_qkvpacked_backward", cotangents)


differentiate("na_forward", _backward, _save_forward)
differentiate("na_qkvpacked_forward", _packed_backward, _save_forward)
torch.library.register_autograd("natten_core::na_backward", _double_backward, setup_context=_save_backward)
torch.library.register_autograd(
    "natten_core::na_qkvpacked_backward", _packed_double_backward, setup_context=_save_backward
)

# Calls of this package.


def run(name: str, tensors: Sequence[Tensor | None], settings: Sequence[Any]) -> Any:
    """Calls an operator, or, where that makes no difference, its kernel.

    Args:
        name: of the operator.
        tensors: its tensor arguments.
        settings: its other arguments; causality may be told by bools.
    """
    if _direct.unobserved(tensors):
        like: Tensor = tensors[0]  # type: ignore[assignment]
        if not _direct.wants_gradient(tensors):
            kernel = _KERNELS[name].get("cuda" if like.is_cuda else "cpu")
            if kernel is not None:
                return kernel(*tensors, *settings)
        elif name in _GRADIENTS and _direct.records():
            return _Recorded.apply(name, settings, *tensors)
    is_causal = [int(one) for one in settings[3]]
    return _OPERATORS[name](*tensors, *settings[:3], is_causal, *settings[4:])


class _Recorded(torch.autograd.Function):
    """What autograd records of a forward operator, without the operator around it."""

    @staticmethod
    def forward(ctx: Any, name: str, settings: tuple[Any, ...], *tensors: Tensor | None) -> Any:
        ctx.name = name
        kernel = _KERNELS[name]["cuda" if tensors[0].is_cuda else "cpu"]  # type: ignore[union-attr]
        results = kernel(*tensors, *settings)
        _GRADIENTS[name][1](ctx, (*tensors, *settings), results)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of_arguments = _GRADIENTS[ctx.name][0](ctx, *grads)
        return None, None, *of_arguments[: -len(ctx.settings)]


# vmap: the axis of the heads in the tensor arguments and in the results, and which argument is the bias.

_OPTIONAL_HEADS = (0, -2, -2)
_vmap.register(na_forward, (-2, -2, -2, *_OPTIONAL_HEADS), (-2, -1), rpb=3, gives_rpb=False)
_vmap.register(
    na_backward,
    (-2, -1, -2, -2, -2, *_OPTIONAL_HEADS, -2, -1),
    (-2, -2, -2, *_OPTIONAL_HEADS),
    rpb=5,
    gives_rpb=True,
)
_vmap.register(na_qkvpacked_forward, (-2, *_OPTIONAL_HEADS), (-2, -1), rpb=1, gives_rpb=False)
_vmap.register(
    na_qkvpacked_backward, (-2, -1, -2, *_OPTIONAL_HEADS, -2, -1), (-2, *_OPTIONAL_HEADS), rpb=3, gives_rpb=True
)
