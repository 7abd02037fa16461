"""`dinat-zoo segment`: the class of every pixel, the objects, or both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dinat_zoo import dense
from dinat_zoo._pretrained import find
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, example, fail
from dinat_zoo.cli._dense import add_arguments, data_set, each_image, load, models, transform
from dinat_zoo.cli._detections import add_bounds, best, image_id
from dinat_zoo.cli._images import Report, Source
from dinat_zoo.cli._segmentations import Found, Labels, Writer, show
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.queries import look

SEMANTIC, INSTANCE, PANOPTIC = oneformer.TASKS
_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the papers' multi-scale results
_EXAMPLES = """\
examples:
  dinat-zoo segment street.jpg --output drawn/
  dinat-zoo segment photos/ --model upernet_dinat_large --checkpoint weights.pth --multi-scale --json
  dinat-zoo segment street.jpg --model mask2former_dinat_large_cityscapes_panoptic --output drawn/
  dinat-zoo segment street.jpg --model oneformer_dinat_large_coco --task instance --json
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "segment",
        help="tell the class of every pixel, or the objects",
        description="Segment images by UPerNet, Mask2Former or OneFormer. Text and --json give the area of every class "
        "that is there; of a panoptic segmentation, every segment, as COCO has them; of instances, the entries of a "
        "COCO result file. --json has the masks too, as run lengths. --output writes a drawing of each image and, but "
        "for instances, a PNG: of the classes' indices, with a palette, or of the segments' ids, as COCO has them.",
        **example(_EXAMPLES),
    )
    names = [*models(("upernet",)), *mask2former.list_models(), *oneformer.list_models()]
    add_arguments(parser, names, "upernet_dinat_mini")
    parser.add_argument(
        "--task",
        choices=(SEMANTIC, INSTANCE, PANOPTIC),
        help="what to make of an image, of models for panoptic segmentation, which can do all (default: the model's)",
    )
    parser.add_argument(
        "--multi-scale", action="store_true", help="average six scales and their mirror images; of UPerNet alone"
    )
    add_bounds(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment, print, draw.

    Returns:
        The exit code: 0; 1 if there are no weights; 2 if something named is no image, or an argument cannot be right.
    """
    report = Report()
    try:
        task = _task(arguments)
        model, names = load(arguments)
        labels = Labels.of(None if arguments.classes else data_set(arguments.model), names)
        see, writer = _seer(arguments, model, task, labels.things), Writer(labels, arguments.output)
        count = 0

        def segment(source: Source, image: Tensor) -> dict[str, Any]:
            nonlocal count
            count += 1
            return writer.write(source, image, see(image), image_id(source, count))

        results = list(each_image(arguments, "segmenting", report, segment))
    except WeightsError as error:
        return fail(str(error), 1)
    except (OSError, ValueError) as error:
        return fail(str(error), 2)
    report.finish(arguments.images, [Path(result["image"]) for result in results])
    if arguments.json:
        document = {"model": arguments.model, "task": task, "results": results}
        if task != SEMANTIC:
            document["categories"] = labels.categories()
        print(json.dumps({**document, **report.rest()}, indent=2))
    else:
        show(results)
    return 2 if report.errors else 0


def _task(arguments: argparse.Namespace) -> str:
    """What is to be made of an image.

    Raises:
        ValueError: the model cannot do it, or not at several scales.
    """
    row = find(arguments.model)
    own = SEMANTIC if row is None else row.task
    task: str = arguments.task or own
    if own not in (task, PANOPTIC):
        raise ValueError(f"--task is {task!r}; {arguments.model} does {own!r} alone")
    if arguments.multi_scale and arguments.model not in dense.PUBLISHED:
        raise ValueError(f"--multi-scale is for UPerNet; --model is {arguments.model}")
    return task


def _seer(
    arguments: argparse.Namespace, model: nn.Module, task: str, things: Sequence[bool]
) -> Callable[[Tensor], Found]:
    """What finds classes, objects or segments in an image, uint8 `[3, H, W]`."""
    prepare, row = transform(arguments), find(arguments.model)
    views: dict[str, Any] = {"scales": _SCALES, "flip": True} if arguments.multi_scale else {}

    def pixels(image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        images = prepare([image]).images.to(arguments.device)
        return dense.predict(model, images, (height, width), **views)[0].argmax(0).cpu()

    def queries(image: Tensor) -> Found:
        (found,) = look(model, prepare([image]).to(arguments.device), task)
        if task == PANOPTIC:
            return found.panoptic(things)
        if task == INSTANCE:
            return best(found.instances(things, arguments.most), arguments.threshold, arguments.most)
        return found.semantic(late=row is not None and row.task == SEMANTIC).argmax(0).cpu()

    return pixels if arguments.model in dense.PUBLISHED else queries
