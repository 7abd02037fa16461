"""From the Python backend to the kernels, over a made-up CUDA runtime: devices, streams, and calls that fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cuda_builder
import natten_tf32
import pytest
import torch
from natten_cases import CASES, Case, relative_error
from torch import Tensor

from natten_core import _loader, _problem
from natten_core.backends import _handle, cuda

OUT_OF_MEMORY, CONFIGURATION, INSUFFICIENT_DRIVER, NO_DEVICE, ILLEGAL_ADDRESS = 2, 9, 35, 100, 700  # of cudaError_t
DEVICE, STREAM = 1, 0x1234
CASE = next(case for case in CASES if case.name == "2d")
DENSE = Case("dense", (7, 7), (7, 7), head_dim=32, batch=1, heads=2)


@pytest.fixture(scope="module")
def module() -> Any:
    csrc = cuda_builder.CSRC
    names = ["bindings/cuda.cpp", "bindings/cuda_plan.cpp", "bindings/args.cpp", "bindings/two_stage_args.cpp"]
    names += [
        "cuda/dispatch.cpp",
        "cuda/plan.cpp",
        *(f"cuda/{family}/support.cpp" for family in ("simt", "band", "box")),
    ]
    names += ["cuda/dense/support.cpp", "cuda/dense/dense.cpp", "cuda/dense/reduce.cu"]
    names += [f"cuda/dense/{way}_{dtype}.cu" for way in ("forward", "backward") for dtype in ("bf16", "tf32")]
    names += ["cuda/simt/simt.cpp", "cuda/simt/tiling.cpp", "cuda/simt/float32.cu"]
    built = ['-DNATTEN_CUDA_ARCHITECTURES="80-real,90"', '-DNATTEN_CUDA_TENSOR_CORE_ARCHITECTURES="80-real,90"']
    sources = [cuda_builder.HERE / "dispatch_module.cpp", *(csrc / name for name in names)]
    return cuda_builder.module("dispatch", sources, {csrc / "cuda/dispatch.cpp": built})


@pytest.fixture
def machine(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two devices; the tensors, of the CPU, pass for those of the second."""
    module.fake_machine(13000, [80, 90])
    module.fake_failure("", 0)
    module.fake_launches()
    _handle.make.cache_clear()
    monkeypatch.setattr(_loader, "_C", module)
    monkeypatch.setattr(cuda, "_on", lambda device: nullcontext())
    monkeypatch.setattr(cuda, "_stream", lambda device: STREAM)
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: DEVICE)
    module.cuda_use_only("")
    yield module
    module.fake_failure("", 0)
    _handle.make.cache_clear()


def call(case: Case, dtype: torch.dtype) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    tensors = {name: t.detach() for name, t in case.tensors(dtype).items()}
    inputs = [tensors.get(n) for n in ("query", "key", "value", "rpb", "additional_keys", "additional_values")]
    names = ("kernel_size", "stride", "dilation", "is_causal")
    settings = [*(list(case.settings[name]) for name in names), case.head_dim**-0.5]

    def forward() -> Any:
        return cuda.na_forward(*inputs, *settings)  # type: ignore[arg-type]

    def backward(results: tuple[Tensor, Tensor]) -> Any:
        grads = [torch.ones_like(t) for t in results]
        return cuda.na_backward(*grads, *inputs, *results, *settings)  # type: ignore[arg-type]

    return forward, backward


BOTH = pytest.mark.parametrize(
    ("case", "dtype", "family"),
    [(CASE, torch.float32, "simt"), (DENSE, torch.bfloat16, "dense")],
    ids=["simt", "dense"],
)


@BOTH
def test_every_kernel_is_on_the_device_and_stream_given(
    machine: Any, case: Case, dtype: torch.dtype, family: str
) -> None:
    forward, backward = call(case, dtype)
    results = forward()
    exact, lse = case.oracle({name: t.double() for name, t in case.tensors(dtype).items()})
    torch.testing.assert_close(results[0].double(), exact.detach(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(results[1].double(), lse.detach(), rtol=1e-4, atol=1e-4)
    assert machine.fake_launches() == [(DEVICE, STREAM)]
    assert all(t.isfinite().all() for t in backward(results))
    launches = machine.fake_launches()
    assert len(launches) >= 2
    assert set(launches) == {(DEVICE, STREAM)}
    assert machine.reports() == 0


@BOTH
def test_a_launch_that_fails_tells_the_problem(machine: Any, case: Case, dtype: torch.dtype, family: str) -> None:
    forward, backward = call(case, dtype)
    results = forward()
    extent, name = "x".join(map(str, case.spatial)), str(dtype).removeprefix("torch.")
    for direction, run in (("forward", forward), ("backward", lambda: backward(results))):
        machine.fake_failure("launch", CONFIGURATION)
        message = (
            rf"natten_core cuda \({family}\) {direction} failed: launch: invalid configuration argument "
            rf"\(or an earlier kernel did\); the problem: {name}, batch {case.batch}, map {extent}, heads"
        )
        with pytest.raises(RuntimeError, match=message) as caught:
            run()
        assert type(caught.value) is RuntimeError
        machine.fake_failure("", 0)
        run()  # the error is not told twice


def test_an_error_of_an_earlier_kernel(machine: Any) -> None:
    machine.fake_failure("cudaSetDevice", ILLEGAL_ADDRESS)
    with pytest.raises(
        RuntimeError, match=r"cudaSetDevice: an illegal memory access.*or an earlier kernel did.*problem"
    ):
        call(CASE, torch.float32)[0]()


@pytest.mark.parametrize("name", ["launch", "cudaSetDevice"])
def test_running_out_of_memory_is_torchs_error(machine: Any, name: str) -> None:
    """A kernel's code is loaded when it first starts, and may not fit."""
    forward, backward = call(DENSE, torch.bfloat16)
    results = forward()
    machine.fake_failure(name, OUT_OF_MEMORY)
    message = rf"\(dense\) backward failed: {name}: out of memory; the problem: bfloat16, batch 1, map 7x7, heads"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        backward(results)


def test_shared_memory_that_is_refused(machine: Any) -> None:
    """What is above 48 KiB is asked for, once for each kernel."""
    forward, _ = call(DENSE._replace(head_dim=128), torch.bfloat16)
    machine.fake_failure("cudaFuncSetAttribute", CONFIGURATION)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"\(dense\) forward failed: shared memory: invalid .*; the problem"):
            forward()
    assert machine.fake_launches() == []
    machine.fake_failure("", 0)
    forward()
    assert machine.fake_launches() == [(DEVICE, STREAM)]


def test_an_allocator_that_runs_out(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = call(CASE, torch.float32)
    results = forward()

    def allocate(self: Any, size: int) -> int:
        raise torch.OutOfMemoryError("no memory for the workspace")

    monkeypatch.setattr(cuda._Call, "allocate", allocate)
    with pytest.raises(torch.OutOfMemoryError, match=r"^no memory for the workspace$"):
        backward(results)


def test_a_problem_that_no_family_takes(machine: Any) -> None:
    machine.cuda_use_only("dense")
    with pytest.raises(
        NotImplementedError, match=r"\(dense\) maps of more than 64 tokens.*the problem: float32, batch"
    ):
        call(CASE, torch.float32)[0]()


@pytest.mark.parametrize(
    ("dtype", "head_dim", "offset", "chosen", "reasons"),
    [
        (torch.bfloat16, 32, 0, "dense", {}),
        (torch.bfloat16, 32, 8, "dense", {}),
        (torch.bfloat16, 32, 1, "simt", {"dense": "16 bytes", "simt, 16 bytes at a time": "do not begin at multiples"}),
        (torch.bfloat16, 31, 0, "simt", {"dense": "multiple of 8", "simt, 16 bytes at a time": "no multiple of 16"}),
        (torch.float32, 32, 0, "simt", {"dense": "TF32 is not allowed by torch's settings"}),
        (torch.float32, 32, 2, "simt", {"dense": "16 bytes", "simt, 16 bytes at a time": "do not begin at multiples"}),
        (torch.float32, 260, 0, "simt", {"dense": "above 128", "simt, 16 bytes at a time": "longer than 256"}),
    ],
)
@pytest.mark.usefixtures("machine")
def test_what_is_told_of_the_accesses(
    dtype: torch.dtype, head_dim: int, offset: int, chosen: str, reasons: dict[str, str]
) -> None:
    shape = (1, 7, 7, 2, head_dim)
    room = torch.zeros(torch.Size(shape).numel() + offset + 16, dtype=dtype)
    begin = -room.data_ptr() // dtype.itemsize % (16 // dtype.itemsize) + offset
    x = room[begin : begin + torch.Size(shape).numel()].view(shape)
    problem = _problem.check(x, x, x, 7, 1, 1, False, None, None, None, None, None)
    assert cuda.kernel_name(problem, x, x, x) == chosen
    told = dict(cuda.passed_over(problem, x, x, x))
    assert all(part in told[name] for name, part in reasons.items())
    assert ("simt, 16 bytes at a time" in told) == ("simt, 16 bytes at a time" in reasons)


def test_what_is_told_of_copies(machine: Any) -> None:
    x = torch.zeros(256, 7, 7, 8, 31, dtype=torch.bfloat16)
    problem = _problem.check(x, x, x, 7, 1, 1, False, None, None, None, None, None)
    assert cuda.kernel_name(problem, x, x, x) == "dense, on aligned copies with head_dim 32"
    assert dict(cuda.passed_over(problem, x, x, x)) == {
        "dense": "it does not support head_dim not a multiple of 8",
        "band": "it does not support head_dim not a multiple of 8",
        "box": "it does not support head_dim not a multiple of 8",
    }
    machine.cuda_use_only("simt")
    assert cuda.kernel_name(problem, x, x, x) == "simt"


def test_on_copies(machine: Any) -> None:
    """Tensors of odd widths that begin anywhere, on the tensor-core kernels: as aligned ones, to the bit."""
    lead, heads, dims = (224, 7, 7), 8, (27, 27, 31)
    room = torch.randn(3, 1 + 224 * 49 * heads * 32).to(torch.bfloat16)
    q, k, v = (one[1 : 1 + 224 * 49 * heads * dim].view(*lead, heads, dim) for one, dim in zip(room, dims, strict=True))
    rpb = torch.randn(heads, 13, 13)
    settings = ([7, 7], [1, 1], [1, 1], [False, False], 0.2)
    output, lse = cuda.na_forward(q, k, v, rpb, None, None, *settings)
    grads = torch.randn_like(output), torch.randn_like(lse)
    found = cuda.na_backward(*grads, q, k, v, rpb, None, None, output, lse, *settings)
    machine.cuda_use_only("dense")
    wide = [torch.nn.functional.pad(one, (0, 32 - one.shape[-1])).contiguous() for one in (q, k, v, output, grads[0])]
    exact = cuda.na_forward(*wide[:3], rpb, None, None, *settings)
    torch.testing.assert_close((output, lse), (exact[0][..., : dims[2]], exact[1]), rtol=0, atol=0)
    wanted = cuda.na_backward(wide[4], grads[1], *wide[:3], rpb, None, None, wide[3], lse, *settings)
    for one, other in zip(found[:4], wanted[:4], strict=True):
        assert one.is_contiguous()
        assert torch.equal(one, other[..., : one.shape[-1]])
    assert machine.reports() == 0


@pytest.fixture
def _tf32_allowed() -> Iterator[None]:
    with natten_tf32.precision():
        natten_tf32.set_precision("high")
        yield


@pytest.mark.parametrize(("spatial", "family"), [((7, 7), "dense"), ((14, 14), "band"), ((4, 7, 7), "box")])
@pytest.mark.usefixtures("machine", "_tf32_allowed")
def test_fp32_in_tf32_is_told(spatial: tuple[int, ...], family: str) -> None:
    x = torch.zeros(1, *spatial, 2, 32)
    problem = _problem.check(x, x, x, 3, 1, 1, False, None, None, None, None, None)
    assert cuda.kernel_name(problem, x, x, x) == f"{family}, fp32 in TF32"
    before = ("dense", "band", "box")
    assert [name for name, _ in cuda.passed_over(problem, x, x, x)] == list(before[: before.index(family)])


@pytest.mark.usefixtures("_tf32_allowed")
def test_fp32_in_tf32(machine: Any) -> None:
    """By its errors: between those of fp32 and those of fp16."""
    forward, backward = call(DENSE, torch.float32)
    exact, _ = DENSE.oracle({name: t.double() for name, t in DENSE.tensors(torch.float32).items()})
    results = forward()
    assert 2.0**-14 < relative_error(results[0], exact.detach()) < 2.0**-10
    in_tf32 = backward(results)
    natten_tf32.set_precision("highest")
    assert relative_error(forward()[0], exact.detach()) < 2.0**-20
    for ours, plain in zip(in_tf32[:4], backward(results)[:4], strict=True):
        assert 2.0**-16 < relative_error(ours, plain.double()) < 2.0**-9
    assert machine.reports() == 0


@pytest.mark.parametrize(
    ("driver", "devices", "failure", "obstacle"),
    [
        (12040, [90], INSUFFICIENT_DRIVER, "driver too old: it supports CUDA 12.4, and this build needs 13.0"),
        (0, [90], INSUFFICIENT_DRIVER, "no device: this machine has no NVIDIA driver"),
        (13000, [], NO_DEVICE, "no device: the driver shows none"),
        (13000, [], 0, "no device: the driver shows none"),
        (13000, [75, 86, 120], 0, ""),
    ],
)
def test_devices(module: Any, tmp_path: Path, driver: int, devices: list[int], failure: int, obstacle: str) -> None:
    """In a module of its own: what the machine has is asked once."""
    again = cuda_builder.load(str(shutil.copy(module.__file__, tmp_path / f"{tmp_path.name}.so")))
    again.fake_machine(driver, devices)
    again.fake_failure("cudaGetDeviceCount", failure)
    found = again.cuda_devices()
    assert found["obstacle"].startswith(obstacle)
    assert bool(obstacle) == bool(found["obstacle"])
    built = [(device["architecture"], device["built_for"]) for device in found["devices"]]
    assert built == ([] if obstacle else [(75, False), (86, True), (120, True)])
