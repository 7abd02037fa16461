"""fp32 in TF32, where torch's settings allow it."""

from __future__ import annotations

from collections.abc import Iterator

import natten_tf32
import pytest
import torch
from cuda_runs import SMALL_AND_LARGE, TABLE, attend, on_device, poison, run, runs
from natten_cases import Case, relative_error
from natten_compare import results

from natten_core import explain, neighborhood_attention


@pytest.fixture
def _tf32_allowed() -> Iterator[None]:
    with natten_tf32.precision():
        natten_tf32.set_precision("high")
        yield


@runs(TABLE, [torch.float32], tf32=True)
@pytest.mark.usefixtures("_tf32_allowed")
def test_fp32_in_tf32(family: str, case: Case, dtype: torch.dtype) -> None:
    inputs = case.tensors(dtype, requires_grad=False)
    shape = inputs["query"].shape
    grads = {"grad_output": torch.randn(shape), "grad_lse": torch.randn(shape[:-1])}
    pair = tuple(grad.double() for grad in grads.values())
    exact = results(case.oracle, {n: t.double().requires_grad_() for n, t in inputs.items()}, pair)
    found = results(attend(family, case), case.tensors(dtype), pair)
    exact, found = ({f"grad_{n}" if n in inputs else n: t for n, t in some.items()} for some in (exact, found))
    in_tf32 = natten_tf32.results(case, {**inputs, **grads})
    natten_tf32.check(case, found, in_tf32, exact, nearest=family == "dense")


@runs(SMALL_AND_LARGE, [torch.float32], tf32=True)
def test_fp32_is_in_tf32_when_it_is_allowed_and_never_else(family: str, case: Case, dtype: torch.dtype) -> None:
    """Asked at every call, in the backward too, by a compiled program too, as torch's own products do."""
    tensors = {n: t.detach() for n, t in on_device(case, dtype).items()}
    main = [tensors[name] for name in ("query", "key", "value")]
    settings = {**case.settings, "rpb": tensors["rpb"]}
    exact, _ = case.oracle({n: t.double().cpu() for n, t in tensors.items()})
    compiled = torch.compile(lambda *given: neighborhood_attention(*given, **settings, backend="cuda"), fullgraph=True)
    with natten_tf32.precision():
        for precision in ("highest", "high", "highest"):
            natten_tf32.set_precision(precision)
            output = neighborhood_attention(*main, **settings, backend="cuda")
            assert torch.equal(compiled(*main), output)
            error = relative_error(output.cpu(), exact)
            assert (2.0**-14 < error < 2.0**-10) if precision == "high" else error < 2.0**-19
            told = explain(*main, **settings)
            assert (told.kernel == f"{family}, fp32 in TF32") == (precision == "high")
            assert ("TF32 is not allowed" in dict(told.passed_over).get(family, "")) == (precision == "highest")
        leaves = [t.clone().requires_grad_() for t in main]
        output = neighborhood_attention(*leaves, **settings, backend="cuda")
        plain = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
        natten_tf32.set_precision("high")
        for one, other in zip(torch.autograd.grad(output.sum(), leaves), plain, strict=True):
            assert 0 < relative_error(one.cpu(), other.double().cpu()) < 2.0**-9


@runs(SMALL_AND_LARGE, [torch.float32], tf32=True)
@pytest.mark.usefixtures("_tf32_allowed")
def test_bits_in_tf32_are_the_same_every_time(family: str, case: Case, dtype: torch.dtype) -> None:
    tensors = on_device(case, dtype)
    first = run(case, tensors, family)
    for _ in range(5):
        poison()
        assert all(torch.equal(a, b) for a, b in zip(run(case, tensors, family), first, strict=True))
