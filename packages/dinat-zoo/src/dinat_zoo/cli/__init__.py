"""The command `dinat-zoo`: a module a subcommand, each with its arguments and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dinat_zoo.cli import (
    _analyse,
    _bench,
    _classify,
    _convert,
    _detect,
    _features,
    _info,
    _list,
    _segment,
    _train,
    _validate,
)

COMMANDS = (
    _list,
    _info,
    _classify,
    _detect,
    _segment,
    _features,
    _train,
    _validate,
    _convert,
    _bench,
    _analyse,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if None.

    Returns:
        The exit code: 0, 1 where weights cannot be had or written, 2 where an input is wrong.
    """
    parser = argparse.ArgumentParser(prog="dinat-zoo", description="Neighborhood attention models for images.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code
