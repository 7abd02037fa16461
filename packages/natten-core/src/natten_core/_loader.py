"""Loads the compiled kernels, and remembers why when they cannot be loaded."""

from __future__ import annotations

import importlib
from types import ModuleType

# torch must come first: it brings the OpenMP runtime that the kernels then share.
import torch  # noqa: F401


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("natten_core._C"), ""
    except ModuleNotFoundError as error:
        if error.name != "natten_core._C":
            raise
        return None, (
            "the compiled kernels (natten_core._C) are not installed: this is a source tree that was never built, or "
            "an installation made for another Python; `pip install` natten-core from a wheel or with a C++ compiler"
        )
    except ImportError as error:
        return None, f"the compiled kernels (natten_core._C) do not load: {error}"


_C, reason = _load()
"""The compiled module, or None and the reason."""
