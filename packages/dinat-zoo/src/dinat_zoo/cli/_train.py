"""`dinat-zoo train`: the papers' ImageNet recipe, on any images."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dinat_zoo import list_models
from dinat_zoo._weights_file import WeightsError
from dinat_zoo.cli._arguments import Commands, count, example, fail, one_of, positive, unusable, workers
from dinat_zoo.cli._progress import progress
from dinat_zoo.recipes.imagenet import Recipe, Settings, fit, recipe_of
from dinat_zoo.recipes.imagenet.evaluate import AMP

_EXAMPLES = """\
examples:
  dinat-zoo train imagenet/ --model dinat_tiny --output run
  torchrun --nproc-per-node 8 --no-python dinat-zoo train imagenet/ --model dinat_tiny --output run
  dinat-zoo train imagenet/ --model dinat_tiny --output run --resume
  dinat-zoo train flowers/ --model dinat_mini --initial dinat_mini_in1k_224 --output run \\
      --epochs 30 --warmup-epochs 2 --cooldown-epochs 0 --global-batch-size 64 --batch-size 16
  dinat-zoo train imagenet/ --model dinat_large_384 --initial dinat_large_in22k_224 --output run
  dinat-zoo train --model dinat_tiny --show
"""
_SETTINGS = (
    *("model", "data", "output", "data_dir", "image_size", "num_classes", "initial", "batch_size", "workers"),
    *("device", "amp", "seed", "resume", "grad_checkpointing"),
)
# Options that change the recipe, with the name of its value.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "--epochs": ("epochs", positive, "passes over the images, warm-up included, cool-down not"),
    "--warmup-epochs": ("warmup_epochs", count, "epochs of rising learning rate"),
    "--cooldown-epochs": ("cooldown_epochs", count, "further epochs at the last learning rate"),
    "--global-batch-size": ("batch_size", positive, "images per update; the learning rate is scaled with it"),
    "--lr": ("lr", float, "peak learning rate, not scaled"),
    "--min-lr": ("min_lr", float, "last learning rate"),
    "--weight-decay": ("weight_decay", float, "weight decay"),
    "--mixup": ("mixup", float, "alpha of mixup, 0 for none"),
    "--cutmix": ("cutmix", float, "alpha of CutMix, 0 for none"),
    "--smoothing": ("smoothing", float, "label smoothing"),
    "--erase": ("erase", float, "probability of random erasing"),
    "--drop-path": ("drop_path", float, "stochastic depth of the last block"),
    "--ema": ("ema", float, "decay of the weights' average"),
}


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a classifier",
        description="Train a classifier by the papers' ImageNet recipe: AdamW, a cosine schedule with warm-up, "
        "RandAugment, mixup, CutMix, random erasing, label smoothing, stochastic depth. The update's batch is the "
        "paper's on any machine: batches accumulate until there are enough images. The folder has one folder per "
        "class, under train/ and val/ or without such halves.",
        **example(_EXAMPLES),
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help="a folder, or a data set that timm knows")
    parser.add_argument("--data-dir", metavar="DIR", help="where a named data set lies")
    parser.add_argument("--model", type=one_of(list_models()), required=True, help="a name of `dinat-zoo list`")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for checkpoints and log")
    parser.add_argument("--initial", metavar="WEIGHTS", help="weights to begin with: a file, a URL, or a name")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output, if there is one")
    parser.add_argument("--image-size", type=positive, help="side of the images (default: the model's)")
    parser.add_argument("--num-classes", type=positive, help="classes (default: the data's)")
    parser.add_argument(
        "--batch-size", type=positive, default=128, help="images at a time, each process (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=count, default=workers(4), help="processes that read images (default here: %(default)s)"
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="where to run (default here: %(default)s)")
    parser.add_argument(
        "--amp", choices=("auto", *AMP), default="auto", help="mixed precision (default: the recipe's on a GPU)"
    )
    parser.add_argument("--grad-checkpointing", action="store_true", help="less memory for more time")
    parser.add_argument("--seed", type=int, default=42, help="of everything random (default: %(default)s)")
    parser.add_argument("--show", action="store_true", help="print the recipe as JSON and do nothing")
    parser.add_argument("--json", action="store_true", help="print a JSON document a line, one per epoch")
    recipe = parser.add_argument_group("recipe", "by default the model's published values, see --show")
    for option, (name, kind, text) in _OPTIONS.items():
        recipe.add_argument(option, dest=f"recipe_{name}", type=kind, help=text, metavar="N")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print a line per epoch.

    Returns:
        The exit code: 0; 1 if initial weights cannot be had; 2 if an argument or the data cannot be right, or the loss
        is not finite.
    """
    try:
        recipe = _recipe(arguments)
        if arguments.show:
            print(json.dumps(asdict(recipe), indent=2))
            return 0
        for name in ("data", "output"):
            if getattr(arguments, name) is None:
                return fail(f"{name} is missing; training needs a folder of images and --output for its results", 2)
        if problem := unusable(arguments.output):
            return fail(problem, 2)
        settings = Settings(**{name: getattr(arguments, name) for name in _SETTINGS})
        with ExitStack() as stack:
            fit(settings, recipe, lambda line: _print(line, arguments.json), lambda *a: _bar(stack, *a))
    except WeightsError as error:
        return fail(str(error), 1)
    except (ValueError, OSError, AssertionError, FloatingPointError) as error:
        return fail(str(error), 2)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe:
    published = recipe_of(arguments.model)
    values = {name: getattr(arguments, f"recipe_{name}") for name, _, _ in _OPTIONS.values()}
    given = {name: value for name, value in values.items() if value is not None}
    if "batch_size" in given and "lr" not in given:
        given["lr"] = published.lr * given["batch_size"] / published.batch_size
    return replace(published, **given)


def _bar(stack: ExitStack, epoch: int, updates: int) -> Callable[[], object]:
    """A new bar in the place of the last epoch's; in the first process alone."""
    stack.close()
    if os.environ.get("RANK", "0") != "0":
        return lambda: None
    return stack.enter_context(progress(f"epoch {epoch + 1}", updates))


def _print(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(line), flush=True)
        return
    parts = [f"epoch {line['epoch']}", f"loss {line['train_loss']:.4f}"]
    parts += [f"{name} {line[name]:.2f}%" for name in ("top1", "top5", "top1_ema") if name in line]
    print(*parts, f"lr {line['lr']:.2e}", f"{line['images_per_second']:.0f} images/s", sep="  ", flush=True)
