"""Derivatives of the backward operators: recomputed through the reference, which is differentiable in any way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from natten_core._problem import check
from natten_core.backends import reference

Optional: TypeAlias = Tensor | None
Results: TypeAlias = tuple[Tensor, Tensor | None]


def gradients(
    forward: Callable[..., Results], inputs: Sequence[Optional], grad_outputs: Sequence[Optional]
) -> list[Optional]:
    """The gradients of `inputs` as plain torch operations, which forward mode can follow.

    Args:
        forward: differentiable function of `inputs` to its results.
        inputs: tensors, or None for those not given.
        grad_outputs: gradients of the results, or None.
    """
    given = [i for i, tensor in enumerate(inputs) if tensor is not None]

    def of_given(*tensors: Tensor) -> Results:
        every = list(inputs)
        for i, tensor in zip(given, tensors, strict=True):
            every[i] = tensor
        return forward(*every)

    results, pull_back = torch.func.vjp(  # type: ignore[misc]  # with has_aux there would be three
        of_given, *(inputs[i] for i in given)
    )
    found = pull_back(
        tuple(
            torch.zeros_like(result) if grad is None else grad
            for result, grad in zip(results, grad_outputs, strict=True)
        )
    )
    every: list[Optional] = [None] * len(inputs)
    for i, grad in zip(given, found, strict=True):
        every[i] = grad
    return every


def gradients_of_gradients(
    forward: Callable[..., Results],
    inputs: Sequence[Optional],
    grad_outputs: Sequence[Optional],
    cotangents: Sequence[Optional],
) -> tuple[list[Optional], list[Optional]]:
    """Pulls `cotangents` back through the vector-Jacobian product of `forward`.

    Args:
        forward: differentiable function of `inputs` to the output and the log-sum-exp.
        inputs: tensors, or None for those not given.
        grad_outputs: gradients of the output and the log-sum-exp, or None.
        cotangents: gradients of the results of the vector-Jacobian product, one per input, or None.

    Returns:
        Gradients of `inputs` and of `grad_outputs`; differentiable where autograd is asked to record.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [_track(tensor) for tensor in inputs]
        grad_outputs = [_track(tensor) for tensor in grad_outputs]
        outputs, their_grads = _present(forward(*inputs), grad_outputs)
        wanted, weights = _present(inputs, cotangents)
        if not wanted:
            return [None] * len(inputs), [None] * len(grad_outputs)
        first = torch.autograd.grad(outputs, wanted, their_grads, create_graph=True)
        targets = [tensor for tensor in (*inputs, *grad_outputs) if tensor is not None]
        found = torch.autograd.grad(first, targets, weights, create_graph=create_graph, allow_unused=True)
    results = iter(found)
    every = [None if tensor is None else next(results) for tensor in (*inputs, *grad_outputs)]
    return every[: len(inputs)], every[len(inputs) :]


def attention(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[int],
    scale: float,
) -> Callable[..., Results]:
    """The reference as a function of query, key, value, rpb, additional keys and values."""
    settings = (tuple(kernel_size), tuple(stride), tuple(dilation), tuple(bool(causal) for causal in is_causal), scale)

    def forward(
        query: Tensor, key: Tensor, value: Tensor, rpb: Optional, more_keys: Optional, more_values: Optional
    ) -> Results:
        problem = check(query, key, value, *settings, rpb, more_keys, more_values, len(kernel_size))
        return reference.neighborhood_attention(problem, query, key, value, rpb, more_keys, more_values)

    return forward


def packed_attention(*settings: Any) -> Callable[..., Results]:
    """The reference as a function of qkv, rpb, additional keys and values."""
    separate = attention(*settings)

    def forward(qkv: Tensor, *optional: Optional) -> Results:
        return separate(*qkv.unbind(-3), *optional)

    return forward


def _track(tensor: Optional) -> Optional:
    """The same values, connected to the caller's graph where there is one, and a target for autograd in any case."""
    if tensor is None:
        return None
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def _present(left: Sequence[Optional], right: Sequence[Optional]) -> tuple[list[Tensor], list[Tensor]]:
    """The pairs of which neither is None."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]
