"""A model with all that turns an image file into ranked classes: its weights, its preprocessing, its class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from torch import Tensor

from dinat_zoo import fashion_mnist, list_models
from dinat_zoo._base import BaseTransformer
from dinat_zoo._checkpoint import checkpoint_filter_fn, fit, load_checkpoint, read_weights
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import WeightsError, first_line

DEFAULT_MODEL = "dinat_pico"


@dataclass(frozen=True)
class Prediction:
    """One class that a model proposes for an image."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classifier:
    """A model in eval mode, its image transform and the names of its classes."""

    model: BaseTransformer
    transform: Callable[[Image.Image], Tensor]
    labels: Sequence[str]

    def predict(self, images: Sequence[Tensor], top_k: int) -> list[list[Prediction]]:
        """Classify transformed images.

        Args:
            images: each `[C, H, W]`, all of one shape.
            top_k: how many classes to give, at most; as many as the model has if there are fewer.

        Returns:
            For every image its most probable classes, best first.
        """
        with torch.inference_mode():
            batch = torch.stack(list(images)).to(next(self.model.parameters()).device)
            probabilities = self.model(batch).float().softmax(1)
        values, indices = probabilities.topk(min(top_k, probabilities.shape[1]))
        return [
            [Prediction(self.labels[i], i, value) for value, i in zip(row, row_indices, strict=True)]
            for row, row_indices in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def load_classifier(name: str = DEFAULT_MODEL, checkpoint: str | Path | None = None) -> Classifier:
    """Build a model of this package with weights.

    Args:
        name: one of `list_models()`, with or without a timm tag.
        checkpoint: any source of `load_checkpoint`, with any number of classes; without one, the model's own weights,
            which are bundled for the default and published for the others.

    Returns:
        The model, ready to predict.

    Raises:
        WeightsError: if there is no such model, or its weights cannot be had or do not fit.
    """
    if name.split(".")[0] not in list_models():
        raise WeightsError(f"no model is named {name!r}; there are {', '.join(list_models())}")
    model = _pretrained(name) if checkpoint is None else _from_checkpoint(name, checkpoint)
    model.eval()
    return Classifier(model, _transform(model), labels_of(model))


def load_body(
    name: str = DEFAULT_MODEL, checkpoint: str | Path | None = None
) -> tuple[BaseTransformer, Callable[[Image.Image], Tensor]]:
    """Build a model without classifier, in eval mode, with weights; its features are what is wanted.

    Args:
        name: as for `load_classifier`.
        checkpoint: any source of `load_checkpoint`, a detector's too.

    Returns:
        The model and its image transform.

    Raises:
        WeightsError: as `load_classifier` does.
    """
    if checkpoint is None:
        model = _pretrained(name)
        transform = _transform(model)
        model.reset_classifier(0)
    else:
        model = create(name, num_classes=0)
        load_checkpoint(model, checkpoint)
        transform = _transform(model)
    return model.eval(), transform


def create(name: str, **arguments: Any) -> BaseTransformer:
    """timm's `create_model`, for names of this package."""
    model = timm.create_model(name, **arguments)
    assert isinstance(model, BaseTransformer)
    return model


def _pretrained(name: str) -> BaseTransformer:
    try:
        return create(name, pretrained=True)
    except Exception as error:  # the hub's client raises errors of several unrelated libraries
        raise WeightsError(f"cannot load the weights of {name!r}: {first_line(error)}") from error


def _from_checkpoint(name: str, checkpoint: str | Path) -> BaseTransformer:
    weights = read_weights(resolve(checkpoint))
    model = create(name)
    weights = checkpoint_filter_fn(weights, model)
    if "head.fc.weight" in weights:
        model.reset_classifier(len(weights["head.fc.weight"]))
    fit(model, weights, str(checkpoint))
    return model


def _transform(model: BaseTransformer) -> Callable[[Image.Image], Tensor]:
    """Fashion-MNIST's own way to its images for a model trained on them, timm's evaluation transform for others."""
    if model.pretrained_cfg.get("tag") != "fashion_mnist":
        evaluate = create_transform(**resolve_data_config(model=model))
        return lambda image: evaluate(image.convert("RGB"))
    mean, std = float(model.pretrained_cfg["mean"][0]), float(model.pretrained_cfg["std"][0])

    def transform(image: Image.Image) -> Tensor:
        pixels = np.asarray(fashion_mnist.as_dataset_image(image), dtype=np.float32)
        return (torch.from_numpy(pixels)[None] / 255 - mean) / std

    return transform


def labels_of(model: BaseTransformer) -> Sequence[str]:
    """Names of the classes: the configuration's, ImageNet's, or plain numbers."""
    names = model.pretrained_cfg.get("label_names") or ()
    if len(names) == model.num_classes:
        return tuple(names)
    subset = infer_imagenet_subset(model)
    if subset is not None:
        info = ImageNetInfo(subset)
        return tuple(info.index_to_description(i) for i in range(model.num_classes))
    return tuple(f"class {i}" for i in range(model.num_classes))
