"""A training run: data, model, epochs, checkpoints, resumption; alone or under torchrun."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.utils import CheckpointSaver, random_seed
from timm.utils.distributed import init_distributed_device_so

from dinat_zoo._base import BaseTransformer
from dinat_zoo._checkpoint import checkpoint_filter_fn, read_weights
from dinat_zoo._checkpoint import fit as fit_weights
from dinat_zoo._formats import convert
from dinat_zoo._predict import create
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import read
from dinat_zoo.recipes.imagenet import data as datasets
from dinat_zoo.recipes.imagenet.evaluate import AMP, evaluate
from dinat_zoo.recipes.imagenet.recipe import Recipe
from dinat_zoo.recipes.imagenet.training import Training

LAST, LOG, CLASSES = "last.pth.tar", "log.jsonl", "classes.txt"


@dataclass(frozen=True)
class Settings:
    """What a run needs beside its recipe.

    Attributes:
        model: a name of `dinat_zoo.list_models`.
        data: see `data.open_dataset`.
        output: folder for checkpoints and log, created where it is missing.
        data_dir: where a named data set lies.
        image_size: side of the images, or None for the model's.
        num_classes: classes, or None for as many as the data says, or the model.
        initial: weights to begin with, any source of `dinat_zoo.load_checkpoint`; biases of another kernel size are
            interpolated, a classifier of another number of classes is left out.
        batch_size: images a process takes at a time; the recipe's batch is made of them by accumulation.
        workers: processes per loader.
        device: "cuda", "cpu" and so on.
        amp: "off", "bf16" or "fp16"; "auto" is fp16 on a GPU where the recipe is in mixed precision.
        seed: of everything random.
        resume: go on from the checkpoint in `output`, if there is one.
        grad_checkpointing: recompute activations instead of keeping them.
        model_arguments: further arguments of the model.
    """

    model: str
    data: str
    output: Path
    data_dir: str | None = None
    image_size: int | None = None
    num_classes: int | None = None
    initial: str | None = None
    batch_size: int = 128
    workers: int = 4
    device: str = "cpu"
    amp: str = "auto"
    seed: int = 42
    resume: bool = False
    grad_checkpointing: bool = False
    model_arguments: dict[str, Any] = field(default_factory=dict)


def fit(
    settings: Settings,
    recipe: Recipe,
    report: Callable[[dict[str, Any]], object] = lambda line: None,
    started: Callable[[int, int], Callable[[], object]] = lambda epoch, updates: lambda: None,
) -> list[dict[str, Any]]:
    """Train, or go on training.

    Every epoch ends with a line in `log.jsonl` and a checkpoint `last.pth.tar`, the best one also as
    `model_best.pth.tar`; a resumed run ends with the same weights, to the last bit, as one that was not interrupted.

    Args:
        settings: what to train, on what, where.
        recipe: how.
        report: called with the line of every epoch, in the first process alone.
        started: called with the number of every epoch and its updates; what it returns, after every update.

    Returns:
        The lines of all epochs.

    Raises:
        FileExistsError: `output` has a checkpoint and `resume` is not set.
        ValueError: settings that do not go together, or a checkpoint of another recipe.
        WeightsError: the initial weights cannot be had, or do not fit.
        FloatingPointError: the loss is not finite.
    """
    checkpoint = settings.output / LAST
    if checkpoint.exists() and not settings.resume:
        raise FileExistsError(
            f"output is {str(settings.output)!r}, which has a checkpoint: resume it, or take another."
        )
    try:
        torch.device(settings.device)
    except RuntimeError as error:
        raise ValueError(
            f"device is {settings.device!r}; it must be one of torch's, such as 'cpu' or 'cuda'."
        ) from error
    place = init_distributed_device_so(settings.device)
    device, rank, world = torch.device(place["device"]), place["global_rank"], place["world_size"]
    amp = _amp(settings, recipe, device)
    accumulate = _accumulate(settings, recipe, world)
    random_seed(settings.seed)
    train, held_out, model = _create(settings, recipe)
    model.to(device)
    size = (model.in_chans, *_image_size(settings, model))
    loader = datasets.train_loader(
        train, model, recipe, size, settings.batch_size, settings.workers, device, place["distributed"]
    )
    training = Training(model, recipe, loader, accumulate, amp, place["distributed"])
    held_out_loader = None
    if held_out is not None:
        held_out_loader = datasets.eval_loader(
            held_out, model, settings.batch_size, settings.workers, device, place["distributed"], size
        )
    config = {"model": settings.model, "num_classes": model.num_classes, "image_size": size[1], **asdict(recipe)}
    config |= {"seed": settings.seed, "processes": world, "images_at_a_time": settings.batch_size}
    log: list[dict[str, Any]] = []
    first = _restore(training, checkpoint, config) if checkpoint.exists() else 0
    if first:
        log = [json.loads(line) for line in (settings.output / LOG).read_text().splitlines()][:first]
    saver = None
    if rank == 0:
        settings.output.mkdir(parents=True, exist_ok=True)
        if names := datasets.classes_of(train):
            (settings.output / CLASSES).write_text("".join(f"{name}\n" for name in names))
        saver = _saver(training, settings.output, config, log)

    for epoch in range(first, training.epochs):
        began = time.perf_counter()
        random_seed(settings.seed + 1 + epoch * world, rank)  # so that a resumed epoch is the same
        if place["distributed"]:
            loader.sampler.set_epoch(epoch)
        line: dict[str, Any] = {"epoch": epoch + 1, **training.run_epoch(epoch, started(epoch, training.updates))}
        line["images_per_second"] = training.updates * recipe.batch_size / (time.perf_counter() - began)
        if held_out_loader is not None:
            for suffix, network in (("", model), ("_ema", training.average and training.average.module)):
                if network is not None:
                    found = evaluate(network, held_out_loader, device, amp)
                    line |= {f"{key}{suffix}": found[key] for key in ("top1", "top5", "loss")}
        log.append(line)
        if saver is not None:
            (settings.output / LOG).write_text("".join(json.dumps(line) + "\n" for line in log))
            saver.save_checkpoint(epoch, line.get("top1_ema", line.get("top1")))
            report(line)
    return log


def _amp(settings: Settings, recipe: Recipe, device: torch.device) -> torch.dtype | None:
    if settings.amp == "auto":
        return torch.float16 if recipe.amp and device.type == "cuda" else None
    if settings.amp not in AMP:
        raise ValueError(f"amp is {settings.amp!r}; it must be 'auto', {', '.join(map(repr, AMP))}.")
    return AMP[settings.amp]


def _accumulate(settings: Settings, recipe: Recipe, world: int) -> int:
    accumulate, rest = divmod(recipe.batch_size, settings.batch_size * world)
    if rest or not accumulate:
        raise ValueError(
            f"batch_size is {settings.batch_size} for each of {world} processes; the recipe's batch of "
            f"{recipe.batch_size} images must be a multiple of their product."
        )
    if (recipe.mixup or recipe.cutmix) and settings.batch_size % 2:
        raise ValueError(f"batch_size is {settings.batch_size}; mixup and CutMix need an even one.")
    return accumulate


def _image_size(settings: Settings, model: BaseTransformer) -> tuple[int, int]:
    if settings.image_size is not None:
        return settings.image_size, settings.image_size
    height, width = resolve_data_config(model=model)["input_size"][1:]
    return height, width


def _create(settings: Settings, recipe: Recipe) -> tuple[Any, Any, BaseTransformer]:
    shape = create(settings.model, device="meta", **settings.model_arguments)
    train = datasets.open_dataset(settings.data, True, shape.in_chans, settings.data_dir)
    names = datasets.classes_of(train)
    classes = settings.num_classes or (len(names) if names else shape.num_classes)
    if names and len(names) > classes:
        raise ValueError(f"num_classes is {classes}; the data has {len(names)} classes: give at least as many.")
    order = {name: i for i, name in enumerate(names)} if names else None
    held_out = datasets.open_dataset(settings.data, False, shape.in_chans, settings.data_dir, order)
    if isinstance(held_out, datasets.Folder) and held_out.root == train.root:
        held_out = None  # the folder has classes alone, no halves
    arguments = {"num_classes": classes, **settings.model_arguments}
    if recipe.drop_path is not None:
        arguments["drop_path_rate"] = recipe.drop_path
    if settings.image_size is not None and shape.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = settings.image_size
    model = create(settings.model, **arguments)
    if settings.initial is not None:
        load_initial(model, settings.initial)
    model.set_grad_checkpointing(settings.grad_checkpointing)
    return train, held_out, model


def load_initial(model: BaseTransformer, source: str) -> None:
    """Begin with given weights: biases interpolated, a classifier of another number of classes left as it is.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    weights = convert(read_weights(resolve(source)), "timm")
    for key, value in model.state_dict().items():
        if key.startswith("head.fc.") and key in weights and weights[key].shape != value.shape:
            weights[key] = value
    fit_weights(model, checkpoint_filter_fn(weights, model, interpolate=True), source)


def _saver(training: Training, output: Path, config: dict[str, Any], log: list[dict[str, Any]]) -> CheckpointSaver:
    saver = CheckpointSaver(
        training.model, training.optimizer, args=argparse.Namespace(**config), model_ema=training.average,
        amp_scaler=training.scaler, checkpoint_dir=str(output), max_history=1,
    )  # fmt: skip
    scores = [line.get("top1_ema", line["top1"]) for line in log if "top1" in line]
    if scores:
        saver.best_metric = max(scores)
        saver.best_epoch = scores.index(saver.best_metric)
        best = output / f"checkpoint-{saver.best_epoch}.pth.tar"
        saver.checkpoint_files = [(str(best), saver.best_metric)] if best.exists() else []
    return saver


def _restore(training: Training, path: Path, config: dict[str, Any]) -> int:
    """Go back to where a checkpoint was taken; returns the number of finished epochs."""
    saved = read(path)
    before = vars(saved["args"])
    other = [f"{key} was {before.get(key)!r}, is {config[key]!r}" for key in config if before.get(key) != config[key]]
    if other:
        raise ValueError(f"the checkpoint {str(path)!r} is of another run: {'; '.join(other)}.")
    training.model.load_state_dict(saved["state_dict"])
    training.optimizer.load_state_dict(saved["optimizer"])
    if training.average is not None:
        training.average.module.load_state_dict(saved["state_dict_ema"])
    if training.scaler is not None:
        training.scaler.load_state_dict(saved[training.scaler.state_dict_key])
    return int(saved["epoch"]) + 1
