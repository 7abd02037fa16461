"""Which CUDA kernels a problem gets, and why CUDA is not to be had: both known without a device."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from torch._subclasses.fake_tensor import FakeTensorMode

from natten_core import NattenFallbackWarning, _loader, explain, na2d
from natten_core.backends import cuda, reference

pytestmark = pytest.mark.usefixtures("kernels")


def plan(*args: Any, **changes: Any) -> tuple[str, dict[str, str]]:
    family, rejected, _ = whole_plan(*args, **changes)
    return family, dict(rejected)


def copies_head_dim(**changes: Any) -> int:
    return int(whole_plan(**changes)[2])


def whole_plan(
    architecture: int = 90,
    only: str = "",
    tensor_cores: bool = True,
    backward: bool = False,
    tf32: bool = False,
    **changes: Any,
) -> Any:
    settings: dict[str, Any] = {
        "dtype": "bfloat16",
        "batch": 2,
        "heads": 2,
        "heads_kv": 2,
        "head_dim": 32,
        "head_dim_v": 32,
        "additional": 0,
        "spatial": (56, 56),
        "kernel_size": (7, 7),
        "dilation": (1, 1),
        "scale": 0.2,
        **changes,
    }
    rank = len(settings["spatial"])
    settings = {"stride": (1,) * rank, "is_causal": (False,) * rank, **settings}
    problem = _loader._C.Problem(**settings)  # type: ignore[union-attr]
    return _loader._C.cuda_plan(problem, architecture, tensor_cores, only, backward, tf32)  # type: ignore[union-attr]


def of(case: Case, dtype: str, tf32: bool = False) -> tuple[str, dict[str, str]]:
    return plan(
        tf32=tf32,
        dtype=dtype,
        batch=case.batch,
        heads=case.heads,
        heads_kv=case.heads_kv or case.heads,
        head_dim=case.head_dim,
        head_dim_v=case.head_dim_v or case.head_dim,
        additional=case.additional or 0,
        scale=1.0,
        **{name: value for name, value in case.settings.items() if name != "scale"},
        spatial=case.spatial,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_problem_has_a_kernel(case: Case, dtype: str) -> None:
    family, rejected = of(case, dtype)
    assert family in ("dense", "band", "box", "simt")
    assert all(rejected.values())
    if dtype in ("float32", "float64"):
        assert family == "simt"


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "band"),
        ({"dilation": (8, 8)}, "dense"),
        ({"spatial": (7, 7)}, "dense"),
        ({"spatial": (14, 14)}, "band"),
        ({"spatial": (14, 14), "dilation": (2, 2)}, "dense"),
        ({"dtype": "float16"}, "band"),
        ({"dtype": "float32"}, "simt"),
        ({"dtype": "float64"}, "simt"),
        ({"architecture": 80}, "band"),
        ({"architecture": 75}, "simt"),
        ({"architecture": 120}, "band"),
        ({"tensor_cores": False}, "simt"),
        ({"stride": (2, 2)}, "simt"),
        ({"is_causal": (True, False)}, "simt"),
        ({"additional": 3}, "simt"),
        ({"scale": -0.2}, "simt"),
        ({"scale": 1e-40}, "simt"),  # beyond fp32: the bias divided by it would not be finite
        ({"scale": 1e-30}, "band"),
        ({"only": "simt"}, "simt"),
        ({"spatial": (8, 28, 28), "kernel_size": (3, 7, 7), "dilation": (1, 1, 1)}, "box"),
        ({"spatial": (8, 28, 28), "kernel_size": (3, 7, 15), "dilation": (1, 1, 1)}, "simt"),
        ({"spatial": (400,), "kernel_size": (7,), "dilation": (1,)}, "band"),
    ],
    ids=str,
)
def test_the_best_family_that_can(changes: dict[str, Any], family: str) -> None:
    families = _loader._C.cuda_families()  # type: ignore[union-attr]
    if family not in families:
        pytest.skip(f"no {family} kernels in these sources")
    chosen, rejected = plan(**changes)
    assert chosen == family
    assert list(rejected) == families[: families.index(family)]


VIDEO = {"spatial": (16, 56, 56), "dilation": (1, 1, 1)}


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "band"),
        ({"dilation": (8, 8)}, "dense"),
        ({**VIDEO, "kernel_size": (3, 7, 7)}, "box"),
        ({**VIDEO, "kernel_size": (3, 7, 7), "head_dim": 128, "head_dim_v": 128}, "box"),
        ({**VIDEO, "kernel_size": (9, 9, 9)}, "box"),
        # The sums of the bias gradient of every warp beside its table and its boxes.
        ({**VIDEO, "kernel_size": (9, 9, 9), "architecture": 86, "head_dim": 64, "head_dim_v": 64}, "simt"),
        ({**VIDEO, "kernel_size": (3, 7, 7), "architecture": 86, "head_dim": 128, "head_dim_v": 128}, "box"),
        ({**VIDEO, "kernel_size": (13, 13, 13)}, "simt"),
        ({"dtype": "float32"}, "simt"),
        ({"architecture": 75}, "simt"),
    ],
    ids=str,
)
def test_the_best_family_for_a_backward(changes: dict[str, Any], family: str) -> None:
    chosen, rejected = plan(backward=True, **changes)
    assert chosen == family
    assert all(rejected.values())


LARGE = {"batch": 64, "head_dim": 33, "head_dim_v": 33}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("changes", "head_dim"),
    [
        ({}, 40),
        ({"dtype": "float16", "head_dim": 40}, 40),
        ({"dtype": "float16", "head_dim": 40, "head_dim_v": 47}, 48),
        ({"spatial": (7, 7), "batch": 4096}, 40),
        ({"dtype": "float32"}, 0),
        ({"dtype": "float32", "tf32": True}, 36),
        ({"dtype": "float64", "tf32": True}, 0),
        ({"head_dim": 129, "head_dim_v": 129}, 0),
        ({"architecture": 75}, 0),
        ({"only": "simt"}, 0),
        ({"only": "band"}, 40),
        ({"only": "dense"}, 0),
        ({"stride": (2, 2)}, 0),
        ({"kernel_size": (3, 3)}, 0),  # too few keys, and too small a problem, for copies to be worth it
        ({"batch": 1}, 0),
        ({"spatial": (1 << 13, 1 << 13)}, 0),  # too far apart for the kernels' arithmetic
    ],
    ids=str,
)
def test_copies_where_they_are_worth_it(changes: dict[str, Any], head_dim: int, backward: bool) -> None:
    assert copies_head_dim(backward=backward, **{**LARGE, **changes}) == head_dim


def test_no_copies_of_what_runs_as_it_is() -> None:
    assert copies_head_dim(**{**LARGE, "head_dim": 32, "head_dim_v": 32}) == 0


def test_reasons_are_for_people() -> None:
    assert plan(dtype="float64")[1]["box"] == "fp64"
    assert plan(architecture=75)[1]["dense"] == "a device before sm_80"
    assert plan(only="simt")[1]["dense"] == "another family was asked for"
    assert "64 tokens" in plan()[1]["dense"]


SMALL = {"dtype": "float32", "spatial": (7, 7)}
NO_TF32 = "fp32 while TF32 is not allowed by torch's settings (torch.set_float32_matmul_precision('high') allows it)"


@pytest.mark.parametrize("backward", [False, True])
def test_fp32_is_multiplied_in_tf32_only_where_that_is_allowed(backward: bool) -> None:
    assert plan(**SMALL, backward=backward, tf32=True) == ("dense", {})
    family, rejected = plan(**SMALL, backward=backward)
    assert family == "simt"
    assert rejected["dense"] == NO_TF32
    family, rejected = plan(**{**SMALL, "dtype": "float64"}, backward=backward, tf32=True)
    assert (family, rejected["dense"]) == ("simt", "fp64")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("architecture", "head_dim", "kernel", "family", "reason"),
    [
        (80, 32, 7, "band", None),
        (90, 32, 13, "band", None),
        (80, 20, 7, "band", None),
        (120, 64, 7, "band", None),
        (80, 64, 9, "band", None),
        (90, 64, 11, "simt", "fp32 with head_dim above 32 and a kernel above 9"),
        (90, 128, 7, "simt", "fp32 with head_dim above 64"),
        (90, 30, 7, "simt", "fp32 with head_dim not a multiple of 4"),
        (86, 32, 11, "box", "a kernel this large with this head_dim"),
        (75, 32, 7, "simt", "a device before sm_80"),
    ],
)
def test_fp32_on_larger_maps(
    backward: bool, architecture: int, head_dim: int, kernel: int, family: str, reason: str | None
) -> None:
    sizes = {"head_dim": head_dim, "head_dim_v": head_dim, "kernel_size": (kernel, kernel), "dtype": "float32"}
    chosen, rejected = plan(architecture, backward=backward, tf32=True, **sizes)
    if backward and family == "box":
        family = "simt"  # its key pass has no room either
    assert (chosen, rejected.get("band")) == (family, reason)
    assert plan(architecture, backward=backward, **sizes)[1]["band"] == (reason or NO_TF32)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("architecture", "head_dim", "kernel", "reason"),
    [
        (80, 32, (3, 7, 7), None),
        (86, 32, (3, 7, 7), None),
        (90, 32, (3, 3, 13), None),
        (90, 20, (3, 7, 7), None),
        (80, 64, (3, 7, 7), None),
        (120, 64, (3, 7, 7), None),
        (90, 64, (9, 9, 8), None),
        (90, 64, (3, 3, 9), "fp32 with head_dim above 32 and a kernel above 8 on the last axis"),
        (90, 68, (3, 7, 7), "fp32 with head_dim above 64"),
        (90, 30, (3, 7, 7), "fp32 with head_dim not a multiple of 4"),
        (86, 64, (9, 9, 8), "a kernel this large with this head_dim"),
        (75, 32, (3, 7, 7), "a device before sm_80"),
    ],
)
def test_fp32_on_maps_of_three_axes(
    backward: bool, architecture: int, head_dim: int, kernel: tuple[int, int, int], reason: str | None
) -> None:
    sizes = {"head_dim": head_dim, "head_dim_v": head_dim, "kernel_size": kernel, "dtype": "float32", **VIDEO}
    family, rejected = plan(architecture, backward=backward, tf32=True, **sizes)
    assert (family, rejected.get("box")) == ("simt" if reason else "box", reason)
    assert plan(architecture, backward=backward, **sizes)[1]["box"] == (reason or NO_TF32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_settings_of_torch_are_blamed_only_where_they_matter(case: Case) -> None:
    given, rejected = of(case, "float32", tf32=False)
    allowed, _ = of(case, "float32", tf32=True)
    assert given == "simt"
    assert [name for name, reason in rejected.items() if reason == NO_TF32][:1] == ([allowed] * (allowed != "simt"))
    for dtype in ("bfloat16", "float16", "float64"):
        assert of(case, dtype, tf32=True) == of(case, dtype, tf32=False)


@pytest.mark.parametrize(
    ("architecture", "head_dim", "forward", "backward"),
    [
        (80, 32, "dense", "dense"),
        (80, 4, "dense", "dense"),
        (80, 6, "simt", "simt"),
        (86, 64, "dense", "dense"),
        (120, 64, "dense", "dense"),
        (80, 128, "dense", "dense"),
        (90, 68, "dense", "dense"),
        (86, 128, "dense", "simt"),
        (89, 68, "dense", "simt"),
        (90, 132, "simt", "simt"),
        (75, 32, "simt", "simt"),
    ],
)
def test_fp32_needs_twice_the_shared_memory(architecture: int, head_dim: int, forward: str, backward: str) -> None:
    sizes = {"head_dim": head_dim, "head_dim_v": head_dim}
    assert plan(architecture, tf32=True, **SMALL, **sizes)[0] == forward
    family, rejected = plan(architecture, tf32=True, backward=True, **SMALL, **sizes)
    assert family == backward
    if forward != backward:
        assert rejected["dense"] == "fp32 with head_dim above 64, for which this device has too little shared memory"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": (57, 7)}, "fit the extent"),
        ({"dilation": (9, 8)}, "fit the extent"),
        ({"dilation": (1 << 62, 8)}, "fit the extent"),
        ({"stride": (8, 1)}, "at most kernel_size"),
        ({"heads_kv": 3}, "multiple of heads_kv"),
        ({"batch": 0}, "must be positive"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"stride": (1,)}, "one value for each"),
        ({"only": "nonsense"}, "there are dense, band, box and simt"),
    ],
    ids=str,
)
def test_what_could_corrupt_memory_is_checked_again(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("built", "architecture", "runs"),
    [
        ("80-real,90", 80, True),
        ("80-real,90", 86, True),
        ("80-real,90", 75, False),
        ("80-real,90", 90, True),
        ("80-real,90", 120, True),
        ("90-real", 100, False),
        ("86-real", 80, False),
        ("80-virtual", 90, True),
        ("", 90, False),
    ],
)
def test_architectures(built: str, architecture: int, runs: bool) -> None:
    assert _loader._C.cuda_runs_on(built, architecture) is runs  # type: ignore[union-attr]


def test_a_problem_is_told_in_a_line() -> None:
    problem = _loader._C.Problem("float16", 1, 4, 2, 8, 5, 3, [6, 7], [3, 4], [2, 1], [1, 1], [True, False], 0.5)  # type: ignore[union-attr]
    assert repr(problem) == (
        "float16, batch 1, map 6x7, heads 4 over 2, head_dim 8 and 5, kernel_size 3x4, stride 2x1, dilation 1x1, "
        "causal 1x0, additional keys 3, scale 0.5"
    )


# Why CUDA is not to be had.


@pytest.fixture
def _asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from natten_core import _select

    _select._choose_and_warn_once.cache_clear()
    monkeypatch.setattr(_select, "_warned", set())


def stand_in(obstacle: str = "", devices: tuple[dict[str, Any], ...] = ()) -> SimpleNamespace:
    found = {"runtime": 13000, "driver": 12040, "obstacle": obstacle, "devices": list(devices)}
    return SimpleNamespace(cuda_devices=lambda: found, cuda_architectures="80-real,90")


A100 = {"name": "A100", "architecture": 80, "multiprocessors": 108, "built_for": True}
V100 = {"name": "V100", "architecture": 70, "multiprocessors": 80, "built_for": False}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (SimpleNamespace(), "built without CUDA"),
        (stand_in("driver too old: it supports CUDA 12.4"), "driver too old"),
        (stand_in("no device: the driver shows none"), "no device"),
        (stand_in(), "no device: the driver shows 0, not one numbered 0"),
        (stand_in(devices=(V100,)), "architecture not built: V100 is an sm_70, and this build has kernels for 80"),
    ],
    ids=["without", "driver", "device", "number", "architecture"],
)
@pytest.mark.usefixtures("_asked_again")
def test_obstacles(module: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loader, "_C", module)
    with FakeTensorMode():
        # The first device: where there are any, torch initialises even a fake tensor's.
        x = torch.empty(1, 8, 8, 1, 8, device="cuda:0")
        explanation = explain(x, x, x, 3)
        assert explanation.backend == "reference"
        assert reason in dict(explanation.rejected)["cuda"][0]
        with pytest.raises(NotImplementedError, match=reason.split(":")[0]):
            na2d(x, x, x, 3, backend="cuda")
        # Without its arithmetic, for which torch 2.7 initialises CUDA even under fake tensors.
        monkeypatch.setattr(reference, "neighborhood_attention", lambda problem, query, *rest: (query, None))
        with pytest.warns(NattenFallbackWarning, match=reason.split(":")[0]):
            assert na2d(x, x, x, 3) is x


def test_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loader, "_C", stand_in(devices=(A100, V100)))
    assert cuda.device_obstacles(0) == ()
    assert cuda.device_obstacles(1)[0].startswith("architecture not built: V100")
    assert cuda.device_obstacles(2) == ("no device: the driver shows 2, not one numbered 2",)


# torch's settings, each way to make them in a process of its own: some cannot be taken back.

_SETTINGS = [
    ("pass", False),
    ("torch.set_float32_matmul_precision('high')", True),
    ("torch.set_float32_matmul_precision('medium')", True),
    ("torch.set_float32_matmul_precision('high'); torch.set_float32_matmul_precision('highest')", False),
    ("torch.backends.cuda.matmul.allow_tf32 = True", True),
    ("torch.backends.cudnn.allow_tf32 = True", False),
]
_NEWER_SETTINGS = [
    ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
    ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", False),
    ("torch.backends.fp32_precision = 'tf32'", True),
    ("torch.backends.fp32_precision = 'tf32'; torch.backends.cuda.matmul.fp32_precision = 'ieee'", False),
    ("torch.backends.fp32_precision = 'tf32'; torch.backends.cuda.matmul.allow_tf32 = False", False),
    ("torch.backends.cudnn.conv.fp32_precision = 'tf32'", False),
    ("torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'", False),
]


def _in_children(settings: list[Any], check: str) -> None:
    """Makes each of `settings` in a process of its own, and runs `check` there, which exits with 1 where it fails."""
    program = f"""
import os, warnings
import torch
from natten_core.backends.cuda import allows_tf32
for setting, allowed in {settings!r}:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            raise SystemExit(setting)
        continue
    warnings.simplefilter("ignore")  # what some releases say of the setting itself is not ours
    exec(setting)
    warnings.simplefilter("error")
    found = allows_tf32(torch.float32)
{check}
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_torchs_settings_allow() -> None:
    """Whatever of torch's two kinds of settings was used, mixed too: without an error, and without a warning."""
    settings = [*_SETTINGS, *(_NEWER_SETTINGS if hasattr(torch.backends, "fp32_precision") else ())]
    others = "any(allows_tf32(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64))"
    _in_children(settings, f"    if found is not allowed or {others}: os._exit(1)")


def test_any_two_settings_allow_what_torchs_own_products_do() -> None:
    """torch's older question, and, where it will not answer after settings of both kinds, what cuBLAS is told."""
    newer = hasattr(torch.backends, "fp32_precision")
    settings = [setting for setting, _ in (*_SETTINGS, *(_NEWER_SETTINGS if newer else ())) if ";" not in setting]
    settings += ["torch.backends.cuda.matmul.allow_tf32 = False"]
    settings += (
        ["torch.backends.cudnn.fp32_precision = 'tf32'", "torch.backends.fp32_precision = 'none'"] if newer else []
    )
    check = """
    warnings.simplefilter("ignore")
    try:
        allowed = torch._C._get_cublas_allow_tf32()
    except RuntimeError:
        allowed = torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32"
    if found is not allowed: os._exit(1)
"""
    _in_children([("; ".join(pair), None) for pair in permutations(settings, 2)], check)
