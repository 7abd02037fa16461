"""What happens to proposals: Mask R-CNN's one stage, Cascade R-CNN's three (https://arxiv.org/abs/1712.00726)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinat_zoo.dense import box_head, mask_head
from dinat_zoo.dense.assign import Assigner, Sampler
from dinat_zoo.dense.box_head import BoxHead
from dinat_zoo.dense.boxes import BoxCoder, with_image_index
from dinat_zoo.dense.data import Batch, Detections, Objects, Size
from dinat_zoo.dense.mask_head import MaskHead
from dinat_zoo.dense.roi_align import region_features


@dataclass(frozen=True)
class Stage:
    """The settings of one stage.

    Attributes:
        assigner: which proposals learn what.
        std: scale of the box coder.
        weight: weight of the stage's losses.
    """

    assigner: Assigner
    std: tuple[float, float, float, float]
    weight: float = 1.0


@dataclass(frozen=True)
class RoISettings:
    """The settings of all stages.

    Attributes:
        stages: one for Mask R-CNN, three for Cascade Mask R-CNN.
        sampler: how many proposals of an image learn.
        convs: convolutions of the box heads.
        fcs: hidden linear layers of the box heads.
        giou: whether the boxes' loss is that of the generalised IoU.
        strides: image pixels per pixel of the levels that regions are taken from.
        threshold: scores up to this are no detections.
        overlap: IoU from which on a better detection suppresses another of its class.
        number: detections of an image.
    """

    stages: tuple[Stage, ...]
    sampler: Sampler
    convs: int
    fcs: int
    giou: bool
    strides: tuple[int, ...] = (4, 8, 16, 32)
    threshold: float = 0.05
    overlap: float = 0.5
    number: int = 100


@dataclass
class _Sample:
    """Regions of one image that learn, positive ones first."""

    boxes: Tensor  # [N, 4]
    labels: Tensor  # [N], num_classes for the background
    objects: Tensor  # [N, 4]
    index: Tensor  # [P], the object of each positive one
    given: Tensor  # [N], whether it is an object's own box


class RoIHeads(nn.Module):
    """The box and mask heads of all stages.

    With one stage, the heads are named `bbox_head` and `mask_head`, with several `bbox_head.0`, `mask_head.0` etc.

    Args:
        settings: see `RoISettings`.
        num_classes: classes without the background.
        channels: channels of the pyramid.
        hidden: width of the box heads' linear layers.
    """

    def __init__(self, settings: RoISettings, num_classes: int, channels: int = 256, hidden: int = 1024) -> None:
        super().__init__()
        self.settings, self.num_classes = settings, num_classes
        boxes = [
            BoxHead(num_classes, BoxCoder(stage.std), settings.convs, settings.fcs, settings.giou, channels, hidden)
            for stage in settings.stages
        ]
        masks = [MaskHead(num_classes, channels) for _ in settings.stages]
        single = len(settings.stages) == 1
        self.bbox_head: nn.Module = boxes[0] if single else nn.ModuleList(boxes)
        self.mask_head: nn.Module = masks[0] if single else nn.ModuleList(masks)

    @property
    def box_heads(self) -> list[BoxHead]:
        """The stages' box heads."""
        return [head for head in self.bbox_head.modules() if isinstance(head, BoxHead)]

    @property
    def mask_heads(self) -> list[MaskHead]:
        """The stages' mask heads."""
        return [head for head in self.mask_head.modules() if isinstance(head, MaskHead)]

    def losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size], targets: Sequence[Objects]
    ) -> dict[str, Tensor]:
        """The losses of every stage: `stage0_cls`, `stage0_box`, `stage0_mask` and so on, weighted.

        Args:
            features: the pyramid.
            proposals: boxes `[n, 4]` per image.
            sizes: height and width of the images without padding.
            targets: the images' objects.
        """
        losses = {}
        last = len(self.settings.stages) - 1
        stages = zip(self.settings.stages, self.box_heads, self.mask_heads, strict=True)
        for i, (stage, box, mask) in enumerate(stages):
            samples = [self._sample(stage.assigner, x, y) for x, y in zip(proposals, targets, strict=True)]
            logits, offsets = box(self._features(features, [x.boxes for x in samples], box_head.SIDE))
            regions, labels, objects = (
                torch.cat([getattr(x, name) for x in samples]) for name in ("boxes", "labels", "objects")
            )
            found = box.losses(logits, offsets, regions, labels, objects)
            found["mask"] = self._mask_loss(mask, features, samples, targets)
            losses.update({f"stage{i}_{name}": stage.weight * loss for name, loss in found.items()})
            if i < last:
                proposals = self._refined(box, logits.detach(), offsets.detach(), samples, sizes)
        return losses

    def _sample(self, assigner: Assigner, proposals: Tensor, target: Objects) -> _Sample:
        """Sample an image's proposals together with its objects' own boxes."""
        own = torch.arange(len(target.boxes), device=proposals.device)
        assigned = torch.cat([own, assigner(proposals, target.boxes)])
        boxes = torch.cat([target.boxes.to(proposals.dtype), proposals])
        positive, negative = self.settings.sampler(assigned)
        drawn, index = torch.cat([positive, negative]), assigned[positive]
        labels = torch.full_like(drawn, self.num_classes)
        labels[: len(positive)] = target.labels[index]
        objects = boxes[drawn].clone()
        objects[: len(positive)] = target.boxes[index].to(boxes.dtype)
        return _Sample(boxes[drawn], labels, objects, index, drawn < len(own))

    def _features(self, features: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
        strides = self.settings.strides
        return region_features(features[: len(strides)], strides, with_image_index(boxes), side)

    def _mask_loss(
        self, head: MaskHead, features: Sequence[Tensor], samples: Sequence[_Sample], targets: Sequence[Objects]
    ) -> Tensor:
        boxes = [x.boxes[: len(x.index)] for x in samples]
        logits = head(self._features(features, boxes, mask_head.SIDE))
        labels = torch.cat([x.labels[: len(x.index)] for x in samples])
        wanted = [
            mask_head.crop_masks(target.masks, x.index, box)
            for target, x, box in zip(targets, samples, boxes, strict=True)
        ]
        return mask_head.mask_loss(logits, labels, torch.cat(wanted))

    def _refined(
        self, head: BoxHead, logits: Tensor, offsets: Tensor, samples: Sequence[_Sample], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """The next stage's proposals: the samples, moved for their class, without the objects' own boxes."""
        parts = zip(_split(logits, samples), _split(offsets, samples), samples, sizes, strict=True)
        proposals = []
        for logit, offset, sample, size in parts:
            label = torch.where(sample.labels < self.num_classes, sample.labels, self._likeliest(logit))
            proposals.append(head.refine(label, offset, sample.boxes, size)[~sample.given])
        return proposals

    def _likeliest(self, logits: Tensor) -> Tensor:
        """The likeliest class of each region that is not the background."""
        return logits[:, : self.num_classes].argmax(dim=1)

    def detect(self, features: Sequence[Tensor], proposals: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """The detections in every image.

        Several stages move the boxes one after the other; the class is that of the mean of their logits, the mask
        the mean of their probabilities.
        """
        heads = self.box_heads
        boxes, logits = list(proposals), []
        for i, head in enumerate(heads):
            stage_logits, offsets = head(self._features(features, boxes, box_head.SIDE))
            logits.append(stage_logits.float())
            if i < len(heads) - 1:
                parts = zip(_split(logits[-1], boxes), _split(offsets, boxes), boxes, batch.sizes, strict=True)
                boxes = [head.refine(self._likeliest(x), offset, box, size) for x, offset, box, size in parts]
        scores = _split(torch.stack(logits).mean(dim=0).softmax(dim=1), boxes)
        found = []
        for score, offset, box, size, original in zip(
            scores, _split(offsets, boxes), boxes, batch.sizes, batch.original_sizes, strict=True
        ):
            scale = box.new_tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
            moved = heads[-1].coder.decode(box, offset, size).unflatten(1, (-1, 4)) * scale
            kept = box_head.select(
                moved.flatten(1), score, self.settings.threshold, self.settings.overlap, self.settings.number
            )
            found.append((*kept, scale))
        masks = self._masks(features, [box / scale for box, _, _, scale in found], [label for _, label, _, _ in found])
        return [
            Detections(box, label, score, mask_head.paste_masks(mask, box, original))
            for (box, label, score, _), mask, original in zip(found, masks, batch.original_sizes, strict=True)
        ]

    def _masks(self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        """The probabilities `[n, 28, 28]` of each detection's mask, per image."""
        x = self._features(features, boxes, mask_head.SIDE)
        label = torch.cat(list(labels))
        rows = torch.arange(len(label), device=label.device)
        masks = [head(x)[rows, label].float().sigmoid() for head in self.mask_heads]
        return _split(torch.stack(masks).mean(dim=0), boxes)


def _split(x: Tensor, like: Sequence[Tensor] | Sequence[_Sample]) -> list[Tensor]:
    """Take apart, per image, what was computed for all images' regions."""
    return list(x.split([len(part.boxes if isinstance(part, _Sample) else part) for part in like]))
