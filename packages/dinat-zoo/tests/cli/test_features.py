from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dinat_zoo._predict import load_classifier
from dinat_zoo.cli import main

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def images(tmp_path: Path, garment: Image.Image) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "cab"]
    for turn, path in enumerate(paths):
        garment.rotate(90 * turn).save(path)
    return paths


def test_pooled_features_are_what_the_classifier_sees(command: Command, images: list[Path], tmp_path: Path) -> None:
    code, document, _ = command("features", *images, "--output", tmp_path / "f.npz", "--batch-size", 2)
    assert code == 0
    written = np.load(tmp_path / "f.npz")
    assert written["names"].tolist() == document["names"] == [str(path) for path in images]
    assert document["arrays"] == {"features": [3, 128]}
    classifier = load_classifier()
    batch = torch.stack([classifier.transform(Image.open(path)) for path in images])
    with torch.no_grad():
        logits = classifier.model(batch)
        own = classifier.model.get_classifier()(torch.from_numpy(written["features"]))
    torch.testing.assert_close(own, logits, atol=1e-4, rtol=1e-4)


def test_tokens_and_pyramid(command: Command, images: list[Path], tmp_path: Path) -> None:
    classifier = load_classifier()
    batch = torch.stack([classifier.transform(Image.open(path)) for path in images])
    with torch.no_grad():
        tokens, levels = classifier.model.forward_intermediates(batch)
    for kind, expected in (
        ("tokens", {"tokens": tokens}),
        ("pyramid", {f"level{i}": level for i, level in enumerate(levels)}),
    ):
        output = tmp_path / f"{kind}.safetensors"
        assert command("features", *images, "--output", output, "--kind", kind)[0] == 0
        with safe_open(output, "pt") as file:
            assert json.loads(file.metadata()["names"]) == [str(path) for path in images]
            assert set(file.keys()) == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(file.get_tensor(key), value, atol=1e-4, rtol=1e-4)


def test_weights_of_other_classes_do(command: Command, images: list[Path], tmp_path: Path) -> None:
    model = load_classifier().model
    model.reset_classifier(3)
    torch.save(model.state_dict(), tmp_path / "three.pth")
    command("features", *images, "--output", tmp_path / "own.npz")
    code, _, _ = command("features", *images, "--output", tmp_path / "f.npz", "--checkpoint", tmp_path / "three.pth")
    assert code == 0
    own, found = (np.load(tmp_path / name)["features"] for name in ("own.npz", "f.npz"))
    assert found.shape == own.shape


def test_errors(command: Command, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command("features", images[0], "--output", tmp_path / "f.csv")
    assert code == 2
    assert "known are .npz, .safetensors" in err
    code, _, err = command("features", images[0], "--output", tmp_path / "nowhere" / "f.npz")
    assert code == 2
    assert "cannot write" in err
    code, _, err = command("features", tmp_path / "none.png", "--output", tmp_path / "f.npz")
    assert code == 2
    assert "no such file" in err
    code, _, err = command("features", images[0], "--output", tmp_path / "f.npz", "--checkpoint", "nowhere.pth")
    assert code == 1
    assert "'nowhere.pth' is not a file" in err
    with pytest.raises(SystemExit):
        main(["features", str(images[0]), "--output", "f.npz", "--model", "dinat_mimi"])
    assert "no model is named 'dinat_mimi'; near it: dinat_mini" in capsys.readouterr().err
