"""The modules of NATTEN 0.17: settings per axis, a bias on request, no padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from natten_core import modules
from natten_core.compat import switches
from natten_core.compat._errors import check_odd, raises_both
from natten_core.compat.checks import check_all_args

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _Attention(modules._NeighborhoodAttention):
    """Neighborhood attention without padding; `kernel_size`, `dilation` and `is_causal` are tuples.

    Args:
        dim: number of channels.
        num_heads: number of heads.
        kernel_size: odd window size, an int or one per spatial axis.
        dilation: distance between the tokens of a window, an int or one per spatial axis.
        is_causal: whether windows end at their query, a bool or one per spatial axis.
        rel_pos_bias: whether to learn the relative positional bias `rpb`, also with causal axes.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor on the dot products; `head_dim ** -0.5` when None.
        attn_drop: dropout probability of the attention weights, applied whether or not fused NA is switched on.
        proj_drop: dropout probability of the output.
        use_experimental_ops: NATTEN had fused operators only of this kind, so that fused NA must be switched on.

    Raises:
        ValueError: settings that do not go together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: Any,
        dilation: Any = 1,
        is_causal: Any = False,
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_experimental_ops: bool = False,
    ) -> None:
        window, spread, causal = check_all_args(self.rank, kernel_size, dilation, is_causal)
        super().__init__(
            dim,
            num_heads,
            window,
            dilation=spread,
            is_causal=causal,
            rel_pos_bias=rel_pos_bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.use_experimental_ops = use_experimental_ops

    @raises_both
    def forward(self, x: Tensor) -> Tensor:
        """Attends within `[batch, *spatial, dim]`, and returns the same shape.

        Raises:
            ValueError: an even kernel size, or a map smaller than `kernel_size * dilation` on an axis.
            NotImplementedError: `use_experimental_ops` while fused NA is switched off, which is the default.
        """
        check_odd(self.kernel_size)
        if self.use_experimental_ops and not switches.is_fused_na_enabled():
            raise NotImplementedError("use_experimental_ops needs fused NA: call natten.use_fused_na()")
        return super().forward(x)

    def _pad(self, x: Tensor) -> Tensor:
        return x


class NeighborhoodAttention1D(_Attention):
    """On `[batch, x, dim]`."""

    rank = 1


class NeighborhoodAttention2D(_Attention):
    """On `[batch, y, x, dim]`."""

    rank = 2


class NeighborhoodAttention3D(_Attention):
    """On `[batch, z, y, x, dim]`."""

    rank = 3
