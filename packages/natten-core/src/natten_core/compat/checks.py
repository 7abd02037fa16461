"""`natten.utils`: the settings of a window, one per axis."""

from __future__ import annotations

import math
from typing import Any

from natten_core.compat._errors import InvalidArgument

__all__ = [
    "check_all_args",
    "check_all_args_with_stride",
    "check_causal_arg",
    "check_dilation_arg",
    "check_input_size_arg",
    "check_kernel_size_arg",
    "get_num_na_weights",
]


def check_input_size_arg(na_dim: int, input_size: Any) -> tuple[int, ...]:
    """The sizes of a map as a tuple of `na_dim` ints."""
    return _per_axis(na_dim, "input_size", input_size, int)


def check_kernel_size_arg(na_dim: int, kernel_size: Any) -> tuple[int, ...]:
    """The kernel size as a tuple of `na_dim` ints."""
    return _per_axis(na_dim, "kernel_size", kernel_size, int)


def check_stride_arg(na_dim: int, stride: Any) -> tuple[int, ...]:
    """The stride as a tuple of `na_dim` ints; None is 1."""
    return _per_axis(na_dim, "stride", 1 if stride is None else stride, int)


def check_dilation_arg(na_dim: int, dilation: Any) -> tuple[int, ...]:
    """The dilation as a tuple of `na_dim` ints; None is 1."""
    return _per_axis(na_dim, "dilation", 1 if dilation is None else dilation, int)


def check_causal_arg(na_dim: int, is_causal: Any) -> tuple[bool, ...]:
    """Causality as a tuple of `na_dim` bools; None is False."""
    return _per_axis(na_dim, "is_causal", False if is_causal is None else is_causal, bool)


def check_all_args(
    na_dim: int, kernel_size: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Kernel size, dilation and causality, each as a tuple of `na_dim`, as NATTEN 0.17 checked them.

    Raises:
        ValueError: one of them is neither a single value nor one per axis.
    """
    return (
        check_kernel_size_arg(na_dim, kernel_size),
        check_dilation_arg(na_dim, dilation),
        check_causal_arg(na_dim, is_causal),
    )


def check_all_args_with_stride(
    na_dim: int, kernel_size: Any, stride: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """As `check_all_args`, with the stride: the `check_all_args` of NATTEN 0.20 and later."""
    window, spread, causal = check_all_args(na_dim, kernel_size, dilation, is_causal)
    return window, check_stride_arg(na_dim, stride), spread, causal


def get_num_na_weights(kernel_size: tuple[int, ...]) -> int:
    """The number of tokens in a window."""
    if not isinstance(kernel_size, tuple):
        raise InvalidArgument(f"kernel_size must be a tuple, got {kernel_size!r}")
    return math.prod(kernel_size)


def _per_axis(rank: int, name: str, given: Any, kind: type) -> tuple[Any, ...]:
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    if len(values) != rank or not all(isinstance(value, kind) for value in values):
        raise InvalidArgument(f"{name} must be one {kind.__name__} or a tuple of {rank}, got {given!r}")
    return values
