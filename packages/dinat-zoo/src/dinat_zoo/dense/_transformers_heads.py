"""What published models with Hugging Face transformers' heads share: their rows, and the labels of a configuration."""

from __future__ import annotations

from typing import Any

from dinat_zoo._pretrained import Checkpoint, published
from dinat_zoo.dense.classes import class_names, label_set


def names(head: str) -> list[str]:
    """The published models with this head, sorted."""
    return sorted(row.checkpoint for row in published() if row.head == head)


def find(head: str, name: str) -> Checkpoint:
    """The published model of this name and head.

    Raises:
        ValueError: there is no such model.
    """
    row = next((row for row in published() if row.head == head and row.checkpoint == name), None)
    if row is None:
        raise ValueError(f"name is {name!r}; there is no such model. There are {', '.join(names(head))}.")
    return row


def labels(row: Checkpoint, num_classes: int | None) -> dict[str, Any]:
    """Arguments of a transformers configuration: the published labels, or another number of nameless ones."""
    if num_classes not in (None, row.classes):
        return {"num_labels": num_classes}
    known = class_names(label_set(row.dataset, row.task))
    return {"id2label": dict(enumerate(known)), "label2id": {label: i for i, label in enumerate(known)}}
