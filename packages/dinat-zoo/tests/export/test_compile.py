"""torch.compile of whole models in one graph: logits, and the gradients of a training step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(model: Any, graph: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    output = graph(images)
    output.square().mean().backward()
    return output.detach(), [parameter.grad for parameter in model.parameters()]


def same(model: Any, images: Tensor, **options: Any) -> None:
    """Compiled, a copy of the model gives the same in evaluation and in a training step."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(other, fullgraph=True, **options)(images), model(images))
    torch._dynamo.reset()
    model.train(), other.train()
    ours, theirs = step(other, torch.compile(other, fullgraph=True, **options), images), step(model, model, images)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_one_graph(name: str, create: Any, images: Any) -> None:
    """All of torch.compile but for the code generator, which takes half a minute a model."""
    model = create(name, drop_path_rate=0.0)
    same(model, images(model), backend="aot_eager")


def test_the_code_generator(create: Any, images: Any) -> None:
    model = create("dinat_pico", depths=(1, 1), num_heads=(2, 4), dilations=(2, 1), drop_path_rate=0.0)
    same(model, images(model))
