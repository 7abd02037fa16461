"""The same call gives the same bits: again, and with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import natten_oracle
import pytest
import torch
from torch import Tensor

from natten_core import na1d, na2d, na2d_qkvpacked, na3d

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("kernels")]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


CALLS = {
    "1d": (na1d, (301,), 7, 3),
    "2d": (na2d, (30, 29), 7, 1),
    "2d-dilated": (na2d, (30, 29), 5, (4, 5)),
    "3d": (na3d, (7, 8, 9), 3, (2, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_threads(name: str, dtype: torch.dtype) -> None:
    function, spatial, kernel_size, dilation = CALLS[name]
    q, k, v, grad = torch.randn(4, 3, *spatial, 2, 8).to(dtype).unbind()
    rpb = torch.randn(2, *(2 * kernel_size - 1 for _ in spatial), dtype=dtype, requires_grad=True)
    inputs = [*(t.requires_grad_() for t in (q, k, v)), rpb]

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        output, lse = function(q, k, v, kernel_size, dilation=dilation, rpb=rpb, return_lse=True, backend="cpu")
        grads = torch.autograd.grad((output, lse), inputs, (grad, torch.ones_like(lse)))
        return [output, lse, *grads]

    first = run(1)
    for threads in (1, 2, 3, 7):
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


@pytest.mark.parametrize("axis", [1, 2])
def test_what_is_not_finite_reaches_those_who_see_it_alone(axis: int) -> None:
    q, k, v = torch.randn(3, 1, 19, 37, 1, 8)
    for row in range(2, q.shape[axis] - 3):
        poisoned = v.clone()
        poisoned.select(axis, row)[:] = float("nan")
        reached = (
            na2d(q, k, poisoned, 5, backend="cpu").isnan().all(-1).all(3 - axis).flatten().nonzero().flatten().tolist()
        )
        sees = [i for i in range(q.shape[axis]) if row in natten_oracle.window(i, q.shape[axis], 5, 1, 1, False)]
        assert reached == sees, row
