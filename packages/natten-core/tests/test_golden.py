from __future__ import annotations

from typing import Any

import natten_golden
import pytest
import torch

from natten_core import neighborhood_attention

OPS, OPS_STRIDED = natten_golden.cases("ops"), natten_golden.cases("ops_strided")


@pytest.fixture(scope="module")
def ops() -> dict[str, Any]:
    return natten_golden.arrays("ops")


@pytest.fixture(scope="module")
def ops_strided() -> dict[str, Any]:
    return natten_golden.arrays("ops_strided")


def close(ours: torch.Tensor, golden: Any, tolerance: float) -> None:
    torch.testing.assert_close(ours.detach().float(), torch.from_numpy(golden), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", OPS)
def test_values_and_gradients_of_natten_0_17(name: str, dtype: torch.dtype, backend: str, ops: dict[str, Any]) -> None:
    case = OPS[name]
    heads_first = (case["batch"], case["heads"], *case["spatial"], case["head_dim"])
    q, k, v, grad = (
        natten_golden.uniform(f"{name}/{which}", heads_first).movedim(1, -2).to(dtype).contiguous()
        for which in ("q", "k", "v", "grad_out")
    )
    tensors = {"dq": q, "dk": k, "dv": v}
    if case["bias"]:
        table = (case["heads"], *(2 * kernel - 1 for kernel in case["kernel_size"]))
        tensors["drpb"] = natten_golden.uniform(f"{name}/rpb", table).to(dtype)
    for tensor in tensors.values():
        tensor.requires_grad_()
    settings = {setting: tuple(case[setting]) for setting in ("kernel_size", "dilation", "is_causal")}
    output = neighborhood_attention(q, k, v, **settings, rpb=tensors.get("drpb"), backend=backend)
    found = dict(zip(tensors, torch.autograd.grad(output, tuple(tensors.values()), grad), strict=True))
    tolerance = 2e-7 if dtype == torch.float64 else 4e-6  # the golden numbers are stored as float32
    close(output.movedim(-2, 1), ops[f"{name}/out"], tolerance)
    for which, gradient in found.items():
        close(gradient if which == "drpb" else gradient.movedim(-2, 1), ops[f"{name}/{which}"], tolerance)


@pytest.mark.parametrize("name", OPS_STRIDED)
def test_values_of_natten_0_21(name: str, backend: str, ops_strided: dict[str, Any]) -> None:
    case = OPS_STRIDED[name]
    sizes = {"q": case["heads"], "k": case["kv_heads"], "v": case["kv_heads"]}
    q, k, v = (
        natten_golden.uniform(f"{name}/{which}", (case["batch"], *case["spatial"], heads, case["head_dim"])).float()
        for which, heads in sizes.items()
    )
    settings = {setting: tuple(case[setting]) for setting in ("kernel_size", "stride", "dilation", "is_causal")}
    if case["additional"]:
        shape = (case["batch"], case["additional"], case["kv_heads"], case["head_dim"])
        settings["additional_keys"] = natten_golden.uniform(f"{name}/ak", shape).float()
        settings["additional_values"] = natten_golden.uniform(f"{name}/av", shape).float()
    output, lse = neighborhood_attention(q, k, v, **settings, return_lse=True, backend=backend)
    close(output, ops_strided[f"{name}/out"], 1e-6)
    close(lse, ops_strided[f"{name}/lse"], 1e-6)
