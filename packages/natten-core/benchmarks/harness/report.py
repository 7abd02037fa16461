"""Results as plain text tables, and the command that they are of."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEADER = ("contender", "config", "ms", "q1 - q3", "min", "CPU ms", "GFLOP/s", "of floor", "over ours")


def command(arguments: list[str] | None, out: Path | None) -> list[str]:
    """The arguments, or those of this process, for a record: of the file `out` its name alone, not where it lay."""
    given = sys.argv[1:] if arguments is None else arguments
    return [*given] if out is None else [argument.replace(str(out), out.name) for argument in given]


def table(entry: dict[str, Any]) -> str:
    """One problem, mode and number of threads: a line per contender, quickest first."""
    rows: list[tuple[str, ...]] = [HEADER]
    for row in sorted(entry["contenders"], key=lambda row: row["ms"]["median"]):
        ms, over = row["ms"], row["over_ours"]
        rows.append(
            (
                row["name"],
                row["config"],
                digits(ms["median"]),
                f"{digits(ms['q1'])} - {digits(ms['q3'])}",
                digits(ms["min"]),
                digits(ms["cpu_median"]),
                f"{row['gflops']:.1f}",
                f"{row['of_floor']:.1%}",
                "" if over is None else f"{over['median']:.2f} ({over['q1']:.2f} - {over['q3']:.2f})",
            )
        )
    title = f"{entry['problem']}, {entry['mode']}, {threads(entry)} ({entry['describe']})"
    return f"{title}\n{aligned(rows)}\n"


def ratios(entries: Iterable[dict[str, Any]]) -> str:
    """Our time over the best peer's, one line per measurement."""
    rows: list[tuple[str, ...]] = [("problem", "mode", "", "ours", "best peer", "", "ours / best peer")]
    for entry in entries:
        contenders = {row["name"]: row for row in entry["contenders"]}
        ours, peer, ratio = contenders.get("natten-core"), contenders[entry["best_peer"]], entry["ours_over_best_peer"]
        if ours is None:
            continue
        rows.append(
            (
                entry["problem"],
                entry["mode"],
                threads(entry),
                f"{digits(ours['ms']['median'])} ms",
                f"{peer['name']} {peer['config']}",
                f"{digits(peer['ms']['median'])} ms",
                f"1/{1 / ratio['median']:.1f} (1/{1 / ratio['q1']:.1f} - 1/{1 / ratio['q3']:.1f})",
            )
        )
    return aligned(rows) if len(rows) > 1 else "no ratios: there are no compiled kernels to time"


def checks(results: list[dict[str, Any]]) -> str:
    """The results that miss their budget, or one line when none does."""
    wrong = [
        f"WRONG: {r['problem']} {r['contender']} {r['result']}: error {r['error']:.1e}, allowed {r['budget']:.1e}"
        for r in results
        if not r["passed"]
    ]
    worst = max((r["error"] / r["budget"] for r in results), default=0.0)
    right = f"numerically right: {len(results)} results within their error budgets, the worst uses {worst:.0%} of it"
    return "\n".join(wrong) or right


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def threads(entry: dict[str, Any]) -> str:
    return f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}"


def aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)
