"""`dinat-zoo bench` and `dinat-zoo bench-layers`: speed and memory, side by side."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

import torch

from dinat_zoo._weights_file import first_line
from dinat_zoo.bench import FORMATS, LAYERS, Row, Setting, bench_layers, bench_models, plot_layers, profile_model, write
from dinat_zoo.bench.rows import DTYPES, MODES
from dinat_zoo.cli._arguments import (
    PLOTS,
    Commands,
    add_device,
    add_format,
    example,
    fail,
    positive,
    seconds,
    unwritable,
)
from dinat_zoo.cli._progress import progress

_EXAMPLES = """\
examples:
  dinat-zoo bench swin_tiny_patch4_window7_224 convnext_tiny dinat_tiny --channels-last convnext_tiny
  dinat-zoo bench dinat_mini nat_mini --batch 1 16 --mode eval train --dtype fp32 bf16 --json
  dinat-zoo bench dinat_mini --profile
"""
_LAYER_EXAMPLES = """\
examples:
  dinat-zoo bench-layers --sizes 7 14 28 56 112 --plot layers.svg     Figure I
  dinat-zoo bench-layers --sizes 56 --dim 128 --heads 4 --mode train --format csv
"""


def add_to(commands: Commands) -> None:
    """Add both subcommands and their arguments."""
    models = commands.add_parser(
        "bench",
        help="time models and weigh their memory",
        description="Images a second and peak memory of any of timm's models, with random weights, taking turns in one "
        "process. On CUDA the defaults are the DiNAT paper's protocol: forward, 224x224, batch 256, mixed precision. "
        "On a CPU, fp32 and batch 4.",
        **example(_EXAMPLES),
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
        **example(_LAYER_EXAMPLES),
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
    add_device(parser)
    parser.add_argument("--threads", type=positive, help="of torch on the CPU")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--seconds", type=seconds, default=5, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="at least, per setting (default: %(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    add_format(parser, FORMATS)


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
        return _show(_counted(rows, len(arguments.models) * len(settings)), arguments.format)
    except ValueError as error:
        return fail(str(error), 2)
    except RuntimeError as error:
        return fail(first_line(error), 1)


def run_layers(arguments: argparse.Namespace) -> int:
    """Measure layers; exit codes as `run`."""
    plot: Path | None = arguments.plot
    try:
        settings = _settings(arguments, [1])
        if plot is not None:
            if problem := unwritable(plot, PLOTS):
                return fail(problem, 2)
            if len(settings) > 1:
                return fail("--plot draws one setting; give one batch, one mode and one dtype", 2)
        measured = (
            row
            for setting in settings
            for row in bench_layers(
                setting,
                arguments.sizes,
                dim=arguments.dim,
                heads=arguments.heads,
                window=arguments.window,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                memory=not arguments.no_memory,
            )
        )
        rows = _counted(measured, len(settings) * len(arguments.sizes) * len(LAYERS))
        code = _show(rows, arguments.format)
        if plot is not None:
            plot_layers(rows, plot)
        return code
    except (ValueError, ImportError, OSError) as error:
        return fail(str(error), 2)


def protocol(device: str, batch: int | None = None) -> Setting:
    """What is measured where nothing else is said: the DiNAT paper's protocol on CUDA, less on a CPU."""
    if torch.device(device).type not in ("cpu", "cuda"):
        raise ValueError(f"--device is {device!r}; it must be cpu or cuda")
    cuda = torch.device(device).type == "cuda"
    return Setting(batch or (256 if cuda else 4), dtype="bf16" if cuda else "fp32", device=device)


def _settings(arguments: argparse.Namespace, sizes: list[int]) -> list[Setting]:
    default = protocol(str(arguments.device))
    batches, dtypes = arguments.batch or [default.batch], arguments.dtype or [default.dtype]
    return [
        Setting(batch, size, mode, dtype, default.device, arguments.threads, arguments.compile)
        for mode, dtype, size, batch in itertools.product(arguments.mode, dtypes, sizes, batches)
    ]


def _counted(rows: Iterable[Row], total: int) -> list[Row]:
    """All rows, with a bar for a person who waits."""
    done = []
    with progress("measuring", total, least=2) as advance:
        for row in rows:
            done.append(row)
            advance()
    return done


def _show(rows: list[Row], form: str) -> int:
    print(write(rows, form))
    return 1 if any(row.error for row in rows) else 0
