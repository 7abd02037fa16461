"""What `dinat-zoo detect` and `dinat-zoo segment` have in common: a published model, its classes, files drawn."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from dinat_zoo import dense
from dinat_zoo._pretrained import find
from dinat_zoo._weights_file import WeightsError, first_line
from dinat_zoo.cli._arguments import add_device, one_of, positive
from dinat_zoo.cli._images import Report, Source, find_images, read_images
from dinat_zoo.cli._progress import progress
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.classes import label_set


def models(heads: Sequence[str]) -> list[str]:
    """The published models with one of these heads."""
    return [name for name in dense.list_models() if dense.PUBLISHED[name].head in heads]


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str], default: str) -> None:
    """Add the arguments that both commands have."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--model",
        type=one_of(names),
        default=default,
        metavar="NAME",
        help=f"{', '.join(names)} (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", help="weights: a file, a URL, or a name (default: the published ones)")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of the classes, one a line, of weights of your own"
    )
    parser.add_argument("--longest", type=positive, help="bound of an image's longer side (default: the published one)")
    parser.add_argument("--shortest", type=positive, help="bound of its shorter side (default: the published one)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for pictures with the results drawn in")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def family(name: str) -> Any:
    """The module whose `create` and `transform` a published model has."""
    return next((module for module in (mask2former, oneformer) if name in module.list_models()), dense)


def data_set(name: str) -> str:
    """The data set whose classes a published model tells apart."""
    if name in dense.PUBLISHED:
        return "ade20k" if dense.PUBLISHED[name].head == "upernet" else "coco"
    row = find(name)
    assert row is not None
    return label_set(row.dataset, row.task)


def load(arguments: argparse.Namespace) -> tuple[nn.Module, list[str]]:
    """The model with weights, in eval mode, and the names of its classes.

    Raises:
        WeightsError: there are no weights, or they do not fit; or the model needs a library that is not there.
        OSError: the names cannot be read.
    """
    name: str = arguments.model
    names = None if arguments.classes is None else arguments.classes.read_text(encoding="utf-8").splitlines()
    row = find(name)
    url = dense.PUBLISHED[name].url if row is None else row.url
    source = arguments.checkpoint or (url if row is None else name)
    try:
        model: nn.Module = family(name).create(name, source, None if names is None else len(names))
    except ImportError as error:
        reason = first_line(error)
        raise WeightsError(
            f"{name} needs transformers 5 and scipy (pip install 'dinat-zoo[mask2former]'): {reason}"
        ) from error
    except WeightsError as error:
        if arguments.checkpoint is not None:
            raise
        raise WeightsError(
            f"{name} has no weights on this machine, and without it would find nothing: {error}. "
            f"Give a file with --checkpoint PATH; {url} is the published one"
        ) from error
    return model.eval().to(arguments.device), names or list(dense.class_names(data_set(name)))


def transform(arguments: argparse.Namespace) -> dense.ImageTransform:
    """The published test's preprocessing, with the bounds that were given."""
    published: dense.ImageTransform = family(arguments.model).transform(arguments.model)
    given = {side: getattr(arguments, side) for side in ("longest", "shortest")}
    return replace(published, **{side: value for side, value in given.items() if value is not None})


def each_image(
    arguments: argparse.Namespace, what: str, report: Report, look: Callable[[Source, Tensor], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Give `look` every image, uint8 `[3, H, W]`, and pass on what it says of it."""
    sources = find_images(arguments.images, report)
    with progress(what, len(sources)) as advance, torch.inference_mode():
        for source, image in read_images(sources, _pixels, report, advance):
            yield {"image": str(source.path), "height": image.shape[1], "width": image.shape[2], **look(source, image)}


def _pixels(image: Image.Image) -> Tensor:
    pixels: Tensor = pil_to_tensor(image.convert("RGB"))
    return pixels


class Pictures:
    """Files in a folder, named after the images that they show.

    Args:
        folder: where to write, created where it is missing; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.taken: set[Path] = set()

    def path(self, source: Source, suffix: str) -> Path | None:
        """A file for an image; files of equal name in different folders get numbers."""
        if self.folder is None:
            return None
        inner = source.path.relative_to(source.folder).parent if source.folder else Path()
        path, i = self.folder / inner / f"{source.path.stem}{suffix}", 2
        while path in self.taken:
            path, i = self.folder / inner / f"{source.path.stem}-{i}{suffix}", i + 1
        self.taken.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def save(picture: Tensor, path: Path) -> str:
    """Write a picture, uint8 `[3, H, W]`; returns its name."""
    to_pil_image(picture).save(path)
    return str(path)
