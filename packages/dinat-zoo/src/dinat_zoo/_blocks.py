"""The parts that NAT and DiNAT are made of. All but the tokenizer take and give `[B, H, W, dim]`."""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp
from timm.models import register_notrace_module
from torch import Tensor, nn

from natten_core import NeighborhoodAttention2D

# torch.fx cannot follow the padding of maps smaller than the window: their sizes decide the control flow.
register_notrace_module(NeighborhoodAttention2D)


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


class NeighborhoodBlock(nn.Module):
    """A pre-norm transformer block whose attention looks at a (dilated) neighborhood; sections 3.1-3.3 of the paper.

    Args:
        dim: channels.
        num_heads: attention heads.
        kernel_size: side of the neighborhood.
        dilation: distance between the neighbors; 1 is NAT's attention.
        mlp_ratio: width of the MLP's hidden layer in units of `dim`.
        qkv_bias: whether the query, key and value projection has a bias.
        layer_scale: initial value of a learnt per-channel scale of both branches, or None for no such scale.
        proj_drop: dropout after the attention's output projection and inside the MLP.
        attn_drop: dropout of attention weights.
        drop_path: probability to skip a branch in training (stochastic depth).
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Shape:
        `[B, H, W, dim]` -> `[B, H, W, dim]`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int = 1,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attn = NeighborhoodAttention2D(
            dim,
            num_heads,
            kernel_size,
            dilation=dilation,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            device=device,
            dtype=dtype,
        )
        self.norm2 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop, device=device, dtype=dtype)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.gamma1: nn.Parameter | None = None
        self.gamma2: nn.Parameter | None = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
            self.gamma2 = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
            self.reset_layer_scale()

    def reset_layer_scale(self) -> None:
        """Fill the branch scales, where there are any, with their initial value."""
        for gamma in (self.gamma1, self.gamma2):
            if gamma is not None and self.layer_scale is not None:
                nn.init.constant_(gamma, self.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and transform `[B, H, W, dim]`."""
        attended: Tensor = x + self.drop_path1(_scale(self.attn(self.norm1(x)), self.gamma1))
        output: Tensor = attended + self.drop_path2(_scale(self.mlp(self.norm2(attended)), self.gamma2))
        return output


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
