"""Golden numbers of independent implementations (NATTEN 0.17.5 and 0.21.7), and the rule that makes their inputs."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent.parent / "data"


def cases(name: str) -> dict[str, dict[str, Any]]:
    return dict(json.loads((DATA / f"{name}.json").read_text()))


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as archive:
        return dict(archive)


def uniform(key: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [-1, 1), from numpy's PCG64 seeded with the CRC-32 of the key; float64."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return torch.from_numpy((generator.random(int(np.prod(shape))) * 2 - 1).reshape(shape))
