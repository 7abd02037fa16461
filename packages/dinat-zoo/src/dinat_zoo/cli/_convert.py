"""`dinat-zoo convert`: a checkpoint in one format becomes a file, or Hugging Face's folder, in another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dinat_zoo import dense, list_models
from dinat_zoo._checkpoint import fit, read_weights
from dinat_zoo._download import sha256
from dinat_zoo._formats import BACKBONE, FORMATS, NO_HEADS, Weights, convert, format_of
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._hugging_face import write_folder
from dinat_zoo._predict import create, labels_of
from dinat_zoo._pretrained import find, published
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import SUFFIXES, WeightsError, write
from dinat_zoo.cli._arguments import Commands, example, fail, near, unusable, unwritable
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.detectron2_names import ENCODER

_EXAMPLES = """\
examples:
  dinat-zoo convert dinat_mini_in1k_224 mini.safetensors              a published checkpoint, into timm's names
  dinat-zoo convert mini.safetensors mini.pth --to original
  dinat-zoo convert run/last.pth.tar my-dinat --to hf --model dinat_mini     a folder for transformers
  dinat-zoo convert detector.pth body.pth --backbone
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "convert",
        help="rewrite a checkpoint in another format",
        description="Read weights of NAT or DiNAT in any format, for classification or dense prediction, and write "
        "them in another. Nothing is lost on the way: converting back gives the same tensors.",
        **example(_EXAMPLES),
    )
    parser.add_argument("source", metavar="IN", help="a file, a URL, hf-hub:OWNER/NAME, or a published checkpoint")
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help=f"the file to write: {', '.join(SUFFIXES)}; without a suffix, for --to hf, a folder with its config.json",
    )
    parser.add_argument("--to", choices=FORMATS, default="timm", help="names of the parameters (default: %(default)s)")
    parser.add_argument(
        "--model",
        help="the architecture, which --to hf needs unless IN is the name of a published checkpoint: nat or dinat for "
        "a file; for a folder the model, or the detector or segmenter that IN is of",
    )
    parser.add_argument("--backbone", action="store_true", help="leave out the heads of dense prediction")
    parser.add_argument("--json", action="store_true", help="print a JSON document about what was written")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert one checkpoint; the output's suffix decides between safetensors and torch's format.

    Returns:
        The exit code: 0; 1 if the weights cannot be had, converted or written; 2 if an argument cannot be right.
    """
    source: str = arguments.source
    output: Path = arguments.output
    folder = arguments.to == "hf" and not output.suffix
    if problem := unusable(output) if folder else unwritable(output, SUFFIXES):
        return fail(problem, 2)
    model = arguments.model or _name_of(source)
    architecture, _ = _backbone_of(model)
    prefix = architecture.split("_")[0]
    if arguments.model is not None and architecture not in (*list_models(), "nat", "dinat"):
        known = [*list_models(), *dense.list_models(), *(row.checkpoint for row in published())]
        like = near(model, known, ["nat", "dinat"])
        return fail(
            f"--model is {model!r}; it must be a model of `dinat-zoo list`, or just nat or dinat. Near it: {like}", 2
        )
    if folder and architecture not in list_models():
        return fail(
            "config.json has the dilations, which weights do not tell: say --model and a model of `dinat-zoo list`, or "
            f"a published detector or segmenter, such as {dense.list_models()[0]}",
            2,
        )
    try:
        weights = _with_the_authors_names(read_weights(resolve(source)))
        if arguments.backbone:
            weights = {
                key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)
            } or weights
        if folder:
            written, converted = _write_folder(weights, model, output, source)
        else:
            written, converted = output, convert(weights, arguments.to, prefix)
            write(converted, output)
    except WeightsError as error:
        return fail(str(error), 1)
    document = {
        "input": source,
        "output": str(output),
        "from": format_of(weights),
        "to": arguments.to,
        "dense": any(key.startswith(BACKBONE) for key in converted),
        "tensors": len(converted),
        "parameters": sum(value.numel() for value in converted.values() if value.is_floating_point()),
        "sha256": sha256(written),
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        names = f"{document['from']} to {document['to']}"
        print(f"{output}: {document['tensors']} tensors, {names}, sha256 {document['sha256']}")
    return 0


def _name_of(source: str) -> str:
    """The model or the published detector or segmenter that a checkpoint's name is of, "" for none."""
    row = find(source)
    if row is None or row.head == "linear":
        return row.model if row else ""
    return next((name for name, entry in dense.PUBLISHED.items() if entry.url == row.url), row.checkpoint)


def _backbone_of(name: str) -> tuple[str, dict[str, Any]]:
    """The architecture that a name means, and the arguments of its backbone where it is a detector or segmenter."""
    if name in dense.PUBLISHED:
        entry = dense.PUBLISHED[name]
        return entry.backbone, {"dilations": entry.dilations, "drop_path_rate": entry.drop_path_rate}
    row = find(name)
    if row is None or row.head not in ("mask2former", "oneformer"):
        return name, {}
    return row.model, mask2former.BODY if row.head == "mask2former" else oneformer.body(row)


def _with_the_authors_names(weights: Weights) -> Weights:
    """A Mask2Former or OneFormer, as transformers has it, under the names of its authors; others as they are."""
    if not any(key.startswith(ENCODER) for key in weights):
        return weights
    module = oneformer if any(key.startswith("model.task_encoder.") for key in weights) else mask2former
    named: Weights = module.from_transformers(module.to_transformers(weights))
    return named


def _write_folder(weights: Weights, name: str, folder: Path, source: str) -> tuple[Path, Weights]:
    """Write a folder of a classifier or a backbone, whose model the name is; returns its file of weights, and these."""
    architecture, arguments = _backbone_of(name)
    if any(key.startswith(BACKBONE) for key in weights):
        raise WeightsError(NO_HEADS)
    weights = convert(weights, "timm")
    dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
    if any(key.startswith("out_norms.") for key in weights):
        backbone = dense.Backbone.create(architecture, **arguments).to(dtype)
        fit(backbone, weights, source)
        return write_folder(backbone, folder, None)
    classes = len(weights["head.fc.bias"]) if "head.fc.bias" in weights else 0
    classifier = create(architecture, num_classes=classes).to(dtype)
    fit(classifier, weights, source)
    assert isinstance(classifier, NeighborhoodTransformer)  # no other has such weights
    return write_folder(classifier, folder, labels_of(classifier) if classes else None)
