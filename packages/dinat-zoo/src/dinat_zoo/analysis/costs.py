"""Parameters and multiply-accumulates of models, of this package and timm's, by resolution: Tables 2-5, I and III."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dinat_zoo._base import BaseTransformer
from dinat_zoo._profile import layer_macs
from dinat_zoo._tokens import image_channels
from dinat_zoo.analysis.structure import Model, Size, check, image_hw, stages


@dataclass(frozen=True)
class Cost:
    """What a part of a model costs.

    Attributes:
        stage: "tokenizer", "level 1" and so on, each with the downsampling that opens it, or "head".
        parameters: how many.
        macs: multiply-accumulates of one image, as `count_macs` counts them.
    """

    stage: str
    parameters: int
    macs: int


def stage_costs(model: nn.Module, image_size: int | Size) -> list[Cost]:
    """Parameters and multiply-accumulates of every resolution of a model; their sums are the whole model's.

    This package's models are counted in closed form. Swin and ConvNeXt run once on the meta device under torch's
    `FlopCounterMode`, with 5 per element of a LayerNorm as in fvcore's convention.

    Args:
        model: of this package, or timm's `SwinTransformer` or `ConvNeXt`; on any device, "meta" too.
        image_size: height and width, or one int for both.

    Raises:
        TypeError: for another model.
        ValueError: for an image size that a Swin is not made for.
    """
    model = check(model)
    size = image_hw(model, image_size)
    macs = _closed_form(model, size) if isinstance(model, BaseTransformer) else _traced(model, size)
    costs = []
    for stage in stages(model):
        parts = [model.get_submodule(path) for path in stage.modules]
        parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
        costs.append(Cost(stage.name, parameters, sum(macs.get(path, 0) for path in stage.modules)))
    return costs


def _closed_form(model: BaseTransformer, size: Size) -> dict[str, int]:
    """The multiply-accumulates of each path that `stages` may name."""
    macs = {id(module): count for module, count in layer_macs(model, size)}
    return {
        path: sum(macs.get(id(part), 0) for part in model.get_submodule(path).modules())
        for stage in stages(model)
        for path in stage.modules
    }


def _traced(model: Model, size: Size) -> dict[str, int]:
    """The multiply-accumulates of every path."""
    shadow = copy.deepcopy(model).to("meta").eval()
    weight = next(shadow.parameters())
    image = torch.zeros(1, image_channels(shadow), *size, device="meta", dtype=weight.dtype)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _norm_flops})
    with counter, torch.no_grad():
        shadow(image)
    root = f"{type(shadow).__name__}."
    counts = counter.get_flop_counts()
    return {name.removeprefix(root): sum(of.values()) // 2 for name, of in counts.items() if name.startswith(root)}


def _norm_flops(shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Of the shape of its input: 5 multiply-accumulates per element, each two of torch's FLOPs."""
    return 10 * math.prod(shape)
