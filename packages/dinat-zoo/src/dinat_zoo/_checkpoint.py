"""From the checkpoint formats in which NAT and DiNAT weights exist to this package's keys.

The authors' format has a level's downsampling layer at its end (`levels.0.downsample`), ours at the start of the next.
The Hugging Face format renames everything, splits the packed projection and stacks the layer scales.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

_HUGGING_FACE = (
    (re.compile(r"^(?:dinat|nat)\."), ""),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^embeddings\.norm\."), "patch_embed.norm."),
    (re.compile(r"^encoder\.levels\.(\d+)\.layers\.(\d+)\."), r"levels.\1.blocks.\2."),
    (re.compile(r"^encoder\.levels\."), "levels."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.attention\.self\."), ".attn."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
    (re.compile(r"^layernorm\."), "norm."),
    (re.compile(r"^classifier\."), "head."),
)
_PUBLISHED_DOWNSAMPLE = re.compile(r"^levels\.(\d+)\.downsample\.")


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename a checkpoint's entries to this package's keys; what is in our format passes unchanged.

    Args:
        state_dict: the authors' format, the Hugging Face format or ours; also wrapped in a `model` or `state_dict`
            entry, or saved from DistributedDataParallel.
        model: the model to load into; part of timm's signature, not needed here.

    Returns:
        A flat dictionary of tensors.
    """
    for wrapper in ("state_dict", "model"):
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    weights: dict[str, Tensor] = clean_state_dict(dict(state_dict))
    if any(".attention.self." in key for key in weights):
        weights = _from_hugging_face(weights)
    weights = {
        re.sub(r"^layers\.", "levels.", key): value  # as DiNATs and the isotropic models were published
        for key, value in weights.items()
        if not key.endswith(".relative_position_index")
    }
    if "levels.0.downsample.reduction.weight" in weights:  # ours has none in its first level
        weights = {
            _PUBLISHED_DOWNSAMPLE.sub(lambda m: f"levels.{int(m[1]) + 1}.downsample.", key): value
            for key, value in weights.items()
        }
    return {re.sub(r"^head\.(?=weight$|bias$)", "head.fc.", key): value for key, value in weights.items()}


def _from_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's keys to the authors', joining q, k and v and separating the layer scales."""
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        for pattern, replacement in _HUGGING_FACE:
            key = pattern.sub(replacement, key)
        if key.endswith(".layer_scale_parameters"):
            stem = key.removesuffix("layer_scale_parameters")
            renamed[f"{stem}gamma1"], renamed[f"{stem}gamma2"] = value.unbind(0)
        else:
            renamed[key] = value
    for key in [key for key in renamed if ".attn.query." in key]:
        parts = [renamed.pop(key.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[key.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed
