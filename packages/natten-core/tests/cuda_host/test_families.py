"""Every family of cuda kernels, run by the emulator, against the exact results of its problems."""

from __future__ import annotations

from typing import Any

import cuda_builder
import pytest
import torch
from cuda_cases import BAND, BAND_TF32, BOX, BOX_TF32, DENSE, HALVES, NAMED, TENSOR_CORES, expected, hold, in_tf32, run
from cuda_harness import Options, run_backward, run_forward, unsupported
from natten_cases import CASES, Case, relative_error

NAMES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}
FAMILIES = cuda_builder.families()


def reason(family: str, case: Case, dtype: torch.dtype) -> str | None:
    inputs, _, _ = expected(case.name, dtype)
    given = {name: tensor for name, tensor in inputs.items() if not name.startswith("grad_")}
    return unsupported(family, *(given.pop(name) for name in ("query", "key", "value")), **case.settings, **given)


def over(family: str, cases: list[Case], dtypes: tuple[torch.dtype, ...] | None = None) -> list[Any]:
    """One dtype for each case in turn where there are several: which one is no matter of geometry."""
    if family not in FAMILIES:
        return []
    chosen = [(case, (dtypes or HALVES)[i % len(dtypes or HALVES)]) for i, case in enumerate(cases)]
    return [pytest.param(family, case, dtype, id=f"{family}-{case.name}-{NAMES[dtype]}") for case, dtype in chosen]


RUNS = [
    *over("simt", CASES, (torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    *over("simt", TENSOR_CORES[::3]),
    *over("dense", DENSE),
    *over("dense", DENSE, (torch.float32,)),
    *over("band", BAND),
    *over("band", BAND_TF32, (torch.float32,)),
    *over("box", BOX),
    *over("box", BOX_TF32, (torch.float32,)),
]
# Of each kind of kernel one or two, for what has nothing to do with numbers.
FEW = [
    *over("simt", [NAMED["2d-dilated-remainder"], NAMED["3d-everything"]], (torch.float32, torch.bfloat16)),
    *over("dense", [NAMED["d-dilated-remainder"], NAMED["d-24"]]),
    *over("dense", [NAMED["d-dilated-remainder"], NAMED["d-24"]], (torch.float32,)),
    *over("band", [NAMED["b-dilated-remainder"], NAMED["b-24"]]),
    *over("band", [NAMED["b-dilated-remainder"], NAMED["b-20"]], (torch.float32,)),
    *over("box", [NAMED["x-3d-dilated"], NAMED["x-1d-dilated"]]),
    *over("box", [NAMED["x-3d-dilated"], NAMED["x-3d-20"]], (torch.float32,)),
]


@pytest.mark.parametrize(("family", "case", "dtype"), RUNS)
def test_values_and_gradients(family: str, case: Case, dtype: torch.dtype) -> None:
    assert reason(family, case, dtype) is None
    hold(family, case, dtype, run(family, case, dtype))


@pytest.mark.parametrize("layout", ["packed", "heads-first", "spread", "odd"])
@pytest.mark.parametrize(("family", "case", "dtype"), FEW)
def test_layouts(family: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    if layout == "odd" and family != "simt":
        pytest.skip("the plan gives rows that are not aligned to simt")
    if layout == "packed" and not case.plain:
        pytest.skip("query, key and value are not of one shape")
    hold(family, case, dtype, run(family, case, dtype, layout))


@pytest.mark.parametrize(("family", "case", "dtype"), FEW)
def test_neither_order_nor_device_changes_a_bit(family: str, case: Case, dtype: torch.dtype) -> None:
    first = run(family, case, dtype)
    for options in (Options(seed=1, multiprocessors=2), Options(seed=6, threads=1, multiprocessors=1000)):
        for name, tensor in run(family, case, dtype, options=options).items():
            assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize(("family", "case", "dtype"), FEW)
def test_rounding_of_the_hardware(family: str, case: Case, dtype: torch.dtype) -> None:
    """Sums of products that are cut off, and approximations that are as bad as they may be."""
    options = Options(mma_truncate=True, jitter=2.0**-22)
    found = run(family, case, dtype, options=options)
    hold(family, case, dtype, found, slack=0 if dtype in HALVES else 2.0**-18)


@pytest.mark.parametrize(("family", "case", "dtype"), FEW)
def test_gradient_of_the_output_alone(family: str, case: Case, dtype: torch.dtype) -> None:
    found = run(family, case, dtype, grad_lse=False)
    inputs, _, _ = expected(case.name, dtype)
    exact = {name: inputs[name].double().requires_grad_() for name in inputs if not name.startswith("grad_")}
    output, _ = case.oracle(exact)
    grads = torch.autograd.grad(output, tuple(exact.values()), inputs["grad_output"].double())
    for name, grad in zip(exact, grads, strict=True):
        allowed = (4 if dtype in HALVES else 16) * torch.finfo(dtype).eps
        if in_tf32(family, dtype):
            allowed = 2.0**-10
        assert relative_error(found[f"grad_{name}"], grad) < allowed, name


_SMALL = (("box", "x-3d-large"), ("band", "b-28"), ("dense", "d-many-maps"))
SMALL_DEVICE = [(*family_and_name, dtype) for family_and_name in _SMALL for dtype in HALVES]
SMALL_DEVICE += [("box", "x-3d-large-32", torch.float32)]


@pytest.mark.parametrize(("family", "name", "dtype"), SMALL_DEVICE, ids=str)
def test_a_device_with_little_shared_memory(family: str, name: str, dtype: torch.dtype) -> None:
    """One plane at a time in shared memory where two do not fit, narrower strips, and fewer blocks."""
    hold(family, NAMED[name], dtype, run(family, NAMED[name], dtype, options=Options(architecture=86)))


FAR = [
    *over("simt", [NAMED["2d"]], (torch.float32,)),
    *over("dense", [NAMED["d-7x7"]]),
    *over("dense", [NAMED["d-7x7"]], (torch.float32,)),
    *over("band", [NAMED["b-9x10"]]),
    *over("band", [NAMED["b-9x10"]], (torch.float32,)),
    *over("box", [NAMED["x-3d-even"]]),
    *over("box", [NAMED["x-3d-even"]], (torch.float32,)),
]


@pytest.mark.parametrize(("family", "case", "dtype"), FAR)
def test_samples_far_apart(family: str, case: Case, dtype: torch.dtype) -> None:
    """More than 2 ** 32 elements from one sample to the next, of memory that is hardly touched."""
    inputs, _, _ = expected(case.name, dtype)
    assert case.batch == 2
    far = torch.empty((1 << 32) + (1 << 22), dtype=dtype)
    views = {}
    for i, name in enumerate(("query", "key", "value")):
        given = inputs[name]
        views[name] = far[i << 20 :].as_strided(given.shape, (1 << 32, *given.stride()[1:])).copy_(given)
    settings = {**case.settings, "rpb": inputs["rpb"]}
    output, lse = run_forward(family, *views.values(), **settings)
    grads = run_backward(
        family, inputs["grad_output"], output, lse, *views.values(), **settings, grad_lse=inputs["grad_lse"]
    )
    found = {f"grad_{name}": grad for name, grad in grads._asdict().items() if grad is not None}
    hold(family, case, dtype, {"output": output, "lse": lse, **found})
