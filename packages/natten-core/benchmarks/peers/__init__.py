"""Neighborhood attention in plain torch, as fast as we could write it: what our kernels are measured against.

Every peer is a callable `(query, key, value, rpb) -> output` on tensors with heads last, `[batch, *spatial, heads,
head_dim]`, made for one problem: whatever depends on shapes alone (index tables, masks) is built beforehand, outside
of the timing. All but the last two are differentiable in all four inputs. None uses anything of natten_core.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.problems import Problem
from torch import Tensor

from peers.dense import Dense
from peers.flex import Flex
from peers.library import Natten
from peers.recompute import TiledRecompute
from peers.tiled import TiledBmm, TiledSdpa
from peers.unfold import Unfold

Peer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

TILED: dict[str, Callable[[Problem, tuple[int, ...], int | None], Peer]] = {
    "tiled-sdpa": TiledSdpa,
    "tiled-bmm": TiledBmm,
    "tiled-recompute": TiledRecompute,
}
"""Peers to configure: for a problem, a tile size, and the most bytes of scores to hold at a time (None: all)."""

PLAIN: dict[str, Callable[[Problem], Peer]] = {"unfold": Unfold, "dense-sdpa": Dense}
"""Peers without one."""

FORWARD_ONLY: dict[str, Callable[[Problem], Peer]] = {"flex": Flex, "natten": Natten}
"""Peers that cannot go backward on a CPU. NATTEN leaves the bias out."""

__all__ = [
    "FORWARD_ONLY",
    "PLAIN",
    "TILED",
    "Dense",
    "Flex",
    "Natten",
    "Peer",
    "TiledBmm",
    "TiledRecompute",
    "TiledSdpa",
    "Unfold",
]
