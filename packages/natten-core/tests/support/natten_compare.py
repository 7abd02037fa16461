"""Holding results, gradients included, against the oracle's."""

from __future__ import annotations

from typing import Any

import torch
from natten_cases import Case, check_error
from torch import Tensor

HALVES = [torch.float16, torch.bfloat16]


def results(function: Any, tensors: dict[str, Tensor], grads: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Output, log-sum-exp where there is one, and the gradients of all tensors for given gradients of both."""
    outputs = function(tensors)
    wanted = tuple(tensors.values())
    found = torch.autograd.grad(outputs, wanted, tuple(g.to(t.dtype) for g, t in zip(grads, outputs, strict=True)))
    named = dict(zip(("output", "lse"), (t.detach() for t in outputs), strict=False))
    return {**named, **dict(zip(tensors, found, strict=True))}


def compare(case: Case, dtype: torch.dtype, function: Any) -> None:
    """Holds all results of `function` against the oracle's in float64 and in `dtype`."""
    exact = case.tensors(dtype, requires_grad=False)
    grads = case.oracle(exact)
    grads = tuple(torch.randn(t.shape, dtype=torch.float64).to(dtype).double() for t in grads)
    exact = {name: t.double().requires_grad_() for name, t in exact.items()}
    exact_results = results(case.oracle, exact, grads)
    ours = results(function, case.tensors(dtype), grads)
    same_dtype = results(case.oracle, case.tensors(dtype), grads)
    if dtype in HALVES:
        same_dtype["lse"] = same_dtype["lse"].float()  # ours is float32 by contract
    for name, result in ours.items():
        check_error(name, result, same_dtype[name], exact_results[name])


def strided_versions(tensor: Tensor) -> dict[str, Tensor]:
    """The same values laid out in other ways, all with a unit last stride."""
    padded = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), float("nan"), dtype=tensor.dtype)
    padded[..., 1 : 1 + tensor.shape[-1]] = tensor
    spaced = torch.full((2 * tensor.shape[0], *tensor.shape[1:]), float("nan"), dtype=tensor.dtype)
    spaced[::2] = tensor
    return {
        "heads-first": tensor.movedim(-2, 1).contiguous().movedim(1, -2),
        "transposed-map": tensor.transpose(1, 2).contiguous().transpose(1, 2),
        "padded-rows": padded[..., 1 : 1 + tensor.shape[-1]],
        "every-other-sample": spaced[::2],
        "batch-last": tensor.movedim(0, -2).contiguous().movedim(-2, 0),
    }
