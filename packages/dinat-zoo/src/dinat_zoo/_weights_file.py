"""Reads, checks and writes files of weights; nothing that a file says is ever executed."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinat_zoo._detectron2 import read_detectron2

_LEGACY_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number that torch.save wrote first, before it wrote zip files
_ALLOWED = (argparse.Namespace,)  # as timm does: its training checkpoints carry their arguments
_REFUSED = re.compile(r"GLOBAL (\S+)")
# Of a damaged file, pickle says that it may raise any of these.
_READING = (
    AttributeError, EOFError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class WeightsError(Exception):
    """A model or its weights cannot be had; the message says what would work."""


def read(path: Path) -> Any:
    """What a file holds, on the CPU.

    Args:
        path: safetensors, torch's format (with weights only) or a pickle of detectron2; told apart by their content.

    Returns:
        The weights, or whatever dictionary they are wrapped in.

    Raises:
        WeightsError: if there is no such file, it is damaged, or reading it would run code that it names.
    """
    kind = check(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        if kind == "detectron2":
            return read_detectron2(path)
        with torch.serialization.safe_globals(list(_ALLOWED)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _READING as error:
        if isinstance(error, pickle.UnpicklingError) and (refused := _REFUSED.findall(str(error))):
            raise WeightsError(_refusal(path, refused)) from error
        raise WeightsError(f"cannot read checkpoint {str(path)!r}: {first_line(error)}") from error


def check(path: Path) -> str:
    """Look at a file without reading its tensors.

    Args:
        path: the file.

    Returns:
        Its format: "safetensors", "torch" or "detectron2".

    Raises:
        WeightsError: as `read` does, as far as can be told.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint {str(path)!r} is not a file")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return "torch"
    if start[8:9] == b"{":
        try:
            with safe_open(path, "pt"):
                return "safetensors"
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"cannot read checkpoint {str(path)!r}: it is cut off: {first_line(error)}") from error
    if start.startswith(b"\x80"):
        return "torch" if _LEGACY_TORCH in start else "detectron2"
    what = "is empty" if not start else "is a web page" if start.lstrip()[:1] == b"<" else "is no file of weights"
    raise WeightsError(f"cannot read checkpoint {str(path)!r}: it {what}")


def examine(path: Path) -> None:
    """Look at a file that has just come, and read it too if it is a plain pickle, of which a look tells nothing.

    Raises:
        WeightsError: as `read` does.
    """
    if check(path) != "safetensors" and not zipfile.is_zipfile(path):
        read(path)


def write(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a file that appears whole or not at all.

    Args:
        weights: tensors by name.
        path: the suffix decides the format: ".safetensors", or torch's for ".pth", ".pt" and ".bin".

    Raises:
        WeightsError: for another suffix, or where the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"the suffix of {str(path)!r} names no format; known are {', '.join(SUFFIXES)}")
    # Copies: torch saves the whole of what a slice belongs to, and safetensors refuses tensors that share memory.
    weights = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if path.suffix == ".safetensors":
            save_file(weights, part, metadata={"format": "pt"})
        else:
            torch.save(weights, part)
        part.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"cannot write {str(path)!r}: {first_line(error)}") from error
    finally:
        part.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop, or its type's name where it has none."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"cannot read checkpoint {str(path)!r}: it is cut off, its end is missing")
    try:
        refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except _READING as error:
        raise WeightsError(f"cannot read checkpoint {str(path)!r}: {first_line(error)}") from error
    refused -= {f"{allowed.__module__}.{allowed.__qualname__}" for allowed in _ALLOWED}
    if refused:
        raise WeightsError(_refusal(path, sorted(refused)))


def _refusal(path: Path, names: list[str]) -> str:
    return (
        f"refused checkpoint {str(path)!r}: reading it would run {', '.join(names)}, and weights need no code; "
        "whoever trusts the file can save its tensors alone"
    )
