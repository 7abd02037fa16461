"""How a table of variants becomes timm models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from dinat_zoo._checkpoint import checkpoint_filter_fn
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._sources import local_overlay

Dilations = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Variant:
    """One row of a family's table: arguments of `NeighborhoodTransformer` that make the published model."""

    depths: tuple[int, ...]
    embed_dim: int
    num_heads: tuple[int, ...]
    mlp_ratio: float
    drop_path_rate: float
    layer_scale: float | None = None
    kernel_size: int | tuple[int, ...] = 7
    dilations: Dilations | None = None
    stem_strides: tuple[int, int] = (2, 2)


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
    arguments = {**asdict(variant), **kwargs}
    if pretrained:
        source = {key: kwargs.get(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
        arguments["pretrained_cfg_overlay"] = local_overlay(name, **source)
    model: nn.Module = build_model_with_cfg(
        NeighborhoodTransformer,
        name,
        pretrained,
        pretrained_filter_fn=partial(checkpoint_filter_fn, features_only=kwargs.get("features_only", False)),
        feature_cfg={"out_indices": tuple(range(len(arguments["depths"]))), "feature_cls": "getter"},
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
