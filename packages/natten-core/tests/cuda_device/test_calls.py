"""How torch is met: streams, graphs, memory, devices, transforms and the compiler."""

from __future__ import annotations

import gc

import pytest
import torch
from cuda_runs import SOME, fallback, on_device, run, runs, square, use
from natten_cases import Case

import natten_core
from natten_core import _ops, explain, na2d


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
    assert "TF32 is not allowed" in dict(single.passed_over)["box"]
    assert "not cuda (dense): it does not support maps of more than 64 tokens" in str(single)
    shifted = torch.randn(x.numel() + 1, device="cuda").bfloat16()[1:].view_as(x)
    explanation = explain(shifted, shifted, shifted, 7, dilation=2)
    assert explanation.kernel == "simt"
    assert explanation.passed_over[-1][0] == "simt, 16 bytes at a time"
    assert explain(x, x, x, 7, stride=2).backend == "cuda"
    assert not fallback(lambda: na2d(x, x, x, 7, stride=2))
    video = torch.randn(1, 4, 9, 10, 2, 32, device="cuda", dtype=torch.bfloat16)
    assert explain(video, video, video, (3, 5, 5)).kernel == "box"


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
