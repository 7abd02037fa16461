"""The region proposal network (Ren et al., https://arxiv.org/abs/1506.01497)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu, smooth_l1_loss
from torchvision.ops import batched_nms

from dinat_zoo.dense.anchors import grid_anchors, inside
from dinat_zoo.dense.assign import Assigner, Sampler
from dinat_zoo.dense.boxes import BoxCoder
from dinat_zoo.dense.data import Objects, Size
from dinat_zoo.dense.layers import init_normal
from dinat_zoo.dense.transforms import padded_size


@dataclass(frozen=True)
class RPNSettings:
    """What the published configurations set.

    Attributes:
        assigner: which anchors learn what.
        sampler: how many do.
        strides: image pixels per pixel of each level.
        beta: where the smooth L1 loss of the boxes turns linear; 0 is the L1 loss.
        before_nms: proposals of each level that enter the suppression, in training and in inference.
        after_nms: proposals of an image, in training and in inference.
        overlap: IoU from which on a better proposal suppresses another of its level.
    """

    assigner: Assigner
    sampler: Sampler
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    beta: float = 0.0
    before_nms: tuple[int, int] = (2000, 1000)
    after_nms: tuple[int, int] = (1000, 1000)
    overlap: float = 0.7


class RPN(nn.Module):
    """Scores three anchors at every pixel of a pyramid, and moves the best into proposals.

    Args:
        settings: see `RPNSettings`.
        channels: channels of the pyramid.
    """

    def __init__(self, settings: RPNSettings, channels: int = 256) -> None:
        super().__init__()
        self.settings = settings
        self.coder = BoxCoder()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, 3, 1)
        self.rpn_reg = nn.Conv2d(channels, 12, 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            init_normal(conv, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The logits `[B, anchors]` and offsets `[B, anchors, 4]` of every level, in the anchors' order."""
        logits, offsets = [], []
        for x in features:
            x = relu(self.rpn_conv(x))
            logits.append(self.rpn_cls(x).permute(0, 2, 3, 1).flatten(1))
            offsets.append(self.rpn_reg(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return logits, offsets

    def propose(
        self, features: Sequence[Tensor], outputs: tuple[list[Tensor], list[Tensor]], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """The proposals of every image, best first.

        Args:
            features: the pyramid.
            outputs: what `forward` made of it.
            sizes: height and width of the images without padding.

        Returns:
            Boxes `[n, 4]` per image, without gradient.
        """
        anchors = self._anchors(features)
        logits, offsets = ([x.detach().float() for x in output] for output in outputs)
        return [
            self._propose_one(anchors, [x[i] for x in logits], [x[i] for x in offsets], size)
            for i, size in enumerate(sizes)
        ]

    def _propose_one(
        self, anchors: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor], size: Size
    ) -> Tensor:
        settings, inference = self.settings, not self.training
        scores, boxes, levels = [], [], []
        for level, (anchor, logit, offset) in enumerate(zip(anchors, logits, offsets, strict=True)):
            score, best = logit.sigmoid().topk(min(settings.before_nms[inference], len(logit)))
            scores.append(score)
            boxes.append(self.coder.decode(anchor[best], offset[best], size))
            levels.append(torch.full_like(best, level))
        score, box, level_index = torch.cat(scores), torch.cat(boxes), torch.cat(levels)
        box_sides = box[:, 2:] - box[:, :2]
        proper = (box_sides > 0).all(dim=1)
        score, box, level_index = score[proper], box[proper], level_index[proper]
        kept = batched_nms(box, score, level_index, settings.overlap)[: settings.after_nms[inference]]
        return box[kept]

    def losses(
        self,
        features: Sequence[Tensor],
        outputs: tuple[list[Tensor], list[Tensor]],
        sizes: Sequence[Size],
        targets: Sequence[Objects],
    ) -> dict[str, Tensor]:
        """The losses of a batch: `rpn_cls`, binary cross entropy, and `rpn_box`, smooth L1.

        Both are sums over the sampled anchors of all images, divided by their number.
        """
        levels = self._anchors(features)
        anchors = torch.cat(levels)
        logits, offsets = (torch.cat(output, dim=1).float() for output in outputs)
        classification, regression, number = [], [], 0
        for i, (size, target) in enumerate(zip(sizes, targets, strict=True)):
            valid = torch.cat(
                [
                    inside((x.shape[-2], x.shape[-1]), padded_size(size), stride, x.device)
                    for x, stride in zip(features, self.settings.strides, strict=True)
                ]
            )
            candidates = torch.nonzero(valid)[:, 0]
            assigned = self.settings.assigner(anchors[candidates], target.boxes)
            positive, negative = self.settings.sampler(assigned)
            # An image without the one or the other counts as if it had one of it.
            number += max(len(positive), 1) + max(len(negative), 1)
            objects = target.boxes[assigned[positive]]
            positive, negative = candidates[positive], candidates[negative]
            drawn = logits[i, torch.cat([positive, negative])]
            labels = torch.zeros_like(drawn)
            labels[: len(positive)] = 1
            classification.append(binary_cross_entropy_with_logits(drawn, labels, reduction="sum"))
            wanted = self.coder.encode(anchors[positive], objects)
            regression.append(smooth_l1_loss(offsets[i, positive], wanted, reduction="sum", beta=self.settings.beta))
        return {
            "rpn_cls": torch.stack(classification).sum() / number,
            "rpn_box": torch.stack(regression).sum() / number,
        }

    def _anchors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [
            grid_anchors((x.shape[-2], x.shape[-1]), stride, x.device)
            for x, stride in zip(features, self.settings.strides, strict=True)
        ]
