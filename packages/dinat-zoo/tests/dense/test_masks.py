"""Masks in and out of boxes, and their run lengths, against loops and values of COCO's own tools."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinat_zoo.dense import rle
from dinat_zoo.dense.mask_head import crop_masks, mask_loss, paste_masks


def sample(mask: Tensor, x: float, y: float) -> float:
    """Bilinear interpolation between the pixels' centres, 0 outside."""
    total = 0.0
    x0, y0 = math.floor(x - 0.5), math.floor(y - 0.5)
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]:
                total += (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j)) * float(mask[i, j])
    return total


def test_pasted_masks_are_the_loops() -> None:
    torch.manual_seed(0)
    masks = torch.rand(6, 7, 7)
    boxes = torch.tensor(
        [
            [2.3, 1.7, 11.2, 14.9],
            [-4.0, -3.5, 6.0, 9.0],  # beyond the left and the top
            [10.0, 5.0, 25.0, 30.0],  # beyond the right and the bottom
            [3.2, 3.1, 3.9, 3.8],  # within a pixel
            [5.0, 5.0, 5.0, 9.0],  # empty
            [40.0, 2.0, 50.0, 9.0],  # outside
        ]
    )
    height, width = 16, 20
    pasted = paste_masks(masks, boxes, (height, width))
    for mask, (left, top, right, bottom), found in zip(masks, boxes.tolist(), pasted, strict=True):
        if right <= left:
            assert not found.any()
            continue
        for i in range(height):
            for j in range(width):
                x, y = (j + 0.5 - left) / (right - left) * 7, (i + 0.5 - top) / (bottom - top) * 7
                value = sample(mask, x, y)
                assert abs(value - 0.5) < 1e-4 or bool(found[i, j]) == (value >= 0.5), (i, j, value)


def test_cropped_masks_are_the_shares_of_bins() -> None:
    masks = torch.zeros(3, 40, 40, dtype=torch.bool)
    masks[0, 10:30, 5:25] = True
    masks[2, :, 20:] = True
    regions = torch.tensor([[0.0, 0, 40, 40], [8, 8, 36, 36], [4, 0, 32, 28]])
    found = crop_masks(masks, torch.tensor([2, 0, 2]), regions, side=4)
    for crop, index, (left, top, right, bottom) in zip(found, (2, 0, 2), regions.int().tolist(), strict=True):
        bins = masks[index, top:bottom, left:right].float()
        bins = bins.unflatten(0, (4, -1)).unflatten(2, (4, -1)).mean(dim=(1, 3))
        decided = (bins - 0.5).abs() > 0.15  # samples reach half a pixel into the neighbouring bins
        assert torch.equal(crop[decided], (bins >= 0.5).float()[decided])
    assert crop_masks(masks, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)).shape == (0, 28, 28)


def test_mask_loss_is_of_the_own_class_alone() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 2, 2), torch.tensor([3, 0, 0])
    wanted = torch.randint(2, (3, 2, 2)).float()
    total = 0.0
    for i in range(3):
        for y in range(2):
            for x in range(2):
                p = 1 / (1 + math.exp(-float(logits[i, labels[i], y, x])))
                total -= math.log(p if wanted[i, y, x] else 1 - p)
    assert mask_loss(logits, labels, wanted).item() == pytest.approx(total / 12, rel=1e-5)
    empty = torch.zeros(0, 4, 2, 2, requires_grad=True)
    loss = mask_loss(empty, labels[:0], wanted[:0])
    loss.backward()
    assert loss.item() == 0


# What pycocotools 2.0's encode gives for the masks below.
COCO = {
    "empty": "S1",
    "full": "0S1",
    "corner": "03i10PU5",
    "disc": "PZ1=]14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4Lfe1",
    "stripes": "023O011OO11O00O0N0200020N10O",
    "wide": "_[>Y9",
}


def patterns() -> dict[str, Tensor]:
    rows, columns = torch.arange(60)[:, None], torch.arange(90)
    return {
        "empty": torch.zeros(5, 7, dtype=torch.bool),
        "full": torch.ones(5, 7, dtype=torch.bool),
        "corner": (rows < 3) & (columns < 2),
        "disc": (rows - 30) ** 2 + (columns - 41) ** 2 < 400,
        "stripes": ((rows * 7 + columns * 13) % 31 < 9)[:12, :5],
        "wide": (torch.arange(3)[:, None] < 5) & (torch.arange(5000) > 4900),
    }


@pytest.mark.parametrize("name", COCO)
def test_run_lengths_are_cocos(name: str) -> None:
    mask = patterns()[name]
    assert rle.encode(mask) == {"size": list(mask.shape), "counts": COCO[name]}


@pytest.mark.parametrize("name", COCO)
def test_decoding_undoes_encoding(name: str) -> None:
    mask = patterns()[name]
    assert torch.equal(rle.decode(rle.encode(mask)), mask)


def test_run_lengths_that_do_not_fill_the_mask_are_an_error() -> None:
    with pytest.raises(ValueError, match="6 pixels together, for a size of 2x4"):
        rle.decode({"size": [2, 4], "counts": "6"})
