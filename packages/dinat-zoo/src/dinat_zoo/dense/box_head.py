"""The head that names a region and moves its box."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, relu
from torchvision.ops import batched_nms, generalized_box_iou_loss

from dinat_zoo.dense.boxes import BoxCoder, of_class
from dinat_zoo.dense.layers import conv_unit, init_normal

SIDE = 7  # bins of a region's features


class BoxHead(nn.Module):
    """Shared convolutions and linear layers, then one layer for the class and one for the box of every class.

    The background is the last class.

    Args:
        num_classes: classes without the background.
        coder: how boxes are coded.
        convs: 3x3 convolutions before the linear layers.
        fcs: hidden linear layers.
        giou: the boxes' loss: 10 times that of the generalised IoU (https://arxiv.org/abs/1902.09630) of decoded
            boxes, or that of the offsets' absolute differences.
        channels: channels of the pyramid.
        hidden: width of the linear layers.

    Shape:
        `[N, channels, 7, 7]` -> logits `[N, num_classes + 1]`, offsets `[N, 4 * num_classes]`.
    """

    def __init__(
        self,
        num_classes: int,
        coder: BoxCoder,
        convs: int = 0,
        fcs: int = 2,
        giou: bool = False,
        channels: int = 256,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.num_classes, self.coder, self.giou = num_classes, coder, giou
        self.shared_convs = nn.ModuleList(conv_unit(channels, channels, 3, norm=True, act=True) for _ in range(convs))
        widths = [channels * SIDE**2, *(hidden for _ in range(fcs))]
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        self.fc_reg = nn.Linear(hidden, 4 * num_classes)
        for layer in self.shared_fcs.children():
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        init_normal(self.fc_cls, std=0.01)
        init_normal(self.fc_reg, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box offsets of regions."""
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)

    def losses(
        self, logits: Tensor, offsets: Tensor, regions: Tensor, labels: Tensor, objects: Tensor
    ) -> dict[str, Tensor]:
        """The losses of sampled regions: `cls`, cross entropy, and `box`, both averaged over all of them.

        Args:
            logits: `[N, num_classes + 1]`.
            offsets: `[N, 4 * num_classes]`.
            regions: the boxes `[N, 4]` that the offsets start from.
            labels: `[N]`, `num_classes` for the background.
            objects: `[N, 4]`, what the regions should become; ignored for the background.
        """
        logits, offsets = logits.float(), offsets.float()
        number = max(len(labels), 1)
        positive = torch.nonzero(labels < self.num_classes)[:, 0]
        moved = of_class(offsets[positive], labels[positive])
        if self.giou:
            decoded = self.coder.decode(regions[positive], moved)
            box = 10 * generalized_box_iou_loss(decoded, objects[positive].float(), reduction="sum")
        else:
            box = l1_loss(moved, self.coder.encode(regions[positive], objects[positive]), reduction="sum")
        return {"cls": cross_entropy(logits, labels, reduction="sum") / number, "box": box / number}

    def refine(self, labels: Tensor, offsets: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
        """Move regions `[N, 4]` by the offsets of their label, and clip them to the image."""
        return self.coder.decode(regions, of_class(offsets, labels), size)


def select(
    boxes: Tensor, scores: Tensor, threshold: float, overlap: float, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of an image: every class of every region is one of its own until a better one suppresses it.

    Args:
        boxes: `[N, 4 * classes]`.
        scores: `[N, classes + 1]`, the background last.
        threshold: scores up to this are dropped.
        overlap: IoU from which on a better detection suppresses another of its class.
        number: how many to give.

    Returns:
        Boxes `[n, 4]`, labels `[n]` and scores `[n]`, best first.
    """
    region, label = torch.nonzero(scores[:, :-1] > threshold).unbind(1)
    score, box = scores[region, label], boxes.unflatten(1, (-1, 4))[region, label]
    kept = batched_nms(box, score, label, overlap)[:number]
    return box[kept], label[kept], score[kept]
