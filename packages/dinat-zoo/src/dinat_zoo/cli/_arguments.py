"""What subcommands have in common: kinds of arguments, and how an error is said."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from dinat_zoo import list_models
from dinat_zoo._predict import DEFAULT_MODEL

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


def near(text: str, names: Sequence[str], otherwise: Sequence[str]) -> str:
    """Up to three names like a mistaken one, for an error; others where none is."""
    return ", ".join(difflib.get_close_matches(text, names, n=3) or otherwise)


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """The type of an argument that is one of many names, with or without a timm tag; an error names what is near."""

    def check(text: str) -> str:
        if text.split(".")[0] in names:
            return text
        raise argparse.ArgumentTypeError(
            f"no model is named {text!r}; near it: {near(text, names, names[:3])} (see `dinat-zoo list`)"
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


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, the bundled one by default, and `--checkpoint`."""
    parser.add_argument(
        "--model",
        type=one_of(list_models()),
        default=DEFAULT_MODEL,
        help="a name of `dinat-zoo list` (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; the GPU where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default, help="where to run (default here: %(default)s)")


def example(text: str) -> dict[str, Any]:
    """What makes a parser show examples, as they stand, at the end of its help."""
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
