"""What subcommands have in common: kinds of arguments, and how an error is said."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch

from dinat_zoo import list_models
from dinat_zoo._predict import DEFAULT_MODEL
from dinat_zoo.dilations import TASKS

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


def is_model(name: str) -> bool:
    """Whether it is the name of a model of this package, with or without a timm tag that there is."""
    return name in list_models() or (name.split(".")[0] in list_models() and name in timm.list_pretrained())


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """The type of an argument that is one of many names, with or without a timm tag; an error names what is near."""

    def check(text: str) -> str:
        if text in names or (text.split(".")[0] in names and is_model(text)):
            return text
        tagged = timm.list_pretrained(f"{text.split('.')[0]}.*") if text.split(".")[0] in names else []
        like = ", ".join(tagged) or near(text, names, names[:3])
        raise argparse.ArgumentTypeError(f"no model is named {text!r}; near it: {like} (see `dinat-zoo list`)")

    return check


PLOTS = (".png", ".svg", ".pdf")
"""Files that figures are drawn into."""


def unwritable(path: Path, suffixes: Sequence[str] = ()) -> str:
    """Why a file cannot be written, "" where it can; asked before the work whose result it would be.

    Args:
        path: the file.
        suffixes: those that name a format; any will do where there are none.
    """
    if suffixes and path.suffix not in suffixes:
        return f"the suffix of {str(path)!r} names no format; known are {', '.join(suffixes)}"
    if path.is_dir():
        return f"cannot write {str(path)!r}: it is a folder; name a file"
    if not path.parent.is_dir():
        return f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"cannot write {str(path)!r}: permission denied"
    return ""


def unusable(folder: Path) -> str:
    """Why a folder cannot be made or written to, "" where it can."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        return f"cannot write to {str(folder)!r}: {str(place)!r} is no folder"
    return "" if os.access(place, os.W_OK) else f"cannot write to {str(folder)!r}: permission denied"


def device(text: str) -> torch.device:
    """A device of torch's that is there."""
    try:
        found = torch.device(text)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used, cpu can: {reason}") from error
    return found


def dilations(text: str) -> str | list[list[int]] | list[int]:
    """A rule or a task, numbers per level as in "8,4,2,1", or per block as in "1,8,1/1,4,1,4/1,2,1,2,1,2/1,1,1,1,1"."""
    if text in ("maximum", "gradual", *TASKS):
        return text
    try:
        levels = [[positive(number) for number in level.split(",")] for level in text.split("/")]
    except argparse.ArgumentTypeError as error:
        names = ", ".join(("maximum", "gradual", *TASKS))
        numbers = "numbers, of levels (8,4,2,1) or of their blocks (1,8,1/1,4,1,4/...)"
        raise argparse.ArgumentTypeError(f"{text!r} is none of {names}, nor {numbers}") from error
    return levels if "/" in text else levels[0]


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def workers(most: int) -> int:
    """How many processes read images where nothing is said: as there are CPUs, lest torch warns."""
    return min(most, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def seconds(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, the bundled one by default, and `--checkpoint`."""
    parser.add_argument(
        "--model",
        type=one_of(list_models()),
        default=DEFAULT_MODEL,
        help="a name of `dinat-zoo list` (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add `--format`, and `--json` for one of them."""
    formatting = parser.add_mutually_exclusive_group()
    formatting.add_argument("--format", choices=formats, default="table", help="(default: %(default)s)")
    formatting.add_argument(
        "--json", dest="format", action="store_const", const="json", help="the same as --format json"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; the GPU where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default, help="where to run (default here: %(default)s)")


def example(text: str) -> dict[str, Any]:
    """What makes a parser show examples, as they stand, at the end of its help."""
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
