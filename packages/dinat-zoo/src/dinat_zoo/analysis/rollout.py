"""Attention through all layers: what the tokens of a layer are made of, if attention alone says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._base import BaseTransformer
from dinat_zoo.analysis.attention import Recorded, attention_layers, record, self_attention
from dinat_zoo.analysis.axis import CENTER, Position, token_at
from dinat_zoo.analysis.structure import Layer, layers
from natten_core import NeighborhoodAttention2D, na2d


@torch.no_grad()
def attention_rollout(
    model: BaseTransformer, image: Tensor, position: Position = CENTER, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """How much every token of the tokenizer has in one token of a block's output: attention rollout (arXiv:2005.00928).

    A block is taken to pass on half of the token itself and half of what it attends to, heads averaged; a
    downsampling layer, the mean of the tokens that it sees. Values, MLPs and norms are left out, as in that paper.

    Args:
        model: of this package, in eval mode.
        image: `[channels, height, width]`, as the model takes it.
        position: where the token is on each block's map, as in `receptive_fields`.
        names: paths of blocks, of `attention_layers`; the last one's alone if None.

    Returns:
        For each block `[height, width]` of the tokenizer's map, on the CPU; the sum is 1, less what is given to the
        padding of maps that are smaller than the window.

    Raises:
        ValueError: for a block that there is not, a position outside the map, or an image that is no single one.
    """
    known = attention_layers(model)
    wanted = known[-1:] if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ValueError(f"names has {name!r}; there are {', '.join(known)}.")
    recorded = record(model, image, known)
    spatial = {layer.name: layer for layer in layers(model)}
    found = {}
    for name in wanted:
        height, width = recorded[name].map_size
        row = torch.zeros(height, width, dtype=recorded[name].qkv.dtype, device=recorded[name].qkv.device)
        row[token_at(position[0], height), token_at(position[1], width)] = 1
        found[name] = _back(model, row, name, spatial, recorded).cpu()
    return found


def _back(
    model: BaseTransformer, row: Tensor, name: str, spatial: Mapping[str, Layer], recorded: Mapping[str, Recorded]
) -> Tensor:
    """What the tokenizer's tokens have in a weighted sum of a block's output, whose weights are `row`."""
    order = list(spatial)
    below = [layer for layer in order[: order.index(name) + 1] if not layer.startswith("patch_embed")]
    for i in range(len(below) - 1, -1, -1):
        layer = below[i]
        if layer in recorded:
            row = (row + _attended(model.get_submodule(layer).get_submodule("attn"), recorded[layer].qkv, row)) / 2
        else:  # a downsampling layer; a block comes before it
            sizes = zip(spatial[layer].axes, recorded[below[i - 1]].map_size, strict=True)
            y, x = (torch.from_numpy(axis.reach(length)).to(row) for axis, length in sizes)
            row = (y / y.sum(1, keepdim=True)).T @ row @ (x / x.sum(1, keepdim=True))
    return row


def _attended(attn: nn.Module, qkv: Tensor, row: Tensor) -> Tensor:
    """The row times the attention matrix, averaged over heads."""
    height, width = row.shape
    if isinstance(attn, SelfAttention2D):
        return torch.einsum("q,hqk->k", row.flatten(), self_attention(attn, qkv)).view(height, width) / attn.num_heads
    assert isinstance(attn, NeighborhoodAttention2D)
    padded = nn.functional.pad(row, (0, qkv.shape[2] - width, 0, qkv.shape[1] - height))
    q, k, _ = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(-3)
    # The output is linear in the values: its gradient in values of one channel is the row times the matrix.
    v = torch.zeros(*q.shape[:-1], 1, dtype=q.dtype, device=q.device, requires_grad=True)
    bias = None if attn.rpb is None else attn.rpb.detach()
    with torch.enable_grad():
        output = na2d(q, k, v, attn.kernel_size, dilation=attn.dilation, scale=attn.scale, rpb=bias)
    weights = padded[None, ..., None, None].expand_as(output) / attn.num_heads
    (gradient,) = torch.autograd.grad(output, v, weights)
    return gradient[0, :height, :width, :, 0].sum(-1)
