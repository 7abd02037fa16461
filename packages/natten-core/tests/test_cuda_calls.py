"""How the cuda backend hands a call down, with kernels that are stood in for by the reference on CPU tensors."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import natten_tf32
import pytest
import torch
from natten_cases import CASES, Case
from natten_compare import strided_versions
from natten_slots import scores_written_out, values_written_out
from torch import Tensor

from natten_core import _loader, _second_order, _two_stage_ops
from natten_core.backends import _handle, cuda, cuda_two_stage


class Problem(NamedTuple):
    """What the kernels' own is made of."""

    dtype: str
    batch: int
    heads: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    additional: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    scale: float

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        lead = (self.batch, *self.spatial)
        more = (self.batch, self.additional, self.heads_kv)
        return {
            "query": (*lead, self.heads, self.head_dim),
            "key": (*lead, self.heads_kv, self.head_dim),
            "value": (*lead, self.heads_kv, self.head_dim_v),
            "rpb": (self.heads, *(2 * kernel - 1 for kernel in self.kernel_size)),
            "additional_keys": (*more, self.head_dim),
            "additional_values": (*more, self.head_dim_v),
            "output": (*lead, self.heads, self.head_dim_v),
            "lse": (*lead, self.heads),
            "attn": (*lead, self.heads, math.prod(self.kernel_size) + self.additional),
        }


INPUTS = ("query", "key", "value", "rpb", "additional_keys", "additional_values")
FIRST = ("query", "key", "rpb", "additional_keys")
SECOND = ("attn", "value", "additional_values")


class Kernels:
    """`_C`, as far as the backend calls it."""

    Problem = Problem

    def __init__(self) -> None:
        self.chunk = 0  # elements that rows must be whole multiples of, or copies are asked for; 0: any rows do
        self.scratch: list[int] = []
        self.tf32: list[bool] = []

    def cuda_forward(self, problem: Problem, device: int, stream: int, tf32: bool, copies: bool, *given: Any) -> int:
        assert (device, stream) == (5, 1234)
        self.tf32.append(tf32)
        tensors = self._tensors(problem, dict(zip((*INPUTS, "output", "lse"), given, strict=True)))
        if head_dim := self._copies_head_dim(problem, tensors, copies):
            return head_dim
        output, lse = self._attend(problem, tensors)
        tensors["output"].copy_(output)
        tensors["lse"].copy_(lse)
        return 0

    def cuda_backward(self, problem: Problem, device: int, stream: int, tf32: bool, copies: bool, *given: Any) -> int:
        *given, allocate = given
        assert (device, stream) == (5, 1234)
        self.tf32.append(tf32)
        names = (*INPUTS, "output", "lse", "grad_output", "grad_lse", *(f"grad_{name}" for name in INPUTS))
        tensors = self._tensors(problem, dict(zip(names, given, strict=True)))
        if head_dim := self._copies_head_dim(problem, tensors, copies):
            return head_dim
        self.scratch.append(allocate(1 << 16))
        output, lse = self._attend(problem, tensors)
        torch.testing.assert_close(tensors["output"], output)
        torch.testing.assert_close(tensors["lse"], lse)
        leaves = {name: tensors[name].clone().requires_grad_() for name in INPUTS if name in tensors}
        with torch.enable_grad():
            results = self._attend(problem, leaves)
            grads = [tensors["grad_output"], tensors.get("grad_lse", torch.zeros_like(results[1]))]
            found = torch.autograd.grad(results, tuple(leaves.values()), grads)
        for name, grad in zip(leaves, found, strict=True):
            tensors[f"grad_{name}"].copy_(grad)
        return 0

    def cuda_qk(self, problem: Problem, device: int, stream: int, *given: Any) -> None:
        assert (device, stream) == (5, 1234)
        tensors = self._tensors(problem, dict(zip((*FIRST, "attn"), given, strict=True)))
        (scores,) = _two_stage_ops._reference_qk(*problem[-5:])(*(tensors.get(name) for name in FIRST))
        tensors["attn"].copy_(scores)

    def cuda_av(self, problem: Problem, device: int, stream: int, *given: Any) -> None:
        assert (device, stream) == (5, 1234)
        tensors = self._tensors(problem, dict(zip((*SECOND, "output"), given, strict=True)))
        (output,) = _two_stage_ops._reference_av(*problem[-5:-1])(*(tensors.get(name) for name in SECOND))
        tensors["output"].copy_(output)

    def cuda_qk_backward(self, problem: Problem, device: int, stream: int, *given: Any) -> None:
        self._stage_backward(_two_stage_ops._reference_qk(*problem[-5:]), FIRST, "attn", problem, device, stream, given)

    def cuda_av_backward(self, problem: Problem, device: int, stream: int, *given: Any) -> None:
        stage = _two_stage_ops._reference_av(*problem[-5:-1])
        self._stage_backward(stage, SECOND, "output", problem, device, stream, given)

    def _stage_backward(
        self, stage: Any, names: Any, result: str, problem: Problem, device: int, stream: int, given: Any
    ) -> None:
        *given, allocate = given
        assert (device, stream) == (5, 1234)
        all_names = (*names, f"grad_{result}", *(f"grad_{name}" for name in names))
        tensors = self._tensors(problem, dict(zip(all_names, given, strict=True)))
        self.scratch.append(allocate(1 << 16))
        leaves = {name: tensors[name].clone().requires_grad_() for name in names if name in tensors}
        with torch.enable_grad():
            results = stage(*(leaves.get(name) for name in names))
            found = torch.autograd.grad(results, tuple(leaves.values()), [tensors[f"grad_{result}"]])
        for name, grad in zip(leaves, found, strict=True):
            tensors[f"grad_{name}"].copy_(grad)

    def _copies_head_dim(self, problem: Problem, tensors: dict[str, Tensor], copies: bool) -> int:
        head_dim = max(problem.head_dim, problem.head_dim_v)
        if self.chunk == 0:
            return 0
        if copies:
            for name, tensor in tensors.items():
                if not any(part in name for part in ("lse", "rpb")):
                    assert tensor.is_contiguous()
                    assert tensor.shape[-1] % self.chunk == 0
            return 0
        return -(-head_dim // self.chunk) * self.chunk

    def _attend(self, problem: Problem, tensors: dict[str, Tensor]) -> Any:
        forward = _second_order.attention(*problem[-5:])
        return forward(*(tensors.get(name) for name in INPUTS))

    def _tensors(self, problem: Problem, given: dict[str, Any]) -> dict[str, Tensor]:
        made = {}
        for name, where in given.items():
            plain = name.removeprefix("grad_")
            if not where:
                continue
            shape = problem.shapes[plain]
            wide = plain in ("rpb", "lse")
            dtype = getattr(torch, problem.dtype)
            dtype = (torch.float64 if dtype == torch.float64 else torch.float32) if wide else dtype
            address, *strides = (where, *contiguous(shape)) if plain == "rpb" else where
            strides = strides[: len(shape)]
            extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            memory = (ctypes.c_char * (extent * dtype.itemsize)).from_address(address)
            made[name] = torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)
        return made


def contiguous(shape: tuple[int, ...]) -> list[int]:
    return list(torch.empty(shape, device="meta").stride())


@pytest.fixture
def kernels_stood_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    kernels = Kernels()
    _handle.make.cache_clear()
    monkeypatch.setattr(_loader, "_C", kernels)
    monkeypatch.setattr(cuda, "_on", lambda device: nullcontext())
    monkeypatch.setattr(cuda, "_stream", lambda device: 1234)
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 5)
    yield kernels
    _handle.make.cache_clear()  # of problems that only the stand-ins know


def settings_of(case: Case, head_dim: int) -> list[Any]:
    scale = head_dim**-0.5 if case.scale is None else case.scale
    lists = [list(case.settings[name]) for name in ("kernel_size", "stride", "dilation", "is_causal")]
    return [*lists, scale]


def expected(case: Case, tensors: dict[str, Tensor], grads: tuple[Tensor, Tensor]) -> tuple[Any, ...]:
    output, lse = case.oracle(tensors)
    return (
        output,
        lse,
        dict(zip(tensors, torch.autograd.grad((output, lse), tuple(tensors.values()), grads), strict=True)),
    )


@pytest.mark.parametrize("layout", ["plain", "heads-first", "padded-rows"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calls(case: Case, layout: str, kernels_stood_in: Kernels) -> None:
    tensors = case.tensors()
    lead = tensors["query"].shape[:-1]
    grads = torch.randn(*lead, tensors["value"].shape[-1], dtype=torch.float64), torch.randn(lead, dtype=torch.float64)
    output, lse, wanted = expected(case, tensors, grads)
    given = {name: tensors[name].detach() for name in tensors}
    if layout != "plain":
        given |= {name: strided_versions(given[name])[layout] for name in ("query", "key", "value")}
    inputs = [given.get(name) for name in INPUTS]
    settings = settings_of(case, case.head_dim)
    ours = cuda.na_forward(*inputs, *settings)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, (output.detach(), lse.detach()))
    found = cuda.na_backward(*grads, *inputs, *ours, *settings)  # type: ignore[arg-type]
    for name, grad in zip(INPUTS, found, strict=True):
        if name in wanted:
            torch.testing.assert_close(grad, wanted[name])
            assert grad.is_contiguous()
        else:
            assert grad.shape == (0,)
    assert kernels_stood_in.scratch


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("layout", ["plain", "heads-first", "padded-rows"])
@pytest.mark.parametrize("name", ["2d-head-dim-5", "2d-values-of-one", "3d-grouped"])
def test_calls_on_copies(name: str, layout: str, chunk: int, kernels_stood_in: Kernels) -> None:
    kernels_stood_in.chunk = chunk
    test_calls(next(case for case in CASES if case.name == name), layout, kernels_stood_in)


@pytest.mark.parametrize("chunk", [0, 8])
@pytest.mark.parametrize("name", ["2d", "1d-causal-strided", "3d", "2d-additional"])
def test_packed_calls(name: str, chunk: int, kernels_stood_in: Kernels) -> None:
    kernels_stood_in.chunk = 0 if "additional" in name else chunk
    case = next(case for case in CASES if case.name == name)
    tensors = case.tensors()
    lead = tensors["query"].shape[:-1]
    grads = torch.randn(*lead, tensors["value"].shape[-1], dtype=torch.float64), torch.randn(lead, dtype=torch.float64)
    output, lse, wanted = expected(case, tensors, grads)
    qkv = torch.stack([tensors[name].detach() for name in INPUTS[:3]], -3)
    inputs = [qkv, *(tensors[name].detach() if name in tensors else None for name in INPUTS[3:])]
    settings = settings_of(case, case.head_dim)
    ours = cuda.na_qkvpacked_forward(*inputs, *settings)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, (output.detach(), lse.detach()))
    grad_qkv, *found = cuda.na_qkvpacked_backward(*grads, *inputs, *ours, *settings)  # type: ignore[arg-type]
    torch.testing.assert_close(grad_qkv, torch.stack([wanted[name] for name in INPUTS[:3]], -3))
    for name, grad in zip(INPUTS[3:], found, strict=True):
        assert name not in wanted or torch.allclose(grad, wanted[name])


@pytest.mark.parametrize("layout", ["plain", "heads-first", "padded-rows"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calls_of_two_stages(case: Case, layout: str, kernels_stood_in: Kernels) -> None:
    tensors = case.tensors()
    slots = math.prod(case.kernel_size) + (case.additional or 0)
    tensors["attn"] = torch.randn(*tensors["query"].shape[:-1], slots, dtype=torch.float64, requires_grad=True)
    *window, scale = settings_of(case, case.head_dim)
    stages = (
        (FIRST, cuda_two_stage.qk, cuda_two_stage.qk_backward, (*window, scale)),
        (SECOND, cuda_two_stage.av, cuda_two_stage.av_backward, window),
    )
    for names, forward, backward, settings in stages:
        exact = {name: tensors[name] for name in names if name in tensors}
        if names is FIRST:
            wanted = scores_written_out(case, exact, scale)
        else:
            wanted = values_written_out(case, exact["attn"], exact)
        grad = torch.randn_like(wanted)
        gradients = dict(zip(exact, torch.autograd.grad(wanted, tuple(exact.values()), grad), strict=True))
        given = {name: tensor.detach() for name, tensor in exact.items()}
        if layout != "plain":
            given |= {n: strided_versions(given[n])[layout] for n in ("query", "key", "value", "attn") if n in given}
        inputs = [given.get(name) for name in names]
        torch.testing.assert_close(forward(*inputs, *settings), wanted.detach())
        for name, found in zip(names, backward(grad, *inputs, *settings), strict=True):
            assert found.is_contiguous()
            if name in gradients:
                torch.testing.assert_close(found, gradients[name])
            else:
                assert found.shape == (0,)
    assert len(kernels_stood_in.scratch) == 2


@pytest.mark.usefixtures("kernels_stood_in")
def test_what_a_compiler_or_a_gradient_may_hand_down() -> None:
    """Expanded gradients, a bias of another dtype, no unit stride, no gradient of lse."""
    q, k, v = (torch.randn(2, 5, 6, 4, 3).transpose(-1, -2) for _ in range(3))
    rpb = torch.randn(1, 5, 5, dtype=torch.float64).expand(3, 5, 5)
    settings = [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    output, lse = cuda.na_forward(q, k, v, rpb, None, None, *settings)
    plain = [t.contiguous().requires_grad_() for t in (q, k, v)]
    single = rpb.float().contiguous().requires_grad_()
    exact, _ = _second_order.attention(*settings)(*plain, single, None, None)
    torch.testing.assert_close(output, exact.detach())
    grad = torch.ones(()).expand(output.shape)
    found = cuda.na_backward(grad, None, q, k, v, rpb, None, None, output, lse, *settings)
    wanted = torch.autograd.grad(exact.sum(), (*plain, single))
    for a, b in zip(found, wanted, strict=False):
        torch.testing.assert_close(a, b, check_dtype=False)
    assert found[3].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_torchs_setting_for_tf32_is_asked_at_every_call(dtype: torch.dtype, kernels_stood_in: Kernels) -> None:
    """In forward and backward, as torch's own products do."""
    q = torch.randn(2, 5, 6, 2, 4).to(dtype)
    settings = [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    with natten_tf32.precision():
        for precision in ("highest", "high", "highest"):
            natten_tf32.set_precision(precision)
            output, lse = cuda.na_forward(q, q, q, None, None, None, *settings)
            natten_tf32.set_precision("medium" if precision == "highest" else "highest")
            cuda.na_backward(output, None, q, q, q, None, None, None, output, lse, *settings)
    single = dtype is torch.float32
    assert kernels_stood_in.tf32 == [False, single, single, False, False, single]


@pytest.mark.usefixtures("kernels_stood_in")
def test_nothing_is_asked_of_an_empty_batch() -> None:
    q = torch.randn(0, 5, 6, 2, 4)
    rpb, more = torch.randn(2, 5, 5), torch.randn(0, 3, 2, 4)
    settings = [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    output, lse = cuda.na_forward(q, q, q, rpb, more, more, *settings)
    grads = cuda.na_backward(output, lse, q, q, q, rpb, more, more, output, lse, *settings)
    assert [grad.shape for grad in grads] == [q.shape] * 3 + [rpb.shape] + [more.shape] * 2
    assert torch.equal(grads[3], torch.zeros_like(rpb))
    scores = cuda_two_stage.qk(q, q, rpb, more, *settings)
    assert scores.shape == (0, 5, 6, 2, 12)
    grads = cuda_two_stage.qk_backward(scores, q, q, rpb, more, *settings)
    assert [grad.shape for grad in grads] == [q.shape, q.shape, rpb.shape, more.shape]
    assert torch.equal(grads[2], torch.zeros_like(rpb))
    assert cuda_two_stage.av(scores, q, more, *settings[:-1]).shape == q.shape
    grads = cuda_two_stage.av_backward(q, scores, q, more, *settings[:-1])
    assert [grad.shape for grad in grads] == [scores.shape, q.shape, more.shape]


def test_only_a_device_that_is_not_current_is_made_so(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    @contextmanager
    def device(index: int) -> Iterator[None]:
        entered.append(index)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", device)
    with cuda._on(0):
        assert entered == []
    with cuda._on(5):
        assert entered == [5]
