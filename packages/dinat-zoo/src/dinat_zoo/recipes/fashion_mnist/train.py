"""Train `dinat_pico` on Fashion-MNIST with this project's own CPU kernels.

    python -m dinat_zoo.recipes.fashion_mnist.train --data DIR --out DIR [--resume] [--stop-after MINUTES]

Every epoch ends with an atomic write of `checkpoint.pt` (model, average, optimizer, schedule, random states, log) and
`log.jsonl`; `--resume` goes on from there as if nothing had happened. After the last epoch the averaged weights are
written to `weights.safetensors`: no epoch is chosen by its accuracy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

import dinat_zoo  # noqa: F401  (registers the models)
import natten_core
from dinat_zoo.fashion_mnist import LABELS
from dinat_zoo.recipes.fashion_mnist.augment import Augmentation
from dinat_zoo.recipes.fashion_mnist.data import Split, load_split, normalize, scale
from dinat_zoo.recipes.fashion_mnist.evaluate import accuracy, logits, without_attention
from dinat_zoo.recipes.fashion_mnist.muon import Muon

CHECKPOINT, LOG, WEIGHTS = "checkpoint.pt", "log.jsonl", "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the result; a run is resumed only under the recipe it began with.

    Attributes:
        model: name of the registered model.
        epochs: passes over the training images.
        batch_size: images a step; what does not fill the last batch of an epoch waits for another epoch.
        lr: peak learning rate of both optimizers, Muon for matrices and AdamW for the rest; reached after `warmup`
            epochs, it falls to `lr_min` along a cosine.
        lr_min: last learning rate.
        warmup: epochs of linearly rising learning rate.
        weight_decay: Muon's; what AdamW trains (norms, biases and relative position biases) does not decay.
        clip: largest norm of the gradient.
        smoothing: label smoothing.
        drop_path: stochastic depth rate of the last block.
        ema: largest decay of the weights' average; timm's warmup holds it lower at first.
        augmentation: random changes of the images.
        without_attention: train the ablation, every token attending to itself alone.
        hold_out: train without this many images and measure on them instead of the test images.
        seed: of the initial weights, the order, the augmentation and stochastic depth.
    """

    model: str = "dinat_pico"
    epochs: int = 32
    batch_size: int = 256
    lr: float = 2e-3
    lr_min: float = 1e-5
    warmup: int = 3
    weight_decay: float = 0.05
    clip: float = 5.0
    smoothing: float = 0.1
    drop_path: float = 0.05
    ema: float = 0.999
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    without_attention: bool = False
    hold_out: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(
                f"warmup is {self.warmup}; it must be from 0 to {self.epochs - 1}, for {self.epochs} epochs."
            )


class Training:
    """A model in training, and all that must survive an interruption."""

    def __init__(self, recipe: Recipe, train: Split, held_out: Split) -> None:
        self.recipe, self.train, self.held_out = recipe, train, held_out
        self.steps = len(train.labels) // recipe.batch_size
        if self.steps == 0:
            raise ValueError(f"batch_size is {recipe.batch_size}; there are only {len(train.labels)} training images.")
        torch.manual_seed(recipe.seed)
        model = timm.create_model(recipe.model, in_chans=1, num_classes=len(LABELS), drop_path_rate=recipe.drop_path)
        self.model = without_attention(model) if recipe.without_attention else model
        self.average = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True)
        matrices, others = _by_shape(self.model)
        self.optimizers = (
            Muon(matrices, lr=recipe.lr, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(others, lr=recipe.lr, weight_decay=0.0, fused=True),
        )
        self.schedules = [
            CosineLRScheduler(
                optimizer,
                t_initial=(recipe.epochs - recipe.warmup) * self.steps,
                lr_min=recipe.lr_min,
                warmup_t=recipe.warmup * self.steps,
                warmup_prefix=True,
                t_in_epochs=False,
            )
            for optimizer in self.optimizers
        ]
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.epoch = 0

    def run_epoch(self) -> dict[str, Any]:
        """Train one epoch and measure.

        Returns:
            The epoch's line in the log. `train_accuracy` is that of the augmented batches as they were trained on.
        """
        began = time.perf_counter()
        loss, correct = self._train_epoch()
        trained = time.perf_counter()
        images = self.steps * self.recipe.batch_size
        self.epoch += 1
        name = "held_out" if self.recipe.hold_out else "test"
        return {
            "epoch": self.epoch,
            "loss": round(loss / self.steps, 5),
            "train_accuracy": round(100 * correct / images, 3),
            f"{name}_accuracy": accuracy(logits(self.model, self.held_out.images), self.held_out.labels),
            f"{name}_accuracy_ema": accuracy(logits(self.average.module, self.held_out.images), self.held_out.labels),
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - began, 1),
            "images_per_second": round(images / (trained - began)),
        }

    def _train_epoch(self) -> tuple[float, int]:
        recipe = self.recipe
        self.model.train()
        loss_sum, correct = 0.0, 0
        order = torch.randperm(len(self.train.labels), generator=self.generator)
        for step, index in enumerate(order.split(recipe.batch_size)[: self.steps], self.epoch * self.steps):
            for schedule in self.schedules:
                schedule.step_update(step)
            batch = self.train.take(index)
            output = self.model(normalize(recipe.augmentation(scale(batch.images), self.generator)))
            loss = F.cross_entropy(output, batch.labels, label_smoothing=recipe.smoothing)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {self.epoch + 1}; try a lower lr.")
            self.model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update(self.model, step=step + 1)
            loss_sum += loss.item()
            correct += int((output.detach().argmax(1) == batch.labels).sum())
        return loss_sum, correct

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "order_and_augmentation": self.generator.get_state(),
            "stochastic_depth": torch.get_rng_state(),
            "epoch": self.epoch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken; the schedule is a function of the step and has no state of its own."""
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["order_and_augmentation"])
        torch.set_rng_state(state["stochastic_depth"])
        self.epoch = state["epoch"]


def fit(
    recipe: Recipe, data: str | Path, out: str | Path, *, resume: bool = False, stop_after: float | None = None
) -> bool:
    """Train, or go on training, and leave checkpoint, log and, at the end, weights in a folder.

    Args:
        recipe: what to train and how.
        data: folder of the data set's IDX files.
        out: folder for the results, created where it is missing.
        resume: go on from the checkpoint in `out`, if there is one.
        stop_after: minutes; no epoch begins that, at the last one's pace, would end later.

    Returns:
        Whether the last epoch is done.

    Raises:
        FileExistsError: where `out` has a checkpoint and `resume` is not set.
        ValueError: where that checkpoint comes from another recipe.
    """
    began = time.perf_counter()
    out = Path(out)
    if (out / CHECKPOINT).exists() and not resume:
        raise FileExistsError(f"{out} has a checkpoint already: resume it, or give another folder.")
    out.mkdir(parents=True, exist_ok=True)
    training = Training(recipe, *_splits(recipe, data))
    log: list[dict[str, Any]] = []
    if (out / CHECKPOINT).exists():
        saved = torch.load(out / CHECKPOINT, weights_only=True)
        _check_same_recipe(saved["recipe"], recipe)
        training.restore(saved["state"])
        log = saved["log"]
    log.append({"recipe": dataclasses.asdict(recipe), "from_epoch": training.epoch, **_circumstances()})

    seconds = 0.0
    while training.epoch < recipe.epochs:
        if stop_after is not None and time.perf_counter() - began + seconds > 60 * stop_after:
            print(f"stopped before epoch {training.epoch + 1} of {recipe.epochs}; resume to go on", flush=True)
            return False
        log.append(training.run_epoch())
        seconds = log[-1]["seconds"]
        print(json.dumps(log[-1]), flush=True)
        _write(out / CHECKPOINT, {"recipe": dataclasses.asdict(recipe), "state": training.state(), "log": log})
        _write(out / LOG, "".join(json.dumps(line) + "\n" for line in log))
    save_file(training.average.module.state_dict(), out / WEIGHTS, metadata={"format": "pt"})
    return True


def _by_shape(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are matrices or kernels, and the others: norms, biases and relative position biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith(".rpb")]
    chosen = set(map(id, matrices))
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def _splits(recipe: Recipe, data: str | Path) -> tuple[Split, Split]:
    """What to train on and what to measure on."""
    train = load_split(data, train=True)
    if not recipe.hold_out:
        return train, load_split(data, train=False)
    if not 0 < recipe.hold_out < len(train.labels):
        raise ValueError(f"hold_out is {recipe.hold_out}; it must be from 0 to {len(train.labels) - 1}.")
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(2022))
    return train.take(order[recipe.hold_out :]), train.take(order[: recipe.hold_out])


def _check_same_recipe(saved: Mapping[str, Any], recipe: Recipe) -> None:
    asked = dataclasses.asdict(recipe)
    differences = [
        f"{name} was {saved.get(name)!r}, is {asked[name]!r}" for name in asked if saved.get(name) != asked[name]
    ]
    if differences:
        raise ValueError("the checkpoint comes from another recipe: " + "; ".join(differences) + ".")


def _circumstances() -> dict[str, Any]:
    info = natten_core.build_info()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "natten_core": natten_core.__version__,
        "instruction_set": info["isa_active"],
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _write(path: Path, content: str | dict[str, Any]) -> None:
    """Replace a file so that an interruption leaves either the old or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        if isinstance(content, str):
            file.write(content.encode())
        else:
            torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dinat_zoo.recipes.fashion_mnist.train",
        description="Train on Fashion-MNIST. The defaults are the recipe of the weights in the package.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="folder of the data set's IDX files", default=argparse.SUPPRESS)
    parser.add_argument("--out", required=True, help="folder for the results", default=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no epoch that would end later")
    parser.add_argument("--threads", type=int, help="of torch and the kernels; torch's own choice otherwise")
    recipe = parser.add_argument_group("recipe")
    for owner in (Recipe, Augmentation):
        for field in dataclasses.fields(owner):
            option = "--" + field.name.replace("_", "-")
            if field.default is False:
                recipe.add_argument(option, action="store_true")
            elif isinstance(field.default, (int, float, str)):
                recipe.add_argument(option, type=type(field.default), default=field.default)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` as in `sys.argv[1:]`."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])

    def chosen(owner: type) -> dict[str, Any]:
        return {field.name: options[field.name] for field in dataclasses.fields(owner) if field.name in options}

    try:
        recipe = Recipe(augmentation=Augmentation(**chosen(Augmentation)), **chosen(Recipe))
        fit(recipe, options["data"], options["out"], resume=options["resume"], stop_after=options["stop_after"])
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
