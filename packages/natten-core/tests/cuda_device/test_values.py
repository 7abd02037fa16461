"""Every family against the oracle, its two stages, its bits, and tensors however they lie in memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cuda_runs import SOME, TABLE, attend, by, call, fallback, on_device, poison, run, runs, square, there, use
from natten_cases import CASES, Case, check_error, relative_error
from natten_compare import HALVES, compare, results, strided_versions
from natten_slots import FIRST, SECOND, part, scores_written_out, values_written_out, windowed
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import natten_core
from natten_core import _ops, na2d_qkvpacked, neighborhood_attention

QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}
PACKED = {1: natten_core.na1d_qkvpacked, 2: natten_core.na2d_qkvpacked, 3: natten_core.na3d_qkvpacked}


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


def test_a_non_unit_last_stride_is_read_correctly_all_the_same() -> None:
    q, k, v = (torch.randn(2, 6, 7, 4, 8, device="cuda").transpose(-1, -2) for _ in range(3))
    settings = None, None, None, [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    strided = _ops.na_forward(q, k, v, *settings)
    plain = _ops.na_forward(q.contiguous(), k.contiguous(), v.contiguous(), *settings)
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))
