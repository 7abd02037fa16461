"""OneFormer on DiNAT-Large: the seven published models, with Hugging Face transformers' heads on our backbone.

One model does semantic, instance and panoptic segmentation; a task token says which (arXiv 2211.06220). transformers'
own DiNAT inside of it needs NATTEN's old functions, and since transformers 4.54 mislays the heads' axis, so that none
of these models runs there. They need transformers 5 or later, and scipy: the extra `mask2former`.
`dinat_zoo.dense.queries` makes segmentations of what they give.

>>> from dinat_zoo.dense import oneformer
>>> oneformer.list_models()[-2:]
['oneformer_dinat_large_coco', 'oneformer_dinat_large_mapillary']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dinat_zoo import dilations, dinat
from dinat_zoo._checkpoint import fit, read_weights
from dinat_zoo._formats import Weights, convert
from dinat_zoo._pretrained import Checkpoint
from dinat_zoo._sources import resolve
from dinat_zoo.dense import _transformers_heads
from dinat_zoo.dense.detectron2_names import BODY, ENCODER, Names
from dinat_zoo.dense.transforms import ImageTransform, published_test

if TYPE_CHECKING:
    from transformers import OneFormerForUniversalSegmentation

__all__ = ["TASKS", "create", "from_transformers", "list_models", "task_inputs", "to_transformers", "transform"]

TASKS = ("semantic", "instance", "panoptic")
"""What a model can be asked for."""

_TEXT = "model.text_mapper."
_TOKENS = 77
# "the task is" and the task, in CLIP's vocabulary, between its marks of start and end.
_START, _END, _THE_TASK_IS = 49406, 49407, (518, 10549, 533)
_TASK = {"semantic": (29119, 1550), "instance": (34572,), "panoptic": (1072, 24755)}
_NAMES = Names(
    "OneFormer",
    (
        ("PREDICTOR.transformer_self_attention_layers.#", "QUERY.decoder.layers.#.self_attn"),
        ("PREDICTOR.transformer_cross_attention_layers.#", "QUERY.decoder.layers.#.cross_attn"),
        ("PREDICTOR.transformer_ffn_layers.#", "QUERY.decoder.layers.#.ffn"),
        ("PREDICTOR.decoder_norm", "QUERY.decoder.decoder_norm"),
        ("PREDICTOR.class_transformer.decoder", "QUERY.decoder.query_transformer.decoder"),
        ("PREDICTOR.class_input_proj", "QUERY.decoder.query_input_projection"),
        ("PREDICTOR.class_embed", "QUERY.decoder.class_embed"),
        ("PREDICTOR.mask_embed.layers.#", "QUERY.decoder.mask_embed.layers.#.0"),
        ("PREDICTOR.query_embed", "QUERY.queries_embedder"),
        ("PREDICTOR.level_embed", "QUERY.level_embed"),
        ("task_mlp.layers.#", "model.task_encoder.task_mlp.layers.#.0"),
        ("text_encoder.transformer.resblocks.#.mlp.c_fc", "TEXT.text_encoder.transformer.layers.#.mlp.fc1"),
        ("text_encoder.transformer.resblocks.#.mlp.c_proj", "TEXT.text_encoder.transformer.layers.#.mlp.fc2"),
        ("text_encoder.transformer.resblocks.#.ln_#", "TEXT.text_encoder.transformer.layers.#.layer_norm#"),
        ("text_encoder.transformer.resblocks.#.attn", "TEXT.text_encoder.transformer.layers.#.self_attn"),
        ("text_encoder", "TEXT.text_encoder"),
        ("text_projector.layers.#", "TEXT.text_projector.layers.#.0"),
        ("prompt_ctx", "TEXT.prompt_ctx"),
    ),
)


def list_models() -> list[str]:
    """The names of the published OneFormer models on DiNAT, sorted."""
    return _transformers_heads.names("oneformer")


def create(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    heads: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> OneFormerForUniversalSegmentation:
    """Build a published OneFormer model, as transformers has it.

    `transform` prepares images for it, and `dinat_zoo.dense.queries.look` runs it on them for a task. What
    `save_pretrained` writes, `from_pretrained` reads once `dinat_zoo.dense.adapters.transformers` is imported.

    Args:
        name: see `list_models`.
        checkpoint: weights, every key of which must fit, as the authors published them or as they are on the Hugging
            Face hub: whatever source `dinat_zoo.load_checkpoint` takes, such as `name` itself. The text encoder, which
            only training uses, is left out unless `heads` has `is_training=True`.
        num_classes: another number of classes than the published one, for training on other data.
        device: where the parameters are created.
        heads: arguments of transformers' `OneFormerConfig` that override the published ones.
        **backbone: arguments of the backbone that override the published ones.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: there is no such model.
        WeightsError: the weights cannot be had or read, or do not fit.
        ImportError: transformers 5 or scipy is not installed.
    """
    row = _transformers_heads.find("oneformer", name)
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    from dinat_zoo.dense.adapters.transformers import DinatZooConfig

    coco = row.dataset == "coco" or row.pretraining == "coco"
    queries = 150 if coco else 250
    settings = {"num_queries": queries, **(heads or {}), **_transformers_heads.labels(row, num_classes)}
    inside = DinatZooConfig(backbone=row.model, arguments={**body(row), **backbone})
    config = OneFormerConfig(backbone_config=inside, **settings)
    with torch.device(device or torch.get_default_device()):
        model = OneFormerForUniversalSegmentation(config).train()
    if checkpoint is not None:
        expected = model.state_dict()
        weights = to_transformers(read_weights(resolve(checkpoint)))
        if not any(key.startswith(_TEXT) for key in expected):
            weights = {key: value for key, value in weights.items() if not key.startswith(_TEXT)}
        for key, value in expected.items():
            if key.startswith("criterion."):
                weights.setdefault(key, value)  # of the losses alone
        fit(model, weights, str(checkpoint))
    return model


def transform(name: str) -> ImageTransform:
    """The preprocessing with which a published model was tested.

    Args:
        name: see `list_models`.

    Raises:
        ValueError: there is no such model.
    """
    row = _transformers_heads.find("oneformer", name)
    return published_test(row.dataset, row.height if row.dataset == "ade20k" else None)


def task_inputs(task: str | None, batch: int = 1) -> Tensor:
    """The tokens of "the task is semantic" and its like, which say what a model is to do.

    Args:
        task: one of `TASKS`.
        batch: images.

    Returns:
        `[batch, 77]`, int64, zeros at the end, as transformers' `OneFormerProcessor` makes them.

    Raises:
        ValueError: no such task.
    """
    if task not in _TASK:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(map(repr, TASKS))}.")
    tokens = torch.zeros(batch, _TOKENS, dtype=torch.int64)
    words = (_START, *_THE_TASK_IS, *_TASK[task], _END)
    tokens[:, : len(words)] = torch.tensor(words)
    return tokens


def to_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The names that the models of `create` have for the tensors of a file of the authors', of the hub, or of theirs.

    Raises:
        WeightsError: for a name that no published file has.
    """
    inside = {key.removeprefix(ENCODER): value for key, value in weights.items() if key.startswith(ENCODER)}
    if not inside or any(key.startswith(BODY) for key in weights):
        return _NAMES.to_transformers(weights)
    heads = {key: value for key, value in weights.items() if not key.startswith(ENCODER)}
    return {**{BODY + key: value for key, value in convert(inside, "timm").items()}, **heads}


def from_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """The authors' names of the tensors of a model that `create` made: the inverse of `to_transformers`.

    Raises:
        WeightsError: for a name that such a model has not.
    """
    return _NAMES.from_transformers(weights)


def body(row: Checkpoint) -> dict[str, Any]:
    """What is not the model's own in the arguments of the backbone."""
    depths = dinat.VARIANTS[row.model].arguments["depths"]
    # That of Mapillary Vistas has the list of COCO's.
    task = f"oneformer-{'coco' if row.dataset == 'mapillary' else row.dataset}"
    resolution = row.height if row.dataset == "ade20k" else None
    return {"dilations": dilations.published(depths, task, resolution), "drop_path_rate": 0.3}
