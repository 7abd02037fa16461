from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinat_zoo._weights_file import read
from dinat_zoo.cli import main
from dinat_zoo.dense import oneformer


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """As published of a little NAT: two levels, layer scales, a norm and a head."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.0.weight": (2, 3, 3, 3), "patch_embed.norm.bias": (4,)}
    for level, dim in enumerate((4, 8)):
        block = f"levels.{level}.blocks.0."
        shapes |= {f"{block}norm1.weight": (dim,), f"{block}attn.rpb": (1, 5, 5), f"{block}gamma1": (dim,)}
        shapes |= {f"{block}attn.qkv.weight": (3 * dim, dim), f"{block}attn.qkv.bias": (3 * dim,)}
        shapes |= {f"{block}attn.proj.bias": (dim,), f"{block}mlp.fc1.bias": (2 * dim,), f"{block}gamma2": (dim,)}
    shapes |= {"levels.0.downsample.reduction.weight": (8, 4, 3, 3), "norm.weight": (8,), "head.bias": (5,)}
    return {key: torch.randn(shape, generator=generator).half() for key, shape in shapes.items()}


def convert(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code = main(["convert", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    document: dict[str, Any] = json.loads(out)
    return document


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_round_trip_through_every_format(
    suffix: str,
    weights: dict[str, Tensor],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    same: Callable[..., None],
) -> None:
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    steps = [tmp_path / "published.pth", *(tmp_path / f"{i}{suffix}" for i in range(4))]
    for source, output, to in zip(steps, steps[1:], ["hf", "timm", "hf", "original"], strict=False):
        document = convert(capsys, source, output, "--to", to, "--model", "nat_mini")
        assert document["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
        assert document == {
            "input": str(source),
            "output": str(output),
            "from": document["from"],
            "to": to,
            "dense": False,
            "tensors": len(read(output)),
            "parameters": sum(value.numel() for value in weights.values()),
            "sha256": document["sha256"],
        }
    assert "nat.encoder.levels.1.layers.0.attention.self.query.weight" in read(steps[1])
    assert "levels.1.downsample.reduction.weight" in read(steps[2])
    same(read(steps[3]), read(steps[1]))
    same(read(steps[4]), weights)


def test_text_output_and_defaults(
    weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.pth")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'a.pth'}: {len(weights)} tensors, original to timm, sha256 ")
    assert "head.fc.bias" in read(tmp_path / "a.pth")


def test_the_name_of_a_published_checkpoint_tells_nat_from_dinat(
    weights: dict[str, Tensor],
    server: Any,
    saved: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server.files["/projects/nat/checkpoints/CLS/nat_base.pth"] = saved(weights)
    monkeypatch.setenv("DINAT_ZOO_MIRROR", server.url)
    assert main(["convert", "nat_base", str(tmp_path / "a.bin"), "--to", "hf"]) == 0
    assert any(key.startswith("nat.encoder.") for key in read(tmp_path / "a.bin"))
    assert "nat_base.pth" in capsys.readouterr().err  # the progress of the download


def test_the_backbone_of_a_detector(
    weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path, same: Callable[..., None]
) -> None:
    body = {key: value for key, value in weights.items() if not key.startswith(("norm.", "head."))}
    body |= {"norm0.weight": torch.ones(4), "norm1.weight": torch.ones(8)}
    detector = {**{f"backbone.{key}": value for key, value in body.items()}, "neck.bias": torch.ones(2)}
    torch.save({"state_dict": detector}, tmp_path / "detector.pth")
    assert convert(capsys, tmp_path / "detector.pth", tmp_path / "timm.pth")["dense"]
    convert(capsys, tmp_path / "timm.pth", tmp_path / "back.pth", "--to", "original")
    same(read(tmp_path / "back.pth"), detector)

    arguments = ("--to", "hf", "--model", "dinat", "--backbone")
    assert not convert(capsys, tmp_path / "detector.pth", tmp_path / "hf.pth", *arguments)["dense"]
    assert "hidden_states_norms.stage2.weight" in read(tmp_path / "hf.pth")
    convert(capsys, tmp_path / "hf.pth", tmp_path / "body.pth", "--to", "original")
    same(read(tmp_path / "body.pth"), body)


def test_a_oneformer_of_the_hub(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, same: Callable[..., None]
) -> None:
    shapes = json.loads((data / "oneformer-hf-keys.json").read_text())
    hub = {key: torch.randn(shape) for key, shape in shapes.items()}
    torch.save(hub, tmp_path / "hub.bin")
    document = convert(capsys, tmp_path / "hub.bin", tmp_path / "authors.pth", "--to", "original")
    assert document["dense"]
    assert document["parameters"] == sum(value.numel() for value in hub.values())
    authors = read(tmp_path / "authors.pth")
    assert authors["sem_seg_head.predictor.class_input_proj.bias"].shape == (64,)
    assert authors["backbone.levels.2.downsample.reduction.weight"].shape == (128, 64, 3, 3)
    same(oneformer.to_transformers(authors), oneformer.to_transformers(hub))
    convert(capsys, tmp_path / "hub.bin", tmp_path / "timm.pth")
    convert(capsys, tmp_path / "timm.pth", tmp_path / "back.pth", "--to", "original")
    same(read(tmp_path / "back.pth"), authors)
    convert(capsys, tmp_path / "hub.bin", tmp_path / "body.pth", "--to", "hf", "--model", "dinat", "--backbone")
    inside = "model.pixel_level_module.encoder."
    same(read(tmp_path / "body.pth"), {k.removeprefix(inside): v for k, v in hub.items() if k.startswith(inside)})


def test_errors(weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, output = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(weights, source)

    def error(code: int, *arguments: object) -> str:
        assert main(["convert", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("dinat-zoo: error: ")
        assert err.count("\n") == 1
        assert list(tmp_path.glob("b*")) == []
        return err

    assert "say 'nat' or 'dinat'" in error(1, source, output, "--to", "hf")
    assert "'nowhere.pth' is not a file" in error(1, "nowhere.pth", output)
    assert "cannot write" in error(2, source, tmp_path / "no" / "b.pth")
    assert "names no format" in error(2, source, tmp_path / "b.txt")
    assert "--model is 'swin'" in error(2, source, output, "--model", "swin")
    assert "Near it: nat_mini" in error(2, source, output, "--model", "nat_mimi")
    source.write_bytes(source.read_bytes()[:-100])
    assert "cut off" in error(1, source, output)
    torch.save({"fc.weight": torch.ones(1)}, source)
    assert "no weights of NAT or DiNAT" in error(1, source, output)
    with pytest.raises(SystemExit) as exit_:
        main(["convert", str(source), str(output), "--to", "onnx"])
    assert exit_.value.code == 2
