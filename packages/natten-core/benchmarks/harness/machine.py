"""The machine: its facts, and what it can do at most, measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import natten_core
from harness.problems import Problem
from harness.timing import quickest

FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "avx_vnni", "amx", "asimd", "sve")


@dataclass(frozen=True)
class Floors:
    """Measured limits for one dtype and number of threads: GFLOP/s of a large product, GB/s of a large copy."""

    dtype: str
    threads: int
    gflops: float
    copy_gbs: float

    def milliseconds(self, problem: Problem, mode: str) -> float:
        """No implementation can be quicker."""
        return max(self.apart(problem, mode).values())

    def apart(self, problem: Problem, mode: str) -> dict[str, float]:
        """Milliseconds of the products at the peak, and of the tensors moved once from memory."""
        return {
            "products": problem.flops(mode) / self.gflops / 1e6,
            "memory": problem.bytes(mode) / self.copy_gbs / 1e6,
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_floors(dtype: torch.dtype, *, tiny: bool = False, repeats: int = 6) -> Floors:
    """Measures with torch's present number of threads; a copy counts its bytes twice, read and written."""
    size, length = (128, 1 << 16) if tiny else (1536, 128 << 20)
    a, b, c = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    product = quickest(lambda: torch.mm(a, b, out=c), repeats)
    source, target = (torch.ones(length // dtype.itemsize, dtype=dtype) for _ in range(2))
    copy = quickest(lambda: target.copy_(source), repeats)
    name = str(dtype).removeprefix("torch.")
    return Floors(name, torch.get_num_threads(), 2e-9 * size**3 / product, 2e-9 * length / copy)


def facts() -> dict[str, Any]:
    """What the results depend on, JSON-able."""
    model, flags = _cpu()
    return {
        "cpu": model,
        "flags": flags,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "natten_core": natten_core.build_info(),
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpu() -> tuple[str, list[str]]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor(), []
    pairs = [line.partition(":") for line in info.read_text().splitlines() if ":" in line]
    first = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    flags = first.get("flags", first.get("Features", "")).split()
    return first.get("model name", platform.processor()), sorted(flag for flag in flags if flag.startswith(FLAGS))


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or an sdist
        return None
