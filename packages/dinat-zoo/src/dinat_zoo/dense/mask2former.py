"""Mask2Former on DiNAT-Large: the eight published models, with Hugging Face transformers' heads.

transformers' Mask2Former has the parameters of the published heads, one for one, under other names and with the self
attention's query, key and value apart. It needs transformers 5 or later, and scipy: the extra `mask2former`.

>>> from dinat_zoo.dense import mask2former
>>> mask2former.list_models()[0]
'mask2former_dinat_large_ade20k_instance'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dinat_zoo import dilations, dinat
from dinat_zoo._checkpoint import fit, read_weights
from dinat_zoo._formats import BACKBONE, Weights, convert
from dinat_zoo._pretrained import Checkpoint, published
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.dense.classes import DATASETS, class_names

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

__all__ = ["create", "from_transformers", "list_models", "to_transformers"]

BODY: dict[str, Any] = {
    "dilations": dilations.published(dinat.VARIANTS["dinat_large"].arguments["depths"], "mask2former"),
    "drop_path_rate": 0.3,
}
"""What is not the model's own in the arguments of the backbone, the same in all eight."""

_INSIDE = "model.pixel_level_module.encoder.body."
_SELF_ATTENTION = re.compile(r"(model\.transformer_module\.decoder\.layers\.\d+\.self_attn\.)in_proj_(weight|bias)")
_PARTS = ("q_proj", "k_proj", "v_proj")
_EMPTY_WEIGHT = "criterion.empty_weight"
# Published module, transformers' module; `#` is a number. The longest that fits decides.
_MODULES = (
    ("DECODER.transformer.encoder.layers.#.norm1", "PIXEL.encoder.layers.#.self_attn_layer_norm"),
    ("DECODER.transformer.encoder.layers.#.norm2", "PIXEL.encoder.layers.#.final_layer_norm"),
    ("DECODER.transformer.encoder.layers.#.linear#", "PIXEL.encoder.layers.#.fc#"),
    ("DECODER.transformer", "PIXEL"),
    ("DECODER.input_proj", "PIXEL.input_projections"),
    ("DECODER.mask_features", "PIXEL.mask_projection"),
    ("DECODER.adapter_#.norm", "PIXEL.adapter_#.1"),
    ("DECODER.adapter_#", "PIXEL.adapter_#.0"),
    ("DECODER.layer_#.norm", "PIXEL.layer_#.1"),
    ("DECODER.layer_#", "PIXEL.layer_#.0"),
    ("PREDICTOR.transformer_self_attention_layers.#.norm", "QUERY.decoder.layers.#.self_attn_layer_norm"),
    ("PREDICTOR.transformer_self_attention_layers.#.self_attn", "QUERY.decoder.layers.#.self_attn"),
    ("PREDICTOR.transformer_cross_attention_layers.#.norm", "QUERY.decoder.layers.#.cross_attn_layer_norm"),
    ("PREDICTOR.transformer_cross_attention_layers.#.multihead_attn", "QUERY.decoder.layers.#.cross_attn"),
    ("PREDICTOR.transformer_ffn_layers.#.norm", "QUERY.decoder.layers.#.final_layer_norm"),
    ("PREDICTOR.transformer_ffn_layers.#.linear#", "QUERY.decoder.layers.#.fc#"),
    ("PREDICTOR.decoder_norm", "QUERY.decoder.layernorm"),
    ("PREDICTOR.mask_embed.layers.#", "QUERY.decoder.mask_predictor.mask_embedder.#.0"),
    ("PREDICTOR.query_feat", "QUERY.queries_features"),
    ("PREDICTOR.query_embed", "QUERY.queries_embedder"),
    ("PREDICTOR.level_embed", "QUERY.level_embed"),
    ("PREDICTOR.class_embed", "class_predictor"),
    ("criterion", "criterion"),
)
_SHORT = {
    "DECODER": "sem_seg_head.pixel_decoder",
    "PREDICTOR": "sem_seg_head.predictor",
    "PIXEL": "model.pixel_level_module.decoder",
    "QUERY": "model.transformer_module",
}


def _rules(source: int) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of one side of the table with replacements of the other, the longest first."""
    table = [[re.sub("[A-Z]+", lambda found: _SHORT[found[0]], name) for name in modules] for modules in _MODULES]
    rules = []
    for modules in sorted(table, key=lambda modules: -len(modules[source])):
        pattern = re.compile(re.escape(modules[source]).replace(r"\#", r"(\d+)") + r"(?=\.)")
        target = modules[1 - source]
        for i in range(1, pattern.groups + 1):
            target = target.replace("#", rf"\g<{i}>", 1)
        rules.append((pattern, target))
    return rules


_TO, _FROM = _rules(0), _rules(1)


def list_models() -> list[str]:
    """The names of the published Mask2Former models, sorted."""
    return sorted(row.checkpoint for row in published() if row.head == "mask2former")


def create(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    heads: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> Mask2FormerForUniversalSegmentation:
    """Build a published Mask2Former model, as transformers has it.

    transformers' `Mask2FormerImageProcessor` prepares images for it and makes masks of its outputs. What
    `save_pretrained` writes, `from_pretrained` reads once `dinat_zoo.dense.adapters.transformers` is imported.

    Args:
        name: see `list_models`.
        checkpoint: weights in the published format, every key of which must fit: whatever source
            `dinat_zoo.load_checkpoint` takes, such as `name` itself.
        num_classes: another number of classes than the published one, for training on other data.
        device: where the parameters are created.
        heads: arguments of transformers' `Mask2FormerConfig` that override the published ones.
        **backbone: arguments of the backbone that override the published ones.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: there is no such model.
        WeightsError: the weights cannot be had or read, or do not fit.
        ImportError: transformers 5 or scipy is not installed.
    """
    row = _row(name)
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    from dinat_zoo.dense.adapters.transformers import DinatZooConfig

    # As the authors' settings for Swin-L: 100 queries for semantic segmentation, 200 for things.
    settings: dict[str, Any] = {"num_queries": 100 if row.task == "semantic" else 200, **(heads or {})}
    if num_classes in (None, row.classes):
        labels = class_names(next(key for key in (f"{row.dataset}-{row.task}", row.dataset) if key in DATASETS))
        settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    else:
        settings["num_labels"] = num_classes
    body = DinatZooConfig(backbone=row.model, arguments={**BODY, **backbone})
    config = Mask2FormerConfig(backbone_config=body, **settings)
    with torch.device(device or torch.get_default_device()):
        model = Mask2FormerForUniversalSegmentation(config).train()
    if checkpoint is not None:
        weights = to_transformers(read_weights(resolve(checkpoint)))
        weights.setdefault(_EMPTY_WEIGHT, model.criterion.empty_weight)  # follows from the configuration
        fit(model, weights, str(checkpoint))
    return model


def to_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The names that transformers has for a published file's tensors; query, key and value are taken apart.

    Raises:
        WeightsError: for a name that no published file has.
    """
    body = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
    renamed = {_INSIDE + key: value for key, value in convert(body, "timm").items()}
    for key, value in weights.items():
        if key.startswith(BACKBONE):
            continue
        name = _rename(key.replace("static_query", "query_feat"), _TO)  # its name in detectron2's first version
        found = _SELF_ATTENTION.fullmatch(name)
        if found is None:
            renamed[name] = value
        else:
            renamed |= {f"{found[1]}{part}.{found[2]}": x for part, x in zip(_PARTS, value.chunk(3), strict=True)}
    return renamed


def from_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The published names of the tensors of a model that `create` made: the inverse of `to_transformers`.

    Raises:
        WeightsError: for a name that such a model has not.
    """
    body = {key.removeprefix(_INSIDE): value for key, value in weights.items() if key.startswith(_INSIDE)}
    renamed = {BACKBONE + key: value for key, value in convert(body, "original").items()}
    for key, value in weights.items():
        if key.startswith(_INSIDE) or ".self_attn.k_proj." in key or ".self_attn.v_proj." in key:
            continue
        name, tensor = key, value
        if ".self_attn.q_proj." in key:
            tensor = torch.cat([weights[key.replace("q_proj", part)] for part in _PARTS])
            name = key.replace("q_proj.", "in_proj_")
        renamed[_rename(name, _FROM)] = tensor
    return renamed


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in rules:
        if found := pattern.match(key):
            return found.expand(target) + key[found.end() :]
    raise WeightsError(f"{key!r} is no parameter of a Mask2Former")


def _row(name: str) -> Checkpoint:
    row = next((row for row in published() if row.head == "mask2former" and row.checkpoint == name), None)
    if row is None:
        raise ValueError(f"name is {name!r}; there is no such model. There are {', '.join(list_models())}.")
    return row
