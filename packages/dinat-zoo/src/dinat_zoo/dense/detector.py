"""Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from dinat_zoo.dense.assign import Assigner, Sampler
from dinat_zoo.dense.backbone import Backbone
from dinat_zoo.dense.data import Batch, Detections, Objects, check_objects
from dinat_zoo.dense.fpn import FPN
from dinat_zoo.dense.roi_heads import RoIHeads, RoISettings, Stage
from dinat_zoo.dense.rpn import RPN, RPNSettings

_SAMPLER = Sampler(512, positive_fraction=0.25)

MASK_RCNN = RoISettings(
    (Stage(Assigner(0.5, 0.5, low_quality=0.5), (0.1, 0.1, 0.2, 0.2)),), _SAMPLER, convs=0, fcs=2, giou=False
)
MASK_RCNN_RPN = RPNSettings(Assigner(0.7, 0.3, low_quality=0.3), Sampler(256, positive_fraction=0.5))

CASCADE_MASK_RCNN = RoISettings(
    (
        Stage(Assigner(0.5, 0.5), (0.1, 0.1, 0.2, 0.2), weight=1.0),
        Stage(Assigner(0.6, 0.6), (0.05, 0.05, 0.1, 0.1), weight=0.5),
        Stage(Assigner(0.7, 0.7), (0.033, 0.033, 0.067, 0.067), weight=0.25),
    ),
    _SAMPLER,
    convs=4,
    fcs=1,
    giou=True,
)
CASCADE_MASK_RCNN_RPN = replace(MASK_RCNN_RPN, beta=1 / 9, after_nms=(2000, 1000))


class Detector(nn.Module):
    """A backbone, a feature pyramid, a region proposal network and the heads of regions.

    Called with targets it gives losses, without them detections. Losses want `train()` (stochastic depth, the
    training's number of proposals), detections `eval()`.

    Args:
        backbone: gives the features.
        roi: settings of the regions' heads: `MASK_RCNN` or `CASCADE_MASK_RCNN`, or your own.
        rpn: settings of the proposals.
        num_classes: classes without the background.
        channels: channels of the pyramid and of all heads.
        hidden: width of the box heads' linear layers.
    """

    def __init__(
        self,
        backbone: Backbone,
        roi: RoISettings,
        rpn: RPNSettings,
        num_classes: int = 80,
        channels: int = 256,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.neck = FPN(backbone.channels, channels)
        self.rpn_head = RPN(rpn, channels)
        self.roi_head = RoIHeads(roi, num_classes, channels, hidden)

    def forward(self, batch: Batch, targets: Sequence[Objects] | None = None) -> dict[str, Tensor] | list[Detections]:
        """Losses, to be added up, where there are targets, else detections.

        Args:
            batch: the images, see `ImageTransform`.
            targets: each image's objects.

        Raises:
            ValueError: targets that do not fit the images or the classes.
        """
        if targets is not None:
            check_objects(batch, targets, self.num_classes)
        features = self.neck(self.backbone(batch.images))
        outputs = self.rpn_head(features)
        proposals = self.rpn_head.propose(features, outputs, batch.sizes)
        if targets is None:
            return self.roi_head.detect(features, proposals, batch)
        losses = self.rpn_head.losses(features, outputs, batch.sizes, targets)
        return {**losses, **self.roi_head.losses(features, proposals, batch.sizes, targets)}
