"""How a table of variants becomes timm models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from dinat_zoo._base import BaseTransformer
from dinat_zoo._checkpoint import checkpoint_filter_fn
from dinat_zoo._pretrained import cfgs_of
from dinat_zoo._sources import local_overlay


@dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    Args:
        model: the class.
        arguments: arguments of the class that make the published model.
        paper: where it was published, as timm's `paper_ids` has it.
        first_conv: the name of the convolution that takes the image.
        stride: pixels per token of the last level.
        input_size: channels, height and width of its images.
        num_classes: the classes of its classifier.
        crop_pct: the part of a resized image that evaluation keeps.
        fixed_input_size: whether it takes images of one size alone, its argument `img_size`.
    """

    model: type[BaseTransformer]
    arguments: Mapping[str, Any]
    paper: str
    first_conv: str = "patch_embed.proj"
    stride: int = 32
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    crop_pct: float = 0.875
    fixed_input_size: bool = False


def base_cfg(variant: Variant) -> dict[str, Any]:
    """timm's pretrained configuration of a variant, without weights."""
    return {
        "input_size": variant.input_size,
        "fixed_input_size": variant.fixed_input_size,
        "num_classes": variant.num_classes,
        "pool_size": tuple(-(-side // variant.stride) for side in variant.input_size[1:]),
        "crop_pct": variant.crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": variant.first_conv,
        "classifier": "head.fc",
        "paper_ids": variant.paper,
    }


def default_cfgs(variants: Mapping[str, Variant]) -> dict[str, Any]:
    """timm's table of pretrained configurations; a model without weights has one tagged "untrained"."""
    return dict(
        generate_default_cfgs(
            {
                f"{name}.{tag}": {**base_cfg(variant), **entries}
                for name, variant in variants.items()
                for tag, entries in (cfgs_of(name) or {"untrained": {}}).items()
            }
        )
    )


def create(variant: Variant, name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build one variant as timm's `create_model` asks for it.

    Args:
        variant: the row of the table.
        name: the model's registered name.
        pretrained: load the weights that the pretrained configuration names.
        **kwargs: arguments of timm's builder, and of the model, where they override the row.

    Returns:
        The model, or timm's feature wrapper around it for `features_only=True`.
    """
    arguments = {**variant.arguments, **kwargs}
    if pretrained:
        source = {key: kwargs.get(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
        arguments["pretrained_cfg_overlay"] = local_overlay(name, **source)
    levels = arguments["depth"] if "depth" in arguments else len(arguments["depths"])
    maps = min(4, levels)  # of an isotropic model four, evenly spaced
    model: nn.Module = build_model_with_cfg(
        variant.model,
        name,
        pretrained,
        pretrained_filter_fn=partial(checkpoint_filter_fn, features_only=kwargs.get("features_only", False)),
        feature_cfg={"out_indices": tuple(levels * i // maps - 1 for i in range(1, maps + 1)), "feature_cls": "getter"},
        **arguments,
    )
    return model


def register(module: str, variants: Mapping[str, Variant]) -> dict[str, Callable[..., nn.Module]]:
    """Register every variant with timm.

    Args:
        module: `__name__` of the calling module, whose `default_cfgs` timm reads.
        variants: rows by model name.

    Returns:
        The entry point of each model, by name.
    """
    return {name: register_model(_entry_point(module, name, variant)) for name, variant in variants.items()}


def _entry_point(module: str, name: str, variant: Variant) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(variant, name, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__module__ = module
    entry_point.__doc__ = f"{name}: {variant}"
    return entry_point
