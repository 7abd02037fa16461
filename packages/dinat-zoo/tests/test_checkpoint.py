from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinat_zoo

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "kernel_size": 3,
    "dilations": ((2,), (1, 2), (1,), (1,)),
}


def small(name: str, **arguments: Any) -> dinat_zoo.NeighborhoodTransformer:
    return timm.create_model(name, **{**SMALL, **arguments}).eval()


def trained(name: str) -> dinat_zoo.NeighborhoodTransformer:
    """A small model no two parameters of which are alike."""
    model = small(name)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def published(model: torch.nn.Module) -> dict[str, Tensor]:
    """Our keys in the authors' format."""
    weights = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^levels\.(\d+)\.downsample", lambda m: f"levels.{int(m[1]) - 1}.downsample", key)
        weights[key.replace("head.fc.", "head.")] = value
    return weights


def hugging_face(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The authors' format in that of the Hugging Face library, read off its Dinat and Nat models' keys."""
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        key = key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        key = key.replace("patch_embed.norm", "embeddings.norm").replace(".blocks.", ".layers.")
        key = re.sub(r"^levels", "encoder.levels", key)
        key = key.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        key = key.replace("attn.rpb", "attention.self.rpb").replace("attn.proj", "attention.output.dense")
        key = re.sub(r"^norm\.", "layernorm.", key)
        if key.startswith("head"):
            renamed[key.replace("head", "classifier")] = value
        elif "attn.qkv" in key:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{prefix}.{key.replace('attn.qkv', f'attention.self.{part}')}"] = rows
        elif key.endswith("gamma1"):
            other = weights[key.removeprefix("encoder.").replace(".layers.", ".blocks.").replace("gamma1", "gamma2")]
            renamed[f"{prefix}.{key.replace('gamma1', 'layer_scale_parameters')}"] = torch.stack([value, other])
        elif not key.endswith("gamma2"):
            renamed[f"{prefix}.{key}"] = value
    return renamed


def assert_loaded(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    actual = model.state_dict()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(actual[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"state_dict": w, "epoch": 3}])
@pytest.mark.parametrize("name", ["dinat_mini", "nat_small"])
def test_published_format(name: str, wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    source = trained(name)
    torch.save(wrap(published(source)), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    assert_loaded(small(name, pretrained=True, pretrained_cfg_overlay=overlay), source)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dinat_s_tiny", SMALL),
        ("dinat_isotropic_small", {"embed_dim": 32, "depth": 2, "num_heads": 1}),
        ("vitrpb_small", {"embed_dim": 32, "depth": 2, "num_heads": 1, "img_size": 64}),
    ],
)
def test_published_format_of_layers(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """DiNATs and the isotropic models have `layers` for `levels`; the ViT a table of indices in each."""
    source = timm.create_model(name, **arguments)
    weights = {re.sub(r"^levels", "layers", key): value for key, value in published(source).items()}
    if name == "vitrpb_small":
        weights["layers.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    torch.save(weights, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    assert_loaded(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments), source)


@pytest.mark.parametrize(("name", "prefix"), [("dinat_mini", "dinat"), ("nat_small", "nat"), ("dinat_base", "dinat")])
def test_hugging_face_format(name: str, prefix: str, tmp_path: Path) -> None:
    source = trained(name)
    weights = hugging_face(published(source), prefix)
    assert not weights.keys() & source.state_dict().keys()
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    assert_loaded(small(name, pretrained=True, pretrained_cfg_overlay=overlay), source)


@pytest.mark.parametrize("name", ["dinat_mini", "nat_small", "dinat_pico"])
def test_own_format_round_trip(name: str, tmp_path: Path) -> None:
    arguments = {} if name == "dinat_pico" else SMALL
    source = timm.create_model(name, **arguments)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors")}
    assert_loaded(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments), source)


def test_filter_unwraps_and_strips_ddp_prefixes_by_itself() -> None:
    source = trained("dinat_mini")
    wrapped = {"model": {f"module.{key}": value for key, value in published(source).items()}}
    filtered = dinat_zoo.checkpoint_filter_fn(wrapped, source)
    assert filtered.keys() == source.state_dict().keys()


def test_strict_once_filtered(tmp_path: Path) -> None:
    weights = published(trained("dinat_mini"))
    del weights["levels.2.blocks.0.attn.rpb"]
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(RuntimeError, match=r"Missing key.*levels\.2\.blocks\.0\.attn\.rpb"):
        small("dinat_mini", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")})


@pytest.mark.parametrize("num_classes", [0, 5])
def test_other_number_of_classes_gets_a_fresh_head(num_classes: int, tmp_path: Path) -> None:
    source = trained("dinat_mini")
    torch.save(published(source), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = small("dinat_mini", pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay)
    source.reset_classifier(0)
    assert_loaded(model, source)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, num_classes or model.num_features)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_number_of_channels_adapts_the_first_convolution(in_chans: int, tmp_path: Path) -> None:
    source = trained("dinat_mini")
    torch.save(published(source), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = small("dinat_mini", pretrained=True, in_chans=in_chans, pretrained_cfg_overlay=overlay)
    weight, expected = model.patch_embed.proj[0].weight, source.patch_embed.proj[0].weight
    if in_chans == 1:
        torch.testing.assert_close(weight, expected.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(weight, torch.cat([expected, expected[:, :1]], 1) * 3 / 4)


def test_features_only_takes_pretrained_weights(tmp_path: Path) -> None:
    source = trained("dinat_mini")
    torch.save(published(source), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    features = small("dinat_mini", pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        expected = source.forward_intermediates(image, intermediates_only=True)
        for actual, wanted in zip(features(image), expected, strict=True):
            torch.testing.assert_close(actual, wanted)
