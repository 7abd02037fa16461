"""What is timed: our kernels, the reference where it is small enough, and the peers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from peers import FORWARD_ONLY, PLAIN, TILED, Peer
from torch import Tensor

import natten_core
from harness.problems import MODES, Problem
from harness.timing import quickest

GIB = 1 << 30
REFERENCE_BYTES = GIB // 8
PEER_BYTES = GIB
SCORES_BYTES = (4 << 20, 1 << 20, None)

Config: TypeAlias = "tuple[tuple[int, ...], int | None]"
"""Tile, and the most bytes of scores at a time."""


@dataclass(frozen=True)
class Contender:
    """One implementation on its own inputs.

    Attributes:
        name: of the implementation.
        family: "ours", "reference" or "peer".
        config: tile and piece size of a peer, kernel of ours.
        attend: from `inputs` to the output.
        inputs: query, key, value and bias, or packed qkv and bias; leaves that want gradients.
        grad: of the output.
        modes: in which it can be timed.
    """

    name: str
    family: str
    config: str
    attend: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    grad: Tensor
    modes: tuple[str, ...] = MODES

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.attend(*self.inputs)

    def forward_backward(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.attend(*self.inputs), self.inputs, self.grad)

    def call(self, mode: str) -> Callable[[], object]:
        return self.forward if mode == MODES[0] else self.forward_backward

    def results(self) -> list[Tensor]:
        """Output, dq, dk, dv and dbias."""
        *tensors, bias = self.forward_backward()
        if len(tensors) == 1:
            tensors = list(tensors[0].unbind(-3))
        return [self.forward(), *tensors, bias]


@dataclass(frozen=True)
class Workbench:
    """The contenders of one problem, all on the same numbers."""

    problem: Problem
    inputs: tuple[Tensor, ...]
    grad: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Workbench:
        inputs = tuple(x.requires_grad_() for x in problem.inputs())
        generator = torch.Generator().manual_seed(1)
        return cls(problem, inputs, torch.randn(inputs[0].shape, generator=generator, dtype=problem.dtype))

    def ours(self) -> list[Contender]:
        """Separate and packed inputs, and the two stages apart with a softmax between them, on the cpu backend.

        Raises:
            NotImplementedError: the backend cannot run the problem, or there are no compiled kernels.
        """
        problem, (query, key, value, rpb) = self.problem, self.inputs
        natten_core.neighborhood_attention(
            query, key, value, problem.kernel_size, dilation=problem.dilation, rpb=rpb, backend="cpu"
        )
        found = natten_core.explain(query, key, value, problem.kernel_size, dilation=problem.dilation, rpb=rpb)
        packed_op = getattr(natten_core, f"na{problem.rank}d_qkvpacked")

        def separate(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
            return self._natten_core(query, key, value, rpb, "cpu")

        def packed(qkv: Tensor, rpb: Tensor) -> Tensor:
            output: Tensor = packed_op(qkv, problem.kernel_size, dilation=problem.dilation, rpb=rpb, backend="cpu")
            return output

        qk, av = (getattr(natten_core, f"na{problem.rank}d_{stage}") for stage in ("qk", "av"))
        scale = problem.head_dim**-0.5

        def two_stages(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
            window = {"kernel_size": problem.kernel_size, "dilation": problem.dilation, "backend": "cpu"}
            output: Tensor = av(qk(query, key, **window, rpb=rpb, scale=scale).softmax(-1), value, **window)
            return output

        qkv = torch.stack([x.detach() for x in (query, key, value)], dim=-3).requires_grad_()
        return [
            Contender("natten-core", "ours", found.kernel, separate, self.inputs, self.grad),
            Contender("natten-core packed", "ours", found.kernel, packed, (qkv, rpb), self.grad),
            Contender("natten-core two-stage", "ours", found.kernel, two_stages, self.inputs, self.grad),
        ]

    def reference(self) -> list[Contender]:
        """natten_core's own plain torch backend, unless its copies of every window take too much memory."""
        if self._windows_bytes() > REFERENCE_BYTES:
            return []

        def attend(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
            return self._natten_core(query, key, value, rpb, "reference")

        return [Contender("reference", "reference", "", attend, self.inputs, self.grad)]

    def plain_peers(self) -> list[Contender]:
        scores = self.problem.batch * self.problem.heads * self.problem.tokens**2 * self.problem.dtype.itemsize
        size = {"unfold": self._windows_bytes(), "dense-sdpa": scores}
        return [self._peer(name, "", make(self.problem)) for name, make in PLAIN.items() if size[name] <= PEER_BYTES]

    def forward_only_peers(self) -> tuple[list[Contender], dict[str, str]]:
        """Those that work here, and why the others do not. Tries each once: compilers and libraries may be missing."""
        found, reasons = [], {}
        for name, make in FORWARD_ONLY.items():
            try:
                inputs = tuple(x.detach() for x in self.inputs)  # they refuse what wants a gradient
                peer = Contender(name, "peer", "", make(self.problem), inputs, self.grad, MODES[:1])
                peer.forward()
            except Exception as error:  # whatever it is, it is the reason
                first_line = next(iter(str(error).splitlines()), "")
                reasons[name] = f"{type(error).__name__}: {first_line}"
            else:
                found.append(peer)
        return found, reasons

    def tuned_peer(self, name: str, mode: str, tiles: int, repeats: int) -> Contender:
        """The peer at the quickest of `tiles` tile sizes, then at the quickest size of its pieces."""
        candidates = tile_candidates(self.problem)[:tiles]
        tile, _ = self._quickest(name, mode, [(tile, SCORES_BYTES[0]) for tile in candidates], repeats)
        return self.tiled(name, *self._quickest(name, mode, [(tile, size) for size in SCORES_BYTES], repeats))

    def tiled(self, name: str, tile: tuple[int, ...], scores_bytes: int | None) -> Contender:
        pieces = "whole" if scores_bytes is None else f"{scores_bytes >> 20} MiB"
        return self._peer(name, f"{'x'.join(map(str, tile))}, {pieces}", TILED[name](self.problem, tile, scores_bytes))

    def _quickest(self, name: str, mode: str, configs: list[Config], repeats: int) -> Config:
        best, best_seconds = configs[0], math.inf
        for config in configs if len(configs) > 1 else ():
            seconds = quickest(self.tiled(name, *config).call(mode), repeats, hopeless=1.5 * best_seconds)
            if seconds < best_seconds:
                best, best_seconds = config, seconds
        return best

    def _peer(self, name: str, config: str, attend: Peer) -> Contender:
        return Contender(name, "peer", config, attend, self.inputs, self.grad)

    def _natten_core(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor, backend: str) -> Tensor:
        output: Tensor = natten_core.neighborhood_attention(
            query, key, value, self.problem.kernel_size, dilation=self.problem.dilation, rpb=rpb, backend=backend
        )
        return output

    def _windows_bytes(self) -> int:
        return 2 * self.problem.tensor_bytes * self.problem.window


def tile_candidates(problem: Problem) -> list[tuple[int, ...]]:
    """Tile sizes that divide the residue maps, the most promising first."""
    limit = {1: 256, 2: 14, 3: 8}[problem.rank]
    axes = [[t for t in range(2, min(limit, n) + 1) if n % t == 0] or [n] for n in problem.groups]
    tiles = [tile for tile in itertools.product(*axes) if math.prod(tile) <= 256]
    return sorted(tiles or [problem.groups], key=lambda tile: _cost(problem, tile))


def _cost(problem: Problem, tile: tuple[int, ...]) -> float:
    """Keys computed per query, plus what a small tile loses in its products and copies; fitted on P0."""
    halos = (min(t + k - 1, n) for t, k, n in zip(tile, problem.kernel_size, problem.groups, strict=True))
    return math.prod(halos) * (1 + 32 / math.prod(tile))
