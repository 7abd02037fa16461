"""Which name of which module answers with what, for every version of NATTEN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from natten_core.compat import (
    capabilities,
    checks,
    flops,
    fused_017,
    fused_021,
    heads_first,
    legacy,
    log,
    modules_014,
    modules_017,
    modules_021,
    switches,
    testing,
)

Names: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Era:
    """A version of NATTEN: its last release, and the contents of its modules by their full names."""

    release: str
    modules: Callable[[], dict[str, Names]]


def _from(module: ModuleType, *names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _ranked(module: ModuleType, *patterns: str, ranks: tuple[int, ...] = (1, 2, 3)) -> dict[str, Any]:
    """The names with a rank in the place of `*`."""
    return _from(module, *(pattern.replace("*", str(rank)) for pattern in patterns for rank in ranks))


def _public(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that a module of this package defines, without those of others."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


_HAS = ("has_cuda", "has_half", "has_bfloat", "has_gemm", "has_tf32_gemm", "has_fp32_gemm", "has_fp64_gemm")
_ENABLE = tuple(f"{verb}_{what}" for what in ("gemm_na", "tf32", "tiled_na") for verb in ("enable", "disable"))
_UNFUSED = ("natten*dqkrpb", "natten*dqk", "natten*dav")
_CHECKS = (
    "check_all_args",
    "check_causal_arg",
    "check_dilation_arg",
    "check_input_size_arg",
    "check_kernel_size_arg",
    "get_num_na_weights",
)
_SKIPS = _public(testing)
_LOG = {"natten.utils.log": _public(log)}
_GONE_SINCE_020 = ("fna", "use_fused", "is_fused", "autotuner", "Autotuner", "flex_attention")
_CONTEXTS = ("NattenContext", "AutotunerContext", "MemoryUsagePreference")


def _v014() -> dict[str, Names]:
    modules = _ranked(modules_014, "NeighborhoodAttention*D", ranks=(1, 2))
    functions = _ranked(legacy, *_UNFUSED, "NATTEN*DQKRPBFunction", "NATTEN*DAVFunction", ranks=(1, 2))
    return {
        "natten": modules,
        "natten.functional": functions,
        "natten.flops": flops.functions(additions=1),
        **_module_files(modules_014, "natten.natten*d", (1, 2)),
    }


def _v015() -> dict[str, Names]:
    questions = _from(capabilities, *_HAS, *_ENABLE)
    functions = {
        **_ranked(heads_first, "na*d_qk", "na*d_av", ranks=(1, 2)),
        **_ranked(legacy, "na*d_qk_with_bias", *_UNFUSED),
        **_from(legacy, "na3d_qk", "na3d_av"),
    }
    return {
        "natten": {**_ranked(modules_014, "NeighborhoodAttention*D"), **questions},
        "natten.functional": {**functions, **questions},
        "natten.flops": flops.functions(additions=1),
        "natten.utils": {},
        "natten.utils.testing": {
            name: _SKIPS[name]
            for name in (
                "skip_if_cuda_is_not_supported",
                "skip_if_gemm_is_not_supported",
                "skip_if_gemm_does_not_support_double_precision",
                "skip_if_nested_is_not_supported",
            )
        },
        **_module_files(modules_014, "natten.natten*d", (1, 2, 3)),
    }


def _v017() -> dict[str, Names]:
    context = {
        **{name: value for name, value in _public(switches).items() if "flex_compile" not in name},
        **_public(capabilities),
    }
    return {
        "natten": {
            **_ranked(modules_017, "NeighborhoodAttention*D"),
            **{name: value for name, value in context.items() if name not in _CONTEXTS},
        },
        "natten.functional": {
            **_ranked(heads_first, "na*d_qk", "na*d_av"),
            **_ranked(fused_017, "na*d"),
            **_ranked(legacy, *_UNFUSED),
        },
        "natten.context": context,
        "natten.experimental": _ranked(fused_017, "na*d"),
        "natten.flex": _ranked(fused_017, "flex_na*d"),
        "natten.flops": flops.functions(additions=0),
        "natten.libnatten": _from(fused_017, "compute_delta"),
        "natten.utils": _from(checks, *_CHECKS),
        "natten.utils.checks": _from(checks, *_CHECKS),
        "natten.utils.testing": _SKIPS,
        **_LOG,
        **_module_files(modules_017, "natten.na*d", (1, 2, 3)),
        **_module_files(modules_017, "natten.natten*d", (1, 2, 3)),
    }


def _v021() -> dict[str, Names]:
    context = {
        name: value for name, value in _public(switches).items() if not any(word in name for word in _GONE_SINCE_020)
    }
    functions = {**_ranked(fused_021, "na*d"), **_from(fused_021, "attention", "merge_attentions")}
    modules = _ranked(modules_021, "NeighborhoodAttention*D")
    return {
        "natten": {
            **functions,
            **modules,
            **{name: value for name, value in context.items() if name not in _CONTEXTS},
            "HAS_LIBNATTEN": capabilities.has_cuda(),
        },
        "natten.functional": {**functions, **_from(fused_021, "neighborhood_attention_generic")},
        "natten.modules": modules,
        "natten.context": context,
        "natten.utils": {},
        "natten.utils.checks": {
            **_from(checks, "check_stride_arg", *_CHECKS),
            "check_all_args": checks.check_all_args_with_stride,
        },
        **_LOG,
    }


def _module_files(module: ModuleType, pattern: str, ranks: tuple[int, ...]) -> dict[str, Names]:
    """One module for the class of every rank, as `torch.save` of a whole model names it."""
    return {
        pattern.replace("*", str(rank)): _ranked(module, "NeighborhoodAttention*D", ranks=(rank,)) for rank in ranks
    }


ERAS = {
    "0.14": Era("0.14.6", _v014),
    "0.15": Era("0.15.1", _v015),
    "0.17": Era("0.17.5", _v017),
    "0.21": Era("0.21.0", _v021),
}
