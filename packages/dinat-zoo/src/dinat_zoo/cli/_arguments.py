"""What subcommands have in common: kinds of arguments, and how an error is said."""

from __future__ import annotations

import argparse
import sys
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def fail(message: str, code: int) -> int:
    """Say an error on stderr, without a traceback, and return the exit code."""
    print(f"dinat-zoo: error: {message}", file=sys.stderr)
    return code
