"""Measure a trained model: accuracy, confusion matrix, and what is left without neighborhood attention.

python -m dinat_zoo.recipes.fashion_mnist.evaluate --data DIR [--weights FILE] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from typing import TypeVar

import timm
import torch
from torch import Tensor, nn

import dinat_zoo  # noqa: F401  (registers the models)
from dinat_zoo.fashion_mnist import LABELS
from dinat_zoo.recipes.fashion_mnist.data import load_split, normalize, scale
from natten_core import NeighborhoodAttention2D

_Model = TypeVar("_Model", bound=nn.Module)


class ValueProjection(nn.Module):
    """What neighborhood attention becomes when every token attends to itself alone: its value, projected.

    The parameters are those of the attention it replaces, so that only the mixing of tokens is gone.
    """

    def __init__(self, attention: NeighborhoodAttention2D) -> None:
        super().__init__()
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, dim]` to the same shape, token by token."""
        value = self.qkv(x)[..., 2 * x.shape[-1] :]
        output: Tensor = self.proj(value)
        return output


def without_attention(model: _Model) -> _Model:
    """A copy of `model`, all of whose neighborhood attention is the identity on values."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NeighborhoodAttention2D):
                setattr(module, name, ValueProjection(child))
    return model


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """The model's output for images of the data set.

    Args:
        model: takes `[B, 1, 28, 28]`; put into evaluation mode for the duration.
        images: uint8 `[N, 28, 28]`.
        batch_size: images at a time.

    Returns:
        fp32 `[N, classes]`.
    """
    training = model.training
    model.eval()
    output = torch.cat([model(normalize(scale(batch))) for batch in images.split(batch_size)])
    model.train(training)
    return output


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, of class numbers or logits."""
    classes = predictions.argmax(1) if predictions.ndim == 2 else predictions
    return 100 * int((classes == labels).sum()) / len(labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int = len(LABELS)) -> Tensor:
    """Counts, int64 `[classes, classes]`: true classes down, predicted ones across.

    Args:
        predictions: int64 `[N]`.
        labels: int64 `[N]`.
        classes: how many there are.
    """
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` as in `sys.argv[1:]`."""
    parser = argparse.ArgumentParser(prog="python -m dinat_zoo.recipes.fashion_mnist.evaluate", description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the data set's IDX files")
    parser.add_argument("--model", default="dinat_pico.fashion_mnist", help="registered model")
    parser.add_argument("--weights", help="safetensors file; the weights in the package otherwise")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)

    overlay = {"file": options.weights} if options.weights else None
    model = timm.create_model(options.model, pretrained=True, pretrained_cfg_overlay=overlay)
    test = load_split(options.data, train=False)
    predictions = logits(model, test.images).argmax(1)
    matrix = confusion_matrix(predictions, test.labels)
    per_class = 100 * matrix.diagonal() / matrix.sum(1)
    result = {
        "model": options.model,
        "images": len(test.labels),
        "accuracy": accuracy(predictions, test.labels),
        "accuracy_without_attention": accuracy(logits(without_attention(model), test.images), test.labels),
        "per_class": {label: round(value, 2) for label, value in zip(LABELS, per_class.tolist(), strict=True)},
        "confusion_matrix": matrix.tolist(),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['accuracy']:.2f}% of {result['images']} test images; with neighborhood attention replaced")
        print(f"by the identity on values, without training again: {result['accuracy_without_attention']:.2f}%")
        print(table(matrix))
    return 0


def table(matrix: Tensor) -> str:
    """A confusion matrix and the accuracy of each class as a Markdown table."""
    lines = [
        "| true \\ predicted | " + " | ".join(LABELS) + " | accuracy |",
        "|---" + "|---:" * (len(LABELS) + 1) + "|",
    ]
    for label, row in zip(LABELS, matrix, strict=True):
        correct = 100 * row[LABELS.index(label)].item() / max(1, int(row.sum()))
        lines.append(f"| {label} | " + " | ".join(str(int(count)) for count in row) + f" | {correct:.1f}% |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
