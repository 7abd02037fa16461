from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import dinat_zoo

CASES = (
    "nat_mini@224x224",
    "dinat_mini@224x224",
    "dinat_mini@160x192",
    "dinat_s_tiny@224x224",
    "dinat_isotropic_small@224x224",
    "vitrpb_small@224x224",
)


def test_every_golden_case_is_here(data: Path) -> None:
    assert set(np.load(data / "models.npz")) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_logits_of_published_weights(
    case: str,
    data: Path,
    tmp_path: Path,
    published_weights: Callable[[str], dict[str, Tensor]],
    golden_input: Callable[[int, int], Tensor],
) -> None:
    """The authors' models, weights loaded the way a user loads them; 160x192 makes maps smaller than windows."""
    name, size = case.split("@")
    height, width = (int(side) for side in size.split("x"))
    torch.save({"state_dict": published_weights(name)}, tmp_path / "published.pth")
    overlay = {"file": str(tmp_path / "published.pth")}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.inference_mode():
        logits = model(golden_input(height, width)).numpy()
    expected = np.load(data / "models.npz")[case]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert name in dinat_zoo.list_models()
