"""The command `dinat-zoo`: a module a subcommand, each with its arguments and what it does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from dinat_zoo import __version__
from dinat_zoo.cli import (
    _analyse,
    _bench,
    _classify,
    _convert,
    _detect,
    _export,
    _features,
    _info,
    _list,
    _segment,
    _train,
    _validate,
)
from dinat_zoo.cli._arguments import example, fail

_CODES = """\
exit codes:
  0  done
  1  weights cannot be had or do not fit, or what was asked for failed
  2  an argument cannot be right: an unknown name, a file that is none, a place where nothing can be written
Results go to stdout, as JSON with --json; notes, progress and errors to stderr.
"""

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
    _export,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if None.

    Returns:
        The exit code: 0; 1 where weights cannot be had, or what was asked for failed; 2 where an argument cannot be
        right, a file that it names included; 130 after an interruption; 141 where nobody reads the output any more.
    """
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says it once more at its end
        return 141
    return code


def parser() -> argparse.ArgumentParser:
    """What reads the arguments of all commands."""
    whole = argparse.ArgumentParser(
        prog="dinat-zoo",
        description="Neighborhood attention models for images. Every command has a --help with examples.",
        **example(_CODES),
    )
    whole.add_argument("--version", action="version", version=f"dinat-zoo {__version__}")
    commands = whole.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return whole
