"""The bundled weights: their promises, on a fixed sample of the test images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import dinat_zoo
from dinat_zoo.fashion_mnist import LABELS
from dinat_zoo.recipes.fashion_mnist.card import read_log
from dinat_zoo.recipes.fashion_mnist.data import Split
from dinat_zoo.recipes.fashion_mnist.evaluate import accuracy, logits, without_attention

NAME = "dinat_pico.fashion_mnist"
WEIGHTS = Path(dinat_zoo.__file__).parent / "weights"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model(NAME, pretrained=True).eval()


@pytest.fixture(scope="module")
def arrays(data):
    """The first 50 test images of each class, and the logits that the weights gave when they were released."""
    return np.load(data / "fashion-mnist-sample.npz")


@pytest.fixture(scope="module")
def sample(arrays) -> Split:
    return Split(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long())


@pytest.fixture(scope="module")
def card() -> str:
    return (WEIGHTS / f"{NAME}.md").read_text()


def test_sample_is_balanced(sample):
    assert sample.labels.bincount().tolist() == [50] * len(LABELS)


def test_logits_are_the_released_ones(model, sample, arrays):
    released = torch.from_numpy(arrays["logits"])
    torch.testing.assert_close(logits(model, sample.images), released, atol=2e-4, rtol=1e-4)


def test_accuracy_on_the_sample(model, sample):
    assert accuracy(logits(model, sample.images), sample.labels) >= 95.4  # 95.8 when released


def test_double_precision_agrees(model, sample):
    images = sample.images[:50]
    exact = timm.create_model(NAME, pretrained=True).eval().double()
    pixels = (images.unsqueeze(1).double() / 255 - 0.2860) / 0.3530
    with torch.inference_mode():
        torch.testing.assert_close(logits(model, images), exact(pixels).float(), atol=2e-4, rtol=1e-4)


def test_accuracy_hangs_on_neighborhood_attention(model, sample):
    with_attention = accuracy(logits(model, sample.images), sample.labels)
    assert accuracy(logits(without_attention(model), sample.images), sample.labels) < with_attention - 5


def test_size_and_shape_keep_the_promises(model):
    assert sum(parameter.numel() for parameter in model.parameters()) <= 800_000
    assert (WEIGHTS / f"{NAME}.safetensors").stat().st_size < 4_000_000
    sizes = []
    for level in model.levels:
        level.register_forward_hook(lambda level, _, output: sizes.append((output.shape[1], level.blocks)))
    model(torch.zeros(1, 1, 28, 28))
    large = [side > 2 * block.attn.kernel_size[0] for side, blocks in sizes for block in blocks]
    assert 2 * sum(large) >= len(large)
    assert max(block.attn.dilation[0] for _, blocks in sizes for block in blocks) > 1


def test_card_and_log_agree(card, model):
    starts, epochs = read_log(WEIGHTS / f"{NAME}.jsonl")
    last = epochs[-1]
    assert last["epoch"] == starts[0]["recipe"]["epochs"] == len(epochs)
    assert starts[0]["recipe"]["hold_out"] == 0
    assert not starts[0]["recipe"]["without_attention"]
    assert last["test_accuracy_ema"] >= 93.5
    assert f"**{last['test_accuracy_ema']:.2f}% top-1**" in card
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in card


def test_card_shows_the_ablation_and_a_whole_confusion_matrix(card):
    value = {key: float(number) for key, number in re.findall(r"\| ([\w ,.]+) \| ([\d.]+)% \|", card)}
    assert value["attention replaced by the identity in these weights"] < value[NAME] - 5
    counts = re.search(r"\| true \\ predicted.*?\n\n", card, re.DOTALL).group()
    assert sum(int(count) for count in re.findall(r"(?<=\| )(\d+)(?= \|)", counts)) == 10_000
