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
    totals = train(model, batch, targets, steps=60, lr=5e-3)
    assert totals[-1] < 0.5 * totals[0]
    with torch.no_grad():
        found = model.eval()(batch)
    for detections, target, size, original in zip(found, targets, batch.sizes, batch.original_sizes, strict=True):
        scale = original[0] // size[0]
        assert detections.masks.shape[1:] == original
        for box, label, mask in zip(target.boxes * scale, target.labels, target.masks, strict=True):
            same = torch.nonzero(detections.labels == label)[:, 0]
            overlap, index = box_iou(box[None], detections.boxes[same])[0].max(dim=0)
            assert overlap > 0.5
            drawn = detections.masks[same[index]]
            wanted = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
            assert (drawn & wanted).sum() > 0.5 * (drawn | wanted).sum()


def test_a_segmenter_learns_two_images(backbone: Create, shapes: Any) -> None:
    torch.manual_seed(0)
    batch, targets = shapes
    labels = torch.full((2, 128, 128), 3)
    for label, target in zip(labels, targets, strict=True):
        for mask, kind in zip(target.masks, target.labels, strict=True):
            label[: mask.shape[0], : mask.shape[1]][mask] = kind
    model = dense.Segmenter(backbone(), num_classes=4, channels=16, auxiliary_channels=16).train()
    totals = train(model, batch.images, labels, steps=60, lr=5e-3)
    assert totals[-1] < 0.5 * totals[0]
    with torch.no_grad():
        segmentation = dense.predict(model.eval(), batch.images, (128, 128)).argmax(dim=1)
    assert (segmentation == labels).float().mean() > 0.9
