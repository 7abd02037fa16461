"""The problems that the benchmark times, and the work that each one needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Problem:
    """Neighborhood attention with a relative positional bias; stride 1, not causal, one key head per query head."""

    name: str
    batch: int
    spatial: tuple[int, ...]
    heads: int
    head_dim: int
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def tokens(self) -> int:
        return math.prod(self.spatial)

    @property
    def window(self) -> int:
        """Keys per query."""
        return math.prod(self.kernel_size)

    @property
    def groups(self) -> tuple[int, ...]:
        """Lengths of the residue maps; a dilated problem is `prod(dilation)` plain ones of this size."""
        return tuple(length // d for length, d in zip(self.spatial, self.dilation, strict=True))

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (self.heads, *(2 * k - 1 for k in self.kernel_size))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one of query, key, value and output."""
        return self.batch * self.tokens * self.heads * self.head_dim * self.dtype.itemsize

    def flops(self, mode: str) -> int:
        """Multiplications and additions of the products alone: two products forward, four more backward.

        What an implementation computes beside them (keys outside a window, scores a second time) is not useful work.
        """
        product = 2 * self.batch * self.tokens * self.heads * self.head_dim * self.window
        return product * (2 if mode == "forward" else 6)

    def bytes(self, mode: str) -> int:
        """Bytes that must move: q, k, v in and the output out; backward also do and o in, and dq, dk, dv out."""
        return self.tensor_bytes * (4 if mode == "forward" else 12)

    def inputs(self, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key and value `[batch, *spatial, heads, head_dim]` and the bias table, reproducibly random."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, *self.spatial, self.heads, self.head_dim)
        query, key, value = (torch.randn(shape, generator=generator, dtype=self.dtype) for _ in range(3))
        return query, key, value, torch.randn(self.bias_shape, generator=generator, dtype=self.dtype)

    def describe(self) -> str:
        def joined(values: tuple[int, ...]) -> str:
            return "x".join(map(str, values))

        return (
            f"B{self.batch} {joined(self.spatial)} heads {self.heads} head_dim {self.head_dim} kernel "
            f"{joined(self.kernel_size)} dilation {joined(self.dilation)} {str(self.dtype).removeprefix('torch.')}"
        )


def square(
    name: str, batch: int, length: int, heads: int, head_dim: int = 32, kernel: int = 7, dilation: int = 1
) -> Problem:
    return Problem(name, batch, (length, length), heads, head_dim, (kernel, kernel), (dilation, dilation))


PROBLEMS = {
    problem.name: problem
    for problem in (
        square("p0-d1", 8, 56, 2),
        square("p0-d8", 8, 56, 2, dilation=8),
        square("28x28-d1", 8, 28, 4),
        square("28x28-d4", 8, 28, 4, dilation=4),
        square("14x14-d1", 8, 14, 8),
        square("14x14-d2", 8, 14, 8, dilation=2),
        square("7x7-d1", 8, 7, 16),
        Problem("1d-4096", 2, (4096,), 4, 32, (33,), (1,)),
        Problem("3d-16", 1, (16, 16, 16), 4, 32, (5, 5, 5), (1, 1, 1)),
        Problem("width-57", 8, (56, 57), 2, 32, (7, 7), (1, 1)),
        square("head-dim-24", 8, 56, 2, head_dim=24),
        Problem("bf16", 8, (56, 56), 2, 32, (7, 7), (1, 1), torch.bfloat16),
        Problem("bf16-d8", 8, (56, 56), 2, 32, (7, 7), (8, 8), torch.bfloat16),
        Problem("fp64", 8, (56, 56), 2, 32, (7, 7), (1, 1), torch.float64),
    )
}

SHORT = ("p0-d1", "p0-d8")

TINY = {
    problem.name: problem
    for problem in (
        square("tiny-d1", 2, 8, 2, head_dim=8, kernel=3),
        square("tiny-d2", 2, 8, 2, head_dim=8, kernel=3, dilation=2),
        Problem("tiny-1d", 2, (32,), 2, 8, (5,), (1,), torch.float64),
        Problem("tiny-3d", 1, (4, 4, 8), 2, 8, (3, 3, 3), (1, 1, 2)),
    )
}
