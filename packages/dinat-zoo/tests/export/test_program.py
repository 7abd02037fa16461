"""torch.export: with the operators of natten-core or without any; saved and loaded; and what cannot be exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dinat_zoo import dense, export


def ours(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "natten_core" in str(node.target)]


def test_operators_are_kept(name: str, create: Any, images: Any, size: Any) -> None:
    model = create(name)
    program = export.to_program(model, size, dynamic_batch=True)
    assert len(ours(program)) == sum(name.endswith("attn") for name, _ in model.named_modules()) * (
        name != "vitrpb_small"
    )
    for batch in (1, 5):
        torch.testing.assert_close(program.module()(images(model, batch)), model(images(model, batch)))


def test_saved_it_runs_without_this_package_or_natten_core(create: Any, images: Any, size: Any, tmp_path: Path) -> None:
    model = create("dinat_mini")
    program = export.to_program(model, size, decompose=True)
    assert not ours(program)
    torch.export.save(program, tmp_path / "model.pt2")
    torch.save(images(model, 1), tmp_path / "images.pt")
    load = "torch.export.load('model.pt2').module()(torch.load('images.pt'))"
    script = f"import sys, torch; torch.save({load}, 'output.pt'); assert 'natten_core' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), model(images(model, 1)))


def test_a_saved_program_is_checked(create: Any, size: Any, tmp_path: Path) -> None:
    model, path = create("dinat_pico"), tmp_path / "model.pt2"
    torch.export.save(export.to_program(model, dynamic_batch=True), path)
    assert export.check(model, path, dynamic_batch=True) <= 1e-6


@pytest.mark.parametrize("family", ["dinat_mini", "dinat_isotropic_small"])
def test_images_of_any_size(family: str, create: Any) -> None:
    model = create(family)
    step, least = export.size_rule(model)
    assert least == {"dinat_mini": 8 * 3 * 3 + 8, "dinat_isotropic_small": 16 * 3 * 2}[family]
    program = export.to_program(model, dynamic_batch=True, dynamic_size=True)
    assert ours(program)
    for shape in ((1, 3, least, least), (3, 3, least + 3 * step, least + step)):
        images = torch.randn(shape)
        torch.testing.assert_close(program.module()(images), model(images))
    with pytest.raises(Exception, match=r"Guard failed|Expected input"):
        program.module()(torch.randn(1, 3, least - step, least))


def test_a_backbone_needs_a_size() -> None:
    small: dict[str, Any] = {"embed_dim": 16, "depths": (1,) * 4, "num_heads": (1, 2, 4, 8), "kernel_size": 3}
    backbone = dense.Backbone.create("nat_mini", **small).eval()
    with pytest.raises(export.ExportError, match="Backbone has no configured input size: give input_size"):
        export.to_program(backbone)
    assert len(export.to_program(backbone, 64).graph_signature.user_outputs) == 4


def test_what_cannot_be_exported(create: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create("vitrpb_small")
    with pytest.raises(export.ExportError, match=r"\[1, 3, 96, 96\]: the map is 6x6, the bias is for 4x3"):
        export.to_program(model, 96)
    with pytest.raises(export.ExportError, match=r"training mode: call its eval\(\) first"):
        export.to_program(nn.Sequential(model))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(export.ExportError, match=r"needs onnxscript: pip install 'dinat-zoo\[export\]'"):
        export.to_onnx(model, tmp_path / "model.onnx", (61, 45))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(export.ExportError, match="running ONNX files needs onnxruntime"):
        export.check(model, tmp_path / "model.onnx", (61, 45))
