"""Autocast, held against what torch's own attention does with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from natten_cases import Case
from torch import Tensor

import natten_core
from natten_core import na2d, na2d_av, na2d_qk, na2d_qkvpacked

HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
CASE = Case("autocast", (5, 6), (3, 3), head_dim=8, additional=2)
SETTINGS = CASE.settings
MAIN = ("query", "key", "value", "additional_keys", "additional_values")


def inputs(dtype: torch.dtype = torch.float32, *, requires_grad: bool = False) -> dict[str, Tensor]:
    return CASE.tensors(dtype, requires_grad=requires_grad)


def attend(tensors: dict[str, Tensor], backend: str) -> Any:
    return na2d(**tensors, **SETTINGS, return_lse=True, backend=backend)


@HALVES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype_of_the_result_is_that_of_torchs_attention(dtype: torch.dtype, half: torch.dtype, route: str) -> None:
    tensors = inputs(dtype)
    first = [tensors[name].transpose(1, -2) for name in MAIN[:3]]
    with torch.autocast("cpu", dtype=half):
        output, lse = attend(tensors, route)
        theirs = torch.nn.functional.scaled_dot_product_attention(*first)
    assert output.dtype == theirs.dtype == (torch.float64 if dtype == torch.float64 else half)
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@HALVES
def test_numbers_are_those_of_cast_inputs_and_an_exact_bias(half: torch.dtype, route: str) -> None:
    tensors = inputs()
    cast = {name: t.to(half) if name in MAIN else t for name, t in tensors.items()}
    with torch.autocast("cpu", dtype=half):
        found = attend(tensors, route)
    wanted = attend(cast, route)
    assert all(map(torch.equal, found, wanted))
    assert not torch.equal(attend({**cast, "rpb": cast["rpb"].to(half)}, route)[1], wanted[1])


def test_mixed_dtypes_meet(route: str) -> None:
    tensors = inputs()
    tensors["value"] = tensors["value"].half()
    tensors["additional_values"] = tensors["additional_values"].half()
    with pytest.raises(ValueError, match="value must have the dtype of query"):
        attend(tensors, route)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(tensors, route)[0].dtype == torch.bfloat16


def test_gradients_come_back_as_the_inputs_are(route: str) -> None:
    tensors = inputs(requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, lse = attend(tensors, route)
    grads = torch.autograd.grad(output.float().square().sum() + lse.sum(), tuple(tensors.values()))
    assert {grad.dtype for grad in grads} == {torch.float32}
    exact = inputs(torch.float64, requires_grad=True)
    results = CASE.oracle(exact)
    wanted = torch.autograd.grad(results[0].square().sum() + results[1].sum(), tuple(exact.values()))
    for ours, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.05, atol=0.02 * float(theirs.abs().max()))


@HALVES
def test_packed_and_two_stage(half: torch.dtype, route: str) -> None:
    tensors = inputs()
    q, k, v = (tensors[name] for name in MAIN[:3])
    more = {name: tensors[name] for name in MAIN[3:]}
    qkv = torch.stack([q, k, v], -3)
    with torch.autocast("cpu", dtype=half):
        packed = na2d_qkvpacked(qkv, 3, rpb=tensors["rpb"], **more, backend=route)
        scores = na2d_qk(
            q, k, 3, scale=8**-0.5, rpb=tensors["rpb"], additional_keys=more["additional_keys"], backend=route
        )
        weights = scores.float().softmax(-1)
        output = na2d_av(weights, v, 3, additional_values=more["additional_values"], backend=route)
    assert packed.dtype == scores.dtype == output.dtype == half
    cast = {name: t.to(half) for name, t in more.items()}
    assert torch.equal(packed, na2d_qkvpacked(qkv.to(half), 3, rpb=tensors["rpb"], **cast, backend=route))
    torch.testing.assert_close(output, packed, rtol=0.05, atol=0.05)


def test_compiled(route: str) -> None:
    torch._dynamo.reset()
    tensors = inputs(requires_grad=True)
    graph = torch.compile(lambda t: attend(t, route), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = graph(tensors), attend(tensors, route)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(r[0].float().sum(), tuple(tensors.values())) for r in (found, wanted)]
    torch.testing.assert_close(*grads, rtol=0.02, atol=0.02)  # a compiler need not round in between
    assert graph(tensors)[0].dtype == torch.float32  # it guards on autocast


def test_explain_tells_of_the_cast_problem() -> None:
    tensors = inputs()
    mixed = {**tensors, "value": tensors["value"].half(), "additional_values": tensors["additional_values"].half()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert natten_core.explain(**mixed, **SETTINGS).backend


def test_other_devices_are_left_alone() -> None:
    meta = {name: t.to("meta") for name, t in inputs().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(meta, "auto")[0].dtype == torch.float32
    tensors = inputs()
    with torch.autocast("cuda", dtype=torch.float16, enabled=torch.cuda.is_available()):
        assert attend(tensors, "auto")[0].dtype == torch.float32


@pytest.mark.parametrize("attn_drop", [0.0, 0.5])
def test_through_a_module(attn_drop: float) -> None:
    module = natten_core.NeighborhoodAttention2D(8, 2, 3, attn_drop=attn_drop)
    x = torch.randn(1, 6, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(x)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}
    module.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(x).float(), module.float()(x).float(), rtol=0.05, atol=0.02)
