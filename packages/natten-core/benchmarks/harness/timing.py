"""Timing that a busy machine disturbs little: contenders take turns, and ratios are of neighbours in time."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

Call = Callable[[], object]

SLOW_SECONDS, SLOW_ROUNDS = 0.2, 3


@dataclass(frozen=True)
class Samples:
    """Milliseconds per call, one entry per round: elapsed, and CPU time of all threads."""

    wall: list[float]
    cpu: list[float]

    def summary(self) -> dict[str, float]:
        return {**spread(self.wall), "min": min(self.wall), "cpu_median": median(self.cpu), "rounds": len(self.wall)}


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


def ratio(ours: Samples, other: Samples) -> dict[str, float]:
    """Of the elapsed times, round by round: what slows the machine for a while slows both.

    A slow call has the first rounds only.
    """
    return spread([a / b for a, b in zip(ours.wall, other.wall, strict=False)])


def interleave(
    calls: Mapping[str, Call], seconds: float, min_rounds: int, sample_seconds: float = 0.02
) -> dict[str, Samples]:
    """Times all calls in rounds, each in random order, until `seconds` have passed and `min_rounds` are done.

    Every sample follows one call that is not timed, and repeats short calls to last `sample_seconds`. A call that takes
    longer than `SLOW_SECONDS` is timed alone, and sits out after `SLOW_ROUNDS` rounds.
    """
    with no_collection():
        took = {name: quickest(call, 1) for name, call in calls.items()}
        repeats = {name: max(1, round(sample_seconds / seconds)) for name, seconds in took.items()}
        slow = {name for name, seconds in took.items() if seconds > SLOW_SECONDS}
        samples = {name: Samples([], []) for name in calls}
        order, shuffle = list(calls), random.Random(0).shuffle
        start, rounds = time.perf_counter(), 0
        while rounds < min_rounds or time.perf_counter() - start < seconds:
            shuffle(order)
            for name in order:
                if name in slow and rounds >= SLOW_ROUNDS:
                    continue
                wall, cpu = _time(calls[name], 1) if name in slow else _sample(calls[name], repeats[name])
                samples[name].wall.append(1e3 * wall)
                samples[name].cpu.append(1e3 * cpu)
            rounds += 1
    return samples


def quickest(call: Call, repeats: int, hopeless: float = math.inf) -> float:
    """Seconds of the quickest of `repeats` calls after a first one, which alone counts when it is `hopeless`."""
    first, _ = _time(call, 1)
    if first > hopeless:
        return first
    return min(_time(call, 1)[0] for _ in range(repeats))


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _sample(call: Call, repeats: int) -> tuple[float, float]:
    call()
    return _time(call, repeats)


def _time(call: Call, repeats: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats
