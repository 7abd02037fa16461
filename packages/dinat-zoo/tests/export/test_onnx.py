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


def test_images_of_any_size_and_number(create: Any, tmp_path: Path) -> None:
    """Of whole tokens, and at least as large as a window: of others onnxruntime says an error, not something wrong."""
    model, path = create("dinat_isotropic_small", depth=1, dilations=((2,),)), tmp_path / "model.onnx"
    step, least = export.size_rule(model)
    assert (step, least) == (16, 16 * 3 * 2)
    export.to_onnx(model, path, dynamic_batch=True, dynamic_size=True)
    assert standard(path)
    [images] = onnx.load(path).graph.input
    assert [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert export.check(model, path, dynamic_batch=True, dynamic_size=True) <= TOLERANCE
    for batch, height, width in ((1, 96, 96), (2, 112, 208), (5, 256, 96)):
        pictures = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            same(run(path, pictures), [model(pictures)])
    for height, width in ((97, 96), (96, 111), (80, 96), (96, 80), (16, 160)):
        with pytest.raises(export.ExportError, match=rf"cannot run .* on images of shape \[1, 3, {height}, {width}\]"):
            export.check(model, path, (height, width))


def test_what_cannot_be_of_any_size(create: Any, tmp_path: Path) -> None:
    with pytest.raises(export.ExportError, match=r"levels\.0 attends to the whole map and has biases for one size"):
        export.to_onnx(create("vitrpb_small"), tmp_path / "model.onnx", dynamic_size=True)
    with pytest.raises(export.ExportError, match="input_size is 224; with dynamic_size there is none to give"):
        export.to_program(create("dinat_mini"), 224, dynamic_size=True)


def test_files_that_onnxruntime_refuses(create: Any, tmp_path: Path) -> None:
    model, path = create("dinat_isotropic_small", depth=1, dilations=None), tmp_path / "model.onnx"
    with pytest.raises(export.ExportError, match=r"onnxruntime cannot load '.*model\.onnx'"):
        export.check(model, path, 48)
    path.write_bytes(b"no model")
    with pytest.raises(export.ExportError, match=r"onnxruntime cannot load '.*model\.onnx'"):
        export.check(model, path, 48)
    model = model.bfloat16()
    export.to_onnx(model, path, 48)
    with pytest.raises(export.ExportError, match=r"on a CPU it takes float32 and float16 models: .*bfloat16"):
        export.check(model, path, 48)
    with pytest.raises(export.ExportError, match=r"torch cannot load '.*missing\.pt2'"):
        export.check(model, tmp_path / "missing.pt2", 48)
