"""The dense models of other libraries on our backbones; `nox -s dense_clients` installs these libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from dinat_zoo import dense

Create = Callable[..., Any]


def all_learn(model: torch.nn.Module, loss: Tensor) -> None:
    loss.backward()
    assert loss.isfinite()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def timm_backbone() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.TimmBackboneConfig(
        backbone="dinat_mini", use_pretrained_backbone=False, out_indices=[0, 1, 2, 3], features_only=True
    )


def test_transformers_upernet() -> None:
    backbone = timm_backbone()
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=256, num_labels=5
    )
    model = UperNetForSemanticSegmentation(config)
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96))
    output = model(images, labels=labels)
    assert output.logits.shape == (2, 5, 64, 96)
    all_learn(model, output.loss)


def test_transformers_mask2former() -> None:
    backbone = timm_backbone()
    pytest.importorskip("scipy")  # its loss matches queries and objects with it
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        num_labels=3,
        train_num_points=32,
    )
    model = Mask2FormerForUniversalSegmentation(config)
    output = model(
        torch.randn(1, 3, 64, 96),
        mask_labels=[torch.randint(2, (2, 64, 96)).float()],
        class_labels=[torch.tensor([0, 2])],
    )
    assert output.class_queries_logits.shape == (1, 5, 4)
    assert output.masks_queries_logits.shape == (1, 5, 16, 24)
    output.loss.sum().backward()
    assert next(model.model.pixel_level_module.encoder.parameters()).grad is not None


def test_segmentation_models_pytorch_upernet() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.UPerNet("tu-dinat_mini", encoder_weights=None, classes=5, decoder_channels=16)
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5, 64, 96)
    all_learn(model, logits.square().mean())


def test_torchvision_mask_rcnn(backbone: Create) -> None:
    torch.manual_seed(0)
    body = dense.PyramidBackbone(backbone(), out_channels=16)
    pyramid = body(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in pyramid.values()] == [
        (16, 16, 24),
        (16, 8, 12),
        (16, 4, 6),
        (16, 2, 3),
        (16, 1, 2),
    ]
    anchors = AnchorGenerator(tuple((8 * 4 << i,) for i in range(5)), ((0.5, 1.0, 2.0),) * 5)
    model = MaskRCNN(
        body, num_classes=4, rpn_anchor_generator=anchors, min_size=64, max_size=96, rpn_batch_size_per_image=32
    )
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[0, 10:50, 20:70] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 70, 50]]), "labels": torch.tensor([2]), "masks": masks}
    losses = model([torch.rand(3, 64, 96)], [target])
    all_learn(model, torch.stack(list(losses.values())).sum())
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, 64, 96)])
    assert found["masks"].shape[1:] == (1, 64, 96)
