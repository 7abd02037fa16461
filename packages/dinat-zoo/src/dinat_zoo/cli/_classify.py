"""`dinat-zoo classify`: images in, ranked classes out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console

from dinat_zoo._predict import Classifier, Prediction, load_classifier
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, add_device, add_model, example, fail, positive
from dinat_zoo.cli._images import Report, Source, find_images, read_images
from dinat_zoo.cli._progress import progress

_BATCH = 64
_EXAMPLES = """\
examples:
  dinat-zoo classify examples/                                        a folder stands for the images in it
  dinat-zoo classify coat.jpg bag.png --top-k 1 --json
  dinat-zoo classify cat.jpg --model dinat_mini                       weights from the hub, or from the cache
  dinat-zoo classify cat.jpg --model dinat_mini --checkpoint run/last.pth.tar
"""


@dataclass
class _Report(Report):
    """What became of every file, with its classes."""

    results: list[tuple[Path, list[Prediction]]] = field(default_factory=list)


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "classify",
        help="say what is in images",
        description="Classify images. The default model names garments, one per picture on a plain background (grey "
        "on black as in Fashion-MNIST, or a photograph on white); it is part of the package and needs no network.",
        **example(_EXAMPLES),
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    add_model(parser)
    parser.add_argument("--top-k", type=positive, default=3, help="classes to give per image (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Classify files and print the outcome: results on stdout, notes and errors on stderr.

    Returns:
        The exit code: 0; 1 if weights cannot be had; 2 if something named is no image.
    """
    images: list[Path] = arguments.images
    try:
        classifier = load_classifier(arguments.model, arguments.checkpoint)
    except WeightsError as error:
        return fail(str(error), 1)
    classifier.model.to(arguments.device)
    report = _Report()
    _classify(find_images(images, report), classifier, arguments.top_k, report)
    report.finish(images, [path for path, _ in report.results])
    if arguments.json:
        _print_json(arguments.model, report)
    else:
        _print_text(report)
    return 2 if report.errors else 0


def _classify(sources: Sequence[Source], classifier: Classifier, top_k: int, report: _Report) -> None:
    """Classify in batches, so that many images need no more memory than few."""
    with progress("classifying", len(sources)) as advance:
        images = read_images(sources, classifier.transform, report, advance)
        while batch := list(islice(images, _BATCH)):
            predictions = classifier.predict([image for _, image in batch], top_k)
            report.results += [(source.path, ranked) for (source, _), ranked in zip(batch, predictions, strict=True)]


def _print_text(report: _Report) -> None:
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)  # names are not to be interpreted
    for path, ranked in report.results:
        console.print(str(path), style="bold")
        width = max(len(prediction.label) for prediction in ranked)
        for prediction in ranked:
            console.print(f"  {prediction.label:<{width}}  {prediction.probability:7.2%}")


def _print_json(model: str, report: _Report) -> None:
    document = {
        "model": model,
        "results": [
            {"image": str(path), "predictions": [asdict(prediction) for prediction in ranked]}
            for path, ranked in report.results
        ],
        **report.rest(),
    }
    print(json.dumps(document, indent=2))
