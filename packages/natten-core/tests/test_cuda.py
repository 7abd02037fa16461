"""The CUDA kernels on a device: every family against the oracle, and everything that only a device has."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from typing import Any

import natten_tf32
import pytest
import torch
from natten_cases import CASES, Case, check_error, relative_error
from natten_compare import HALVES, compare, results, strided_versions
from natten_slots import FIRST, SECOND, part, scores_written_out, values_written_out, windowed
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import natten_core
from natten_core import _loader, _ops, explain, na2d, na2d_qkvpacked, neighborhood_attention
from natten_core.backends import cuda

OBSTACLES = cuda.device_obstacles(None) if torch.cuda.is_available() else ("torch sees no device",)
pytestmark = pytest.mark.skipif(bool(OBSTACLES), reason="; ".join(OBSTACLES))

FAMILIES = ("dense", "band", "box", "simt")
QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}
PACKED = {1: natten_core.na1d_qkvpacked, 2: natten_core.na2d_qkvpacked, 3: natten_core.na3d_qkvpacked}


def square(name: str, length: int, dilation: int = 1, **changes: Any) -> Case:
    given = {"batch": 1, "head_dim": 32, **changes}
    kernel = given.pop("kernel", 7)
    return Case(name, (length, length), (kernel, kernel), dilation=(dilation, dilation), **given)


# What models ask for, and what cuts such maps unevenly.
MODELS = [
    square("level1", 56),
    square("level1-dilated", 56, 8, heads=1),
    square("level2", 28, heads=4),
    square("level2-dilated", 28, 4, heads=4),
    square("level3", 14, heads=8, batch=3),
    square("level3-dilated", 14, 2, heads=8, batch=3),
    square("level4", 7, heads=16, batch=5),
    square("level3-no-bias", 14, bias=False),
    square("dilated-remainder", 30, 4),
    square("gradual-dilation", 56, 4, heads=1),
    square("8x8", 8, heads=3, batch=2),
    square("16x16-d2", 16, 2, batch=2),
    Case("57x33", (57, 33), (7, 7), batch=1, head_dim=32),
    Case("dilated-57x33", (57, 33), (7, 7), dilation=(3, 2), batch=1, head_dim=32),
    *(square(f"kernel-{k}", 29, kernel=k, heads=1) for k in (3, 5, 9, 11, 13)),
    *(square(f"even-kernel-{k}", 19, kernel=k, heads=1) for k in (4, 8)),
    *(square(f"head-dim-{d}", 21, head_dim=d) for d in (8, 16, 24, 40, 64, 80, 96, 128)),
    *(square(f"dense-head-dim-{d}", 7, head_dim=d, batch=3) for d in (8, 16, 24, 40, 64, 96, 128)),
    square("head-dim-36", 15, head_dim=36),
    square("head-dim-31", 15, head_dim=31),
    square("head-dim-256", 9, head_dim=256, heads=1),
    square("scale-zero", 14, scale=0.0),
    square("scale-negative", 14, scale=-0.3),
    Case("1d-long-half", (300,), (33,), head_dim=64),
    Case("3d-half", (6, 9, 10), (3, 5, 5), dilation=(2, 1, 2), head_dim=32, batch=1),
    Case("video", (8, 14, 14), (3, 7, 7), head_dim=32, batch=1),
    Case("video-two-boxes", (4, 29, 19), (3, 7, 7), head_dim=32, batch=1, heads=1),
    *(Case(f"video-head-dim-{d}", (4, 9, 11), (3, 5, 5), head_dim=d, batch=2) for d in (8, 24, 64, 80, 128)),
]
TABLE = [*CASES, *MODELS]
SMALL_AND_LARGE = [case for case in MODELS if case.name in ("level1", "level2-dilated", "level4")]


def takes(family: str, case: Case, dtype: torch.dtype, tf32: bool = False) -> bool:
    if _loader._C is None or not hasattr(_loader._C, "cuda_devices"):
        return False
    ones = (1,) * case.rank
    problem = _loader._C.Problem(
        str(dtype).removeprefix("torch."),
        case.batch,
        case.heads,
        case.heads_kv or case.heads,
        case.head_dim,
        case.head_dim_v or case.head_dim,
        case.additional or 0,
        case.spatial,
        case.kernel_size,
        case.stride or ones,
        case.dilation or ones,
        case.is_causal or (False,) * case.rank,
        1.0 if case.scale is None else case.scale,
    )
    return str(_loader._C.cuda_plan(problem, 90, only=family, tf32=tf32)[0]) == family


def runs(cases: list[Case], dtypes: list[torch.dtype], tf32: bool = False) -> Any:
    """Parametrises `family`, `case` and `dtype` together, by what each family takes; `tf32`: on tensor cores."""
    params = [
        pytest.param(family, case, dtype, id=f"{family}-{case.name}-{str(dtype).removeprefix('torch.')}")
        for family in FAMILIES
        for case in cases
        for dtype in dtypes
        if takes(family, case, dtype, tf32) and not (tf32 and family == "simt")
    ]
    return pytest.mark.parametrize(("family", "case", "dtype"), params)


@pytest.fixture(autouse=True)
def _any_family() -> Iterator[None]:
    yield
    if not OBSTACLES:
        _loader._C.cuda_use_only("")  # type: ignore[union-attr]


def use(family: str) -> None:
    """The one family from now on, or all."""
    _loader._C.cuda_use_only(family)  # type: ignore[union-attr]


def by(family: str, function: Any) -> Any:
    """What `function` returns with the one family in use, now and in its backward."""
    use(family)
    return function()


def poison() -> None:
    """Fills the memory that torch hands out next with NaN, so that what is read before it is written shows."""
    blocks = [torch.full((size,), float("nan"), device="cuda") for size in (1 << 7, 1 << 12, 1 << 16, 1 << 18, 1 << 24)]
    blocks += [torch.full((1 << 12,), float("nan"), device="cuda") for _ in range(16)]
    del blocks


def there(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.to("cuda") for name, t in tensors.items()}


def call(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cuda")


def attend(family: str, case: Case) -> Any:
    """Of CPU tensors, computed on the device, with gradients that come back."""

    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        poison()
        output, lse = by(family, lambda: call(case, there(tensors)))
        return output.cpu(), lse.cpu()

    return function


@runs(TABLE, [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_values_and_gradients(family: str, case: Case, dtype: torch.dtype) -> None:
    compare(case, dtype, attend(family, case))


@runs([case for case in TABLE if len({case.heads_kv, case.head_dim_v, None}) == 1], [torch.float32, torch.bfloat16])
def test_packed_values_and_gradients(family: str, case: Case, dtype: torch.dtype) -> None:
    attend_packed = PACKED[case.rank]

    def packed(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        poison()
        moved = there(tensors)
        qkv = torch.stack([moved.pop("query"), moved.pop("key"), moved.pop("value")], -3)
        settings = {**moved, **case.settings}
        output, lse = by(family, lambda: attend_packed(qkv, **settings, return_lse=True, backend="cuda"))
        return output.cpu(), lse.cpu()

    compare(case, dtype, packed)


# fp32 in TF32, where torch's settings allow it.


@pytest.fixture
def _tf32_allowed() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


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
    natten_tf32.check(case, found, natten_tf32.results(case, {**inputs, **grads}), exact)


@runs(SMALL_AND_LARGE, [torch.float32], tf32=True)
def test_fp32_is_in_tf32_when_it_is_allowed_and_never_else(family: str, case: Case, dtype: torch.dtype) -> None:
    """Asked at every call, in the backward too, by a compiled program too, as torch's own products do."""
    tensors = {n: t.detach() for n, t in on_device(case, dtype).items()}
    main = [tensors[name] for name in ("query", "key", "value")]
    settings = {**case.settings, "rpb": tensors["rpb"]}
    exact, _ = case.oracle({n: t.double().cpu() for n, t in tensors.items()})
    compiled = torch.compile(lambda *given: neighborhood_attention(*given, **settings, backend="cuda"), fullgraph=True)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
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
        torch.set_float32_matmul_precision("high")
        for one, other in zip(torch.autograd.grad(output.sum(), leaves), plain, strict=True):
            assert 0 < relative_error(one.cpu(), other.double().cpu()) < 2.0**-9
    finally:
        torch.set_float32_matmul_precision(before)


@runs(SMALL_AND_LARGE, [torch.float32], tf32=True)
@pytest.mark.usefixtures("_tf32_allowed")
def test_bits_in_tf32_are_the_same_every_time(family: str, case: Case, dtype: torch.dtype) -> None:
    tensors = on_device(case, dtype)
    first = run(case, tensors, family)
    for _ in range(5):
        poison()
        assert all(torch.equal(a, b) for a, b in zip(run(case, tensors, family), first, strict=True))


def stages(case: Case, tensors: dict[str, Tensor], settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Weighted values, and scores with 0 where a causal window has none; of CPU tensors, with gradients."""
    poison()
    moved = there(tensors)
    scores = QK[case.rank](**part(moved, FIRST), **settings, scale=0.6, backend="cuda")
    output = AV[case.rank](moved["attn"], **part(moved, SECOND), **settings, backend="cuda")
    return output.cpu(), torch.where(scores == -torch.inf, 0.0, scores).cpu()


def stages_written_out(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = scores_written_out(case, part(tensors, FIRST), 0.6)
    return values_written_out(case, tensors["attn"], tensors), torch.where(scores == -torch.inf, 0.0, scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_stages(case: Case, dtype: torch.dtype) -> None:
    given = case.tensors(dtype, requires_grad=False)
    slots = math.prod(case.kernel_size) + (case.additional or 0)
    given["attn"] = torch.randn(*given["query"].shape[:-1], slots).to(dtype)
    copies = [{n: t.to(to).clone().requires_grad_() for n, t in given.items()} for to in (torch.float64, dtype, dtype)]
    grads = tuple(torch.randn(t.shape, dtype=dtype).double() for t in stages_written_out(case, copies[0]))
    exact, same = (results(lambda t: stages_written_out(case, t), copy, grads) for copy in copies[:2])
    for name, found in results(lambda t: stages(case, t, windowed(case)), copies[2], grads).items():
        check_error(name, found, same[name], exact[name])


def test_dropout_takes_the_two_stages() -> None:
    module = natten_core.NeighborhoodAttention2D(32, 2, 7, attn_drop=0.5, device="cuda")
    x = torch.randn(2, 14, 14, 32, device="cuda")
    assert not fallback(lambda: module(x).sum().backward())
    assert module.rpb is not None
    assert module.rpb.grad is not None
    assert module.rpb.grad.isfinite().all()


NAMES = ("level1", "level2-dilated", "level3", "level4", "2d-additional-grouped", "3d-half")
SOME = [case for case in TABLE if case.name in NAMES]


def on_device(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.detach().to("cuda").requires_grad_() for name, t in case.tensors(dtype).items()}


def run(case: Case, tensors: dict[str, Tensor], family: str = "") -> list[Tensor]:
    output, lse = by(family, lambda: call(case, tensors))
    ones = (torch.ones_like(output), torch.ones_like(lse))
    found = torch.autograd.grad((output, lse), tuple(tensors.values()), ones)
    return [output.detach(), lse.detach(), *found]


@runs(SOME, [torch.float32, torch.bfloat16])
def test_bits_are_the_same_every_time(family: str, case: Case, dtype: torch.dtype) -> None:
    tensors = on_device(case, dtype)
    first = run(case, tensors, family)
    for _ in range(5):
        poison()
        assert all(torch.equal(a, b) for a, b in zip(run(case, tensors, family), first, strict=True))


@runs([case for case in SOME if case.additional is None], HALVES)
def test_a_sample_does_not_depend_on_its_batch(family: str, case: Case, dtype: torch.dtype) -> None:
    use(family)
    tensors = {name: t.detach() for name, t in on_device(case._replace(batch=6), dtype).items()}
    whole, _ = neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cuda")
    for i in range(6):
        one = {name: t if name == "rpb" else t[i : i + 1] for name, t in tensors.items()}
        assert torch.equal(neighborhood_attention(**one, **case.settings, backend="cuda")[0], whole[i])


@pytest.mark.parametrize("layout", ["heads-first", "transposed-map", "padded-rows", "every-other-sample", "batch-last"])
@runs([case for case in SOME if case.plain], [torch.float32, torch.bfloat16])
def test_any_strides_with_a_unit_last_one(family: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    """Rows that are not aligned go to simt, so that a family asked for by name may refuse."""
    wanted = "" if layout == "padded-rows" else family
    tensors = case.tensors(dtype)
    grads = torch.randn(1, *case.spatial, case.heads, case.head_dim, dtype=dtype)
    grads = grads.expand(case.batch, *grads.shape[1:])
    pair = grads.to("cuda"), torch.randn(case.batch, *case.spatial, case.heads, device="cuda")

    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = by(wanted, lambda: call(case, tensors))
        return found

    plain = results(function, on_device(case, dtype), (pair[0].contiguous(), pair[1]))
    views = {n: t.detach() if n == "rpb" else strided_versions(t.detach())[layout] for n, t in tensors.items()}
    leaves = {name: moved_as_it_is(t).requires_grad_() for name, t in views.items()}
    viewed = results(function, leaves, pair)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name, result in plain.items():
        assert relative_error(viewed[name], result.double()) < tolerance, name


def moved_as_it_is(tensor: Tensor) -> Tensor:
    """A copy on the device with the same strides and the same offset."""
    storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to("cuda")
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_odd_storage_offsets(offset: int) -> None:
    case = square("offset", 14)
    tensors = case.tensors(torch.bfloat16, requires_grad=False)
    plain = neighborhood_attention(**there(tensors), **case.settings)
    for name in ("query", "key", "value"):
        room = torch.zeros(tensors[name].numel() + offset, dtype=torch.bfloat16, device="cuda")
        moved = room[offset:].view_as(tensors[name]).copy_(tensors[name])
        shifted = neighborhood_attention(**{**there(tensors), name: moved}, **case.settings)
        torch.testing.assert_close(shifted, plain, rtol=2e-2, atol=2e-2)


FAR = [square("far", 7, batch=2), square("far", 28, batch=2), Case("far-3d", (3, 7, 9), (3, 5, 5), head_dim=32)]


@runs(FAR, [torch.bfloat16])
def test_samples_far_apart(family: str, case: Case, dtype: torch.dtype) -> None:
    """More than 2 ** 32 elements from one sample to the next."""
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB")
    tensors = on_device(case, dtype)
    near = run(case, tensors, family)
    far = {}
    for i, name in enumerate(("query", "key", "value")):
        given = tensors[name].detach()
        if i == 0:
            room = torch.empty((1 << 32) + (1 << 24), dtype=dtype, device="cuda")
        view = room[i << 21 :].as_strided(given.shape, (1 << 32, *given.stride()[1:]))
        far[name] = view.copy_(given).requires_grad_()
    far["rpb"] = tensors["rpb"]
    assert all(torch.equal(a, b) for a, b in zip(run(case, far, family), near, strict=True))


def test_an_empty_batch_and_empty_additional_keys() -> None:
    qkv = torch.randn(0, 6, 7, 3, 2, 8, device="cuda", requires_grad=True)
    rpb = torch.randn(2, 5, 5, device="cuda", requires_grad=True)
    output, lse = na2d_qkvpacked(qkv, 3, rpb=rpb, return_lse=True, backend="cuda")
    assert output.shape == (0, 6, 7, 2, 8)
    grads = torch.autograd.grad(output.sum() + lse.sum(), (qkv, rpb))
    assert torch.equal(grads[1], torch.zeros_like(rpb))


# How torch is met.


def test_the_current_stream_is_used() -> None:
    case = square("stream", 28)
    tensors = on_device(case, torch.bfloat16)
    expected = run(case, tensors)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    late = {name: torch.zeros_like(t) for name, t in tensors.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name, t in late.items():
            t.copy_(tensors[name].detach()).requires_grad_()
        found = run(case, late)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@runs(SOME, [torch.bfloat16])
def test_cuda_graphs(family: str, case: Case, dtype: torch.dtype) -> None:
    tensors = on_device(case, dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(case, tensors, family)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(case, tensors, family)
    with torch.no_grad():
        for t in tensors.values():
            t.copy_(torch.randn_like(t))
    expected = run(case, tensors, family)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_no_call_waits_for_the_device() -> None:
    case = square("queue", 28)
    tensors = on_device(case, torch.bfloat16)
    run(case, tensors)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        event = torch.cuda.Event()
        run(case, tensors)
        event.record()
        assert not event.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_tensors_on_another_device() -> None:
    case = square("other", 14)
    here = run(case, on_device(case, torch.bfloat16))
    there = {n: t.detach().to("cuda:1").requires_grad_() for n, t in on_device(case, torch.bfloat16).items()}
    assert torch.cuda.current_device() == 0
    found = run(case, there)
    assert torch.cuda.current_device() == 0
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, here, strict=True))


def test_out_of_memory_is_torchs_error() -> None:
    x = torch.randn(64, 56, 56, 8, 32, device="cuda", dtype=torch.bfloat16)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (16 << 20)) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            na2d(x, x, x, 7)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert na2d(x, x, x, 7).isfinite().all()


def test_a_family_that_cannot_tells_why() -> None:
    use("dense")
    x = torch.randn(1, 40, 40, 1, 32, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match=r"dense.*the problem: bfloat16, batch 1, map 40x40"):
        na2d(x, x, x, 7, backend="cuda")


def test_explain() -> None:
    x = torch.randn(2, 14, 14, 2, 32, device="cuda", dtype=torch.bfloat16)
    explanation = explain(x, x, x, 7, dilation=2)
    assert (explanation.backend, explanation.kernel) == ("cuda", "dense")
    single = explain(x.float(), x.float(), x.float(), 7)
    assert single.kernel == "simt"
    assert single.passed_over[0] == ("dense", "it does not support a dtype other than fp16 and bf16")
    assert "not cuda (dense): it does not support a dtype" in str(single)
    shifted = torch.randn(x.numel() + 1, device="cuda").bfloat16()[1:].view_as(x)
    explanation = explain(shifted, shifted, shifted, 7, dilation=2)
    assert explanation.kernel == "simt"
    assert explanation.passed_over[-1][0] == "simt, 16 bytes at a time"
    assert explain(x, x, x, 7, stride=2).backend == "cuda"
    assert not fallback(lambda: na2d(x, x, x, 7, stride=2))
    video = torch.randn(1, 4, 9, 10, 2, 32, device="cuda", dtype=torch.bfloat16)
    assert explain(video, video, video, (3, 5, 5)).kernel == "box"


def fallback(function: Any) -> list[Any]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [w for w in caught if issubclass(w.category, natten_core.NattenFallbackWarning)]


GRADCHECK = [
    Case("gradcheck-2d", (4, 5), (3, 2), dilation=(1, 2), batch=1, head_dim=2),
    Case("gradcheck-all", (4, 5), (3, 4), (1, 1), (2, 3), (True, False), 1, 4, 2, 2, 3, 2),
]


@pytest.mark.parametrize("case", GRADCHECK, ids=lambda case: case.name)
def test_derivatives(case: Case) -> None:
    tensors = on_device(case, torch.float64)

    def function(*given: Tensor) -> Any:
        named = dict(zip(tensors, given, strict=True))
        return neighborhood_attention(**named, **case.settings, return_lse=True, backend="cuda")

    assert gradcheck(function, tuple(tensors.values()), fast_mode=True, check_batched_grad=True)
    assert gradgradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["na_forward", "na_backward", "na_qkvpacked_forward", "na_qkvpacked_backward"])
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 9, 8, 3, 2, 16, dtype=dtype, device="cuda")
    rpb = torch.randn(2, 5, 5, device="cuda")
    more = [torch.randn(2, 3, 2, 16, dtype=dtype, device="cuda") for _ in range(2)]
    settings = [3, 3], [2, 1], [1, 2], [1, 0], 0.3
    output, lse = _ops.na_qkvpacked_forward(qkv, rpb, *more, *settings)
    given = [qkv, rpb, *more] if "packed" in name else [*(t.clone() for t in qkv.unbind(-3)), rpb, *more]
    if "backward" in name:
        given = [torch.randn_like(output), torch.randn_like(lse), *given]
    for t in given:
        t.requires_grad_()
    results = [output, lse] if "backward" in name else []
    torch.library.opcheck(getattr(_ops, name), (*given, *results, *settings))


def test_vmap() -> None:
    q, k, v = torch.randn(3, 4, 2, 8, 8, 2, 16, device="cuda")
    rpb = torch.randn(4, 2, 5, 5, device="cuda")
    found = torch.vmap(lambda *t: na2d(*t[:3], 3, rpb=t[3], backend="cuda"))(q, k, v, rpb)
    for i in range(4):
        torch.testing.assert_close(found[i], na2d(q[i], k[i], v[i], 3, rpb=rpb[i], backend="cuda"))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_module(mode: str) -> None:
    torch._dynamo.reset()
    module = natten_core.NeighborhoodAttention2D(64, 2, 7, dilation=2, device="cuda")
    graph = torch.compile(module, fullgraph=True, mode=mode)
    for _ in range(3):
        x = torch.randn(4, 14, 14, 64, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            ours, plain = graph(x), module(x)
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, plain, rtol=3e-2, atol=3e-2)
        wanted = torch.autograd.grad(plain.float().square().sum(), (x, module.rpb))
        found = torch.autograd.grad(ours.float().square().sum(), (x, module.rpb))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)
    torch._dynamo.reset()


def test_a_non_unit_last_stride_is_read_correctly_all_the_same() -> None:
    q, k, v = (torch.randn(2, 6, 7, 4, 8, device="cuda").transpose(-1, -2) for _ in range(3))
    settings = None, None, None, [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    strided = _ops.na_forward(q, k, v, *settings)
    plain = _ops.na_forward(q.contiguous(), k.contiguous(), v.contiguous(), *settings)
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))
