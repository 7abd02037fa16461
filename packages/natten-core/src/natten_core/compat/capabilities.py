"""What NATTEN could be asked about its kernels, answered for natten-core, and told of its unfused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from natten_core._info import build_info


def has_cuda() -> bool:
    """Whether torch sees a GPU and this build has kernels for it. Without, the same operators run in plain torch."""
    return torch.cuda.is_available() and bool(build_info()["cuda_architectures"])


def has_half(device_index: Any = None) -> bool:
    """Whether the CUDA kernels take float16."""
    return has_cuda()


def has_bfloat(device_index: Any = None) -> bool:
    """Whether the CUDA kernels take bfloat16, and the GPU knows it."""
    return has_cuda() and torch.cuda.get_device_capability(device_index) >= (8, 0)


def has_fna(device_index: Any = None) -> bool:
    """True: the fused operators run on every device."""
    return True


def has_gemm(device_index: Any = None) -> bool:
    """False: natten-core has no GEMM-based unfused kernels, and needs none."""
    return False


has_fused_na = has_fna
has_tf32_gemm = has_fp32_gemm = has_fp64_gemm = has_gemm


def _remembered(use: str, asked: str, doc: str, initially: bool) -> tuple[Callable[..., None], Callable[[], bool]]:
    state = [initially]

    def use_it(mode: bool = True) -> None:
        state[0] = mode

    def is_enabled() -> bool:
        return state[0]

    use_it.__name__, use_it.__doc__ = use, f"Remembers `mode`; natten-core has no {doc} to choose."
    is_enabled.__name__, is_enabled.__doc__ = asked, "What was set last."
    return use_it, is_enabled


use_tf32_in_gemm_na, is_tf32_in_gemm_na_enabled = _remembered(
    "use_tf32_in_gemm_na", "is_tf32_in_gemm_na_enabled", "TF32 kernels", False
)
use_tiled_na, is_tiled_na_enabled = _remembered("use_tiled_na", "is_tiled_na_enabled", "tiled kernels", True)
use_gemm_na, is_gemm_na_enabled = _remembered("use_gemm_na", "is_gemm_na_enabled", "GEMM-based kernels", True)


def _switch(use: Callable[..., None], asked: Callable[[], bool], name: str, mode: bool) -> Callable[[], bool]:
    def switch() -> bool:
        use(mode)
        return asked()

    switch.__name__ = switch.__qualname__ = name
    switch.__doc__ = f"`{use.__name__}({mode})`; returns what is set now."
    return switch


enable_tf32, disable_tf32 = (
    _switch(use_tf32_in_gemm_na, is_tf32_in_gemm_na_enabled, f"{verb}_tf32", mode)
    for verb, mode in (("enable", True), ("disable", False))
)
enable_tiled_na, disable_tiled_na = (
    _switch(use_tiled_na, is_tiled_na_enabled, f"{verb}_tiled_na", mode)
    for verb, mode in (("enable", True), ("disable", False))
)
enable_gemm_na, disable_gemm_na = (
    _switch(use_gemm_na, is_gemm_na_enabled, f"{verb}_gemm_na", mode)
    for verb, mode in (("enable", True), ("disable", False))
)
