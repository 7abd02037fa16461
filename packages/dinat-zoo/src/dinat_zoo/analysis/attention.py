"""Where attention looks: the keys of one query over dilations, and the weights that a model gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._base import BaseTransformer
from dinat_zoo._blocks import Block
from dinat_zoo.analysis.axis import CENTER, Neighborhood, Position, Reach, token_at
from dinat_zoo.analysis.structure import Size
from natten_core import NeighborhoodAttention2D, na2d_qk


def attention_span(map_size: Size, query: Size, kernel_size: int, dilations: Sequence[int]) -> dict[int, Reach]:
    """The keys of one query for each dilation, as in Figure 1.

    Args:
        map_size: height and width of the map.
        query: row and column of the query on it.
        kernel_size: keys along an axis.
        dilations: each at most the shorter side over the kernel size.

    Returns:
        For each dilation `[height, width]`: whether the query attends to a token.

    Raises:
        ValueError: for a query outside the map, or a window or a dilation that does not fit it.
    """
    if not all(0 <= place < length for place, length in zip(query, map_size, strict=True)):
        raise ValueError(f"query is {query}; it must lie on the map of {map_size[0]}x{map_size[1]} tokens.")
    for dilation in dilations:
        if dilation < 1 or kernel_size < 1 or kernel_size * dilation > min(map_size):
            fits = (
                f"kernel_size * dilation must be at most {min(map_size)}, the map's shorter side, and both at least 1"
            )
            raise ValueError(f"dilations has {dilation} for kernel_size={kernel_size}; {fits}.")
    spans = {}
    for dilation in dilations:
        layer = Neighborhood(kernel_size, dilation)
        rows, columns = (layer.reach(length)[place] for length, place in zip(map_size, query, strict=True))
        spans[dilation] = rows[:, None] & columns
    return spans


@dataclass(frozen=True)
class Weights:
    """The attention weights of one query.

    Attributes:
        layer: path of the block in the model.
        query: row and column of the query on the block's map.
        map_size: height and width of the map.
        values: `[heads, height, width]` in the model's dtype, on the CPU; 0 where the query does not look. A map that
            is smaller than the window is padded, and what its padding is given lies beyond `map_size`.
    """

    layer: str
    query: Size
    map_size: Size
    values: Tensor


def attention_layers(model: BaseTransformer) -> list[str]:
    """The paths of a model's blocks, in order."""
    return [name for name, module in model.named_modules() if isinstance(module, Block)]


@torch.no_grad()
def attention_weights(
    model: BaseTransformer, image: Tensor, position: Position = CENTER, layer: str | None = None
) -> Weights:
    """The weights of one query in one block: the softmax of eq. 2 or 5, from the model's own queries, keys and bias.

    Args:
        model: of this package, in eval mode.
        image: `[channels, height, width]`, as the model takes it.
        position: where the query is on the block's map, as in `receptive_fields`.
        layer: path of the block, of `attention_layers`; the last one if None.

    Raises:
        ValueError: for a layer that there is not, a position outside the map, or an image that is no single one.
    """
    names = attention_layers(model)
    layer = names[-1] if layer is None else layer
    if layer not in names:
        raise ValueError(f"layer is {layer!r}; it must be one of {', '.join(names)}.")
    map_size, qkv = record(model, image, [layer])[layer]
    query = token_at(position[0], map_size[0]), token_at(position[1], map_size[1])
    attn = model.get_submodule(layer).get_submodule("attn")
    return Weights(layer, query, map_size, _of_query(attn, qkv, query).cpu())


class Recorded(NamedTuple):
    """What a block attended with."""

    map_size: Size
    qkv: Tensor  # [1, height, width, 3 * channels] of the map with its padding


@torch.no_grad()
def record(model: BaseTransformer, image: Tensor, names: Sequence[str]) -> dict[str, Recorded]:
    """Runs a model on an image and keeps the queries, keys and values of the blocks at these paths.

    Raises:
        ValueError: for an image that is no single one.
    """
    if image.ndim != 3:
        raise ValueError(f"image has shape {list(image.shape)}; it must be [channels, height, width], without a batch.")
    sizes: dict[str, Size] = {}
    found: dict[str, Recorded] = {}

    def watch(name: str) -> Iterator[RemovableHandle]:
        attn = model.get_submodule(name).get_submodule("attn")

        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = (inputs[0].shape[1], inputs[0].shape[2])

        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = Recorded(sizes[name], output)

        yield attn.register_forward_pre_hook(before)
        yield attn.get_submodule("qkv").register_forward_hook(after)

    hooks = [hook for name in names for hook in watch(name)]
    try:
        model.forward_features(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _of_query(attn: nn.Module, qkv: Tensor, query: Size) -> Tensor:
    """`[heads, height, width]` of the map that the block attends within, its padding included."""
    _, height, width, _ = qkv.shape
    row, column = query
    if isinstance(attn, SelfAttention2D):
        weights: Tensor = self_attention(attn, qkv)[:, row * width + column].unflatten(-1, (height, width))
        return weights
    assert isinstance(attn, NeighborhoodAttention2D)
    q, k, _ = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(-3)
    scores = na2d_qk(q, k, attn.kernel_size, dilation=attn.dilation, scale=attn.scale, rpb=attn.rpb)
    seen = [
        torch.from_numpy(Neighborhood(*of).reach(length)[place])
        for *of, length, place in zip(attn.kernel_size, attn.dilation, (height, width), query, strict=True)
    ]
    values = torch.zeros(attn.num_heads, height, width, dtype=qkv.dtype, device=qkv.device)
    # The keys of a window are in row-major order, and so are the places that a mask names.
    values[:, (seen[0][:, None] & seen[1]).to(qkv.device)] = scores[0, row, column].softmax(-1)
    return values


def self_attention(attn: SelfAttention2D, qkv: Tensor) -> Tensor:
    """`[heads, tokens, tokens]`, the weights of all queries of a block that attends to the whole map."""
    q, k, _ = qkv.flatten(1, 2).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    scores = torch.einsum("qhd,khd->hqk", q[0], k[0]) * q.shape[-1] ** -0.5 + attn.bias().to(q.dtype)
    weights: Tensor = scores.softmax(-1)
    return weights


def mean_distance(weights: Weights) -> NDArray[np.float64]:
    """How far each head looks on average, in tokens: `[heads]`, the weighted distance from the query."""
    values = weights.values.double().numpy()
    y, x = np.ogrid[: values.shape[1], : values.shape[2]]
    distance: NDArray[np.float64] = np.hypot(y - weights.query[0], x - weights.query[1])
    averaged: NDArray[np.float64] = (values * distance).sum((1, 2))
    return averaged
