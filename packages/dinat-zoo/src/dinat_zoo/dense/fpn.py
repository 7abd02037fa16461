"""The feature pyramid network (Lin et al., https://arxiv.org/abs/1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from dinat_zoo.dense.layers import conv_unit


class FPN(nn.Module):
    """Brings all levels to one width and adds the coarser ones to the finer ones, top down, by nearest neighbors.

    torchvision's `FeaturePyramidNetwork` computes the same; this one has the published key names.

    Args:
        in_channels: channels of each input, finest first.
        out_channels: channels of every output.

    Shape:
        n maps `[B, in_channels[i], H_i, W_i]` -> n + 1 maps of `out_channels`; the last is every second pixel of the
        one before.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            conv_unit(channels, out_channels, 1, norm=False, act=False) for channels in in_channels
        )
        self.fpn_convs = nn.ModuleList(
            conv_unit(out_channels, out_channels, 3, norm=False, act=False) for _ in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map the backbone's features to the pyramid, finest first."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + interpolate(laterals[i], size=laterals[i - 1].shape[-2:])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        return [*outputs, max_pool2d(outputs[-1], 1, stride=2)]
