"""The operators under their names of NATTEN 0.14 and 0.15: bias before the settings, one size for height and width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from natten_core.compat import heads_first
from natten_core.compat._errors import InvalidArgument

_QK = {1: heads_first.na1d_qk, 2: heads_first.na2d_qk, 3: heads_first.na3d_qk}
_AV = {1: heads_first.na1d_av, 2: heads_first.na2d_av, 3: heads_first.na3d_av}


def _make_qkrpb(rank: int) -> Callable[..., Tensor]:
    def qkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int | None = None) -> Tensor:
        if dilation is None:
            if rpb is None:
                raise InvalidArgument("without a bias, which tells the kernel size, give both kernel_size and dilation")
            kernel_size, dilation = (rpb.shape[-1] + 1) // 2, kernel_size
        return _QK[rank](query, key, kernel_size, dilation, rpb=rpb)

    qkrpb.__name__ = qkrpb.__qualname__ = f"natten{rank}dqkrpb"
    qkrpb.__doc__ = (
        f"""`na{rank}d_qk` with a bias, or None; of four arguments, as up to 0.14.4, the last is the dilation."""
    )
    return qkrpb


def _make_av(rank: int) -> Callable[..., Tensor]:
    def av(
        attn: Tensor,
        value: Tensor,
        kernel_size: int,
        dilation: int | None = None,
        additional_values: Tensor | None = None,
    ) -> Tensor:
        if dilation is None:
            slots = attn.shape[-1]
            kernel_size, dilation = round(slots ** (1 / rank)), kernel_size
            if kernel_size**rank != slots:
                raise InvalidArgument(
                    f"attn's {slots} weights are no window of {rank} equal sides: give kernel_size too"
                )
        return _AV[rank](attn, value, kernel_size, dilation, additional_values)

    av.__name__ = av.__qualname__ = f"natten{rank}dav"
    av.__doc__ = f"""`na{rank}d_av`; of three arguments, as up to 0.14.4, the last is the dilation."""
    return av


def _make_with_bias(rank: int) -> Callable[..., Tensor]:
    def qk_with_bias(
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        kernel_size: int,
        dilation: int,
        additional_keys: Tensor | None = None,
    ) -> Tensor:
        return _QK[rank](query, key, kernel_size, dilation, additional_keys, rpb=bias)

    qk_with_bias.__name__ = qk_with_bias.__qualname__ = f"na{rank}d_qk_with_bias"
    qk_with_bias.__doc__ = f"""`na{rank}d_qk` with a bias, or None."""
    return qk_with_bias


def na3d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """`na3d_qk` with a bias, or None, and a kernel size and dilation of its own for the depth."""
    settings = _deep(kernel_size_d, kernel_size), _deep(dilation_d, dilation)
    return heads_first.na3d_qk(query, key, *settings, additional_keys, rpb=bias)


def na3d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """`na3d_qk_with_bias` without a bias, as in 0.15."""
    return na3d_qk_with_bias(query, key, None, kernel_size_d, kernel_size, dilation_d, dilation, additional_keys)


def na3d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_values: Tensor | None = None,
) -> Tensor:
    """What follows `na3d_qk`, as in 0.15."""
    settings = _deep(kernel_size_d, kernel_size), _deep(dilation_d, dilation)
    return heads_first.na3d_av(attn, value, *settings, additional_values)


def natten3dqkrpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    """`na3d_qk_with_bias` without additional keys."""
    return na3d_qk_with_bias(query, key, rpb, kernel_size_d, kernel_size, dilation_d, dilation)


def _deep(depth: Any, side: Any) -> tuple[Any, Any, Any]:
    return depth, side, side


def _function(apply: Callable[..., Tensor], name: str) -> type:
    return type(name, (), {"apply": staticmethod(apply), "__doc__": f"Its `apply` is `{apply.__name__}`."})


natten1dqkrpb, natten2dqkrpb = (_make_qkrpb(rank) for rank in (1, 2))
natten1dav, natten2dav = (_make_av(rank) for rank in (1, 2))
na1d_qk_with_bias, na2d_qk_with_bias = (_make_with_bias(rank) for rank in (1, 2))
natten1dqk, natten2dqk = heads_first.na1d_qk, heads_first.na2d_qk
natten3dqk, natten3dav = na3d_qk, na3d_av
# Clients of 0.14 call the classes behind the functions.
NATTEN1DQKRPBFunction = _function(natten1dqkrpb, "NATTEN1DQKRPBFunction")
NATTEN2DQKRPBFunction = _function(natten2dqkrpb, "NATTEN2DQKRPBFunction")
NATTEN1DAVFunction = _function(natten1dav, "NATTEN1DAVFunction")
NATTEN2DAVFunction = _function(natten2dav, "NATTEN2DAVFunction")
