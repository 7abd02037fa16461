"""That calls go around torch's dispatcher shows in nothing but the time: whoever could see the operator does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from natten_slots import FIRST, SECOND, part, windowed
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import natten_core
from natten_core import _direct, _ops, na2d, na2d_av, na2d_qk, na2d_qkvpacked, neighborhood_attention

pytestmark = pytest.mark.usefixtures("kernels")

CASE = Case("direct", (6, 7), (3, 3), dilation=(2, 1))
QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators that were called as such."""
    seen: list[str] = []

    def spy(name: str, operator: Any) -> Any:
        def call(*args: Any) -> Any:
            seen.append(name)
            return operator(*args)

        return call

    for name, operator in _ops._OPERATORS.items():
        monkeypatch.setitem(_ops._OPERATORS, name, spy(name, operator))
    return seen


@contextmanager
def always_observed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_direct, "unobserved", lambda tensors: False)
        yield


def inputs(dtype: torch.dtype = torch.float32, *, requires_grad: bool = False) -> list[Tensor]:
    return list(CASE.tensors(dtype, requires_grad=requires_grad).values())


def attend(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Any:
    return na2d(q, k, v, **CASE.settings, rpb=rpb, return_lse=True)


def stages(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The scores, and the output."""
    first, second = part(tensors, FIRST), part(tensors, SECOND)
    scores = QK[case.rank](**first, **windowed(case), backend="cpu")
    return scores, AV[case.rank](scores.softmax(-1), **second, **windowed(case), backend="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.name)
def test_same_bits_as_the_operators(case: Case, dtype: torch.dtype) -> None:
    def run() -> list[Tensor]:
        tensors = case.tensors(dtype)
        results = neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cpu")
        grads = torch.autograd.grad([r.double().square().sum() for r in results], tuple(tensors.values()))
        with torch.no_grad():
            again = neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cpu")
        return [*results, *grads, *again]

    found = run()
    with always_observed():
        wanted = run()
    same(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.name)
def test_same_bits_as_the_operators_in_two_stages(case: Case, dtype: torch.dtype) -> None:
    def run() -> list[Tensor]:
        tensors = case.tensors(dtype)
        results = stages(case, tensors)
        grads = torch.autograd.grad(results[1].double().square().sum(), tuple(tensors.values()))
        with torch.no_grad():
            again = stages(case, tensors)
        return [*results, *grads, *again]

    found = run()
    with always_observed():
        wanted = run()
    same(found, wanted)


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.stride(), ours.requires_grad) == (theirs.dtype, theirs.stride(), theirs.requires_grad)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", ["separate", "packed", "two stages"])
def test_nobody_looks(form: str, calls: list[str]) -> None:
    q, k, v, rpb = inputs(requires_grad=True)

    def call() -> Tensor:
        if form == "two stages":
            return na2d_av(na2d_qk(q, k, 3, rpb=rpb).softmax(-1), v, 3)
        return na2d_qkvpacked(torch.stack([q, k, v], -3), 3, rpb=rpb) if form == "packed" else na2d(q, k, v, 3, rpb=rpb)

    call().sum().backward()
    with torch.inference_mode():
        call()
    assert calls == []


def test_derivatives_of_the_gradient_ask_the_operator(calls: list[str]) -> None:
    tensors = inputs(torch.float64, requires_grad=True)
    torch.autograd.grad(attend(*tensors)[0].sum(), tensors, create_graph=True)
    weights = na2d_qk(tensors[0], tensors[1], 3, rpb=tensors[3]).softmax(-1)
    torch.autograd.grad(na2d_av(weights, tensors[2], 3).sum(), tensors, create_graph=True)
    assert calls == ["na_backward", "av_backward", "qk_backward"]


class Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def test_modes_and_subclasses_see_the_operator(calls: list[str]) -> None:
    q, k, v, rpb = inputs()
    with Functions():
        attend(q, k, v, rpb)
    with Operators() as mode:
        attend(q, k, v, rpb)
    assert isinstance(attend(q, k, v.as_subclass(Subclass), rpb)[0], Subclass)
    assert calls == ["na_forward"] * 3
    assert "natten_core.na_forward.default" in mode.seen


def test_a_backward_pass_is_seen_too(calls: list[str]) -> None:
    q, k, v, rpb = inputs(requires_grad=True)
    loss = attend(q, k, v, rpb)[0].sum()
    with Operators() as mode:
        loss.backward()
    assert calls == ["na_backward"]
    assert "natten_core.na_backward.default" in mode.seen


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated.:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated.:DeprecationWarning")  # torch 2.10's kind
def test_profilers_and_tracers_see_the_operator() -> None:
    tensors = inputs()
    with torch.profiler.profile(acc_events=True) as profile:  # else torch 2.10 warns
        attend(*tensors)
    assert "natten_core::na_forward" in {event.key for event in profile.key_averages()}
    assert "natten_core::na_forward" in str(torch.jit.trace(attend, tuple(tensors)).graph)
    graph = make_fx(attend)(*tensors)
    assert "natten_core.na_forward" in graph.code


@pytest.mark.parametrize("which", range(4))
def test_tensors_that_are_not_what_they_seem(which: int) -> None:
    """Their memory holds the negative, or is not there at all."""
    tensors = inputs()
    for other, real in (
        (torch._neg_view(tensors[which]), -tensors[which]),
        (torch._efficientzerotensor(tensors[which].shape), torch.zeros_like(tensors[which])),
    ):
        found = attend(*tensors[:which], other, *tensors[which + 1 :])
        wanted = attend(*tensors[:which], real, *tensors[which + 1 :])
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


def test_nothing_is_recorded_below_autograd(calls: list[str]) -> None:
    """As in the kernels of other operators, whose own tensors require gradients all the same."""
    tensors = inputs(requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        assert not attend(*tensors)[0].requires_grad
    assert calls == ["na_forward"]


def test_a_default_device_is_not_where_results_go() -> None:
    tensors = inputs(requires_grad=True)
    with torch.device("meta"):
        output, lse = attend(*tensors)
        grads = torch.autograd.grad(output.sum() + lse.sum(), tensors)
        weights = na2d_qk(tensors[0], tensors[1], 3, rpb=tensors[3])
        parts = torch.autograd.grad(na2d_av(weights, tensors[2], 3).sum(), tensors)
    assert {t.device.type for t in (output, lse, *grads, weights, *parts)} == {"cpu"}


def test_saved_tensors_pass_through_hooks() -> None:
    tensors = inputs(requires_grad=True)
    packed = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.shape)
        return tensor.detach().clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = attend(*tensors)[0]
    assert tensors[0].shape in packed
    found = torch.autograd.grad(output.sum(), tensors)
    assert all(map(torch.equal, found, torch.autograd.grad(attend(*tensors)[0].sum(), tensors)))


def test_changing_an_input_in_place_is_noticed() -> None:
    q, k, v, rpb = inputs(requires_grad=True)
    key = k.clone()
    output = attend(q, key, v, rpb)[0]
    key.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
