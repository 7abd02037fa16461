from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from dinat_zoo import dense

Create = Callable[..., Any]


def train(model: Any, batch: Any, targets: Any, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    totals = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10, (steps - step) / 20)
        total = torch.stack(list(model(batch, targets).values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(total.item())
    return totals


@pytest.mark.parametrize("kind", ["maskrcnn", "cascadedmaskrcnn"])
def test_a_detector_learns_two_images(kind: str, detector: Create, shapes: Any) -> None:
    torch.manual_seed(0)
    batch, targets = shapes
    model = detector(kind).train()
    totals = train(model, batch, targets, steps=80, lr=3e-3)
    print(totals[0], totals[-1])
    with torch.no_grad():
        found = model.eval()(batch)
    for detections, target, size, original in zip(found, targets, batch.sizes, batch.original_sizes, strict=True):
        number = len(target.labels)
        assert detections.masks.shape[1:] == original
        best = detections.boxes[:number] / (original[0] / size[0])
        print(detections.scores[:5], detections.labels[:5], best)
        overlap, index = box_iou(best, target.boxes).max(dim=1)
        assert sorted(index.tolist()) == list(range(number))
        assert overlap.min() > 0.7
        assert torch.equal(detections.labels[:number], target.labels[index])


def test_a_segmenter_learns_two_images(backbone: Create, shapes: Any) -> None:
    torch.manual_seed(0)
    batch, targets = shapes
    labels = torch.full((2, 128, 128), 3)
    for label, target in zip(labels, targets, strict=True):
        for mask, kind in zip(target.masks, target.labels, strict=True):
            label[: mask.shape[0], : mask.shape[1]][mask] = kind
    model = dense.Segmenter(backbone(), num_classes=4, channels=16, auxiliary_channels=16).train()
    totals = train(model, batch.images, labels, steps=40, lr=3e-3)
    print(totals[0], totals[-1])
    with torch.no_grad():
        segmentation = dense.predict(model.eval(), batch.images, (128, 128)).argmax(dim=1)
    print((segmentation == labels).float().mean())
    assert (segmentation == labels).float().mean() > 0.95
