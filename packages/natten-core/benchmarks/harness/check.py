"""Whether our results are as near to float64 as torch's own in the same dtype."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peers import TILED
from torch import Tensor

from harness.contenders import Contender, Workbench, tile_candidates

NAMES = ("output", "dq", "dk", "dv", "drpb")


@dataclass(frozen=True)
class Check:
    """Largest error of one result, relative to its largest value, and the largest one allowed."""

    problem: str
    contender: str
    result: str
    error: float
    budget: float

    @property
    def passed(self) -> bool:
        return self.error <= self.budget  # False for a nan

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def check(bench: Workbench, contenders: list[Contender]) -> list[Check]:
    """Allows twice the error of the tiled peers in the same dtype, plus 4 eps.

    The truth is a tiled peer in float64; `test_peers.py` holds the peers to the reference backend.
    """
    problem, tile = bench.problem, tile_candidates(bench.problem)[0]
    exact = replace(problem, dtype=torch.float64)
    inputs = tuple(x.detach().double().requires_grad_() for x in bench.inputs)
    truth = Contender("", "", "", TILED["tiled-bmm"](exact, tile, None), inputs, bench.grad.double()).results()
    peers = [bench.tiled(name, tile, 4 << 20).results() for name in ("tiled-bmm", "tiled-sdpa")]
    slack = 4 * torch.finfo(problem.dtype).eps
    budgets = [
        2 * max(_error(result, true) for result in pair) + slack
        for pair, true in zip(zip(*peers, strict=True), truth, strict=True)
    ]
    return [
        Check(problem.name, contender.name, name, _error(result, true), budget)
        for contender in contenders
        for name, result, true, budget in zip(NAMES, contender.results(), truth, budgets, strict=True)
    ]


def _error(result: Tensor, truth: Tensor) -> float:
    return float((result.detach().double() - truth).abs().max() / truth.abs().max())
