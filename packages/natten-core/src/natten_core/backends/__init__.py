"""The ways to compute neighborhood attention, best first. A backend is one module here, and one entry of `BACKENDS`."""

from __future__ import annotations

from types import ModuleType

from natten_core.backends import cpu, cuda, reference

# Every backend has NAME and not_supported_reasons(problem); for what it can run, kernel_name(problem, *tensors) and
# passed_over(problem, *tensors), its faster kernels that cannot. The reference can run everything.
BACKENDS: tuple[ModuleType, ...] = (cuda, cpu, reference)
