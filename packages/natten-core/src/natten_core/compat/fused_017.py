"""The fused operators of NATTEN 0.17, heads last; unlike NATTEN's they train their bias, on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from natten_core import functional
from natten_core.compat._errors import check_odd, raises_both
from natten_core.compat.checks import check_all_args

_NA = {1: functional.na1d, 2: functional.na2d, 3: functional.na3d}


def _make(rank: int, name: str) -> Callable[..., Tensor]:
    def na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        is_causal: Any = False,
        rpb: Tensor | None = None,
        scale: float | None = None,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        xformers_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        window, spread, causal = check_all_args(rank, kernel_size, dilation, is_causal)
        check_odd(window)
        output: Tensor = _NA[rank](
            unit_stride(query),
            unit_stride(key),
            unit_stride(value),
            window,
            dilation=spread,
            is_causal=causal,
            scale=scale,
            rpb=rpb,
            additional_keys=unit_stride(additional_keys),
            additional_values=unit_stride(additional_values),
        )
        return output

    na.__name__ = na.__qualname__ = name
    na.__doc__ = f"""`natten_core.na{rank}d`; `xformers_kwargs` are accepted and do nothing."""
    return raises_both(na)


def unit_stride(tensor: Any) -> Any:
    """`tensor`, or a copy of it where its last stride is not 1, which NATTEN took and natten-core does not."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


na1d, na2d, na3d = (_make(rank, f"na{rank}d") for rank in (1, 2, 3))


def _make_flex(rank: int) -> Callable[..., Tensor]:
    def flex_na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        is_causal: Any = False,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        xformers_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        return _FUSED[rank](
            query,
            key,
            value,
            kernel_size,
            dilation,
            is_causal,
            additional_keys=additional_keys,
            additional_values=additional_values,
            xformers_kwargs=xformers_kwargs,
        )

    flex_na.__name__ = flex_na.__qualname__ = f"flex_na{rank}d"
    flex_na.__doc__ = f"""`na{rank}d` without a bias or scale; not through FlexAttention."""
    return flex_na


_FUSED = {1: na1d, 2: na2d, 3: na3d}
flex_na1d, flex_na2d, flex_na3d = (_make_flex(rank) for rank in (1, 2, 3))


def compute_delta(out: Tensor, d_out: Tensor, delta: Tensor) -> None:
    """Writes the sum of `out * d_out` over the last axis, in the dtype of `delta`, into `delta`.

    NATTEN's backward began with it, and its tests ask `natten.libnatten` for it.
    """
    delta.copy_((out.to(delta.dtype) * d_out.to(delta.dtype)).sum(-1))
