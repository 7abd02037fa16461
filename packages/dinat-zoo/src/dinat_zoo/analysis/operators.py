"""Table 1 of the DiNAT paper: memory, FLOPs and receptive field of layer structures, as formulas and as numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Count = Callable[[int, int, int], int]
Growth = Callable[[int, int, int], int]


@dataclass(frozen=True)
class Operator:
    """One row of Table 1 for given sizes.

    Attributes:
        structure: two layers that alternate.
        memory_formula: weights, and attention weights where there are any; n tokens, d channels, k keys of a query.
        memory: its value, in numbers, for one layer and one head.
        flops_formula: multiply-accumulates of the projections to query, key and value, and of attention; of the
            pointwise and the depthwise convolution for DWSConv.
        flops: its value, for one layer.
        field_formula: tokens that an output token sees along an axis after l layers; here n and k are those of an axis.
        field_min: its least value, bounded by the tokens of an axis.
        field_max: its largest value, bounded as well.
    """

    structure: str
    memory_formula: str
    memory: int
    flops_formula: str
    flops: int
    field_formula: str
    field_min: int
    field_max: int


_WINDOWED: tuple[str, Count, str, Count] = (
    "3d^2 + nk",
    lambda n, d, k: 3 * d**2 + n * k,
    "3nd^2 + 2ndk",
    lambda n, d, k: 3 * n * d**2 + 2 * n * d * k,
)
_CONVOLVED: tuple[str, Count, str, Count] = (
    "d^2 + dk",
    lambda n, d, k: d**2 + d * k,
    "nd^2 + ndk",
    lambda n, d, k: n * d**2 + n * d * k,
)
_COMPLETE: tuple[str, Count, str, Count] = (
    "3d^2 + n^2",
    lambda n, d, k: 3 * d**2 + n**2,
    "3nd^2 + 2n^2 d",
    lambda n, d, k: 3 * n * d**2 + 2 * n**2 * d,
)


def _linear(layers: int, n: int, k: int) -> int:
    return layers * (k - 1) + 1


def _exponential(layers: int, n: int, k: int) -> int:
    return int(k**layers)


_ROWS: tuple[tuple[str, tuple[str, Count, str, Count], str, Growth, Growth], ...] = (
    ("DWSConv-DWSConv", _CONVOLVED, "l(k - 1) + 1", _linear, _linear),
    ("WSA-WSA", _WINDOWED, "k", lambda layers, n, k: k, lambda layers, n, k: k),
    ("WSA-SWSA", _WINDOWED, "lk", lambda layers, n, k: layers * k, lambda layers, n, k: layers * k),
    ("NA-NA", _WINDOWED, "l(k - 1) + 1", _linear, _linear),
    ("NA-DiNA", _WINDOWED, "l(k - 1) + 1 to k^l", _linear, _exponential),
    ("SA-SA", _COMPLETE, "n", lambda layers, n, k: n, lambda layers, n, k: n),
)


def table1(side: int, dim: int, kernel_size: int, layers: int = 2, rank: int = 2) -> list[Operator]:
    """Table 1 of the paper in numbers.

    Args:
        side: tokens along an axis.
        dim: channels, d.
        kernel_size: keys along an axis, of a window, neighborhood or convolution.
        layers: how many layers the receptive field is of, l.
        rank: axes; n is `side ** rank` and k is `kernel_size ** rank` in memory and FLOPs. The paper counts with 1.

    Raises:
        ValueError: for a number below 1, or a kernel larger than the axis.
    """
    given = {"side": side, "dim": dim, "kernel_size": kernel_size, "layers": layers, "rank": rank}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if kernel_size > side:
        raise ValueError(f"kernel_size is {kernel_size}; it must be at most side, {side}.")
    n, k = side**rank, kernel_size**rank
    return [
        Operator(
            structure,
            memory_formula,
            memory(n, dim, k),
            flops_formula,
            flops(n, dim, k),
            field_formula,
            *(min(field(layers, side, kernel_size), side) for field in (least, most)),
        )
        for structure, (memory_formula, memory, flops_formula, flops), field_formula, least, most in _ROWS
    ]
