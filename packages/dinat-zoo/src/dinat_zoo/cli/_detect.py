"""`dinat-zoo detect`: objects in images, with their masks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from dinat_zoo import dense
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, example, fail
from dinat_zoo.cli._dense import Pictures, add_arguments, each_image, load, models, save, transform
from dinat_zoo.cli._detections import add_bounds, best, described, draw_detections, image_id, print_detections
from dinat_zoo.cli._images import Report, Source

HEADS = ("maskrcnn", "cascadedmaskrcnn")
_EXAMPLES = """\
examples:
  dinat-zoo detect street.jpg --output drawn/
  dinat-zoo detect photos/ --model cascadedmaskrcnn_dinat_tiny --checkpoint weights.pth --json
  dinat-zoo detect coco/val2017 --threshold 0.05 --json | jq '[.results[].detections[]]' > coco-results.json
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "detect",
        help="find objects in images",
        description="Find objects in images, with boxes and masks, by Mask R-CNN or Cascade Mask R-CNN. --json gives "
        "the entries of a COCO result file, masks as run lengths; an image's id is its number, or its name if that is "
        "a number as COCO's are.",
        **example(_EXAMPLES),
    )
    add_arguments(parser, models(HEADS), "maskrcnn_dinat_mini")
    add_bounds(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Detect, print, draw.

    Returns:
        The exit code: 0; 1 if there are no weights; 2 if something named is no image, or an argument cannot be right.
    """
    report, pictures = Report(), Pictures(arguments.output)
    try:
        model, names = load(arguments)
        prepare = transform(arguments)
        ids = list(dense.COCO_CATEGORIES)
        if arguments.classes is not None:
            ids = list(range(1, len(names) + 1))
        count = 0

        def look(source: Source, image: Tensor) -> dict[str, Any]:
            nonlocal count
            count += 1
            (found,) = model(prepare([image]).to(arguments.device))
            found = best(found, arguments.threshold, arguments.most)
            number = image_id(source, count)
            path = pictures.path(source, ".png")
            drawn = {} if path is None else {"drawn": save(draw_detections(image, found, names), path)}
            return {"id": number, "detections": described(found, number, ids, names), **drawn}

        results = list(each_image(arguments, "detecting", report, look))
    except WeightsError as error:
        return fail(str(error), 1)
    except (OSError, ValueError) as error:
        return fail(str(error), 2)
    report.finish(arguments.images, [Path(result["image"]) for result in results])
    if arguments.json:
        categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
        document = {"model": arguments.model, "results": results, "categories": categories, **report.rest()}
        print(json.dumps(document, indent=2))
    else:
        _print(results)
    return 2 if report.errors else 0


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(result["image"])
        print_detections(result["detections"])
