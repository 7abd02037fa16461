"""UPerNet's head (https://arxiv.org/abs/1807.10221) and the auxiliary head that trains beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dinat_zoo.dense.layers import conv_unit, init_normal


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of `[B, C, H, W]` to `size`, without antialiasing, with half-pixel centres."""
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    """Pools the coarsest map at several sizes, runs a feature pyramid, and joins all levels at the finest one's size.

    Args:
        in_channels: channels of each input, finest first.
        num_classes: classes.
        channels: width of everything inside.
        pool_scales: sides to which the coarsest map is pooled.
        dropout: rate of dropped channels before the classifier.

    Shape:
        n maps `[B, in_channels[i], H_i, W_i]` -> logits `[B, num_classes, H_0, W_0]`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        coarsest = in_channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_unit(coarsest, channels, 1, norm=True, act=True))
            for side in pool_scales
        )
        self.bottleneck = conv_unit(coarsest + len(pool_scales) * channels, channels, 3, norm=True, act=True)
        self.lateral_convs = nn.ModuleList(conv_unit(x, channels, 1, norm=True, act=True) for x in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(conv_unit(channels, channels, 3, norm=True, act=True) for _ in in_channels[:-1])
        self.fpn_bottleneck = conv_unit(len(in_channels) * channels, channels, 3, norm=True, act=True)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_normal(self.conv_seg, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map the backbone's features to logits."""
        coarsest = features[-1]
        pooled = [resize(module(coarsest), coarsest.shape[2:]) for module in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([coarsest, *pooled], dim=1)))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)] + laterals[-1:]
        joined = torch.cat([levels[0], *(resize(x, levels[0].shape[2:]) for x in levels[1:])], dim=1)
        logits: Tensor = self.conv_seg(self.dropout(self.fpn_bottleneck(joined)))
        return logits


class FCNHead(nn.Module):
    """One convolution and a classifier on one level.

    Args:
        in_channels: channels of the level.
        num_classes: classes.
        channels: width.
        dropout: rate of dropped channels before the classifier.

    Shape:
        `[B, in_channels, H, W]` -> logits `[B, num_classes, H, W]`.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_unit(in_channels, channels, 3, norm=True, act=True))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_normal(self.conv_seg, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map one level's features to logits."""
        logits: Tensor = self.conv_seg(self.dropout(self.convs(x)))
        return logits
