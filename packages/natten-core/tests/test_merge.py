"""merge_attentions: parts together are the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from natten_core import merge_attentions, na1d, na2d

MINUS_INFINITY = float("-inf")


def _attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bxhd,byhd->bxhy", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("bxhy,byhd->bxhd", scores.softmax(-1), value), scores.logsumexp(-1)


@pytest.mark.parametrize("cuts", [(12,), (5, 12), (1, 2, 7, 12)])
def test_parts_of_self_attention_are_self_attention(cuts: tuple[int, ...]) -> None:
    query, key, value = torch.randn(3, 2, 12, 3, 8, dtype=torch.float64).unbind(0)
    begins = (0, *cuts[:-1])
    parts = [_attention(query, key[:, a:b], value[:, a:b]) for a, b in zip(begins, cuts, strict=True)]
    output, lse = merge_attentions([part[0] for part in parts], [part[1] for part in parts])
    whole, whole_lse = na1d(query, key, value, 12, return_lse=True)
    torch.testing.assert_close(output, whole)
    torch.testing.assert_close(lse, whole_lse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_and_additional_keys(dtype: torch.dtype) -> None:
    query, key, value = torch.randn(3, 2, 9, 8, 2, 16).to(dtype).unbind(0)
    more_keys, more_values = torch.randn(2, 2, 5, 2, 16).to(dtype).unbind(0)
    window = na2d(query, key, value, 3, return_lse=True)
    rest, rest_lse = _attention(query.flatten(1, 2).float(), more_keys.float(), more_values.float())
    rest, rest_lse = rest.unflatten(1, (9, 8)).to(dtype), rest_lse.unflatten(1, (9, 8))
    output, lse = merge_attentions([window[0], rest], [window[1], rest_lse])
    both, both_lse = na2d(
        query, key, value, 3, additional_keys=more_keys, additional_values=more_values, return_lse=True
    )
    assert output.dtype is dtype
    assert lse.dtype is torch.float32
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(output, both, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse, both_lse)


def test_derivatives() -> None:
    outputs = [torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lses = [torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def merge(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return merge_attentions(tensors[:3], tensors[3:])

    assert gradcheck(merge, (*outputs, *lses))
    assert gradgradcheck(merge, (*outputs, *lses))


def test_parts_without_a_key() -> None:
    outputs = [torch.randn(1, 2, 1, 3, requires_grad=True) for _ in range(2)]
    lses = [torch.tensor([[[0.5], [MINUS_INFINITY]]], requires_grad=True) for _ in range(2)]
    lses[0].data.fill_(MINUS_INFINITY)
    output, lse = merge_attentions(outputs, lses)
    torch.testing.assert_close(output[0, 0], outputs[1][0, 0])
    assert output[0, 1].eq(0).all()
    assert lse[0, :, 0].tolist() == [0.5, MINUS_INFINITY]
    (output.sum() + lse[0, 0].sum()).backward()
    for tensor in (*outputs, *lses):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_inputs_stay_as_they_are() -> None:
    outputs, lses = [torch.randn(1, 4, 2, 3) for _ in range(2)], [torch.randn(1, 4, 2) for _ in range(2)]
    before = [tensor.clone() for tensor in (*outputs, *lses)]
    merge_attentions(outputs, lses)
    for tensor, old in zip((*outputs, *lses), before, strict=True):
        assert torch.equal(tensor, old)


def test_what_is_wrong_is_named() -> None:
    output, lse = torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2)
    with pytest.raises(ValueError, match=r"at least one each, got 0 outputs and 0 lses"):
        merge_attentions([], [])
    with pytest.raises(ValueError, match=r"got 2 outputs and 1 lses"):
        merge_attentions([output, output], [lse])
    with pytest.raises(ValueError, match=r"outputs\[1\] must have the shape of outputs\[0\]"):
        merge_attentions([output, output[:, :2]], [lse, lse])
    with pytest.raises(ValueError, match=r"lses\[0\] must have the shape \[1, 4, 2\], got \[1, 4\]"):
        merge_attentions([output], [lse[..., 0]])
    with pytest.raises(TypeError, match=r"lses\[0\] must be a torch.Tensor, got float"):
        merge_attentions([output], [1.0])  # type: ignore[list-item]
