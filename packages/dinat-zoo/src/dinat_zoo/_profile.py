"""Parameters and multiply-accumulates of a model, in closed form.

The convention is fvcore's, which the papers' tables follow: one multiply-accumulate is one FLOP; convolutions and
linear layers without their biases, 5 per element for a LayerNorm, nothing for softmax, GELU, additions and pooling.
Neighborhood attention counts head_dim + 1 per query and key for the scores (the 1 is the bias) and head_dim for the
weighted sum; self attention counts its two products alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from timm.models.swin_transformer import PatchMerging
from torch import nn

from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._base import BaseTransformer
from dinat_zoo._blocks import Block
from dinat_zoo._tokens import ConvDownsample
from natten_core import NeighborhoodAttention2D

Size = tuple[int, int]


def count_parameters(model: nn.Module) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: BaseTransformer, image_size: int | Size) -> int:
    """The multiply-accumulates of one forward pass of one image.

    Args:
        model: a model of this package, on any device, "meta" too.
        image_size: height and width, or one int for both.

    Returns:
        The count under fvcore's convention. Maps smaller than a window count as large as they are padded.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return sum(macs for _, macs in layer_macs(model, size))


def layer_macs(model: BaseTransformer, size: Size) -> Iterator[tuple[nn.Module, int]]:
    """The modules that count, each once and none within another, with their multiply-accumulates."""
    for layer in _in_order(model):
        if isinstance(layer, nn.Conv2d | PatchMerging):
            stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 2
            size = -(-size[0] // stride), -(-size[1] // stride)
        yield layer, _layer(layer, size)
    yield model.get_classifier(), _layer(model.get_classifier(), (1, 1))


def _in_order(model: BaseTransformer) -> Iterator[nn.Module]:
    """The layers between image and head in the order in which they run; those that change the size apart."""
    proj = model.patch_embed.proj
    yield from proj if isinstance(proj, nn.Sequential) else [proj]  # type: ignore[misc]
    yield model.patch_embed.norm  # type: ignore[misc]
    for module in model.levels.modules():
        if isinstance(module, ConvDownsample):
            yield from (module.reduction, module.norm)
        elif isinstance(module, PatchMerging | Block):
            yield module
    yield model.norm


def _layer(layer: nn.Module, size: Size) -> int:
    """Of one layer on a map of `size`; convolutions and mergings, of the size that they make."""
    tokens = math.prod(size)
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return tokens * layer.weight.numel()
    if isinstance(layer, nn.LayerNorm):
        return 5 * tokens * layer.normalized_shape[0]
    if isinstance(layer, PatchMerging):
        return _layer(layer.norm, size) + _layer(layer.reduction, size)
    if isinstance(layer, Block):
        parts = (layer.norm1, layer.attn, layer.norm2, layer.mlp.fc1, layer.mlp.fc2)
        return sum(_layer(part, size) for part in parts)
    if isinstance(layer, SelfAttention2D):
        scores_and_sum = 2 * tokens**2 * layer.qkv.in_features
        return scores_and_sum + _layer(layer.qkv, size) + _layer(layer.proj, size)
    if isinstance(layer, NeighborhoodAttention2D):
        return _neighborhood(layer, size)
    return 0  # an identity


def _neighborhood(attn: NeighborhoodAttention2D, size: Size) -> int:
    window = [k * d for k, d in zip(attn.kernel_size, attn.dilation, strict=True)]
    height, width = (max(side, extent) for side, extent in zip(size, window, strict=True))
    pairs = height * width * math.prod(attn.kernel_size)
    scores_and_sum = pairs * (2 * attn.embed_dim + (0 if attn.rpb is None else attn.num_heads))
    return scores_and_sum + _layer(attn.qkv, (height, width)) + _layer(attn.proj, size)
