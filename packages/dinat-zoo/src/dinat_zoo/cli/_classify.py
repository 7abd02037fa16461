"""`dinat-zoo classify`: images in, ranked classes out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from dinat_zoo._predict import Classifier, Prediction, load_classifier
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, fail, positive

_BATCH = 64
_PROGRESS_FROM = 32  # fewer images are done before a bar could be read
_NAMES_IN_A_NOTE = 5


@dataclass(frozen=True)
class _Source:
    """A file to classify, and the folder that was named if the file itself was not."""

    path: Path
    folder: Path | None = None


@dataclass
class _Report:
    """What became of every file."""

    results: list[tuple[Path, list[Prediction]]] = field(default_factory=list)
    skipped: list[tuple[_Source, str]] = field(default_factory=list)
    errors: list[tuple[Path, str]] = field(default_factory=list)


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "classify",
        help="say what is in images",
        description="Classify images. The default model names garments, one per picture on a plain background (grey "
        "on black as in Fashion-MNIST, or a photograph on white); it is part of the package and needs no network.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--model", default="dinat_pico", help="a name from `dinat-zoo list` (default: %(default)s)")
    parser.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")
    parser.add_argument("--top-k", type=positive, default=3, help="classes to give per image (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Classify files and print the outcome: results on stdout, notes and errors on stderr.

    Returns:
        The exit code: 0; 1 if there is no such model or no weights for it; 2 if something named is no image.
    """
    images: list[Path] = arguments.images
    try:
        classifier = load_classifier(arguments.model, arguments.checkpoint)
    except WeightsError as error:
        return fail(str(error), 1)
    report = _Report()
    _classify(_find(images, report), classifier, arguments.top_k, report)
    for folder in (path for path in images if path.is_dir()):
        if not any(path.is_relative_to(folder) for path, _ in report.results):
            report.errors.append((folder, "no image in this folder"))
    _print_notes(report)
    if arguments.json:
        _print_json(arguments.model, report)
    else:
        _print_text(report)
    return 2 if report.errors else 0


def _find(images: Sequence[Path], report: _Report) -> list[_Source]:
    """Every file that was named, and every file in the folders that were; what does not exist goes to the report."""
    sources = []
    for path in images:
        if path.is_dir():
            sources += [_Source(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
        elif path.exists():
            sources.append(_Source(path))
        else:
            report.errors.append((path, "no such file"))
    return sources


def _classify(sources: Sequence[_Source], classifier: Classifier, top_k: int, report: _Report) -> None:
    """Classify in batches, so that many images need no more memory than few."""
    with Progress(
        TextColumn("classifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=len(sources) < _PROGRESS_FROM,
    ) as progress:
        task = progress.add_task("classifying", total=len(sources))
        images = _load(sources, classifier.transform, report, lambda: progress.advance(task))
        while batch := list(islice(images, _BATCH)):
            predictions = classifier.predict([image for _, image in batch], top_k)
            report.results += [(path, ranked) for (path, _), ranked in zip(batch, predictions, strict=True)]


def _load(
    sources: Sequence[_Source],
    transform: Callable[[Image.Image], Tensor],
    report: _Report,
    advance: Callable[[], None],
) -> Iterator[tuple[Path, Tensor]]:
    """Read and transform; what is no image is an error if it was named, and a note if it lay in a folder."""
    for source in sources:
        advance()
        image = _read(source.path)
        if isinstance(image, Image.Image):
            yield source.path, transform(image)
        elif source.folder is None:
            report.errors.append((source.path, image))
        else:
            report.skipped.append((source, image))


def _read(path: Path) -> Image.Image | str:
    """The image in a file, or the reason why there is none."""
    try:
        with Image.open(path) as file:
            image: Image.Image = file.copy()
            return image
    except UnidentifiedImageError:
        return "not an image"
    # Pillow's decoders report broken files with any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"cannot be read as an image: {error}"


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
        "skipped": [{"file": str(source.path), "reason": reason} for source, reason in report.skipped],
        "errors": [{"file": str(path), "reason": reason} for path, reason in report.errors],
    }
    print(json.dumps(document, indent=2))


def _print_notes(report: _Report) -> None:
    """Say on stderr what was not classified: one note per folder, one error per named file."""
    for folder, group in groupby(report.skipped, key=lambda item: item[0].folder):
        skipped = list(group)
        names = [f"{source.path.relative_to(folder or '.')} ({reason})" for source, reason in skipped]
        more = "" if len(names) <= _NAMES_IN_A_NOTE else f", and {len(names) - _NAMES_IN_A_NOTE} more"
        files = "1 file" if len(names) == 1 else f"{len(names)} files"
        print(
            f"dinat-zoo: note: skipped {files} in {folder}: {', '.join(names[:_NAMES_IN_A_NOTE])}{more}",
            file=sys.stderr,
        )
    for path, reason in report.errors:
        print(f"dinat-zoo: error: {path}: {reason}", file=sys.stderr)
