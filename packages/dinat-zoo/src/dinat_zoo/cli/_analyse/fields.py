"""`dinat-zoo analyse receptive-field` and `operators`: how far models and layers see."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dinat_zoo._base import BaseTransformer
from dinat_zoo.analysis import Field, measured_fields, plot_fields, receptive_fields, table1
from dinat_zoo.cli._analyse.parser import add, add_models, add_position, create
from dinat_zoo.cli._arguments import Commands, dilations, positive
from dinat_zoo.cli._progress import progress


def add_to(analyses: Commands) -> None:
    """Add both."""
    _add_receptive_field(analyses)
    _add_operators(analyses)


def _add_receptive_field(analyses: Commands) -> None:
    parser = add(
        analyses,
        "receptive-field",
        _receptive_field,
        "which pixels a token sees",
        "Which pixels of the image a token of a model's last map sees, by the settings of the layers. `keys` is what "
        "the layer itself sees of its input, `extent` what the token would see of an image without borders (empty: "
        "all), `seen` and `share` what it sees of this one.",
    )
    add_models(parser)
    parser.add_argument("--layers", action="store_true", help="every layer, not only the last")
    parser.add_argument(
        "--dilations",
        type=dilations,
        help="others than the model's: maximum, gradual, a task, or numbers such as 8,4,2,1; not for timm's models",
    )
    add_position(parser, "token")
    parser.add_argument("--measure", action="store_true", help="count the pixels that have a gradient too, in fp64")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what the last layers see: .png, .svg, .pdf")


@dataclass(frozen=True)
class _FieldRow:
    """A line of `receptive-field`; as `Field`."""

    model: str
    layer: str
    kind: str
    map_size: tuple[int, int]
    stride: tuple[int, int]
    keys: tuple[int, int]
    extent: tuple[int | None, int | None]
    seen: tuple[int, int]
    share: float
    measured_share: float | None


def _receptive_field(arguments: argparse.Namespace) -> list[_FieldRow]:
    rows: list[_FieldRow] = []
    last: dict[str, Field] = {}
    for name in arguments.models:
        model, size = create(name, arguments.size, "cpu" if arguments.measure else "meta")
        if arguments.dilations is not None and isinstance(model, BaseTransformer):
            model.set_dilations(arguments.dilations, size)
        fields = receptive_fields(model, size, tuple(arguments.position))
        last[name] = fields[-1]
        shown = fields if arguments.layers else fields[-1:]
        names = [field.layer for field in shown] if arguments.measure else []
        measured = {}
        if names:
            with progress(f"measuring {name}", len(names), least=2) as advance:
                measured = measured_fields(model, size, tuple(arguments.position), names, advance=advance)
        for field in shown:
            share = float(measured[field.layer].mean()) if measured else None
            figures = (field.map_size, field.stride, field.keys, field.extent, field.seen, field.share)
            rows.append(_FieldRow(name, field.layer, field.kind, *figures, share))
    if arguments.plot:
        plot_fields({name: field.pixels for name, field in last.items()}).savefig(arguments.plot)
    return rows


def _add_operators(analyses: Commands) -> None:
    parser = add(
        analyses,
        "operators",
        lambda given: table1(given.side, given.dim, given.kernel_size, given.layers, given.rank),
        "Table 1: what a layer costs and how far it sees",
        "Memory, FLOPs and receptive field of convolution, window, neighborhood and self attention.",
    )
    parser.add_argument("--side", type=positive, default=56, help="tokens along an axis (default: %(default)s)")
    parser.add_argument("--dim", type=positive, default=64, help="channels (default: %(default)s)")
    parser.add_argument("--kernel-size", type=positive, default=7, help="keys along an axis (default: %(default)s)")
    parser.add_argument("--layers", type=positive, default=2, help="(default: %(default)s)")
    parser.add_argument("--rank", type=positive, default=2, help="axes; the paper counts with 1 (default: %(default)s)")
