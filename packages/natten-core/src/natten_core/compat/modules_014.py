"""The modules of NATTEN 0.14 and 0.15: with a bias, and padding small maps."""

from __future__ import annotations

from natten_core import modules
from natten_core.compat._errors import raises_both
from natten_core.functional import Causal, PerAxis

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _Attention(modules._NeighborhoodAttention):
    """Neighborhood attention with a bias unless told otherwise; `kernel_size` and `dilation` are ints.

    Args:
        dim: number of channels.
        num_heads: number of heads.
        kernel_size: odd window size.
        dilation: distance between the tokens of a window; None is 1.
        bias: whether to learn the relative positional bias `rpb`.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor on the dot products; `head_dim ** -0.5` when None.
        attn_drop: dropout probability of the attention weights.
        proj_drop: dropout probability of the output.

    Raises:
        AssertionError: an even kernel size, or a dilation below 1.
    """

    kernel_size: int  # type: ignore[assignment]
    dilation: int  # type: ignore[assignment]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int | None = 1,
        bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        settings = _checked(kernel_size, dilation)
        self._build((settings,) * self.rank, dim, num_heads, bias, qkv_bias, qk_scale, attn_drop, proj_drop)
        self.kernel_size, self.dilation = settings
        self.window_size = self.kernel_size * self.dilation

    def _build(
        self,
        axes: tuple[tuple[int, int], ...],
        dim: int,
        num_heads: int,
        bias: bool,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        """Initialises the module for a kernel size and dilation per axis."""
        super().__init__(
            dim,
            num_heads,
            [kernel for kernel, _ in axes],
            dilation=[step for _, step in axes],
            rel_pos_bias=bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )

    def _window(self) -> tuple[PerAxis, PerAxis, PerAxis, Causal]:
        return self.kernel_size, 1, self.dilation, False

    forward = raises_both(modules._NeighborhoodAttention.forward)

    def extra_repr(self) -> str:
        """The settings, as printed with the module."""
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, rel_pos_bias={self.rpb is not None}"
        )


class NeighborhoodAttention1D(_Attention):
    """On `[batch, x, dim]`."""

    rank = 1


class NeighborhoodAttention2D(_Attention):
    """On `[batch, y, x, dim]`."""

    rank = 2


class NeighborhoodAttention3D(_Attention):
    """On `[batch, z, y, x, dim]`, since 0.15; the depth may have a kernel size and dilation of its own."""

    rank = 3

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        kernel_size_d: int | None = None,
        dilation: int | None = 1,
        dilation_d: int | None = None,
        bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        side = _checked(kernel_size, dilation)
        depth = _checked(kernel_size_d or kernel_size, dilation_d or dilation)
        self._build((depth, side, side), dim, num_heads, bias, qkv_bias, qk_scale, attn_drop, proj_drop)
        self.kernel_size, self.dilation = side
        self.kernel_size_d, self.dilation_d = depth
        self.window_size, self.window_size_d = side[0] * side[1], depth[0] * depth[1]

    def _window(self) -> tuple[PerAxis, PerAxis, PerAxis, Causal]:
        window = self.kernel_size_d, self.kernel_size, self.kernel_size
        return window, 1, (self.dilation_d, self.dilation, self.dilation), False


def _checked(kernel_size: int, dilation: int | None) -> tuple[int, int]:
    if not (kernel_size > 1 and kernel_size % 2):
        raise AssertionError(f"kernel_size must be odd and at least 3 in this version of NATTEN, got {kernel_size}")
    if dilation is not None and dilation < 1:
        raise AssertionError(f"dilation must be at least 1, got {dilation}")
    return kernel_size, dilation or 1
