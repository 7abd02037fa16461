"""A model in training: optimizer, schedule, average of the weights, one epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dinat_zoo._base import BaseTransformer
from dinat_zoo.recipes.imagenet.recipe import Recipe


class Training:
    """A model, and all that changes with it.

    Args:
        model: on its device.
        recipe: how to train it.
        loader: batches of normalised images and labels on that device.
        accumulate: batches per update.
        amp: dtype of autocast, or None for none; fp16 is with loss scaling.
        distributed: average gradients over torch.distributed's processes.

    Raises:
        ValueError: fewer images than one update takes, or an odd batch to mix.
    """

    def __init__(
        self, model: BaseTransformer, recipe: Recipe, loader: Any, accumulate: int, amp: torch.dtype | None,
        distributed: bool = False,
    ) -> None:  # fmt: skip
        self.updates = len(loader) // accumulate
        if not self.updates:
            raise ValueError(
                f"batch_size is {recipe.batch_size} images per update; the training data has fewer: take a smaller one."
            )
        self.model, self.recipe, self.loader, self.accumulate, self.amp = model, recipe, loader, accumulate, amp
        self.device = next(model.parameters()).device
        self.average = None if recipe.ema is None else ModelEmaV3(model, decay=recipe.ema)
        groups = param_groups_weight_decay(model, recipe.weight_decay)
        self.optimizer = create_optimizer_v2(groups, "adamw", lr=recipe.lr, weight_decay=0.0)
        schedule: dict[str, Any] = {"sched": "cosine"}
        if recipe.schedule == "linear":
            schedule = {"sched": "poly", "decay_rate": 1.0}
        self.schedule, self.epochs = create_scheduler_v2(
            self.optimizer, num_epochs=recipe.epochs, warmup_epochs=recipe.warmup_epochs, warmup_lr=recipe.warmup_lr,
            cooldown_epochs=recipe.cooldown_epochs, min_lr=recipe.min_lr, step_on_epochs=False,
            updates_per_epoch=self.updates, **schedule,
        )  # fmt: skip
        self.scaler = NativeScaler(device=self.device.type) if amp == torch.float16 else None
        self.mix, self.loss = _mixing(recipe, model.num_classes)
        self.parallel: nn.Module = model
        if distributed:
            self.parallel = DistributedDataParallel(model, [self.device] if self.device.type == "cuda" else None)

    def run_epoch(self, epoch: int, advance: Callable[[], object] = lambda: None) -> dict[str, float]:
        """Train one epoch.

        Args:
            epoch: its number, from 0.
            advance: called after every update.

        Returns:
            `train_loss`, the mean of this process, and the last `lr`.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.parallel.train()
        total, loss = 0.0, torch.zeros((), device=self.device)
        for i, (images, labels) in enumerate(islice(self.loader, self.updates * self.accumulate)):
            update, part = divmod(i, self.accumulate)
            self.schedule.step_update(epoch * self.updates + update)
            last = part + 1 == self.accumulate
            loss = loss + self._step(images, labels, last)
            if last:
                value = loss.item() / self.accumulate
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss is {value} at update {update + 1} of epoch {epoch + 1}; a lower lr may help, or "
                        "amp 'bf16' or 'off' where it was 'fp16'."
                    )
                total, loss = total + value, torch.zeros_like(loss)
                if self.average is not None:
                    self.average.update(self.model)
                advance()
        return {"train_loss": total / self.updates, "lr": self.optimizer.param_groups[0]["lr"]}

    def _step(self, images: Tensor, labels: Tensor, last: bool) -> Tensor:
        """Add a batch's gradient, and after the last of an update change the weights; returns the loss."""
        if self.mix is not None:
            images, labels = self.mix(images, labels)
        parallel = self.parallel
        wait = isinstance(parallel, DistributedDataParallel) and not last
        with parallel.no_sync() if wait else nullcontext():  # type: ignore[operator]
            with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                loss: Tensor = self.loss(parallel(images), labels)
            scaled, parameters = loss / self.accumulate, list(self.model.parameters())
            if self.scaler is not None:
                self.scaler(scaled, self.optimizer, self.recipe.clip, parameters=parameters, need_update=last)
            else:
                scaled.backward()
                if last:
                    dispatch_clip_grad(parameters, self.recipe.clip)
                    self.optimizer.step()
        if last:
            self.optimizer.zero_grad()
        return loss.detach()


def _mixing(recipe: Recipe, num_classes: int) -> tuple[Mixup | None, nn.Module]:
    if not (recipe.mixup or recipe.cutmix):
        return None, LabelSmoothingCrossEntropy(recipe.smoothing) if recipe.smoothing else nn.CrossEntropyLoss()
    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes)
    return mix, SoftTargetCrossEntropy()
