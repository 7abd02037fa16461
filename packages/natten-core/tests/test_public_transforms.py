"""Every public function in every transform of torch.func, held against the same sums written out in plain torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from natten_cases import Case
from natten_slots import FIRST, SECOND, attention_written_out, part, scores_written_out, values_written_out, windowed
from torch import Tensor

import natten_core

pytestmark = pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")

# Dilation, stride, causality, grouped heads, values of another width and additional keys, all at once.
CASES = {
    1: Case("public-1d", (7,), (3,), (2,), (2,), (True,), 2, 4, 2, 2, 3, 2),
    2: Case("public-2d", (4, 5), (3, 2), (1, 2), (2, 1), (False, True), 1, 2, 1, 2, 3, 1),
    3: Case("public-3d", (2, 3, 4), (2, 3, 2), (1, 1, 2), (1, 2, 1), (False, True, False), 1, 2, 1, 2, 1, 1),
}
NAMES = [name for name in natten_core.__all__ if name.startswith(("na1d", "na2d", "na3d", "neighborhood", "merge"))]
Function = Any  # of tensors to a tensor or a tuple of tensors


def public(name: str, backend: str) -> tuple[Function, Function, tuple[Tensor, ...]]:
    """The function as one of tensors alone, the same written out, and tensors for both."""
    function: Any = getattr(natten_core, name)
    if name == "merge_attentions":
        return merging(function)
    rank = int(name[2]) if name[2].isdigit() else 2
    case, form = CASES[rank], name.partition("_")[2]
    if form == "qkvpacked":
        return packed(function, case._replace(heads_kv=None, head_dim_v=None), backend)
    tensors = case.tensors(requires_grad=False)
    settings = {**(windowed(case) if form in ("qk", "av") else case.settings), "backend": backend}
    if form == "qk":
        given, settings = part(tensors, FIRST), {**settings, "scale": 0.6}
        return (
            keywords(function, given, settings),
            exactly(given, lambda t: scores_written_out(case, t, 0.6)),
            values(given),
        )
    if form == "av":
        slots = math.prod(case.kernel_size) + (case.additional or 0)
        attn = torch.randn(case.batch, *case.spatial, case.heads, slots, dtype=torch.float64)
        given = {"attn": attn, **part(tensors, SECOND)}
        return (
            keywords(function, given, settings),
            exactly(given, lambda t: values_written_out(case, t["attn"], t)),
            values(given),
        )
    settings["return_lse"] = True
    return (
        keywords(function, tensors, settings),
        exactly(tensors, lambda t: attention_written_out(case, t)),
        values(tensors),
    )


def values(tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensors.values())


def finite(results: Any) -> Any:
    """Zero in the slots that a causal window lacks, where scores are -inf."""
    if isinstance(results, tuple):
        return tuple(map(finite, results))
    return torch.where(results == -math.inf, 0.0, results)


def exactly(names: Any, written_out: Any) -> Function:
    return lambda *tensors: finite(written_out(dict(zip(names, tensors, strict=True))))


def keywords(function: Any, names: Any, settings: dict[str, Any]) -> Function:
    return exactly(names, lambda tensors: function(**tensors, **settings))


def packed(function: Any, case: Case, backend: str) -> tuple[Function, Function, tuple[Tensor, ...]]:
    tensors = case.tensors(requires_grad=False)
    qkv = torch.stack([tensors.pop(name) for name in ("query", "key", "value")], -3)
    settings = {**case.settings, "return_lse": True, "backend": backend}

    def written_out(given: dict[str, Tensor]) -> Any:
        apart = dict(zip(("query", "key", "value"), given["qkv"].unbind(-3), strict=True))
        return attention_written_out(case, {**apart, **{name: given[name] for name in tensors}})

    given = {"qkv": qkv, **tensors}
    return keywords(function, given, settings), exactly(given, written_out), values(given)


def merging(function: Any) -> tuple[Function, Function, tuple[Tensor, ...]]:
    outputs = [torch.randn(1, 4, 2, 3, dtype=torch.float64) for _ in range(3)]
    lses = [torch.randn(1, 4, 2, dtype=torch.float64) for _ in range(3)]

    def written_out(*tensors: Tensor) -> Any:
        weights = torch.stack(tensors[3:]).softmax(0)
        return (weights[..., None] * torch.stack(tensors[:3])).sum(0), torch.stack(tensors[3:]).logsumexp(0)

    return lambda *tensors: function(tensors[:3], tensors[3:]), written_out, (*outputs, *lses)


def loss(function: Function) -> Any:
    def total(*tensors: Tensor) -> Tensor:
        results = function(*tensors)
        return sum(result.sin().sum() for result in (results if isinstance(results, tuple) else (results,)))

    return total


def like(tensors: Any) -> Any:
    return tuple(map(torch.randn_like, tensors)) if isinstance(tensors, tuple) else torch.randn_like(tensors)


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


every = pytest.mark.parametrize("name", NAMES)


@every
def test_gradients_and_vector_jacobian_products(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    argnums = tuple(range(len(inputs)))
    close(*(torch.func.grad(loss(function), argnums)(*inputs) for function in (ours, exact)))
    cotangents = like(exact(*inputs))
    close(*(torch.func.vjp(function, *inputs)[1](cotangents) for function in (ours, exact)))


@every
def test_jacobian_vector_products(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    tangents = like(inputs)
    close(*(torch.func.jvp(function, inputs, tangents) for function in (ours, exact)))


@every
def test_forward_over_reverse(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    argnums, tangents = tuple(range(len(inputs))), like(inputs)

    def product(function: Function) -> Any:
        return torch.func.jvp(torch.func.grad(loss(function), argnums), inputs, tangents)

    close(product(ours), product(exact))


@every
def test_reverse_over_reverse(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    cotangents = like(inputs)

    def second(function: Function) -> Any:
        first = torch.autograd.grad(loss(function)(*leaves), leaves, create_graph=True)
        return first, torch.autograd.grad(first, leaves, cotangents)

    close(second(ours), second(exact))


@every
def test_vmap_over_every_argument(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    samples = [inputs, like(inputs), like(inputs)]
    stacked = tuple(torch.stack(parts) for parts in zip(*samples, strict=True))
    wanted = [exact(*sample) for sample in samples]
    if isinstance(wanted[0], tuple):
        close(torch.vmap(ours)(*stacked), tuple(map(torch.stack, zip(*wanted, strict=True))))
    else:
        close(torch.vmap(ours)(*stacked), torch.stack(wanted))
    argnums = tuple(range(len(inputs)))
    close(*(torch.vmap(torch.func.grad(loss(function), argnums))(*stacked) for function in (ours, exact)))


@every
def test_vmap_over_one_argument(name: str, route: str) -> None:
    ours, exact, inputs = public(name, route)
    for i, tensor in enumerate(inputs):
        axis = i % tensor.ndim  # not the last, which must stay the one with unit stride
        mapped = torch.stack([tensor, *(torch.randn_like(tensor) for _ in range(2))], axis)
        in_dims = tuple(axis if j == i else None for j in range(len(inputs)))
        arguments = (*inputs[:i], mapped, *inputs[i + 1 :])
        close(*(torch.vmap(function, in_dims)(*arguments) for function in (ours, exact)))
