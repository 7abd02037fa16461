"""Self attention over a whole map with NAT's relative positional bias: that of the isotropic ViT with bias."""

from __future__ import annotations

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from dinat_zoo._rpb import interpolate_rpb


class SelfAttention2D(nn.Module):
    """Multi-head self attention with its projections and a bias, on maps of one size.

    What `NeighborhoodAttention2D` computes for a window as large as the map.

    Args:
        dim: channels, a multiple of `num_heads`.
        num_heads: attention heads.
        map_size: height and width of the map, which decide the shape of the bias,
            `[num_heads, 2 * height - 1, 2 * width - 1]`.
        qkv_bias: whether the query, key and value projection has a bias.
        attn_drop: dropout of attention weights.
        proj_drop: dropout after the output projection.
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Shape:
        `[B, height, width, dim]` -> `[B, height, width, dim]`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: tuple[int, int],
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.map_size = map_size
        self.attn_drop = attn_drop
        table = [2 * side - 1 for side in map_size]
        self.rpb = nn.Parameter(torch.empty(num_heads, *table, device=device, dtype=dtype))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def set_map_size(self, map_size: tuple[int, int]) -> None:
        """Take maps of another size from now on; the bias is interpolated to it."""
        self.map_size = map_size
        resized = interpolate_rpb(self.rpb.detach(), map_size)
        self.rpb = nn.Parameter(resized, requires_grad=self.rpb.requires_grad)

    def bias(self) -> Tensor:
        """The bias of every query and key, `[num_heads, tokens, tokens]`: the table at key - query."""
        height, width = self.map_size
        y, x = torch.arange(height, device=self.rpb.device), torch.arange(width, device=self.rpb.device)
        dy = y[None, :] - y[:, None] + height - 1
        dx = x[None, :] - x[:, None] + width - 1
        return self.rpb[:, dy[:, None, :, None], dx[None, :, None, :]].reshape(
            self.num_heads, height * width, height * width
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend within `[B, height, width, dim]`."""
        batch, height, width, dim = x.shape
        if height != self.map_size[0] or width != self.map_size[1]:
            raise ValueError(
                f"the map is {height}x{width}, the bias is for {self.map_size[0]}x{self.map_size[1]}: "
                "call the model's set_input_size, or create it with img_size."
            )
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop if self.training else 0.0
        bias = self.bias().to(q.dtype)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        output: Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).reshape(batch, height, width, dim)))
        return output

    def extra_repr(self) -> str:
        """The settings, as printed with the module."""
        return f"num_heads={self.num_heads}, map_size={self.map_size}"


# The check of the map's size is control flow that torch.fx cannot follow.
register_notrace_module(SelfAttention2D)
