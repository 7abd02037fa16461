"""Folders as Hugging Face transformers writes and reads them: config.json beside the weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from timm.data import resolve_data_config
from torch import nn

from dinat_zoo._base import BaseTransformer
from dinat_zoo._blocks import Block
from dinat_zoo._formats import Weights, convert
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._tokens import ConvTokenizer
from dinat_zoo._weights_file import WeightsError, first_line, write

if TYPE_CHECKING:
    from dinat_zoo.dense import Backbone

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
_BICUBIC = 3  # as PIL counts


def save_hugging_face(
    model: NeighborhoodTransformer | Backbone, folder: str | Path, labels: Sequence[str] | None = None
) -> Path:
    """Write a folder that transformers reads: `NatForImageClassification`, `DinatBackbone` and their like.

    The classes of transformers are right up to 4.53, under `natten_core.compat`. `dinat_zoo.load_checkpoint` reads the
    folder, too.

    Args:
        model: a NAT or DiNAT with a classifier, without one, or as a `dense.Backbone`.
        folder: made if it is not there; what it holds of the same names is replaced.
        labels: names of the classes; transformers' "LABEL_0" and so on by default.

    Returns:
        The file with the weights; beside it `config.json` and, of a classifier, `preprocessor_config.json`.

    Raises:
        WeightsError: if transformers has no such model, or the folder cannot be written.

    Example:
        >>> import timm, dinat_zoo
        >>> model = timm.create_model("dinat_mini", dilations="gradual")  # doctest: +SKIP
        >>> dinat_zoo.save_hugging_face(model, "my-dinat")  # doctest: +SKIP
    """
    return write_folder(model, Path(folder), labels)[0]


def write_folder(
    model: NeighborhoodTransformer | Backbone, folder: Path, labels: Sequence[str] | None
) -> tuple[Path, Weights]:
    """What `save_hugging_face` does; returns what the file holds, too."""
    config = config_of(model, labels)
    weights = convert(dict(model.state_dict()), "hf", config["model_type"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(config, folder / CONFIG)
        if isinstance(model, BaseTransformer) and model.num_classes:
            _write_json(preprocessor_of(model), folder / PREPROCESSOR)
    except OSError as error:
        raise WeightsError(f"cannot write {str(folder)!r}: {first_line(error)}") from error
    write(weights, folder / WEIGHTS)
    return folder / WEIGHTS, weights


def config_of(model: NeighborhoodTransformer | Backbone, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """What transformers' `NatConfig` or `DinatConfig` says of a model, which is a NAT where every dilation is 1.

    Raises:
        WeightsError: if transformers has no such model.
    """
    rows = [[block for block in level.modules() if isinstance(block, Block)] for level in model.levels]
    _refuse(model, [block for row in rows for block in row])
    first, last = rows[0][0], rows[-1][-1]
    dilations = [[cast(Any, block.attn).dilation[0] for block in row] for row in rows]
    family = "nat" if all(set(row) == {1} for row in dilations) else "dinat"
    attention, hidden = cast(Any, first.attn), cast(nn.Linear, first.mlp.fc1)
    is_backbone = not isinstance(model, BaseTransformer)
    head = "Backbone" if is_backbone else "ForImageClassification" if model.num_classes else "Model"
    config: dict[str, Any] = {
        "architectures": [family.capitalize() + head],
        "model_type": family,
        "num_channels": model.in_chans,
        "patch_size": 4,
        "embed_dim": attention.embed_dim,
        "hidden_size": cast(Any, last.attn).embed_dim,
        "depths": [len(row) for row in rows],
        "num_heads": [cast(Any, row[0].attn).num_heads for row in rows],
        "kernel_size": attention.kernel_size[0],
        "mlp_ratio": hidden.out_features / hidden.in_features,
        "qkv_bias": attention.qkv.bias is not None,
        "layer_scale_init_value": 0.0 if first.gamma1 is None else first.layer_scale or 1e-5,  # 0 would mean none
        "drop_path_rate": getattr(last.drop_path1, "drop_prob", 0.0),
        "hidden_act": "gelu",
        "layer_norm_eps": first.norm1.eps,
        "torch_dtype": str(hidden.weight.dtype).removeprefix("torch."),
    }
    if family == "dinat":
        config["dilations"] = dilations
    if is_backbone:
        config["out_features"] = [f"stage{i + 1}" for i in cast(Any, model).out_indices]
    elif classes := cast(int, model.num_classes):
        names = list(labels or (f"LABEL_{i}" for i in range(classes)))
        if len(names) != classes:
            raise WeightsError(f"labels has {len(names)} names; the model has {classes} classes: one for each")
        config["id2label"] = dict(enumerate(names))
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def preprocessor_of(model: NeighborhoodTransformer) -> dict[str, Any]:
    """What transformers' image processor has to do to see what timm's evaluation transform shows the model."""
    data = resolve_data_config(model=model)
    height, width = data["input_size"][1:]
    return {
        "image_processor_type": "CLIPImageProcessor",  # the one that resizes the shorter side and crops the centre
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(height / data["crop_pct"])},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }


def _refuse(model: NeighborhoodTransformer | Backbone, blocks: Sequence[Block]) -> None:
    """Raise for what transformers has no model of."""
    if isinstance(model, BaseTransformer) and not isinstance(model.out_norms[0], nn.Identity):
        raise WeightsError("Hugging Face's classifiers have no norms on levels' outputs: make a dense.Backbone of it")
    stem = model.patch_embed
    if not isinstance(stem, ConvTokenizer) or any(convolution.stride != (2, 2) for convolution in stem.proj):
        raise WeightsError(
            "Hugging Face's format has NAT and DiNAT with tokens of 4x4 pixels, and this is no such model"
        )
    attentions = [cast(Any, block.attn) for block in blocks]
    sizes = {tuple(attention.kernel_size) for attention in attentions}
    if len(sizes) > 1:
        raise WeightsError(f"Hugging Face's format has one kernel size for all levels, and this model has {len(sizes)}")
    if any(attention.rpb is None for attention in attentions):
        raise WeightsError(
            "Hugging Face's format has a relative positional bias in every block, and this model has not"
        )


def _write_json(content: dict[str, Any], path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
