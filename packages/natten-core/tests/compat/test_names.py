"""Names and signatures of every version, as clients and NATTEN's own tests import and call them."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

import pytest

OLD = "dim, num_heads, kernel_size, dilation=1, bias=True, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0"
MIDDLE = (
    "dim, num_heads, kernel_size, dilation=1, is_causal=False, rel_pos_bias=False, qkv_bias=True, qk_scale=None, "
    "attn_drop=0.0, proj_drop=0.0, use_experimental_ops=False"
)
NEW = (
    "embed_dim, num_heads, kernel_size, stride=1, dilation=1, is_causal=False, qkv_bias=True, qk_scale=None, "
    "proj_drop=0.0"
)
FUSED_NEW = (
    "query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None, additional_keys=None, "
    "additional_values=None, attention_kwargs=None, backend=None, q_tile_shape=None, kv_tile_shape=None, "
    "backward_q_tile_shape=None, backward_kv_tile_shape=None, backward_kv_splits=None, "
    "backward_use_pt_reduction=False, run_persistent_kernel=True, kernel_schedule=None, torch_compile=False, "
    "return_lse=False"
)
QK = "query, key, kernel_size, dilation=1, additional_keys=None, is_causal=False, rpb=None"
AV = "attn, value, kernel_size, dilation=1, additional_values=None, is_causal=False"
DEEP = "kernel_size_d, kernel_size, dilation_d, dilation"
# In natten.functional, or as the path says; * is every rank that is named.
SIGNATURES = {
    "0.14": {
        "natten:NeighborhoodAttention[12]D": OLD,
        "natten[12]dqkrpb": "query, key, rpb, kernel_size, dilation=None",
        "natten[12]dqk": QK,
        "natten[12]dav": "attn, value, kernel_size, dilation=None, additional_values=None",
        "natten.flops:get_flops": "model, input, disable_warnings=False",
        "natten.flops:add_natten_handle": "flop_ctr",
    },
    "0.15": {
        "natten:NeighborhoodAttention[12]D": OLD,
        "natten:NeighborhoodAttention[3]D": OLD.replace(
            "kernel_size, dilation=1", "kernel_size, kernel_size_d=None, dilation=1, dilation_d=None"
        ),
        "natten[12]dqkrpb": "query, key, rpb, kernel_size, dilation=None",
        "natten[3]dqkrpb": f"query, key, rpb, {DEEP}",
        "natten[3]dqk": f"query, key, {DEEP}, additional_keys=None",
        "natten[3]dav": f"attn, value, {DEEP}, additional_values=None",
        "na[12]d_qk": QK,
        "na[12]d_av": AV,
        "na[12]d_qk_with_bias": "query, key, bias, kernel_size, dilation, additional_keys=None",
        "na[3]d_qk_with_bias": f"query, key, bias, {DEEP}, additional_keys=None",
        "na[3]d_qk": f"query, key, {DEEP}, additional_keys=None",
        "na[3]d_av": f"attn, value, {DEEP}, additional_values=None",
    },
    "0.17": {
        "natten:NeighborhoodAttention[123]D": MIDDLE,
        "na[123]d_qk": QK,
        "na[123]d_av": AV,
        "na[123]d": "query, key, value, kernel_size, dilation=1, is_causal=False, rpb=None, scale=None, "
        "additional_keys=None, additional_values=None, xformers_kwargs=None",
        "natten.flex:flex_na[123]d": "query, key, value, kernel_size, dilation=1, is_causal=False, "
        "additional_keys=None, additional_values=None, xformers_kwargs=None",
        "natten[12]dqkrpb": "query, key, rpb, kernel_size, dilation=None",
        "natten[3]dqkrpb": f"query, key, rpb, {DEEP}",
        "natten.utils:check_all_args": "na_dim, kernel_size, dilation, is_causal",
        "natten.utils:get_num_na_weights": "kernel_size",
        "natten:use_fused_na": "mode=True, kv_parallel=True, use_flex_attention=False, force_flex_attention=False",
        "natten:use_autotuner": "forward_pass=None, backward_pass=None, thorough_mode_forward=None, "
        "thorough_mode_backward=None, warmup_steps_forward=None, warmup_steps_backward=None, steps_forward=None, "
        "steps_backward=None",
    },
    "0.21": {
        "natten:NeighborhoodAttention[123]D": NEW,
        "na[123]d": FUSED_NEW,
        "merge_attentions": "outputs, lse_tensors, torch_compile=True, use_autograd_fix=True",
        "natten.utils.checks:check_all_args": "na_dim, kernel_size, stride, dilation, is_causal",
    },
}
SWITCHES = (
    "use_fused_na use_fna is_fused_na_enabled is_fna_enabled use_autotuner disable_autotuner is_autotuner_enabled "
    "is_autotuner_enabled_for_forward is_autotuner_enabled_for_backward is_autotuner_thorough_for_forward "
    "is_autotuner_thorough_for_backward use_kv_parallelism_in_fused_na is_kv_parallelism_in_fused_na_enabled "
    "set_memory_usage_preference get_memory_usage_preference is_memory_usage_default is_memory_usage_strict "
    "is_memory_usage_unrestricted use_deterministic_algorithms are_deterministic_algorithms_enabled use_tiled_na "
    "use_gemm_na use_tf32_in_gemm_na is_tiled_na_enabled is_gemm_na_enabled is_tf32_in_gemm_na_enabled "
    "use_flex_attention force_flex_attention has_cuda has_half has_bfloat has_gemm has_fna has_fused_na has_tf32_gemm "
    "has_fp32_gemm has_fp64_gemm"
)
OLD_SWITCHES = "enable_gemm_na disable_gemm_na enable_tf32 disable_tf32 enable_tiled_na disable_tiled_na"
SKIPS = "cuda_is_not_supported gemm_is_not_supported gemm_does_not_support_double_precision nested_is_not_supported"
MORE_SKIPS = (
    "fna_is_not_supported experimental_ops_are_not_supported fvcore_is_not_available triton_is_not_supported "
    "torch_compile_is_not_supported torch_flop_count_is_not_supported"
)
NAMES = {
    "0.14": {
        "natten.functional": "NATTEN1DQKRPBFunction NATTEN1DAVFunction NATTEN2DQKRPBFunction NATTEN2DAVFunction",
        "natten.natten1d": "NeighborhoodAttention1D",
        "natten.natten2d": "NeighborhoodAttention2D",
    },
    "0.15": {
        "natten": f"{OLD_SWITCHES} has_cuda has_half has_bfloat has_gemm has_tf32_gemm has_fp32_gemm has_fp64_gemm",
        "natten.functional": "natten1dqk natten2dqk natten1dav natten2dav has_cuda enable_tf32",
        "natten.natten3d": "NeighborhoodAttention3D",
        "natten.utils.testing": " ".join(f"skip_if_{name}" for name in SKIPS.split()),
    },
    "0.17": {
        "natten": f"{SWITCHES} {OLD_SWITCHES}",
        "natten.functional": "natten1dqk natten2dqk natten3dqk natten1dav natten2dav natten3dav",
        "natten.context": f"{SWITCHES} NattenContext AutotunerContext MemoryUsagePreference",
        "natten.experimental": "na1d na2d na3d",
        "natten.na1d": "NeighborhoodAttention1D",
        "natten.natten2d": "NeighborhoodAttention2D",
        "natten.utils": "check_kernel_size_arg check_dilation_arg check_causal_arg check_input_size_arg",
        "natten.utils.log": "get_logger",
        "natten.utils.testing": " ".join(f"skip_if_{name}" for name in f"{SKIPS} {MORE_SKIPS}".split())
        + " fna_supports_additional_kv",
    },
    "0.21": {
        "natten": "HAS_LIBNATTEN na1d na2d na3d attention merge_attentions use_kv_parallelism_in_fused_na "
        "is_kv_parallelism_in_fused_na_enabled set_memory_usage_preference use_deterministic_algorithms "
        "allow_flex_compile allow_flex_compile_backprop disable_flex_compile disable_flex_compile_backprop "
        "is_flex_compile_allowed is_flex_compile_backprop_allowed",
        "natten.functional": "attention neighborhood_attention_generic",
        "natten.modules": "NeighborhoodAttention1D NeighborhoodAttention2D NeighborhoodAttention3D",
        "natten.context": "NattenContext set_memory_usage_preference",
    },
}
ABSENT = {
    "0.14": "natten:has_cuda natten.functional:na2d_qk natten.functional:na2d natten:NeighborhoodAttention3D",
    "0.15": "natten:has_fused_na natten.functional:na2d natten.functional:NATTEN2DAVFunction",
    "0.17": "natten.functional:na2d_qk_with_bias natten:attention",
    "0.21": "natten:use_fused_na natten:has_gemm natten.functional:na2d_qk natten:use_autotuner",
}


def signature(function: Any) -> str:
    parts = []
    for name, parameter in inspect.signature(function).parameters.items():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        parts.append(name if parameter.default is parameter.empty else f"{name}={parameter.default!r}")
    return ", ".join(parts)


def spelled_out(pattern: str) -> list[tuple[str, str]]:
    """Module and name, for every rank in the brackets."""
    module, _, name = pattern.rpartition(":")
    before, bracket, rest = name.partition("[")
    if not bracket:
        return [(module or "natten.functional", name)]
    ranks, after = rest.split("]")
    return [(module or "natten.functional", before + rank + after) for rank in ranks]


@pytest.mark.parametrize(("natten", "version"), [(version, version) for version in SIGNATURES], indirect=["natten"])
def test_signatures(natten: ModuleType, version: str) -> None:
    for pattern, expected in SIGNATURES[version].items():
        for module, name in spelled_out(pattern):
            found = getattr(importlib.import_module(module), name)
            assert found.__doc__
            assert signature(found) == expected, f"{version} {module}.{name}"


@pytest.mark.parametrize(("natten", "version"), [(version, version) for version in NAMES], indirect=["natten"])
def test_names(natten: ModuleType, version: str) -> None:
    for module, names in NAMES[version].items():
        for name in names.split():
            assert hasattr(importlib.import_module(module), name), f"{version} {module}.{name}"


@pytest.mark.parametrize(("natten", "version"), [(version, version) for version in ABSENT], indirect=["natten"])
def test_what_that_version_did_not_have(natten: ModuleType, version: str) -> None:
    for path in ABSENT[version].split():
        module, name = path.split(":")
        assert not hasattr(importlib.import_module(module), name), f"{version} {path}"
    if version == "0.21":
        assert importlib.util.find_spec("natten.flops") is None
