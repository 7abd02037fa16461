"""The detector's parts against torchvision's and against loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss, smooth_l1_loss
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork, box_iou, generalized_box_iou, roi_align
from torchvision.ops.poolers import LevelMapper

from dinat_zoo import dense
from dinat_zoo.dense.anchors import grid_anchors
from dinat_zoo.dense.assign import Assigner, Sampler
from dinat_zoo.dense.box_head import BoxHead, select
from dinat_zoo.dense.boxes import BoxCoder
from dinat_zoo.dense.detector import MASK_RCNN_RPN
from dinat_zoo.dense.fpn import FPN
from dinat_zoo.dense.mask_head import paste_masks
from dinat_zoo.dense.roi_align import level_of, region_features
from dinat_zoo.dense.rpn import RPN, RPNSettings

Create = Callable[..., Any]
Boxes = Callable[[int], Tensor]


def test_pyramid_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours, peer = FPN([4, 8, 16], 6), FeaturePyramidNetwork([4, 8, 16], 6)
    for i in range(3):
        peer.inner_blocks[i][0].load_state_dict(ours.lateral_convs[i].conv.state_dict())
        peer.layer_blocks[i][0].load_state_dict(ours.fpn_convs[i].conv.state_dict())
    features = [torch.randn(2, 4, 11, 14), torch.randn(2, 8, 6, 7), torch.randn(2, 16, 3, 4)]
    found = ours(features)
    wanted = list(peer({str(i): x for i, x in enumerate(features)}).values())
    for x, y in zip(found, [*wanted, wanted[-1][:, :, ::2, ::2]], strict=True):
        assert_close(x, y)


def test_levels_are_those_of_the_pyramid_paper(random_boxes: Boxes) -> None:
    boxes = random_boxes(500) * torch.rand(500, 1) * 20
    assert torch.equal(level_of(boxes, 4), LevelMapper(2, 5)([boxes]))
    for side, level in ((111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (5000, 3), (0, 0)):
        assert level_of(torch.tensor([[7.0, 9, 7 + side, 9 + side]]), 4).item() == level


def test_region_features_come_from_their_level() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, 3, 128 >> i, 128 >> i, requires_grad=True) for i in range(4)]
    sides = torch.tensor([30.0, 120, 240, 460, 100])
    regions = torch.stack([torch.tensor([0.0, 1, 1, 0, 1]), *torch.full((2, 5), 10.5), 10 + sides, 12 + sides], dim=1)
    found = region_features(features, (4, 8, 16, 32), regions, 7)
    for region, level, x in zip(regions, (0, 1, 2, 3, 0), found, strict=True):
        assert_close(x, roi_align(features[level], region[None], 7, 1 / (4 << level), 0, aligned=True)[0])
    found.sum().backward()
    assert all(x.grad is not None for x in features)
    assert region_features(features, (4, 8, 16, 32), regions[:0], 7).shape == (0, 3, 7, 7)


def test_box_losses_are_averages_over_all_samples(random_boxes: Boxes) -> None:
    torch.manual_seed(0)
    regions, objects = random_boxes(8), random_boxes(8)
    labels = torch.tensor([0, 2, 1, 3, 3, 3, 3, 3])
    logits, offsets = torch.randn(8, 4), torch.randn(8, 12)
    for giou in (False, True):
        coder = BoxCoder((0.1, 0.1, 0.2, 0.2))
        found = BoxHead(3, coder, fcs=1, giou=giou, channels=2, hidden=4).losses(
            logits, offsets, regions, labels, objects
        )
        assert_close(found["cls"], cross_entropy(logits, labels))
        total = 0.0
        for i in range(3):
            own = offsets[i, 4 * labels[i] : 4 * labels[i] + 4]
            if giou:
                decoded = coder.decode(regions[i : i + 1], own[None])
                total += 10 * (1 - generalized_box_iou(decoded, objects[i : i + 1]).item())
            else:
                total += l1_loss(own, coder.encode(regions[i], objects[i]), reduction="sum").item()
        assert found["box"].item() == pytest.approx(total / 8, rel=1e-4)


def test_selected_detections_are_those_of_greedy_suppression_per_class(random_boxes: Boxes) -> None:
    torch.manual_seed(0)
    boxes = torch.cat([random_boxes(20), random_boxes(20), random_boxes(20)], dim=1)
    scores = torch.rand(20, 4)
    box, label, score = select(boxes, scores, threshold=0.3, overlap=0.4, number=25)
    kept: list[tuple[float, int, Tensor]] = []
    candidates = [(float(scores[i, j]), j, boxes[i, 4 * j : 4 * j + 4]) for i in range(20) for j in range(3)]
    for value, kind, candidate in sorted(candidates, key=lambda x: -x[0]):
        rivals = [other for _, rival, other in kept if rival == kind]
        if value > 0.3 and all(box_iou(candidate[None], other[None]).item() <= 0.4 for other in rivals):
            kept.append((value, kind, candidate))
    kept = kept[:25]
    assert_close(score, torch.tensor([value for value, _, _ in kept]))
    assert label.tolist() == [kind for _, kind, _ in kept]
    assert_close(box, torch.stack([x for _, _, x in kept]))


@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_proposal_losses_are_the_loops(beta: float) -> None:
    torch.manual_seed(0)
    settings = RPNSettings(Assigner(0.5, 0.3, 0.3), Sampler(256, 0.5), strides=(16, 32), beta=beta)
    rpn = RPN(settings, channels=4)
    features = [torch.randn(2, 4, 4, 6), torch.randn(2, 4, 2, 3)]
    sizes = [(60, 96), (64, 50)]  # the second one's last columns are the batch's padding
    targets = [
        dense.Objects(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), 64, 96))
        for boxes in ([[0.0, 0, 90, 60], [20, 10, 80, 62]], [[4.0, 2, 40, 60]])
    ]
    with torch.no_grad():
        logits, offsets = rpn(features)
    found = rpn.losses(features, (logits, offsets), sizes, targets)

    classification, regression, number = 0.0, 0.0, 0
    for i in range(2):
        positives = negatives = 0
        assigned_levels, level_anchors = [], []
        for x, stride in zip(features, (16, 32), strict=True):
            level_anchors.append(grid_anchors(tuple(x.shape[2:]), stride, x.device))
            width = 96 if i == 0 else 64
            assigned_levels.append(
                torch.tensor([a % (3 * x.shape[3]) // 3 * stride < width for a in range(len(level_anchors[-1]))])
            )
        anchors, valid = torch.cat(level_anchors), torch.cat(assigned_levels)
        logit, offset = torch.cat([x[i] for x in logits]), torch.cat([x[i] for x in offsets])
        anchors, logit, offset = anchors[valid], logit[valid], offset[valid]
        assigned = settings.assigner(anchors, targets[i].boxes)
        for anchor, value, moved, index in zip(anchors, logit, offset, assigned.tolist(), strict=True):
            if index == -2:
                continue
            p = 1 / (1 + math.exp(-float(value)))
            classification -= math.log(p if index >= 0 else 1 - p)
            positives, negatives = positives + (index >= 0), negatives + (index < 0)
            if index >= 0:
                wanted = BoxCoder().encode(anchor, targets[i].boxes[index])
                regression += smooth_l1_loss(moved, wanted, reduction="sum", beta=beta).item()
        assert positives <= 128  # all are sampled: nothing is random
        assert positives + negatives <= 256
        number += max(positives, 1) + max(negatives, 1)
    assert found["rpn_cls"].item() == pytest.approx(classification / number, rel=1e-4)
    assert found["rpn_box"].item() == pytest.approx(regression / number, rel=1e-4)


def test_proposals_are_inside_the_image_best_first_and_apart() -> None:
    torch.manual_seed(0)
    rpn = RPN(replace(MASK_RCNN_RPN, strides=(4, 8), before_nms=(300, 100), after_nms=(20, 10)), channels=4)
    torch.nn.init.normal_(rpn.rpn_cls.weight)
    features = [torch.randn(1, 4, 16, 24), torch.randn(1, 4, 8, 12)]
    outputs = rpn(features)
    training, inference = (rpn.train(mode).propose(features, outputs, [(60, 90)])[0] for mode in (True, False))
    assert (len(training), len(inference)) == (20, 10)
    assert (inference >= 0).all()
    assert (inference[:, 2] <= 90).all()
    assert (inference[:, 3] <= 60).all()
    cpu = torch.device("cpu")
    anchors = torch.cat([grid_anchors((16, 24), 4, cpu), grid_anchors((8, 12), 8, cpu)])
    best = torch.cat(outputs[0], dim=1)[0].argmax()
    decoded = BoxCoder().decode(anchors[best][None], torch.cat(outputs[1], dim=1)[0, best][None], (60, 90))
    assert_close(inference[0], decoded[0].detach())


@pytest.mark.parametrize("kind", ["maskrcnn", "cascadedmaskrcnn"])
def test_images_without_objects_train_and_detect(kind: str, detector: Create) -> None:
    torch.manual_seed(0)
    model = detector(kind)
    batch = dense.Batch(torch.randn(1, 3, 64, 64), [(60, 64)], [(30, 32)])
    empty = dense.Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 60, 64))
    losses = model.train()(batch, [empty])
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    boxes = {name: loss.item() for name, loss in losses.items() if not name.endswith("cls")}
    assert set(boxes.values()) == {0.0}
    with torch.no_grad():
        (found,) = model.eval()(batch)
    assert found.masks.shape[1:] == (30, 32)
    assert len(found.boxes) == len(found.scores) == len(found.labels) == len(found.masks) <= 100


@pytest.mark.parametrize("kind", ["maskrcnn", "cascadedmaskrcnn"])
def test_nothing_may_be_found(kind: str, detector: Create) -> None:
    model = detector(kind).eval()
    model.roi_head.settings = replace(model.roi_head.settings, threshold=1.0)
    with torch.no_grad():
        (found,) = model(dense.Batch(torch.randn(1, 3, 64, 64), [(60, 64)], [(30, 32)]))
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 30, 32)
    assert found.to_coco(1) == []


def test_cascade_averages_logits_and_masks_of_its_stages(detector: Create) -> None:
    torch.manual_seed(0)
    model = detector("cascadedmaskrcnn").eval()
    for module in model.modules():
        if isinstance(module, BoxHead):
            torch.nn.init.normal_(module.fc_cls.weight, std=0.5)
            torch.nn.init.normal_(module.fc_reg.weight, std=0.2)
    features = [torch.randn(1, 16, 64 >> i, 64 >> i) for i in range(5)]
    proposals = torch.tensor([[10.0, 20, 90, 150], [100, 30, 220, 200], [5, 5, 60, 50]])
    batch = dense.Batch(torch.zeros(1, 3, 256, 256), [(256, 256)], [(256, 256)])
    with torch.no_grad():
        (found,) = model.roi_head.detect(features, [proposals], batch)
        boxes, logits = proposals, []
        for i, head in enumerate(model.roi_head.box_heads):
            pooled = region_features(features[:4], (4, 8, 16, 32), torch.cat([torch.zeros(3, 1), boxes], dim=1), 7)
            stage, offsets = head(pooled)
            logits.append(stage)
            if i < 2:
                label = stage[:, :3].argmax(dim=1)
                own = torch.stack([offsets[j, 4 * k : 4 * k + 4] for j, k in enumerate(label.tolist())])
                boxes = head.coder.decode(boxes, own, (256, 256))
        scores = (sum(logits) / 3).softmax(dim=1)
        wanted = select(head.coder.decode(boxes, offsets, (256, 256)), scores, 0.05, 0.5, 100)
        assert_close(found.boxes, wanted[0])
        assert torch.equal(found.labels, wanted[1])
        assert_close(found.scores, wanted[2])
        pooled = region_features(
            features[:4], (4, 8, 16, 32), torch.cat([torch.zeros(len(found.boxes), 1), found.boxes], 1), 14
        )
        masks = sum(head(pooled).sigmoid() for head in model.roi_head.mask_heads) / 3
        own = masks[torch.arange(len(masks)), found.labels]
        assert torch.equal(found.masks, paste_masks(own, found.boxes, (256, 256)))


def test_targets_that_do_not_fit_are_named(detector: Create, shapes: Any) -> None:
    model, (batch, targets) = detector("maskrcnn"), shapes
    with pytest.raises(ValueError, match="targets has 1 entries, for 2 images"):
        model(batch, targets[:1])
    one = targets[1]
    for wrong, message in (
        (dense.Objects(one.boxes, one.labels + 5, one.masks), r"targets\[1\].labels is \[6\]; they must be 0 to 2"),
        (dense.Objects(one.boxes, one.labels, one.masks[:, :50]), r"targets\[1\].masks is \(1, 50, 96\)"),
        (dense.Objects(one.boxes.flip(1), one.labels, one.masks), r"targets\[1\].boxes has an empty box"),
        (dense.Objects(one.boxes[:, :3], one.labels, one.masks), r"targets\[1\] has shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            model(batch, [targets[0], wrong])


def test_coco_results(shapes: Any) -> None:
    _, (first, _) = shapes
    found = dense.Detections(first.boxes, torch.tensor([0, 79]), torch.tensor([0.9, 0.5]), first.masks)
    person, toothbrush = found.to_coco(image_id=7)
    assert person["bbox"] == [8.0, 16.0, 48.0, 64.0]
    assert person["segmentation"]["size"] == [96, 128]
    assert (person["image_id"], person["category_id"], toothbrush["category_id"]) == (7, 1, 90)
    assert len(dense.COCO_CATEGORIES) == 80
    assert dense.COCO_CATEGORIES[13] == "stop sign"
