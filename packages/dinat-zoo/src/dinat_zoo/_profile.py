"""Parameters and multiply-accumulates of a model, in closed form.

The convention is fvcore's, which the papers' tables follow: one multiply-accumulate is one FLOP; convolutions and
linear layers without their biases, 5 per element for a LayerNorm, nothing for softmax, GELU, additions and pooling.
Attention counts head_dim + 1 per query and key for the scores (the 1 is the bias) and head_dim for the weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from dinat_zoo._blocks import ConvDownsample, NeighborhoodBlock
from dinat_zoo._hierarchical import Level, NeighborhoodTransformer

Size = tuple[int, int]


def count_parameters(model: nn.Module) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: NeighborhoodTransformer, image_size: int | Size) -> int:
    """The multiply-accumulates of one forward pass of one image.

    Args:
        model: a model of this package, on any device, "meta" too.
        image_size: height and width, or one int for both.

    Returns:
        The count under fvcore's convention. Maps smaller than a window count as large as they are padded.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    total = 0
    for layer in [*model.patch_embed.proj, model.patch_embed.norm, *_flat(model.levels), model.norm]:
        if isinstance(layer, nn.Conv2d):
            height, width = (-(-side // stride) for side, stride in zip(size, layer.stride, strict=True))
            size = height, width
            total += height * width * layer.weight.numel()
        elif isinstance(layer, NeighborhoodBlock):
            total += _block(layer, size)
        else:
            total += _norm(layer, size)
    return total + _linear(model.get_classifier(), 1)


def _flat(levels: nn.Module) -> Iterator[nn.Module]:
    """Downsampling layers, taken apart, and blocks, in the order in which they run."""
    for level in levels.children():
        assert isinstance(level, Level)
        if isinstance(level.downsample, ConvDownsample):
            yield from (level.downsample.reduction, level.downsample.norm)
        yield from level.blocks


def _block(block: NeighborhoodBlock, size: Size) -> int:
    tokens = math.prod(size)
    window = [k * d for k, d in zip(block.attn.kernel_size, block.attn.dilation, strict=True)]
    padded = math.prod(max(side, extent) for side, extent in zip(size, window, strict=True))
    neighbors = math.prod(block.attn.kernel_size)
    dim = block.attn.qkv.in_features
    scores = padded * neighbors * (dim + (0 if block.attn.rpb is None else block.attn.num_heads))
    weighted_sum = padded * neighbors * dim
    linear = _linear(block.attn.qkv, padded)
    linear += sum(_linear(layer, tokens) for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2))
    return scores + weighted_sum + linear + _norm(block.norm1, size) + _norm(block.norm2, size)


def _linear(layer: nn.Module, tokens: int) -> int:
    return tokens * layer.weight.numel() if isinstance(layer, nn.Linear) else 0


def _norm(layer: nn.Module, size: Size) -> int:
    return 5 * math.prod(size) * layer.normalized_shape[0] if isinstance(layer, nn.LayerNorm) else 0
