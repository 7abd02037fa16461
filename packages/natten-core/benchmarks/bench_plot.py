"""Draws what bench_na.py measured: the time of every contender on every problem, over the machine's floors.

    python bench_plot.py results/epyc-genoa-2cpu.json times.svg

Needs matplotlib, which is no dependency of ours.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

MARKERS = "osD^v<>pPX*h"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="JSON of `bench_na.py --out`")
    parser.add_argument("picture", type=Path, help="to write; its suffix decides the format")
    options = parser.parse_args(arguments)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        parser.error("drawing needs matplotlib: pip install matplotlib")
    draw(Figure(layout="constrained"), json.loads(options.results.read_text())).savefig(options.picture)
    return 0


def draw(figure: Any, record: dict[str, Any]) -> Any:
    """One panel for each mode and number of threads; returns the figure."""
    entries = record["measurements"]
    panels = list(dict.fromkeys((entry["mode"], entry["threads"]) for entry in entries))
    problems = list(dict.fromkeys(entry["problem"] for entry in entries))
    names = list(dict.fromkeys(row["name"] for entry in entries for row in entry["contenders"]))
    markers = dict(zip(names, cycle(MARKERS), strict=False))
    figure.set_size_inches(3 + 0.6 * len(problems) * min(2, len(panels)), 4 * ((len(panels) + 1) // 2))
    all_axes = figure.subplots((len(panels) + 1) // 2, min(2, len(panels)), squeeze=False, sharey=True)
    for panel, axes in zip(panels, all_axes.flat, strict=False):
        here = {entry["problem"]: entry for entry in entries if (entry["mode"], entry["threads"]) == panel}
        for name in names:
            rows = [(p, row["ms"]) for p, e in here.items() for row in e["contenders"] if row["name"] == name]
            if not rows:
                continue
            x, ms = [problems.index(p) for p, _ in rows], [times for _, times in rows]
            median = [times["median"] for times in ms]
            around = [[m - t["q1"] for m, t in zip(median, ms, strict=True)], [t["q3"] - t["median"] for t in ms]]
            axes.errorbar(x, median, around, fmt=markers[name], label=name, markersize=5, alpha=0.8)
        for floor, line in (("memory", "-"), ("products", ":")):
            for i, (p, entry) in enumerate(here.items()):
                at, label = problems.index(p), None if i else f"floor: {floor}"
                axes.hlines(entry["floors_ms"][floor], at - 0.4, at + 0.4, "black", line, label=label)
        axes.set_yscale("log")
        axes.set_ylabel("ms")
        axes.set_title(f"{panel[0]}, {panel[1]} thread{'s' if panel[1] > 1 else ''}")
        axes.set_xticks(range(len(problems)), problems, rotation=45, ha="right")
    handles, labels = all_axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.suptitle(f"{record['machine']['cpu']}, torch {record['machine']['torch']}")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
