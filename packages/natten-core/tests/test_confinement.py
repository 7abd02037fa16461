"""What is not finite reaches those results alone that depend on it; all others keep their bits.

Which ones depend on it tells attention written out, where NaN spreads through gathered keys and values only.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from natten_compare import results
from natten_slots import (
    FIRST,
    SECOND,
    attention_written_out,
    part,
    scores_written_out,
    slots,
    values_written_out,
    windowed,
)
from torch import Tensor

import natten_core
from natten_core import neighborhood_attention

SLIDING = "1d-dilated-remainder", "1d-even-two", "1d-wide", "2d-prime", "2d-lanes", "2d-dilated-remainder", "3d-dilated"
STRIDED = "1d-strided-long", "1d-causal-strided", "2d-strided-per-axis", "2d-causal-strided", "3d-causal-strided"
CAUSAL = "1d-causal-wide", "2d-causal-lanes", "2d-causal-dilated-short", "3d-causal-time"
SHARED = "1d-shared-odd", "2d-grouped", "2d-values-of-one", "2d-additional-grouped", "2d-additional-one"
MIXED = "2d-causal-additional", "3d-everything"
SOME = [case._replace(batch=2) for case in CASES if case.name in (*SLIDING, *STRIDED, *CAUSAL, *SHARED, *MIXED)]
QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}


def places(case: Case, name: str, tensor: Tensor) -> list[tuple[int, ...]]:
    """A token at either end and one between, or an entry of the bias table."""
    if name == "rpb":
        return [(0, *(0 for _ in case.spatial)), (tensor.shape[0] - 1, *(n // 2 for n in tensor.shape[1:]))]
    lead = tensor.shape[:-1]  # the poison fills head_dim
    return [tuple(0 for _ in lead), tuple(n // 2 for n in lead), tuple(n - 1 for n in lead)]


def poisoned(tensors: dict[str, Tensor], name: str, place: tuple[int, ...], poison: float) -> dict[str, Tensor]:
    changed = tensors[name].clone()
    changed[place] = poison
    return {**tensors, name: changed}


def hold(case: Case, dtype: torch.dtype, tensors: dict[str, Tensor], function: Any, written_out: Any) -> None:
    """Poisons one thing after the other, the gradients of the results included, and compares with a clean run."""
    names = [name for name in tensors if not name.startswith("grad")]

    def run(form: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: given[name].detach().clone().requires_grad_() for name in names}
        return results(form, inputs, tuple(given[name] for name in given if name not in names))

    clean = run(function, tensors)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        for place in places(case, name, tensor):
            reached = {n: r.isnan() for n, r in run(written_out, poisoned(exact, name, place, math.nan)).items()}
            assert any(mask.any() for mask in reached.values())
            for poison in (math.nan, math.inf):
                found = run(function, poisoned(tensors, name, place, poison))
                for result, mask in reached.items():
                    where = f"{result} of {case}, {poison} in {name} at {place}"
                    same = found[result] == clean[result]
                    assert same[~mask].all(), f"{where}: spoilt where it should not be"
                    assert poison == math.inf or found[result].isnan()[mask].all(), f"{where}: lost"


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_attention(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype, requires_grad=False)
    lead = (case.batch, *case.spatial, case.heads)
    tensors["grad_output"] = torch.randn(*lead, tensors["value"].shape[-1], dtype=dtype)
    tensors["grad_lse"] = torch.randn(lead, dtype=torch.promote_types(dtype, torch.float32))
    hold(
        case,
        dtype,
        tensors,
        lambda given: neighborhood_attention(**given, **case.settings, return_lse=True, backend="cpu"),
        lambda given: attention_written_out(case, given),
    )


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_two_stages(case: Case, dtype: torch.dtype, backend: str) -> None:
    tensors = case.tensors(dtype, requires_grad=False)
    seen = torch.nn.functional.pad(slots(case)[1], (0, case.additional or 0), value=True)
    seen = seen[:, None].unflatten(0, case.spatial)

    def there(scores: Tensor) -> tuple[Tensor]:
        return (torch.where(seen, scores, 0.0),)

    attn = torch.randn(case.batch, *case.spatial, case.heads, seen.shape[-1]).to(dtype)
    hold(
        case,
        dtype,
        {**part(tensors, FIRST), "grad_scores": attn},
        lambda given: there(QK[case.rank](**given, **windowed(case), backend=backend)),
        lambda given: there(scores_written_out(case, given, 1.0)),
    )
    second = part(tensors, SECOND)
    hold(
        case,
        dtype,
        {"attn": attn, **second, "grad_output": torch.randn(*attn.shape[:-1], second["value"].shape[-1]).to(dtype)},
        lambda given: (AV[case.rank](**given, **windowed(case), backend=backend),),
        lambda given: (values_written_out(case, given["attn"], given),),
    )


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_the_reference_confines_what_it_is_given(case: Case) -> None:
    """It goes another way then, so that rounding differs; and gradients that are not finite spoil whole tiles."""
    tensors = case.tensors(requires_grad=False)

    def attend(given: dict[str, Tensor]) -> Any:
        return neighborhood_attention(**given, **case.settings, return_lse=True, backend="reference")

    def run(form: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        return results(form, inputs, tuple(torch.ones_like(part) for part in form(inputs)))

    clean = run(attend, tensors)
    for name in tensors.keys() - {"rpb"}:
        for place in places(case, name, tensors[name]):
            given = poisoned(tensors, name, place, math.nan)
            reached = {n: r.isnan() for n, r in run(lambda t: attention_written_out(case, t), given).items()}
            for result, found in run(attend, given).items():
                assert torch.equal(found.isnan(), reached[result]), f"{result} of {case}, NaN in {name} at {place}"
                torch.testing.assert_close(found[~reached[result]], clean[result][~reached[result]])
