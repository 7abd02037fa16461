"""The modules allocate what they return and what a gradient needs, and nothing else: no permuted or contiguous copy.

Counted by torch's profiler, which sees every allocation of torch, from C++ too. Numbers are bytes, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import natten_core
from dinat_zoo._blocks import NeighborhoodBlock
from natten_core import _direct

pytestmark = pytest.mark.skipif(natten_core.build_info()["missing"] is not None, reason="no compiled kernels")

HEADS, DIM, HIDDEN = 2, 24, 96
MODULES: dict[int, Any] = {
    1: natten_core.NeighborhoodAttention1D,
    2: natten_core.NeighborhoodAttention2D,
    3: natten_core.NeighborhoodAttention3D,
}
MAPS = {1: (2, 61), 2: (2, 14, 15), 3: (1, 7, 6, 8)}


@pytest.fixture(params=["direct", "operator"], autouse=True)
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls go around the dispatcher where nobody looks, as the profiler does: once it may not count as a look."""
    if request.param == "direct":
        monkeypatch.setattr(_direct, "_profiled", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # some of torch's sums over tokens allocate once for each
    yield
    torch.set_num_threads(threads)


def allocations(function: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that is allocated in a call, after one that may fill caches."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = function()
    del kept
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]


def of_backward(output: Tensor, leaves: list[Tensor]) -> list[int]:
    grad = torch.randn_like(output)
    return allocations(lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True))


def linear_backward(tokens: int, inputs: int, outputs: int) -> list[int]:
    """Gradients of the input, the weight and the bias."""
    return [4 * tokens * inputs, 4 * inputs * outputs, 4 * outputs]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("rank", MODULES)
def test_modules(rank: int, dilation: int) -> None:
    module = MODULES[rank](DIM, HEADS, 3, dilation=dilation)
    x = torch.randn(*MAPS[rank], DIM, requires_grad=True)
    tokens = math.prod(MAPS[rank])
    one, lse = 4 * tokens * DIM, 4 * tokens * HEADS

    forward = [3 * one, one, lse, one]  # the projections' outputs, the attention's and its log-sum-exp
    with torch.no_grad():
        assert allocations(lambda: module(x)) == forward
    assert allocations(lambda: module(x)) == forward

    dqkv_dbias = [3 * one, 4 * HEADS * 5**rank]
    backward = [*linear_backward(tokens, DIM, DIM), *dqkv_dbias, *linear_backward(tokens, DIM, 3 * DIM)]
    assert of_backward(module(x), [x, *module.parameters()]) == backward


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_packed_operator(dtype: torch.dtype) -> None:
    """Every type is read and written as it is, from a packed tensor that is itself a slice of a larger one."""
    rows = torch.randn(2, 14, 15, 4, HEADS, 16).to(dtype)
    qkv = rows[..., :3, :, :].requires_grad_()
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    rpb = torch.randn(HEADS, 9, 9, dtype=compute, requires_grad=True)
    one = qkv.numel() // 3

    def attend() -> Tensor:
        return natten_core.na2d_qkvpacked(qkv, 5, rpb=rpb, backend="cpu")

    assert allocations(attend) == [one * dtype.itemsize, one // 16 * compute.itemsize]
    assert of_backward(attend(), [qkv, rpb]) == [3 * one * dtype.itemsize, rpb.numel() * compute.itemsize]


@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_block(layer_scale: float | None) -> None:
    block = NeighborhoodBlock(DIM, HEADS, 3, mlp_ratio=HIDDEN / DIM, layer_scale=layer_scale)
    x = torch.randn(*MAPS[2], DIM, requires_grad=True)
    tokens = math.prod(MAPS[2])
    one, hidden = 4 * tokens * DIM, 4 * tokens * HIDDEN
    norm, scaled = [one, 4 * tokens, 4 * tokens], [] if layer_scale is None else [one]
    attention = [3 * one, one, 4 * tokens * HEADS, one]
    add = [one]
    forward = [*norm, *attention, *scaled, *add, *norm, hidden, hidden, one, *scaled, *add]
    assert allocations(lambda: block(x)) == forward

    # Maps alone: how many smaller ones torch's layer norm and sums take is its own affair. The gradient of a scaled
    # branch takes two, its own and that of every channel at every token; two branches meet in one sum, the other is in
    # place.
    scaled_back = [one] * 2 if layer_scale is not None else []
    mlp_back, attention_back, norm_back = [hidden, hidden, one], [one, 3 * one, one], [one]
    backward = [*scaled_back, *mlp_back, *norm_back, *add, *scaled_back, *attention_back, *norm_back]
    assert [size for size in of_backward(block(x), [x, *block.parameters()]) if size >= one] == backward


def test_a_copy_is_seen() -> None:
    """The count itself: a permuted copy shows."""
    linear, x = nn.Linear(DIM, DIM), torch.randn(2, 5, 6, DIM)
    with torch.no_grad():
        plain = allocations(lambda: linear(x))
        permuted = allocations(lambda: linear(x).transpose(1, 2).contiguous())
    assert permuted == plain * 2
