"""The unfused operators of NATTEN 0.14 to 0.17, whose tensors have the heads before the spatial axes.

Inputs are viewed heads last, not copied. Outputs are contiguous heads first, as NATTEN's were, since callers may `view`
them. A query's weights are in the order of natten-core's: row-major over the window, then the additional keys, and
`-inf` in the last slots of a window where a causal axis has no key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from natten_core import two_stage
from natten_core.compat import nested
from natten_core.compat._errors import check_odd, raises_both
from natten_core.compat.checks import check_all_args

__all__ = ["na1d_av", "na1d_qk", "na2d_av", "na2d_qk", "na3d_av", "na3d_qk"]

_QK = {1: two_stage.na1d_qk, 2: two_stage.na2d_qk, 3: two_stage.na3d_qk}
_AV = {1: two_stage.na1d_av, 2: two_stage.na2d_av, 3: two_stage.na3d_av}


def _make_qk(rank: int) -> Callable[..., Tensor]:
    def qk(
        query: Tensor,
        key: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        additional_keys: Tensor | None = None,
        is_causal: Any = False,
        rpb: Tensor | None = None,
    ) -> Tensor:
        window, spread, causal = check_all_args(rank, kernel_size, dilation, is_causal)
        check_odd(window)
        settings: dict[str, Any] = {"dilation": spread, "is_causal": causal, "rpb": rpb}

        def scores(query: Tensor, key: Tensor, more: Tensor | None) -> Tensor:
            found = _QK[rank](_last(query), _last(key), window, additional_keys=_maybe_last(more), **settings)
            return _first(found)

        if query.is_nested or key.is_nested:
            return nested.each(scores, query, key, additional_keys)
        return scores(query, key, additional_keys)

    return _named(
        qk,
        f"na{rank}d_qk",
        """Unscaled dot products, plus the bias, of every query with its window: `[B, heads, *spatial, K^n + N]`.

        `query` and `key` are `[B, heads, *spatial, head_dim]`, `additional_keys` `[B, heads, N, head_dim]`, `rpb`
        `[heads, 2K-1, ...]`.""",
    )


def _make_av(rank: int) -> Callable[..., Tensor]:
    def av(
        attn: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        additional_values: Tensor | None = None,
        is_causal: Any = False,
    ) -> Tensor:
        window, spread, causal = check_all_args(rank, kernel_size, dilation, is_causal)
        check_odd(window)

        def output(attn: Tensor, value: Tensor, more: Tensor | None) -> Tensor:
            # Autocast leaves softmax's results in fp32 beside fp16 values.
            weights, values = _last(attn.to(value.dtype)), _last(value)
            found = _AV[rank](
                weights, values, window, dilation=spread, is_causal=causal, additional_values=_maybe_last(more)
            )
            return _first(found)

        if attn.is_nested or value.is_nested:
            return nested.each(output, attn, value, additional_values)
        return output(attn, value, additional_values)

    return _named(
        av,
        f"na{rank}d_av",
        """The values of every window, weighted: `[B, heads, *spatial, head_dim]`.

        `attn` is `[B, heads, *spatial, K^n + N]`, `value` `[B, heads, *spatial, head_dim]`, `additional_values`
        `[B, heads, N, head_dim]`.""",
    )


def _named(function: Callable[..., Tensor], name: str, doc: str) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return raises_both(function)


def _last(tensor: Tensor) -> Tensor:
    if tensor.ndim < 3:
        return tensor  # the operator says what is wrong with it
    return (tensor if tensor.stride(-1) == 1 else tensor.contiguous()).movedim(1, -2)


def _maybe_last(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _last(tensor)


def _first(tensor: Tensor) -> Tensor:
    return tensor.movedim(-2, 1).contiguous()


na1d_qk, na2d_qk, na3d_qk = (_make_qk(rank) for rank in (1, 2, 3))
na1d_av, na2d_av, na3d_av = (_make_av(rank) for rank in (1, 2, 3))
