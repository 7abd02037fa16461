"""16-bit tensors on the CPU kernels, which read and write them as they are and sum in fp32.

They multiply in fp32 too, but for bf16 where the instruction set has products of bf16, by pairs or by tiles.
"""

from __future__ import annotations

import math

import pytest
import torch

import natten_core

pytestmark = pytest.mark.kernels
HALVES = (torch.float16, torch.bfloat16)


def multiplies(dtype):
    """Whether the kernels multiply numbers of this type, and not the fp32 numbers that they are."""
    isa = natten_core.build_info()["isa_active"]
    return dtype == torch.bfloat16 and (isa == "avx512_bf16" or isa.startswith("amx"))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("head_dim", [1, 16, 21])
def test_every_value_is_widened_and_rounded_exactly(dtype, head_dim):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    padding = -len(bits) % head_dim
    value = torch.cat([bits, bits[:padding]]).view(dtype).view(1, -1, 1, head_dim)
    zeros = torch.zeros_like(value)
    output = natten_core.na1d(zeros, zeros, value, 1, backend="cpu")
    assert torch.equal(output.isnan(), value.isnan())
    seen = ~value.isnan()
    assert torch.equal(output[seen], value[seen])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("spatial", "kernel_size", "dilation", "head_dim", "window"),
    [
        ((57,), 5, 3, 24, {}),
        ((14, 23), 7, (2, 1), 32, {}),
        ((9, 150), (3, 7), (1, 2), 7, {}),
        ((5, 9, 11), (3, 3, 5), 1, 17, {}),
        ((14, 23), 7, (2, 1), 32, {"is_causal": True}),
        ((19, 23), (4, 6), 1, 16, {"stride": (4, 3), "is_causal": (True, False)}),
        ((5, 9, 11), (3, 4, 5), 1, 17, {"stride": (1, 2, 3), "is_causal": (True, True, False)}),
    ],
)
def test_results_are_those_of_fp32_rounded(dtype, spatial, kernel_size, dilation, head_dim, window):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, *spatial, 3, 3, head_dim, generator=generator).to(dtype).requires_grad_()
    kernel = (kernel_size,) * len(spatial) if isinstance(kernel_size, int) else kernel_size
    rpb = torch.randn(3, *(2 * size - 1 for size in kernel), generator=generator, requires_grad=True)
    grad = torch.randn(2, *spatial, 3, head_dim, generator=generator).to(dtype)
    packed_op = getattr(natten_core, f"na{len(spatial)}d_qkvpacked")

    def run(qkv, grad):
        settings = {"dilation": dilation, "rpb": rpb, "return_lse": True, **window}
        output, lse = packed_op(qkv, kernel_size, **settings, backend="cpu")
        return output, lse, *torch.autograd.grad(output, (qkv, rpb), grad)

    half = run(qkv, grad)
    wide = run(qkv.detach().float().requires_grad_(), grad.float())
    output, lse, dqkv, drpb = (result.to(expected.dtype) for result, expected in zip(wide, half, strict=True))
    assert [result.dtype for result in half] == [dtype, torch.float32, dtype, torch.float32]
    if multiplies(dtype):
        # Weights are rounded to bf16 before they are summed with; scores, lse and the bias gradient have no part in it.
        torch.testing.assert_close(half[1], lse, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(half[3], drpb, rtol=1e-5, atol=1e-5)
        for found, expected in ((half[0], output), *zip(half[2].unbind(-3), dqkv.unbind(-3), strict=True)):
            error = (found.float() - expected.float()).abs().max()
            assert error <= torch.finfo(dtype).eps * expected.abs().max()
        return
    assert torch.equal(half[0], output)
    assert torch.equal(half[1], lse)
    assert torch.equal(half[2][..., 0, :, :], dqkv[..., 0, :, :])
    assert torch.equal(half[3], drpb)
    # Gradients of keys that two bands or tiles share are rounded once more, as they are added up in memory.
    torch.testing.assert_close(half[2], dqkv, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [0.0, -0.3, 1e-25, 1e-19, 7.0])
@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_any_scale(scale, kernel_size):
    """Where bf16 is multiplied as it is, the bias is divided by the scale: not by any."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 9, 17, 2, 9, generator=generator).bfloat16()
    rpb = torch.randn(2, 2 * kernel_size - 1, 2 * kernel_size - 1, generator=generator)
    half = natten_core.na2d(query, key, value, kernel_size, scale=scale, rpb=rpb, backend="cpu")
    exact = natten_core.na2d(
        query.double(), key.double(), value.double(), kernel_size, scale=scale, rpb=rpb.double(), backend="reference"
    )
    assert (half - exact).abs().max() <= torch.finfo(half.dtype).eps * exact.abs().max()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1])
def test_any_nan_stays_one(bits):
    query, key, value = torch.randn(3, 1, 8, 8, 1, 16).bfloat16()
    rpb = torch.full((1, 5, 5), bits, dtype=torch.int32).view(torch.float32)
    assert natten_core.na2d(query, key, value, 3, rpb=rpb, backend="cpu").isnan().all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("spatial", "kernel_size", "dilation", "head_dim"),
    [
        ((57,), (5,), 3, 24),
        ((14, 23), (7, 7), (2, 1), 32),
        ((9, 150), (3, 2), (1, 2), 7),
        ((5, 9, 11), (1, 3, 5), 1, 17),
    ],
)
def test_two_stages_are_those_of_fp32_rounded(dtype, spatial, kernel_size, dilation, head_dim):
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = torch.randn(4, 2, *spatial, 3, head_dim, generator=generator).to(dtype)
    rpb = torch.randn(3, *(2 * size - 1 for size in kernel_size), generator=generator)
    weights = torch.rand(2, *spatial, 3, math.prod(kernel_size), generator=generator).to(dtype)
    rank, settings = len(spatial), {"dilation": dilation, "backend": "cpu"}
    qk, av = getattr(natten_core, f"na{rank}d_qk"), getattr(natten_core, f"na{rank}d_av")

    def run(dtype):
        q, k, v, a, b = (t.to(dtype).requires_grad_() for t in (query, key, value, weights, rpb.to(query.dtype)))
        scores = qk(q, k, kernel_size, rpb=b, **settings)
        output = av(a, v, kernel_size, **settings)
        return {
            "scores": scores,
            "output": output,
            **dict(zip(("dq", "db", "dk"), torch.autograd.grad(scores, (q, b, k), weights.to(dtype)), strict=True)),
            **dict(zip(("da", "dv"), torch.autograd.grad(output, (a, v), grad.to(dtype)), strict=True)),
        }

    half, wide = run(dtype), run(torch.float32)
    assert all(result.dtype == dtype for result in half.values())
    eps = torch.finfo(dtype).eps
    for name, result in half.items():
        if name in ("dk", "dv"):  # as above
            torch.testing.assert_close(result.float(), wide[name], rtol=2 * eps, atol=2 * eps)
        elif multiplies(dtype):  # exact products, summed in another order
            torch.testing.assert_close(result.float(), wide[name], rtol=0.501 * eps, atol=1e-5)
        else:
            assert torch.equal(result, wide[name].to(dtype)), name
