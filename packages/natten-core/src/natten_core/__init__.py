"""Neighborhood attention and its dilated form, in one to three dimensions, with relative positional bias.

See `neighborhood_attention` for the definition, `NeighborhoodAttention2D` and its siblings for modules, and
`explain` for what a call runs on.
"""

from __future__ import annotations

from natten_core import flops
from natten_core._decompositions import decompositions
from natten_core._info import __version__, build_info
from natten_core._select import Explanation, NattenFallbackWarning, explain
from natten_core.functional import (
    na1d,
    na1d_qkvpacked,
    na2d,
    na2d_qkvpacked,
    na3d,
    na3d_qkvpacked,
    neighborhood_attention,
)
from natten_core.merge import merge_attentions
from natten_core.modules import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D
from natten_core.two_stage import na1d_av, na1d_qk, na2d_av, na2d_qk, na3d_av, na3d_qk

__all__ = [
    "Explanation",
    "NattenFallbackWarning",
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "__version__",
    "build_info",
    "decompositions",
    "explain",
    "flops",
    "merge_attentions",
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na1d_qkvpacked",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na2d_qkvpacked",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "na3d_qkvpacked",
    "neighborhood_attention",
]
