"""The ways to compute neighborhood attention, best first. A backend is one module here, and one entry of `BACKENDS`."""

from __future__ import annotations

from types import ModuleType

from natten_core.backends import cpu, reference

# Every backend has NAME, not_supported_reasons(problem) and kernel_name(problem); the reference can run everything.
BACKENDS: tuple[ModuleType, ...] = (cpu, reference)
