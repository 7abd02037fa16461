"""How an image becomes tokens and tokens become fewer: NAT's and DiNAT's convolutions. All but the image is NHWC.

DiNATs and the isotropic models have Swin's and ViT's ways instead, which are timm's `PatchEmbed` and `PatchMerging`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def image_channels(model: nn.Module) -> int:
    """How many channels a model's images have: what its first convolution takes; also of timm's models."""
    return next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))


class ConvTokenizer(nn.Module):
    """The overlapping stem: two 3x3 convolutions with nothing between them, then a LayerNorm.

    Args:
        in_chans: channels of the image.
        dim: channels of the result; the first convolution gives half as many.
        strides: strides of the two convolutions; the published models use (2, 2).
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Shape:
        `[B, in_chans, H, W]` -> `[B, H', W', dim]`, each side divided by both strides, rounded up.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        strides: tuple[int, int] = (2, 2),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, strides[0], 1, device=device, dtype=dtype),
            nn.Conv2d(dim // 2, dim, 3, strides[1], 1, device=device, dtype=dtype),
        )
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Turn an image `[B, C, H, W]` into tokens `[B, H', W', dim]`."""
        # The convolutions then write NHWC, which on a CPU takes half the time of NCHW and the copy for the norm.
        x = x.contiguous(memory_format=torch.channels_last)
        tokens: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens


class ConvDownsample(nn.Module):
    """Halves each side and doubles the channels: a 3x3 convolution of stride 2 without bias, then a LayerNorm.

    Args:
        dim: channels of the input.
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Shape:
        `[B, H, W, dim]` -> `[B, ceil(H / 2), ceil(W / 2), 2 * dim]`.
    """

    def __init__(self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(2 * dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample `[B, H, W, dim]`."""
        reduced: Tensor = self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return reduced
