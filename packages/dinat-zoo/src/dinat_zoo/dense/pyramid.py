"""A backbone for torchvision's detectors."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dinat_zoo.dense.backbone import Backbone


class PyramidBackbone(nn.Module):
    """A `Backbone` under torchvision's feature pyramid, as `torchvision.models.detection`'s models take it.

    torchvision's heads are not those of the published checkpoints; `Detector` has these.

    Args:
        body: gives the features.
        out_channels: channels of every level of the pyramid.

    Shape:
        `[B, in_chans, H, W]` -> maps `[B, out_channels, H_i, W_i]` named "0", "1", ... and "pool".
    """

    def __init__(self, body: Backbone, out_channels: int = 256) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.channels, out_channels, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images to the pyramid, finest level first."""
        pyramid: dict[str, Tensor] = self.fpn({str(i): x for i, x in enumerate(self.body(images))})
        return pyramid
