"""Backbone, names, checkpoints and preprocessing of the published models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate, layer_norm
from torch.testing import assert_close

from dinat_zoo import WeightsError, dense
from dinat_zoo._formats import convert
from dinat_zoo.dense.published import HEADS

Create = Callable[..., Any]

# The heads' keys of the published files; `{}` runs over what is beside it.
MASK_RCNN = {
    "neck.{}.{}.conv.{}": (("lateral_convs", "fpn_convs"), "0123", ("weight", "bias")),
    "rpn_head.{}.{}": (("rpn_conv", "rpn_cls", "rpn_reg"), ("weight", "bias")),
    "roi_head.bbox_head.{}.{}": (("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg"), ("weight", "bias")),
    "roi_head.mask_head.convs.{}.conv.{}": ("0123", ("weight", "bias")),
    "roi_head.mask_head.{}.{}": (("upsample", "conv_logits"), ("weight", "bias")),
}
BN = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
CASCADE = {
    **{key: value for key, value in MASK_RCNN.items() if not key.startswith("roi_head")},
    "roi_head.bbox_head.{}.shared_convs.{}.{}": ("012", "0123", BN),
    "roi_head.bbox_head.{}.{}.{}": ("012", ("shared_fcs.0", "fc_cls", "fc_reg"), ("weight", "bias")),
    "roi_head.mask_head.{}.convs.{}.conv.{}": ("012", "0123", ("weight", "bias")),
    "roi_head.mask_head.{}.{}.{}": ("012", ("upsample", "conv_logits"), ("weight", "bias")),
}
UPERNET = {
    "decode_head.psp_modules.{}.1.{}": ("0123", BN),
    "decode_head.{}.{}": (("bottleneck", "fpn_bottleneck"), BN),
    "decode_head.{}.{}.{}": (("lateral_convs", "fpn_convs"), "012", BN),
    "{}.conv_seg.{}": (("decode_head", "auxiliary_head"), ("weight", "bias")),
    "auxiliary_head.convs.0.{}": (BN,),
}
KEYS = {"maskrcnn": MASK_RCNN, "cascadedmaskrcnn": CASCADE, "upernet": UPERNET}


def keys(patterns: dict[str, tuple[Any, ...]]) -> set[str]:
    def expand(pattern: str, choices: tuple[Any, ...]) -> set[str]:
        if not choices:
            return {pattern}
        return {key for choice in choices[0] for key in expand(pattern.replace("{}", choice, 1), choices[1:])}

    return {key for pattern, choices in patterns.items() for key in expand(pattern, choices)}


def as_published(model: Any, family: str) -> dict[str, Tensor]:
    """A model's weights under the published names."""
    weights = {}
    for key, value in model.state_dict().items():
        key = re.sub(
            r"^backbone\.levels\.(\d+)\.downsample\.",
            lambda match: f"backbone.levels.{int(match[1]) - 1}.downsample.",
            re.sub(r"^backbone\.out_norms\.(\d)", r"backbone.norm\1", key),
        )
        weights[re.sub(r"^backbone\.levels\.", "backbone.layers.", key) if family == "dinat_s" else key] = value
    return weights


@pytest.mark.parametrize("head", KEYS)
def test_heads_have_the_published_keys(head: str) -> None:
    state = dense.create(f"{head}_dinat_mini", device="meta").state_dict()
    assert {key for key in state if not key.startswith("backbone.")} == keys(KEYS[head])
    norms = {f"backbone.norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert norms < set(convert(state, "original"))
    assert not {key for key in state if re.match(r"backbone\.(norm\d?|head)\.", key)}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("maskrcnn_dinat_mini:roi_head.bbox_head.fc_cls.weight", (81, 1024)),
        ("maskrcnn_dinat_mini:roi_head.bbox_head.fc_reg.weight", (320, 1024)),
        ("maskrcnn_dinat_mini:rpn_head.rpn_cls.weight", (3, 256, 1, 1)),
        ("maskrcnn_dinat_mini:rpn_head.rpn_reg.weight", (12, 256, 1, 1)),
        ("maskrcnn_dinat_mini:roi_head.mask_head.conv_logits.weight", (80, 256, 1, 1)),
        ("cascadedmaskrcnn_dinat_mini:roi_head.bbox_head.1.fc_reg.weight", (320, 1024)),
        ("upernet_dinat_mini:decode_head.conv_seg.weight", (150, 512, 1, 1)),
        ("upernet_dinat_mini:auxiliary_head.convs.0.conv.weight", (256, 256, 3, 3)),
    ],
)
def test_shapes_of_the_published_weights(key: str, shape: tuple[int, ...]) -> None:
    model, name = key.split(":")
    assert dense.create(model, device="meta").state_dict()[name].shape == shape


@pytest.mark.parametrize(("name", "family"), [("upernet_dinat_mini", "dinat"), ("upernet_dinat_s_tiny", "dinat_s")])
def test_a_published_file_loads_strictly(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(HEADS, "upernet", lambda body, classes: dense.Segmenter(body, classes, 8, 8))
    small: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "dilations": None}
    model = dense.create(name, **small)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-1, 1)
    published = as_published(model, family)
    first = "backbone.levels.0" if family == "dinat" else "backbone.layers.0"
    assert f"{first}.downsample.reduction.weight" in published
    assert len(published) == len(model.state_dict())
    file = tmp_path / "published.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": published, "optimizer": {}}, file)
    loaded = dense.create(name, checkpoint=file, **small)
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    torch.save(model.state_dict(), file)
    dense.create(name, checkpoint=file, **small)
    del published["decode_head.conv_seg.bias"]
    torch.save({"state_dict": published}, file)
    with pytest.raises(WeightsError, match=r"conv_seg\.bias"):
        dense.create(name, checkpoint=file, **small)


def test_backbone_gives_the_levels_outputs_normalised(backbone: Create) -> None:
    torch.manual_seed(0)
    body = backbone().eval()
    for i in range(4):
        norm = body.out_norms[i]
        torch.nn.init.uniform_(norm.weight)
        torch.nn.init.uniform_(norm.bias)
    small: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
    model = timm.create_model("dinat_mini", num_classes=0, dilations=((2,), (1,), (1,), (1,)), **small).eval()
    model.patch_embed, model.levels = body.patch_embed, body.levels
    images = torch.randn(2, 3, 44, 70)
    with torch.no_grad():
        found = body(images)
        levels = model.forward_intermediates(images, intermediates_only=True, output_fmt="NHWC")
    assert [x.shape[1] for x in found] == body.channels == [16, 32, 64, 128]
    assert body.reductions == [4, 8, 16, 32]
    for i, (x, level) in enumerate(zip(found, levels, strict=True)):
        norm = body.out_norms[i]
        assert x.is_contiguous()
        assert_close(x, layer_norm(level, level.shape[-1:], norm.weight, norm.bias).permute(0, 3, 1, 2))
    normed = timm.create_model("dinat_mini", num_classes=0, out_norms=True, **small)
    assert all(dense.Backbone(normed).out_norms[i] is normed.out_norms[i] for i in range(4))
    some = backbone()
    assert len(dense.Backbone(model, out_indices=(1, 2))(images)) == 2
    some.set_grad_checkpointing()
    torch.stack([x.sum() for x in some(images)]).sum().backward()
    assert all(parameter.grad is not None for parameter in some.parameters())


def test_what_is_no_backbone_is_refused(backbone: Create) -> None:
    with pytest.raises(ValueError, match=r"out_indices is \(4,\); the model has levels 0 to 3"):
        dense.Backbone.create("dinat_mini", out_indices=(4,), device="meta")
    with pytest.raises(ValueError, match="'dinat_isotropic_small'; a backbone needs levels"):
        dense.Backbone.create("dinat_isotropic_small", device="meta")
    with pytest.raises(ValueError, match="'maskrcnn_dinat_min'; there is no such model"):
        dense.create("maskrcnn_dinat_min")


@pytest.mark.parametrize(
    ("name", "level", "dilations"),
    [
        ("maskrcnn_dinat_mini", 1, [1, 7, 1, 14]),
        ("cascadedmaskrcnn_dinat_s_large", 2, [1, 3, 1, 5, 1, 7] * 3),
        ("upernet_dinat_tiny", 0, [1, 16, 1]),
        ("upernet_dinat_large", 2, [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5]),
        ("upernet_dinat_s_large", 0, [1, 20]),
        ("upernet_nat_base", 2, [1] * 18),
    ],
)
def test_dilations_are_those_of_table_2(name: str, level: int, dilations: list[int]) -> None:
    blocks = dense.create(name, device="meta").backbone.levels[level].blocks
    assert [block.attn.dilation for block in blocks] == [(d, d) for d in dilations]


def test_stochastic_depth_rises_to_the_published_rate() -> None:
    levels = dense.create("cascadedmaskrcnn_dinat_base", device="meta").backbone.levels
    assert levels[-1].blocks[-1].drop_path1.drop_prob == pytest.approx(0.6)


def test_urls_are_the_authors() -> None:
    assert dense.PUBLISHED["cascadedmaskrcnn_nat_small"].url.endswith(
        "/nat/checkpoints/DET/nat_small_cascademaskrcnn.pth"
    )
    assert dense.PUBLISHED["upernet_nat_mini"].url.endswith("/nat/checkpoints/SEG/nat_mini_upernet.pth")
    assert dense.PUBLISHED["maskrcnn_dinat_s_tiny"].url.endswith("/dinat/checkpoints/coco/maskrcnn_dinat_s_tiny.pth")
    assert dense.PUBLISHED["upernet_dinat_large"].url.endswith("/dinat/checkpoints/ade20k/upernet_dinat_large.pth")


@pytest.mark.parametrize(
    ("name", "size", "resized"),
    [
        ("maskrcnn_dinat_mini", (480, 640), (800, 1067)),
        ("maskrcnn_dinat_mini", (427, 1000), (569, 1333)),
        ("upernet_dinat_mini", (512, 683), (512, 683)),
        ("upernet_dinat_large", (300, 400), (640, 853)),
    ],
)
def test_images_keep_their_proportions(name: str, size: tuple[int, int], resized: tuple[int, int]) -> None:
    assert dense.transform(name).resized_size(size) == resized


def test_batches_are_normalised_and_padded() -> None:
    torch.manual_seed(0)
    transform = dense.ImageTransform(longest=100, shortest=50)
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in ((25, 40), (60, 30))]
    batch = transform(images)
    assert batch.sizes == [(50, 80), (100, 50)]
    assert batch.original_sizes == [(25, 40), (60, 30)]
    assert batch.images.shape == (2, 3, 128, 96)
    resized = interpolate(images[0][None].float(), size=(50, 80), mode="bilinear", align_corners=False)[0]
    # The published configurations' mean and standard deviation, of RGB from 0 to 255.
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    assert_close(batch.images[0, :, :50, :80], (resized - mean.view(3, 1, 1)) / std.view(3, 1, 1), atol=1e-4, rtol=1e-4)
    assert not batch.images[0, :, 50:].any()
    assert not batch.images[0, :, :, 80:].any()
    objects = dense.Objects(torch.tensor([[4.0, 5, 20, 25]]), torch.tensor([1]), torch.ones(1, 25, 40))
    moved = transform.objects(objects, (25, 40))
    assert moved.boxes.tolist() == [[8, 10, 40, 50]]
    assert moved.masks.shape == (1, 50, 80)
    nothing = dense.Objects(objects.boxes[:0], objects.labels[:0], objects.masks[:0])
    assert transform.objects(nothing, (25, 40)).masks.shape == (0, 50, 80)
    with pytest.raises(ValueError, match=r"images\[0\] is torch.float32 \[3, 5, 5\]; it must be uint8"):
        transform([torch.zeros(3, 5, 5)])
    with pytest.raises(ValueError, match="images is empty"):
        transform([])
