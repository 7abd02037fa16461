"""The table of problems that every backend is tested on, and the arrays that go with them."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import natten_oracle
import torch
from torch import Tensor


class Case(NamedTuple):
    """One problem; what is left out is plain."""

    name: str
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    is_causal: tuple[bool, ...] | None = None
    batch: int = 2
    heads: int = 2
    heads_kv: int | None = None
    head_dim: int = 8
    head_dim_v: int | None = None
    additional: int | None = None
    bias: bool = True
    scale: float | None = None

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def plain(self) -> bool:
        """Whether it asks for sliding windows, and for as many heads of one size, by leaving out what else there is."""
        more = (self.stride, self.is_causal, self.heads_kv, self.head_dim_v, self.additional)
        return all(setting is None for setting in more)

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `neighborhood_attention` but for tensors."""
        ones = (1,) * self.rank
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride or ones,
            "dilation": self.dilation or ones,
            "is_causal": self.is_causal or (False,) * self.rank,
            "scale": self.scale,
        }

    def tensors(self, dtype: torch.dtype = torch.float64, *, requires_grad: bool = True) -> dict[str, Tensor]:
        """Random tensor arguments by name."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        kv = (self.heads_kv or self.heads, self.head_dim)
        shapes: dict[str, tuple[int, ...]] = {
            "query": (self.batch, *self.spatial, self.heads, self.head_dim),
            "key": (self.batch, *self.spatial, *kv),
            "value": (self.batch, *self.spatial, kv[0], self.head_dim_v or self.head_dim),
        }
        if self.bias:
            shapes["rpb"] = (self.heads, *(2 * kernel - 1 for kernel in self.kernel_size))
        if self.additional is not None:
            shapes["additional_keys"] = (self.batch, self.additional, *kv)
            shapes["additional_values"] = (self.batch, self.additional, kv[0], self.head_dim_v or self.head_dim)
        made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        return {name: tensor.to(dtype).requires_grad_(requires_grad) for name, tensor in made.items()}

    def oracle(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return natten_oracle.attention(**tensors, **self.settings)


CASES = [
    # kernel sizes and lengths
    Case("1d", (11,), (3,)),
    Case("1d-whole", (9,), (9,)),
    Case("1d-one-key", (5,), (1,)),
    Case("1d-one-token", (1,), (1,), heads=3),
    Case("1d-long", (151,), (13,), batch=1),
    Case("1d-wide", (70,), (51,), batch=1),
    Case("1d-even", (12,), (4,)),
    Case("1d-even-two", (7,), (2,), dilation=(3,)),
    Case("2d", (9, 10), (5, 5)),
    Case("2d-whole", (7, 7), (7, 7)),
    Case("2d-no-bias", (8, 9), (3, 3), bias=False),
    Case("2d-per-axis", (6, 13), (3, 7)),
    Case("2d-even", (9, 8), (4, 6)),
    Case("2d-prime", (13, 17), (7, 7), batch=1),
    Case("2d-thin", (1, 20), (1, 5)),
    Case("2d-column", (20, 1), (5, 1)),
    Case("2d-lanes", (8, 33), (7, 7), batch=1, head_dim=4),
    Case("3d", (4, 5, 6), (3, 3, 3), batch=1),
    Case("3d-per-axis", (4, 6, 7), (2, 3, 5), batch=1),
    # dilation
    Case("1d-dilated", (19,), (7,), dilation=(2,)),
    Case("1d-dilated-remainder", (17,), (3,), dilation=(5,)),
    Case("1d-dilated-most", (24,), (3,), dilation=(8,)),
    Case("2d-dilated", (14, 14), (7, 7), dilation=(2, 2), batch=1),
    Case("2d-dilated-remainder", (11, 13), (3, 3), dilation=(3, 4)),
    Case("2d-dilated-one-axis", (9, 12), (5, 3), dilation=(1, 4)),
    Case("2d-dilated-even", (13, 11), (4, 2), dilation=(3, 5)),
    Case("3d-dilated", (6, 7, 9), (3, 2, 3), dilation=(2, 3, 1), batch=1),
    # sizes of everything else
    Case("2d-head-dim-1", (7, 8), (3, 3), head_dim=1),
    Case("2d-head-dim-5", (7, 8), (3, 3), head_dim=5, heads=1),
    Case("2d-head-dim-32", (7, 8), (3, 3), head_dim=32),
    Case("2d-head-dim-67", (6, 7), (3, 3), head_dim=67, heads=1),
    Case("1d-head-dim-300", (13,), (5,), heads=1, head_dim=300),
    Case("2d-many-heads", (6, 7), (3, 3), heads=7, head_dim=3, batch=3),
    Case("2d-scale-zero", (7, 8), (3, 3), scale=0.0),
    Case("2d-scale-negative", (7, 8), (3, 3), scale=-0.7),
    # heads that share keys, values of another head_dim
    Case("1d-shared-odd", (40,), (5,), dilation=(3,), heads=3, heads_kv=1, head_dim=9, head_dim_v=20),
    Case("2d-grouped-wide", (11, 19), (5, 3), batch=1, heads=6, heads_kv=3, head_dim=24, head_dim_v=70),
    Case("2d-grouped-bands", (44, 5), (3, 3), batch=1, heads=4, heads_kv=2, head_dim=5, head_dim_v=2),
    Case("2d-grouped-columns", (5, 150), (3, 7), batch=1, heads=3, heads_kv=1, head_dim=4, head_dim_v=18),
    Case("2d-values-of-one", (9, 8), (3, 5), dilation=(2, 1), head_dim=33, head_dim_v=1),
    Case("3d-grouped", (4, 5, 7), (2, 3, 3), dilation=(1, 1, 2), heads=4, heads_kv=1, head_dim=7, head_dim_v=12),
    Case("1d-values-300", (13,), (5,), heads=2, heads_kv=1, head_dim=3, head_dim_v=300),
    # additional keys
    Case("1d-additional-bands", (1100,), (9,), batch=1, heads=2, heads_kv=1, head_dim=3, additional=5),
    Case("2d-additional-dilated", (15, 9), (3, 4), dilation=(3, 2), heads=4, heads_kv=2, head_dim=9, additional=18),
    Case("2d-additional-one", (44, 6), (3, 2), heads=3, heads_kv=3, head_dim=17, head_dim_v=5, additional=1),
    Case("3d-additional", (3, 4, 9), (2, 3, 2), batch=3, head_dim=6, head_dim_v=21, additional=4, bias=False),
    # stride and causal axes
    Case("1d-strided", (18,), (6,), stride=(3,)),
    Case("1d-strided-long", (200,), (6,), stride=(5,), batch=1),
    Case("1d-causal-strided-long", (200,), (6,), stride=(5,), is_causal=(True,), batch=1),
    Case("2d-strided-long", (23, 26), (5, 4), stride=(3, 4), dilation=(1, 2), batch=1),
    Case("1d-blocked", (13,), (4,), stride=(4,)),
    Case("1d-causal", (17,), (5,), dilation=(3,), is_causal=(True,)),
    Case("1d-causal-strided", (19,), (5,), stride=(3,), dilation=(2,), is_causal=(True,)),
    Case("2d-strided-per-axis", (12, 14), (5, 4), stride=(2, 4), dilation=(1, 2)),
    Case("2d-causal-one-axis", (9, 11), (3, 5), dilation=(2, 1), is_causal=(True, False)),
    Case("2d-causal-strided", (11, 13), (4, 5), stride=(2, 3), dilation=(2, 1), is_causal=(True, True)),
    Case("2d-strided-whole", (9, 21), (5, 7), stride=(5, 7), batch=1),
    Case("2d-causal-lanes", (8, 33), (7, 7), is_causal=(True, True), batch=1, head_dim=4),
    Case("2d-causal-short", (7, 6), (7, 6), is_causal=(True, True)),
    Case("2d-causal-dilated-short", (14, 23), (7, 7), dilation=(2, 3), is_causal=(False, True), batch=1),
    Case("3d-causal-time", (5, 6, 7), (3, 3, 5), is_causal=(True, False, False), batch=1),
    # everything
    Case("3d-everything", (6, 8, 7), (3, 4, 3), (1, 2, 1), (2, 1, 3), (True, False, False), 1, 4, 2, 5, 3, 2),
    Case("2d-strided-wide", (9, 40), (5, 9), stride=(5, 3), batch=1, head_dim=12),
    Case("3d-causal-strided", (7, 6, 9), (3, 2, 4), stride=(2, 2, 3), is_causal=(True, True, True), batch=1),
    Case("1d-causal-wide", (150,), (40,), is_causal=(True,), batch=1, heads=1),
    Case("1d-one-key-strided", (9,), (1,), dilation=(3,), is_causal=(True,), additional=2),
    Case("2d-bands", (40, 9), (3, 3), stride=(2, 1), batch=1, heads=1, head_dim=4),
    Case("1d-bands", (300,), (5,), batch=1, heads=2, heads_kv=1, head_dim=4, additional=9),
    Case("2d-grouped", (7, 8), (3, 3), heads=6, heads_kv=2),
    Case("2d-shared", (7, 8), (3, 3), heads=4, heads_kv=1),
    Case("2d-narrow-values", (7, 8), (3, 3), head_dim_v=3),
    Case("2d-wide-values", (7, 8), (3, 3), head_dim_v=19),
    Case("2d-additional", (7, 8), (3, 3), additional=5),
    Case("2d-additional-none", (7, 8), (3, 3), additional=0),
    Case("2d-additional-many", (7, 8), (3, 3), additional=37, head_dim_v=33),
    Case("1d-bias-last", (84,), (13,), batch=1, heads=1, head_dim=32),
    Case("1d-causal-head-dim-300", (13,), (5,), is_causal=(True,), heads=1, head_dim=300, head_dim_v=150),
    Case("3d-cancels", (3, 7, 7), (2, 3, 3), (1, 2, 1), None, None, 2, 2, 1, 3, 13, 4, False, -0.866),
    Case("1d-bias-alone", (74,), (15,), None, (13,), (True,), 1, 1, 1, 64, 35, 1, scale=7.45e-09),
    Case("2d-additional-grouped", (7, 8), (3, 3), heads=4, heads_kv=2, additional=3, head_dim_v=6),
]


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """Largest difference over the largest exact value."""
    return float((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-300)) if exact.numel() else 0.0


def check_error(
    name: str, ours: Tensor, same_dtype: Tensor, exact: Tensor, double_least: float = 0.0, terms: float = 0.0
) -> None:
    """Our error may be twice that of plain torch in the same dtype, and a few roundings of the largest value.

    In float64 plain torch is the exact value too, so that only the roundings are left, and there are more of them; of
    `double_least` where the largest value is smaller. `terms` is the largest sum of the absolute values of what is
    summed: a few roundings of it, in the dtype that is computed in, are allowed where the sum itself cancels.
    """
    assert ours.shape == exact.shape, name
    assert ours.dtype == same_dtype.dtype, name
    if not exact.numel():
        return
    error = float((ours.double() - exact).abs().max())
    allowed = 2 * float((same_dtype.double() - exact).abs().max())
    double = ours.dtype == torch.float64
    largest = max(float(exact.abs().max()), double_least if double else 0.0)
    rounding = torch.finfo(torch.float64 if double else torch.float32).eps * terms
    allowed += (16 if double else 4) * max(torch.finfo(ours.dtype).eps * largest, rounding)
    assert error <= allowed, f"{name}: error {error:.3e}, allowed {allowed:.3e}"
