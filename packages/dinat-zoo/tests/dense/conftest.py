from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinat_zoo import dense
from dinat_zoo.dense.assign import Sampler
from dinat_zoo.dense.detector import CASCADE_MASK_RCNN, CASCADE_MASK_RCNN_RPN, MASK_RCNN, MASK_RCNN_RPN

sys.path.insert(0, str(Path(__file__).parent / "support"))

Create = Callable[..., Any]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests of the folder."""


@pytest.fixture(scope="session")
def backbone() -> Callable[..., dense.Backbone]:
    """Makes a backbone of few channels."""

    def create(**arguments: Any) -> dense.Backbone:
        small: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
        small |= {"dilations": ((2,), (1,), (1,), (1,)), "drop_path_rate": 0.0}
        return dense.Backbone.create("dinat_mini", **{**small, **arguments})

    return create


@pytest.fixture(scope="session")
def detector(backbone: Create) -> Create:
    """Makes a small detector of a kind, with fewer proposals than the published ones."""

    def create(kind: str, num_classes: int = 3) -> dense.Detector:
        roi, rpn = {
            "maskrcnn": (MASK_RCNN, MASK_RCNN_RPN),
            "cascadedmaskrcnn": (CASCADE_MASK_RCNN, CASCADE_MASK_RCNN_RPN),
        }[kind]
        rpn = replace(rpn, before_nms=(100, 100), after_nms=(50, 50))
        roi = replace(roi, sampler=Sampler(32, 0.25))
        return dense.Detector(backbone(), roi, rpn, num_classes, channels=16, hidden=32)

    return create


@pytest.fixture(scope="session")
def shapes() -> tuple[dense.Batch, list[dense.Objects]]:
    """Two pictures of rectangles, of different sizes, with what is to be found in them."""
    sizes = [(96, 128), (128, 96)]
    boxes = [torch.tensor([[8.0, 16, 56, 80], [72, 24, 120, 64]]), torch.tensor([[20.0, 40, 84, 104]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    images, targets = torch.zeros(2, 3, 128, 128), []
    for i, (box, label, (height, width)) in enumerate(zip(boxes, labels, sizes, strict=True)):
        masks = torch.zeros(len(box), height, width, dtype=torch.bool)
        for mask, (left, top, right, bottom), kind in zip(masks, box.int().tolist(), label.tolist(), strict=True):
            mask[top:bottom, left:right] = True
            images[i, kind, top:bottom, left:right] = 2.0
        targets.append(dense.Objects(box, label, masks))
    return dense.Batch(images, sizes, [(192, 256), (128, 96)]), targets


@pytest.fixture
def random_boxes() -> Callable[[int], Tensor]:
    """Makes boxes within 100 x 100 pixels, at least one pixel wide and high."""

    def make(number: int) -> Tensor:
        corners = torch.rand(number, 2, 2) * 99
        return torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)

    return make
