"""One small model of every family, with what it is told apart by: dilation, layer scale, patches, self attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

_LEVELS: dict[str, Any] = {"embed_dim": 32, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "kernel_size": 3}
_DILATIONS = ((2,), (1, 3), (1,))
_ISOTROPIC: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL: dict[str, dict[str, Any]] = {
    "nat_small": _LEVELS,
    "dinat_mini": {**_LEVELS, "dilations": _DILATIONS},
    "dinat_s_tiny": {**_LEVELS, "dilations": _DILATIONS},
    "dinat_isotropic_small": {**_ISOTROPIC, "kernel_size": 3, "dilations": ((1, 2),)},
    "vitrpb_small": {**_ISOTROPIC, "img_size": (61, 45)},
    "dinat_pico": {"depths": (1, 2, 1)},
}
# Neither side is a multiple of anything: tokenizers pad, and maps are smaller than some windows.
SIZE = (61, 45)


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def create() -> Callable[..., Any]:
    """A small model in evaluation mode, whose biases are large enough to be seen in its output."""

    def make(name: str, **arguments: Any) -> Any:
        torch.manual_seed(0)
        model = timm.create_model(name, **{**SMALL[name], "num_classes": 10, **arguments}).eval()
        for key, parameter in model.named_parameters():
            if key.endswith(".rpb"):
                torch.nn.init.normal_(parameter)
        return model

    return make


@pytest.fixture
def size() -> tuple[int, int]:
    return SIZE


@pytest.fixture
def images() -> Callable[..., Tensor]:
    def make(model: Any, batch: int = 2) -> Tensor:
        channels = next(m.in_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d))
        return torch.randn(batch, channels, *SIZE, generator=torch.Generator().manual_seed(1))

    return make
