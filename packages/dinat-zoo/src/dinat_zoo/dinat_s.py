"""DiNATs: Swin with its windows replaced by neighborhoods (Hassani and Shi, https://arxiv.org/abs/2209.15001).

The weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence). NATs-Tiny,
without dilation, is the paper's comparison in Tables V and VII and has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dinat_zoo import _variants
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._variants import Variant
from dinat_zoo.dinat import CLASSES_22K

__all__ = ["VARIANTS", "default_cfgs"]


def _dinat_s(dilations: tuple[int, ...] = (8, 4, 2, 1), **arguments: Any) -> Variant:
    arguments.update(downsampling="patched", mlp_ratio=4, dilations=dilations)
    return Variant(NeighborhoodTransformer, arguments, "arXiv:2209.15001")


def _large(dilations: tuple[int, ...] = (8, 4, 2, 1), drop_path_rate: float = 0.35) -> Variant:
    return _dinat_s(
        dilations, depths=(2, 2, 18, 2), embed_dim=192, num_heads=(6, 12, 24, 48), drop_path_rate=drop_path_rate
    )


# Tables I and II of the paper.
VARIANTS = {
    "dinat_s_tiny": _dinat_s(depths=(2, 2, 6, 2), embed_dim=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    "dinat_s_small": _dinat_s(depths=(2, 2, 18, 2), embed_dim=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.3),
    "dinat_s_base": _dinat_s(depths=(2, 2, 18, 2), embed_dim=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.5),
    "dinat_s_large": _large(),
    "dinat_s_large_384": replace(_large((13, 6, 3, 1)), input_size=(3, 384, 384), crop_pct=1.0),
    "dinat_s_large_21k": replace(_large(drop_path_rate=0.2), num_classes=CLASSES_22K),
    "nat_s_tiny": _dinat_s(
        (1, 1, 1, 1), depths=(2, 2, 6, 2), embed_dim=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.2
    ),
}

default_cfgs = _variants.default_cfgs(VARIANTS)

globals().update(_variants.register(__name__, VARIANTS))
