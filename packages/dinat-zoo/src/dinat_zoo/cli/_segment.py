"""`dinat-zoo segment`: the class of every pixel."""

from __future__ import annotations

import argparse
import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from dinat_zoo import dense
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, example, fail
from dinat_zoo.cli._dense import Pictures, add_arguments, each_image, load, models, save, transform
from dinat_zoo.cli._images import Report, Source
from dinat_zoo.dense.rle import encode

_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the papers' multi-scale results
_EXAMPLES = """\
examples:
  dinat-zoo segment street.jpg --output drawn/
  dinat-zoo segment photos/ --model upernet_dinat_large --checkpoint weights.pth --multi-scale --json
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "segment",
        help="tell the class of every pixel",
        description="Segment images by UPerNet. Text and --json give the area of every class that is there, --json "
        "its mask as run lengths too. --output writes two files an image: a drawing, and a PNG with the classes' "
        "indices as pixels and a palette.",
        **example(_EXAMPLES),
    )
    add_arguments(parser, models(("upernet",)), "upernet_dinat_mini")
    parser.add_argument("--multi-scale", action="store_true", help="average six scales and their mirror images")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment, print, draw.

    Returns:
        The exit code: 0; 1 if there are no weights; 2 if something named is no image, or an argument cannot be right.
    """
    report, drawings, maps = Report(), Pictures(arguments.output), Pictures(arguments.output)
    views: dict[str, Any] = {"scales": _SCALES, "flip": True} if arguments.multi_scale else {}
    try:
        model, names = load(arguments)
        prepare, colours = transform(arguments), _colours(arguments.classes is None)
        if len(names) > len(colours):
            return fail(f"classes has {len(names)} names; a picture's palette has room for {len(colours)}", 2)

        def look(source: Source, image: Tensor) -> dict[str, Any]:
            images = prepare([image]).images.to(arguments.device)
            height, width = image.shape[1:]
            classes = dense.predict(model, images, (height, width), **views)[0].argmax(0).cpu()
            files = {}
            drawing, segmentation = drawings.path(source, ".png"), maps.path(source, ".segmentation.png")
            if drawing is not None and segmentation is not None:
                files["drawn"] = _draw(image, classes, colours, drawing)
                files["segmentation"] = _write(classes, colours, segmentation)
            return {"classes": _areas(classes, names), **files}

        results = list(each_image(arguments, "segmenting", report, look))
    except WeightsError as error:
        return fail(str(error), 1)
    except (OSError, ValueError) as error:
        return fail(str(error), 2)
    report.finish(arguments.images, [Path(result["image"]) for result in results])
    if arguments.json:
        print(json.dumps({"model": arguments.model, "results": results, **report.rest()}, indent=2))
    else:
        for result in results:
            print(result["image"])
            for found in result["classes"]:
                print(f"  {found['label']}  {found['fraction']:.1%}")
    return 2 if report.errors else 0


def _areas(classes: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Every class that is there, the largest first."""
    counts = torch.bincount(classes.flatten(), minlength=len(names))
    return [
        {
            "index": i,
            "label": names[i],
            "area": int(counts[i]),
            "fraction": int(counts[i]) / classes.numel(),
            "segmentation": encode(classes == i),
        }
        for i in counts.argsort(descending=True, stable=True).tolist()
        if counts[i]
    ]


def _colours(named: bool) -> list[tuple[int, int, int]]:
    """ADE20K's own colours for its classes; for others hues by the golden angle, far apart for neighbours."""
    if named:
        return list(dense.palette("ade20k"))
    hsv = [(i * 0.618034 % 1, 0.65 + 0.35 * (i % 2), 0.95 - 0.25 * (i // 2 % 3)) for i in range(256)]
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in (colorsys.hsv_to_rgb(*colour) for colour in hsv)]


def _draw(image: Tensor, classes: Tensor, colours: Sequence[tuple[int, int, int]], path: Path) -> str:
    present = classes.unique()
    masks = classes == present[:, None, None]
    return save(draw_segmentation_masks(image, masks, 0.6, [colours[i] for i in present.tolist()]), path)


def _write(classes: Tensor, colours: Sequence[tuple[int, int, int]], path: Path) -> str:
    picture = Image.fromarray(classes.to(torch.uint8).numpy())
    picture.putpalette([part for colour in colours for part in colour])  # which makes it one of indices
    picture.save(path)
    return str(path)
