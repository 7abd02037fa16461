"""A model as the row of its spatial layers: what the receptive field is made of. Models of this package and timm's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from timm.layers import Format, GlobalResponseNormMlp, PatchEmbed
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import nn

from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._base import BaseTransformer
from dinat_zoo._blocks import Block
from dinat_zoo._tokens import ConvDownsample
from dinat_zoo.analysis.axis import AxisLayer, Convolution, Everything, Neighborhood, Window
from natten_core import NeighborhoodAttention2D

Size = tuple[int, int]
Model = BaseTransformer | SwinTransformer | ConvNeXt


@dataclass(frozen=True)
class Layer:
    """One layer through which tokens see other tokens.

    Attributes:
        name: its path in the model.
        kind: "conv", "merge" (of 2x2 tokens), "NA", "DiNA", "SA", "WSA", "SWSA" or "DWSConv"; the latter six are
            whole blocks.
        axes: the layer along height and along width.
        channels_first: whether its output is `[B, C, H, W]`, else `[B, H, W, C]`.
    """

    name: str
    kind: str
    axes: tuple[AxisLayer, AxisLayer]
    channels_first: bool


@dataclass(frozen=True)
class Stage:
    """One resolution of a model, or what comes before or after: the modules at these paths."""

    name: str
    modules: tuple[str, ...]


def check(model: nn.Module) -> Model:
    """The model itself, if it can be analysed.

    Raises:
        TypeError: if it is neither of this package nor timm's Swin or ConvNeXt, or has layers that look at the whole
            map or at several resolutions beside its blocks (ConvNeXt V2).
    """
    if not isinstance(model, BaseTransformer | SwinTransformer | ConvNeXt):
        known = "a model of this package, or timm's SwinTransformer or ConvNeXt"
        raise TypeError(f"model is a {type(model).__name__}; it must be {known}.")
    for name, module in model.named_modules():
        if isinstance(module, GlobalResponseNormMlp):
            raise TypeError(f"model has a global response norm, in {name!r}; ConvNeXt V2 cannot be analysed.")
        if isinstance(module, ConvNeXtBlock) and not isinstance(module.shortcut, nn.Identity):
            raise TypeError(f"model has a block, {name!r}, whose shortcut is no identity; this cannot be analysed.")
    return model


def layers(model: nn.Module) -> list[Layer]:
    """The spatial layers of a model, from the image to the last block, in the order in which they run.

    Args:
        model: of this package, or timm's `SwinTransformer` or `ConvNeXt`; on any device, "meta" too.

    Raises:
        TypeError: as `check`.
    """
    return list(walk(check(model)))


def stages(model: nn.Module) -> list[Stage]:
    """The tokenizer, every resolution with the downsampling that opens it, and the rest of a model.

    Raises:
        TypeError: as `check`.
    """
    model = check(model)
    tokenizer, name = "patch_embed", "levels"
    if isinstance(model, ConvNeXt):
        tokenizer, name = "stem", "stages"
    elif isinstance(model, SwinTransformer):
        name = "layers"
    levels = model.get_submodule(name)
    isotropic = any(isinstance(child, Block) for child in levels.children())
    paths = [name] if isotropic else [f"{name}.{child}" for child, _ in levels.named_children()]
    rest = tuple(child for child, _ in model.named_children() if child not in (tokenizer, name, "out_norms"))
    return [
        Stage("tokenizer", (tokenizer,)),
        *(Stage(f"level {i}", (path,)) for i, path in enumerate(paths, 1)),
        Stage("head", rest),
    ]


def image_hw(model: Model, image_size: int | Size) -> Size:
    """Height and width of a model's images.

    Raises:
        ValueError: for a size below 1, or one that a Swin is not made for.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(size) < 1:
        raise ValueError(f"image_size is {image_size}; it must be at least 1.")
    patches: Any = model.patch_embed if isinstance(model, SwinTransformer) else None
    made = patches.img_size if patches is not None and patches.strict_img_size else None
    if made is not None and size != made:
        raise ValueError(f"image_size is {size}, the model is for {made}: create it with img_size={size}.")
    return size


def walk(module: nn.Module, name: str = "") -> Iterator[Layer]:
    """The spatial layers in any module, depth first; modules are registered in the order in which they run."""
    layer = _layer(module, name)
    if layer is not None:
        yield layer
        return
    for child_name, child in module.named_children():
        yield from walk(child, f"{name}.{child_name}" if name else child_name)


def _layer(module: nn.Module, name: str) -> Layer | None:
    """The layer that a module is, or None for one that only contains such or mixes no tokens."""
    if isinstance(module, PatchEmbed):
        return Layer(name, "conv", _convolution(module.proj, module.dynamic_img_pad), module.output_fmt == Format.NCHW)
    if isinstance(module, nn.Conv2d):
        return Layer(name, "conv", _convolution(module), True)
    if isinstance(module, ConvDownsample):
        return Layer(name, "conv", _convolution(module.reduction), False)
    if isinstance(module, PatchMerging):
        pair = Convolution(2, 2, complete=True)
        return Layer(name, "merge", (pair, pair), False)
    if isinstance(module, Block):
        return _of_block(module, name)
    if isinstance(module, SwinTransformerBlock):
        height, width = (Window(*axis) for axis in zip(module.window_size, module.shift_size, strict=True))
        return Layer(name, "SWSA" if any(module.shift_size) else "WSA", (height, width), False)
    if isinstance(module, ConvNeXtBlock):
        return Layer(name, "DWSConv", _convolution(module.conv_dw), True)
    return None


def _of_block(block: Block, name: str) -> Layer:
    attn = block.attn
    if isinstance(attn, SelfAttention2D):
        return Layer(name, "SA", (Everything(), Everything()), False)
    assert isinstance(attn, NeighborhoodAttention2D)
    height, width = (Neighborhood(*axis) for axis in zip(attn.kernel_size, attn.dilation, strict=True))
    return Layer(name, "DiNA" if max(attn.dilation) > 1 else "NA", (height, width), False)


def _convolution(conv: nn.Conv2d, complete: bool = False) -> tuple[Convolution, Convolution]:
    assert not isinstance(conv.padding, str), "timm resolves 'same' for these strides"
    settings = zip(conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    height, width = (Convolution(*axis, complete) for axis in settings)
    return height, width
