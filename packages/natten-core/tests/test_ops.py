"""The operators as torch sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from natten_core import _ops

pytestmark = pytest.mark.usefixtures("kernels")

OPERATORS = ("na_forward", "na_backward", "na_qkvpacked_forward", "na_qkvpacked_backward")


def arguments(name: str, rank: int, bias: bool, dtype: torch.dtype, requires_grad: bool) -> tuple[Any, ...]:
    """A call of an operator, as positional arguments."""
    spatial, settings = (7, 5, 6)[:rank], ([3] * rank, [1] * rank, [2, 1, 1][:rank], [0] * rank, 0.3)
    qkv = torch.randn(2, *spatial, 3, 2, 4, dtype=dtype)
    rpb = torch.randn(2, *(5,) * rank) if bias else None
    output, lse = _ops.na_qkvpacked_forward(qkv, rpb, None, None, *settings)
    inputs = [qkv] if "packed" in name else [t.clone() for t in qkv.unbind(-3)]
    tensors: list[Tensor | None] = [*inputs, rpb]
    if "backward" in name:
        tensors = [torch.randn_like(output), torch.randn_like(lse) if bias else None, *inputs, rpb]
    for tensor in tensors:
        if tensor is not None:
            tensor.requires_grad_(requires_grad)
    return (*tensors, None, None, *([output, lse] if "backward" in name else []), *settings)


@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires-grad"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, bias: bool, dtype: torch.dtype, requires_grad: bool) -> None:
    torch.library.opcheck(getattr(_ops, name), arguments(name, 2, bias, dtype, requires_grad))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_of_other_ranks(name: str, rank: int) -> None:
    torch.library.opcheck(getattr(_ops, name), arguments(name, rank, True, torch.float32, True))


@pytest.mark.parametrize("name", OPERATORS)
def test_fakes_promise_what_kernels_give(name: str) -> None:
    inputs = arguments(name, 2, True, torch.float16, False)
    real = getattr(_ops, name)(*inputs)
    meta = getattr(_ops, name)(*(t.to("meta") if isinstance(t, Tensor) else t for t in inputs))
    for ours, promised in zip(real, meta, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (promised.shape, promised.dtype, promised.stride())


def test_a_non_unit_last_stride_is_read_correctly_all_the_same() -> None:
    """Eager calls refuse it; a compiler, or a gradient, may still hand one to an operator."""
    q, k, v = (torch.randn(2, 6, 7, 4, 2).transpose(-1, -2) for _ in range(3))
    rpb = torch.randn(2, 5, 5)
    settings = [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    strided = _ops.na_forward(q, k, v, rpb, None, None, *settings)
    plain = _ops.na_forward(q.contiguous(), k.contiguous(), v.contiguous(), rpb, None, None, *settings)
    assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))


def test_an_operator_called_by_itself_refuses_shapes_that_do_not_go_together() -> None:
    q, k = torch.randn(1, 6, 7, 2, 4), torch.randn(1, 6, 8, 2, 4)
    settings = [3, 3], [1, 1], [1, 1], [0, 0], 0.5
    rpb = torch.randn(2, 5, 7)
    for tensors in ((q, k, q, None, None, None), (q, q, k, None, None, None), (q, q, q, rpb, None, None)):
        with pytest.raises(ValueError, match="shapes that do not go together"):
            _ops.na_forward(*tensors, *settings)
