"""What subcommands have in common: kinds of arguments, and how an error is said."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

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


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """The type of an argument that is one of many names, with or without a timm tag; an error names what is near."""

    def check(text: str) -> str:
        if text.split(".")[0] in names:
            return text
        near = difflib.get_close_matches(text, names, n=3) or names[:3]
        raise argparse.ArgumentTypeError(
            f"no model is named {text!r}; near it: {', '.join(near)} (see `dinat-zoo list`)"
        )

    return check


def device(text: str) -> torch.device:
    """A device of torch's that is there."""
    try:
        found = torch.device(text)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used, cpu can: {reason}") from error
    return found


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; the GPU where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default, help="where to run (default here: %(default)s)")


def example(text: str) -> dict[str, Any]:
    """What makes a parser show examples, as they stand, at the end of its help."""
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
