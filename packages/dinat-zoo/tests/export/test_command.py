"""`dinat-zoo export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file

from dinat_zoo.cli import _export, main


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with four classes; the model that it is for is made small, for the sake of time."""
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "dinat_pico", small)
    save_file(timm.create_model("dinat_pico", num_classes=4).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


small_entry = timm.model_entrypoint("dinat_pico")


def small(**arguments: Any) -> Any:
    return small_entry(depths=(1, 1), num_heads=(2, 4), dilations=(2, 1), **arguments)


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = main(["export", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_onnx(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    code, document, _ = export(
        capsys, "dinat_pico", path, "--checkpoint", weights, "--input-size", "33x20", "--dynamic-batch"
    )
    assert code == 0
    assert document["input"] == ["batch", 1, 33, 20]
    assert document["bytes"] == path.stat().st_size
    assert len(document["sha256"]) == 64
    assert 0 < document["difference"] <= 1e-4
    [images], [output] = onnx.load(path).graph.input, onnx.load(path).graph.output
    sides = [[side.dim_value or side.dim_param for side in t.type.tensor_type.shape.dim] for t in (images, output)]
    assert sides == [["batch", 1, 33, 20], ["batch", 4]]


def test_program_in_text(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    assert main(["export", "dinat_pico", str(path), "--checkpoint", str(weights)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: images [1, 1, 28, 28], ")
    assert torch.export.load(path).module()(torch.zeros(1, 1, 28, 28)).shape == (1, 4)


def test_unchecked(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    arguments = ("dinat_pico", path, "--checkpoint", weights)
    assert export(capsys, *arguments, "--no-check")[1]["difference"] is None


def test_a_difference_is_an_error(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for difference in (0.5, float("nan")):
        monkeypatch.setattr(_export, "check", lambda *_, difference=difference, **__: difference)
        code, document, err = export(capsys, "dinat_pico", tmp_path / "model.pt2", "--checkpoint", weights)
        assert (code, document) == (1, None)
        assert f"differs from the model by {difference:.1e} of its largest output" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("dinat_pico", "model.txt"), 2, "names no format; known are .onnx, .pt2"),
        (("dinat_pico", "nowhere/model.pt2"), 2, "there is no folder 'nowhere'"),
        (("dinat_pico", "model.pt2", "--checkpoint", "nowhere.pth"), 1, "'nowhere.pth' is not a file"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, document, err = export(capsys, *arguments)
    assert (found, document) == (code, None)
    assert err.startswith("dinat-zoo: error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_any_size(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    arguments = ("dinat_pico", tmp_path / "model.pt2", "--checkpoint", weights, "--dynamic-size", "--dynamic-batch")
    code, document, _ = export(capsys, *arguments)
    assert code == 0
    assert document["input"] == ["batch", 1, "height", "width"]
    assert document["sides"] == {"step": 4, "least": 12}
    assert document["difference"] <= 1e-6
    with pytest.raises(SystemExit):
        export(capsys, *arguments, "--input-size", "28")
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "12x", "a", "1x2x3"])
def test_bad_sizes(capsys: pytest.CaptureFixture[str], size: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["export", "dinat_pico", "model.onnx", "--input-size", size])
    assert exit_.value.code == 2
    assert "is not a side, such as 224, or height and width" in capsys.readouterr().err
