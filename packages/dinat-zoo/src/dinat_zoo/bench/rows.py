"""What a measurement is made under, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

import torch

MODES = ("eval", "train")
DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Setting:
    """What a model is run on.

    Attributes:
        batch: images, or maps of a layer, at once.
        image_size: side of the square images, or of a layer's maps.
        mode: "eval" for a forward pass without gradients; "train" for forward, loss and backward, without optimiser.
        dtype: "fp32", or "bf16" for autocast.
        device: "cpu" or "cuda", with an index if wanted.
        threads: of torch on a CPU; None leaves them as they are.
        compiled: whether models go through `torch.compile`.

    Raises:
        ValueError: for a mode or dtype that there is not, or a number below 1.
    """

    batch: int = 64
    image_size: int = 224
    mode: str = "eval"
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, MODES), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}.")
        for name, number in (("batch", self.batch), ("image_size", self.image_size), ("threads", self.threads)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")

    def autocast(self) -> torch.autocast:
        """The context in which a model runs."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")


@dataclass(frozen=True)
class Row:
    """One model or layer under one setting.

    Attributes:
        model: its name.
        batch, image_size, mode, dtype, device, threads, compiled: as in `Setting`, threads those that torch had.
        channels_last: whether its weights and images were in that memory format.
        images_per_second: from the median time.
        ms: median time of a step, in milliseconds.
        ms_q1: lower quartile.
        ms_q3: upper quartile.
        ratio: median of the ratios, taken round by round, of the first model's time to this one's: how many times as
            fast it is.
        ratio_q1: lower quartile.
        ratio_q3: upper quartile.
        memory_mib: peak memory in MiB, see `peak_memory`; None if not asked for.
        error: why there is no figure, or "".
    """

    model: str
    batch: int
    image_size: int
    mode: str
    dtype: str
    device: str
    threads: int
    compiled: bool
    channels_last: bool
    images_per_second: float | None = None
    ms: float | None = None
    ms_q1: float | None = None
    ms_q3: float | None = None
    ratio: float | None = None
    ratio_q1: float | None = None
    ratio_q3: float | None = None
    memory_mib: float | None = None
    error: str = ""


def make_rows(
    names: Sequence[str],
    setting: Setting,
    samples: Mapping[str, Sequence[float]],
    memory: Mapping[str, float],
    errors: Mapping[str, str],
    channels_last: Sequence[str] = (),
) -> list[Row]:
    """Rows in the order of `names`; `samples` are milliseconds, one per round, and the first name is the unit."""
    first = samples.get(names[0])
    common = {**asdict(setting), "threads": torch.get_num_threads()}
    rows = []
    for name in names:
        figures: dict[str, Any] = {}
        if name in samples:
            low, middle, high = quartiles(samples[name])
            figures = {"images_per_second": 1e3 * setting.batch / middle, "ms": middle, "ms_q1": low, "ms_q3": high}
            if first is not None:
                ratios = quartiles([a / b for a, b in zip(first, samples[name], strict=True)])
                figures |= dict(zip(("ratio_q1", "ratio", "ratio_q3"), ratios, strict=True))
        rows.append(
            Row(
                model=name,
                **common,
                channels_last=name in channels_last,
                **figures,
                memory_mib=memory.get(name),
                error=errors.get(name, ""),
            )
        )
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, median(values), high
