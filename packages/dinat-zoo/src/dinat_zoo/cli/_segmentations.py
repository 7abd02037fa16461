"""What `dinat-zoo segment` says of an image, and the files that it writes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from dinat_zoo import dense
from dinat_zoo.cli._dense import Pictures, save
from dinat_zoo.cli._detections import described, draw_detections, print_detections
from dinat_zoo.cli._images import Source
from dinat_zoo.dense.classes import category_ids, things
from dinat_zoo.dense.queries import Panoptic
from dinat_zoo.dense.rle import encode

Color = tuple[int, int, int]
Found: TypeAlias = "Tensor | dense.Detections | Panoptic"
"""Classes `[H, W]`, objects, or segments."""


@dataclass(frozen=True)
class Labels:
    """The classes that a model tells apart.

    Attributes:
        names: of each class.
        ids: of each class, in the data set's own files.
        things: which are countable.
        colors: of each class.
    """

    names: Sequence[str]
    ids: Sequence[int]
    things: Sequence[bool]
    colors: Sequence[Color]

    @classmethod
    def of(cls, data_set: str | None, names: Sequence[str]) -> Labels:
        """The classes of a data set, or those that someone named, numbered from 1, which all are things."""
        if data_set is None:
            return cls(names, range(1, len(names) + 1), [True] * len(names), _colors(len(names)))
        try:
            colors = dense.palette(data_set)
        except ValueError:  # it has none of its own
            colors = tuple(_colors(len(names)))
        return cls(names, category_ids(data_set), things(data_set), colors)

    def categories(self) -> list[dict[str, Any]]:
        """The classes as COCO's files have them."""
        columns = zip(self.ids, self.names, self.things, strict=True)
        return [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing in columns]


class Writer:
    """Describes what was found in images, and draws it.

    Args:
        labels: the classes.
        folder: where to write pictures, None for nowhere.
    """

    def __init__(self, labels: Labels, folder: Path | None) -> None:
        self.labels = labels
        self.drawings, self.maps = Pictures(folder), Pictures(folder)

    def write(self, source: Source, image: Tensor, found: Found, number: int) -> dict[str, Any]:
        """What to say of an image, with the files that were written.

        Args:
            source: where it is from.
            image: uint8 `[3, H, W]`.
            found: what is in it.
            number: its id.

        Raises:
            ValueError: a map of more classes than a palette has room for.
        """
        drawing = self.drawings.path(source, ".png")
        if isinstance(found, dense.Detections):
            entries = described(found, number, self.labels.ids, self.labels.names)
            files = (
                {} if drawing is None else {"drawn": save(draw_detections(image, found, self.labels.names), drawing)}
            )
            return {"id": number, "detections": entries, **files}
        if isinstance(found, Panoptic):
            file = self.maps.path(source, ".panoptic.png")
            files = {}
            if drawing is not None and file is not None:
                files = {"drawn": self._draw(image, found.segments - 1, drawing, _colors(len(found.labels)))}
                files["file_name"] = save(found.to_png().cpu(), file)
            return {"id": number, "segments_info": self._segments(found), **files}
        file, files = self.maps.path(source, ".segmentation.png"), {}
        if drawing is not None and file is not None:
            files = {"drawn": self._draw(image, found, drawing, self.labels.colors)}
            files["segmentation"] = self._write(found, file)
        return {"classes": self._areas(found), **files}

    def _areas(self, classes: Tensor) -> list[dict[str, Any]]:
        """Every class that is there, the largest first."""
        counts = torch.bincount(classes.flatten(), minlength=len(self.labels.names))
        return [
            {
                "index": i,
                "label": self.labels.names[i],
                "area": int(counts[i]),
                "fraction": int(counts[i]) / classes.numel(),
                "segmentation": encode(classes == i),
            }
            for i in counts.argsort(descending=True, stable=True).tolist()
            if counts[i]
        ]

    def _segments(self, found: Panoptic) -> list[dict[str, Any]]:
        """Every segment, the largest first."""
        entries = found.to_coco(self.labels.ids)
        for entry, label in zip(entries, found.labels.tolist(), strict=True):
            entry["label"] = self.labels.names[label]
            entry["fraction"] = entry["area"] / found.segments.numel()
            entry["segmentation"] = encode(found.segments == entry["id"])
        return sorted(entries, key=lambda entry: -entry["area"])

    def _draw(self, image: Tensor, regions: Tensor, path: Path, colors: Sequence[Color]) -> str:
        """The image under its regions, each in its colour; -1 is none."""
        present = regions[regions >= 0].unique()
        masks = (regions == present[:, None, None]).cpu()
        drawn = (
            draw_segmentation_masks(image, masks, 0.6, [colors[i] for i in present.tolist()]) if len(masks) else image
        )
        return save(drawn, path)

    def _write(self, classes: Tensor, path: Path) -> str:
        if len(self.labels.colors) > 256:
            raise ValueError(f"classes has {len(self.labels.colors)} names; a picture's palette has room for 256")
        picture = Image.fromarray(classes.to(torch.uint8).numpy())
        picture.putpalette([part for color in self.labels.colors for part in color])  # which makes it one of indices
        picture.save(path)
        return str(path)


def _colors(count: int) -> list[Color]:
    """Hues by the golden angle, far apart for neighbours."""
    hsv = [(i * 0.618034 % 1, 0.65 + 0.35 * (i % 2), 0.95 - 0.25 * (i // 2 % 3)) for i in range(count)]
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in (colorsys.hsv_to_rgb(*color) for color in hsv)]


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print results as text."""
    for result in results:
        print(result["image"])
        if "detections" in result:
            print_detections(result["detections"])
        for found in result.get("segments_info", ()):
            print(f"  {found['label']}  {found['fraction']:.1%}, score {found['score']:.1%}")
        for found in result.get("classes", ()):
            print(f"  {found['label']}  {found['fraction']:.1%}")
