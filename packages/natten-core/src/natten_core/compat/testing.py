"""`natten.utils.testing`: decorators of unittest methods, which skip them where what they need is absent."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from natten_core.compat.capabilities import has_cuda, has_fp64_gemm, has_gemm

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _skip_unless(name: str, condition: Callable[[], bool], reason: str) -> Callable[[], Decorator]:
    def skip_if() -> Decorator:
        def decorator(test: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(test)
            def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
                if not condition():
                    self.skipTest(reason)
                return test(self, *args, **kwargs)

            return wrapped

        return decorator

    skip_if.__name__ = skip_if.__qualname__ = name
    skip_if.__doc__ = f"Skips a test method: {reason}."
    return skip_if


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _has_triton() -> bool:
    return has_cuda() and _has_module("triton")


def fna_supports_additional_kv(head_dim: int | None = None, device_index: Any = None) -> bool:
    """True: the fused operators take additional keys and values of any head_dim, on every device."""
    return True


skip_if_cuda_is_not_supported = _skip_unless(
    "skip_if_cuda_is_not_supported", has_cuda, "there are no CUDA kernels here"
)
skip_if_fna_is_not_supported = _skip_unless(
    "skip_if_fna_is_not_supported", has_cuda, "there are no fused CUDA kernels here"
)
skip_if_gemm_is_not_supported = _skip_unless(
    "skip_if_gemm_is_not_supported", has_gemm, "natten-core has no GEMM-based kernels"
)
skip_if_gemm_does_not_support_double_precision = _skip_unless(
    "skip_if_gemm_does_not_support_double_precision", has_fp64_gemm, "natten-core has no GEMM-based kernels"
)
skip_if_nested_is_not_supported = _skip_unless(
    "skip_if_nested_is_not_supported", lambda: hasattr(torch, "nested"), "this torch has no nested tensors"
)
skip_if_experimental_ops_are_not_supported = _skip_unless(
    "skip_if_experimental_ops_are_not_supported", lambda: hasattr(torch, "library"), "this torch has no torch.library"
)
skip_if_fvcore_is_not_available = _skip_unless(
    "skip_if_fvcore_is_not_available", lambda: _has_module("fvcore"), "fvcore is not installed"
)
skip_if_triton_is_not_supported = _skip_unless(
    "skip_if_triton_is_not_supported", _has_triton, "there is no Triton or no GPU here"
)
skip_if_torch_compile_is_not_supported = _skip_unless(
    "skip_if_torch_compile_is_not_supported", _has_triton, "there is no Triton or no GPU here"
)
skip_if_torch_flop_count_is_not_supported = _skip_unless(
    "skip_if_torch_flop_count_is_not_supported",
    lambda: _has_module("torch.utils.flop_counter"),
    "this torch counts no FLOPs",
)
