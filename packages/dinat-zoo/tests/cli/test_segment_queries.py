"""`dinat-zoo segment` with Mask2Former and OneFormer: stand-ins for all, real ones where transformers is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from dinat_zoo import dense
from dinat_zoo.cli import main
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.queries import Queries, look
from dinat_zoo.dense.rle import decode

SIZE = ("--longest", 96, "--shortest", 64)
CITYSCAPES = "mask2former_dinat_large_cityscapes_panoptic"
BODY: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
BODY |= {"dilations": ((2,), (1,), (1,), (1,))}
Command = Callable[..., tuple[int, Any, str]]


class Model(nn.Module):
    """Finds two people, a car, some sky and something vague in every image of Cityscapes."""

    def __init__(self, name: str, checkpoint: str | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        self.told = (name, checkpoint, num_classes)
        self.model = nn.Module()
        if name.startswith("oneformer"):
            self.model.task_encoder = nn.Identity()

    def forward(self, pixel_values: Tensor, task_inputs: Tensor | None = None) -> SimpleNamespace:
        labels = [11, 11, 13, 10, 10, 5]
        classes = torch.full((1, 6, (self.told[2] or 19) + 1), -9.0)
        classes[0, range(6), labels] = 9.0
        classes[0, 5] = 0.0
        masks = torch.full((1, 6, pixel_values.shape[2] // 4, pixel_values.shape[3] // 4), -8.0)
        masks[0, 0, 5:9, 2:5] = masks[0, 1, 5:9, 8:11] = masks[0, 2, 10:, 12:] = 8.0
        masks[0, 3, :3] = masks[0, 4, 3:4] = masks[0, 5] = 8.0
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mask2former, oneformer):
        monkeypatch.setattr(module, "create", Model)


def queries(photo: Path, model: nn.Module, task: str | None = None) -> Queries:
    image = pil_to_tensor(Image.open(photo).convert("RGB"))
    batch = dense.ImageTransform(96, 64, antialias=True)([image])
    with torch.no_grad():
        return look(model, batch, task)[0]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", [CITYSCAPES, "oneformer_dinat_large_cityscapes"])
def test_panoptic(command: Command, photo: Path, tmp_path: Path, name: str) -> None:
    code, document, err = command("segment", photo, "--model", name, *SIZE, "--output", tmp_path / "drawn")
    assert (code, err) == (0, "")
    assert (document["model"], document["task"]) == (name, "panoptic")
    expected = queries(photo, Model(name), "panoptic").panoptic(dense.things("cityscapes"))
    [result] = document["results"]
    segments = result["segments_info"]
    assert [found["label"] for found in segments] == ["sky", "car", "person", "person"]
    assert [found["isthing"] for found in segments] == [0, 1, 1, 1]
    assert [found["category_id"] for found in segments] == [23, 26, 24, 24]
    with Image.open(result["file_name"]) as written:
        red, green, blue = np.asarray(written).astype(int).transpose(2, 0, 1)
    assert np.array_equal(red + 256 * green + 65536 * blue, expected.segments.numpy())
    for found in segments:
        mask = expected.segments == found["id"]
        assert torch.equal(decode(found["segmentation"]), mask)
        assert found["area"] == mask.sum() > 0
        assert found["fraction"] == found["area"] / 4800
        left, top, width, height = found["bbox"]
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        assert 0.99 < found["score"] <= 1
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    assert (names[23], names[24], len(names)) == ("sky", "person", 19)
    with Image.open(result["drawn"]) as drawn:
        assert drawn.size == (80, 60)
        assert len({drawn.getpixel((40, y)) for y in range(20, 60)}) > 10, "where nothing was found, the photo shows"


@pytest.mark.usefixtures("stand_ins")
def test_instances(command: Command, photo: Path, tmp_path: Path) -> None:
    arguments = ("--model", CITYSCAPES, "--task", "instance", *SIZE, "--output", tmp_path)
    code, document, _ = command("segment", photo, *arguments)
    assert code == 0
    [result] = document["results"]
    objects = result["detections"]
    assert sorted(found["label"] for found in objects) == ["car", "person", "person"]
    assert all(found["score"] > 0.5 and found["image_id"] == result["id"] == 1 for found in objects)
    expected = queries(photo, Model(CITYSCAPES)).instances(dense.things("cityscapes"))
    for found, mask in zip(objects, expected.masks, strict=False):
        assert torch.equal(decode(found["segmentation"]), mask)
        assert found["area"] == mask.sum()
    assert Path(result["drawn"]).is_file()
    _, all_of_them, _ = command("segment", photo, *arguments, "--threshold", 0)
    assert len(all_of_them["results"][0]["detections"]) > 3
    _, one, _ = command("segment", photo, *arguments, "--most", 1)
    assert len(one["results"][0]["detections"]) == 1


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", [CITYSCAPES, CITYSCAPES.replace("panoptic", "semantic")])
def test_semantic(command: Command, photo: Path, tmp_path: Path, name: str) -> None:
    code, document, _ = command("segment", photo, "--model", name, "--task", "semantic", *SIZE, "--output", tmp_path)
    assert (code, document["task"]) == (0, "semantic")
    [result] = document["results"]
    expected = queries(photo, Model(name)).semantic(late=name.endswith("semantic")).argmax(0)
    assert {found["label"] for found in result["classes"]} >= {"sky", "person", "car"}
    with Image.open(result["segmentation"]) as written:
        assert np.array_equal(np.asarray(written), expected.numpy())
        painted = np.array(dense.palette("cityscapes"), dtype=np.uint8)[expected.numpy()]
        assert np.array_equal(np.asarray(written.convert("RGB")), painted)


@pytest.mark.usefixtures("stand_ins")
def test_classes_of_ones_own(command: Command, photo: Path, tmp_path: Path) -> None:
    names = [f"kind {i}" for i in range(30)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    _, document, _ = command("segment", photo, "--model", CITYSCAPES, "--classes", tmp_path / "names.txt", *SIZE)
    segments = document["results"][0]["segments_info"]
    assert [found["label"] for found in segments].count("kind 10") == 2, "which is a thing here, as all are"
    assert [entry["name"] for entry in document["categories"]] == names


@pytest.mark.usefixtures("stand_ins")
def test_text(capsys: pytest.CaptureFixture[str], photo: Path) -> None:
    arguments = ["segment", str(photo), "--model", CITYSCAPES, *map(str, SIZE)]
    assert main(arguments) == 0
    first, sky, *_ = capsys.readouterr().out.splitlines()
    assert first == str(photo)
    assert sky.startswith("  sky  2")
    assert sky.endswith("score 100.0%")
    assert main([*arguments, "--task", "instance"]) == 0
    assert "  person  " in capsys.readouterr().out


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("upernet_dinat_mini", "--task", "panoptic"),
            "--task is 'panoptic'; upernet_dinat_mini does 'semantic' alone",
        ),
        (("mask2former_dinat_large_coco_instance", "--task", "semantic"), "does 'instance' alone"),
        (("oneformer_dinat_large_coco", "--multi-scale"), "--multi-scale is for UPerNet; --model is oneformer_dinat_"),
    ],
)
def test_what_a_model_cannot_do(command: Command, photo: Path, arguments: tuple[str, ...], said: str) -> None:
    code, document, err = command("segment", photo, "--model", *arguments)
    assert (code, document) == (2, None)
    assert said in err


def test_without_transformers(command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = command("segment", photo, "--model", CITYSCAPES)
    assert code == 1
    assert f"{CITYSCAPES} needs transformers 5 and scipy (pip install 'dinat-zoo[mask2former]')" in err


@pytest.mark.parametrize("module", [mask2former, oneformer])
@pytest.mark.parametrize("task", oneformer.TASKS)
def test_files_of_the_authors(
    command: Command, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, task: str
) -> None:
    """With real models, if small ones, from a file in the published format."""
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("scipy")
    name = CITYSCAPES if module is mask2former else "oneformer_dinat_large_cityscapes"
    heads = {"hidden_dim": 64, "num_queries": 6, "decoder_layers": 3, "encoder_layers": 1, "dim_feedforward": 32}
    more = {"feature_size": 64, "mask_feature_size": 64} if module is mask2former else {"conv_dim": 64, "mask_dim": 64}
    monkeypatch.setattr(module, "create", partial(module.create, heads={**heads, **more}, **BODY))
    torch.manual_seed(0)
    model = module.create(name).eval()
    torch.save({"model": module.from_transformers(model.state_dict())}, tmp_path / "published.pth")
    arguments = ("--model", name, "--task", task, "--threshold", 0, "--checkpoint", tmp_path / "published.pth", *SIZE)
    code, document, err = command("segment", photo, *arguments)
    assert code == 0, err
    [result] = document["results"]
    found, things = queries(photo, model, task), dense.things("cityscapes")
    if task == "semantic":
        wanted = found.semantic().argmax(0)
        assert {entry["index"] for entry in result["classes"]} == set(wanted.unique().tolist())
        assert all(torch.equal(decode(entry["segmentation"]), wanted == entry["index"]) for entry in result["classes"])
    elif task == "instance":
        wanted = found.instances(things)
        assert [entry["score"] for entry in result["detections"]] == pytest.approx(wanted.scores.tolist())
    else:
        assert len(result["segments_info"]) == len(found.panoptic(things).labels)
