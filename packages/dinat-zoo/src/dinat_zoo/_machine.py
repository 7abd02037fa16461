"""What results depend on beside their settings: versions, builds, devices."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import natten_core


def machine() -> dict[str, Any]:
    """Versions of the packages, the build of natten-core, and the devices that torch sees, the CPU first."""
    threads, name = torch.get_num_threads(), _processor() or platform.machine()
    devices: list[dict[str, Any]] = [{"device": "cpu", "name": name, "threads": threads}]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        about = {"name": gpu.name, "architecture": f"sm_{gpu.major}{gpu.minor}", "memory": gpu.total_memory}
        devices.append({"device": f"cuda:{i}", **about})
    packages = ("dinat-zoo", "natten-core", "timm", "torchvision")
    versions = {name.replace("-", "_"): version(name) for name in packages}
    versions |= {"torch": str(torch.__version__), "python": platform.python_version(), "platform": platform.platform()}
    return {"versions": versions, "natten_core": natten_core.build_info(), "devices": devices}


def _processor() -> str:
    """As Linux names it, "" elsewhere: Python's own `platform.processor` knows the architecture at most."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            return next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "")
    except OSError:
        return ""
