"""Hugging Face's DiNAT and NAT, which no one here wrote, on natten_core.compat, against dinat-zoo's.

transformers is no dependency of anything here: `nox -s compat` has it, elsewhere these tests are skipped. Its series
4.53 is the last whose DiNAT is right.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

import dinat_zoo
import natten_core.compat
from dinat_zoo import dense
from dinat_zoo.dense import oneformer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None and "REQUIRE_TRANSFORMERS" not in os.environ,
    reason="transformers is not installed; `nox -s compat` has it",
)

CLASSES = 11
CASES = {
    "dinat": ("dinat", {"dilations": ((2,), (1, 3), (1,))}, {}),
    "dinat-layer-scale": ("dinat", {"dilations": ((4,), (2, 1), (1,))}, {"layer_scale": 0.5}),
    "nat": ("nat", {}, {}),
    "nat-layer-scale": ("nat", {}, {"layer_scale": 0.5}),
}
SIZES = [(96, 80), (24, 40)]  # on the second, maps are smaller than windows, and padded


@pytest.fixture(scope="module")
def transformers() -> Iterator[ModuleType]:
    """transformers, imported where there is a natten: it looks for one at its import, and keeps what it finds."""
    natten_core.compat.install("0.14")
    try:
        module = importlib.import_module("transformers")
        assert module.utils.is_natten_available(), "transformers was imported before natten was there"
        yield module
    finally:
        natten_core.compat.uninstall()


def hugging_face(transformers: ModuleType, case: str, head: str) -> nn.Module:
    family, more, options = CASES[case]
    config = getattr(transformers, f"{family.capitalize()}Config")(
        embed_dim=32,
        depths=[1, 2, 1],
        num_heads=[2, 4, 8],
        kernel_size=3,
        mlp_ratio=2.0,
        layer_scale_init_value=options.get("layer_scale", 0.0),
        num_labels=CLASSES,
        **more,
    )
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, f"{family.capitalize()}{head}")(config).eval()
    for name, parameter in model.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.3 if name.endswith("rpb") else 0.15)
    return model


def zoo(case: str, weights: dict[str, Tensor], classes: int) -> nn.Module:
    family, more, options = CASES[case]
    model: nn.Module = timm.create_model(
        f"{family}_mini",
        embed_dim=32,
        depths=(1, 2, 1),
        num_heads=(2, 4, 8),
        kernel_size=3,
        mlp_ratio=2.0,
        num_classes=classes,
        **more,
        **options,
    ).eval()
    model.load_state_dict(dinat_zoo.checkpoint_filter_fn(weights, model))
    return model


def assert_agree(actual: Tensor, expected: Tensor) -> None:
    error = (actual - expected).abs().max() / expected.abs().max()
    assert actual.shape == expected.shape
    assert error <= 1e-5, f"{error:.1e} of the largest value"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_hidden_states(transformers: ModuleType, case: str, size: tuple[int, int]) -> None:
    theirs = hugging_face(transformers, case, "Model")
    ours = zoo(case, theirs.state_dict(), 0)
    states: list[Tensor] = []
    # Theirs downsamples at the end of a stage, ours at the start of the next.
    places = [ours.patch_embed, *(level.downsample for level in list(ours.levels)[1:]), ours.levels[-1]]
    for place in places:
        place.register_forward_hook(lambda module, inputs, output: states.append(output))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        found = theirs(x, output_hidden_states=True)
        features = ours.forward_features(x)
    assert len(states) == len(found.reshaped_hidden_states) == 4
    for state, expected in zip(states, found.reshaped_hidden_states, strict=True):
        assert_agree(state, expected.permute(0, 2, 3, 1))
    assert_agree(features, found.last_hidden_state)
    assert_agree(ours.forward_head(features), found.pooler_output)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(transformers: ModuleType, case: str) -> None:
    theirs = hugging_face(transformers, case, "ForImageClassification")
    ours = zoo(case, theirs.state_dict(), CLASSES)
    x = torch.randn(2, 3, *SIZES[0])
    results: list[tuple[Any, ...]] = []
    for model in (ours, theirs):
        image = x.clone().requires_grad_()
        output = model(image)
        logits = output if isinstance(output, Tensor) else output.logits
        logits.square().sum().backward()
        bias = [parameter.grad for name, parameter in model.named_parameters() if name.endswith("rpb")]
        results.append((logits, image.grad, *bias))
    assert len(results[0]) == 2 + 4
    for actual, expected in zip(*results, strict=True):
        assert_agree(actual, expected)


@pytest.mark.parametrize("case", CASES)
def test_folders_of_ours_in_theirs(transformers: ModuleType, case: str, tmp_path: Path) -> None:
    weights = hugging_face(transformers, case, "ForImageClassification").state_dict()
    ours = zoo(case, weights, CLASSES)
    dinat_zoo.save_hugging_face(ours, tmp_path, [f"thing {i}" for i in range(CLASSES)])
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == f"{CASES[case][0].capitalize()}ForImageClassification"
    assert theirs.config.id2label[3] == "thing 3"
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert_agree(ours(x), theirs(x).logits)
    theirs.save_pretrained(tmp_path / "theirs")
    other = zoo(case, {key: torch.zeros_like(value) for key, value in weights.items()}, CLASSES)
    dinat_zoo.load_checkpoint(other, tmp_path / "theirs")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in ours.state_dict().items())


def test_backbones_of_ours_in_theirs(transformers: ModuleType, tmp_path: Path) -> None:
    small = {"embed_dim": 32, "depths": (1, 2, 1), "num_heads": (2, 4, 8), "kernel_size": 3, "mlp_ratio": 2.0}
    ours = dense.Backbone.create("dinat_mini", (0, 2), dilations=((2,), (1, 3), (1,)), **small).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)
    dinat_zoo.save_hugging_face(ours, tmp_path)
    theirs = transformers.DinatBackbone.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, *SIZES[0])
    with torch.no_grad():
        for actual, expected in zip(ours(x), theirs(x).feature_maps, strict=True):
            assert_agree(actual, expected)


def test_their_preprocessing_is_timms(transformers: ModuleType, tmp_path: Path) -> None:
    model = timm.create_model("nat_mini", num_classes=2)
    dinat_zoo.save_hugging_face(model, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    ours = create_transform(**resolve_data_config(model=model))
    for size in ((300, 480), (250, 200)):
        image = Image.effect_noise(size, 60).convert("RGB")
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(theirs, ours(image), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:torch.meshgrid. in an upcoming release, it will be required to pass the indexing")
def test_oneformer(transformers: ModuleType) -> None:
    """With their DiNAT in it and with ours, of weights in the format of the hub."""
    body = {"embed_dim": 32, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 4, 8], "kernel_size": 3, "mlp_ratio": 2.0}
    dilations = [[2], [1, 3], [1], [1]]
    config = transformers.OneFormerConfig(
        backbone_config=transformers.DinatConfig(
            **body, dilations=dilations, out_features=[f"stage{i}" for i in (1, 2, 3, 4)]
        ),
        **dict.fromkeys(("hidden_dim", "conv_dim", "mask_dim", "dim_feedforward", "encoder_feedforward_dim"), 64),
        encoder_layers=2,
        decoder_layers=4,
        num_attention_heads=2,
        num_queries=6,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    theirs = transformers.OneFormerForUniversalSegmentation(config).eval().double()
    for name, parameter in theirs.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.3 if name.endswith("rpb") else 0.1)
    ours = copy.deepcopy(theirs)
    ours.model.pixel_level_module.encoder = Encoder(dense.Backbone.create("dinat_mini", dilations=dilations, **body))
    ours.load_state_dict(oneformer.to_transformers(theirs.state_dict()))
    ours.eval().double()
    for size, task in zip(((128, 160), (96, 64)), ("panoptic", "instance"), strict=True):
        x, tokens = torch.randn(1, 3, *size, dtype=torch.float64), oneformer.task_inputs(task)
        with torch.no_grad():
            actual, expected = (model(x, tokens, output_hidden_states=True) for model in (ours, theirs))
        assert len(expected.encoder_hidden_states) == 4
        for one, other in zip(actual.encoder_hidden_states, expected.encoder_hidden_states, strict=True):
            assert_agree(one, other)
        assert_agree(actual.class_queries_logits, expected.class_queries_logits)
        assert_agree(actual.masks_queries_logits, expected.masks_queries_logits)


class Encoder(nn.Module):
    """A backbone as transformers' heads call one; `dinat_zoo.dense.adapters.transformers` has it for transformers 5."""

    def __init__(self, body: dense.Backbone) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.body(x))


def test_attention_weights(transformers: ModuleType) -> None:
    model = hugging_face(transformers, "dinat", "Model")
    with torch.no_grad():
        attentions = model(torch.randn(1, 3, *SIZES[0]), output_attentions=True).attentions
    heads_and_map = [(2, 24, 20), (4, 12, 10), (8, 6, 5)]
    for weights, (heads, height, width) in zip(attentions, heads_and_map, strict=True):
        assert weights.shape == (1, heads, height, width, 9)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, heads, height, width))
