from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import dinat_zoo
from dinat_zoo.cli import main
from dinat_zoo.fashion_mnist import LABELS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the default model; untrained ones do for what is tested here."""
    path = tmp_path_factory.mktemp("weights") / "pico.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("dinat_pico").state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, garment: Image.Image) -> Path:
    """Two images, one of them in a subfolder, and two other files."""
    (tmp_path / "wardrobe" / "summer").mkdir(parents=True)
    garment.save(tmp_path / "wardrobe" / "a.png")
    garment.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "wardrobe" / "summer" / "b.bmp")
    (tmp_path / "wardrobe" / "notes.txt").write_text("not an image\n")
    (tmp_path / "wardrobe" / "torn.png").write_bytes((tmp_path / "wardrobe" / "a.png").read_bytes()[:60])
    return tmp_path / "wardrobe"


def classify(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = main(["classify", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_ranked_classes_with_probabilities(
    capsys: pytest.CaptureFixture[str], folder: Path, weights: Path, garment: Image.Image
) -> None:
    code, document, _ = classify(capsys, folder / "a.png", "--checkpoint", weights, "--top-k", 10)
    assert code == 0
    assert document["model"] == "dinat_pico"
    [result] = document["results"]
    assert result["image"] == str(folder / "a.png")
    probabilities = [prediction["probability"] for prediction in result["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert {prediction["label"] for prediction in result["predictions"]} == set(LABELS)
    assert all(LABELS[prediction["index"]] == prediction["label"] for prediction in result["predictions"])

    overlay = {"file": str(weights)}
    model = timm.create_model("dinat_pico", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    pixels = torch.from_numpy(np.array(garment)).view(1, 1, 28, 28)
    with torch.no_grad():
        expected = model((pixels / 255 - model.pretrained_cfg["mean"][0]) / model.pretrained_cfg["std"][0]).softmax(1)
    assert probabilities == pytest.approx(expected[0].sort(descending=True).values.tolist(), rel=1e-4)


def test_text_output(capsys: pytest.CaptureFixture[str], folder: Path, weights: Path) -> None:
    path = (folder / "a.png").rename(folder / ("[bold] :bag: " + "long " * 30 + ".png"))
    assert main(["classify", str(path), "--checkpoint", str(weights), "--top-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    assert len(lines) == 3
    for line in lines[1:]:
        label, percent = line.strip().rsplit(maxsplit=1)
        assert label in LABELS
        assert 0 < float(percent.removesuffix("%")) < 100


def test_folders_are_searched_and_other_files_noted(
    capsys: pytest.CaptureFixture[str], folder: Path, weights: Path
) -> None:
    code, document, err = classify(capsys, folder, "--checkpoint", weights)
    assert code == 0
    assert [result["image"] for result in document["results"]] == [
        str(folder / "a.png"),
        str(folder / "summer" / "b.bmp"),
    ]
    assert all(len(result["predictions"]) == 3 for result in document["results"])
    assert {item["file"] for item in document["skipped"]} == {str(folder / "notes.txt"), str(folder / "torn.png")}
    assert document["errors"] == []
    assert f"note: skipped 2 files in {folder}: notes.txt (not an image), torn.png (cannot be read" in err


@pytest.mark.parametrize(
    ("name", "reason"), [("notes.txt", "not an image"), ("torn.png", "cannot be read as an image")]
)
def test_a_named_file_that_is_no_image_is_an_error_and_the_others_are_classified(
    capsys: pytest.CaptureFixture[str], folder: Path, weights: Path, name: str, reason: str
) -> None:
    code, document, err = classify(capsys, folder / name, folder / "a.png", "--checkpoint", weights)
    assert code == 2
    assert [result["image"] for result in document["results"]] == [str(folder / "a.png")]
    assert document["errors"][0]["file"] == str(folder / name)
    assert f"error: {folder / name}: {reason}" in err


def test_missing_files_and_folders_without_images_are_errors(
    capsys: pytest.CaptureFixture[str], folder: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    missing = folder / "missing.png"
    code, document, err = classify(capsys, missing, tmp_path / "empty", folder / "a.png", "--checkpoint", weights)
    assert code == 2
    assert len(document["results"]) == 1
    assert f"error: {missing}: no such file" in err
    assert f"error: {tmp_path / 'empty'}: no image in this folder" in err


def test_many_images_show_progress_and_long_notes_are_shortened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, garment: Image.Image, weights: Path
) -> None:
    """More than a batch; every image keeps its own result."""
    for i in range(70):
        garment.rotate(90 * (i % 4)).save(tmp_path / f"{i:02}.png")
    for i in range(8):
        (tmp_path / f"{i}.txt").touch()
    code, document, err = classify(capsys, tmp_path, "--checkpoint", weights)
    assert code == 0
    assert "classifying" in err
    assert "78/78" in err
    assert "skipped 8 files" in err
    assert "and 3 more" in err
    assert len(document["results"]) == 70
    for i in range(4, 70):
        expected = document["results"][i % 4]["predictions"]
        actual = document["results"][i]["predictions"]
        assert [p["index"] for p in actual] == [p["index"] for p in expected]
        assert actual[0]["probability"] == pytest.approx(expected[0]["probability"], rel=1e-4)


def test_few_images_show_no_progress(capsys: pytest.CaptureFixture[str], folder: Path, weights: Path) -> None:
    assert "classifying" not in classify(capsys, folder / "a.png", "--checkpoint", weights)[2]


def test_other_models_use_their_own_transform_and_imagenet_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.radial_gradient("L").resize((300, 260)).convert("RGB")
    photo.putpixel((0, 0), (200, 10, 10))
    photo.save(tmp_path / "photo.png")
    model = timm.create_model("nat_mini").eval()
    torch.save({"model": model.state_dict()}, tmp_path / "nat.pth")
    path = tmp_path / "photo.png"
    code, document, _ = classify(capsys, path, "--model", "nat_mini", "--checkpoint", tmp_path / "nat.pth")
    assert code == 0
    config = timm.data.resolve_data_config(model=model)
    with torch.no_grad():
        expected = model(timm.data.create_transform(**config)(photo)[None]).softmax(1)[0].topk(3)
    predictions = document["results"][0]["predictions"]
    assert [prediction["index"] for prediction in predictions] == expected.indices.tolist()
    info = timm.data.ImageNetInfo("imagenet-1k")
    assert [p["label"] for p in predictions] == [info.index_to_description(i) for i in expected.indices.tolist()]


def test_a_checkpoint_with_other_classes_sets_their_number(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    save_file(timm.create_model("dinat_pico", num_classes=4).state_dict(), tmp_path / "four.safetensors")
    arguments = (folder / "a.png", "--checkpoint", tmp_path / "four.safetensors", "--top-k", 9)
    code, document, _ = classify(capsys, *arguments)
    assert code == 0
    labels = {prediction["label"] for prediction in document["results"][0]["predictions"]}
    assert labels == {"class 0", "class 1", "class 2", "class 3"}


def test_errors_about_the_model(
    capsys: pytest.CaptureFixture[str], folder: Path, weights: Path, tmp_path: Path
) -> None:
    def error(*arguments: object) -> str:
        code, document, err = classify(capsys, folder / "a.png", *arguments)
        assert code == 1
        assert document is None
        assert err.startswith("dinat-zoo: error: ")
        assert "Traceback" not in err
        return err

    assert "'nowhere.pth' is not a file" in error("--checkpoint", "nowhere.pth")
    assert "notes.txt" in error("--checkpoint", folder / "notes.txt")
    (tmp_path / "torn.safetensors").write_bytes(weights.read_bytes()[:1000])
    assert "cannot read checkpoint" in error("--checkpoint", tmp_path / "torn.safetensors")
    assert "does not fit 'nat_mini'" in error("--model", "nat_mini", "--checkpoint", weights)


def test_weights_on_the_hub_without_a_network(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, _, err = classify(capsys, folder / "a.png", "--model", "nat_mini")
    assert code == 1
    assert "cannot load the weights of 'nat_mini'" in err
    assert "--checkpoint" in err


@pytest.mark.parametrize(
    "arguments", [["classify"], ["classify", "a.png", "--top-k", "0"], ["classify", "a.png", "--top-k", "two"], []]
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: dinat-zoo" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = {row.pop("model"): row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == set(dinat_zoo.list_models())
    assert rows["dinat_large"] == {
        "parameters": 200943514,
        "macs": 30534035760,
        "input_size": [3, 224, 224],
        "weights": "hub: shi-labs/dinat-large-in22k-in1k-224",
    }
    assert rows["dinat_pico"]["weights"] == "bundled (fashion_mnist)"
    assert rows["dinat_pico"]["input_size"] == [1, 28, 28]
    assert rows["dinat_pico"]["parameters"] <= 800_000

    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "parameters", "macs", "input", "size", "weights"]
    assert len(lines) == len(rows) + 1
    [line] = [line for line in lines if line.startswith("nat_tiny ")]
    assert line.split() == ["nat_tiny", "27.90", "M", "4.321", "G", "3×224×224", "hub:", "shi-labs/nat-tiny-in1k-224"]
