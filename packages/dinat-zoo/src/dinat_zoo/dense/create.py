"""Published dense models by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from dinat_zoo._checkpoint import load_checkpoint
from dinat_zoo.dense.backbone import Backbone
from dinat_zoo.dense.detector import Detector
from dinat_zoo.dense.published import HEADS, PUBLISHED, Published
from dinat_zoo.dense.segmenter import Segmenter
from dinat_zoo.dense.transforms import ImageTransform


def list_models() -> list[str]:
    """The names of the published detection and segmentation models, sorted."""
    return sorted(PUBLISHED)


def create(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    **backbone: Any,
) -> Detector | Segmenter:
    """Build a published detection or segmentation model, in training mode.

    Args:
        name: see `list_models`.
        checkpoint: weights in the published format or ours, every key of which must fit: whatever source
            `dinat_zoo.load_checkpoint` takes, a file, a URL or the name of a published checkpoint.
        num_classes: another number of classes than the published one, for training on other data.
        device: where the parameters are created.
        **backbone: arguments of the backbone that override the published ones: `pretrained` starts from the
            classifier's weights; `drop_path_rate`, `dilations` and so on.

    Returns:
        The model; `eval()` it for inference.

    Raises:
        ValueError: there is no such model.
        WeightsError: the weights cannot be had or read, or do not fit.
    """
    entry = _entry(name)
    arguments = {"dilations": entry.dilations, "drop_path_rate": entry.drop_path_rate, "device": device, **backbone}
    with torch.device(device or torch.get_default_device()):
        body = Backbone.create(entry.backbone, **arguments)
        model = HEADS[entry.head](body, entry.num_classes if num_classes is None else num_classes)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def transform(name: str) -> ImageTransform:
    """The preprocessing with which a published model was tested.

    Args:
        name: see `list_models`.

    Raises:
        ValueError: there is no such model.
    """
    entry = _entry(name)
    return ImageTransform(entry.longest, entry.shortest, divisor=1 if entry.head == "upernet" else 32)


def _entry(name: str) -> Published:
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=3) or list_models()
        raise ValueError(f"name is {name!r}; there is no such model. Near it: {', '.join(near)}.")
    return PUBLISHED[name]
