"""Top-1 and top-5 accuracy of a classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.nn.functional import cross_entropy

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    device: torch.device,
    amp: torch.dtype | None = None,
    only: Sequence[int] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure a model; with several processes each takes its share, and all get the result of the whole.

    Args:
        model: gives logits; in eval mode for the duration.
        loader: gives normalised images and labels on `device`, see `data.eval_loader`.
        device: where it runs.
        amp: dtype of autocast, or None for none.
        only: the classes among which the model chooses; all by default.
        advance: called after every batch.

    Returns:
        `images`, `top1` and `top5` in percent, mean cross entropy `loss`, `images_per_second`.

    Raises:
        ValueError: labels that the model has no class for, or no image at all.
    """
    began, training = time.perf_counter(), model.training
    model.eval()
    meters = [AverageMeter() for _ in range(3)]
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    remaining = None
    if distributed:
        shares = range(torch.distributed.get_rank(), len(loader.dataset), torch.distributed.get_world_size())
        remaining = len(shares)
    chosen = None if only is None else torch.tensor(list(only), device=device)
    for images, labels in loader:
        if remaining is not None:  # the last ones of some processes only make their shares equal
            images, labels = images[:remaining], labels[:remaining]
            remaining -= len(images)
        if not len(images):
            continue
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images).float()
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise ValueError(f"a label is {int(labels.max())}; the model has {logits.shape[1]} classes, from 0.")
        if chosen is not None:
            logits, labels = logits[:, chosen], torch.searchsorted(chosen, labels)
        values = (*accuracy(logits, labels, (1, 5)), cross_entropy(logits, labels))
        for meter, value in zip(meters, values, strict=True):
            meter.update(value.item(), len(images))
        advance()
    model.train(training)
    sums = torch.tensor([*(meter.sum for meter in meters), meters[0].count], dtype=torch.float64, device=device)
    if distributed:
        torch.distributed.all_reduce(sums)
    count = int(sums[3])
    if not count:
        raise ValueError("the data has no images.")
    top1, top5, loss = (sums[:3] / count).tolist()
    seconds = time.perf_counter() - began
    return {"images": count, "top1": top1, "top5": top5, "loss": loss, "images_per_second": count / seconds}
