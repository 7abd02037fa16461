"""The pre-norm transformer blocks of which the models are made. All take and give `[B, H, W, dim]`."""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp
from timm.models import checkpoint, register_notrace_module
from torch import Tensor, nn

from dinat_zoo._attention import SelfAttention2D
from natten_core import NeighborhoodAttention2D

# torch.fx cannot follow the padding of maps smaller than the window: their sizes decide the control flow.
register_notrace_module(NeighborhoodAttention2D)


class Block(nn.Module):
    """A pre-norm transformer block around a given attention; sections 3.1-3.3 of the paper.

    Args:
        attn: the attention, `[B, H, W, dim]` to the same.
        dim: channels.
        mlp_ratio: width of the MLP's hidden layer in units of `dim`.
        layer_scale: initial value of a learnt per-channel scale of both branches, or None for no such scale.
        proj_drop: dropout inside the MLP.
        drop_path: probability to skip a branch in training (stochastic depth).
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Shape:
        `[B, H, W, dim]` -> `[B, H, W, dim]`.
    """

    def __init__(
        self,
        attn: nn.Module,
        dim: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.grad_checkpointing = False
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attn = attn
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
        if self.grad_checkpointing and not torch.jit.is_scripting():
            recomputed: Tensor = checkpoint(self._forward, x)
            return recomputed
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        attended: Tensor = x + self.drop_path1(_scale(self.attn(self.norm1(x)), self.gamma1))
        output: Tensor = attended + self.drop_path2(_scale(self.mlp(self.norm2(attended)), self.gamma2))
        return output


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


class NeighborhoodBlock(Block):
    """A block whose attention looks at a (dilated) neighborhood.

    Args:
        dim: channels.
        num_heads: attention heads.
        kernel_size: side of the neighborhood.
        dilation: distance between the neighbors; 1 is NAT's attention.
        mlp_ratio: as in `Block`.
        qkv_bias: whether the query, key and value projection has a bias.
        layer_scale: as in `Block`.
        proj_drop: dropout after the attention's output projection and inside the MLP.
        attn_drop: dropout of attention weights.
        drop_path: as in `Block`.
        device: where the parameters are created.
        dtype: dtype of the parameters.
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
        attn = NeighborhoodAttention2D(
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
        super().__init__(attn, dim, mlp_ratio, layer_scale, proj_drop, drop_path, device, dtype)


class SelfAttentionBlock(Block):
    """A block whose attention looks at the whole map, of size `map_size`; other arguments as `NeighborhoodBlock`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: tuple[int, int],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        attn = SelfAttention2D(dim, num_heads, map_size, qkv_bias, attn_drop, proj_drop, device, dtype)
        super().__init__(attn, dim, mlp_ratio, None, proj_drop, drop_path, device, dtype)
