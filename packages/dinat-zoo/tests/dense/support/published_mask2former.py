"""Mask2Former's heads as its paper has them, in plain torch, on the tensors of a file under their published names."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Layer = Callable[[Tensor, str], Tensor]
POINTS = 4  # that each head of the pixel decoder looks at, per level


def positions(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of the normalised coordinates, first of y, then of x, `[H * W, dim]`."""
    half = dim // 2
    frequency = 10000.0 ** (2 * (torch.arange(half) // 2) / half)
    sides = []
    for length in (height, width):
        angle = 2 * math.pi * torch.arange(1, length + 1)[:, None] / (length + 1e-6) / frequency
        sides.append(torch.where(torch.arange(half) % 2 == 0, angle.sin(), angle.cos()))
    y, x = sides[0][:, None].expand(-1, width, -1), sides[1][None].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


def attend(qkv: tuple[Tensor, Tensor, Tensor], w: Weights, name: str, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention of `[N, C]` and `[M, C]`; `mask` `[N, M]` says what is seen."""
    parts = zip(qkv, w[name + "in_proj_weight"].chunk(3), w[name + "in_proj_bias"].chunk(3), strict=True)
    q, k, v = (F.linear(x, weight, bias).unflatten(-1, (heads, -1)).transpose(0, 1) for x, weight, bias in parts)
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)
    return F.linear(output, w[name + "out_proj.weight"], w[name + "out_proj.bias"])


def heads_of(w: Weights, maps: list[Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Class logits `[queries, classes + 1]` and masks' `[queries, H / 4, W / 4]`, of one image's four feature maps."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])

    levels, mask_features = pixel_decoder(w, maps, heads, linear, norm)
    predictor = "sem_seg_head.predictor."
    memories, places = [], []
    for i, level in enumerate(levels):
        memories.append(level.flatten(1).T + w[predictor + "level_embed.weight"][i])
        places.append(positions(*level.shape[1:], level.shape[0]))
    x, place = w[predictor + "query_feat.weight"], w[predictor + "query_embed.weight"]

    def predict(x: Tensor) -> tuple[Tensor, Tensor]:
        x = norm(x, predictor + "decoder_norm")
        mask = x
        for i in range(3):
            mask = linear(mask if i == 0 else mask.relu(), f"{predictor}mask_embed.layers.{i}")
        return linear(x, predictor + "class_embed"), torch.einsum("qc,chw->qhw", mask, mask_features)

    count = sum("transformer_ffn_layers" in key and key.endswith("linear1.bias") for key in w)
    for i in range(count):
        level = i % 3
        _, mask = predict(x)
        small = F.interpolate(mask[None], levels[level].shape[1:], mode="bilinear", align_corners=False)[0]
        hidden = small.sigmoid().flatten(1) < 0.5
        hidden[hidden.all(dim=1)] = False  # who would see nothing sees all
        name = f"{predictor}transformer_cross_attention_layers.{i}."
        key = memories[level] + places[level]
        seen = attend((x + place, key, memories[level]), w, name + "multihead_attn.", heads, ~hidden)
        x = norm(x + seen, name + "norm")
        name = f"{predictor}transformer_self_attention_layers.{i}."
        x = norm(x + attend((x + place, x + place, x), w, name + "self_attn.", heads, None), name + "norm")
        name = f"{predictor}transformer_ffn_layers.{i}."
        x = norm(x + linear(linear(x, name + "linear1").relu(), name + "linear2"), name + "norm")
    return predict(x)


def pixel_decoder(
    w: Weights, maps: list[Tensor], heads: int, linear: Layer, norm: Layer
) -> tuple[list[Tensor], Tensor]:
    """The levels of 1/32, 1/16 and 1/8, `[C, H, W]` each, and the mask features of 1/4."""
    decoder = "sem_seg_head.pixel_decoder."

    def normed(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x[None], 32, w[name + ".weight"], w[name + ".bias"])[0]

    tokens, places, centres, sizes = [], [], [], []
    for i, x in enumerate(maps[:0:-1]):  # the coarsest first, without the finest
        name = f"{decoder}input_proj.{i}."
        x = normed(F.conv2d(x, w[name + "0.weight"], w[name + "0.bias"]), name + "1")
        height, width = x.shape[1:]
        tokens.append(x.flatten(1).T)
        places.append(positions(height, width, len(x)) + w[decoder + "transformer.level_embed"][i])
        y, x = (torch.arange(length).add(0.5) / length for length in (height, width))
        centres.append(torch.cartesian_prod(y, x).flip(-1))
        sizes.append((height, width))
    x, place, centre = torch.cat(tokens), torch.cat(places), torch.cat(centres)
    for i in range(sum("self_attn.value_proj.bias" in key for key in w)):
        name = f"{decoder}transformer.encoder.layers.{i}."
        x = norm(x + deformable(x + place, x, centre, sizes, heads, name + "self_attn.", linear), name + "norm1")
        x = norm(x + linear(linear(x, name + "linear1").relu(), name + "linear2"), name + "norm2")
    levels = [part.T.unflatten(1, size) for part, size in zip(x.split([h * w for h, w in sizes]), sizes, strict=True)]
    fine = normed(F.conv2d(maps[0], w[decoder + "adapter_1.weight"]), decoder + "adapter_1.norm")
    fine = fine + F.interpolate(levels[-1][None], fine.shape[1:], mode="bilinear", align_corners=False)[0]
    fine = normed(F.conv2d(fine, w[decoder + "layer_1.weight"], padding=1), decoder + "layer_1.norm").relu()
    return levels, F.conv2d(fine, w[decoder + "mask_features.weight"], w[decoder + "mask_features.bias"])


def deformable(
    query: Tensor, x: Tensor, centre: Tensor, sizes: list[tuple[int, int]], heads: int, name: str, linear: Layer
) -> Tensor:
    """Each token looks at a few points around its place on every level (Deformable DETR's equation 3)."""
    value = linear(x, name + "value_proj").unflatten(1, (heads, -1))
    offsets = linear(query, name + "sampling_offsets").unflatten(1, (heads, len(sizes), POINTS, 2))
    weights = linear(query, name + "attention_weights").unflatten(1, (heads, -1)).softmax(-1)
    weights = weights.unflatten(2, (len(sizes), POINTS))
    total = torch.zeros_like(value)
    for i, (part, (height, width)) in enumerate(zip(value.split([h * w for h, w in sizes]), sizes, strict=True)):
        image = part.permute(1, 2, 0).unflatten(2, (height, width))  # [heads, channels, H, W]
        place = centre[:, None, None] + offsets[:, :, i] / torch.tensor([width, height])
        seen = F.grid_sample(image, 2 * place.transpose(0, 1) - 1, align_corners=False)
        total = total + torch.einsum("hcqp,qhp->qhc", seen, weights[:, :, i])
    return linear(total.flatten(1), name + "output_proj")
