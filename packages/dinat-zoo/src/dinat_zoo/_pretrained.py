"""The published checkpoints, and the timm configurations that come from them.

`weights/published.csv` has a row for each: all that the authors of NAT and DiNAT put on their server, with the Hugging
Face repository where there is one too. Its `model` is the name here of the architecture, of the backbone for dense
prediction. Height and width are those of training; of Mask R-CNN's, the usual test size. Nobody published a hash.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg

_PAPERS = {"nat": "arXiv:2204.07143", "dinat": "arXiv:2209.15001"}
_TAGS = {
    ("imagenet-1k", ""): "shi_labs_in1k",
    ("imagenet-1k", "imagenet-22k"): "shi_labs_in22k_ft_in1k",
    ("imagenet-22k", ""): "shi_labs_in22k",
}


@dataclass(frozen=True)
class Checkpoint:
    """One published file.

    Attributes:
        checkpoint: its name, that of the file at the authors'.
        model: the architecture, a name of this package's models; for dense prediction, that of the backbone.
        task: "classification", "instance", "semantic" or "panoptic" (segmentation).
        head: "linear", "mask_rcnn", "cascade_mask_rcnn", "upernet" or "mask2former".
        dataset: what it was trained on last.
        pretraining: what it was trained on before, or "".
        classes: how many it tells apart.
        height: of the images, in pixels.
        width: of the images, in pixels.
        hub: Hugging Face repository, or "".
        url: file on the authors' server.
    """

    checkpoint: str
    model: str
    task: str
    head: str
    dataset: str
    pretraining: str
    classes: int
    height: int
    width: int
    hub: str
    url: str


@cache
def published() -> tuple[Checkpoint, ...]:
    """Every published checkpoint: classification, detection, semantic segmentation, Mask2Former."""
    table = files("dinat_zoo").joinpath("weights").joinpath("published.csv").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = list(csv.DictReader(table.splitlines()))
    return tuple(Checkpoint(**row | {key: int(row[key]) for key in ("classes", "height", "width")}) for row in rows)


def find(name: str) -> Checkpoint | None:
    """The checkpoint of that name, or None; the file's name in the authors' older documents (`_1k_`) will do."""
    return next((row for row in published() if row.checkpoint in (name, name.replace("_1k_", "_in1k_"))), None)


def cfgs_of(model: str, **entries: Any) -> dict[str, dict[str, Any]]:
    """timm's pretrained configurations of a model, by tag; both sources where both exist.

    Args:
        model: a name of this package's models.
        **entries: arguments of timm's `PretrainedCfg` to add or change in each.

    Returns:
        A configuration for each published classifier of that architecture; none where there is none.

    Example:
        >>> cfgs_of("dinat_mini")["shi_labs_in1k"]["hf_hub_id"]
        'shi-labs/dinat-mini-in1k-224'
        >>> sorted(cfgs_of("dinat_large_384")), cfgs_of("dinat_pico")
        (['shi_labs_in22k_ft_in1k'], {})
    """
    rows = [row for row in published() if row.model == model and row.head == "linear"]
    return {_TAGS[row.dataset, row.pretraining]: {**_cfg(row), **entries} for row in rows}


def default_cfgs_of(models: Iterable[str]) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """What timm's `generate_default_cfgs` wants: `cfgs_of` each model, by "model.tag"."""
    return {f"{model}.{tag}": cfg for model in models for tag, cfg in cfgs_of(model).items()}


def _cfg(row: Checkpoint) -> dict[str, Any]:
    isotropic = "isotropic" in row.model or row.model.startswith("vitrpb")
    convolutions = not isotropic and not row.model.startswith("dinat_s_")  # the stem: two of them, or one for patches
    stride = 16 if isotropic else 32
    sources = {"hf_hub_id": row.hub or None, "url": row.url}
    return {
        "num_classes": row.classes,
        "input_size": (3, row.height, row.width),
        "pool_size": (row.height // stride, row.width // stride),
        "crop_pct": 0.875 if row.height == 224 else 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj.0" if convolutions else "patch_embed.proj",
        "classifier": "head.fc",
        "license": "mit",
        "origin_url": "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer",
        "paper_ids": _PAPERS["nat" if row.url.startswith("https://shi-labs.com/projects/nat/") else "dinat"],
        **{key: value for key, value in sources.items() if value},
    }
