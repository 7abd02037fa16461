"""What NATTEN's compiled code raised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class InvalidArgument(ValueError, RuntimeError):
    """An argument that cannot work: a ValueError as in natten-core, and a RuntimeError as from NATTEN's C++."""


def raises_both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has every ValueError of `function` be an `InvalidArgument`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error

    return wrapped


def check_odd(kernel_size: tuple[int, ...]) -> None:
    """Refuses what NATTEN before 0.20 had no windows for, natten-core's being wider."""
    if not all(kernel > 1 and kernel % 2 for kernel in kernel_size):
        raise InvalidArgument(
            f"kernel_size must be odd and at least 3 on every axis in this version of NATTEN, got {kernel_size}: "
            "call natten_core itself for others"
        )
