"""`dinat-zoo list`: the models, their sizes and where their weights come from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from dinat_zoo import count_macs, count_parameters, list_models
from dinat_zoo._predict import create


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


def run(*, as_json: bool) -> int:
    """Print the models, as a table or a JSON list, and return the exit code."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows()], indent=2))
        return 0
    table = [tuple(field.name.replace("_", " ") for field in fields(Row))]
    table += [
        (
            row.model,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.macs / 1e9:.3f} G",
            "×".join(map(str, row.input_size)),
            row.weights,
        )
        for row in rows()
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, parameters, macs, size, weights in table:
        print(f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {macs:>{widths[2]}}  {size:<{widths[3]}}  {weights}")
    return 0


def _describe(name: str) -> Row:
    model = create(name, device="meta")
    cfg = model.pretrained_cfg
    if cfg.get("file"):
        weights = f"bundled ({cfg['tag']})"
    else:
        weights = f"hub: {cfg['hf_hub_id']}" if cfg.get("hf_hub_id") else "none"
    return Row(name, count_parameters(model), count_macs(model, cfg["input_size"][1:]), cfg["input_size"], weights)
