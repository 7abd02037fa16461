"""Random problems, on every backend, against the oracle."""

from __future__ import annotations

from typing import Any

import natten_oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from natten_cases import Case

from natten_core import neighborhood_attention


@st.composite
def cases(draw: Any, plain: bool) -> Case:
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        kernel, dilation = draw(st.integers(1, (9, 5, 3)[rank - 1])), draw(st.integers(1, 4))
        length = kernel * dilation + draw(st.integers(0, (30, 6, 3)[rank - 1]))
        stride = 1 if plain else draw(st.integers(1, kernel))
        axes.append((length, kernel, dilation, stride, not plain and draw(st.booleans())))
    lengths, kernels, dilations, strides, causal = map(tuple, zip(*axes, strict=True))
    heads_kv = draw(st.integers(1, 3))
    return Case(
        name="random",
        spatial=lengths,
        kernel_size=kernels,
        dilation=dilations,
        stride=None if plain else strides,
        is_causal=None if plain else causal,
        batch=draw(st.integers(1, 3)),
        heads=heads_kv * (1 if plain else draw(st.integers(1, 3))),
        heads_kv=None if plain else heads_kv,
        head_dim=draw(st.integers(1, 20)),
        head_dim_v=None if plain else draw(st.integers(1, 9)),
        additional=None if plain else draw(st.none() | st.integers(0, 4)),
        bias=draw(st.booleans()),
        scale=draw(st.none() | st.floats(-2, 2)),
    )


def agree(case: Case, backend: str) -> None:
    natten_oracle._relations.cache_clear()
    tensors = case.tensors()
    inputs = tuple(tensors.values())
    found = neighborhood_attention(**tensors, **case.settings, return_lse=True, backend=backend)
    wanted = case.oracle(tensors)
    grads = tuple(torch.randn_like(part) for part in wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(part, inputs, grads) for part in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


calm = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@calm
@given(case=cases(plain=False))
def test_reference_on_random_problems(case: Case) -> None:
    agree(case, "reference")


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@calm
@given(case=cases(plain=True))
def test_fused_kernels_on_random_problems(case: Case) -> None:
    agree(case, "cpu")


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@calm
@given(case=cases(plain=False))
def test_general_kernels_on_random_problems(case: Case) -> None:
    agree(case, "cpu")
