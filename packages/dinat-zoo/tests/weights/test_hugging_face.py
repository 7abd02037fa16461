"""Folders for Hugging Face transformers; that its models give our logits is tests/test_stranded_clients.py's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dinat_zoo import WeightsError, dense, load_checkpoint, save_hugging_face
from dinat_zoo._formats import convert
from dinat_zoo._weights_file import read
from dinat_zoo.cli import main

Make = Callable[..., Any]


def config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.fixture
def nat(original: Make, tmp_path: Path) -> Path:
    """A file of a NAT-Mini with two classes, in half precision, as published."""
    model = timm.create_model("nat_mini", num_classes=2).half()
    torch.save({"state_dict": original(model)}, tmp_path / "nat.pth")
    return tmp_path / "nat.pth"


def test_config_of_a_classifier(small: Make, same: Make, tmp_path: Path) -> None:
    model = small(num_classes=3, layer_scale=0.5, drop_path_rate=0.25)
    written = save_hugging_face(model, tmp_path / "deep" / "folder", ["a", "b", "ü"])
    assert written == tmp_path / "deep" / "folder" / "model.safetensors"
    assert config(written.parent) == {
        "architectures": ["DinatForImageClassification"],
        "model_type": "dinat",
        "num_channels": 3,
        "patch_size": 4,
        "embed_dim": 32,
        "hidden_size": 256,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "kernel_size": 3,
        "mlp_ratio": 2.0,
        "qkv_bias": True,
        "layer_scale_init_value": 0.5,
        "drop_path_rate": 0.25,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "torch_dtype": "float32",
        "dilations": [[2], [1, 2], [1], [1]],
        "id2label": {"0": "a", "1": "b", "2": "ü"},
        "label2id": {"a": 0, "b": 1, "ü": 2},
    }
    preprocessor = json.loads((written.parent / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"shortest_edge": 256}
    assert preprocessor["crop_size"] == {"height": 224, "width": 224}
    for source in (written, written.parent, str(written.parent)):
        other = small(num_classes=3, layer_scale=0.5)
        assert load_checkpoint(other, source) == ([], [])
        same(other, model)


def test_what_it_is_written_as(small: Make, tmp_path: Path) -> None:
    flat = small(dilations=(1, 1, 1, 1), num_classes=2)
    save_hugging_face(flat, tmp_path)
    assert config(tmp_path)["architectures"] == ["NatForImageClassification"]
    assert config(tmp_path)["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert "dilations" not in config(tmp_path)
    save_hugging_face(small(num_classes=0, qkv_bias=False), tmp_path / "body")
    assert config(tmp_path / "body")["architectures"] == ["DinatModel"]
    assert config(tmp_path / "body")["qkv_bias"] is False
    assert not (tmp_path / "body" / "preprocessor_config.json").exists()
    save_hugging_face(dense.Backbone(small(), out_indices=(1, 3)), tmp_path / "backbone")
    assert config(tmp_path / "backbone")["architectures"] == ["DinatBackbone"]
    assert config(tmp_path / "backbone")["out_features"] == ["stage2", "stage4"]
    assert "hidden_states_norms.stage2.weight" in read(tmp_path / "backbone" / "model.safetensors")


def test_what_transformers_has_no_model_of(small: Make, tmp_path: Path) -> None:
    for model, message in (
        (small(kernel_size=(3, 3, 5, 3)), "one kernel size for all levels, and this model has 2"),
        (small(out_norms=True), r"no norms on levels' outputs: make a dense\.Backbone of it"),
        (timm.create_model("dinat_pico"), "tokens of 4x4 pixels"),
        (timm.create_model("dinat_s_tiny", device="meta"), "tokens of 4x4 pixels"),
    ):
        with pytest.raises(WeightsError, match=message):
            save_hugging_face(model, tmp_path / "none")
    with pytest.raises(WeightsError, match="labels has 1 names; the model has 2 classes"):
        save_hugging_face(small(num_classes=2), tmp_path / "none", ["a"])
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot write '.*file'"):
        save_hugging_face(small(), tmp_path / "file")


def test_the_command_writes_a_folder(nat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], same: Make) -> None:
    folder = tmp_path / "out"
    assert main(["convert", str(nat), str(folder), "--to", "hf", "--model", "nat_mini", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert (document["output"], document["tensors"]) == (str(folder), len(read(folder / "model.safetensors")))
    assert config(folder)["torch_dtype"] == "float16"
    assert config(folder)["kernel_size"] == 7
    assert main(["convert", str(folder), str(tmp_path / "back.pth"), "--to", "original"]) == 0
    same(read(tmp_path / "back.pth"), read(nat)["state_dict"])


def test_the_command_writes_a_detectors_backbone(
    nat: Path, original: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = dense.Backbone.create("dinat_mini")
    weights: dict[str, Tensor] = {f"backbone.{k}": v for k, v in convert(body.state_dict(), "original").items()}
    torch.save({"state_dict": weights}, tmp_path / "detector.pth")
    arguments = ["convert", str(tmp_path / "detector.pth"), str(tmp_path / "out"), "--to", "hf", "--model"]
    assert main([*arguments, "maskrcnn_dinat_mini", "--backbone"]) == 0
    assert config(tmp_path / "out")["dilations"][0] == [1, 28, 1]
    assert config(tmp_path / "out")["out_features"] == ["stage1", "stage2", "stage3", "stage4"]
    capsys.readouterr()
    assert main([*arguments, "maskrcnn_dinat_mini"]) == 1
    assert "no heads of dense prediction; take the backbone alone" in capsys.readouterr().err
    assert main([*arguments, "dinat", "--backbone"]) == 2
    assert "config.json has the dilations, which weights do not tell: say --model" in capsys.readouterr().err
    assert main(["convert", str(nat), str(tmp_path / "other"), "--to", "hf", "--model", "nat_small"]) == 1
    assert "does not fit 'nat_small'" in capsys.readouterr().err
