"""Mask2Former with transformers' heads; `nox -s dense_clients` installs transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_mask2former
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dinat_zoo import WeightsError
from dinat_zoo._pretrained import published
from dinat_zoo.dense import mask2former

BODY: dict[str, Any] = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
BODY |= {"dilations": ((2,), (1, 3), (1,), (1,)), "drop_path_rate": 0.0}
HEADS: dict[str, Any] = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24, "dim_feedforward": 40,
    "encoder_layers": 2, "decoder_layers": 5, "num_attention_heads": 2, "num_queries": 6, "train_num_points": 32,
}  # fmt: skip
NAME = "mask2former_dinat_large_cityscapes_semantic"

Create = Callable[..., Any]


@pytest.fixture
def small() -> Create:
    """Makes a model with the structure of a published one, but small; no two of its parameters are alike."""
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("scipy")

    def create(checkpoint: Path | None = None, **arguments: Any) -> Any:
        model = mask2former.create(NAME, checkpoint, heads=HEADS, **{**BODY, **arguments}).eval()
        if checkpoint is None:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return create


@pytest.mark.parametrize("name", mask2former.list_models())
def test_published_sizes(name: str) -> None:
    """The authors' table has 220 million parameters for all eight."""
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("scipy")
    model = mask2former.create(name, device="meta")
    row = next(row for row in published() if row.checkpoint == name)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 220
    assert model.config.num_labels == row.classes
    names = mask2former.from_transformers(model.state_dict())
    assert mask2former.to_transformers(names).keys() == model.state_dict().keys()
    assert names["sem_seg_head.predictor.class_embed.weight"].shape == (row.classes + 1, 256)
    assert names["backbone.levels.3.blocks.4.attn.rpb"].shape == (48, 21, 21)


class Read(dict[str, Tensor]):
    """Weights that know which of them were asked for."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__(weights)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.asked.add(key)
        return super().__getitem__(key)


def test_the_heads_compute_what_the_published_ones_do(small: Create) -> None:
    torch.manual_seed(0)
    model = small().double()
    weights = Read(mask2former.from_transformers(model.state_dict()))
    image = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            output = model(image)
            maps = [x[0] for x in model.model.pixel_level_module.encoder.body(image)]
            classes, masks = published_mask2former.heads_of(weights, maps, heads=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(output.class_queries_logits[0], classes, rtol=1e-6, atol=1e-6)
    assert_close(output.masks_queries_logits[0], masks, rtol=1e-5, atol=1e-5)
    assert weights.asked == {key for key in weights if not key.startswith(("backbone.", "criterion."))}


def test_a_published_file_loads_strictly(small: Create, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = small()
    weights = mask2former.from_transformers(model.state_dict())
    assert "backbone.levels.0.downsample.reduction.weight" in weights
    assert "backbone.norm3.bias" in weights
    file = tmp_path / "published.pth"

    def saved(changed: dict[str, Tensor]) -> Path:
        torch.save({"model": changed, "iteration": 90000}, file)
        return file

    loaded = small(saved(weights))
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    older = {key.replace("query_feat", "static_query"): value for key, value in weights.items()}
    del older["criterion.empty_weight"]
    assert torch.equal(
        small(saved(older)).model.transformer_module.queries_features.weight,
        weights["sem_seg_head.predictor.query_feat.weight"],
    )
    with pytest.raises(WeightsError, match=r"'sem_seg_head\.other\.weight' is no parameter of a Mask2Former"):
        small(saved({**weights, "sem_seg_head.other.weight": torch.ones(1)}))
    del weights["sem_seg_head.predictor.decoder_norm.bias"]
    with pytest.raises(WeightsError, match=r"missing: model\.transformer_module\.decoder\.layernorm\.bias"):
        small(saved(weights))


def test_transformers_saves_and_loads_it(small: Create, tmp_path: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    model = small()
    assert model.config.id2label[0] == "road"
    model.save_pretrained(tmp_path)
    loaded = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(image).masks_queries_logits, loaded(image).masks_queries_logits)
    assert loaded.config.backbone_config.arguments["dilations"] == [[2], [1, 3], [1], [1]]


def test_other_classes_train(small: Create) -> None:
    model = small(num_classes=3).train()
    labels = {"mask_labels": [torch.randint(2, (2, 64, 96)).float()], "class_labels": [torch.tensor([0, 2])]}
    loss = model(torch.randn(1, 3, 64, 96), **labels).loss
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(parameter.grad is not None for parameter in model.model.pixel_level_module.encoder.parameters())


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"'mask2former_dinat'; there is no such model\. There are mask2former_di"):
        mask2former.create("mask2former_dinat")
    pytest.importorskip("transformers", minversion="5")
    from dinat_zoo.dense.adapters.transformers import DinatZooConfig

    with pytest.raises(ValueError, match="backbone is 'dinat_isotropic_small'; it must be one of nat_mini"):
        DinatZooConfig(backbone="dinat_isotropic_small")
