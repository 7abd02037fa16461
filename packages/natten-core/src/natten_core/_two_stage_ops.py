"""The operators of the two-stage form as torch sees them; see `_ops`."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from natten_core import _problem, _second_order, _vmap
from natten_core._ops import define, differentiate, run
from natten_core._select import transformed
from natten_core.backends import cpu_two_stage, cuda_two_stage, reference_two_stage

_WINDOW = "int[] kernel_size, int[] stride, int[] dilation, int[] is_causal"
_QK = f"Tensor query, Tensor key, Tensor? rpb, Tensor? additional_keys, {_WINDOW}, float scale"
_AV = f"Tensor attn, Tensor value, Tensor? additional_values, {_WINDOW}"


def _define(name: str, arguments: str, results: int) -> Any:
    return define(name, arguments, results, {"cpu": cpu_two_stage, "cuda": cuda_two_stage})


qk = _define("qk", _QK, 1)
qk_backward = _define("qk_backward", f"Tensor grad_scores, {_QK}", 4)
av = _define("av", _AV, 1)
av_backward = _define("av_backward", f"Tensor grad_output, {_AV}", 3)


# Fakes: shapes and dtypes of the results, all contiguous.


def _fake_gradients(like: Tensor, *given: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in given)


@torch.library.register_fake("natten_core::qk")
def _(query: Tensor, key: Tensor, rpb: Any, additional_keys: Tensor | None, kernel_size: Any, *rest: Any) -> Tensor:
    additional = 0 if additional_keys is None else additional_keys.shape[1]
    return query.new_empty((*query.shape[:-1], prod(kernel_size) + additional))


@torch.library.register_fake("natten_core::av")
def _(attn: Tensor, value: Tensor, *rest: Any) -> Tensor:
    return attn.new_empty((*attn.shape[:-1], value.shape[-1]))


@torch.library.register_fake("natten_core::qk_backward")
def _(grad_scores: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(rest[0], *rest[:4])


@torch.library.register_fake("natten_core::av_backward")
def _(grad_output: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(rest[0], *rest[:3])


# Autograd: the backward of an operator is the backward operator, whose own backward is the reference's.


def _saver(tensors: int) -> Any:
    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.settings = inputs[tensors:]
        ctx.set_materialize_grads(False)

    return save


def _first(backward: str, stage: Any) -> Any:
    def gradients(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, nothing = ctx.saved_tensors, (None,) * len(ctx.settings)
        if grad is None:
            return *(None for _ in inputs), *nothing
        if transformed():
            return *_second_order.gradients(stage(*ctx.settings), inputs, (grad,)), *nothing
        grads = run(backward, (grad, *inputs), ctx.settings)
        return *(None if given is None else one for given, one in zip(inputs, grads, strict=True)), *nothing

    return gradients


def _second(stage: Any) -> Any:
    def gradients(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *inputs = ctx.saved_tensors
        found, outer = _second_order.gradients_of_gradients(stage(*ctx.settings), inputs, (grad,), cotangents)
        return *outer, *found, *(None for _ in ctx.settings)

    return gradients


def reference_qk(query: Tensor, key: Tensor, rpb: Tensor | None, more: Tensor | None, *settings: Any) -> Tensor:
    """The operator `qk` in plain torch operations."""
    result: Tensor = _reference_qk(*settings)(query, key, rpb, more)[0]
    return result


def reference_av(attn: Tensor, value: Tensor, more: Tensor | None, *settings: Any) -> Tensor:
    """The operator `av` in plain torch operations."""
    result: Tensor = _reference_av(*settings)(attn, value, more)[0]
    return result


def _reference_qk(kernel_size: Any, stride: Any, dilation: Any, is_causal: Any, scale: float) -> Any:
    settings = (*_tuples(kernel_size, stride, dilation, is_causal), scale)

    def forward(query: Tensor, key: Tensor, rpb: Tensor | None, more: Tensor | None) -> tuple[Tensor]:
        problem = _problem.check_qk(query, key, *settings, rpb, more, len(kernel_size))
        return (reference_two_stage.qk(problem, query, key, rpb, more),)

    return forward


def _reference_av(kernel_size: Any, stride: Any, dilation: Any, is_causal: Any) -> Any:
    settings = _tuples(kernel_size, stride, dilation, is_causal)

    def forward(attn: Tensor, value: Tensor, more: Tensor | None) -> tuple[Tensor]:
        problem = _problem.check_av(attn, value, *settings, more, len(kernel_size))
        return (reference_two_stage.av(problem, attn, value, more),)

    return forward


def _tuples(
    kernel_size: Any, stride: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    return tuple(kernel_size), tuple(stride), tuple(dilation), tuple(bool(one) for one in is_causal)


differentiate("qk", _first("qk_backward", _reference_qk), _saver(4))
differentiate("av", _first("av_backward", _reference_av), _saver(3))
torch.library.register_autograd("natten_core::qk_backward", _second(_reference_qk), setup_context=_saver(5))
torch.library.register_autograd("natten_core::av_backward", _second(_reference_av), setup_context=_saver(4))

_vmap.register(qk, (-2, -2, 0, -2), (-2,), rpb=2, gives_rpb=False)
_vmap.register(qk_backward, (-2, -2, -2, 0, -2), (-2, -2, 0, -2), rpb=3, gives_rpb=True)
_vmap.register(av, (-2, -2, -2), (-2,), rpb=None, gives_rpb=False)
_vmap.register(av_backward, (-2, -2, -2, -2), (-2, -2, -2), rpb=None, gives_rpb=False)
