from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from dinat_zoo import dense
from dinat_zoo.cli import main
from dinat_zoo.dense.rle import decode

pytestmark = pytest.mark.usefixtures("small_dense")
SIZE = ("--longest", 96, "--shortest", 64)
Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def weights(tmp_path: Path, small_dense: None) -> Path:
    torch.manual_seed(0)
    torch.save(dense.create("upernet_dinat_mini").state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_areas_masks_and_files_are_the_models_own(command: Command, photo: Path, weights: Path, tmp_path: Path) -> None:
    code, document, _ = command("segment", photo, "--checkpoint", weights, *SIZE, "--output", tmp_path / "drawn")
    assert code == 0
    [result] = document["results"]
    image = pil_to_tensor(Image.open(photo).convert("RGB"))
    model = dense.create("upernet_dinat_mini", weights).eval()
    with torch.no_grad():
        logits = dense.predict(model, dense.ImageTransform(96, 64, 1)([image]).images, (60, 80))
    expected = logits.argmax(1)[0]
    areas = [found["area"] for found in result["classes"]]
    assert areas == sorted(areas, reverse=True)
    assert sum(areas) == 60 * 80
    assert {found["index"] for found in result["classes"]} == set(expected.unique().tolist())
    for found in result["classes"]:
        assert torch.equal(decode(found["segmentation"]), expected == found["index"])
        assert found["fraction"] == pytest.approx(found["area"] / 4800)
        assert found["label"] == dense.class_names("ade20k")[found["index"]]
    with Image.open(result["segmentation"]) as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), expected.numpy())
        painted = np.array(dense.palette("ade20k"), dtype=np.uint8)[expected.numpy()]
        assert np.array_equal(np.asarray(written.convert("RGB")), painted)
    with Image.open(result["drawn"]) as drawn:
        assert drawn.size == (80, 60)


def test_images_of_one_name_do_not_overwrite_each_other(
    command: Command, photo: Path, weights: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(photo.read_bytes())
    _, document, _ = command(
        "segment", tmp_path / "a", tmp_path / "b", "--checkpoint", weights, *SIZE, "--output", tmp_path / "drawn"
    )
    files = [Path(result[key]).name for result in document["results"] for key in ("drawn", "segmentation")]
    assert files == ["x.png", "x.segmentation.png", "x-2.png", "x-2.segmentation.png"]


def test_multi_scale_and_text(capsys: pytest.CaptureFixture[str], photo: Path, weights: Path) -> None:
    arguments = ["segment", str(photo), "--checkpoint", str(weights), *map(str, SIZE), "--multi-scale"]
    assert main(arguments) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(photo)
    assert sum(float(line.rsplit(maxsplit=1)[1][:-1]) for line in lines) == pytest.approx(100, abs=3)


@pytest.mark.usefixtures("offline")
def test_without_weights_the_missing_file_is_named(command: Command, photo: Path) -> None:
    code, document, err = command("segment", photo)
    assert (code, document) == (1, None)
    assert "upernet_dinat_mini has no weights on this machine" in err


def test_weights_of_another_model_are_refused(command: Command, photo: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    code, _, err = command("segment", photo, "--checkpoint", tmp_path / "other.pth")
    assert code == 1
    assert "these are no weights of NAT or DiNAT" in err
