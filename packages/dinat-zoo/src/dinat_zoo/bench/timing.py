"""Timing that a busy machine disturbs little: what is compared takes turns."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping

import torch


def interleave(
    calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Times calls in rounds, each in random order, until `seconds` have passed and `rounds` are done.

    Args:
        calls: what to time, by name; each is called once before.
        seconds: the least time to spend on all of them.
        rounds: the least number of rounds.
        device: where they run; a CUDA device is waited for at the end of each call.

    Returns:
        Milliseconds of every call, one per round.
    """
    cuda = torch.device(device).type == "cuda"
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - start)

    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection would be charged to whoever it interrupts
    try:
        for call in calls.values():
            timed(call)
        start = time.perf_counter()
        done = 0
        while calls and (done < rounds or time.perf_counter() - start < seconds):
            shuffle(order)
            for name in order:
                samples[name].append(timed(calls[name]))
            done += 1
    finally:
        if collecting:
            gc.enable()
    return samples
