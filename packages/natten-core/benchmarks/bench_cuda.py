"""Times neighborhood attention on a CUDA device: ours, by every family of kernels, and what else can compute it.

    python bench_cuda.py                       DiNAT-Tiny's layers, batch 256 and 8, every dtype, every peer
    python bench_cuda.py --short               batch 256, bf16, flex and dense attention on half of the layers
    python bench_cuda.py --out result.json

Times are of the device alone (CUDA events), medians, with the L2 cache overwritten before each call; backward is that
of qkv and of the bias. The floor is the time that a device-to-device copy, measured in the same run, would take for
the tensors that must move once: four forward, eight backward. fp32 is that of torch's highest precision of float32
products; tf32 is fp32 with "high", for ours and for the peers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu import peers as peers_
from gpu import timing
from gpu.peers import Contender
from gpu.problems import DTYPES, Problem, others, problems
from harness import report

import natten_core
from natten_core import _loader

FAMILIES = ("dense", "band", "box", "simt")


def packed(problem: Problem) -> Any:
    return natten_core.na3d_qkvpacked if problem.frames else natten_core.na2d_qkvpacked


def ours(problem: Problem, family: str = "") -> Contender:
    """Our packed operator; `family` forces one of its families of kernels."""
    qkv, rpb, grad = problem.inputs()
    qkv.requires_grad_()
    rpb.requires_grad_()

    def attend() -> torch.Tensor:
        _loader._C.cuda_use_only(family)  # type: ignore[union-attr]
        output: torch.Tensor = packed(problem)(qkv, problem.window, dilation=problem.dilations, rpb=rpb, backend="cuda")
        return output

    return Contender(f"ours-{family}" if family else "ours", attend, (qkv, rpb), grad)


def family_backward(contender: Contender, family: str) -> Callable[[], None]:
    call = contender.backward()

    def forced() -> None:
        _loader._C.cuda_use_only(family)  # type: ignore[union-attr]
        call()

    return forced


def measure(problem: Problem, names: list[str], families: bool, rounds: int, copy_gbs: float) -> list[dict[str, Any]]:
    """One entry for each of forward and backward."""
    contenders: list[tuple[Contender, str]] = [(ours(problem), "")]
    skipped: dict[str, str] = {}
    chosen = choice(problem).split(",")[0]
    for family in FAMILIES if families else ():
        if family != chosen:
            contenders.append((ours(problem, family), family))
    for name in names:
        try:
            peer = peers_.PEERS[name](problem)
        except Exception as error:
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            continue
        if peer is None:
            skipped[name] = "its temporary tensors are too large"
        else:
            contenders.append((peer, ""))
    entries = []
    for mode in ("forward", "backward"):
        calls: dict[str, Callable[[], object]] = {}
        for contender, family in contenders:
            try:
                call = contender.forward if mode == "forward" else family_backward(contender, family)
                call()
                torch.cuda.synchronize()
                calls[contender.name] = call
            except Exception as error:
                skipped[f"{contender.name} {mode}"] = f"{type(error).__name__}: {str(error)[:300]}"
            finally:
                _loader._C.cuda_use_only("")  # type: ignore[union-attr]
        samples = timing.interleave(calls, rounds)
        _loader._C.cuda_use_only("")  # type: ignore[union-attr]
        floor = problem.floor_us(mode, copy_gbs)
        notes = {contender.name: contender.note for contender, _ in contenders}
        us = {name: sample.summary() for name, sample in samples.items()}
        entries.append(
            {
                "problem": problem.name,
                "describe": problem.describe(),
                "mode": mode,
                "kernel": chosen,
                "floor_us": floor,
                "contenders": [
                    {
                        "name": name,
                        "note": notes[name],
                        "us": summary,
                        "of_floor": floor / summary["median"],
                        "tflops": problem.flops(mode) / summary["median"] / 1e6,
                        "over_ours": summary["median"] / us["ours"]["median"] if "ours" in us else None,
                    }
                    for name, summary in us.items()
                ],
                "skipped": dict(skipped),
            }
        )
    del contenders
    torch.cuda.empty_cache()
    return entries


def choice(problem: Problem) -> str:
    query, key, value = problem.inputs()[0].unbind(-3)
    return natten_core.explain(query, key, value, problem.window, dilation=problem.dilations).kernel


def error_of(problem: Problem) -> dict[str, float]:
    """Largest error of ours over the largest value, on one sample, against the reference in float64."""
    small = Problem(**{**problem.__dict__, "batch": 1})
    qkv, rpb, grad = small.inputs()

    def run(dtype: torch.dtype, backend: str) -> tuple[torch.Tensor, ...]:
        leaves = qkv.detach().to(dtype).requires_grad_(), rpb.detach().double().to(rpb_dtype(dtype)).requires_grad_()
        output = packed(small)(leaves[0], small.window, dilation=small.dilations, rpb=leaves[1], backend=backend)
        return (output, *torch.autograd.grad(output, leaves, grad.to(dtype)))

    def rpb_dtype(dtype: torch.dtype) -> torch.dtype:
        return torch.float64 if dtype == torch.float64 else torch.float32

    exact, found = run(torch.float64, "reference"), run(problem.dtype, "cuda")
    pairs = zip(("output", "dqkv", "drpb"), found, exact, strict=True)
    return {name: float((a.double() - b).abs().max() / b.abs().max()) for name, a, b in pairs}


def table(entry: dict[str, Any]) -> str:
    rows = [f"{entry['describe']}, {entry['mode']} ({entry['kernel']}), floor {entry['floor_us']:.1f} us"]
    for row in sorted(entry["contenders"], key=lambda row: row["us"]["median"]):
        us = row["us"]
        over = "" if row["over_ours"] is None else f"{row['over_ours']:6.2f}x"
        rows.append(
            f"  {row['name']:<14}{us['median']:>10.1f} us  ({us['q1']:.1f} - {us['q3']:.1f})  "
            f"{row['of_floor']:>6.1%} of floor  {over}  {row['note']}"
        )
    rows += [f"  {name}: {why[:110]}" for name, why in entry["skipped"].items()]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    chosen = problems(options.batches, options.dtypes)
    if options.others:
        chosen += others(options.dtypes)
    if options.problems:
        chosen = [problem for problem in chosen if problem.name in options.problems]
    properties = torch.cuda.get_device_properties(0)
    copy_gbs, least = timing.copy_bandwidth(), timing.nothing()
    result: dict[str, Any] = {
        "device": properties.name,
        "torch": torch.__version__,
        "build": natten_core.build_info(),
        "copy_gbs": copy_gbs,
        "least_us": least,
        "arguments": report.command(arguments, options.out),
        "errors": {},
        "measurements": [],
    }
    print(f"{properties.name}, torch {torch.__version__}, copy {copy_gbs:.0f} GB/s, an empty call {least:.1f} us\n")
    began = time.monotonic()
    for problem in chosen:
        if time.monotonic() - began > options.seconds:
            result.setdefault("left_out", []).append(problem.describe())
            continue
        torch.set_float32_matmul_precision("high" if problem.tf32 else "highest")
        try:
            result["errors"][problem.describe()] = error = error_of(problem)
            print("  ".join(f"{name} error {value:.2e}" for name, value in error.items()))
            entries = measure(problem, options.peers, options.families, options.rounds, copy_gbs)
        except Exception as failure:
            print(f"{problem.describe()}: {type(failure).__name__}: {failure}\n", flush=True)
            result.setdefault("failures", {})[problem.describe()] = f"{type(failure).__name__}: {failure}"
            continue
        result["measurements"] += entries
        for entry in entries:
            print(table(entry) + "\n", flush=True)
        record(result, options.out)
    record(result, options.out)  # with what failed or was left out since
    if left := result.get("left_out"):
        print("out of time, not measured:", *left, sep="\n  ")
    return 1 if result.get("failures") else 0


def record(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--short", action="store_true", help="batch 256, bf16, two peers, fewer rounds")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="level1, level1-dilated, ... (default: all)")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="default: 256 8")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="default: all")
    parser.add_argument("--peers", nargs="*", choices=list(peers_.PEERS), help="default: all")
    parser.add_argument("--families", action="store_true", help="our other families of kernels too")
    parser.add_argument("--others", action="store_true", help="kernels, head_dims and maps of no model too")
    parser.add_argument("--rounds", type=int, help="calls of each contender")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no problem after this long")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    options = parser.parse_args(arguments)
    options.batches = options.batches or ([256] if options.short else [256, 8])
    options.dtypes = options.dtypes or (["bf16"] if options.short else list(DTYPES))
    if options.peers is None:
        options.peers = ["flex", "dense-sdpa"] if options.short else list(peers_.PEERS)
    options.rounds = options.rounds or (15 if options.short else 30)
    return options


if __name__ == "__main__":
    sys.exit(main())
