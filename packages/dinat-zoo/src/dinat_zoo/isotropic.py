"""The isotropic NAT, DiNAT and ViT with relative positional bias (Hassani and Shi, https://arxiv.org/abs/2209.15001).

The weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence). The other
layer structures of Table 6 are `layer_order` of any of these, e.g. `create_model("dinat_isotropic_small",
layer_order="dina-sa")`.
"""

from __future__ import annotations

from typing import Any

from dinat_zoo import _variants
from dinat_zoo._isotropic import IsotropicTransformer
from dinat_zoo._variants import Variant

__all__ = ["VARIANTS", "default_cfgs"]


def _isotropic(size: str, layer_order: str, dilation: int = 1) -> Variant:
    width: dict[str, Any] = {
        "small": {"embed_dim": 384, "num_heads": 12, "drop_path_rate": 0.1},
        "base": {"embed_dim": 768, "num_heads": 24, "drop_path_rate": 0.4},
    }[size]
    return Variant(
        IsotropicTransformer,
        {"depth": 12, "layer_order": layer_order, "dilations": (dilation,), **width},
        "arXiv:2209.15001",
        stride=16,
        fixed_input_size=layer_order == "sa",
    )


# Table 5 of the paper.
VARIANTS = {
    f"{name}_{size}": _isotropic(size, *attention)
    for name, attention in (
        ("nat_isotropic", ("na-dina",)),
        ("dinat_isotropic", ("na-dina", 2)),
        ("vitrpb", ("sa",)),
    )
    for size in ("small", "base")
}

default_cfgs = _variants.default_cfgs(VARIANTS)

globals().update(_variants.register(__name__, VARIANTS))
