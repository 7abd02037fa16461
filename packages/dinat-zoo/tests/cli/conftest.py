from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinat_zoo import dense, dinat
from dinat_zoo.cli import main
from dinat_zoo.dense.detector import MASK_RCNN, MASK_RCNN_RPN
from dinat_zoo.dense.published import HEADS

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests of the folder."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command with `--json`; gives its exit code, its document and what it said on stderr."""

    def run(*arguments: object) -> tuple[int, Any, str]:
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, json.loads(out) if out else None, err

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A colour picture of 80 x 60."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def small_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the dense models on `dinat_mini` small: fewer channels, fewer proposals."""
    arguments = dinat.VARIANTS["dinat_mini"].arguments
    monkeypatch.setitem(arguments, "embed_dim", 16)
    monkeypatch.setitem(arguments, "num_heads", (1, 2, 4, 8))
    monkeypatch.setitem(
        HEADS,
        "maskrcnn",
        lambda body, classes: dense.Detector(body, MASK_RCNN, MASK_RCNN_RPN, classes, channels=16, hidden=32),
    )
    monkeypatch.setitem(HEADS, "upernet", lambda body, classes: dense.Segmenter(body, classes, 16, 16))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing cached."""
    monkeypatch.setenv("DINAT_ZOO_OFFLINE", "1")
    monkeypatch.setenv("DINAT_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
