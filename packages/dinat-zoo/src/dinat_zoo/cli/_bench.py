"""`dinat-zoo bench` and `dinat-zoo bench-layers`: speed and memory, side by side."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from dinat_zoo.bench import FORMATS, Row, Setting, bench_layers, bench_models, plot_layers, profile_model, write
from dinat_zoo.bench.rows import DTYPES, MODES
from dinat_zoo.cli._arguments import Commands, fail, positive

_BATCH = {"cpu": 4, "cuda": 256}


def add_to(commands: Commands) -> None:
    """Add both subcommands and their arguments."""
    models = commands.add_parser(
        "bench",
        help="time models and weigh their memory",
        description="Images a second and peak memory of any of timm's models, with random weights, taking turns in one "
        "process. On CUDA the defaults are the DiNAT paper's protocol: forward, 224x224, batch 256, mixed precision. "
        "On a CPU, fp32 and batch 4.",
    )
    models.add_argument("models", nargs="+", metavar="MODEL", help="timm's names; the first is the unit of the ratios")
    models.add_argument("--image-size", type=positive, nargs="+", default=[224], help="(default: 224)")
    models.add_argument(
        "--channels-last", action="extend", nargs="+", default=[], metavar="MODEL", help="models to run in this format"
    )
    models.add_argument("--profile", action="store_true", help="show where each model's time goes instead, on a CPU")
    _common(models)
    models.set_defaults(run=run)
    layers = commands.add_parser(
        "bench-layers",
        help="time attention layers against Swin's",
        description="Speed and peak memory of NA + NA and NA + DiNA against Swin's WSA + SWSA over map sizes, as in "
        "Figure I of the DiNAT paper.",
    )
    layers.add_argument("--sizes", type=positive, nargs="+", default=[7, 14, 28, 56, 112], help="sides of the maps")
    layers.add_argument("--dim", type=positive, default=64, help="channels (default: %(default)s)")
    layers.add_argument("--heads", type=positive, default=2, help="attention heads (default: %(default)s)")
    layers.add_argument("--window", type=positive, default=7, help="side of the windows (default: %(default)s)")
    layers.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure too, as .png, .svg or .pdf")
    _common(layers)
    layers.set_defaults(run=run_layers)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive, nargs="+", help="(default: 256 on CUDA, 4 on a CPU)")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["eval"], help="train: forward, loss, backward")
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, help="bf16 is autocast (default: bf16 on CUDA, else fp32)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--threads", type=positive, help="of torch on the CPU")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--seconds", type=float, default=5, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Measure models, or profile them.

    Returns:
        The exit code: 0; 1 where a model gave no figure; 2 if an argument cannot be right.
    """
    try:
        settings = _settings(arguments, arguments.image_size)
        if arguments.profile:
            for name, setting in itertools.product(arguments.models, settings):
                shares = profile_model(name, setting, channels_last=name in arguments.channels_last)
                if arguments.format in ("table", "markdown"):
                    print(f"{name}, {setting}")
                print(write(shares, arguments.format))
            return 0
        rows = bench_models(
            arguments.models,
            settings,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            memory=not arguments.no_memory,
            channels_last=arguments.channels_last,
        )
        return _show(_noted(rows), arguments.format)
    except (ValueError, RuntimeError) as error:
        return fail(str(error), 2)


def run_layers(arguments: argparse.Namespace) -> int:
    """Measure layers; exit codes as `run`."""
    try:
        rows: list[Row] = []
        for setting in _settings(arguments, [1]):
            measured = bench_layers(
                setting,
                arguments.sizes,
                dim=arguments.dim,
                heads=arguments.heads,
                window=arguments.window,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                memory=not arguments.no_memory,
            )
            rows += _noted(measured)
        code = _show(rows, arguments.format)
        if arguments.plot:
            if len(rows) > 3 * len(arguments.sizes):
                return fail("--plot draws one setting; give one batch, one mode and one dtype", 2)
            plot_layers(rows, arguments.plot)
        return code
    except (ValueError, ImportError, OSError) as error:
        return fail(str(error), 2)


def _settings(arguments: argparse.Namespace, sizes: list[int]) -> list[Setting]:
    device: str = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.device(device).type
    if kind not in _BATCH:
        raise ValueError(f"--device is {device!r}; it must be cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {device!r}; torch sees no CUDA device here")
    batches = arguments.batch or [_BATCH[kind]]
    dtypes = arguments.dtype or ["bf16" if kind == "cuda" else "fp32"]
    return [
        Setting(batch, size, mode, dtype, device, arguments.threads, arguments.compile)
        for mode, dtype, size, batch in itertools.product(arguments.mode, dtypes, sizes, batches)
    ]


def _noted(rows: Iterable[Row]) -> list[Row]:
    """All rows; each is said on stderr as it comes, for a person who waits."""
    done = []
    for row in rows:
        done.append(row)
        if sys.stderr.isatty():
            print(f"dinat-zoo: {write([row]).splitlines()[-1]}", file=sys.stderr)
    return done


def _show(rows: list[Row], form: str) -> int:
    print(write(rows, form))
    return 1 if any(row.error for row in rows) else 0
