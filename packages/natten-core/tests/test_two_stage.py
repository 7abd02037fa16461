"""Scores and weighted values apart: both backends against sums written out, and against attention in one piece."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case, check_error
from natten_compare import HALVES
from natten_slots import FIRST, SECOND, part, scores_written_out, slots, values_written_out, windowed
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import natten_core
from natten_core import _two_stage_ops, neighborhood_attention

QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}
BEYOND = Case("two-stage", (4, 5), (3, 4), (1, 1), (2, 3), (True, False), 1, 4, 2, 2, 3, 2)


def with_gradients(function: Any, tensors: dict[str, Tensor], grad: Tensor) -> dict[str, Tensor]:
    output = function(tensors)
    found = torch.autograd.grad(output, tuple(tensors.values()), grad.to(output.dtype))
    finite = output.detach().masked_fill(output.detach() == -math.inf, 0.0)
    return {"output": finite, **dict(zip(tensors, found, strict=True))}


def compare(function: Any, written_out: Any, tensors: dict[str, Tensor], grad: Tensor) -> None:
    copies = [
        {name: t.detach().to(t.dtype if i else torch.float64).requires_grad_() for name, t in tensors.items()}
        for i in range(3)
    ]
    exact, same = (with_gradients(written_out, copy, grad) for copy in copies[:2])
    for name, found in with_gradients(function, copies[2], grad).items():
        check_error(name, found, same[name], exact[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scores_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    tensors = part(case.tensors(dtype, requires_grad=False), FIRST)
    wanted = scores_written_out(case, tensors, 0.6)
    found = QK[case.rank](**tensors, **windowed(case), scale=0.6, backend=backend)
    assert torch.equal(found == -math.inf, wanted == -math.inf)
    compare(
        lambda t: QK[case.rank](**t, **windowed(case), scale=0.6, backend=backend),
        lambda t: scores_written_out(case, t, 0.6),
        tensors,
        torch.randn(wanted.shape).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    tensors = part(case.tensors(dtype, requires_grad=False), SECOND)
    size = math.prod(case.kernel_size) + (case.additional or 0)
    attn = torch.randn(case.batch, *case.spatial, case.heads, size).to(dtype)
    compare(
        lambda t: AV[case.rank](**t, **windowed(case), backend=backend),
        lambda t: values_written_out(case, t["attn"], t),
        {"attn": attn, **tensors},
        torch.randn(*attn.shape[:-1], tensors["value"].shape[-1]).to(dtype),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_softmax_between_the_stages_is_attention(case: Case, backend: str) -> None:
    tensors = case.tensors(requires_grad=False)
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    scores = QK[case.rank](**part(tensors, FIRST), **windowed(case), scale=scale, backend=backend)
    found = AV[case.rank](scores.softmax(-1), **part(tensors, SECOND), **windowed(case), backend=backend)
    torch.testing.assert_close(found, neighborhood_attention(**tensors, **case.settings, backend=backend))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_accumulate_in_float32(dtype: torch.dtype, backend: str) -> None:
    tensors = BEYOND.tensors(dtype, requires_grad=False)
    exact = {name: t.double() for name, t in tensors.items()}
    scores = QK[2](**part(tensors, FIRST), **windowed(BEYOND), backend=backend)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores, scores_written_out(BEYOND, exact, 1.0).to(dtype), rtol=2e-2, atol=1e-3)
    attn = scores.softmax(-1)
    output = AV[2](attn, **part(tensors, SECOND), **windowed(BEYOND), backend=backend)
    assert output.dtype == dtype
    torch.testing.assert_close(output, values_written_out(BEYOND, attn.double(), exact).to(dtype), rtol=2e-2, atol=1e-3)


def stage(which: str, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
    """One stage of `BEYOND` as a function of its tensors, in float64."""
    tensors = BEYOND.tensors()
    settings = {**windowed(BEYOND), "backend": backend}
    if which == "qk":
        first = part(tensors, FIRST)
        _, seen, _ = slots(BEYOND)
        there = torch.cat([seen, seen.new_ones(seen.shape[0], 2)], -1).unflatten(0, BEYOND.spatial)[..., None, :]

        def scores(*inputs: Tensor) -> Tensor:  # without infinity, of which there are no finite differences
            found = QK[2](**dict(zip(first, inputs, strict=True)), **settings, scale=0.6)
            return torch.where(there, found, 0.0)

        return scores, tuple(first.values())
    second = part(tensors, SECOND)
    attn = torch.randn(1, *BEYOND.spatial, 4, 14, dtype=torch.float64, requires_grad=True)
    return lambda a, v, more: AV[2](a, v, **settings, additional_values=more), (attn, *second.values())


@pytest.mark.parametrize("which", ["qk", "av"])
def test_derivatives(which: str, backend: str) -> None:
    function, inputs = stage(which, backend)
    assert gradcheck(function, inputs, check_batched_grad=True)
    assert gradgradcheck(function, inputs, fast_mode=True, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
@pytest.mark.parametrize("which", ["qk", "av"])
def test_forward_mode(which: str, backend: str) -> None:
    function, inputs = stage(which, backend)
    assert gradcheck(function, inputs, fast_mode=True, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
@pytest.mark.parametrize("which", ["qk", "av"])
def test_forward_mode_through_a_recorded_backward(which: str, route: str) -> None:
    function, inputs = stage(which, route)
    output = function(*inputs)
    grad, tangent = torch.randn_like(output), torch.randn_like(output)

    def pull_back(grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, inputs, grad, retain_graph=True)

    torch.testing.assert_close(torch.func.jvp(pull_back, (grad,), (tangent,))[1], pull_back(tangent))


@pytest.mark.parametrize("bias", [False, True])
def test_vmap(bias: bool, route: str) -> None:
    function, inputs = stage("qk", route)
    query = torch.randn(3, *inputs[0].shape, dtype=torch.float64)
    rpb = torch.randn(3, *inputs[2].shape, dtype=torch.float64) if bias else inputs[2]
    found = torch.vmap(lambda q, b: function(q, inputs[1], b, inputs[3]), (0, 0 if bias else None))(query, rpb)
    for i in range(3):
        torch.testing.assert_close(found[i], function(query[i], inputs[1], rpb[i] if bias else rpb, inputs[3]))
    function, inputs = stage("av", route)
    values = torch.randn(3, *inputs[1].shape, dtype=torch.float64)
    found = torch.vmap(lambda v: function(inputs[0], v, inputs[2]))(values)
    for i in range(3):
        torch.testing.assert_close(found[i], function(inputs[0], values[i], inputs[2]))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["qk", "av", "qk_backward", "av_backward"])
def test_opcheck(name: str, full: bool, dtype: torch.dtype) -> None:
    window = [3, 3], [2, 1], [1, 2], [1, 0]
    query = torch.randn(2, 7, 6, 2, 4).to(dtype)
    value = torch.randn(2, 7, 6, 1, 5).to(dtype)
    more, rpb = (torch.randn(2, 3, 2, 4).to(dtype), torch.randn(2, 5, 5)) if full else (None, None)
    attn = torch.randn(2, 7, 6, 2, 12 if full else 9).to(dtype)
    extra = torch.randn(2, 3, 1, 5).to(dtype) if full else None
    calls: dict[str, tuple[Any, ...]] = {
        "qk": (query, query.clone(), rpb, more, *window, 0.5),
        "qk_backward": (attn, query, query.clone(), rpb, more, *window, 0.5),
        "av": (attn, value, extra, *window),
        "av_backward": (torch.randn(2, 7, 6, 2, 5).to(dtype), attn, value, extra, *window),
    }
    arguments = [t.requires_grad_() if isinstance(t, Tensor) else t for t in calls[name]]
    torch.library.opcheck(getattr(_two_stage_ops, name), tuple(arguments))


def test_a_compiled_pair(route: str) -> None:
    torch._dynamo.reset()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = natten_core.na2d_qk(q, k, 3, scale=0.5, backend=route).softmax(-1)
        return natten_core.na2d_av(weights, v, 3, backend=route)

    tensors = [t.requires_grad_() for t in torch.randn(3, 1, 6, 7, 2, 8)]
    found, wanted = torch.compile(attend, fullgraph=True, backend="aot_eager")(*tensors), attend(*tensors)
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(wanted)
    torch.testing.assert_close(*(torch.autograd.grad(output, tensors, grad) for output in (found, wanted)))


X = torch.randn(2, 8, 9, 4, 6)
W = torch.randn(2, 8, 9, 4, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: natten_core.na2d_qk(X, X[:, :5], 3), "key must have"),
        (lambda: natten_core.na2d_qk(X, X, 3, additional_keys=X[:1, 0]), "additional_keys must be"),
        (lambda: natten_core.na2d_qk(X, X, 3, rpb=torch.zeros(4, 3, 5)), "rpb must be"),
        (lambda: natten_core.na2d_qk(X, X, 3, scale=math.nan), "scale must be finite"),
        (lambda: natten_core.na1d_av(W, X, 3), r"attn must be \[batch, x, heads, slots\], got shape"),
        (
            lambda: natten_core.na2d_av(W[..., :8], X, 3),
            "attn must have 9 for the window as its last size",
        ),
        (
            lambda: natten_core.na2d_av(W, X, 3, additional_values=X[:, 0]),
            "9 for the window and 9 for additional",
        ),
        (lambda: natten_core.na2d_av(W, X[:, :5], 3), "value must have .* as attn has"),
        (lambda: natten_core.na2d_av(W, X[..., :3, :], 3), "attn's 4 heads must be a multiple of value's, got 3"),
        (lambda: natten_core.na2d_av(W, X.double(), 3), "value must have the dtype of attn"),
        (lambda: natten_core.na2d_av(W, X, 3, dilation=3), "largest dilation that fits is 2"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_batch(route: str) -> None:
    empty = X[:0].requires_grad_()
    weights = natten_core.na2d_qk(empty, empty, 3, backend=route)
    assert weights.shape == (0, 8, 9, 4, 9)
    output = natten_core.na2d_av(weights, empty, 3, backend=route)
    assert output.shape == (0, 8, 9, 4, 6)
    (grad,) = torch.autograd.grad(output.sum(), empty)
    assert grad.shape == empty.shape
