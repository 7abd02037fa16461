"""What is timed: the attention layers of DiNAT-Tiny at 224x224, a few large ones, and videos."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Neighborhood attention with a bias, on one packed projection: of square maps, or of `frames` of them."""

    name: str
    batch: int
    length: int
    heads: int
    dilation: int = 1
    kernel: int = 7
    head_dim: int = 32
    dtype: torch.dtype = torch.bfloat16
    tf32: bool = False  # whether products of float32 may be in TF32
    device: str = "cuda"
    frames: int = 0
    kernel_frames: int = 1

    @property
    def spatial(self) -> tuple[int, ...]:
        return (*((self.frames,) if self.frames else ()), self.length, self.length)

    @property
    def window(self) -> tuple[int, ...]:
        return (*((self.kernel_frames,) if self.frames else ()), self.kernel, self.kernel)

    @property
    def dilations(self) -> tuple[int, ...]:
        return (*((1,) if self.frames else ()), self.dilation, self.dilation)

    @property
    def tensor_bytes(self) -> int:
        return self.batch * math.prod(self.spatial) * self.heads * self.head_dim * self.dtype.itemsize

    def floor_us(self, mode: str, copy_gbs: float) -> float:
        """What moving once takes: q, k, v and the output; backward these, the output's gradient and three more."""
        return self.tensor_bytes * (4 if mode == "forward" else 8) / copy_gbs / 1e3

    def flops(self, mode: str) -> int:
        pairs = self.batch * self.heads * math.prod(self.spatial) * math.prod(self.window)
        return 2 * self.head_dim * pairs * (2 if mode == "forward" else 5)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [B, *spatial, 3, heads, head_dim], rpb, and a gradient of the output; reproducibly random."""
        generator = torch.Generator(self.device).manual_seed(0)

        def random(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype, device=self.device)

        lead = (self.batch, *self.spatial)
        bias = (self.heads, *(2 * kernel - 1 for kernel in self.window))
        qkv = random(*lead, 3, self.heads, self.head_dim)
        return qkv, random(*bias, dtype=torch.float32), random(*lead, self.heads, self.head_dim)

    def describe(self) -> str:
        dtype = "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")
        spatial = "x".join(map(str, self.spatial))
        kernel = "x".join(map(str, self.window)) if self.frames else self.kernel
        return (
            f"{self.name}: B{self.batch} {spatial} heads {self.heads} head_dim {self.head_dim} "
            f"kernel {kernel} dilation {self.dilation} {dtype}"
        )


DTYPES: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "fp32": {"dtype": torch.float32},
    "tf32": {"dtype": torch.float32, "tf32": True},
}
LEVELS = (("level1", 56, 2, 8), ("level2", 28, 4, 4), ("level3", 14, 8, 2), ("level4", 7, 16, 1))


def problems(batches: list[int], dtypes: list[str]) -> list[Problem]:
    """DiNAT-Tiny's layers, plain and dilated, in some of `DTYPES`."""
    return [
        Problem(f"{name}{'-dilated' if d > 1 else ''}", batch, length, heads, d, **DTYPES[dtype])
        for dtype in dtypes
        for batch in batches
        for name, length, heads, dilation in LEVELS
        for d in sorted({1, dilation})
    ]


OTHERS = (
    Problem("kernel-3", 64, 56, 2, kernel=3),
    Problem("kernel-13", 64, 56, 2, kernel=13),
    Problem("head-dim-64", 64, 56, 2, head_dim=64),
    Problem("head-dim-128", 64, 28, 2, head_dim=128),
    Problem("head-dim-31", 64, 56, 2, head_dim=31),  # on padded copies
    Problem("gradual", 64, 56, 2, dilation=4),
    Problem("large-map", 4, 224, 2),
    Problem("large-map-dilated", 4, 224, 2, dilation=16),
    Problem("video", 8, 28, 4, frames=8, kernel_frames=3),
    Problem("video-head-dim-64", 8, 28, 2, head_dim=64, frames=8, kernel_frames=3),
)


def others(dtypes: list[str]) -> list[Problem]:
    """Beyond the models of the papers: other kernels and head_dims, gradual dilation, large maps, videos."""
    return [replace(problem, **DTYPES[dtype]) for dtype in dtypes for problem in OTHERS]
