"""`dinat-zoo validate`: the accuracy of a classifier."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dinat_zoo._base import BaseTransformer
from dinat_zoo._predict import load_classifier
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, add_device, add_model, count, dilations, example, fail, positive, workers
from dinat_zoo.cli._progress import progress
from dinat_zoo.recipes.imagenet import data as datasets
from dinat_zoo.recipes.imagenet.evaluate import AMP, evaluate

_EXAMPLES = """\
examples:
  dinat-zoo validate imagenet/ --model dinat_mini                    imagenet/val/n01440764/*.JPEG and so on
  dinat-zoo validate data/ --model dinat_tiny --checkpoint run/last.pth.tar --classes run/classes.txt
  dinat-zoo validate /usr/share/datasets/fashion-mnist               the bundled model on its own test images
  dinat-zoo validate imagenet/ --model nat_tiny --dilations 8,4,2,1  a NAT's weights with DiNAT's dilations: Table 12
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "validate",
        help="measure a classifier's accuracy",
        description="Measure top-1 and top-5 accuracy on labelled images: a folder with one folder per class, maybe "
        "under val/; Fashion-MNIST's IDX files; or a data set that timm knows, such as torch/cifar10. Folders named "
        "as ImageNet's classes (n01440764) or as the model's labels get their indices by name, so that a part of the "
        "classes will do.",
        **example(_EXAMPLES),
    )
    parser.add_argument("data", metavar="DATA", help="a folder, or the name of a data set")
    parser.add_argument("--data-dir", metavar="DIR", help="where a named data set lies")
    add_model(parser)
    parser.add_argument("--classes", metavar="FILE", help="the folders' names, one a line, in the order of the classes")
    parser.add_argument("--only-present", action="store_true", help="let only those classes compete that DATA has")
    parser.add_argument("--image-size", type=positive, help="side of the images (default: the model's)")
    parser.add_argument(
        "--dilations",
        type=dilations,
        help="others than the model's, as in Table 12: maximum, gradual, a task, or numbers of levels such as 8,4,2,1",
    )
    parser.add_argument("--batch-size", type=positive, default=128, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--workers", type=count, default=workers(2), help="processes that read images (default here: %(default)s)"
    )
    parser.add_argument("--amp", choices=AMP, default="off", help="mixed precision (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the accuracy.

    Returns:
        The exit code: 0; 1 if there are no weights; 2 if the data cannot be had or does not fit the model.
    """
    try:
        model = load_classifier(arguments.model, arguments.checkpoint).model.to(arguments.device)
    except WeightsError as error:
        return fail(str(error), 1)
    try:
        if arguments.dilations is not None:
            size = arguments.image_size or model.pretrained_cfg["input_size"][1]
            model.set_dilations(arguments.dilations, size)
        document = _measure(arguments, model)
    except (ValueError, OSError) as error:
        return fail(str(error), 2)
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{document['model']}: top-1 {document['top1']:.2f}%, top-5 {document['top5']:.2f}% of "
            f"{document['images']} images, {document['images_per_second']:.0f} images/s"
        )
    return 0


def _measure(arguments: argparse.Namespace, model: BaseTransformer) -> dict[str, Any]:
    indices = _indices(arguments.classes)
    dataset = datasets.open_dataset(arguments.data, False, model.in_chans, arguments.data_dir, indices)
    if dataset is None:
        raise ValueError(f"data is {arguments.data!r}, which has training images but none in a folder val.")
    names, known = getattr(dataset, "class_to_idx", {}), datasets.known_classes(model)
    if indices is None and known is not None and names and set(names) <= known.keys():
        indices = known
        if isinstance(dataset, datasets.Folder):
            dataset.number(known)
    present = sorted(set(getattr(dataset, "class_to_idx", {}).values()))
    if present and indices is None and len(present) != model.num_classes:
        raise ValueError(
            f"data is {arguments.data!r}, which has {len(present)} classes; the model has {model.num_classes}: "
            "say with --classes which they are."
        )
    size = None if arguments.image_size is None else (model.in_chans, arguments.image_size, arguments.image_size)
    loader = datasets.eval_loader(dataset, model, arguments.batch_size, arguments.workers, arguments.device, size=size)
    with progress("validating", len(loader), least=2) as advance:
        only = present if arguments.only_present and present else None
        found = evaluate(model, loader, arguments.device, AMP[arguments.amp], only, advance)
    return {
        "model": arguments.model,
        "checkpoint": arguments.checkpoint,
        "data": arguments.data,
        "classes": len(only) if only else model.num_classes,
        "dilations": model.dilations,
        "amp": arguments.amp,
        "device": str(arguments.device),
        **found,
    }


def _indices(classes: str | None) -> dict[str, int] | None:
    """The classes by folder name, as a file has them."""
    if classes is None:
        return None
    with open(classes, encoding="utf-8") as file:  # noqa: PTH123
        return {name: i for i, name in enumerate(file.read().splitlines())}
