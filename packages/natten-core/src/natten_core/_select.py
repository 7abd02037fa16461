"""Which backend runs a problem, and why not the others."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from natten_core import _autocast, _problem
from natten_core._problem import Problem
from natten_core._tracing import run_while_tracing
from natten_core.backends import BACKENDS


class NattenFallbackWarning(UserWarning):
    """A call runs on the slow reference where a fast kernel could have been hoped for; given once per reason."""


@dataclass(frozen=True)
class Explanation:
    """The backend that a problem runs on, and why not the others.

    Attributes:
        backend: name of the backend, as the `backend` argument takes it.
        kernel: name of the kernel within it.
        rejected: the other backends, best first, each with its reasons.
        passed_over: faster kernels of the same backend, best first, each with its reason.
    """

    backend: str
    kernel: str
    rejected: tuple[tuple[str, tuple[str, ...]], ...]
    passed_over: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """One line for the choice, and one for every reason."""
        lines = [f"{self.backend} ({self.kernel})"]
        lines += [f"  not {self.backend} ({name}): {reason}" for name, reason in self.passed_over]
        lines += [f"  not {name}: {reason}" for name, reasons in self.rejected for reason in reasons]
        return "\n".join(lines)


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Explanation:
    """Tells which backend and kernel `neighborhood_attention` would take for these arguments, computing nothing.

    The arguments are those of `neighborhood_attention`; `print(explain(...))` is meant for people.

    Raises:
        ValueError, TypeError, NotImplementedError: as the call itself would.

    Example:
        >>> import torch, natten_core
        >>> q = k = v = torch.randn(1, 16, 16, 2, 8)
        >>> natten_core.explain(q, k, v, 7, stride=2).backend
        'cpu'
    """
    del return_lse
    query, key, value, additional_keys, additional_values = _autocast.cast(
        query, key, value, additional_keys, additional_values
    )
    problem = _problem.check(
        query,
        key,
        value,
        kernel_size,
        stride,
        dilation,
        is_causal,
        scale,
        rpb,
        additional_keys,
        additional_values,
        None,
    )
    chosen = choose(problem, backend)
    rejected, kernel, passed_over = [], "", ()
    for module in BACKENDS:
        if chosen == module.NAME:
            kernel = module.kernel_name(problem, query, key, value)
            passed_over = module.passed_over(problem, query, key, value)
        else:
            default = f"{chosen} is preferred" if backend == "auto" else f"backend={backend!r} was asked for"
            rejected.append((module.NAME, module.not_supported_reasons(problem) or (default,)))
    return Explanation(chosen, kernel, tuple(rejected), passed_over)


def select(problem: Problem, backend: str) -> str:
    """The name of the backend that runs `problem`, after a warning where that is a disappointment.

    Raises:
        NotImplementedError: `backend` is explicit and cannot run the problem.
        ValueError: there is no such backend.
    """
    if torch.compiler.is_compiling():
        return _choose_and_warn(problem, backend)
    try:
        return _choose_and_warn_once(problem, backend)
    except TypeError:  # an unhashable backend: the plain choice has the right message
        return _choose_and_warn(problem, backend)


def choose(problem: Problem, backend: str) -> str:
    """As `select`, without the warning."""
    if backend == "auto":
        return next(str(module.NAME) for module in BACKENDS if not module.not_supported_reasons(problem))
    for module in BACKENDS:
        if backend == module.NAME:
            reasons = module.not_supported_reasons(problem)
            if reasons:
                raise NotImplementedError(f"backend {backend!r} cannot run this: {'; '.join(reasons)}")
            return backend
    names = ", ".join(repr(module.NAME) for module in BACKENDS)
    raise ValueError(f"backend must be 'auto' or one of {names}, got {backend!r}")


def _choose_and_warn(problem: Problem, backend: str) -> str:
    chosen = choose(problem, backend)
    if backend == "auto" and chosen == "reference":
        for module in BACKENDS:
            if problem.device.type == module.NAME:
                for reason in module.not_supported_reasons(problem):
                    warn_fallback(f"the {module.NAME} kernels cannot run this: {reason}")
    return chosen


# A problem seen before has had its warning.
_choose_and_warn_once = lru_cache(maxsize=1024)(_choose_and_warn)
_warned: set[str] = set()


@run_while_tracing
def warn_fallback(reason: str) -> None:
    """Warns that the reference is used, once per process and reason, also while compiling."""
    if reason not in _warned:
        _warned.add(reason)
        message = f"natten_core falls back to its reference in plain torch, which is far slower: {reason}"
        warnings.warn(message, NattenFallbackWarning, stacklevel=_callers_level())


@run_while_tracing
def transformed() -> bool:
    """Whether a derivative is being taken that the operators, knowing reverse mode and vmap, would get wrong.

    A compiler runs this while it traces, with the transforms around the call in place, and guards on these.
    """
    if forward_ad._current_level >= 0:
        warn_fallback("forward-mode differentiation needs plain torch operations")
        return True
    if torch._C._functorch.peek_interpreter_stack() is not None:
        for interpreter in torch._C._functorch.get_interpreter_stack() or ():
            if interpreter.key() != torch._C._functorch.TransformType.Vmap:
                warn_fallback("torch.func transforms other than vmap need plain torch operations")
                return True
    return False


def _callers_level() -> int:
    """The `stacklevel` with which a warning of the function that calls this one points outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("natten_core."):
        level, frame = level + 1, frame.f_back
    return level
