"""Boxes, anchors, assignment and sampling against torchvision, loops and hand-computed values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from dinat_zoo.dense.anchors import grid_anchors, inside
from dinat_zoo.dense.assign import BACKGROUND, IGNORED, Assigner, Sampler
from dinat_zoo.dense.boxes import BoxCoder, clip, of_class, with_image_index

Boxes = Callable[[int], Tensor]
STD = (0.1, 0.1, 0.2, 0.2)


def test_coder_is_torchvisions(random_boxes: Boxes) -> None:
    references, boxes = random_boxes(50), random_boxes(50)
    peer = TorchvisionCoder([1 / s for s in STD])
    offsets = BoxCoder(STD).encode(references, boxes)
    assert_close(offsets, peer.encode_single(boxes, references), atol=1e-4, rtol=1e-4)
    small = torch.randn(50, 3 * 4)
    assert_close(BoxCoder(STD).decode(references, small), peer.decode_single(small, references), atol=1e-3, rtol=1e-4)


def test_decoding_undoes_encoding(random_boxes: Boxes) -> None:
    references, boxes = random_boxes(50), random_boxes(50)
    coder = BoxCoder(STD)
    assert_close(coder.decode(references, coder.encode(references, boxes)), boxes, atol=1e-3, rtol=1e-4)


def test_decoded_sides_are_bounded_and_boxes_clipped() -> None:
    reference = torch.tensor([[40.0, 40, 44, 44]])
    left, top, right, bottom = BoxCoder().decode(reference, torch.tensor([[0.0, 0, 100, -100]]))[0].tolist()
    assert right - left == pytest.approx(4 * 1000 / 16, rel=1e-4)
    assert bottom - top == pytest.approx(4 * 16 / 1000, rel=1e-3)
    clipped = BoxCoder().decode(reference, torch.tensor([[0.0, 0, 100, 0]]), size=(30, 60))
    assert clipped.tolist() == [[0, 30, 60, 30]]
    assert clip(torch.tensor([-5.0, 3, 70, 8]), (30, 60)).tolist() == [0, 3, 60, 8]


def test_of_class_takes_four_values_each() -> None:
    rows = torch.arange(24).view(2, 12)
    assert of_class(rows, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]


def test_with_image_index_is_torchvisions_form() -> None:
    joined = with_image_index([torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 5.0)])
    assert joined[:, 0].tolist() == [0, 0, 2]
    assert joined[2].tolist() == [2, 5, 5, 5, 5]


def test_anchors_by_hand() -> None:
    anchors = grid_anchors((2, 3), 16, torch.device("cpu")).view(2, 3, 3, 4)
    for y in range(2):
        for x in range(3):
            for i, ratio in enumerate((0.5, 1.0, 2.0)):
                width, height = 128 / math.sqrt(ratio), 128 * math.sqrt(ratio)
                wanted = [16 * x - width / 2, 16 * y - height / 2, 16 * x + width / 2, 16 * y + height / 2]
                assert_close(anchors[y, x, i], torch.tensor(wanted))


def test_anchors_are_torchvisions_up_to_its_rounding() -> None:
    from torchvision.models.detection.image_list import ImageList

    peer = AnchorGenerator(((64,),), ((0.5, 1.0, 2.0),))
    wanted = peer(ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)]), [torch.zeros(1, 1, 4, 6)])[0]
    assert_close(grid_anchors((4, 6), 8, torch.device("cpu")), wanted, atol=0.5, rtol=0)


def test_inside_counts_pixels_that_begin_within_the_image() -> None:
    found = inside((4, 5), (40, 64), 16, torch.device("cpu")).view(4, 5, 3)
    wanted = [[16 * y < 40 and 16 * x < 64 for x in range(5)] for y in range(4)]
    assert torch.equal(found, torch.tensor(wanted)[..., None].expand(-1, -1, 3))


def by_loops(overlaps: Tensor, positive: float, negative: float, low_quality: float | None) -> list[int]:
    objects, boxes = overlaps.shape
    assigned = []
    for j in range(boxes):
        best = max(range(objects), key=lambda i: float(overlaps[i, j]))
        value = float(overlaps[best, j])
        assigned.append(best if value >= positive else BACKGROUND if value < negative else IGNORED)
    for i in range(objects):
        best_of_object = float(overlaps[i].max())
        if low_quality is not None and best_of_object >= low_quality:
            for j in range(boxes):
                if float(overlaps[i, j]) == best_of_object:
                    assigned[j] = i
    return assigned


@pytest.mark.parametrize(
    ("positive", "negative", "low_quality"), [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.5, 0.5, None), (0.4, 0.2, 0.0)]
)
def test_assigner_is_the_loops(
    positive: float, negative: float, low_quality: float | None, random_boxes: Boxes
) -> None:
    torch.manual_seed(1)
    for _ in range(20):
        objects = random_boxes(6)
        near = (objects[:4].repeat(5, 1) + 6 * torch.randn(20, 4)).sort(dim=1).values
        boxes = torch.cat([random_boxes(40), near[:, [0, 1, 2, 3]], objects[:1], objects[:1]])
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        found = Assigner(positive, negative, low_quality)(boxes, objects)
        assert found.tolist() == by_loops(box_iou(objects, boxes), positive, negative, low_quality)


def test_assigner_without_objects_or_boxes() -> None:
    assigner = Assigner(0.5, 0.5, low_quality=0.5)
    assert assigner(torch.ones(3, 4), torch.ones(0, 4)).tolist() == [BACKGROUND] * 3
    assert assigner(torch.ones(0, 4), torch.ones(2, 4)).tolist() == []


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn"), [(100, 100, (16, 48)), (3, 100, (3, 61)), (100, 5, (16, 5)), (0, 0, (0, 0))]
)
def test_sampler_draws_what_there_is(positives: int, negatives: int, drawn: tuple[int, int]) -> None:
    assigned = torch.cat([torch.full((positives,), 4), torch.full((negatives,), BACKGROUND), torch.full((9,), IGNORED)])
    positive, negative = Sampler(64, 0.25)(assigned[torch.randperm(len(assigned))])
    assert (len(positive), len(negative)) == drawn
    shuffled = assigned[torch.randperm(len(assigned))]
    positive, negative = Sampler(64, 0.25)(shuffled)
    assert (shuffled[positive] == 4).all()
    assert (shuffled[negative] == BACKGROUND).all()
    assert len(set(positive.tolist()) | set(negative.tolist())) == sum(drawn)
