"""`python -m natten_core`: what this build is, on this machine, with this torch; for people and bug reports."""

from __future__ import annotations

import platform

import torch

from natten_core import build_info
from natten_core.backends.cuda import device_obstacles


def main() -> None:
    """Prints one fact a line."""
    facts = {f"natten_core {name}": value for name, value in build_info().items()}
    facts["python"] = platform.python_version()
    facts["platform"] = platform.platform()
    facts["torch"] = torch.__version__
    facts["torch CPU capability"] = torch.backends.cpu.get_cpu_capability()
    facts["torch threads"] = torch.get_num_threads()
    facts["torch CUDA"] = torch.version.cuda
    facts["natten_core cuda kernels on device 0"] = "; ".join(device_obstacles(0)) or "can run"
    for name, value in facts.items():
        print(f"{name}: {_readable(value)}")


def _readable(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or "none"
    return "none" if value is None else str(value)


if __name__ == "__main__":
    main()
