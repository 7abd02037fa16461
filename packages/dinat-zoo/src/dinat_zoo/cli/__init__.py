"""The command `dinat-zoo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dinat_zoo._formats import FORMATS
from dinat_zoo._weights_file import SUFFIXES
from dinat_zoo.cli import _classify, _convert, _list


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if None.

    Returns:
        The exit code: 0, 1 where weights cannot be had or written, 2 where an input is wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list.run(checkpoints=arguments.checkpoints, as_json=arguments.json)
    if arguments.command == "convert":
        return _convert.run(
            arguments.source,
            arguments.output,
            to=arguments.to,
            model=arguments.model,
            backbone=arguments.backbone,
            as_json=arguments.json,
        )
    return _classify.run(
        arguments.images,
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        top_k=arguments.top_k,
        as_json=arguments.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dinat-zoo", description="Neighborhood attention models for images.")
    commands = parser.add_subparsers(dest="command", required=True)

    classify = commands.add_parser(
        "classify",
        help="say what is in images",
        description="Classify images. The default model names garments, one per picture on a plain background (grey "
        "on black as in Fashion-MNIST, or a photograph on white); it is part of the package and needs no network.",
    )
    classify.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    classify.add_argument("--model", default="dinat_pico", help="a name from `dinat-zoo list` (default: %(default)s)")
    classify.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")
    classify.add_argument("--top-k", type=_positive, default=3, help="classes to give per image (default: %(default)s)")
    classify.add_argument("--json", action="store_true", help="print one JSON document instead of text")

    models = commands.add_parser("list", help="show the models", description="Show the models and their sizes.")
    models.add_argument("--checkpoints", action="store_true", help="show every published checkpoint instead")
    models.add_argument("--json", action="store_true", help="print a JSON list instead of a table")

    convert = commands.add_parser(
        "convert",
        help="rewrite a checkpoint in another format",
        description="Read weights of NAT or DiNAT in any format, for classification or dense prediction, and write "
        "them in another. Nothing is lost on the way: converting back gives the same tensors.",
    )
    convert.add_argument("source", metavar="IN", help="a file, a URL, hf-hub:OWNER/NAME, or a published checkpoint")
    convert.add_argument("output", metavar="OUT", type=Path, help=f"the file to write: {', '.join(SUFFIXES)}")
    convert.add_argument("--to", choices=FORMATS, default="timm", help="names of the parameters (default: %(default)s)")
    convert.add_argument("--model", help="the architecture, which --to hf needs if IN does not tell nat from dinat")
    convert.add_argument("--backbone", action="store_true", help="leave out the heads of dense prediction")
    convert.add_argument("--json", action="store_true", help="print a JSON document about what was written")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
