"""Pairs of attention layers against each other over map sizes: Figure I of the DiNAT paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dinat_zoo._figure import new_figure
from dinat_zoo.bench.jobs import LayerJob
from dinat_zoo.bench.models import bench_jobs
from dinat_zoo.bench.rows import Row, Setting

LAYERS = {"WSA + SWSA": ("wsa", "swsa"), "NA + NA": ("na", "na"), "NA + DiNA": ("na", "dina")}
"""What is compared: Swin's pair (timm's modules), NAT's and DiNAT's, the last at the largest dilation that fits."""


def bench_layers(
    setting: Setting,
    sizes: Sequence[int] = (7, 14, 28, 56, 112),
    *,
    dim: int = 64,
    heads: int = 2,
    window: int = 7,
    seconds: float = 3.0,
    rounds: int = 5,
    memory: bool = True,
) -> Iterator[Row]:
    """Time and peak memory of each pair of `LAYERS` at each map size; Swin's is the unit of the ratios.

    Args:
        setting: what to run them on; its `image_size` is replaced.
        sizes: sides of the square maps; multiples of `window`, lest Swin pads them.
        dim: channels.
        heads: attention heads.
        window: side of windows and neighborhoods.
        seconds: the least time to spend on each size.
        rounds: the least number of rounds.
        memory: whether to measure peak memory too.

    Yields:
        A row per size and pair; its `images_per_second` are maps a second.

    Raises:
        ValueError: where a size is smaller than the window, or heads do not divide channels.
    """
    if not sizes or min(sizes) < window:
        raise ValueError(f"sizes is {tuple(sizes)}; give sides of at least the window, {window}.")
    if dim % heads:
        raise ValueError(f"heads is {heads}; it must divide dim, {dim}.")
    for side in sizes:
        at = replace(setting, image_size=side)
        jobs = {name: LayerJob(kinds, at, dim, heads, window) for name, kinds in LAYERS.items()}
        yield from bench_jobs(jobs, at, seconds, rounds, memory)


def plot_layers(rows: Sequence[Row], path: str | Path) -> None:
    """Draw speed and memory relative to Swin's pair over map sizes, into a file of a type that matplotlib writes.

    Args:
        rows: what `bench_layers` gave, all of it.
        path: the file to write.

    Raises:
        ImportError: without matplotlib, which `dinat-zoo[analysis]` brings.
    """
    figure = new_figure(9, 3.6)
    unit, *others = LAYERS
    sizes = sorted({row.image_size for row in rows})
    found = {(row.model, row.image_size): row for row in rows}
    for axes, (title, relative) in zip(figure.subplots(1, 2), _RELATIVE.items(), strict=True):
        for name in others:
            points = [(size, relative(found[name, size], found[unit, size])) for size in sizes]
            known = [(size, 100 * value) for size, value in points if value]
            axes.plot([size for size, _ in known], [value for _, value in known], "o-", label=name)
        axes.axhline(100, color="grey", linewidth=1, label=unit)
        axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("side of the map")
        axes.set_ylabel(f"{title}, % of {unit}")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path)


def _relative_memory(row: Row, swin: Row) -> float | None:
    return row.memory_mib / swin.memory_mib if row.memory_mib and swin.memory_mib else None


_RELATIVE: dict[str, Callable[[Row, Row], float | None]] = {
    "speed": lambda row, _: row.ratio,
    "peak memory": _relative_memory,
}
