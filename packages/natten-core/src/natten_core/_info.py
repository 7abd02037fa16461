"""What this build of natten-core is and has."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from natten_core import _loader


def _version() -> str:
    try:
        return metadata.version("natten-core")
    except metadata.PackageNotFoundError:  # imported from a source tree
        return "0+unknown"


__version__ = _version()


def build_info() -> dict[str, Any]:
    """Facts of this build, JSON-able.

    Returns:
        `version`; `isa_built`, `isa_present` and `isa_active`, the instruction sets of the CPU kernels in the build,
        those that this machine can run, and the one in use (None without compiled kernels): the best last, and first
        "amx", which is used only where `NATTEN_CORE_ISA` asks for it; `cuda_architectures`, those that the build has
        CUDA kernels for, empty without CUDA ("90" runs on later ones too, "80-real" only on its own generation), and
        `cuda_toolkit`, the version of the nvcc that built them, or None; `compiler` and `openmp`, its version or None;
        `missing`, why there are no compiled kernels, or None.
    """
    module = _loader._C
    built = {} if module is None else module.build_info()
    return {
        "version": __version__,
        "isa_built": list(built.get("isa_built", ())),
        "isa_present": list(built.get("isa_present", ())),
        "isa_active": built.get("isa_default"),
        "cuda_architectures": getattr(module, "cuda_architectures", "").split(",") if built.get("cuda_toolkit") else [],
        "cuda_toolkit": built.get("cuda_toolkit"),
        "compiler": built.get("compiler"),
        "openmp": built.get("openmp"),
        "missing": _loader.reason or None,
    }
