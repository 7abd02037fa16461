"""The cases on a device, and each family of kernels asked for by name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from torch import Tensor

import natten_core
from natten_core import _loader, neighborhood_attention
from natten_core.backends import cuda

OBSTACLES = cuda.device_obstacles(None) if torch.cuda.is_available() else ("torch sees no device",)
FAMILIES = ("dense", "band", "box", "simt")


def square(name: str, length: int, dilation: int = 1, **changes: Any) -> Case:
    given = {"batch": 1, "head_dim": 32, **changes}
    kernel = given.pop("kernel", 7)
    return Case(name, (length, length), (kernel, kernel), dilation=(dilation, dilation), **given)


# What models ask for, and what cuts such maps unevenly.
MODELS = [
    square("level1", 56),
    square("level1-dilated", 56, 8, heads=1),
    square("level2", 28, heads=4),
    square("level2-dilated", 28, 4, heads=4),
    square("level3", 14, heads=8, batch=3),
    square("level3-dilated", 14, 2, heads=8, batch=3),
    square("level4", 7, heads=16, batch=5),
    square("level3-no-bias", 14, bias=False),
    square("dilated-remainder", 30, 4),
    square("gradual-dilation", 56, 4, heads=1),
    square("8x8", 8, heads=3, batch=2),
    square("16x16-d2", 16, 2, batch=2),
    Case("57x33", (57, 33), (7, 7), batch=1, head_dim=32),
    Case("dilated-57x33", (57, 33), (7, 7), dilation=(3, 2), batch=1, head_dim=32),
    *(square(f"kernel-{k}", 29, kernel=k, heads=1) for k in (3, 5, 9, 11, 13)),
    *(square(f"even-kernel-{k}", 19, kernel=k, heads=1) for k in (4, 8)),
    *(square(f"head-dim-{d}", 21, head_dim=d) for d in (8, 16, 24, 40, 64, 80, 96, 128)),
    *(square(f"dense-head-dim-{d}", 7, head_dim=d, batch=3) for d in (8, 16, 24, 40, 64, 96, 128)),
    square("head-dim-36", 15, head_dim=36),
    square("head-dim-31", 15, head_dim=31),
    square("head-dim-256", 9, head_dim=256, heads=1),
    square("scale-zero", 14, scale=0.0),
    square("scale-negative", 14, scale=-0.3),
    Case("1d-long-half", (300,), (33,), head_dim=64),
    Case("3d-half", (6, 9, 10), (3, 5, 5), dilation=(2, 1, 2), head_dim=32, batch=1),
    Case("video", (8, 14, 14), (3, 7, 7), head_dim=32, batch=1),
    Case("video-two-boxes", (4, 29, 19), (3, 7, 7), head_dim=32, batch=1, heads=1),
    *(Case(f"video-head-dim-{d}", (4, 9, 11), (3, 5, 5), head_dim=d, batch=2) for d in (8, 24, 64, 80, 128)),
]
TABLE = [*CASES, *MODELS]
SMALL_AND_LARGE = [case for case in MODELS if case.name in ("level1", "level2-dilated", "level4", "video")]
NAMES = ("level1", "level2-dilated", "level3", "level4", "2d-additional-grouped", "3d-half")
SOME = [case for case in TABLE if case.name in NAMES]


def takes(family: str, case: Case, dtype: torch.dtype, tf32: bool = False) -> bool:
    if _loader._C is None or not hasattr(_loader._C, "cuda_devices"):
        return False
    ones = (1,) * case.rank
    problem = _loader._C.Problem(
        str(dtype).removeprefix("torch."),
        case.batch,
        case.heads,
        case.heads_kv or case.heads,
        case.head_dim,
        case.head_dim_v or case.head_dim,
        case.additional or 0,
        case.spatial,
        case.kernel_size,
        case.stride or ones,
        case.dilation or ones,
        case.is_causal or (False,) * case.rank,
        1.0 if case.scale is None else case.scale,
    )
    return str(_loader._C.cuda_plan(problem, 90, only=family, tf32=tf32)[0]) == family


def runs(cases: list[Case], dtypes: list[torch.dtype], tf32: bool = False) -> Any:
    """Parametrises `family`, `case` and `dtype` together, by what each family takes; `tf32`: on tensor cores."""
    params = [
        pytest.param(family, case, dtype, id=f"{family}-{case.name}-{str(dtype).removeprefix('torch.')}")
        for family in FAMILIES
        for case in cases
        for dtype in dtypes
        if takes(family, case, dtype, tf32) and not (tf32 and family == "simt")
    ]
    return pytest.mark.parametrize(("family", "case", "dtype"), params)


def use(family: str) -> None:
    """The one family from now on, or all."""
    _loader._C.cuda_use_only(family)  # type: ignore[union-attr]


def by(family: str, function: Any) -> Any:
    """What `function` returns with the one family in use, now and in its backward."""
    use(family)
    return function()


def poison() -> None:
    """Fills the memory that torch hands out next with NaN, so that what is read before it is written shows."""
    blocks = [torch.full((size,), float("nan"), device="cuda") for size in (1 << 7, 1 << 12, 1 << 16, 1 << 18, 1 << 24)]
    blocks += [torch.full((1 << 12,), float("nan"), device="cuda") for _ in range(16)]
    del blocks


def there(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.to("cuda") for name, t in tensors.items()}


def call(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cuda")


def attend(family: str, case: Case) -> Any:
    """Of CPU tensors, computed on the device, with gradients that come back."""

    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        poison()
        output, lse = by(family, lambda: call(case, there(tensors)))
        return output.cpu(), lse.cpu()

    return function


def on_device(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.detach().to("cuda").requires_grad_() for name, t in case.tensors(dtype).items()}


def run(case: Case, tensors: dict[str, Tensor], family: str = "") -> list[Tensor]:
    output, lse = by(family, lambda: call(case, tensors))
    ones = (torch.ones_like(output), torch.ones_like(lse))
    found = torch.autograd.grad((output, lse), tuple(tensors.values()), ones)
    return [output.detach(), lse.detach(), *found]


def fallback(function: Any) -> list[Any]:
    """The warnings of calls that no kernel takes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [w for w in caught if issubclass(w.category, natten_core.NattenFallbackWarning)]
