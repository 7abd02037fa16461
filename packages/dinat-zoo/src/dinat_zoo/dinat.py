"""DiNAT: NAT with dilation in every other block (Hassani and Shi, https://arxiv.org/abs/2209.15001).

The ImageNet weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence).
`dinat_pico` is this project's own small model, whose Fashion-MNIST weights are part of the package.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dinat_zoo import _variants, fashion_mnist
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._variants import Variant

__all__ = ["VARIANTS", "default_cfgs"]

CLASSES_22K = 21841
"""Classes of ImageNet-22K."""


def _dinat(dilations: tuple[int, ...] = (8, 4, 2, 1), **arguments: Any) -> Variant:
    arguments["dilations"] = dilations
    return Variant(NeighborhoodTransformer, arguments, "arXiv:2209.15001", first_conv="patch_embed.proj.0")


def _large(classes: int, size: int, dilations: tuple[int, ...] = (8, 4, 2, 1), **arguments: Any) -> Variant:
    variant = _dinat(
        dilations, depths=(3, 4, 18, 5), embed_dim=192, num_heads=(6, 12, 24, 48), mlp_ratio=2, **arguments
    )
    crop_pct = 1.0 if size == 384 else 0.875
    return replace(variant, num_classes=classes, input_size=(3, size, size), crop_pct=crop_pct)


# Tables I and II of the paper; the dilations are those of the "dina" blocks, every other one, at the images' size.
VARIANTS = {
    "dinat_pico": replace(
        _dinat(
            (4, 2, 1), depths=(3, 4, 3), embed_dim=32, num_heads=(2, 4, 8), mlp_ratio=2, drop_path_rate=0.05,
            kernel_size=3, stem_strides=(2, 1),
        ),
        stride=8, input_size=(1, fashion_mnist.SIDE, fashion_mnist.SIDE), num_classes=len(fashion_mnist.LABELS),
        crop_pct=1.0,
    ),
    "dinat_mini": _dinat(depths=(3, 4, 6, 5), embed_dim=64, num_heads=(2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "dinat_tiny": _dinat(depths=(3, 4, 18, 5), embed_dim=64, num_heads=(2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2),
    "dinat_small": _dinat(
        depths=(3, 4, 18, 5), embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2, drop_path_rate=0.3
    ),
    "dinat_base": _dinat(
        depths=(3, 4, 18, 5), embed_dim=128, num_heads=(4, 8, 16, 32), mlp_ratio=2, drop_path_rate=0.5, layer_scale=1e-5
    ),
    "dinat_large": _large(1000, 224, drop_path_rate=0.35),
    "dinat_large_384": _large(1000, 384, (13, 6, 3, 1), drop_path_rate=0.35),
    "dinat_large_384_11x11": _large(1000, 384, kernel_size=11, drop_path_rate=0.35),
    "dinat_large_21k": _large(CLASSES_22K, 224, drop_path_rate=0.2),
    "dinat_large_21k_11x11": _large(CLASSES_22K, 224, kernel_size=11, drop_path_rate=0.2),
}  # fmt: skip

default_cfgs = _variants.default_cfgs(VARIANTS)

globals().update(_variants.register(__name__, VARIANTS))
