"""The modules of NATTEN 0.20 and 0.21: with a stride, without a bias, dropout of weights or padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from natten_core import modules

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _Attention(modules._NeighborhoodAttention):
    """`natten_core.NeighborhoodAttention1D` and its siblings, without a bias or padding.

    Raises:
        ValueError: settings that do not go together; in the forward, a map that is too small.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        is_causal: Any = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            kernel_size,
            stride=stride,
            dilation=dilation,
            is_causal=is_causal,
            rel_pos_bias=False,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            proj_drop=proj_drop,
        )

    def _pad(self, x: Tensor) -> Tensor:
        return x


class NeighborhoodAttention1D(_Attention):
    """On `[batch, x, embed_dim]`."""

    rank = 1


class NeighborhoodAttention2D(_Attention):
    """On `[batch, y, x, embed_dim]`."""

    rank = 2


class NeighborhoodAttention3D(_Attention):
    """On `[batch, z, y, x, embed_dim]`."""

    rank = 3
