"""Attention written out over the slots of windows: keys and values are gathered, so that no query touches others.

Windows come from the oracle, one token and one axis at a time; nothing here is shared with the package.
"""

from __future__ import annotations

import math
from typing import Any

import natten_oracle
import torch
from natten_cases import Case
from torch import Tensor

FIRST = ("query", "key", "rpb", "additional_keys")
SECOND = ("value", "additional_values")


def windowed(case: Case) -> dict[str, Any]:
    """The settings of both stages."""
    return {name: value for name, value in case.settings.items() if name != "scale"}


def part(tensors: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names if name in tensors}


def slots(case: Case, order: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, slots] of the window: the key, whether there is one, and its entry in the bias table.

    A slot without a key repeats the window's first. `order` has the slots in another one.
    """
    axes = []
    settings = windowed(case)
    for axis, length in enumerate(case.spatial):
        kernel, stride, dilation, is_causal = (settings[name][axis] for name in settings)
        table = []
        for query in range(length):
            keys = natten_oracle.window(query, length, kernel, dilation, stride, is_causal)
            row = [(key, True, (key - query) // dilation + kernel - 1) for key in keys]
            table.append(row + [(keys[0], False, 0)] * (kernel - len(row)))
        axes.append(torch.tensor(table, dtype=torch.int64))  # [length, kernel, 3]
    key, seen, entry = torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[0]])
    for axis, length, kernel in zip(axes, case.spatial, case.kernel_size, strict=True):
        here = [axis[None, :, None, :, i] for i in range(3)]
        whole = [part[:, None, :, None] for part in (key, seen, entry)]
        joined = (whole[0] * length + here[0], whole[1] * here[1], whole[2] * (2 * kernel - 1) + here[2])
        key, seen, entry = (part.flatten(2).flatten(0, 1) for part in joined)
    if order is not None:
        key, seen, entry = (part[:, order] for part in (key, seen, entry))
    return key, seen.bool(), entry


def scores_written_out(case: Case, tensors: dict[str, Tensor], scale: float, order: Tensor | None = None) -> Tensor:
    """What `qk` computes, in the dtype of the tensors."""
    key, seen, entry = slots(case, order)
    query = tensors["query"].flatten(1, -3)
    repeat = query.shape[-2] // tensors["key"].shape[-2]
    keys = tensors["key"].flatten(1, -3).repeat_interleave(repeat, -2)
    scores = scale * torch.einsum("bthd,btkhd->bthk", query, keys[:, key])
    if "rpb" in tensors:
        scores = scores + tensors["rpb"].to(scores.dtype).flatten(1)[:, entry].transpose(0, 1)
    scores = torch.where(seen[:, None], scores, -math.inf)
    if "additional_keys" in tensors:
        more = tensors["additional_keys"].repeat_interleave(repeat, -2)
        scores = torch.cat([scores, scale * torch.einsum("bthd,bnhd->bthn", query, more)], -1)
    return scores.unflatten(1, case.spatial)


def values_written_out(case: Case, attn: Tensor, tensors: dict[str, Tensor], order: Tensor | None = None) -> Tensor:
    """What `av` computes, in the dtype of the tensors."""
    key, seen, _ = slots(case, order)
    weights = attn.flatten(1, -3)
    repeat = weights.shape[-2] // tensors["value"].shape[-2]
    values = tensors["value"].flatten(1, -3).repeat_interleave(repeat, -2)
    local = torch.where(seen[:, None], weights[..., : key.shape[1]], 0.0)
    output = torch.einsum("bthk,btkhd->bthd", local, values[:, key])
    if "additional_values" in tensors:
        more = tensors["additional_values"].repeat_interleave(repeat, -2)
        output = output + torch.einsum("bthn,bnhd->bthd", weights[..., key.shape[1] :], more)
    return output.unflatten(1, case.spatial)


def attention_written_out(case: Case, tensors: dict[str, Tensor], order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `neighborhood_attention` computes, with its log-sum-exp, in the dtype of the tensors.

    `order` has the slots of the window in another one, which changes nothing but how sums over them are rounded.
    """
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    scores = scores_written_out(case, part(tensors, FIRST), scale, order)
    return values_written_out(case, scores.softmax(-1), part(tensors, SECOND), order), scores.logsumexp(-1)
