"""NAT: neighborhood attention at every resolution, without dilation (Hassani et al., https://arxiv.org/abs/2204.07143).

The weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence).
"""

from __future__ import annotations

from typing import Any

from dinat_zoo import _variants
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._variants import Variant

__all__ = ["VARIANTS", "default_cfgs"]


def _nat(**arguments: Any) -> Variant:
    return Variant(NeighborhoodTransformer, arguments, "arXiv:2204.07143", first_conv="patch_embed.proj.0")


# Table 3 of the paper.
VARIANTS = {
    "nat_mini": _nat(depths=(3, 4, 6, 5), embed_dim=64, num_heads=(2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "nat_tiny": _nat(depths=(3, 4, 18, 5), embed_dim=64, num_heads=(2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "nat_small": _nat(
        depths=(3, 4, 18, 5), embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2, drop_path_rate=0.3, layer_scale=1e-5
    ),
    "nat_base": _nat(
        depths=(3, 4, 18, 5), embed_dim=128, num_heads=(4, 8, 16, 32), mlp_ratio=2, drop_path_rate=0.5, layer_scale=1e-5
    ),
}  # fmt: skip

default_cfgs = _variants.default_cfgs(VARIANTS)

globals().update(_variants.register(__name__, VARIANTS))
