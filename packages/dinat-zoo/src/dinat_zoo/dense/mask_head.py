"""The head that draws a region's mask (Mask R-CNN, https://arxiv.org/abs/1703.06870), and what surrounds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, grid_sample, relu
from torchvision.ops import roi_align

from dinat_zoo.dense.layers import conv_unit

SIDE = 14  # bins of a region's features; masks have twice as many


class MaskHead(nn.Module):
    """Four convolutions, a transposed one that doubles the sides, and one mask for every class.

    Args:
        num_classes: classes.
        channels: channels of the pyramid.

    Shape:
        `[N, channels, 14, 14]` -> logits `[N, num_classes, 28, 28]`.
    """

    def __init__(self, num_classes: int, channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_unit(channels, channels, 3, norm=False, act=True) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits of regions."""
        for conv in self.convs:
            x = conv(x)
        logits: Tensor = self.conv_logits(relu(self.upsample(x)))
        return logits


def mask_loss(logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross entropy of each region's mask of its own class, averaged over pixels.

    Args:
        logits: `[N, classes, S, S]`.
        labels: `[N]`.
        wanted: `[N, S, S]`, 0 or 1.
    """
    if not len(logits):
        return logits.float().sum()  # 0, with a gradient for every parameter
    own = logits[torch.arange(len(labels), device=labels.device), labels].float()
    return binary_cross_entropy_with_logits(own, wanted)


def crop_masks(masks: Tensor, index: Tensor, regions: Tensor, side: int = 2 * SIDE) -> Tensor:
    """What objects' masks look like within regions: set where at least half of a bin is.

    Args:
        masks: `[M, H, W]`, of an image's objects.
        index: `[N]`, each region's object.
        regions: `[N, 4]`.
        side: bins per side.

    Returns:
        `[N, side, side]`, fp32.
    """
    used, place = index.unique(return_inverse=True)
    rois = torch.cat([place[:, None].to(regions.dtype), regions], dim=1)
    covered: Tensor = roi_align(masks[used, None].to(rois.dtype), rois, side, 1.0, sampling_ratio=0, aligned=True)
    return (covered[:, 0] >= 0.5).float()


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Stretch masks over their boxes.

    Args:
        masks: probabilities `[N, S, S]`.
        boxes: `[N, 4]`, left, top, right, bottom in pixels.
        size: height and width of the image.
        threshold: from which probability on a pixel is set.

    Returns:
        `[N, height, width]`, bool: bilinear interpolation at the pixels' centres, 0 beyond the masks' edges.
    """
    canvas = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    # One at a time, and only near the box: all at once would take gigabytes.
    for target, mask, box in zip(canvas, masks, boxes.tolist(), strict=True):
        left, top, right, bottom = box
        x0, y0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
        x1, y1 = min(int(right) + 2, size[1]), min(int(bottom) + 2, size[0])
        if x0 >= x1 or y0 >= y1 or right <= left or bottom <= top:
            continue
        x = (torch.arange(x0, x1, device=masks.device) + 0.5 - left) / (right - left) * 2 - 1
        y = (torch.arange(y0, y1, device=masks.device) + 0.5 - top) / (bottom - top) * 2 - 1
        y, x = torch.meshgrid(y, x, indexing="ij")
        drawn = grid_sample(mask[None, None].float(), torch.stack([x, y], dim=-1)[None], align_corners=False)[0, 0]
        target[y0:y1, x0:x1] = drawn >= threshold
    return canvas
