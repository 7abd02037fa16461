"""What `dinat-zoo detect` and `dinat-zoo segment` say of objects."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from dinat_zoo import dense
from dinat_zoo.cli._arguments import positive
from dinat_zoo.cli._images import Source


def add_bounds(parser: argparse.ArgumentParser) -> None:
    """Add `--threshold` and `--most`."""
    parser.add_argument(
        "--threshold", type=_score, default=0.5, help="least score of an object to be given (default: %(default)s)"
    )
    parser.add_argument("--most", type=positive, default=100, help="most objects of an image (default: %(default)s)")


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 1")
    return value


def image_id(source: Source, count: int) -> int:
    """An image's id: its file's name if that is a number, as COCO's are, else its place."""
    return int(source.path.stem) if source.path.stem.isdecimal() else count


def best(found: dense.Detections, threshold: float, most: int) -> dense.Detections:
    """The best of them, on the CPU."""
    keep = (found.scores >= threshold).nonzero()[:most, 0]
    return dense.Detections(*(part[keep].cpu() for part in (found.boxes, found.labels, found.scores, found.masks)))


def described(found: dense.Detections, number: int, ids: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a COCO result file, with each object's name and area."""
    entries = found.to_coco(number, ids)
    for entry, label, mask in zip(entries, found.labels.tolist(), found.masks, strict=True):
        entry |= {"label": names[label], "area": int(mask.sum())}
    return entries


def draw_detections(image: Tensor, found: dense.Detections, names: Sequence[str]) -> Tensor:
    """The image with masks and boxes drawn in."""
    if not len(found.labels):
        return image
    picture = draw_segmentation_masks(image, found.masks, alpha=0.5)
    scored = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    drawn: Tensor = draw_bounding_boxes(picture, found.boxes, [f"{names[i]} {score:.0%}" for i, score in scored])
    return drawn


def print_detections(entries: Sequence[dict[str, Any]]) -> None:
    """One line an object."""
    for found in entries:
        left, top, width, height = found["bbox"]
        place = f"{left:.0f},{top:.0f} {width:.0f}x{height:.0f}"
        print(f"  {found['label']}  {found['score']:.1%}  at {place}, {found['area']} pixels")
    if not entries:
        print("  nothing above the threshold")
