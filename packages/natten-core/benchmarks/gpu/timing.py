"""Device time by events, with nothing left in the L2 cache by the call before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Call = Callable[[], object]
FLUSH_BYTES = 512 << 20
FLUSHES = 16  # about 2 ms of a device with 4 TB/s; a backward through autograd takes up to 1 ms to queue
COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Samples:
    """Microseconds of device time, one entry per call."""

    us: list[float]

    def summary(self) -> dict[str, float]:
        low, middle, high = quantiles(self.us, n=4, method="inclusive") if len(self.us) > 1 else self.us * 3
        return {"median": middle, "q1": low, "q3": high, "min": min(self.us), "calls": len(self.us)}


def interleave(calls: Mapping[str, Call], rounds: int) -> dict[str, Samples]:
    """Times all calls in turn, `rounds` times.

    Before each timed call the device overwrites a buffer larger than its L2 cache, and so often that the host has
    queued the whole call when the device comes to it: what is timed is the device and not the host.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for call in calls.values():
        for _ in range(2):
            call()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(FLUSHES):
                flush.zero_()
            start.record()
            call()
            end.record()
            events[name].append((start, end))
        torch.cuda.synchronize()
    return {name: Samples([1e3 * a.elapsed_time(b) for a, b in pairs]) for name, pairs in events.items()}


def copy_bandwidth() -> float:
    """GB/s of a copy from device memory to device memory, bytes read and written both counted."""
    source, target = (torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    samples = interleave({"copy": lambda: target.copy_(source)}, 15)["copy"]
    return 2 * COPY_BYTES / median(samples.us) / 1e3


def nothing() -> float:
    """Microseconds between two events with nothing but an empty kernel's worth of work between them."""
    one = torch.zeros(1, device="cuda")
    return median(interleave({"one": lambda: one.zero_()}, 30)["one"].us)
