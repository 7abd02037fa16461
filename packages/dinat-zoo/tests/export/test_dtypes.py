"""Half types, channels-last images and int8: how far from float32 they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

BUDGET = 3  # roundings of the type, in all layers together


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast(name: str, dtype: torch.dtype, create: Any, images: Any) -> None:
    model = create(name)
    batch, budget = images(model), BUDGET * torch.finfo(dtype).eps
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", dtype):
            mixed = model(batch)
        half = model.to(dtype)(batch.to(dtype))
    for output in (mixed, half):
        assert output.dtype == dtype
        assert error(output, exact) <= budget


def test_autocast_trains(create: Any, images: Any) -> None:
    model = create("dinat_mini", drop_path_rate=0.0).train()
    batch, gradients = images(model), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(batch).float().square().mean()
        loss.backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert error(gradients[1], gradients[0]) <= BUDGET * torch.finfo(torch.bfloat16).eps


def test_channels_last(name: str, create: Any, images: Any) -> None:
    model = create(name)
    batch = images(model)
    with torch.no_grad():
        expected = model(batch)
        for module in (model, copy.deepcopy(model).to(memory_format=torch.channels_last)):
            torch.testing.assert_close(module(batch.to(memory_format=torch.channels_last)), expected)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel and other:UserWarning")
def test_int8_linears_classify_as_float32(data: Path) -> None:
    """torch's dynamic quantisation of the linear layers, on the trained model: 98% of the classes stay."""
    model = timm.create_model("dinat_pico", pretrained=True).eval()
    quantised = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not [module for module in quantised.modules() if type(module) is nn.Linear]
    sample = np.load(data / "fashion-mnist-sample.npz")
    pixels, labels = torch.from_numpy(sample["images"])[:, None] / 255, torch.from_numpy(sample["labels"]).long()
    images = (pixels - model.pretrained_cfg["mean"][0]) / model.pretrained_cfg["std"][0]
    with torch.no_grad():
        exact, rounded = model(images), quantised(images)
    assert error(rounded, exact) <= 0.05
    assert (rounded.argmax(1) == exact.argmax(1)).float().mean() >= 0.98
    right = [(logits.argmax(1) == labels).float().mean() for logits in (exact, rounded)]
    assert abs(right[0] - right[1]) <= 0.01
