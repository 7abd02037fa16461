from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

DATA = Path(__file__).parent / "data"


def uniform(key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Uniform in [-1, 1), from the CRC-32 of the key: the rule behind the golden numbers."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return (generator.random(int(np.prod(shape))) * 2 - 1).reshape(shape)


def fill(key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A weight, from its name in the published format."""
    values, leaf = uniform(key, shape), key.rsplit(".", 1)[-1]
    if leaf == "rpb":
        return 0.5 * values
    if leaf in ("gamma1", "gamma2"):
        return 0.7 + 0.1 * values
    if leaf == "weight" and len(shape) == 1:  # norms
        return 1 + 0.1 * values
    if len(shape) <= 1:  # biases
        return 0.02 * values
    return values * np.sqrt(3.0 / np.prod(shape[1:]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On maps as small as the tests' several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def published_weights() -> Callable[[str], dict[str, Tensor]]:
    """A model's golden weights under the names that the authors published."""
    keys = json.loads((DATA / "models-keys.json").read_text())

    def weights(model: str) -> dict[str, Tensor]:
        return {key: torch.from_numpy(fill(key, tuple(shape))).float() for key, shape in keys[model].items()}

    return weights


@pytest.fixture(scope="session")
def golden_input() -> Callable[[int, int], Tensor]:
    def image(height: int, width: int) -> Tensor:
        pixels = np.sqrt(3) * uniform(f"input-{height}x{width}", (2, 3, height, width))
        return torch.from_numpy(pixels).float()

    return image


@pytest.fixture
def garment() -> Image.Image:
    """A grey picture on black in the form of the data set: something like trousers."""
    image = Image.new("L", (28, 28))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 0, 19, 7), fill=200)
    draw.rectangle((8, 8, 12, 27), fill=160)
    draw.rectangle((15, 8, 19, 27), fill=160)
    return image
