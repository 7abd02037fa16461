"""`dinat-zoo analyse cost`: parameters, multiply-accumulates, memory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from dinat_zoo.analysis import Cost, stage_costs
from dinat_zoo.bench import ModelJob, peak_memory
from dinat_zoo.cli._analyse.parser import add, add_models, create
from dinat_zoo.cli._arguments import Commands, add_device, positive
from dinat_zoo.cli._bench import protocol
from dinat_zoo.cli._progress import progress


def add_to(analyses: Commands) -> None:
    """Add the analysis."""
    parser = add(
        analyses,
        "cost",
        _cost,
        "parameters, multiply-accumulates, memory",
        "Parameters, and multiply-accumulates of one image under fvcore's convention, as in the papers' tables; with "
        "--memory the peak memory of a forward pass too, measured as in Tables 3 to 5 and III: on CUDA, 256 images in "
        "bf16; on a CPU, 4 in fp32. `dinat-zoo bench` adds speed.",
    )
    add_models(parser)
    parser.add_argument("--stages", action="store_true", help="every resolution of a model, not only their sum")
    parser.add_argument("--memory", action="store_true", help="measure peak memory, in MiB")
    parser.add_argument("--batch", type=positive, help="images at once, for --memory (default: 256 on CUDA, else 4)")
    add_device(parser)


@dataclass(frozen=True)
class _CostRow:
    """A line of `cost`; as `Cost`."""

    model: str
    image: tuple[int, int]
    stage: str
    parameters: int
    macs: int
    batch: int | None
    memory_mib: float | None


def _cost(arguments: argparse.Namespace) -> list[_CostRow]:
    rows: list[_CostRow] = []
    sizes: dict[str, tuple[int, int]] = {}
    for name in arguments.models:
        model, sizes[name] = create(name, arguments.size, "meta")
        costs = stage_costs(model, sizes[name])
        total = Cost("all", sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs))
        shown = [*costs, total] if arguments.stages else [total]
        rows += [_CostRow(name, sizes[name], cost.stage, cost.parameters, cost.macs, None, None) for cost in shown]
    if not arguments.memory:
        return rows
    setting = protocol(str(arguments.device), arguments.batch)
    memory = {}
    with progress("weighing", len(sizes), least=2) as advance:
        for name, (side, _) in sizes.items():
            memory[name] = peak_memory(ModelJob(name, replace(setting, image_size=side)))
            advance()
    return [
        replace(row, batch=setting.batch, memory_mib=memory[row.model]) if row.stage == "all" else row for row in rows
    ]
