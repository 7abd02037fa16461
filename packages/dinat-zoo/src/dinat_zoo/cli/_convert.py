"""`dinat-zoo convert`: a checkpoint in one format becomes a file in another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dinat_zoo._checkpoint import read_weights
from dinat_zoo._download import sha256
from dinat_zoo._formats import BACKBONE, FORMATS, convert, format_of
from dinat_zoo._pretrained import find
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import SUFFIXES, WeightsError, write
from dinat_zoo.cli._arguments import Commands, fail


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "convert",
        help="rewrite a checkpoint in another format",
        description="Read weights of NAT or DiNAT in any format, for classification or dense prediction, and write "
        "them in another. Nothing is lost on the way: converting back gives the same tensors.",
    )
    parser.add_argument("source", metavar="IN", help="a file, a URL, hf-hub:OWNER/NAME, or a published checkpoint")
    parser.add_argument("output", metavar="OUT", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
    parser.add_argument("--to", choices=FORMATS, default="timm", help="names of the parameters (default: %(default)s)")
    parser.add_argument("--model", help="the architecture, which --to hf needs if IN does not tell nat from dinat")
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
    model: str | None = arguments.model
    if output.suffix not in SUFFIXES:
        return fail(f"the suffix of {str(output)!r} names no format; known are {', '.join(SUFFIXES)}", 2)
    row = find(source)
    prefix = (model or (row.model if row else "")).split("_")[0]
    if model is not None and prefix not in ("nat", "dinat", "vitrpb"):
        return fail(f"--model is {model!r}; it must be a model of `dinat-zoo list`, or just nat or dinat", 2)
    try:
        weights = read_weights(resolve(source))
        if arguments.backbone:
            weights = {
                key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)
            } or weights
        converted = convert(weights, arguments.to, prefix)
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
        "sha256": sha256(output),
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        names = f"{document['from']} to {document['to']}"
        print(f"{output}: {document['tensors']} tensors, {names}, sha256 {document['sha256']}")
    return 0
