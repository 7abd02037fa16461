"""Times DiNAT and NAT against timm's Swin and ConvNeXt on this machine's CPU, and writes a JSON record.

    python bench_models.py --out results/MACHINE.json     the whole table, about 10 minutes on two cores
    python bench_models.py --tiny                         that it works

224x224; batch 1, 4 and 16; forward, and a training step (forward, loss, backward); fp32, and bf16 autocast. All models
of a setting take turns in one process (`dinat_zoo.bench`). ConvNeXt runs channels-last, its faster format.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from dinat_zoo._machine import machine
from dinat_zoo.bench import Setting, bench_models, write

MODELS = ("swin_tiny_patch4_window7_224", "convnext_tiny", "dinat_mini", "dinat_tiny", "nat_tiny")
CHANNELS_LAST = ("convnext_tiny",)
TINY = ("dinat_pico", "nat_mini")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    batches, size = ((1,), 32) if options.tiny else ((1, 4, 16), 224)
    settings = [
        Setting(batch, size, mode, dtype, "cpu", options.threads)
        for mode, dtype, batch in itertools.product(("eval", "train"), ("fp32", "bf16"), batches)
    ]
    began, load, rows = time.monotonic(), os.getloadavg()[0], []
    measured = bench_models(
        TINY if options.tiny else MODELS,
        settings,
        seconds=options.seconds,
        rounds=options.rounds,
        memory=options.memory,
        channels_last=() if options.tiny else CHANNELS_LAST,
    )
    for row in measured:
        rows.append(row)
        print(write([row]).split("\n", 1)[1], flush=True)
    print(f"\n{write(rows, 'markdown')}\n\n{time.monotonic() - began:.0f} s")
    if options.out:
        record = {
            "machine": machine(),
            "load": round(load, 2),
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
            "command": ["bench_models.py", *(sys.argv[1:] if arguments is None else arguments)],
            "rows": [asdict(row) for row in rows],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(row.error for row in rows) else 0


def git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or an sdist
        return None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tiny", action="store_true", help="small models and images: tests that the benchmark works")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: torch's)")
    parser.add_argument("--seconds", type=float, default=10.0, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="peak memory too, which takes about half as long again")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
