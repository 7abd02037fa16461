"""What Mask2Former and OneFormer say of an image, and the segmentations made of it.

Each query has logits of the classes and a mask. The three functions of the paper (arXiv 2112.01527, as published) make
of them the scores of every pixel, a list of objects, or segments that do not overlap. transformers' image processors do
the same on masks of 384 x 384; here they have the size of the image, as in the published tests.

>>> from dinat_zoo.dense import mask2former, queries  # doctest: +SKIP
>>> name = "mask2former_dinat_large_coco_panoptic"  # doctest: +SKIP
>>> model = mask2former.create(name, name).eval()  # doctest: +SKIP
>>> (found,) = queries.look(model, mask2former.transform(name)([image]))  # doctest: +SKIP
>>> segments = found.panoptic(things("coco-panoptic"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, masks_to_boxes

from dinat_zoo.dense.data import Batch, Detections, Size
from dinat_zoo.dense.oneformer import task_inputs
from dinat_zoo.dense.upernet import resize

_CHUNK = 16  # masks that are resized at once


@dataclass
class Panoptic:
    """Segments of one image that do not overlap.

    Attributes:
        segments: `[H, W]`, int64, for each pixel the number of its segment, from 1, or 0 where there is none.
        labels: `[N]`, int64, the class of each segment.
        scores: `[N]`, from 0 to 1; of the first of those that are one segment of stuff.
        things: `[N]`, bool, whether it is a thing.
    """

    segments: Tensor
    labels: Tensor
    scores: Tensor
    things: Tensor

    def to_coco(self, categories: Sequence[int]) -> list[dict[str, Any]]:
        """The `segments_info` of an annotation in COCO's panoptic format, with the scores too.

        Args:
            categories: the category's id of each class, see `dinat_zoo.dense.category_ids`.
        """
        masks = self.segments == torch.arange(1, len(self.labels) + 1, device=self.segments.device)[:, None, None]
        boxes = box_convert(_boxes(masks), "xyxy", "xywh").int().tolist()
        return [
            {
                "id": i + 1,
                "category_id": categories[label],
                "isthing": int(thing),
                "area": int(masks[i].sum()),
                "bbox": boxes[i],
                "iscrowd": 0,
                "score": score,
            }
            for i, (label, thing, score) in enumerate(
                zip(self.labels.tolist(), self.things.tolist(), self.scores.tolist(), strict=True)
            )
        ]

    def to_png(self) -> Tensor:
        """The pixels of COCO's panoptic format, uint8 `[3, H, W]`: red + 256 green + 65536 blue is the segment's id."""
        return torch.stack([self.segments >> shift & 255 for shift in (0, 8, 16)]).to(torch.uint8)


@dataclass
class Queries:
    """What a model says of one image.

    Attributes:
        classes: `[queries, classes + 1]`, logits; the last class is none.
        masks: `[queries, h, w]`, logits, for the padded image.
        padded: height and width of the padded image.
        size: of the image in it, at its left upper corner.
        original_size: of the image before it was resized, which is that of all results.
    """

    classes: Tensor
    masks: Tensor
    padded: Size
    size: Size
    original_size: Size

    def semantic(self, late: bool = False) -> Tensor:
        """The scores of every class for every pixel; `argmax(0)` of them is the segmentation.

        Args:
            late: resize the scores instead of the masks, as the published tests of models for this task alone did.

        Returns:
            `[classes, H, W]`, not negative.
        """
        weights = self.classes.softmax(dim=-1)[:, :-1]
        if late:
            masks = resize(self.masks[None], self.padded)[0].sigmoid()
            return self._placed(torch.einsum("qc,qhw->chw", weights, masks))
        scores = weights.new_zeros(weights.shape[1], *self.original_size)
        for part, masks in zip(weights.split(_CHUNK), self._resized(torch.arange(len(weights))), strict=True):
            scores += torch.einsum("qc,qhw->chw", part, masks.sigmoid())
        return scores

    def instances(self, things: Sequence[bool] | None = None, most: int = 100) -> Detections:
        """The objects, best first: a query can be one of several classes; the best pairs of both are taken.

        An object's score is that of its class times the mean of its mask's probabilities.

        Args:
            things: which classes are things; by default all. Stuff among the best pairs is left out.
            most: as many pairs are taken.

        Raises:
            ValueError: `things` of another number of classes.
        """
        weights = self.classes.softmax(dim=-1)[:, :-1]
        wanted = self._things(things)
        scores, pairs = weights.flatten().topk(min(most, weights.numel()))
        queries, labels = pairs // weights.shape[1], pairs % weights.shape[1]
        scores, queries, labels = (part[wanted[labels]] for part in (scores, queries, labels))
        distinct, place = queries.unique(return_inverse=True)
        masks, certain = [], []
        for logits in self._resized(distinct):
            mask = logits > 0
            masks.append(mask)
            certain.append((logits.sigmoid() * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1))
        if not masks:
            return Detections(scores.new_zeros(0, 4), labels, scores, labels.new_zeros(0, *self.original_size).bool())
        scores = scores * torch.cat(certain)[place]
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > 0]  # the others have no pixel
        found = torch.cat(masks)[place[order]]
        return Detections(_boxes(found), labels[order], scores[order], found)

    def panoptic(self, things: Sequence[bool], threshold: float = 0.8, overlap: float = 0.8) -> Panoptic:
        """The segments: every pixel goes to the query that wants it most; of a class of stuff there is one segment.

        Args:
            things: which classes are things.
            threshold: queries with a lower score are left out.
            overlap: so are those to which less of their mask than this goes.

        Raises:
            ValueError: `things` of another number of classes.
        """
        scores, labels = self.classes.softmax(dim=-1).max(dim=-1)
        countable = self._things(things)
        keep = ((labels < len(countable)) & (scores > threshold)).nonzero()[:, 0]
        scores, labels = scores[keep], labels[keep]
        best = scores.new_full(self.original_size, -1.0)
        winner = labels.new_full(self.original_size, -1)
        masks: list[Tensor] = []
        for part in self._resized(keep):
            for probabilities in part.sigmoid():
                claim = scores[len(masks)] * probabilities
                winner[claim > best] = len(masks)
                best = torch.maximum(best, claim)
                masks.append(probabilities >= 0.5)
        segments, taken = torch.zeros_like(winner), []
        stuff: dict[int, int] = {}  # the segment of each class of stuff
        for i, mask in enumerate(masks):
            won, label = winner == i, int(labels[i])
            visible = won & mask
            if not visible.any() or won.sum() / mask.sum() < overlap:
                continue
            if label not in stuff:
                taken.append(i)
            segments[visible] = stuff.get(label, len(taken))
            if not countable[label]:
                stuff.setdefault(label, len(taken))
        return Panoptic(segments, labels[taken], scores[taken], countable[labels[taken]])

    def _things(self, things: Sequence[bool] | None) -> Tensor:
        count = self.classes.shape[1] - 1
        if things is not None and len(things) != count:
            raise ValueError(f"things has {len(things)} entries; the model has {count} classes: one each.")
        return torch.tensor([True] * count if things is None else list(things), device=self.classes.device)

    def _resized(self, which: Tensor) -> Iterator[Tensor]:
        """The masks of some queries, in the original image's size, a few at a time."""
        for part in which.split(_CHUNK) if len(which) else ():
            yield self._placed(resize(self.masks[part.to(self.masks.device)][None], self.padded)[0])

    def _placed(self, maps: Tensor) -> Tensor:
        """Maps of the padded image, cut and resized to the original one."""
        return resize(maps[None, :, : self.size[0], : self.size[1]], self.original_size)[0]


def look(model: nn.Module, batch: Batch, task: str | None = None) -> list[Queries]:
    """What a model says of each image.

    Args:
        model: a Mask2Former or OneFormer of transformers', in eval mode.
        batch: the images, see `mask2former.transform` and `oneformer.transform`.
        task: "semantic", "instance" or "panoptic": what a OneFormer is asked for. A Mask2Former is asked for nothing.

    Raises:
        ValueError: no such task.
    """
    asked = {}
    if hasattr(model.model, "task_encoder"):
        asked["task_inputs"] = task_inputs(task, len(batch.images)).to(batch.images.device)
    outputs = model(pixel_values=batch.images, **asked)
    height, width = batch.images.shape[2:]
    pairs = zip(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float(), strict=True)
    return [
        Queries(classes, masks, (height, width), size, original)
        for (classes, masks), size, original in zip(pairs, batch.sizes, batch.original_sizes, strict=True)
    ]


def _boxes(masks: Tensor) -> Tensor:
    """Left, top, right and bottom of masks with a pixel each, right and bottom beyond their last pixels."""
    boxes: Tensor = masks_to_boxes(masks)
    return boxes + boxes.new_tensor([0, 0, 1, 1])
