from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import natten_oracle
import pytest
import torch
from torch import Tensor

import natten_core
from natten_core import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D

MODULES: dict[int, Any] = {1: NeighborhoodAttention1D, 2: NeighborhoodAttention2D, 3: NeighborhoodAttention3D}


def expected(module: Any, x: Tensor) -> Tensor:
    """The module's output written out with the oracle: pad, project, attend, crop, project."""
    spatial = x.shape[1:-1]
    padded = [max(n, k * d) for n, k, d in zip(spatial, module.kernel_size, module.dilation, strict=True)]
    canvas = torch.zeros(x.shape[0], *padded, x.shape[-1], dtype=x.dtype)
    inside = tuple(slice(0, n) for n in spatial)
    canvas[(slice(None), *inside)] = x
    weight, bias = module.qkv.weight, module.qkv.bias
    projected = canvas @ weight.T + (0 if bias is None else bias)
    # the three thirds of the projection, and within each the heads one after the other
    q, k, v = (part.unflatten(-1, (module.num_heads, -1)) for part in projected.chunk(3, -1))
    scale = 1 / math.sqrt(x.shape[-1] // module.num_heads)
    output, _ = natten_oracle.attention(
        q, k, v, module.kernel_size, module.stride, module.dilation, module.is_causal, scale, module.rpb
    )
    return output[(slice(None), *inside)].flatten(-2) @ module.proj.weight.T + module.proj.bias


SETTINGS: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (1, (9,), {"kernel_size": 3}),
    (1, (20,), {"kernel_size": 7, "dilation": 2}),
    (2, (8, 9), {"kernel_size": 3, "dilation": (2, 3)}),
    (2, (7, 9), {"kernel_size": (3, 5), "rel_pos_bias": False}),
    (2, (7, 9), {"kernel_size": 3, "qkv_bias": False}),
    (2, (8, 9), {"kernel_size": 4, "stride": 2, "is_causal": (True, False)}),
    (3, (4, 5, 6), {"kernel_size": (2, 3, 3), "dilation": (1, 1, 2)}),
    # maps smaller than the window
    (1, (5,), {"kernel_size": 7}),
    (2, (5, 9), {"kernel_size": 7}),
    (2, (9, 6), {"kernel_size": 7}),
    (2, (5, 6), {"kernel_size": 7}),
    (2, (1, 1), {"kernel_size": 3}),
    (2, (8, 11), {"kernel_size": 3, "dilation": 3}),
    (2, (10, 8), {"kernel_size": 3, "dilation": (2, 4)}),
    (2, (5, 6), {"kernel_size": 7, "qkv_bias": False}),
    (2, (5, 6), {"kernel_size": 7, "rel_pos_bias": False}),
    (3, (2, 7, 5), {"kernel_size": 3, "dilation": (1, 2, 2)}),
]


@pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")
@pytest.mark.parametrize(("rank", "spatial", "settings"), SETTINGS, ids=str)
def test_output_and_gradients(rank: int, spatial: tuple[int, ...], settings: dict[str, Any]) -> None:
    module = MODULES[rank](12, 3, **settings, dtype=torch.float64)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, *spatial, 12, dtype=torch.float64, requires_grad=True)
    output, wanted = module(x), expected(module, x)
    torch.testing.assert_close(output, wanted)
    inputs = (x, *module.parameters())
    grads = (torch.autograd.grad(result.square().sum(), inputs) for result in (output, wanted))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_names_and_shapes_of_the_weights(rank: int) -> None:
    module = MODULES[rank](12, 3, (3, 5, 4)[:rank])
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == {
        "rpb": (3, *(5, 9, 7)[:rank]),
        "qkv.weight": (36, 12),
        "qkv.bias": (36,),
        "proj.weight": (12, 12),
        "proj.bias": (12,),
    }


def test_weights_that_are_switched_off() -> None:
    assert set(NeighborhoodAttention2D(8, 2, 3, rel_pos_bias=False, qkv_bias=False).state_dict()) == {
        "qkv.weight",
        "proj.weight",
        "proj.bias",
    }


def test_bias_starts_small() -> None:
    rpb = NeighborhoodAttention2D(64, 16, 13).rpb
    assert rpb is not None
    assert 0.018 < float(rpb.detach().std()) < 0.022
    assert float(rpb.detach().abs().max()) < 2


def test_device_and_dtype() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
    x = torch.zeros(2, 5, 6, 8, device="meta", dtype=torch.bfloat16)
    assert module(x).shape == x.shape


def test_an_empty_batch() -> None:
    module = NeighborhoodAttention2D(8, 2, 3)
    x = torch.zeros(0, 6, 7, 8, requires_grad=True)
    output = module(x)
    assert output.shape == x.shape
    output.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def copies(module: Any) -> dict[str, Any]:
    """The module in every way that one is kept or sent."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return {
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "torch.save": torch.load(file, weights_only=False),
    }


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_copies_are_the_same_module(rank: int) -> None:
    module = MODULES[rank](8, 2, 3, dilation=2, is_causal=True, qk_scale=0.3, attn_drop=0.1).eval()
    x = torch.randn(1, *(9, 8, 7)[:rank], 8)
    for name, other in copies(module).items():
        assert str(other) == str(module), name
        assert torch.equal(other(x), module(x)), name
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in module.parameters()}, name


def test_functional_call() -> None:
    module, other = (NeighborhoodAttention2D(8, 2, 3) for _ in range(2))
    x = torch.randn(1, 6, 7, 8)
    found = torch.func.functional_call(module, dict(other.named_parameters()), (x,))
    assert torch.equal(found, other(x))
    (grad,) = torch.autograd.grad(found.sum(), other.rpb)
    assert grad.abs().sum() > 0


SCRIPTED: list[dict[str, Any]] = [
    {},
    {"rel_pos_bias": False, "qkv_bias": False},
    {"dilation": 2, "is_causal": True, "stride": 2, "qk_scale": 0.3},
    {"attn_drop": 0.3, "proj_drop": 0.1},
]


@pytest.mark.usefixtures("kernels")
@pytest.mark.filterwarnings("ignore:`torch.jit.(script|save|load)` is deprecated.:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.(script|save|load)` is deprecated.:DeprecationWarning")
@pytest.mark.parametrize("settings", SCRIPTED, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torchscript(rank: int, settings: dict[str, Any]) -> None:
    """Also on maps that must be padded, and after a journey through a file."""
    module = MODULES[rank](8, 2, 3, **settings)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    for spatial in ((9, 8, 7), (4, 9, 5), (1, 2, 8)):
        x = torch.randn(2, *spatial[:rank], 8)
        results = []
        for one in (module, scripted):
            torch.manual_seed(1)
            output = one(x)
            results.append([output, *torch.autograd.grad(output.square().sum(), tuple(one.parameters()))])
        torch.testing.assert_close(*results)
    torch.testing.assert_close(scripted.eval()(x), module.eval()(x))


@pytest.mark.usefixtures("kernels")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace(_method)?` is deprecated.:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace(_method)?` is deprecated.:DeprecationWarning")
def test_trace() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, dilation=(1, 2)).eval()
    traced = torch.jit.trace(module, torch.randn(2, 6, 7, 8))
    x = torch.randn(3, 6, 7, 8)
    torch.testing.assert_close(traced(x), module(x))


def test_scale() -> None:
    x = torch.randn(1, 6, 6, 8)
    module = NeighborhoodAttention2D(8, 2, 3)
    scaled = NeighborhoodAttention2D(8, 2, 3, qk_scale=0.0)
    scaled.load_state_dict(module.state_dict())
    assert module.scale == 0.5
    assert not torch.allclose(scaled(x), module(x))
    with torch.no_grad():
        scaled.qkv.weight[:16] = 100 * torch.randn(16, 8)  # what queries and keys are makes no difference now
        module.load_state_dict(scaled.state_dict())
    flat = NeighborhoodAttention2D(8, 2, 3, qk_scale=0.0)
    flat.load_state_dict(module.state_dict())
    with torch.no_grad():
        flat.qkv.weight[:16] = 0
        flat.qkv.bias[:16] = 0
    torch.testing.assert_close(scaled(x), flat(x))


def test_dilation_may_be_changed_after_construction() -> None:
    x = torch.randn(1, 13, 14, 8)
    module = NeighborhoodAttention2D(8, 2, 3)
    module.dilation = (4, 2)
    other = NeighborhoodAttention2D(8, 2, 3, dilation=(4, 2))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))
    module.dilation = (5, 2)  # too wide for the map, which is padded
    torch.testing.assert_close(module(x), expected(module, x))
    module.dilation = 2
    other.dilation = (2, 2)
    assert torch.equal(module(x), other(x))
    assert "dilation=2" in repr(module)
    module.dilation = 1
    assert "dilation" not in repr(module)


def test_attention_dropout() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5)
    plain = NeighborhoodAttention2D(8, 2, 3)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 6, 7, 8)
    assert torch.equal(module.eval()(x), plain(x))
    module.train()
    samples = torch.stack([module(x).detach() for _ in range(400)])
    assert not torch.allclose(samples[0], samples[1])
    # the expectation is the output without dropout
    error = (samples.mean(0) - plain(x).detach()).abs() / (samples.std(0) / math.sqrt(400))
    assert float(error.max()) < 6
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    first.sum().backward()
    assert module.qkv.weight.grad is not None


def test_all_attention_dropped_leaves_the_bias_of_the_projection() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, attn_drop=1.0)
    x = torch.randn(1, 5, 5, 8)
    torch.testing.assert_close(module(x), module.proj.bias.expand(1, 5, 5, 8))


def test_output_dropout() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, proj_drop=0.5)
    x = torch.randn(2, 6, 7, 8)
    zeros = (module(x) == 0).float().mean()
    assert 0.35 < float(zeros) < 0.65
    assert (module.eval()(x) != 0).all()


def test_printed_form_tells_the_settings() -> None:
    module = NeighborhoodAttention2D(8, 2, 3, dilation=2, is_causal=True, rel_pos_bias=False, attn_drop=0.1)
    text = str(module)
    for part in (
        "8, num_heads=2, kernel_size=(3, 3)",
        "dilation=(2, 2)",
        "is_causal=(True, True)",
        "rel_pos_bias=False",
    ):
        assert part in text
    assert "stride" not in text


def test_signature_is_documented() -> None:
    for rank, axes in ((1, "x"), (2, "y, x"), (3, "z, y, x")):
        text = MODULES[rank].__doc__
        assert text.startswith(
            f"Multi-head neighborhood attention with its projections, on `[batch, {axes}, embed_dim]`"
        )
        assert "attn_drop:" in text
    assert natten_core.neighborhood_attention.__doc__
