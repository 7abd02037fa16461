"""DiNAT: NAT with dilation in every other block (Hassani and Shi, https://arxiv.org/abs/2209.15001).

The ImageNet weights are the authors' (https://github.com/SHI-Labs/Neighborhood-Attention-Transformer, MIT licence).
`dinat_pico` is this project's own small model, whose Fashion-MNIST weights are part of the package.
"""

from __future__ import annotations

from pathlib import Path

from timm.models import generate_default_cfgs

from dinat_zoo import fashion_mnist
from dinat_zoo._pretrained import default_cfgs_of
from dinat_zoo._variants import Dilations, Variant, register

__all__ = ["VARIANTS", "default_cfgs"]


def _dilations(third_level: int) -> Dilations:
    """Table I of the paper, at 224 pixels: the third level alternates 1 and 2, as deep as it is."""
    return (1, 8, 1), (1, 4, 1, 4), (1, 2) * (third_level // 2), (1,) * 5


VARIANTS = {
    "dinat_pico": Variant(
        (3, 4, 3), 32, (2, 4, 8), mlp_ratio=2, drop_path_rate=0.05, kernel_size=3, stem_strides=(2, 1),
        dilations=((1, 4, 1), (1, 2, 1, 2), (1, 1, 1)),
    ),
    "dinat_mini": Variant((3, 4, 6, 5), 64, (2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2, dilations=_dilations(6)),
    "dinat_tiny": Variant((3, 4, 18, 5), 64, (2, 4, 8, 16), mlp_ratio=3, drop_path_rate=0.2, dilations=_dilations(18)),
    "dinat_small": Variant(
        (3, 4, 18, 5), 96, (3, 6, 12, 24), mlp_ratio=2, drop_path_rate=0.3, dilations=_dilations(18)
    ),
    "dinat_base": Variant(
        (3, 4, 18, 5), 128, (4, 8, 16, 32), mlp_ratio=2, drop_path_rate=0.5, layer_scale=1e-5, dilations=_dilations(18)
    ),
    "dinat_large": Variant(
        (3, 4, 18, 5), 192, (6, 12, 24, 48), mlp_ratio=2, drop_path_rate=0.35, dilations=_dilations(18)
    ),
}  # fmt: skip


def _final_side(variant: Variant, side: int) -> int:
    """The last level's map, every stride of the tokenizer and of the levels rounding up."""
    for stride in (*variant.stem_strides, *(2,) * (len(variant.depths) - 1)):
        side = -(-side // stride)
    return side


default_cfgs = generate_default_cfgs(
    {
        "dinat_pico.fashion_mnist": {
            "file": str(Path(__file__).parent / "weights" / "dinat_pico.fashion_mnist.safetensors"),
            "num_classes": len(fashion_mnist.LABELS),
            "label_names": fashion_mnist.LABELS,
            "input_size": (1, fashion_mnist.SIDE, fashion_mnist.SIDE),
            "pool_size": (_final_side(VARIANTS["dinat_pico"], fashion_mnist.SIDE),) * 2,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": fashion_mnist.MEAN,
            "std": fashion_mnist.STD,
            "first_conv": "patch_embed.proj.0",
            "classifier": "head.fc",
            "license": "mit",
            "paper_ids": "arXiv:2209.15001",
        },
        **default_cfgs_of(VARIANTS),
    }
)

globals().update(register(__name__, VARIANTS))
