from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate
from torch.testing import assert_close

from dinat_zoo import dense
from dinat_zoo.dense.segmenter import pixel_loss

Create = Callable[..., Any]


@pytest.fixture(scope="module")
def segmenter(backbone: Create) -> dense.Segmenter:
    torch.manual_seed(0)
    return dense.Segmenter(backbone(), num_classes=5, channels=8, auxiliary_channels=8).eval()


def pointwise(images: torch.Tensor) -> torch.Tensor:
    """A model whose logits do not depend on what lies around a pixel."""
    return torch.cat([images, images.square(), -images], dim=1)


def test_logits_have_the_images_size(segmenter: dense.Segmenter) -> None:
    images = torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        logits = segmenter(images)
        raw = segmenter.decode_head(segmenter.backbone(images))
    assert raw.shape == (2, 5, 13, 18)
    assert_close(logits, interpolate(raw, size=(50, 70), mode="bilinear", align_corners=False))


def test_loss_is_over_all_pixels_ignored_ones_too() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 4, 8, 8), torch.randint(4, (2, 8, 8))
    targets[0, :3] = 255
    total = 0.0
    for b in range(2):
        for y in range(8):
            for x in range(8):
                if targets[b, y, x] != 255:
                    total += cross_entropy(logits[b, :, y, x], targets[b, y, x]).item()
    assert pixel_loss(logits, targets).item() == pytest.approx(total / 128, rel=1e-4)


def test_the_auxiliary_loss_counts_two_fifths(segmenter: dense.Segmenter) -> None:
    images, targets = torch.randn(1, 3, 64, 64), torch.randint(5, (1, 64, 64))
    with torch.no_grad():
        losses = segmenter(images, targets)
        auxiliary = segmenter.auxiliary_head(segmenter.backbone(images)[2])
        resized = interpolate(auxiliary, size=(64, 64), mode="bilinear", align_corners=False)
        assert losses["auxiliary"].item() == pytest.approx(0.4 * cross_entropy(resized, targets).item(), rel=1e-5)
        assert losses["decode"].item() == pytest.approx(cross_entropy(segmenter(images), targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((40, 50), (16, 16), (10, 10)),
        ((16, 16), (16, 16), (8, 8)),
        ((10, 30), (16, 16), (16, 5)),
        ((33, 17), (16, 16), (16, 16)),
    ],
)
def test_sliding_a_pointwise_model_changes_nothing(
    size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size)
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return pointwise(x)

    assert_close(dense.slide(model, images, crop, stride), pointwise(images))
    assert set(seen) == {tuple(min(a, b) for a, b in zip(size, crop, strict=True))}
    counts = [max(-(-(length - side) // step), 0) + 1 for length, side, step in zip(size, crop, stride, strict=True)]
    assert len(seen) == counts[0] * counts[1]


def test_sliding_averages_where_crops_overlap() -> None:
    calls = iter(range(10))

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x[:, :1], float(next(calls)))

    found = dense.slide(model, torch.zeros(1, 3, 4, 10), crop=(4, 4), stride=(4, 3))
    assert found[0, 0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1.5, 2, 2, 2]


def test_gaps_between_crops_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stride is \(5, 4\); with crop=\(4, 4\)"):
        dense.slide(pointwise, torch.zeros(1, 3, 8, 8), (4, 4), (5, 4))


def test_prediction_averages_probabilities_of_scales_and_mirror_images() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 8, 12)
    found = dense.predict(pointwise, images, (16, 24), scales=(1.0, 0.5), flip=True)
    views = []
    for size in ((8, 12), (4, 6)):
        view = interpolate(images, size=size, mode="bilinear", align_corners=False)
        for mirror in (False, True):
            logits = pointwise(view.flip(3)).flip(3) if mirror else pointwise(view)
            views.append(interpolate(logits, size=(16, 24), mode="bilinear", align_corners=False).softmax(1))
    assert_close(found, sum(views) / 4)


def test_wrong_targets_are_named(segmenter: dense.Segmenter) -> None:
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"targets has shape \(1, 16, 16\)"):
        segmenter(images, torch.zeros(1, 16, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels from 0 to 7; they must be 0 to 4, or 255"):
        segmenter(images, torch.arange(8).repeat(1, 32, 4))


def test_three_levels_are_not_enough(backbone: Create) -> None:
    body = backbone()
    body.channels = body.channels[:3]
    with pytest.raises(ValueError, match="backbone gives 3 levels"):
        dense.Segmenter(body)
