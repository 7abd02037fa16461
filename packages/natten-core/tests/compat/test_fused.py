"""The fused, heads-last operators of 0.17 and 0.21, against the unfused ones and attention written out."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import natten_oracle
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import scaled_dot_product_attention

from natten_core.compat import fused_017, fused_021, heads_first

NEW: dict[int, Any] = {1: fused_021.na1d, 2: fused_021.na2d, 3: fused_021.na3d}
OLD: dict[int, Any] = {1: fused_017.na1d, 2: fused_017.na2d, 3: fused_017.na3d}
QK: dict[int, Any] = {1: heads_first.na1d_qk, 2: heads_first.na2d_qk, 3: heads_first.na3d_qk}
AV: dict[int, Any] = {1: heads_first.na1d_av, 2: heads_first.na2d_av, 3: heads_first.na3d_av}
# map, kernel size, dilation, causal axes
PROBLEMS = [
    ((13,), (5,), (2,), (True,)),
    ((8, 10), (3, 5), (1, 2), (False, False)),
    ((8, 10), (3, 5), (2, 1), (False, True)),
    ((6, 5, 8), (5, 3, 7), (1, 1, 1), (True, False, False)),
]
SPATIAL = pytest.mark.parametrize("problem", PROBLEMS, ids=["1d", "2d", "2d-causal", "3d"])


def tensors(spatial: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key, value, additional keys and values, heads last."""
    main = [torch.randn(2, *spatial, 2, 4, dtype=dtype) for _ in range(3)]
    return main + [torch.randn(2, 3, 2, 4, dtype=dtype) for _ in range(2)]


@pytest.mark.parametrize("biased", [False, True])
@SPATIAL
def test_017_against_the_two_stages(problem: Any, biased: bool) -> None:
    spatial, kernel_size, dilation, is_causal = problem
    rank = len(spatial)
    rpb = torch.randn(2, *(2 * kernel - 1 for kernel in kernel_size)).requires_grad_() if biased else None
    query, key, value, more_keys, more_values = (tensor.requires_grad_() for tensor in tensors(spatial))
    output = OLD[rank](query, key, value, kernel_size, dilation, is_causal, rpb, 0.3, more_keys, more_values)
    first = [tensor.movedim(-2, 1) for tensor in (query, key, value, more_keys, more_values)]
    weights = QK[rank](0.3 * first[0], first[1], kernel_size, dilation, first[3], is_causal, rpb).softmax(-1)
    expected = AV[rank](weights, first[2], kernel_size, dilation, first[4], is_causal).movedim(1, -2)
    torch.testing.assert_close(output, expected)
    inputs = [tensor for tensor in (query, key, value, more_keys, more_values, rpb) if tensor is not None]
    grads = torch.autograd.grad(output.square().sum(), inputs)
    for grad, other in zip(grads, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        torch.testing.assert_close(grad, other, atol=1e-4, rtol=1e-4)


def test_017_flex_and_experimental() -> None:
    spatial, kernel_size, dilation, is_causal = PROBLEMS[2]
    *main, more_keys, more_values = tensors(spatial)
    expected = fused_017.na2d(*main, kernel_size, dilation, is_causal, None, None, more_keys, more_values)
    found = fused_017.flex_na2d(*main, kernel_size, dilation, is_causal, more_keys, more_values, {"op": None})
    assert torch.equal(found, expected)


@SPATIAL
def test_021_against_attention_written_out(problem: Any) -> None:
    spatial, kernel_size, dilation, is_causal = problem
    rank, stride = len(spatial), (2,) * len(spatial)
    query, key, value, more_keys, more_values = tensors(spatial, torch.float64)
    arguments = query, key, value, kernel_size, stride, dilation, is_causal, None, more_keys, more_values
    output, lse = NEW[rank](*arguments, backend="cutlass-fna", q_tile_shape=(8,) * rank, return_lse=True)
    expected, expected_lse = natten_oracle.attention(
        query, key, value, kernel_size, stride, dilation, is_causal, None, None, more_keys, more_values
    )
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(lse, expected_lse)
    assert torch.equal(NEW[rank](*arguments), output)
    assert torch.equal(fused_021.neighborhood_attention_generic(*arguments), output)


@pytest.mark.parametrize("natten", ["0.17"], indirect=True)
def test_delta(natten: ModuleType) -> None:
    out, d_out = torch.randn(2, 3, 4, 5, dtype=torch.float16).unbind(0)
    delta = torch.empty(3, 4)
    natten.libnatten.compute_delta(out, d_out, delta)
    torch.testing.assert_close(delta, (out.double() * d_out.double()).sum(-1).float())


def test_scale_of_zero_is_zero() -> None:
    query, key, value, *_ = tensors((9,))
    for na in (fused_017.na1d, fused_021.na1d):
        torch.testing.assert_close(na(query, key, value, 9, scale=0.0), value.mean(1, keepdim=True).expand_as(value))


def test_strides_that_natten_copied_away() -> None:
    query, key, value, *_ = tensors((9, 8))
    across = query.transpose(-1, -2).contiguous().transpose(-1, -2)
    for na in (fused_017.na2d, fused_021.na2d):
        assert torch.equal(na(across, key, value, 3), na(query, key, value, 3))


@pytest.mark.parametrize("heads_kv", [4, 2])
@pytest.mark.parametrize("length_kv", [7, 12])
def test_attention(length_kv: int, heads_kv: int) -> None:
    query = torch.randn(2, 7, 4, 8, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(2, length_kv, heads_kv, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    output, lse = fused_021.attention(query, key, value, scale=0.4, backend="flex-fmha", return_lse=True)
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    expected = scaled_dot_product_attention(q, k, v, scale=0.4, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(fused_021.attention(query, key, value, scale=0.4), expected)
    scores = 0.4 * torch.einsum("bqhd,bkhd->bqhk", query, key.repeat_interleave(4 // heads_kv, 2))
    torch.testing.assert_close(lse, scores.logsumexp(-1))

    def both(*arguments: Tensor) -> Any:
        return fused_021.attention(*arguments, scale=0.4, return_lse=True)

    assert gradcheck(both, (query, key, value), fast_mode=True)


def test_causal_attention() -> None:
    query, key, value = torch.randn(3, 2, 9, 4, 8).unbind(0)
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    expected = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(fused_021.attention(query, key, value, is_causal=True), expected)
    with pytest.raises(NotImplementedError, match="causal attention of 9 queries to 5 keys has no one meaning"):
        fused_021.attention(query, key[:, :5], value[:, :5], is_causal=True)


@pytest.mark.parametrize("natten", ["0.21"], indirect=True)
def test_merge(natten: ModuleType) -> None:
    query, key, value = torch.randn(3, 2, 9, 4, 8).unbind(0)
    halves = [
        natten.attention(query, key[:, part], value[:, part], return_lse=True) for part in (slice(4), slice(4, 9))
    ]
    output, lse = natten.merge_attentions([half[0] for half in halves], [half[1] for half in halves])
    expected, expected_lse = natten.attention(query, key, value, return_lse=True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(lse, expected_lse)
    with pytest.raises(ValueError, match="outputs must be at least two, got 1"):
        natten.merge_attentions([output], [lse])


X = torch.randn(1, 8, 9, 2, 4)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "even kernel in 0.17": (lambda: fused_017.na2d(X, X, X, 4), ValueError, "kernel_size must be odd and at least 3"),
    "too large in 0.17": (lambda: fused_017.na2d(X, X, X, 5, 2), RuntimeError, "needs a length of at least 10"),
    "too large": (lambda: fused_021.na2d(X, X, X, 5, 1, 2), ValueError, "needs a length of at least 10"),
    "stride": (lambda: fused_021.na2d(X, X, X, 3, 4), ValueError, "stride 4 is larger than kernel_size 3"),
    "unknown backend": (
        lambda: fused_021.na2d(X, X, X, 3, backend="cutlass-fmha"),
        NotImplementedError,
        r"backend must be None or one of \['cutlass-fna', .* got 'cutlass-fmha'",
    ),
    "rank": (
        lambda: fused_021.neighborhood_attention_generic(X[0, 0], X, X, 3),
        ValueError,
        r"query must be \[batch, \*spatial, heads, head_dim\]",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_arguments(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_even_kernels_since_020() -> None:
    assert fused_021.na2d(X, X, X, (4, 6)).shape == X.shape
