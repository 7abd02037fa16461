"""NAT: neighborhood attention at every resolution, without dilation (Hassani et al., https://arxiv.org/abs/2204.07143).

The weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence).
"""

from __future__ import annotations

from timm.models import generate_default_cfgs

from dinat_zoo._pretrained import default_cfgs_of
from dinat_zoo._variants import Variant, register

__all__ = ["VARIANTS", "default_cfgs"]

VARIANTS = {
    "nat_mini": Variant((3, 4, 6, 5), 64, (2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "nat_tiny": Variant((3, 4, 18, 5), 64, (2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "nat_small": Variant((3, 4, 18, 5), 96, (3, 6, 12, 24), mlp_ratio=2, drop_path_rate=0.3, layer_scale=1e-5),
    "nat_base": Variant((3, 4, 18, 5), 128, (4, 8, 16, 32), mlp_ratio=2, drop_path_rate=0.5, layer_scale=1e-5),
}

default_cfgs = generate_default_cfgs(default_cfgs_of(VARIANTS))

globals().update(register(__name__, VARIANTS))
