"""ONNX files: standard operators alone, and onnxruntime's numbers are the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from dinat_zoo import dense, export

TOLERANCE = 1e-4


def run(path: Path, images: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def standard(path: Path) -> bool:
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    return {node.domain for node in file.graph.node} <= {"", "ai.onnx"} and not file.functions


def test_every_family_for_any_batch(name: str, create: Any, images: Any, size: Any, tmp_path: Path) -> None:
    model, path = create(name), tmp_path / "model.onnx"
    export.to_onnx(model, path, size, dynamic_batch=True)
    assert standard(path)
    for batch in (1, 3):
        with torch.no_grad():
            expected = model(images(model, batch))
        same(run(path, images(model, batch)), [expected])
    assert export.check(model, path, size, dynamic_batch=True) <= TOLERANCE


def test_feature_maps(create: Any, images: Any, size: Any, tmp_path: Path) -> None:
    model, path = create("dinat_mini", features_only=True, out_norms=True), tmp_path / "features.onnx"
    export.to_onnx(model, path, size)
    assert [output.name for output in onnx.load(path).graph.output] == ["output_0", "output_1", "output_2"]
    with torch.no_grad():
        same(run(path, images(model, 1)), model(images(model, 1)))


def test_a_segmenter(images: Any, size: Any, tmp_path: Path) -> None:
    small: dict[str, Any] = {"embed_dim": 16, "depths": (1,) * 4, "num_heads": (1, 2, 4, 8), "dilations": (2, 1, 1, 1)}
    model = dense.Segmenter(dense.Backbone.create("dinat_mini", **small, kernel_size=3), 5, 16, 8).eval()
    path = tmp_path / "segmenter.onnx"
    export.to_onnx(model, path, size)
    with torch.no_grad():
        same(run(path, images(model, 1)), [model(images(model, 1))])


def test_another_model_is_found_out(create: Any, size: Any, tmp_path: Path) -> None:
    model, path = create("dinat_isotropic_small"), tmp_path / "model.onnx"
    export.to_onnx(model, path, size)
    torch.nn.init.normal_(model.levels[0].attn.rpb)
    assert export.check(model, path, size) > TOLERANCE
    model.reset_classifier(4)
    with pytest.raises(
        export.ExportError, match=r"gives outputs of shapes \[\[1, 10\]\]; the model gives \[\[1, 4\]\]"
    ):
        export.check(model, path, size)
