"""Large problems in rows that tensor cores do not take: on copies, as the same in rows that they take."""

from __future__ import annotations

import pytest
import torch

from natten_core import explain, na2d, na2d_qkvpacked


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2 * wanted.abs().max().item())


@pytest.mark.parametrize(("length", "family"), [(56, "band"), (7, "dense")])
@pytest.mark.parametrize(("head_dim", "offset"), [(33, 0), (32, 1), (30, 3)])
def test_copies(length: int, family: str, head_dim: int, offset: int) -> None:
    shape = (1 << 13 if length == 7 else 128, length, length, 2, head_dim)
    size = torch.Size(shape).numel()
    room = torch.randn(3, offset + size, dtype=torch.bfloat16, device="cuda")
    given = [one[offset:].view(shape).requires_grad_() for one in room]
    rpb = torch.randn(2, 13, 13, device="cuda", requires_grad=True)
    assert explain(*given, 7).kernel.startswith(f"{family}, on aligned copies")
    output = na2d(*given, 7, rpb=rpb)
    grad = torch.randn_like(output)
    found = torch.autograd.grad(output, (*given, rpb), grad)
    few = slice(0, 4)
    leaves = [one.detach()[few].float().requires_grad_() for one in given]
    exact = na2d(*leaves, 7, rpb=rpb.detach())
    close(output[few].float(), exact)
    for one, other in zip(found, torch.autograd.grad(exact, leaves, grad[few].float()), strict=False):
        close(one[few].float(), other)
    leaves = [one.detach().float() for one in given]
    (wanted,) = torch.autograd.grad(na2d(*leaves, 7, rpb=rpb), rpb, grad.float())
    close(found[3], wanted)


def test_packed() -> None:
    qkv = torch.randn(128, 56, 56, 3, 2, 31, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    output = na2d_qkvpacked(qkv, 7)
    grad = torch.randn_like(output)
    (found,) = torch.autograd.grad(output, qkv, grad)
    few = qkv.detach()[:4].float().requires_grad_()
    exact = na2d_qkvpacked(few, 7)
    close(output[:4].float(), exact)
    (wanted,) = torch.autograd.grad(exact, few, grad[:4].float())
    close(found[:4].float(), wanted)
