from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import dinat_zoo
from dinat_zoo.analysis import attention_layers, attention_span, attention_weights, mean_distance
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


def test_mean_distance() -> None:
    model = MODELS["dilated"]().eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    weights = attention_weights(model, torch.zeros(3, 48, 56), (0.5, 0.5), "levels.0.blocks.1")
    expected = np.mean([np.hypot(3 * y, 3 * x) for y in (-1, 0, 1) for x in (-1, 0, 1)])  # equal weights, dilation 3
    np.testing.assert_allclose(mean_distance(weights), expected, rtol=1e-6)


def test_overlay_on_a_photograph(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "attention.png"
    command = ["analyse", "attention", str(PHOTOGRAPH), "--layer", "levels.0.blocks.1", "--plot", str(plot)]
    assert main([*command, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["head"] for row in rows] == list(range(len(rows)))
    assert all(0 < row["weight"] <= 1 and row["mean_distance"] > 0 for row in rows)
    with Image.open(plot) as image:
        assert np.asarray(image.convert("RGB")).std() > 10


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
    with pytest.raises(ValueError, match="dilations has 5 for kernel_size=7"):
        attention_span((32, 32), (0, 0), 7, [5])
    assert main(["analyse", "attention", str(PHOTOGRAPH), "--position", "0.5", "2"]) == 2
    assert main(["analyse", "attention", "missing.jpg"]) == 2
    assert main(["analyse", "attention", str(PHOTOGRAPH), "--model", "dinat_mimi"]) == 1
    assert capsys.readouterr().err.count("dinat-zoo: error: ") == 3


def test_figures_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["analyse", "span", "--plot", "span.png"]) == 2
    assert "pip install 'dinat-zoo[analysis]'" in capsys.readouterr().err
