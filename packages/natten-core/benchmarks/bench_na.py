"""Times neighborhood attention against the best that plain torch can do, in one process, taking turns.

    python bench_na.py                  every problem, one thread and all, about ten minutes
    python bench_na.py --long           the same with more tiles and rounds, an hour or more
    python bench_na.py --short          P0 against the best peers, less than a minute
    python bench_na.py --problems p0-d1 1d-4096 --threads 2 --out results/machine.json

Prints, per problem, mode and number of threads: median and quartiles in ms, useful GFLOP/s, the share of the speed
that the machine's measured peak and copy bandwidth allow, and the time over ours. Fails only where our results are
numerically wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

BUSY_LOAD = 0.5
"""Runnable processes per CPU before we start, above which timings are not to be trusted."""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.isa:
        os.environ["NATTEN_CORE_ISA"] = options.isa
    # Only now, because natten_core reads NATTEN_CORE_ISA when it is imported.
    from harness import machine, problems, report
    from harness.run import LONG, SHORT, TINY, Effort, run

    table = problems.TINY if options.tiny else problems.PROBLEMS
    if options.list:
        print(report.aligned([(name, problem.describe()) for name, problem in table.items()]))
        return 0
    names = options.problems or (problems.SHORT if options.short and not options.tiny else list(table))
    if unknown := set(names) - set(table):
        raise SystemExit(f"no problem {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or ([1] if options.tiny else sorted({1, cpus}))
    effort = TINY if options.tiny else SHORT if options.short else LONG if options.long else Effort()

    about = machine.facts()
    print(f"{about['cpu']}, torch {about['torch']}, load {about['load'][0]}\n", flush=True)
    result = run([table[name] for name in names], threads, effort)
    for floors in result["floors"]:
        print("measured floors, {dtype}, threads {threads}: {gflops:.1f} GFLOP/s, {copy_gbs:.1f} GB/s".format(**floors))
    print(report.checks(result["checks"]))
    print(report.ratios(result["measurements"]))
    if about["load"][0] > BUSY_LOAD * about["cpus"]:
        print(f"The machine was busy (load {about['load'][0]}); with more than one thread such times mean little.")
    if options.out:
        record = {"machine": about, "note": options.note, "arguments": report.command(arguments, options.out), **result}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(outcome["passed"] for outcome in result["checks"]) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--short", action="store_true", help="P0 only, fewer tile sizes and rounds")
    parser.add_argument("--long", action="store_true", help="more tile sizes and rounds")
    parser.add_argument("--tiny", action="store_true", help="tiny problems: tests that the benchmark works")
    parser.add_argument("--list", action="store_true", help="list the problems and stop")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="these problems (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="thread counts (default: 1 and all CPUs)")
    parser.add_argument("--isa", help="instruction set of our kernels, as NATTEN_CORE_ISA, such as avx2")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON, with the machine's facts")
    parser.add_argument("--note", default="", help="free text for the JSON, such as what else the machine is doing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
