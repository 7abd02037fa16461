"""`dinat-zoo export`: a model with its weights as an ONNX file or a torch.export program."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dinat_zoo import list_models
from dinat_zoo._download import sha256
from dinat_zoo._isotropic import IsotropicTransformer
from dinat_zoo._predict import load_classifier
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, example, fail, one_of, unwritable
from dinat_zoo.export import SUFFIXES, TOLERANCE, ExportError, check, size_rule, to_onnx, to_program

_EXAMPLES = """\
examples:
  dinat-zoo export dinat_pico garments.onnx --dynamic-batch
  dinat-zoo export dinat_tiny model.onnx --checkpoint weights.pth --input-size 256x320
  dinat-zoo export dinat_mini model.onnx --dynamic-size               both sides multiples of 32, from 224 on
  dinat-zoo export dinat_pico garments.pt2                            for torch.export.load, after import natten_core
ONNX files need pip install 'dinat-zoo[export]'.
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX file or a torch.export program",
        description="Write a classifier with its weights as a graph that runs elsewhere: an ONNX file of standard "
        "operators, or a torch.export program. The file is then run and compared with the model.",
        **example(_EXAMPLES),
    )
    parser.add_argument("model", type=one_of(list_models()), metavar="MODEL", help="a name of `dinat-zoo list`")
    parser.add_argument("output", metavar="OUT", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
    parser.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--input-size", type=_size, metavar="SIDE|HEIGHTxWIDTH", help="size of the images (default: the model's)"
    )
    sizes.add_argument(
        "--dynamic-size", action="store_true", help="take images of any size that needs no padding; minutes of tracing"
    )
    parser.add_argument("--dynamic-batch", action="store_true", help="take any number of images at a time, not one")
    parser.add_argument(
        "--decompose", action="store_true", help="of a .pt2: need no natten-core to run (an ONNX file never does)"
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare the file with the model (default: yes; of ONNX files where onnxruntime is installed)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document about what was written")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export one model.

    Returns:
        The exit code: 0; 1 if the weights cannot be had, or the file cannot be made or differs from the model; 2 if an
        argument cannot be right.
    """
    output: Path = arguments.output
    size: tuple[int, int] | None = arguments.input_size
    dynamic = {"dynamic_batch": arguments.dynamic_batch, "dynamic_size": arguments.dynamic_size}
    onnx = output.suffix == ".onnx"
    if problem := unwritable(output, SUFFIXES):
        return fail(problem, 2)
    checked = arguments.check
    if checked is None:
        checked = not onnx or find_spec("onnxruntime") is not None
    try:
        model = load_classifier(arguments.model, arguments.checkpoint).model
        if size is not None and isinstance(model, IsotropicTransformer):
            model.set_input_size(size)
        if onnx:
            to_onnx(model, output, size, **dynamic)
        else:
            torch.export.save(to_program(model, size, **dynamic, decompose=arguments.decompose), output)
        difference = check(model, output, size, **dynamic) if checked else None
    except (WeightsError, ExportError, OSError) as error:
        return fail(str(error), 1)
    batch = "batch" if arguments.dynamic_batch else 1
    sides = ["height", "width"] if arguments.dynamic_size else size or model.pretrained_cfg["input_size"][1:]
    document: dict[str, Any] = {
        "model": arguments.model,
        "output": str(output),
        "input": [batch, model.in_chans, *sides],
        **({"sides": size_rule(model)._asdict()} if arguments.dynamic_size else {}),
        "bytes": output.stat().st_size,
        "sha256": sha256(output),
        "difference": difference,
    }
    if difference is not None and not difference <= TOLERANCE:
        return fail(f"{output} differs from the model by {difference:.1e} of its largest output", 1)
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        shape = ", ".join(map(str, document["input"]))
        said = "not checked" if difference is None else f"as the model to {difference:.1e} of the largest output"
        print(f"{output}: images [{shape}], {document['bytes'] / 1e6:.1f} MB, {said}, sha256 {document['sha256']}")
    return 0


def _size(text: str) -> tuple[int, int]:
    """One side, or height and width."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a side, such as 224, or height and width, such as 240x320")
    return int(sides[0]), int(sides[-1])
