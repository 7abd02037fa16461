"""Multiply-accumulates of dense models, as the papers count them.

The convention is fvcore's: convolutions and linear layers without biases, 5 per element for a LayerNorm, 2 for a
BatchNorm in inference, 4 per output of bilinear and 1 of nearest interpolation, 1 per input of average pooling;
attention as in `dinat_zoo.count_macs`. 1000 regions go through the box heads and 100 through the mask heads; the
auxiliary head, regions' pooling and everything after the heads count nothing.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from dinat_zoo.dense import box_head, mask_head
from dinat_zoo.dense.detector import Detector
from dinat_zoo.dense.segmenter import Segmenter
from natten_core import NeighborhoodAttention2D

_BOX_REGIONS, _MASK_REGIONS = 1000, 100
_aten = torch.ops.aten


def count_macs(model: Detector | Segmenter, image_size: tuple[int, int]) -> int:
    """The multiply-accumulates of one forward pass of one image.

    Args:
        model: on any device; it runs as a copy without weights.
        image_size: height and width.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    attention: list[int] = []
    for module in shadow.modules():
        if isinstance(module, NeighborhoodAttention2D):
            module.forward = partial(_attend, module, attention)  # type: ignore[method-assign]
    counter = FlopCounterMode(display=False, custom_mapping=_CONVENTION)
    with torch.no_grad(), counter:
        image = torch.empty(1, shadow.backbone.in_chans, *image_size, device="meta")
        _run(shadow, image)
    return counter.get_total_flops() // 2 + sum(attention)


def _run(model: Detector | Segmenter, image: Tensor) -> None:
    if isinstance(model, Segmenter):
        model(image)
        return
    features = model.neck(model.backbone(image))
    model.rpn_head(features)
    channels = features[0].shape[1]
    for box in model.roi_head.box_heads:
        box(image.new_empty(_BOX_REGIONS, channels, box_head.SIDE, box_head.SIDE))
    for mask in model.roi_head.mask_heads:
        mask(image.new_empty(_MASK_REGIONS, channels, mask_head.SIDE, mask_head.SIDE))


def _attend(layer: NeighborhoodAttention2D, counts: list[int], x: Tensor) -> Tensor:
    """The projections alone, which torch's counter sees; what lies between them is counted here."""
    height, width = x.shape[1:3]
    window = [k * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    padded = pad(x, (0, 0, 0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    per_score = layer.head_dim + (0 if layer.rpb is None else 1)
    pairs = padded[..., 0].numel() * math.prod(layer.kernel_size) * layer.num_heads
    counts.append(pairs * (per_score + layer.head_dim))
    output: Tensor = layer.proj(layer.qkv(padded)[:, :height, :width, : layer.embed_dim])
    return output


def _per_input(count: int) -> Any:
    # torch's counter counts two operations for each multiply-accumulate.
    return lambda shape, *args, **kwargs: 2 * count * math.prod(shape)


def _per_output(count: int) -> Any:
    return lambda *args, out_shape, **kwargs: 2 * count * math.prod(out_shape)


_CONVENTION = {
    _aten.native_layer_norm: _per_input(5),
    _aten.native_batch_norm: _per_input(2),
    _aten._native_batch_norm_legit_no_training: _per_input(2),
    _aten._adaptive_avg_pool2d: _per_input(1),
    _aten.mean: _per_input(1),  # what adaptive pooling to 1x1 runs as
    _aten.upsample_nearest2d: _per_output(1),
    _aten.upsample_nearest2d.default: _per_output(1),  # without the overload it would be decomposed, and not counted
    _aten.upsample_bilinear2d: _per_output(4),
}
