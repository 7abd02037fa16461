from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import nn

import dinat_zoo

Small = tuple[nn.Module, int | tuple[int, int]]
MAKERS: dict[str, Callable[[], Small]] = {
    "nat": lambda: (
        dinat_zoo.NeighborhoodTransformer(embed_dim=4, depths=(2, 1), num_heads=(1, 2), kernel_size=3),
        (44, 29),
    ),
    "dinat": lambda: (
        dinat_zoo.NeighborhoodTransformer(
            embed_dim=4, depths=(2, 2), num_heads=(1, 1), kernel_size=3, dilations=(4, 2), layer_scale=1e-5
        ),
        (51, 40),
    ),
    "dinat_s": lambda: (
        dinat_zoo.NeighborhoodTransformer(
            embed_dim=4, depths=(2, 1), num_heads=(1, 1), kernel_size=5, dilations=(2, 1), downsampling="patched"
        ),
        (53, 34),  # the last map is smaller than the window, the image no whole number of patches
    ),
    "isotropic": lambda: (
        dinat_zoo.IsotropicTransformer(
            img_size=56, patch_size=4, embed_dim=4, depth=2, num_heads=1, kernel_size=3, dilations=(4,)
        ),
        56,
    ),
    "self attention": lambda: (
        dinat_zoo.IsotropicTransformer(
            img_size=32, patch_size=4, embed_dim=4, depth=2, num_heads=1, kernel_size=3, layer_order="na-sa"
        ),
        32,
    ),
    "swin": lambda: (
        SwinTransformer(img_size=72, patch_size=4, embed_dim=4, depths=(2, 1), num_heads=(1, 1), window_size=4),
        72,
    ),
    "convnext": lambda: (ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 8, 8)), (142, 70)),
}


@pytest.fixture(params=MAKERS)
def small(request: pytest.FixtureRequest) -> Small:
    """A model with few channels and layers, and the size of its images."""
    torch.manual_seed(0)
    return MAKERS[request.param]()
