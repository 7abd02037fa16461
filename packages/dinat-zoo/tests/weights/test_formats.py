from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinat_zoo import WeightsError
from dinat_zoo._formats import convert, family_of, format_of

HERE = Path(__file__).parent
PUBLISHED = json.loads((HERE.parent / "data" / "models-keys.json").read_text())
# Names and shapes of Dinat and Nat as transformers 4.53.3 builds them, with few blocks.
HUGGING_FACE = json.loads((HERE / "data" / "hf-keys.json").read_text())


def fill(keys: dict[str, list[int]], most: int = 1 << 30) -> dict[str, Tensor]:
    """A different tensor under each name; sides cut to `most`, as names are what matters, but for those of biases."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn([side if key.endswith("rpb") else min(side, most) for side in shape], generator=generator)
        for key, shape in keys.items()
    }


def swin_positions(side: int) -> Tensor:
    """Swin's relative position index, with both axes of the matrix reversed, as the authors' ViT has it."""
    coords = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]) + side - 1
    return (relative[0] * (2 * side - 1) + relative[1]).flip(0, 1)


def published(name: str) -> dict[str, Tensor]:
    weights = fill(PUBLISHED[name], most=6)
    if name.startswith("vitrpb"):
        positions = swin_positions(14)
        weights |= {f"layers.{i}.attn.relative_position_index": positions for i in range(12)}
    return weights


def dense(name: str) -> dict[str, Tensor]:
    weights = {f"backbone.{k}": v for k, v in published(name).items() if not k.startswith(("norm.", "head."))}
    for i in range(4):
        weights |= fill({f"backbone.norm{i}.weight": [6], f"backbone.norm{i}.bias": [6]})
    return weights | fill({"neck.fpn_convs.0.conv.weight": [2, 2, 3, 3], "decode_head.conv_seg.bias": [150]})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("nat_mini", "nat"),
        ("dinat_s_tiny", "dinat_s"),
        ("dinat_isotropic_small", "isotropic"),
        ("vitrpb_small", "isotropic"),
    ],
)
def test_published_to_timm_and_back(name: str, family: str, same: Callable[..., None]) -> None:
    weights = published(name)
    assert (format_of(weights), family_of(weights)) == ("original", family)
    timm = convert(weights, "timm")
    assert (format_of(timm), family_of(timm)) == ("timm", family)
    assert not timm.keys() & {"head.weight", "levels.0.downsample.norm.weight"}
    assert not any(key.startswith("layers.") for key in timm)
    same(convert(timm, "original"), weights)
    same(convert(timm, "timm"), timm)
    same(convert(weights, "original"), weights)


@pytest.mark.parametrize("name", ["dinat_mini", "dinat_s_tiny"])
def test_dense_prediction_to_timm_and_back(name: str, same: Callable[..., None]) -> None:
    weights = dense(name)
    timm = convert(weights, "timm")
    assert "backbone.levels.1.downsample.norm.weight" in timm
    assert "neck.fpn_convs.0.conv.weight" in timm
    same(convert(timm, "original"), weights)
    with pytest.raises(WeightsError, match="no heads of dense prediction"):
        convert(weights, "hf", "dinat")


@pytest.mark.parametrize("name", ["dinat_mini", "dinat_s_tiny"])
def test_backbones_to_timm_and_back(name: str, same: Callable[..., None]) -> None:
    weights = {key.removeprefix("backbone."): value for key, value in dense(name).items() if key[0] == "b"}
    timm = convert(weights, "timm")
    assert "out_norms.3.bias" in timm
    assert "norm3.bias" not in timm
    same(convert(timm, "original"), weights)


@pytest.mark.parametrize(("name", "prefix"), [("dinat", "dinat"), ("nat", "nat"), ("dinat_backbone", "dinat")])
@pytest.mark.parametrize("via", ["original", "timm"])
def test_hugging_face_and_back(name: str, prefix: str, via: str, same: Callable[..., None]) -> None:
    weights = fill(HUGGING_FACE[name])
    assert format_of(weights) == "hf"
    converted = convert(weights, via)
    assert format_of(converted) == via
    same(convert(converted, "hf", prefix), weights)
    same(convert(weights, "hf"), weights)


def test_hugging_face_joins_the_projections_in_order() -> None:
    weights = fill(HUGGING_FACE["dinat"])
    converted = convert(weights, "original")
    theirs, ours = "dinat.encoder.levels.1.layers.1.attention.self", "levels.1.blocks.1"
    parts = [weights[f"{theirs}.{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(converted[f"{ours}.attn.qkv.weight"], torch.cat(parts))
    scales = weights["dinat.encoder.levels.1.layers.1.layer_scale_parameters"]
    assert torch.equal(converted[f"{ours}.gamma1"], scales[0])
    assert torch.equal(converted[f"{ours}.gamma2"], scales[1])


@pytest.mark.parametrize("name", ["nat_mini", "dinat_mini"])
def test_published_to_hugging_face_and_back(name: str, same: Callable[..., None]) -> None:
    weights = published(name)
    prefix = name.split("_")[0]
    converted = convert(weights, "hf", prefix)
    assert all(key.startswith((f"{prefix}.", "classifier.")) for key in converted)
    same(convert(converted, "original"), weights)


def test_what_hugging_face_cannot_hold() -> None:
    with pytest.raises(WeightsError, match="neither DiNATs nor the isotropic"):
        convert(published("dinat_s_tiny"), "hf", "dinat")
    with pytest.raises(WeightsError, match="say 'nat' or 'dinat'"):
        convert(published("dinat_mini"), "hf")


def test_errors() -> None:
    with pytest.raises(WeightsError, match=r"no weights of NAT or DiNAT: parameters are named fc\.weight, \.\.\."):
        convert({"fc.weight": torch.ones(1)}, "timm")
    inside = {f"model.pixel_level_module.encoder.{key}": x for key, x in fill(HUGGING_FACE["dinat_backbone"]).items()}
    with pytest.raises(WeightsError, match=r"Mask2Former or OneFormer under transformers' names"):
        convert(inside, "timm")
    weights = fill(HUGGING_FACE["nat"])
    del weights["nat.encoder.levels.0.layers.0.attention.self.key.bias"]
    with pytest.raises(WeightsError, match=r"'levels\.0\.blocks\.0\.attn\.key\.bias' is missing"):
        convert(weights, "timm")


def as_model(name: str, small: Callable[..., Any]) -> Any:
    scale, ratio = (1e-5, 2) if name == "dinat" else (None, 3)
    return small("dinat_mini" if "dinat" in name else "nat_mini", num_classes=5, layer_scale=scale, mlp_ratio=ratio)


@pytest.mark.parametrize("name", ["dinat", "nat"])
def test_shapes_fit_the_models(name: str, small: Callable[..., Any]) -> None:
    model = as_model(name, small)
    model.load_state_dict(convert(fill(HUGGING_FACE[name]), "timm"))
