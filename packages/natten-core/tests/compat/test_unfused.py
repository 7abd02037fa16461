"""The heads-first operators: what NATTEN's own tests of 0.14 to 0.17 ask of them on a CPU, and their layouts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import natten_oracle
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from natten_core.compat import heads_first, legacy

QK: dict[int, Any] = {1: heads_first.na1d_qk, 2: heads_first.na2d_qk, 3: heads_first.na3d_qk}
AV: dict[int, Any] = {1: heads_first.na1d_av, 2: heads_first.na2d_av, 3: heads_first.na3d_av}
# map, kernel size, dilation, causal axes
PROBLEMS = {
    "1d": ((9,), (3,), (2,), (False,)),
    "1d-causal": ((8,), (5,), (1,), (True,)),
    "2d": ((8, 7), (5, 5), (1, 1), (False, False)),
    "2d-dilated": ((7, 7), (3, 3), (2, 2), (False, False)),
    "2d-per-axis": ((5, 6), (5, 3), (1, 2), (False, False)),
    "2d-causal": ((5, 6), (5, 3), (1, 2), (True, True)),
    "2d-half-causal": ((6, 5), (3, 5), (2, 1), (False, True)),
    "3d": ((3, 3, 6), (3, 3, 3), (1, 1, 1), (False, False, False)),
    "3d-per-axis": ((6, 3, 5), (3, 3, 5), (2, 1, 1), (True, False, True)),
}
ALL = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
EXTRA = 4
FORWARD_MODE = {"check_forward_ad": True, "check_backward_ad": False, "check_undefined_grad": False}
FALLBACK = pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")


def tensors(problem: Any, dtype: torch.dtype = torch.float64, heads: int = 2, head_dim: int = 3, **more: Any) -> Any:
    """Query, key, value, bias, additional keys and values, heads first."""
    spatial, kernel_size = problem[:2]
    shapes = [(1, heads, *spatial, head_dim)] * 3 + [(heads, *(2 * kernel - 1 for kernel in kernel_size))]
    shapes += [(1, heads, EXTRA, head_dim)] * 2
    return [torch.randn(shape, dtype=dtype, **more) for shape in shapes]


def written_out(problem: Any, query: Tensor, key: Tensor, rpb: Tensor, more: Tensor) -> Tensor:
    """The scores slot by slot, query by query."""
    spatial, kernel_size, dilation, _ = problem
    scores = query.new_full((*query.shape[:-1], math.prod(kernel_size) + EXTRA), -math.inf)
    for token in itertools.product(*map(range, spatial)):
        axes = [
            natten_oracle.window(at, length, kernel, spread, 1, causal)
            for at, length, kernel, spread, causal in zip(token, *problem, strict=True)
        ]
        for places in itertools.product(*(range(len(keys)) for keys in axes)):
            other = tuple(keys[place] for keys, place in zip(axes, places, strict=True))
            slot, entry = 0, []
            for place, kernel, a, b, spread in zip(places, kernel_size, token, other, dilation, strict=True):
                slot = slot * kernel + place
                entry.append((b - a) // spread + kernel - 1)
            product = (query[(..., *token, slice(None))] * key[(..., *other, slice(None))]).sum(-1)
            scores[(..., *token, slot)] = product + rpb[(slice(None), *entry)]
        scores[(..., *token, slice(-EXTRA, None))] = (query[(..., *token, slice(None))][:, :, None] * more).sum(-1)
    return scores


@ALL
def test_scores_and_their_order(problem: Any) -> None:
    rank, (_, *settings) = len(problem[0]), problem
    query, key, _, rpb, more, _ = tensors(problem)
    kernel_size, dilation, is_causal = settings
    scores = QK[rank](query, key, kernel_size, dilation, more, is_causal, rpb)
    torch.testing.assert_close(scores, written_out(problem, query, key, rpb, more))
    assert scores.is_contiguous()
    lists = [list(setting) for setting in settings]
    assert torch.equal(scores, QK[rank](query, key, lists[0], lists[1], more, lists[2], rpb))


@ALL
def test_both_stages_are_attention(problem: Any) -> None:
    spatial, kernel_size, dilation, is_causal = problem
    rank = len(spatial)
    query, key, value, rpb, more_keys, more_values = tensors(problem)
    weights = QK[rank](query, key, kernel_size, dilation, more_keys, is_causal, rpb).softmax(-1)
    output = AV[rank](weights, value, kernel_size, dilation, more_values, is_causal)
    heads_last = [tensor.movedim(1, -2) for tensor in (query, key, value)]
    extra = [tensor.transpose(1, 2) for tensor in (more_keys, more_values)]
    expected, _ = natten_oracle.attention(*heads_last, kernel_size, (1,) * rank, dilation, is_causal, 1.0, rpb, *extra)
    torch.testing.assert_close(output, expected.movedim(-2, 1))
    assert output.is_contiguous()


@pytest.mark.parametrize("extra", [0, EXTRA])
@ALL
def test_gradients(problem: Any, extra: int) -> None:
    check_gradients(problem, extra, heads=2, fast=True)


@pytest.mark.parametrize("name", ["1d", "2d-half-causal"])
def test_gradients_in_slow_mode(name: str) -> None:
    check_gradients(PROBLEMS[name], EXTRA, heads=1, fast=False)


def check_gradients(problem: Any, extra: int, heads: int, fast: bool) -> None:
    spatial, kernel_size, dilation, is_causal = problem
    rank = len(spatial)
    query, key, value, rpb, more_keys, more_values = tensors(problem, heads=heads, head_dim=2, requires_grad=True)
    more_keys, more_values = (more_keys, more_values) if extra else (None, None)
    check: dict[str, Any] = {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-4, "nondet_tol": 0, "fast_mode": fast}

    def scores(*arguments: Any) -> Tensor:
        found: Tensor = QK[rank](*arguments)
        return found.softmax(-1) if any(is_causal) else found  # -inf has no finite differences

    assert gradcheck(scores, (query, key, kernel_size, dilation, more_keys, is_causal, rpb), **check)
    slots = math.prod(kernel_size) + extra
    weights = torch.randn(*query.shape[:-1], slots, dtype=torch.float64, requires_grad=True)
    assert gradcheck(AV[rank], (weights, value, kernel_size, dilation, more_values, is_causal), **check)


@FALLBACK
def test_second_derivatives() -> None:
    _, kernel_size, dilation, is_causal = PROBLEMS["2d-per-axis"]
    query, key, value, rpb, more_keys, more_values = tensors(PROBLEMS["2d-per-axis"], requires_grad=True)

    def attention(
        query: Tensor, key: Tensor, value: Tensor, rpb: Tensor, more_keys: Tensor, more_values: Tensor
    ) -> Tensor:
        weights = heads_first.na2d_qk(query, key, kernel_size, dilation, more_keys, is_causal, rpb).softmax(-1)
        found: Tensor = heads_first.na2d_av(weights, value, kernel_size, dilation, more_values, is_causal)
        return found

    assert gradgradcheck(attention, (query, key, value, rpb, more_keys, more_values), fast_mode=True)


@FALLBACK
@pytest.mark.parametrize("name", ["1d", "2d-per-axis", "3d"])
def test_forward_mode(name: str) -> None:
    problem = PROBLEMS[name]
    spatial, kernel_size, dilation, is_causal = problem
    rank = len(spatial)
    query, key, value, rpb, more_keys, more_values = tensors(problem, requires_grad=True)
    for bias in (None, rpb):
        arguments = (query, key, kernel_size, dilation, more_keys, is_causal, bias)
        assert gradcheck(QK[rank], arguments, fast_mode=True, **FORWARD_MODE)
    weights = torch.randn(*query.shape[:-1], math.prod(kernel_size) + EXTRA, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        AV[rank], (weights, value, kernel_size, dilation, more_values, is_causal), fast_mode=True, **FORWARD_MODE
    )


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_under_the_names_of_014(rank: int, fast: bool) -> None:
    qkrpb = (legacy.natten1dqkrpb, legacy.natten2dqkrpb)[rank - 1]
    av = (legacy.natten1dav, legacy.natten2dav)[rank - 1]
    spatial = (14,) if rank == 1 else (6, 6)
    kernel_size, dilation = (7, 2) if rank == 1 else (3, 2)
    query, key, value = torch.randn(3, 1, 2, *spatial, 4, dtype=torch.float64).unbind(0)
    rpb = torch.randn(2, *(2 * kernel_size - 1,) * rank, dtype=torch.float64).requires_grad_()
    weights = torch.randn(1, 2, *spatial, kernel_size**rank, dtype=torch.float64).requires_grad_()
    for tensor in (query, key, value):
        tensor.requires_grad_()
    check: dict[str, Any] = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-3, "nondet_tol": 0, "fast_mode": fast}
    for bias in (rpb, None):
        assert gradcheck(qkrpb, (query, key, bias, kernel_size, dilation), **check)
    assert gradcheck(av, (weights, value, kernel_size, dilation), **check)
    # the last arguments as they were up to 0.14.4
    assert torch.equal(qkrpb(query, key, rpb, dilation), qkrpb(query, key, rpb, kernel_size, dilation))
    assert torch.equal(av(weights, value, dilation), av(weights, value, kernel_size, dilation))


@pytest.mark.parametrize("natten", ["0.14"], indirect=True)
def test_function_classes_of_014(natten: ModuleType) -> None:
    functional = natten.functional
    query, key, value = torch.randn(3, 1, 2, 6, 7, 4).unbind(0)
    rpb = torch.randn(2, 5, 5)
    scores = functional.NATTEN2DQKRPBFunction.apply(query, key, rpb, 3, 2)
    assert torch.equal(scores, functional.natten2dqkrpb(query, key, rpb, 3, 2))
    assert torch.equal(functional.NATTEN2DQKRPBFunction.apply(query, key, rpb, 2), scores)
    output = functional.NATTEN2DAVFunction.apply(scores, value, 2)
    assert torch.equal(output, functional.natten2dav(scores, value, 3, 2))


def test_names_of_015() -> None:
    query, key = torch.randn(2, 1, 2, 5, 6, 7, 4).unbind(0)
    rpb, more = torch.randn(2, 9, 5, 5), torch.randn(1, 2, EXTRA, 4)
    expected = heads_first.na3d_qk(query, key, (5, 3, 3), (1, 2, 2), rpb=rpb)
    assert torch.equal(legacy.natten3dqkrpb(query, key, rpb, 5, 3, 1, 2), expected)
    assert torch.equal(legacy.na3d_qk_with_bias(query, key, rpb, 5, 3, 1, 2), expected)
    plain = legacy.natten3dqk(query, key, 5, 3, 1, 2, additional_keys=more)
    assert torch.equal(plain, heads_first.na3d_qk(query, key, (5, 3, 3), (1, 2, 2), more))
    found = legacy.natten3dav(plain, key, 5, 3, 1, 2, more)
    assert torch.equal(found, heads_first.na3d_av(plain, key, (5, 3, 3), (1, 2, 2), more))
    query, key, rpb = query[:, :, 0], key[:, :, 0], rpb[:, 0]
    expected = heads_first.na2d_qk(query, key, 3, 2, more, rpb=rpb)
    assert torch.equal(legacy.na2d_qk_with_bias(query, key, rpb, 3, 2, more), expected)


@pytest.mark.parametrize("spatial", [(7,), (7, 5), (3, 5, 3)])
def test_whole_map_is_self_attention(spatial: tuple[int, ...]) -> None:
    rank = len(spatial)
    query, key, value = torch.randn(3, 2, 4, *spatial, 4).unbind(0)
    weights = QK[rank](query, key, spatial).softmax(-1)
    output = AV[rank](weights, value, spatial)
    q, k, v = (tensor.flatten(2, -2) for tensor in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    torch.testing.assert_close(output, expected.unflatten(2, spatial))


def test_additional_tokens_broadcast_over_the_batch() -> None:
    query, key, value = torch.randn(3, 3, 2, 8, 9, 4).unbind(0)
    more_keys, more_values = torch.randn(2, 1, 2, EXTRA, 4).unbind(0)
    wide = [tensor.expand(3, 2, EXTRA, 4) for tensor in (more_keys, more_values)]
    copies = [tensor.repeat(3, 1, 1, 1) for tensor in (more_keys, more_values)]
    scores = heads_first.na2d_qk(query, key, 5, 1, wide[0])
    assert torch.equal(scores, heads_first.na2d_qk(query, key, 5, 1, copies[0]))
    near, far = scores.split([25, EXTRA], -1)
    assert torch.equal(near, heads_first.na2d_qk(query, key, 5))
    torch.testing.assert_close(far, torch.einsum("bhyxd,bhnd->bhyxn", query, copies[0]))
    weights = scores.softmax(-1)
    assert torch.equal(
        heads_first.na2d_av(weights, value, 5, 1, wide[1]), heads_first.na2d_av(weights, value, 5, 1, copies[1])
    )


def test_inputs_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    operator: Callable[..., Tensor] = heads_first._QK[2]

    def watched(query: Tensor, key: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.extend([query, key])
        return operator(query, key, *rest, **more)

    monkeypatch.setitem(heads_first._QK, 2, watched)
    qkv = torch.randn(1, 6, 7, 3, 2, 4).permute(3, 0, 4, 1, 2, 5)  # a projection, as NATTEN's modules cut it
    scores = heads_first.na2d_qk(qkv[0], qkv[1], 3)
    assert [tensor.data_ptr() for tensor in seen] == [qkv[0].data_ptr(), qkv[1].data_ptr()]
    assert torch.equal(scores, heads_first.na2d_qk(qkv[0].contiguous(), qkv[1].contiguous(), 3))
    across = qkv[0].transpose(-1, -2).contiguous().transpose(-1, -2)  # no unit stride: NATTEN copied it, too
    assert torch.equal(scores, heads_first.na2d_qk(across, qkv[1], 3))


def test_mixed_dtypes() -> None:
    query, key, value, rpb, *_ = tensors(PROBLEMS["2d"], torch.float32)
    weights = heads_first.na2d_qk(query, key, 5, rpb=rpb).softmax(-1)
    expected = heads_first.na2d_av(weights, value, 5)
    half = heads_first.na2d_av(weights, value.half(), 5)  # as autocast leaves them
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=4e-3, rtol=4e-3)
    assert heads_first.na2d_qk(query.half(), key.half(), 5, rpb=rpb).dtype == torch.float16


X = torch.randn(1, 2, 8, 9, 4)
REFUSED = {
    "even kernel": (lambda: heads_first.na2d_qk(X, X, 8), r"kernel_size must be odd and at least 3 .* got \(8, 8\)"),
    "kernel of one": (lambda: heads_first.na2d_av(X, X, 1), r"kernel_size must be odd and at least 3"),
    "no dilation": (
        lambda: heads_first.na2d_qk(X, X, 5, 0),
        r"dilation must be at least 1 on every axis, got \(0, 0\)",
    ),
    "too large": (
        lambda: heads_first.na2d_qk(X, X, 5, 2),
        "kernel_size 5 with dilation 2 needs a length of at least 10",
    ),
    "fractional": (lambda: heads_first.na2d_qk(X, X, 3.0), "kernel_size must be one int or a tuple of 2, got 3.0"),
    "too many": (lambda: heads_first.na2d_qk(X, X, (3, 3, 3)), "kernel_size must be one int or a tuple of 2"),
    "causal": (lambda: heads_first.na2d_qk(X, X, 3, is_causal=1), "is_causal must be one bool or a tuple of 2, got 1"),
    "shapes": (lambda: heads_first.na2d_qk(X, X[:, :, :5], 3), "key must have"),
    "rank": (lambda: heads_first.na1d_qk(X, X, 3), r"query must be \[batch, x, heads, head_dim\]"),
    "bias": (lambda: heads_first.na2d_qk(X, X, 3, rpb=X[0, 0]), "rpb must be"),
    "slots": (lambda: heads_first.na2d_av(X, X, 3), "attn must have 9 for the window as its last size"),
    "extra heads": (
        lambda: heads_first.na2d_qk(X, X, 3, additional_keys=torch.randn(1, 3, EXTRA, 4)),
        "additional_keys must be",
    ),
    "extra dim": (
        lambda: heads_first.na2d_qk(X, X, 3, additional_keys=torch.randn(1, 2, EXTRA, 5)),
        "additional_keys must be",
    ),
    "0.14.4 without bias": (lambda: legacy.natten2dqkrpb(X, X, None, 2), "without a bias, .* give both"),
    "0.14.4 without sides": (lambda: legacy.natten2dav(X[..., :3], X, 2), "attn's 3 weights are no window"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_arguments(call: Callable[[], Any], message: str) -> None:
    # NATTEN's C++ raised RuntimeError, its Python ValueError.
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match=message):
            call()
