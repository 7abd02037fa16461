from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from dinat_zoo import dense
from dinat_zoo.cli import main
from dinat_zoo.dense.rle import decode

pytestmark = pytest.mark.usefixtures("small_dense")
SIZE = ("--longest", 128, "--shortest", 96)
Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def weights(tmp_path: Path, small_dense: None) -> Path:
    torch.manual_seed(0)
    found = dense.create("maskrcnn_dinat_mini").state_dict()
    for key, value in found.items():
        if key.endswith("fc_cls.bias"):
            value[15:17] = 5.0  # untrained, it would be sure of nothing
    torch.save(found, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_detections_are_the_models_own(command: Command, photo: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", weights, *SIZE, "--threshold", 0, "--most", 7, "--output", tmp_path / "drawn")
    code, document, _ = command("detect", photo, *arguments)
    assert code == 0
    [result] = document["results"]
    assert (result["image"], result["id"], result["height"], result["width"]) == (str(photo), 1, 60, 80)
    image = pil_to_tensor(Image.open(photo).convert("RGB"))
    model = dense.create("maskrcnn_dinat_mini", weights).eval()
    with torch.no_grad():
        (found,) = model(dense.ImageTransform(128, 96)([image]))
    names = dict(dense.COCO_CATEGORIES)
    assert len(result["detections"]) == min(7, len(found.labels)) > 0
    for i, entry in enumerate(result["detections"]):
        left, top, right, bottom = found.boxes[i].tolist()
        assert entry["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
        assert entry["score"] == pytest.approx(found.scores[i].item(), abs=1e-5)
        assert entry["label"] == names[entry["category_id"]]
        mask = decode(entry["segmentation"])
        assert torch.equal(mask, found.masks[i])
        assert entry["area"] == int(mask.sum())
    with Image.open(result["drawn"]) as drawn:
        assert drawn.size == (80, 60)
        assert not torch.equal(pil_to_tensor(drawn), image)


def test_threshold_names_and_ids(command: Command, photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dense.create("maskrcnn_dinat_mini", num_classes=2)
    torch.save(model.state_dict(), tmp_path / "two.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    numbered = photo.rename(tmp_path / "000000000139.png")
    arguments = ("--checkpoint", tmp_path / "two.pth", "--classes", tmp_path / "names.txt", *SIZE)
    code, document, _ = command("detect", numbered, *arguments, "--threshold", 0.3)
    assert code == 0
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    [result] = document["results"]
    assert result["id"] == 139
    assert all(entry["score"] >= 0.3 and entry["label"] in ("cat", "dog") for entry in result["detections"])
    assert command("detect", numbered, *arguments, "--threshold", 1)[1]["results"][0]["detections"] == []


def test_text(capsys: pytest.CaptureFixture[str], photo: Path, weights: Path) -> None:
    arguments = ["detect", str(photo), "--checkpoint", str(weights), *map(str, SIZE)]
    assert main([*arguments, "--threshold", "0", "--most", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == str(photo)
    assert second.endswith(" pixels")
    assert main([*arguments, "--threshold", "1"]) == 0
    assert "nothing above the threshold" in capsys.readouterr().out


@pytest.mark.usefixtures("offline")
def test_without_weights_the_missing_file_is_named(command: Command, photo: Path) -> None:
    code, document, err = command("detect", photo)
    assert code == 1
    assert document is None
    assert "maskrcnn_dinat_mini has no weights on this machine" in err
    assert "--checkpoint PATH" in err
    assert dense.PUBLISHED["maskrcnn_dinat_mini"].url in err


def test_errors(command: Command, photo: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command("detect", photo, "--checkpoint", weights, "--classes", "nowhere.txt")
    assert code == 2
    assert "nowhere.txt" in err
    code, document, err = command("detect", "missing.png", photo, "--checkpoint", weights, *SIZE)
    assert code == 2
    assert len(document["results"]) == 1
    assert "missing.png: no such file" in err
    for wrong in (["--threshold", "2"], ["--model", "maskrcnn_dinat_min"], ["--model", "upernet_dinat_mini"]):
        with pytest.raises(SystemExit) as exit_:
            main(["detect", str(photo), *wrong])
        assert exit_.value.code == 2
        assert wrong[1] in capsys.readouterr().err
