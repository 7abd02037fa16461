"""`dinat-zoo features`: what a model makes of images, before its classifier."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dinat_zoo._base import BaseTransformer
from dinat_zoo._predict import load_body
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, add_device, add_model, example, fail, positive, unwritable
from dinat_zoo.cli._images import Report, find_images, read_images
from dinat_zoo.cli._progress import progress

KINDS = ("pooled", "tokens", "pyramid")
_SUFFIXES = (".npz", ".safetensors")
_EXAMPLES = """\
examples:
  dinat-zoo features photos/ --output features.npz --model dinat_mini
  dinat-zoo features examples/ --output pyramid.safetensors --kind pyramid
In Python: numpy.load("features.npz") has "features" and, in the same order, "names".
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "features",
        help="write the features of images to a file",
        description="Write what a model makes of images before its classifier: pooled, one vector an image "
        "(features [N, C]); tokens, the last level's map (tokens [N, H, W, C]); or pyramid, every level's map "
        "(level0 ... [N, C, H, W]). Images are in the order in which they were named, their names beside them: as "
        "an array of an .npz file, as JSON in the metadata of a .safetensors file. All stay in memory until the end.",
        **example(_EXAMPLES),
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the file to write: .npz or .safetensors"
    )
    parser.add_argument("--kind", choices=KINDS, default="pooled", help="which features (default: %(default)s)")
    add_model(parser)
    parser.add_argument("--batch-size", type=positive, default=64, help="images at a time (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document about what was written")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the features of all images.

    Returns:
        The exit code: 0; 1 if there are no weights; 2 if something named is no image, or the file cannot be written.
    """
    images: list[Path] = arguments.images
    output: Path = arguments.output
    if problem := unwritable(output, _SUFFIXES):
        return fail(problem, 2)
    try:
        model, transform = load_body(arguments.model, arguments.checkpoint)
    except WeightsError as error:
        return fail(str(error), 1)
    model.to(arguments.device)
    report, names, batches = Report(), list[str](), list[dict[str, Tensor]]()
    sources = find_images(images, report)
    with progress("reading features", len(sources)) as advance:
        read = read_images(sources, transform, report, advance)
        while batch := list(islice(read, arguments.batch_size)):
            names += [str(source.path) for source, _ in batch]
            batches.append(_features(model, torch.stack([x for _, x in batch]).to(arguments.device), arguments.kind))
    report.finish(images, [Path(name) for name in names])
    if not batches:
        return 2
    tensors = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    try:
        _write(output, tensors, names)
    except (OSError, SafetensorError) as error:
        return fail(f"cannot write {str(output)!r}: {error}", 2)
    document: dict[str, Any] = {"model": arguments.model, "output": str(output), "names": names}
    document["arrays"] = {key: list(value.shape) for key, value in tensors.items()}
    if arguments.json:
        print(json.dumps({**document, **report.rest()}, indent=2))
    else:
        print(f"{output}: " + ", ".join(f"{key} {shape}" for key, shape in document["arrays"].items()))
    return 2 if report.errors else 0


@torch.inference_mode()
def _features(model: BaseTransformer, images: Tensor, kind: str) -> dict[str, Tensor]:
    if kind == "pyramid":
        levels = model.forward_intermediates(images, intermediates_only=True)
        return {f"level{i}": level.cpu() for i, level in enumerate(levels) if isinstance(level, Tensor)}
    tokens = model.forward_features(images)
    if kind == "tokens":
        return {"tokens": tokens.cpu()}
    return {"features": model.forward_head(tokens, pre_logits=True).cpu()}


def _write(output: Path, tensors: dict[str, Tensor], names: Sequence[str]) -> None:
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {"names": np.array(names), **{key: value.numpy() for key, value in tensors.items()}}
        np.savez(output, **arrays)
    else:
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        save_file(contiguous, output, metadata={"names": json.dumps(list(names))})
