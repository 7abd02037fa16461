"""`dinat-zoo analyse`: the analyses of the DiNAT paper that need no clock, each a subcommand."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from PIL import Image
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from dinat_zoo._base import BaseTransformer
from dinat_zoo._isotropic import IsotropicTransformer
from dinat_zoo._predict import DEFAULT_MODEL, load_classifier
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.analysis import (
    FORMATS,
    Cost,
    Field,
    attention_span,
    attention_weights,
    mean_distance,
    measured_fields,
    plot_attention,
    plot_fields,
    plot_span,
    receptive_fields,
    stage_costs,
    table1,
    write,
)
from dinat_zoo.analysis.structure import check
from dinat_zoo.cli._arguments import Commands, fail, positive

Run = Callable[[argparse.Namespace], Sequence[Any]]


def add_to(commands: Commands) -> None:
    """Add the subcommand, and its own."""
    parser = commands.add_parser(
        "analyse",
        help="receptive fields, costs, attention",
        description="The analyses of the DiNAT paper as tables, and figures where --plot is given.",
    )
    analyses = parser.add_subparsers(dest="analysis", required=True)
    _add_receptive_field(analyses)
    _add_operators(analyses)
    _add_cost(analyses)
    _add_span(analyses)
    _add_attention(analyses)


def run(arguments: argparse.Namespace) -> int:
    """Analyse, and print the table or write it to a file.

    Returns:
        The exit code: 0; 1 if weights cannot be had; 2 if an argument cannot be right.
    """
    analyse: Run = arguments.analyse
    output: Path | None = arguments.output
    try:
        text = write(analyse(arguments), arguments.format)
        if output is None:
            print(text)
        else:
            output.write_text(f"{text}\n", encoding="utf-8")
    except WeightsError as error:
        return fail(str(error), 1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        return fail(str(error), 2)
    return 0


def _add(analyses: Commands, name: str, analyse: Run, summary: str, description: str) -> argparse.ArgumentParser:
    parser = analyses.add_parser(name, help=summary, description=description)
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.set_defaults(run=run, analyse=analyse)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a name from `dinat-zoo list`, or a Swin or ConvNeXt of timm"
    )
    parser.add_argument("--size", type=positive, help="side of the image (default: the model's)")


def _add_receptive_field(analyses: Commands) -> None:
    parser = _add(
        analyses,
        "receptive-field",
        _receptive_field,
        "which pixels a token sees",
        "Which pixels of the image a token of a model's last map sees, by the settings of the layers. `keys` is what "
        "the layer itself sees of its input, `extent` what the token would see of an image without borders (empty: "
        "all), `seen` and `share` what it sees of this one.",
    )
    _add_models(parser)
    parser.add_argument("--layers", action="store_true", help="every layer, not only the last")
    parser.add_argument(
        "--dilations", help="others than the model's: a task, maximum, or gradual; not for timm's models"
    )
    parser.add_argument(
        "--position", type=float, nargs=2, default=(0.5, 0.5), metavar=("Y", "X"), help="of the token: 0 to 1"
    )
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
        model, size = _create(name, arguments.size, "cpu" if arguments.measure else "meta")
        if arguments.dilations is not None and isinstance(model, BaseTransformer):
            model.set_dilations(arguments.dilations, size)
        fields = receptive_fields(model, size, tuple(arguments.position))
        last[name] = fields[-1]
        shown = fields if arguments.layers else fields[-1:]
        names = [field.layer for field in shown] if arguments.measure else []
        measured = measured_fields(model, size, tuple(arguments.position), names) if names else {}
        for field in shown:
            share = float(measured[field.layer].mean()) if measured else None
            figures = (field.map_size, field.stride, field.keys, field.extent, field.seen, field.share)
            rows.append(_FieldRow(name, field.layer, field.kind, *figures, share))
    if arguments.plot:
        plot_fields({name: field.pixels for name, field in last.items()}).savefig(arguments.plot)
    return rows


def _add_operators(analyses: Commands) -> None:
    parser = _add(
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


def _add_cost(analyses: Commands) -> None:
    parser = _add(
        analyses,
        "cost",
        _cost,
        "parameters and multiply-accumulates",
        "Parameters, and multiply-accumulates of one image under fvcore's convention, as in the papers' tables.",
    )
    _add_models(parser)
    parser.add_argument("--stages", action="store_true", help="every resolution of a model, not only their sum")


@dataclass(frozen=True)
class _CostRow:
    """A line of `cost`; as `Cost`."""

    model: str
    image: tuple[int, int]
    stage: str
    parameters: int
    macs: int


def _cost(arguments: argparse.Namespace) -> list[_CostRow]:
    rows: list[_CostRow] = []
    for name in arguments.models:
        model, size = _create(name, arguments.size, "meta")
        costs = stage_costs(model, size)
        total = Cost("all", sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs))
        shown = [*costs, total] if arguments.stages else [total]
        rows += [_CostRow(name, size, cost.stage, cost.parameters, cost.macs) for cost in shown]
    return rows


def _add_span(analyses: Commands) -> None:
    parser = _add(
        analyses,
        "span",
        _span,
        "which tokens a query attends to",
        "The keys of one query over dilations, as in Figure 1 of the paper.",
    )
    parser.add_argument("--map", type=positive, nargs=2, default=(32, 32), metavar=("H", "W"), help="(default: 32 32)")
    parser.add_argument(
        "--query", type=int, nargs=2, metavar=("Y", "X"), help="its row and column (default: the middle)"
    )
    parser.add_argument("--kernel-size", type=positive, default=7, help="keys along an axis (default: %(default)s)")
    parser.add_argument("--dilations", type=positive, nargs="+", default=[1, 2, 4], help="(default: 1 2 4)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the keys: .png, .svg, .pdf")


@dataclass(frozen=True)
class _SpanRow:
    """A line of `span`: the keys' rows and columns."""

    dilation: int
    rows: str
    columns: str


def _span(arguments: argparse.Namespace) -> list[_SpanRow]:
    height, width = arguments.map
    row, column = arguments.query or (height // 2, width // 2)
    spans = attention_span((height, width), (row, column), arguments.kernel_size, arguments.dilations)
    if arguments.plot:
        plot_span(spans, (row, column)).savefig(arguments.plot)
    return [
        _SpanRow(dilation, *(" ".join(map(str, keys.any(axis).nonzero()[0])) for axis in (1, 0)))
        for dilation, keys in spans.items()
    ]


def _add_attention(analyses: Commands) -> None:
    parser = _add(
        analyses,
        "attention",
        _attention,
        "what a query looks at in an image",
        "The attention weights of one place in an image, per head of one layer of a trained model.",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a name from `dinat-zoo list` (default: %(default)s)")
    parser.add_argument("--checkpoint", help="weights to use instead of the model's own: a file, a URL, or a name")
    parser.add_argument("--layer", help="such as levels.0.blocks.1 (default: the last)")
    parser.add_argument(
        "--position", type=float, nargs=2, default=(0.5, 0.5), metavar=("Y", "X"), help="of the query: 0 to 1"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the weights over the image: .png, .svg, .pdf")


@dataclass(frozen=True)
class _HeadRow:
    """A line of `attention`; places are rows and columns of the layer's map, distances are in its tokens."""

    layer: str
    head: int
    map_size: tuple[int, int]
    query: tuple[int, int]
    strongest: tuple[int, int]
    weight: float
    mean_distance: float


def _attention(arguments: argparse.Namespace) -> list[_HeadRow]:
    classifier = load_classifier(arguments.model, arguments.checkpoint)
    with Image.open(arguments.image) as file:
        image = classifier.transform(file.copy())
    weights = attention_weights(classifier.model, image, tuple(arguments.position), arguments.layer)
    if arguments.plot:
        plot_attention(image, weights).savefig(arguments.plot)
    rows = []
    for head, (values, distance) in enumerate(zip(weights.values, mean_distance(weights).tolist(), strict=True)):
        strongest = divmod(int(values.argmax()), values.shape[1])
        figures = (weights.map_size, weights.query, strongest, float(values.max()), distance)
        rows.append(_HeadRow(weights.layer, head, *figures))
    return rows


def _create(name: str, side: int | None, device: str) -> tuple[nn.Module, tuple[int, int]]:
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
