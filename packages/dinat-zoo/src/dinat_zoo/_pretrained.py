"""The published checkpoints, and what timm's pretrained configurations say of them.

`weights/published.csv` has a row for each: all that the authors of NAT, DiNAT and OneFormer put on their server (of
OneFormer, those on DiNAT), with the Hugging Face repository where there is one too. Its `model` is the name here of the
architecture, of the backbone for dense prediction. Height and width are those of training; of Mask R-CNN's, the usual
test size. Nobody published a hash.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dinat_zoo import fashion_mnist

_BUNDLED: dict[str, dict[str, dict[str, Any]]] = {
    "dinat_pico": {
        "fashion_mnist": {
            "file": str(Path(__file__).parent / "weights" / "dinat_pico.fashion_mnist.safetensors"),
            "label_names": fashion_mnist.LABELS,
            "mean": fashion_mnist.MEAN,
            "std": fashion_mnist.STD,
            "license": "mit",
        }
    }
}
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
        task: "classification", "instance", "semantic" or "panoptic" (segmentation); OneFormer's do all three of these.
        head: "linear", "mask_rcnn", "cascade_mask_rcnn", "upernet", "mask2former" or "oneformer".
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
    """Every published checkpoint: classification, detection, semantic segmentation, Mask2Former, OneFormer."""
    table = (Path(__file__).parent / "weights" / "published.csv").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = list(csv.DictReader(table.splitlines()))
    return tuple(Checkpoint(**row | {key: int(row[key]) for key in ("classes", "height", "width")}) for row in rows)


def find(name: str) -> Checkpoint | None:
    """The checkpoint of that name, or None; the file's name in the authors' older documents (`_1k_`) will do."""
    return next((row for row in published() if row.checkpoint in (name, name.replace("_1k_", "_in1k_"))), None)


def cfgs_of(model: str) -> dict[str, dict[str, Any]]:
    """Where timm finds the weights of a model; both sources where both exist.

    Args:
        model: a name of this package's models.

    Returns:
        By tag, the default's first, entries of timm's `PretrainedCfg` beyond those of the architecture; empty where
        there are no weights.

    Example:
        >>> cfgs_of("dinat_mini")["shi_labs_in1k"]["hf_hub_id"]
        'shi-labs/dinat-mini-in1k-224'
        >>> sorted(cfgs_of("dinat_large_384")), cfgs_of("nat_s_tiny")
        (['shi_labs_in22k_ft_in1k'], {})
    """
    rows = [row for row in published() if row.model == model and row.head == "linear"]
    return {**_BUNDLED.get(model, {}), **{_TAGS[row.dataset, row.pretraining]: _sources(row) for row in rows}}


def _sources(row: Checkpoint) -> dict[str, Any]:
    origin = {"license": "mit", "origin_url": "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer"}
    return {**({"hf_hub_id": row.hub} if row.hub else {}), "url": row.url, **origin}
