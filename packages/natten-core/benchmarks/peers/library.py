"""NATTEN itself, where it is installed: 0.21 has no kernels for CPUs but runs FlexAttention uncompiled, and no bias."""

from __future__ import annotations

from importlib import import_module

from harness.problems import Problem
from torch import Tensor


class Natten:
    """`natten.na1d`, `na2d` or `na3d` on the same tensors, without the bias.

    Raises:
        ImportError: NATTEN is not installed, or does not work with this torch.
    """

    def __init__(self, problem: Problem):
        self.settings = {"kernel_size": problem.kernel_size, "dilation": problem.dilation}
        self.function = getattr(import_module("natten"), f"na{problem.rank}d")

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        output: Tensor = self.function(query, key, value, **self.settings)
        return output
