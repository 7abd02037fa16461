"""Images of any size, windows of any size: padding as published, biases interpolated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

import dinat_zoo
from dinat_zoo._attention import SelfAttention2D
from natten_core import NeighborhoodAttention2D

TINY: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "num_classes": 5}
MODELS: dict[str, dict[str, Any]] = {
    "dinat_mini": TINY,
    "dinat_s_tiny": TINY,
    "dinat_isotropic_small": {"embed_dim": 32, "depth": 2, "num_heads": 1, "num_classes": 5},
}


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    t, a = abs(distance), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resampling(old: int, new: int) -> NDArray[np.float64]:
    """[new, old]: bicubic weights of one axis, pixel centres at half-integers, borders repeated."""
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(tap, 0), old - 1)] += cubic(centre - tap)
    return weights


@pytest.mark.parametrize(
    ("old", "new"), [((7, 7), (11, 11)), ((7, 7), (5, 5)), ((7, 7), (9, 13)), ((14, 14), (24, 10))]
)
def test_interpolation_is_bicubic(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(3, 2 * old[0] - 1, 2 * old[1] - 1, dtype=torch.float64)
    rows, columns = (resampling(2 * a - 1, 2 * b - 1) for a, b in zip(old, new, strict=True))
    expected = np.einsum("ia,jb,hab->hij", rows, columns, table.numpy())
    resized = dinat_zoo.interpolate_rpb(table, new)
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-12)
    middle = dinat_zoo.interpolate_rpb(table.flip(1, 2), new)
    torch.testing.assert_close(middle, resized.flip(1, 2))  # a query's own bias stays in the middle


def test_interpolation_to_the_same_size_changes_nothing() -> None:
    table = torch.randn(2, 13, 13)
    assert dinat_zoo.interpolate_rpb(table, 7).equal(table)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "message"),
    [
        ((13, 13), 7, r"rpb has shape \[13, 13\]"),
        ((2, 12, 13), 7, r"rpb has shape \[2, 12, 13\]"),
        ((2, 13, 13), 0, "kernel_size is 0"),
        ((2, 13, 13), (7, 7, 7), r"kernel_size is \(7, 7, 7\)"),
    ],
)
def test_interpolation_of_no_table(shape: tuple[int, ...], kernel_size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dinat_zoo.interpolate_rpb(torch.zeros(shape), kernel_size)


def test_kernel_size_of_a_trained_model() -> None:
    """What dinat_large_21k_11x11 is of dinat_large_21k."""
    model: Any = timm.create_model("dinat_mini", **TINY).eval()
    tables = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("rpb")}
    model.get_parameter(next(iter(tables))).requires_grad_(False)
    model.set_kernel_size(11)
    for i, (name, table) in enumerate(tables.items()):
        resized = model.get_parameter(name)
        assert resized.shape == (len(table), 21, 21)
        assert resized.requires_grad == (i > 0)
        torch.testing.assert_close(resized, dinat_zoo.interpolate_rpb(table, 11), check_device=False)
    image = torch.randn(1, 3, 64, 96)
    other: Any = timm.create_model("dinat_mini", kernel_size=11, **TINY).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(image), other(image))
    model.set_kernel_size((3, 5, 7, 9))
    assert [level.blocks[0].attn.kernel_size[0] for level in model.levels] == [3, 5, 7, 9]
    with pytest.raises(ValueError, match=r"kernel_size is \(3, 5\), for 2 levels; there are 4"):
        model.set_kernel_size((3, 5))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(224, 160), (31, 57), (5, 130), (1, 1)])
def test_any_size_without_a_warning(name: str, size: tuple[int, int]) -> None:
    """pytest makes every warning an error; counts know the padding too."""
    model: Any = timm.create_model(name, **MODELS[name]).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size))
        maps = model.forward_intermediates(torch.randn(1, 3, *size), intermediates_only=True)
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()
    assert [tuple(m.shape[2:]) for m in maps] == [
        tuple(-(-side // info["reduction"]) for side in size) for info in model.feature_info
    ]
    assert dinat_zoo.count_macs(model, size) > 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *(("dinat_mini", {**TINY, "kernel_size": kernel}) for kernel in (5, 7, 9, 11, 13)),
        *(
            ("dinat_isotropic_small", {**MODELS["dinat_isotropic_small"], "img_size": 128, "layer_order": f"{a}-{b}"})
            for a in ("na", "dina", "sa")
            for b in ("na", "dina", "sa")
        ),
    ],
)
def test_windows_of_table_11_and_hybrids_of_table_6_train(name: str, arguments: dict[str, Any]) -> None:
    model: Any = timm.create_model(name, **arguments, drop_path_rate=0.0)  # else a layer is left out now and then
    logits = model(torch.randn(2, 3, 128, 128))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", ["dinat_s_tiny", "dinat_isotropic_small"])
def test_patches_are_padded_with_zeros_at_the_end(name: str) -> None:
    model: Any = timm.create_model(name, **MODELS[name]).eval()
    image = torch.randn(1, 3, 35, 50)
    padded = torch.zeros(1, 3, 48, 64)
    padded[:, :, :35, :50] = image
    patch = model.patch_embed.patch_size[0]
    rows, columns = -(-35 // patch), -(-50 // patch)
    with torch.no_grad():
        expected = model.patch_embed(padded)[:, :rows, :columns]
        torch.testing.assert_close(model.patch_embed(image), expected)


def test_self_attention_is_neighborhood_attention_to_the_whole_map() -> None:
    ours = SelfAttention2D(64, 2, (6, 6))
    other = NeighborhoodAttention2D(64, 2, 6)
    other.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 6, 6, 64)
    torch.testing.assert_close(ours(tokens), other(tokens), rtol=1e-4, atol=1e-5)


def test_self_attention_takes_another_size_once_told() -> None:
    model: Any = timm.create_model("vitrpb_small", embed_dim=32, depth=2, num_heads=1, img_size=64).eval()
    image = torch.randn(1, 3, 96, 60)
    with pytest.raises(ValueError, match=r"the map is 6x4, the bias is for 4x4: call the model's set_input_size"):
        model(image)
    table = model.levels[0].attn.rpb.detach().clone()
    model.set_input_size((96, 60))
    torch.testing.assert_close(model.levels[0].attn.rpb.detach(), dinat_zoo.interpolate_rpb(table, (6, 4)))
    assert model(image).shape == (1, 1000)


def test_out_norms_normalise_feature_maps_alone() -> None:
    """As dense heads have it: a LayerNorm per level on its output, which the next level does not see."""
    torch.manual_seed(0)
    plain: Any = timm.create_model("dinat_mini", **TINY).eval()
    normed: Any = timm.create_model("dinat_mini", out_norms=True, **TINY).eval()
    missing = normed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert sorted(missing) == sorted(f"out_norms.{i}.{part}" for i in range(4) for part in ("weight", "bias"))
    for i, norm in enumerate(normed.out_norms):
        torch.nn.init.constant_(norm.weight, i + 1)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(normed(image), plain(image))
        maps = plain.forward_intermediates(image, intermediates_only=True)
        for i, (actual, raw) in enumerate(
            zip(normed.forward_intermediates(image, intermediates_only=True), maps, strict=True)
        ):
            tokens = raw.permute(0, 2, 3, 1)
            expected = (i + 1) * torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])
            torch.testing.assert_close(actual, expected.permute(0, 3, 1, 2))
    backbone: Any = timm.create_model("dinat_mini", features_only=True, out_indices=(1, 2), out_norms=True, **TINY)
    assert {key.split(".")[2] for key in backbone.state_dict() if "out_norms" in key} == {"1", "2"}
