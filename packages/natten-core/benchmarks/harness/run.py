"""The whole benchmark: tunes the peers, times everybody, checks ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peers import TILED

from harness import problems, report
from harness.check import check
from harness.contenders import Contender, Workbench
from harness.machine import Floors, measure_floors
from harness.problems import MODES, Problem
from harness.timing import interleave, ratio


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        tiles: tile sizes to try per tiled peer.
        repeats: timings of each while trying.
        seconds: for the measurement itself, at least `min_rounds` rounds.
        sample_seconds: short calls are repeated to fill this.
        plain_peers: whether to time unfold and dense attention too, which are never the best.
        forward_only_on: problems to time FlexAttention and NATTEN on too, a minute for each number of threads.
        tiny: floors from tiny tensors, worth nothing but quick.
    """

    tiles: int = 6
    repeats: int = 2
    seconds: float = 3
    min_rounds: int = 7
    sample_seconds: float = 0.02
    plain_peers: bool = True
    forward_only_on: Collection[str] = problems.SHORT
    tiny: bool = False


SHORT = Effort(tiles=3, repeats=2, seconds=3, min_rounds=5, plain_peers=False, forward_only_on=())
LONG = Effort(tiles=16, repeats=3, seconds=12, forward_only_on=problems.PROBLEMS)
TINY = Effort(tiles=1, repeats=1, seconds=0, min_rounds=2, sample_seconds=0, forward_only_on=(), tiny=True)


def run(chosen: Iterable[Problem], threads: Iterable[int], effort: Effort) -> dict[str, Any]:
    """Measures and prints as it goes; returns all of it, JSON-able."""
    result: dict[str, Any] = {"floors": [], "checks": [], "skipped": [], "measurements": []}
    threads, floors, before = list(threads), {}, torch.get_num_threads()

    def skip(problem: Problem, contender: str, reason: str) -> None:
        result["skipped"].append({"problem": problem.name, "contender": contender, "reason": reason})
        print(f"{problem.name}: {contender} is not timed, {reason}\n", flush=True)

    try:
        for problem in chosen:
            torch.set_num_threads(max(threads))
            bench = Workbench.of(problem)
            try:
                ours = bench.ours()
            except NotImplementedError as error:
                ours = []
                skip(problem, "natten-core", str(error))
            fixed = [*ours, *bench.reference(), *(bench.plain_peers() if effort.plain_peers else ())]
            if problem.name in effort.forward_only_on:
                peers, reasons = bench.forward_only_peers()
                for name, reason in reasons.items():
                    skip(problem, name, reason)
                fixed += peers
            checked = [contender for contender in fixed if contender.family != "peer"]
            result["checks"] += [outcome.as_dict() for outcome in check(bench, checked)]
            for count in threads:
                torch.set_num_threads(count)
                key = (problem.dtype, count)
                if key not in floors:
                    floors[key] = measure_floors(problem.dtype, tiny=effort.tiny)
                    result["floors"].append(floors[key].as_dict())
                for mode in MODES:
                    entry = measure(bench, fixed, mode, floors[key], effort)
                    result["measurements"].append(entry)
                    print(report.table(entry), flush=True)
    finally:
        torch.set_num_threads(before)
    return result


def measure(bench: Workbench, fixed: list[Contender], mode: str, floors: Floors, effort: Effort) -> dict[str, Any]:
    """One mode at torch's present number of threads, the tiled peers at their best configurations."""
    problem = bench.problem
    tuned = [bench.tuned_peer(name, mode, effort.tiles, effort.repeats) for name in TILED]
    contenders = [*(contender for contender in fixed if mode in contender.modes), *tuned]
    calls = {c.name: c.call(mode) for c in contenders}
    samples = interleave(calls, effort.seconds, effort.min_rounds, effort.sample_seconds)
    summaries = {name: sample.summary() for name, sample in samples.items()}
    ours = samples.get("natten-core")
    floor = floors.milliseconds(problem, mode)
    best = min((c.name for c in contenders if c.family == "peer"), key=lambda name: summaries[name]["median"])
    return {
        "problem": problem.name,
        "describe": problem.describe(),
        "mode": mode,
        "threads": floors.threads,
        "floor_ms": floor,
        "floors_ms": floors.apart(problem, mode),
        "contenders": [
            {
                "name": c.name,
                "family": c.family,
                "config": c.config,
                "ms": summaries[c.name],
                "gflops": problem.flops(mode) / summaries[c.name]["median"] / 1e6,
                "of_floor": floor / summaries[c.name]["median"],
                "over_ours": None if ours is None else ratio(samples[c.name], ours),
            }
            for c in contenders
        ],
        "best_peer": best,
        "ours_over_best_peer": None if ours is None else ratio(ours, samples[best]),
    }
