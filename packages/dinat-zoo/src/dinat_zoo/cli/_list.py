"""`dinat-zoo list`: the models, their sizes and where their weights come from; the published checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dinat_zoo import count_macs, count_parameters, list_models
from dinat_zoo._predict import create
from dinat_zoo._pretrained import Checkpoint, published
from dinat_zoo._table import aligned
from dinat_zoo.cli._arguments import Commands, example

_EXAMPLES = """\
examples:
  dinat-zoo list
  dinat-zoo list --checkpoints                                        every published file, detectors and segmenters too
  dinat-zoo list --json | jq '.[] | select(.parameters < 3e7) | .model'
"""


@dataclass(frozen=True)
class Row:
    """One model; MACs are multiply-accumulates of one image of the input size, as fvcore counts them."""

    model: str
    parameters: int
    macs: int
    input_size: tuple[int, int, int]
    weights: str


def rows() -> list[Row]:
    """Describe every model, the smallest first; nothing is allocated or downloaded."""
    return sorted((_describe(name) for name in list_models()), key=lambda row: row.parameters)


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "list",
        help="show the models",
        description="Show the models: parameters, multiply-accumulates of one image, the images that they are for, and "
        "where `pretrained=True` takes weights from. `dinat-zoo info NAME` says more of one.",
        **example(_EXAMPLES),
    )
    parser.add_argument("--checkpoints", action="store_true", help="show every published checkpoint instead")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the models or the published checkpoints, as a table or a JSON list, and return the exit code."""
    checkpoints: bool = arguments.checkpoints
    listed: Sequence[Row | Checkpoint] = published() if checkpoints else rows()
    if arguments.json:
        print(json.dumps([asdict(item) for item in listed], indent=2))
        return 0
    if checkpoints:
        names = ["checkpoint", "model", "task", "head", "dataset", "classes", "size", "sources"]
    else:
        names = [field.name.replace("_", " ") for field in fields(Row)]
    lines = [_model(item) if isinstance(item, Row) else _checkpoint(item) for item in listed]
    print(aligned([tuple(names), *lines], right={"parameters", "macs", "classes"}))
    return 0


def _model(row: Row) -> tuple[str, ...]:
    size = "×".join(map(str, row.input_size))
    return row.model, f"{row.parameters / 1e6:.2f} M", f"{row.macs / 1e9:.3f} G", size, row.weights


def _checkpoint(row: Checkpoint) -> tuple[str, ...]:
    sources = ", ".join(filter(None, [row.hub and f"hub: {row.hub}", row.url]))
    size = f"{row.height}×{row.width}"
    return row.checkpoint, row.model, row.task, row.head, row.dataset, str(row.classes), size, sources


def _describe(name: str) -> Row:
    model = create(name, device="meta")
    cfg = model.pretrained_cfg
    size = cfg["input_size"]
    return Row(name, count_parameters(model), count_macs(model, size[1:]), size, _weights(cfg))


def _weights(cfg: Mapping[str, Any]) -> str:
    """Where timm's `pretrained=True` would take a model's weights from."""
    if cfg.get("file"):
        return f"bundled ({cfg['tag']})"
    if cfg.get("hf_hub_id"):
        return f"hub: {cfg['hf_hub_id']}"
    return str(cfg.get("url") or "none")
