"""The same call gives the same bits: again, and with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from natten_core import na1d, na2d, na2d_av, na2d_qk, na2d_qkvpacked, na3d

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("kernels")]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


CALLS: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "1d": (na1d, (301,), {"kernel_size": 7, "dilation": 3}),
    "2d": (na2d, (30, 29), {"kernel_size": 7}),
    "2d-dilated": (na2d, (30, 29), {"kernel_size": 5, "dilation": (4, 5)}),
    "3d": (na3d, (7, 8, 9), {"kernel_size": 3, "dilation": (2, 1, 1)}),
    "2d-shared": (na2d, (60, 29), {"kernel_size": 5}),
    "1d-shared-dilated-additional": (na1d, (1030,), {"kernel_size": 9, "dilation": 2}),
    "1d-causal": (na1d, (301,), {"kernel_size": 17, "is_causal": True}),
    "2d-shared-strided-causal-additional": (
        na2d,
        (70, 19),
        {"kernel_size": 5, "stride": (2, 3), "is_causal": (True, False)},
    ),
    "2d-causal": (na2d, (60, 29), {"kernel_size": 5, "is_causal": True}),
    "2d-strided": (na2d, (60, 29), {"kernel_size": 5, "stride": (3, 2)}),
    "3d-strided-causal": (na3d, (27, 6, 7), {"kernel_size": 3, "stride": 2, "is_causal": (True, False, False)}),
    "2d-strided-additional": (na2d, (60, 29), {"kernel_size": 5, "stride": (3, 2)}),
    "1d-causal-additional": (na1d, (301,), {"kernel_size": 17, "is_causal": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_threads(name: str, dtype: torch.dtype) -> None:
    function, spatial, settings = CALLS[name]
    heads, head_dim_v = (4, 13) if "shared" in name else (2, 8)
    q, k = torch.randn(2, *spatial, heads, 8).to(dtype), torch.randn(2, *spatial, 2, 8).to(dtype)
    v, grad = (torch.randn(2, *spatial, n, head_dim_v).to(dtype) for n in (2, heads))
    rpb = torch.randn(heads, *(2 * settings["kernel_size"] - 1 for _ in spatial), dtype=dtype, requires_grad=True)
    inputs = [*(t.requires_grad_() for t in (q, k, v)), rpb]
    if "additional" in name:
        more = [torch.randn(2, 5, 2, n).to(dtype).requires_grad_() for n in (8, head_dim_v)]
        settings = {**settings, "additional_keys": more[0], "additional_values": more[1]}
        inputs += more

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        output, lse = function(q, k, v, **settings, rpb=rpb, return_lse=True, backend="cpu")
        grads = torch.autograd.grad((output, lse), inputs, (grad, torch.ones_like(lse)), retain_graph=True)
        return [output, lse, *grads]

    first = run(1)
    for threads in (1, 2, 3, 5, 8):
        assert all(torch.equal(a, b) for a, b in zip(run(threads), first, strict=True)), threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("additional", [0, 5])
@pytest.mark.parametrize(
    "settings", [{}, {"dilation": 4}, {"stride": 2, "dilation": (3, 1), "is_causal": (False, True)}], ids=str
)
def test_bits_of_two_stages_do_not_depend_on_threads(
    settings: dict[str, Any], additional: int, heads: int, dtype: torch.dtype
) -> None:
    q, (k, v) = torch.randn(2, 40, 19, heads, 8).to(dtype), torch.randn(2, 2, 40, 19, 2, 8).to(dtype)
    rpb, more = torch.randn(heads, 5, 5), torch.randn(2, 2, additional, 2, 8).to(dtype)
    leaves = [t.requires_grad_() for t in (q, k, v, rpb, more)[: 5 if additional else 4]]
    keys, values = more.unbind() if additional else (None, None)

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        scores = na2d_qk(q, k, 3, **settings, rpb=rpb, additional_keys=keys, backend="cpu")
        output = na2d_av(scores.softmax(-1), v, 3, **settings, additional_values=values, backend="cpu")
        grads = torch.autograd.grad(output.square().sum(), leaves, retain_graph=True)
        return [scores.detach(), output.detach(), *grads]

    first = run(1)
    for threads in (1, 2, 3, 5, 8):
        assert all(torch.equal(a, b) for a, b in zip(run(threads), first, strict=True)), threads


def test_a_sample_does_not_depend_on_its_batch() -> None:
    qkv = torch.randn(5, 12, 13, 3, 2, 8)
    rpb = torch.randn(2, 9, 9)
    whole = na2d_qkvpacked(qkv, 5, rpb=rpb, backend="cpu")
    for i in range(5):
        assert torch.equal(na2d_qkvpacked(qkv[i : i + 1], 5, rpb=rpb, backend="cpu")[0], whole[i])


def test_what_is_outside_a_window_leaves_no_trace() -> None:
    """Finite changes outside do not change a bit of what is inside."""
    q, k, v = torch.randn(3, 1, 20, 21, 1, 8)
    plain = na2d(q, k, v, 5, backend="cpu")
    k2, v2 = k.clone(), v.clone()
    k2[:, 9:], v2[:, 9:] = 1e4, 1e4
    changed = na2d(q, k2, v2, 5, backend="cpu")
    assert torch.equal(changed[:, :7], plain[:, :7])  # rows 0 to 6 see rows 0 to 8
    assert not torch.equal(changed[:, 7:], plain[:, 7:])
