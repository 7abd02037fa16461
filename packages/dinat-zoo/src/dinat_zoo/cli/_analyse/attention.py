"""`dinat-zoo analyse span`, `attention` and `rollout`: where queries look."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dinat_zoo._base import BaseTransformer
from dinat_zoo._predict import load_classifier
from dinat_zoo.analysis import (
    attention_layers,
    attention_rollout,
    attention_span,
    attention_weights,
    mean_distance,
    plot_attention,
    plot_rollout,
    plot_span,
)
from dinat_zoo.cli._analyse.parser import add, add_position
from dinat_zoo.cli._arguments import Commands, add_model, positive
from dinat_zoo.cli._images import read_image


def add_to(analyses: Commands) -> None:
    """Add all three."""
    _add_span(analyses)
    _add_attention(analyses)
    _add_rollout(analyses)


def _add_span(analyses: Commands) -> None:
    parser = add(
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
    parser = add(
        analyses,
        "attention",
        _attention,
        "what a query looks at in an image",
        "The attention weights of one place in an image, per head of one layer of a trained model.",
    )
    _add_image(parser)
    parser.add_argument("--layer", help="such as levels.0.blocks.1 (default: the last)")


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    add_model(parser)
    add_position(parser, "query")
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
    model, image = _model_and_image(arguments)
    weights = attention_weights(model, image, tuple(arguments.position), arguments.layer)
    if arguments.plot:
        plot_attention(image, weights).savefig(arguments.plot)
    rows = []
    for head, (values, distance) in enumerate(zip(weights.values, mean_distance(weights).tolist(), strict=True)):
        strongest = divmod(int(values.argmax()), values.shape[1])
        figures = (weights.map_size, weights.query, strongest, float(values.max()), distance)
        rows.append(_HeadRow(weights.layer, head, *figures))
    return rows


def _model_and_image(arguments: argparse.Namespace) -> tuple[BaseTransformer, Tensor]:
    found = read_image(arguments.image) if arguments.image.exists() else "no such file"
    if isinstance(found, str):
        raise ValueError(f"{arguments.image}: {found}")
    classifier = load_classifier(arguments.model, arguments.checkpoint)
    return classifier.model, classifier.transform(found)


def _add_rollout(analyses: Commands) -> None:
    parser = add(
        analyses,
        "rollout",
        _rollout,
        "what a token is made of, through all layers",
        "Attention rollout: how much every token of the tokenizer has in one token of each block's output, if every "
        "block passes on half of the token and half of what it attends to. `share` is the part of the map that holds "
        "9 tenths of it, `mean_distance` is in tokens.",
    )
    _add_image(parser)


@dataclass(frozen=True)
class _RolloutRow:
    """A line of `rollout`, of the map that the tokenizer makes."""

    layer: str
    map_size: tuple[int, int]
    mean_distance: float
    share: float


def _rollout(arguments: argparse.Namespace) -> list[_RolloutRow]:
    model, image = _model_and_image(arguments)
    position = tuple(arguments.position)
    names = attention_layers(model)
    rollouts = attention_rollout(model, image, position, names)
    if arguments.plot:
        last = {name.rsplit(".blocks.", 1)[0]: name for name in names}.values()
        plot_rollout(image, {name: rollouts[name] for name in last}, position).savefig(arguments.plot)
    rows = []
    for name, values in rollouts.items():
        height, width = values.shape
        y, x = (torch.arange(length) + 0.5 for length in (height, width))
        distance = torch.hypot((y - position[0] * height)[:, None], (x - position[1] * width)[None])
        held = values.flatten().sort(descending=True).values.cumsum(0) / values.sum()
        share = (int((held < 0.9).sum()) + 1) / values.numel()
        rows.append(_RolloutRow(name, (height, width), float((values * distance).sum() / values.sum()), share))
    return rows
