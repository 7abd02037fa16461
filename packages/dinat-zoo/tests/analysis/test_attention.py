from __future__ import annotations

import csv
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import dinat_zoo
from dinat_zoo.analysis import attention_layers, attention_rollout, attention_span, attention_weights, mean_distance
from dinat_zoo.cli import main

PHOTOGRAPH = Path(__file__).parents[4] / "examples" / "photo-sneaker-00009.jpg"


@pytest.mark.parametrize("query", [(16, 15), (0, 0), (31, 3), (20, 29)])
def test_span_is_the_definition(query: tuple[int, int]) -> None:
    """Eq. 5: the nearest k tokens of an axis whose index is the query's modulo the dilation."""
    size = (32, 30)
    for dilation, keys in attention_span(size, query, 7, [1, 2, 3, 4]).items():
        for axis, (place, length) in enumerate(zip(query, size, strict=True)):
            group = [token for token in range(length) if token % dilation == place % dilation]
            nearest = sorted(group, key=lambda token: abs(token - place))[:7]
            assert keys.any(1 - axis).nonzero()[0].tolist() == sorted(nearest)
        assert keys.sum() == 49


def own_attention(model: nn.Module, layer: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """Values `[height, width, heads, head_dim]`, and the output `[tokens, heads, head_dim]` before the projection."""
    attn: Any = model.get_submodule(layer).attn
    found: dict[str, Tensor] = {}
    hooks = [
        attn.qkv.register_forward_hook(lambda module, inputs, output: found.update(qkv=output)),
        attn.proj.register_forward_pre_hook(lambda module, inputs: found.update(attended=inputs[0])),
    ]
    with torch.no_grad():
        model(image[None])
    for hook in hooks:
        hook.remove()
    value = found["qkv"].unflatten(-1, (3, attn.num_heads, -1))[0, ..., 2, :, :]
    return value, found["attended"].reshape(-1, attn.num_heads, value.shape[-1])


MODELS = {
    "dilated": lambda: dinat_zoo.NeighborhoodTransformer(
        num_classes=3, embed_dim=8, depths=(2, 1), num_heads=(2, 4), kernel_size=3, dilations=(3, 1)
    ),
    "padded": lambda: dinat_zoo.NeighborhoodTransformer(  # 5 * 3 is more than the map's 12 and 14
        num_classes=3, embed_dim=8, depths=(2, 1), num_heads=(2, 4), kernel_size=5, dilations=(3, 1)
    ),
    "self attention": lambda: dinat_zoo.IsotropicTransformer(
        num_classes=3,
        img_size=(48, 56),
        patch_size=4,
        embed_dim=8,
        depth=2,
        num_heads=2,
        kernel_size=3,
        layer_order="na-sa",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_weights_times_values_are_the_layers_own_output(kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = torch.randn(3, 48, 56, dtype=torch.float64)
    for layer in attention_layers(model):
        value, attended = own_attention(model, layer, image)
        height, width = attention_weights(model, image, layer=layer).map_size
        places = itertools.product((0, height // 2, height - 1), (0, width // 2, width - 1))
        for y, x in places:
            weights = attention_weights(model, image, ((y + 0.5) / height, (x + 0.5) / width), layer)
            assert weights.query == (y, x)
            torch.testing.assert_close(weights.values.sum((1, 2)), torch.ones(len(weights.values)).double())
            output = torch.einsum("hyx,yxhd->hd", weights.values, value)
            torch.testing.assert_close(output, attended[y * width + x], rtol=1e-10, atol=1e-12)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def matrix(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """The attention of every token to every token of a block's map, heads averaged, from `attention_weights`."""
    height, width = attention_weights(model, image, layer=layer).map_size
    places = itertools.product(range(height), range(width))
    weights = [attention_weights(model, image, ((y + 0.5) / height, (x + 0.5) / width), layer) for y, x in places]
    return torch.stack([one.values.mean(0)[:height, :width].flatten() for one in weights])


@pytest.mark.parametrize("kind", MODELS)
def test_rollout_is_the_product_of_the_layers_matrices(kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = torch.randn(3, 48, 56, dtype=torch.float64)
    whole, size = torch.eye(12 * 14).double(), (12, 14)
    found = attention_rollout(model, image, (0.3, 0.9), attention_layers(model))
    assert list(found) == attention_layers(model)
    for layer in attention_layers(model):
        attention = matrix(model, image, layer)
        if len(attention) < len(whole):  # a 3x3 convolution of stride 2 came before: the mean of what lies in the map
            mean = torch.ones(1, 1, 3, 3).double()
            maps = whole.T.reshape(-1, 1, *size)
            counts = nn.functional.conv2d(torch.ones_like(maps), mean, stride=2, padding=1)
            maps = nn.functional.conv2d(maps, mean, stride=2, padding=1) / counts
            whole, size = maps.flatten(1).T, (6, 7)
        whole = (whole + attention @ whole) / 2
        token = int(0.3 * size[0]) * size[1] + int(0.9 * size[1])
        torch.testing.assert_close(found[layer].flatten(), whole[token], rtol=1e-10, atol=1e-12)
        assert found[layer].sum() <= 1 + 1e-12
    if kind != "padded":
        assert found[layer].sum() == pytest.approx(1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_mean_distance() -> None:
    model = MODELS["dilated"]().eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    weights = attention_weights(model, torch.zeros(3, 48, 56), (0.5, 0.5), "levels.0.blocks.1")
    expected = np.mean([np.hypot(3 * y, 3 * x) for y in (-1, 0, 1) for x in (-1, 0, 1)])  # equal weights, dilation 3
    np.testing.assert_allclose(mean_distance(weights), expected, rtol=1e-6)


@pytest.fixture
def photograph() -> Path:
    """A real one, 512x600 and in colours, which matplotlib brings for its examples."""
    cbook = pytest.importorskip("matplotlib.cbook")
    path = Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    with Image.open(path) as image:
        assert (image.size, image.mode) == ((512, 600), "RGB")
    return path


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """Weights of `dinat_mini`; untrained ones look around as well."""
    torch.manual_seed(0)
    torch.save(timm.create_model("dinat_mini").state_dict(), tmp_path / "mini.pth")
    return tmp_path / "mini.pth"


def test_overlay_on_a_photograph(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photograph: Path, mini: Path
) -> None:
    plots = [tmp_path / f"{name}.png" for name in ("attention", "rollout")]
    arguments = [str(photograph), "--model", "dinat_mini", "--checkpoint", str(mini), "--position", "0.4", "0.6"]
    layer = "levels.1.blocks.1"
    assert main(["analyse", "attention", *arguments, "--layer", layer, "--plot", str(plots[0]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["head"], row["map_size"], row["query"]) for row in rows] == [(i, [28, 28], [11, 16]) for i in range(4)]
    assert all(0 < row["weight"] <= 1 and row["mean_distance"] > 0 for row in rows)

    assert main(["analyse", "rollout", *arguments, "--plot", str(plots[1]), "--format", "csv"]) == 0
    layers = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(layers) == 3 + 4 + 6 + 5
    assert {row["map_size"] for row in layers} == {"56x56"}
    distances = [float(row["mean_distance"]) for row in layers]
    assert distances[1] > 3 * distances[0]  # dilation 8
    assert distances[-1] == max(distances)
    shares = [float(row["share"]) for row in layers]
    assert 0 < shares[0] < 0.02 < shares[-1] <= 0.9

    for plot in plots:
        with Image.open(plot) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=float)
        drawn = pixels.reshape(-1, 3)[(pixels.reshape(-1, 3) < 250).any(1)]  # all but the white between the panels
        assert drawn.std() > 40
        assert np.ptp(drawn.mean(0)) > 5  # in colours


def test_span_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "span.svg"
    command = ["analyse", "span", "--map", "12", "20", "--query", "0", "10", "--kernel-size", "3", "--plot", str(plot)]
    assert main([*command, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"dilation": 1, "rows": "0 1 2", "columns": "9 10 11"}
    assert rows[2] == {"dilation": 4, "rows": "0 4 8", "columns": "6 10 14"}
    assert "<svg" in plot.read_text()


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    model = MODELS["dilated"]()
    with pytest.raises(ValueError, match="layer is 'head'; it must be one of levels"):
        attention_weights(model, torch.zeros(3, 48, 56), (0, 0), "head")
    with pytest.raises(ValueError, match=r"position has -1; it must be between 0 and 1"):
        attention_weights(model, torch.zeros(3, 48, 56), (-1, 0), "levels.0.blocks.0")
    with pytest.raises(ValueError, match=r"query is \(32, 0\); it must lie on the map of 32x32 tokens"):
        attention_span((32, 32), (32, 0), 7, [1])
    with pytest.raises(ValueError, match="without a batch"):
        attention_weights(model, torch.zeros(1, 3, 48, 56), (0, 0))
    with pytest.raises(ValueError, match="names has 'head'; there are levels"):
        attention_rollout(model, torch.zeros(3, 48, 56), names=["head"])
    with pytest.raises(ValueError, match="dilations has 5 for kernel_size=7"):
        attention_span((32, 32), (0, 0), 7, [5])
    assert main(["analyse", "attention", str(PHOTOGRAPH), "--position", "0.5", "2"]) == 2
    assert main(["analyse", "attention", "missing.jpg"]) == 2
    assert main(["analyse", "attention", str(PHOTOGRAPH), "--checkpoint", "missing.pth"]) == 1
    assert capsys.readouterr().err.count("dinat-zoo: error: ") == 3


def test_figures_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["analyse", "span", "--plot", "span.png"]) == 2
    assert "pip install 'dinat-zoo[analysis]'" in capsys.readouterr().err
