"""First, second and third derivatives against finite differences, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from natten_cases import Case
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import natten_core
from natten_core import neighborhood_attention

PACKED = {1: natten_core.na1d_qkvpacked, 2: natten_core.na2d_qkvpacked, 3: natten_core.na3d_qkvpacked}
SMALL = [
    Case("gradcheck-1d", (7,), (3,), dilation=(2,), batch=1, head_dim=3),
    Case("gradcheck-2d", (4, 5), (3, 2), dilation=(1, 2), batch=1, head_dim=2),
    Case("gradcheck-3d", (2, 3, 4), (2, 3, 2), dilation=(1, 1, 2), batch=1, heads=1, head_dim=2),
]
BEYOND = Case("gradcheck-all", (4, 5), (3, 4), (1, 1), (2, 3), (True, False), 1, 4, 2, 2, 3, 2)
by_name = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


def attend(case: Case, backend: str, names: Any) -> Any:
    """Output and lse as a function of the tensors in the order of `names`."""

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, tensors, strict=True))
        return neighborhood_attention(**named, **case.settings, return_lse=True, backend=backend)

    return function


def attend_packed(case: Case, backend: str) -> Any:
    def function(qkv: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
        return PACKED[case.rank](qkv, **case.settings, rpb=rpb, return_lse=True, backend=backend)

    return function


def packed_tensors(case: Case) -> tuple[Tensor, Tensor]:
    tensors = case.tensors()
    qkv = torch.stack([tensors["query"], tensors["key"], tensors["value"]], -3).detach().requires_grad_()
    return qkv, tensors["rpb"]


@by_name
def test_gradients(case: Case, backend: str) -> None:
    tensors = case.tensors()
    assert gradcheck(attend(case, backend, tensors), tuple(tensors.values()), check_batched_grad=True)


@by_name
def test_gradients_of_gradients(case: Case, backend: str) -> None:
    tensors = case.tensors()
    assert gradgradcheck(
        attend(case, backend, tensors), tuple(tensors.values()), fast_mode=True, check_batched_grad=True
    )


@by_name
def test_packed_gradients(case: Case, backend: str) -> None:
    assert gradcheck(attend_packed(case, backend), packed_tensors(case), check_batched_grad=True)


@by_name
def test_packed_gradients_of_gradients(case: Case, backend: str) -> None:
    assert gradgradcheck(attend_packed(case, backend), packed_tensors(case), fast_mode=True, check_batched_grad=True)


def test_packed_gradients_with_additional_keys(backend: str) -> None:
    case = SMALL[0]._replace(additional=2, is_causal=(True,))
    tensors = case.tensors()
    more = tensors["additional_keys"], tensors["additional_values"]

    def function(qkv: Tensor, rpb: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return natten_core.na1d_qkvpacked(
            qkv,
            **case.settings,
            rpb=rpb,
            additional_keys=keys,
            additional_values=values,
            return_lse=True,
            backend=backend,
        )

    inputs = (*packed_tensors(case), *more)
    assert gradcheck(function, inputs, check_batched_grad=True)
    assert gradgradcheck(function, inputs, fast_mode=True, check_batched_grad=True)


def test_gradients_without_bias(backend: str) -> None:
    case = SMALL[1]._replace(bias=False)
    tensors = case.tensors()
    function = attend(case, backend, tensors)
    assert gradcheck(function, tuple(tensors.values()))
    assert gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


def test_gradients_of_everything(backend: str) -> None:
    tensors = BEYOND.tensors()
    function = attend(BEYOND, backend, tensors)
    inputs = tuple(tensors.values())
    assert gradcheck(function, inputs, check_batched_grad=True)
    assert gradgradcheck(function, inputs, fast_mode=True, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
def test_forward_mode_of_everything(backend: str) -> None:
    tensors = BEYOND.tensors()
    function = attend(BEYOND, backend, tensors)
    batched = backend == "reference"
    assert gradcheck(
        function, tuple(tensors.values()), fast_mode=True, check_forward_ad=True, check_batched_forward_grad=batched
    )


@pytest.mark.parametrize("which", ["query", "key", "value", "rpb"])
def test_gradient_of_one_input_alone(which: str, backend: str) -> None:
    case = SMALL[1]
    tensors = case.tensors(requires_grad=False)
    tensors[which].requires_grad_()
    function = attend(case, backend, tensors)
    assert gradcheck(function, tuple(tensors.values()), fast_mode=True)
    assert gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


def test_third_derivatives(backend: str) -> None:
    case = SMALL[0]
    tensors = case.tensors()
    function = attend(case, backend, tensors)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        output, lse = function(*inputs)
        return torch.autograd.grad(output.sin().sum() + lse.square().sum(), inputs, create_graph=True)

    assert gradgradcheck(gradients, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("part", [0, 1], ids=["output", "lse"])
def test_gradient_through_one_result_alone(part: int, backend: str) -> None:
    case = SMALL[1]
    tensors = case.tensors()
    ours = attend(case, backend, tensors)(*tensors.values())[part]
    grad = torch.randn_like(ours)
    exact = case.oracle(tensors)[part]
    found = torch.autograd.grad(ours, tuple(tensors.values()), grad, allow_unused=True)
    wanted = torch.autograd.grad(exact, tuple(tensors.values()), grad, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        a, b = (torch.zeros(1) if t is None else t for t in (a, b))
        torch.testing.assert_close(
            a.expand_as(b) if a.numel() == 1 else a, (b + torch.zeros_like(a)), check_dtype=False
        )


def test_dividing_by_the_sum_of_exponentials(backend: str) -> None:
    """Merging two attentions by their lse, differentiated: what a dropped lse gradient would get wrong."""
    case = SMALL[1]
    names = ("query", "key", "value", "rpb")
    first, second = case.tensors(), case._replace(name="second").tensors()

    def merged(results: Any) -> Tensor:
        (a, lse_a), (b, lse_b) = results
        weight = torch.sigmoid(lse_a - lse_b)[..., None]
        return weight * a + (1 - weight) * b

    ours = merged(attend(case, backend, names)(*(t[name] for name in names)) for t in (first, second))
    exact = merged(case.oracle(t) for t in (first, second))
    inputs = [t[name] for t in (first, second) for name in names]
    found = torch.autograd.grad(ours.square().sum(), inputs)
    wanted = torch.autograd.grad(exact.square().sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
@by_name
def test_forward_mode(case: Case, backend: str) -> None:
    tensors = case.tensors()
    function = attend(case, backend, tensors)
    assert gradcheck(function, tuple(tensors.values()), fast_mode=True, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
def test_a_tangent_is_not_lost(backend: str) -> None:
    case = SMALL[1]
    tensors = case.tensors(requires_grad=False)
    tangents = {name: torch.randn_like(t) for name, t in tensors.items()}
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(t, tangents[name]) for name, t in tensors.items()}
        found = [forward_ad.unpack_dual(t).tangent for t in attend(case, backend, tensors)(*duals.values())]
        wanted = [forward_ad.unpack_dual(t).tangent for t in case.oracle(duals)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
