"""The classes that the published models of dense prediction tell apart, in the order of their labels."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

Color = tuple[int, int, int]

# Every table has all classes of its data set, in the order of the labels. An instance's class is one of its things.
_TABLES = {
    "coco": ("coco-panoptic", True),
    "coco-panoptic": ("coco-panoptic", False),
    "ade20k": ("ade20k", False),
    "ade20k-instance": ("ade20k", True),
    "cityscapes": ("cityscapes", False),
    "cityscapes-instance": ("cityscapes", True),
    "mapillary": ("mapillary", False),
}
DATASETS = tuple(_TABLES)
"""The data sets that `class_names` knows."""


def class_names(dataset: str) -> tuple[str, ...]:
    """The names of a data set's classes; label i of the published models is the i-th of them.

    Args:
        dataset: "coco" (its 80 things), "coco-panoptic" (these, then 53 kinds of stuff), "ade20k" (the 150 of semantic
            and panoptic segmentation, each by the first of its synonyms), "ade20k-instance" (their 100 things),
            "cityscapes" (19), "cityscapes-instance" (their 8 things) or "mapillary" (the 65 of Mapillary Vistas).

    Raises:
        ValueError: for another data set.

    Example:
        >>> class_names("cityscapes-instance")[:3]
        ('person', 'rider', 'car')
    """
    return tuple(row["name"] for row in _rows(dataset))


def label_set(dataset: str, task: str) -> str:
    """Which of `DATASETS` has the classes of a published model.

    Args:
        dataset: "coco", "ade20k", "cityscapes" or "mapillary".
        task: "instance", "panoptic" or "semantic".
    """
    return next(key for key in (f"{dataset}-{task}", dataset) if key in DATASETS)


def things(dataset: str) -> tuple[bool, ...]:
    """Which of a data set's classes are things, that is countable; the others are stuff.

    Raises:
        ValueError: for another data set.

    Example:
        >>> sum(things("coco-panoptic"))
        80
    """
    return tuple(row["thing"] == "1" for row in _rows(dataset))


def category_ids(dataset: str) -> tuple[int, ...]:
    """The id that a data set's own files have for each class: of ADE20K, which has none, the class's number from 1.

    Raises:
        ValueError: for another data set.

    Example:
        >>> category_ids("coco-panoptic")[79:82]
        (90, 92, 93)
    """
    return tuple(int(row.get("id", i)) for i, row in enumerate(_rows(dataset), start=1))


def palette(dataset: str) -> tuple[Color, ...]:
    """The colours, red, green and blue from 0 to 255, in which a data set's authors paint its classes.

    Two classes of ADE20K, "road" and "skyscraper", have the same grey.

    Args:
        dataset: one of "ade20k", "cityscapes" and "mapillary", or the instances' of these.

    Raises:
        ValueError: for a data set without such colours.
    """
    rows = _rows(dataset)
    if "red" not in rows[0]:
        raise ValueError(f"dataset is {dataset!r}, which has no colours; 'ade20k', 'cityscapes' and 'mapillary' have.")
    return tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in rows)


@cache
def _rows(dataset: str) -> tuple[dict[str, str], ...]:
    if dataset not in _TABLES:
        raise ValueError(f"dataset is {dataset!r}; it must be one of {', '.join(map(repr, DATASETS))}.")
    table, things = _TABLES[dataset]
    with (Path(__file__).parent / f"{table}.csv").open(encoding="utf-8") as file:
        return tuple(row for row in csv.DictReader(file) if not things or row["thing"] == "1")
