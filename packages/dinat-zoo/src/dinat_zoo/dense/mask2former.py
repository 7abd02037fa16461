"""Mask2Former on DiNAT-Large: the eight published models, with Hugging Face transformers' heads.

They need transformers 5 or later, and scipy: the extra `mask2former`. `dinat_zoo.dense.queries` makes semantic,
instance and panoptic segmentations of what they give.

>>> from dinat_zoo.dense import mask2former
>>> mask2former.list_models()[0]
'mask2former_dinat_large_ade20k_instance'
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dinat_zoo import dilations, dinat
from dinat_zoo._checkpoint import fit, read_weights
from dinat_zoo._formats import Weights
from dinat_zoo._sources import resolve
from dinat_zoo.dense import _transformers_heads
from dinat_zoo.dense.detectron2_names import Names
from dinat_zoo.dense.transforms import ImageTransform, published_test

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

__all__ = ["create", "from_transformers", "list_models", "to_transformers", "transform"]

BODY: dict[str, Any] = {
    "dilations": dilations.published(dinat.VARIANTS["dinat_large"].arguments["depths"], "mask2former"),
    "drop_path_rate": 0.3,
}
"""What is not the model's own in the arguments of the backbone, the same in all eight."""

_EMPTY_WEIGHT = "criterion.empty_weight"
_NAMES = Names(
    "Mask2Former",
    (
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
    ),
)


def list_models() -> list[str]:
    """The names of the published Mask2Former models, sorted."""
    return _transformers_heads.names("mask2former")


def create(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    heads: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> Mask2FormerForUniversalSegmentation:
    """Build a published Mask2Former model, as transformers has it.

    `transform` prepares images for it, and `dinat_zoo.dense.queries.look` runs it on them. What `save_pretrained`
    writes, `from_pretrained` reads once `dinat_zoo.dense.adapters.transformers` is imported.

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
    row = _transformers_heads.find("mask2former", name)
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    from dinat_zoo.dense.adapters.transformers import DinatZooConfig

    # As the authors' settings for Swin-L: 100 queries for semantic segmentation, 200 for things.
    queries = 100 if row.task == "semantic" else 200
    settings = {"num_queries": queries, **(heads or {}), **_transformers_heads.labels(row, num_classes)}
    body = DinatZooConfig(backbone=row.model, arguments={**BODY, **backbone})
    config = Mask2FormerConfig(backbone_config=body, **settings)
    with torch.device(device or torch.get_default_device()):
        model = Mask2FormerForUniversalSegmentation(config).train()
    if checkpoint is not None:
        weights = to_transformers(read_weights(resolve(checkpoint)))
        weights.setdefault(_EMPTY_WEIGHT, model.criterion.empty_weight)  # follows from the configuration
        fit(model, weights, str(checkpoint))
    return model


def transform(name: str) -> ImageTransform:
    """The preprocessing with which a published model was tested.

    Args:
        name: see `list_models`.

    Raises:
        ValueError: there is no such model.
    """
    return published_test(_transformers_heads.find("mask2former", name).dataset)


def to_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The names that transformers has for a published file's tensors; query, key and value are taken apart.

    Raises:
        WeightsError: for a name that no published file has.
    """
    newer = {key.replace("static_query", "query_feat"): value for key, value in weights.items()}  # its first name
    return _NAMES.to_transformers(newer)


def from_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The published names of the tensors of a model that `create` made: the inverse of `to_transformers`.

    Raises:
        WeightsError: for a name that such a model has not.
    """
    return _NAMES.from_transformers(weights)
