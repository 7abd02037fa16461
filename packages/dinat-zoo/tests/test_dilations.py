from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from dinat_zoo import dilations


def table_ii(data: Path) -> list[tuple[str, str, int, dilations.Dilations]]:
    with (data / "dilations.csv").open() as file:
        return [
            (
                row["variants"],
                row["task"],
                int(row["resolution"]),
                tuple(tuple(map(int, row[f"level{i}"].split())) for i in range(1, 5)),
            )
            for row in csv.DictReader(file)
        ]


def test_every_row_of_table_ii(data: Path) -> None:
    rows = table_ii(data)
    assert len(rows) == 16
    for variants, task, resolution, expected in rows:
        depths = tuple(map(len, expected))
        assert dilations.published(depths, task, resolution) == expected, (variants, task, resolution)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("dinat_mini", "imagenet"),
        ("dinat_large", "imagenet"),
        ("dinat_large_384", "imagenet"),
        ("dinat_s_tiny", "imagenet"),
        ("dinat_s_large_384", "imagenet"),
    ],
)
def test_models_have_their_list_which_is_the_maximum(name: str, task: str) -> None:
    model: Any = timm.create_model(name, device="meta")
    size = model.pretrained_cfg["input_size"][1]
    built = model.dilations
    assert built == dilations.published(tuple(map(len, built)), task, size)
    model.set_dilations("maximum", size)
    assert model.dilations == built


def test_lists_given_word_for_word() -> None:
    """Of the authors' configurations that no rule covers, and 11x11 windows, whose list is the maximum at 384."""
    deep = (3, 4, 18, 5)
    third = dilations.published(deep, "oneformer-ade20k", 1280)[2]
    assert third == (1, 3, 1, 5, 1, 5, 1, 7, 1, 3, 1, 5, 1, 5, 1, 7, 1, 7)
    assert dilations.published(deep, "mask2former")[2] == (1, 2, 1, 3) * 4 + (1, 3)
    assert dilations.published(deep, "oneformer-cityscapes")[1] == (1, 5, 1, 9)
    large: Any = timm.create_model("dinat_large_384_11x11", device="meta")
    assert large.dilations[:2] == ((1, 8, 1), (1, 4, 1, 4))
    built = large.dilations
    large.set_dilations("maximum", 384)
    assert large.dilations == built


@pytest.mark.parametrize(
    ("order", "first", "third"),
    [
        ("na-na", (1, 1, 1), (1,) * 6),
        ("na-dina", (1, 8, 1), (1, 2) * 3),
        ("dina-na", (8, 1, 8), (2, 1) * 3),
        ("dina-dina", (8, 8, 8), (2,) * 6),
    ],
)
def test_layer_orders_of_tables_10_and_vii(order: str, first: tuple[int, ...], third: tuple[int, ...]) -> None:
    for name, depth in (("dinat_mini", 3), ("dinat_s_tiny", 2)):
        model: Any = timm.create_model(name, device="meta", layer_order=order)
        assert model.dilations[0] == first[:depth]
        assert model.dilations[2] == third


def test_orders_of_table_6() -> None:
    """Nine alternations of three attentions; two of a kind are one of a kind."""
    kinds = {"na": (1, 1), "dina": (2, 2)}
    for left in ("na", "dina", "sa"):
        for right in ("na", "dina", "sa"):
            model: Any = timm.create_model("dinat_isotropic_small", device="meta", layer_order=f"{left}-{right}")
            found = [getattr(level.attn, "dilation", None) for level in model.levels]
            assert found == [kinds.get(left), kinds.get(right)] * 6
    model.set_dilations((2,))
    assert model.dilations == ((1,) * 12,)


def test_gradual_example_of_the_paper() -> None:
    assert dilations.gradual((8, 1), (8, 1))[0] == (1, 2, 1, 4, 1, 6, 1, 8)


@pytest.mark.parametrize("top", range(1, 40))
def test_gradual_grows_and_ends_at_the_largest(top: int) -> None:
    [values, last] = dilations.gradual((36, 4), (top, top))
    dilated = values[1::2]
    assert set(values[::2]) == {1}
    assert max(dilated) == dilated[-1] == top
    assert all(value > 1 for value in dilated) or top == 1
    assert last == (1, top, 1, top)
    length = len(set(dilated))
    assert list(dilated[:length]) == sorted(set(dilated))
    assert all(dilated[i] == dilated[i % length] for i in range(len(dilated) - 1))


def test_maximum_and_gradual_of_a_size() -> None:
    model: Any = timm.create_model("dinat_mini", device="meta")
    model.set_dilations("gradual", 800)
    assert model.dilations == dilations.published((3, 4, 6, 5), "coco", 800)
    model.set_dilations("coco")
    assert model.dilations == dilations.published((3, 4, 6, 5), "coco", 800)
    model.set_dilations("maximum", (800, 500))  # the shorter side decides; level 4 has 16 rows
    assert model.dilations == dilations.alternate((3, 4, 6, 5), (17, 9, 4, 2))
    model.set_dilations("maximum", 32)
    assert {d for level in model.dilations for d in level} == {1}
    wide: Any = timm.create_model("dinat_tiny", device="meta", kernel_size=5)  # Table 11
    wide.set_dilations("maximum", 224)
    assert wide.dilations[0] == (1, 11, 1)


def test_weights_fit_every_dilation() -> None:
    """Table 12: what a NAT with other dilations computes is what a DiNAT with its weights does."""
    small: dict[str, Any] = {"embed_dim": 32, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
    nat: Any = timm.create_model("nat_mini", **small).eval()
    dinat: Any = timm.create_model("dinat_mini", dilations=((1,), (1, 4), (1, 2), (1,)), **small).eval()
    dinat.load_state_dict(nat.state_dict())
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        plain = nat(image)
        expected = dinat(image)
        assert not torch.allclose(plain, expected)
        nat.set_dilations((8, 4, 2, 1))
        torch.testing.assert_close(nat(image), expected)
        nat.set_dilations(((1,), (1, 1), (1, 1), (1,)))
        torch.testing.assert_close(nat(image), plain)


def test_a_trained_model_with_other_dilations(data: Path) -> None:
    """Table 12 in miniature: it still tells most classes apart, and its own dilations are the best."""
    model: Any = timm.create_model("dinat_pico", pretrained=True).eval()
    sample = np.load(data / "fashion-mnist-sample.npz")
    images = torch.from_numpy(sample["images"])[:, None] / 255
    images = (images - model.pretrained_cfg["mean"][0]) / model.pretrained_cfg["std"][0]
    own = model.dilations
    correct = {}
    for dilations_ in (own, tuple((1,) * len(level) for level in own), "maximum"):
        model.set_dilations(dilations_, *([28] if isinstance(dilations_, str) else []))
        with torch.no_grad():
            correct[model.dilations] = float((model(images).argmax(1).numpy() == sample["labels"]).mean())
    assert len(correct) >= 2
    assert correct[own] == max(correct.values()) > 0.9
    assert min(correct.values()) > 0.3
    model.set_dilations(own)
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), sample["logits"], atol=1e-3 * np.abs(sample["logits"]).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("largest",), r"dilations is 'largest'; it must be one of 'maximum', 'gradual', 'imagenet', .*'mask2former'"),
        (("maximum",), r"input_size is None; 'maximum' depends on the size of the images"),
        (("coco", (800, 800)), r"input_size is \(800, 800\); for 'coco' it must be one int or None"),
        (("coco", 512), r"resolution is 512; for 'coco' there are lists for \[800\]"),
        (("ade20k", 640), r"depths is \(3, 4, 6, 5\); for 'ade20k' at 640 there are lists for \[\(3, 4, 18, 5\), \(2,"),
        (((8, 4, 2),), r"dilations is \(8, 4, 2\), for 3 levels; there are 4"),
        ((((1,) * 3, (1,) * 4, (1,) * 5, (1,) * 5),), r"dilations\[2\] is .* for 5 blocks; depths\[2\] is 6"),
        (((8, 4, 0, 1),), r"dilations has 0; every dilation must be at least 1"),
        (
            ("mask2former",),
            r"depths is \(3, 4, 6, 5\); for 'mask2former' .* lists for \[\(3, 4, 18, 5\)\]",
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(arguments: tuple[Any, ...], message: str) -> None:
    model: Any = timm.create_model("dinat_mini", device="meta")
    before = model.dilations
    with pytest.raises(ValueError, match=message):
        model.set_dilations(*arguments)
    assert model.dilations == before


@pytest.mark.parametrize(
    ("name", "order", "message"),
    [
        ("dinat_mini", "na-swin", "layer_order is 'na-swin'; it must be of 'na', 'dina' and 'sa'"),
        ("dinat_mini", "na-sa", "layer_order is 'na-sa'; 'sa' needs maps of one size"),
    ],
)
def test_unknown_layer_orders(name: str, order: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, device="meta", layer_order=order)


def test_self_attention_has_no_dilation() -> None:
    model: Any = timm.create_model("dinat_isotropic_small", device="meta", layer_order="na-sa", depth=4)
    model.set_dilations([(2, 1, 1, 1)])
    assert model.dilations == ((2, 1, 1, 1),)
    with pytest.raises(ValueError, match=r"dilations\[0\] is \(1, 2, 1, 2\); self attention, of 'na-sa', has none"):
        model.set_dilations([(1, 2, 1, 2)])


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="task is 'video'; there are lists for 'imagenet'"):
        dilations.published((3, 4, 6, 5), "video")
