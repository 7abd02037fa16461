"""The modules of every version: keys, padding, and what they compute, written out with the unfused operators."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from natten_core.compat import heads_first, modules_014, modules_017, modules_021

QK: dict[int, Any] = {1: heads_first.na1d_qk, 2: heads_first.na2d_qk, 3: heads_first.na3d_qk}
AV: dict[int, Any] = {1: heads_first.na1d_av, 2: heads_first.na2d_av, 3: heads_first.na3d_av}


def written_out(module: nn.Module, x: Tensor, window: Any, dilation: Any, is_causal: Any = False) -> Tensor:
    """Projection, padding, the two stages, cropping, projection."""
    spatial, rank = x.shape[1:-1], x.ndim - 2
    missing = [max(0, k * d - n) for k, d, n in zip(window, dilation, spatial, strict=True)]
    padded = nn.functional.pad(x, [0, 0, *(side for end in reversed(missing) for side in (0, end))])
    q, k, v = module.qkv(padded).unflatten(-1, (3, module.num_heads, -1)).movedim(-3, 0).movedim(-2, 2).unbind(0)
    scores = QK[rank](q * module.scale, k, window, dilation, None, is_causal, module.rpb)
    output = AV[rank](scores.softmax(-1), v, window, dilation, None, is_causal).movedim(1, -2).flatten(-2)
    for axis, length in enumerate(spatial):
        output = output.narrow(1 + axis, 0, length)
    found: Tensor = module.proj(output)
    return found


def check(module: nn.Module, x: Tensor, *settings: Any) -> None:
    """Output and every gradient."""
    results = []
    for forward in (module, lambda x: written_out(module, x, *settings)):
        module.zero_grad()
        image = x.clone().requires_grad_()
        output = forward(image)
        output.square().sum().backward()
        grads = [parameter.grad for parameter in module.parameters()]
        assert all(grad is not None for grad in grads)
        results.append((output, image.grad, *(grad.clone() for grad in grads)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


KEYS = ["rpb", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]


@pytest.mark.parametrize(
    ("natten", "bias"), [("0.14", "bias"), ("0.15", "bias"), ("0.17", "rel_pos_bias")], indirect=["natten"]
)
def test_keys(natten: ModuleType, bias: str) -> None:
    module = natten.NeighborhoodAttention2D(8, 2, 7, **{bias: True})
    assert sorted(module.state_dict()) == sorted(KEYS)
    assert module.rpb.shape == (2, 13, 13)
    assert 0.01 < float(module.rpb.detach().std()) < 0.03
    module = natten.NeighborhoodAttention2D(8, 2, 7, **{bias: False}, qkv_bias=False)
    assert sorted(module.state_dict()) == ["proj.bias", "proj.weight", "qkv.weight"]
    assert module.rpb is None
    default = natten.NeighborhoodAttention1D(8, 2, 7)
    assert (default.rpb is None) == (bias == "rel_pos_bias")
    assert isinstance(default.attn_drop, nn.Dropout)
    assert isinstance(default.proj_drop, nn.Dropout)


@pytest.mark.parametrize("natten", ["0.21"], indirect=True)
def test_keys_since_020(natten: ModuleType) -> None:
    module = natten.NeighborhoodAttention3D(8, 2, 3)
    assert sorted(module.state_dict()) == ["proj.bias", "proj.weight", "qkv.bias", "qkv.weight"]


@pytest.mark.parametrize(("rank", "spatial"), [(1, (16,)), (1, (5,)), (2, (14, 16)), (2, (5, 9))])
@pytest.mark.parametrize("bias", [True, False])
def test_014(rank: int, spatial: tuple[int, ...], bias: bool) -> None:
    kind = (modules_014.NeighborhoodAttention1D, modules_014.NeighborhoodAttention2D)[rank - 1]
    module = kind(dim=12, num_heads=3, kernel_size=3, dilation=2, bias=bias)
    check(module, torch.randn(2, *spatial, 12), (3,) * rank, (2,) * rank)
    assert (module.kernel_size, module.dilation, module.window_size) == (3, 2, 6)
    assert "head_dim=4, num_heads=3, kernel_size=3, dilation=2" in str(module)


def test_015_with_a_depth_of_its_own() -> None:
    module = modules_014.NeighborhoodAttention3D(8, 2, 3, kernel_size_d=5, dilation=2, dilation_d=1)
    check(module, torch.randn(1, 4, 7, 5, 8), (5, 3, 3), (1, 2, 2))
    assert module.rpb.shape == (2, 9, 5, 5)
    assert (module.window_size, module.window_size_d) == (6, 5)
    plain = modules_014.NeighborhoodAttention3D(8, 2, 3)
    assert (plain.kernel_size_d, plain.dilation_d) == (3, 1)


def test_014_dilation_may_change() -> None:
    module = modules_014.NeighborhoodAttention2D(8, 2, 3)
    module.dilation = 3
    x = torch.randn(1, 10, 7, 8)
    torch.testing.assert_close(module(x), written_out(module, x, (3, 3), (3, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 2, 4), "kernel_size must be odd"),
        ((8, 2, 1), "kernel_size must be odd"),
        ((8, 2, 3, 0), "dilation must be"),
    ],
)
def test_014_refuses(arguments: tuple[int, ...], message: str) -> None:
    for kind in (modules_014.NeighborhoodAttention1D, modules_014.NeighborhoodAttention2D):
        with pytest.raises(AssertionError, match=message):
            kind(*arguments)
    with pytest.raises(AssertionError, match="kernel_size must be odd"):
        modules_014.NeighborhoodAttention3D(8, 2, 3, kernel_size_d=2)
    assert modules_014.NeighborhoodAttention2D(8, 2, 3, None).dilation == 1
    with pytest.raises(ValueError, match=r"x must be \[batch, 2 spatial sizes, 8\]"):
        modules_014.NeighborhoodAttention2D(8, 2, 3)(torch.randn(1, 5, 8))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("natten", ["0.17"], indirect=True)
def test_017(natten: ModuleType, fused: bool) -> None:
    natten.use_fused_na(fused)
    for is_causal in (False, (True, False)):
        module = natten.NeighborhoodAttention2D(
            dim=8, num_heads=2, kernel_size=(3, 5), dilation=(2, 1), is_causal=is_causal, rel_pos_bias=True
        )
        check(module, torch.randn(2, 7, 9, 8), (3, 5), (2, 1), is_causal)
        assert (module.kernel_size, module.dilation) == ((3, 5), (2, 1))
    for kind, rank in ((natten.NeighborhoodAttention1D, 1), (natten.NeighborhoodAttention3D, 3)):
        check(kind(8, 2, 3, qk_scale=0.7), torch.randn(1, *(5,) * rank, 8), (3,) * rank, (1,) * rank)


@pytest.mark.parametrize("natten", ["0.17"], indirect=True)
def test_017_refuses(natten: ModuleType) -> None:
    x = torch.randn(1, 7, 5, 8)
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match="kernel_size 3 with dilation 2 needs a length of at least 6"):
            natten.NeighborhoodAttention2D(8, 2, 3, dilation=2)(x)  # which 0.14 padded
        with pytest.raises(kind, match="kernel_size must be odd"):
            natten.NeighborhoodAttention2D(8, 2, 4)(x)
    with pytest.raises(ValueError, match="kernel_size must be one int or a tuple of 2"):
        natten.NeighborhoodAttention2D(8, 2, (3, 3, 3))
    experimental = natten.NeighborhoodAttention2D(8, 2, 3, use_experimental_ops=True)
    with pytest.raises(NotImplementedError, match=r"use_experimental_ops needs fused NA: call natten\.use_fused_na"):
        experimental(x)
    natten.use_fused_na()
    assert experimental(x).shape == x.shape


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_021(rank: int) -> None:
    kinds: list[Any] = [
        modules_021.NeighborhoodAttention1D,
        modules_021.NeighborhoodAttention2D,
        modules_021.NeighborhoodAttention3D,
    ]
    module = kinds[rank - 1](embed_dim=8, num_heads=2, kernel_size=3, dilation=2)
    check(module, torch.randn(1, *(6,) * rank, 8), (3,) * rank, (2,) * rank)
    with pytest.raises(ValueError, match="needs a length of at least 6"):
        module(torch.randn(1, *(5,) * rank, 8))
    assert kinds[rank - 1](8, 2, 4, stride=2, is_causal=True)(torch.randn(1, *(5,) * rank, 8)).isfinite().all()


@pytest.mark.parametrize("kind", [modules_014.NeighborhoodAttention2D, modules_017.NeighborhoodAttention2D])
def test_dropout(kind: Any) -> None:
    module = kind(8, 2, 3, attn_drop=0.5, proj_drop=0.25)
    x = torch.randn(1, 6, 7, 8)
    assert not torch.equal(module(x), module(x))
    module.proj_drop.p = 0.0
    assert not torch.equal(module(x), module(x))
    module.attn_drop.p = 0.0
    assert torch.equal(module(x), module(x))
    assert torch.equal(module(x), module.eval()(x))


def test_weights_go_from_version_to_version() -> None:
    old = modules_014.NeighborhoodAttention2D(8, 2, 3, 2)
    new = modules_017.NeighborhoodAttention2D(8, 2, 3, 2, rel_pos_bias=True)
    new.load_state_dict(old.state_dict())
    x = torch.randn(1, 6, 7, 8)
    assert torch.equal(old(x), new(x))
