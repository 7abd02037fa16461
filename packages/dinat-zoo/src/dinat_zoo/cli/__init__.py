"""The command `dinat-zoo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dinat_zoo.cli import _classify, _list


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if None.

    Returns:
        The exit code: 0, 1 where a model's weights cannot be had, 2 where an input is wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list.run(as_json=arguments.json)
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
    classify.add_argument("--checkpoint", type=Path, help="a file of weights to use instead of the model's own")
    classify.add_argument("--top-k", type=_positive, default=3, help="classes to give per image (default: %(default)s)")
    classify.add_argument("--json", action="store_true", help="print one JSON document instead of text")

    models = commands.add_parser("list", help="show the models", description="Show the models and their sizes.")
    models.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
