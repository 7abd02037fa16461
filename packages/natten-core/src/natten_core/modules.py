"""Neighborhood attention as modules: projections, operator, and the padding of small maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from natten_core import _arguments
from natten_core.functional import Causal, PerAxis, _attend_packed
from natten_core.two_stage import attend_with_dropout

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _NeighborhoodAttention(nn.Module):
    """Multi-head neighborhood attention with its projections, on `[batch, *spatial, embed_dim]`.

    A map smaller than `kernel_size * dilation` on an axis is padded with zeros at its end before the projection and
    cropped after the attention, as the published models do; the padded tokens are not masked.

    `kernel_size` and `dilation` are plain tuples that may be changed after construction (`kernel_size` only where
    there is no bias, whose shape it decides).

    Args:
        embed_dim: number of channels, a multiple of `num_heads`.
        num_heads: number of heads.
        kernel_size: window size, an int or one per spatial axis.
        stride: queries per window position, an int or one per spatial axis.
        dilation: distance between the tokens of a window, an int or one per spatial axis.
        is_causal: whether windows end at their query, a bool or one per spatial axis.
        rel_pos_bias: whether to learn a relative positional bias, `rpb`, of shape
            `[num_heads, 2 * kernel_size - 1, ...]`.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor on the dot products; `head_dim ** -0.5` when None.
        attn_drop: dropout probability of the attention weights. In training it takes the two-stage form, which
            stores these weights.
        proj_drop: dropout probability of the output.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Raises:
        ValueError: settings that do not go together, or a `kernel_size` that does not fit the bias.
    """

    rank: int

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        rel_pos_bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _arguments.check_module(embed_dim, num_heads, attn_drop, proj_drop, qk_scale)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.kernel_size, self.stride, self.dilation, self.is_causal = _arguments.check_settings(
            self.rank, kernel_size, stride, dilation, is_causal
        )
        self.scale = self.head_dim**-0.5 if qk_scale is None else float(qk_scale)
        self.attn_drop = nn.Dropout(attn_drop)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias, device=device, dtype=dtype)
        self.rpb: nn.Parameter | None = None
        if rel_pos_bias:
            table = [2 * kernel - 1 for kernel in self.kernel_size]
            self.rpb = nn.Parameter(torch.empty(num_heads, *table, device=device, dtype=dtype))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(embed_dim, embed_dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attends within `[batch, *spatial, embed_dim]`, and returns the same shape."""
        # TorchScript compiles one branch alone, and of the other no more than its syntax has to be of its kind.
        if torch.jit.is_scripting():
            output = self._attend_in_script(x)
        else:
            output = self._attend(x)
        projected: Tensor = self.proj_drop(self.proj(output.flatten(-2)))
        return projected

    def _attend(self, x: Tensor) -> Tensor:
        """`[batch, *spatial, heads, head_dim]`."""
        _arguments.check_module_input(x, self.rank, self.embed_dim)
        spatial = x.shape[1:-1]
        padded = self._pad(x)
        qkv = self.qkv(padded).unflatten(-1, (3, self.num_heads, self.head_dim))
        settings = (*self._window(), self.scale, self.rpb)
        if self.training and self.attn_drop.p:
            output = attend_with_dropout(qkv, *settings, self.rank, self.attn_drop.p)
        else:
            output, _ = _attend_packed(qkv, *settings, None, None, "auto", False, self.rank)
        if padded is not x:
            for axis, length in enumerate(spatial):
                output = output.narrow(1 + axis, 0, length)
        return output

    def _window(self) -> tuple[PerAxis, PerAxis, PerAxis, Causal]:
        return self.kernel_size, self.stride, self.dilation, self.is_causal

    def _pad(self, x: Tensor) -> Tensor:
        window, _, spread, _ = self._window()
        kernel_size = _arguments.per_axis("kernel_size", window, self.rank)
        dilation = _arguments.per_axis("dilation", spread, self.rank)
        missing = [max(0, k * d - n) for k, d, n in zip(kernel_size, dilation, x.shape[1:-1], strict=True)]
        if not any(missing):
            return x
        return nn.functional.pad(x, [0, 0, *(side for end in reversed(missing) for side in (0, end))])

    def _attend_in_script(self, x: Tensor) -> Tensor:
        """As `_attend`, in what TorchScript knows of Python: calls the operators, which have no fallback."""
        kernel_size: list[int] = [one for one in self.kernel_size]  # noqa: C416  # it has no list(tuple)
        stride: list[int] = [one for one in self.stride]  # noqa: C416
        dilation: list[int] = [one for one in self.dilation]  # noqa: C416
        is_causal: list[int] = [int(one) for one in self.is_causal]
        spatial = x.shape[1:-1]
        sides = [0, 0]
        for i in range(len(spatial)):
            axis = len(spatial) - 1 - i
            sides += [0, max(0, kernel_size[axis] * dilation[axis] - spatial[axis])]
        qkv = self.qkv(nn.functional.pad(x, sides)).unflatten(-1, [3, self.num_heads, self.head_dim])
        if self.training and self.attn_drop.p > 0:
            query, key, value = qkv.unbind(-3)
            scores = torch.ops.natten_core.qk(
                query, key, self.rpb, None, kernel_size, stride, dilation, is_causal, self.scale
            )
            weights = nn.functional.dropout(torch.softmax(scores, -1), self.attn_drop.p)
            output = torch.ops.natten_core.av(weights, value, None, kernel_size, stride, dilation, is_causal)
        else:
            output, _ = torch.ops.natten_core.na_qkvpacked_forward(
                qkv, self.rpb, None, None, kernel_size, stride, dilation, is_causal, self.scale
            )
        cropped: Tensor = output
        for axis in range(len(spatial)):
            cropped = cropped.narrow(1 + axis, 0, spatial[axis])
        return cropped

    def extra_repr(self) -> str:
        """The settings, as printed with the module."""
        parts = [f"{self.embed_dim}, num_heads={self.num_heads}, kernel_size={self.kernel_size}"]
        parts += [
            f"{name}={value}"
            for name, value in (("stride", self.stride), ("dilation", self.dilation))
            if value not in (1, [1] * self.rank, (1,) * self.rank)
        ]
        if self.is_causal not in (False, [False] * self.rank, (False,) * self.rank):
            parts.append(f"is_causal={self.is_causal}")
        if self.rpb is None:
            parts.append("rel_pos_bias=False")
        return ", ".join(parts)


_Module = TypeVar("_Module", bound=type[_NeighborhoodAttention])


def _documented(cls: _Module) -> _Module:
    """Adds what all of them have in common to the first line of a class."""
    _, common = str(_NeighborhoodAttention.__doc__).split("\n", 1)
    cls.__doc__ = f"{cls.__doc__}\n{common}"
    return cls


@_documented
class NeighborhoodAttention1D(_NeighborhoodAttention):
    """Multi-head neighborhood attention with its projections, on `[batch, x, embed_dim]`."""

    rank = 1


@_documented
class NeighborhoodAttention2D(_NeighborhoodAttention):
    """Multi-head neighborhood attention with its projections, on `[batch, y, x, embed_dim]`."""

    rank = 2


@_documented
class NeighborhoodAttention3D(_NeighborhoodAttention):
    """Multi-head neighborhood attention with its projections, on `[batch, z, y, x, embed_dim]`."""

    rank = 3
