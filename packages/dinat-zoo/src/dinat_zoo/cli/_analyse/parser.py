"""What the analyses have in common: their parsers, and the models that they are of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from dinat_zoo._isotropic import IsotropicTransformer
from dinat_zoo.analysis import FORMATS
from dinat_zoo.analysis.structure import check
from dinat_zoo.cli._arguments import Commands, add_format, positive

Run = Callable[[argparse.Namespace], Sequence[Any]]


def add(analyses: Commands, name: str, analyse: Run, summary: str, description: str) -> argparse.ArgumentParser:
    """Add an analysis, whose rows `analyse` gives; returns its parser."""
    parser = analyses.add_parser(name, help=summary, description=description)
    add_format(parser, FORMATS)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.set_defaults(analyse=analyse)
    return parser


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the models, and the size of their images."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a name from `dinat-zoo list`, or a Swin or ConvNeXt of timm"
    )
    parser.add_argument("--size", type=positive, help="side of the image (default: the model's)")


def add_position(parser: argparse.ArgumentParser, of_what: str) -> None:
    """Add `--position`, the middle by default."""
    parser.add_argument(
        "--position", type=float, nargs=2, default=(0.5, 0.5), metavar=("Y", "X"), help=f"of the {of_what}: 0 to 1"
    )


def create(name: str, side: int | None, device: str) -> tuple[nn.Module, tuple[int, int]]:
    """A model with random weights, made for images of `side`, and the size of its images."""
    try:
        model = check(timm.create_model(name, device="meta"))
    except RuntimeError as error:
        raise ValueError(f"no model is named {name!r}; `dinat-zoo list` and timm.list_models() have names") from error
    cfg: Any = model.pretrained_cfg
    _, height, width = cfg["input_size"]
    size = (height, width) if side is None else (side, side)
    if device == "meta" and size == (height, width):
        return model, size
    sized: dict[str, Any] = {"img_size": size} if isinstance(model, SwinTransformer | IsotropicTransformer) else {}
    return timm.create_model(name, device=device, **sized), size
