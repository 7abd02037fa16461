"""The operators of NATTEN 0.20 and 0.21, heads last. What only chose and tuned its kernels is accepted unused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from natten_core import functional, merge
from natten_core.compat._errors import InvalidArgument
from natten_core.compat.checks import check_all_args_with_stride
from natten_core.compat.fused_017 import unit_stride

_NA = {1: functional.na1d, 2: functional.na2d, 3: functional.na3d}
_FAMILIES = ("cutlass", "hopper", "blackwell", "flex")


def _attend(
    rank: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    is_causal: Any = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
) -> Any:
    window, step, spread, causal = check_all_args_with_stride(rank, kernel_size, stride, dilation, is_causal)
    return _NA[rank](
        unit_stride(query),
        unit_stride(key),
        unit_stride(value),
        window,
        stride=step,
        dilation=spread,
        is_causal=causal,
        scale=scale,
        additional_keys=unit_stride(additional_keys),
        additional_values=unit_stride(additional_values),
        return_lse=return_lse,
    )


def _make(rank: int | None) -> Callable[..., Any]:
    def na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        is_causal: Any = False,
        scale: float | None = None,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        backend: str | None = None,
        q_tile_shape: Any = None,
        kv_tile_shape: Any = None,
        backward_q_tile_shape: Any = None,
        backward_kv_tile_shape: Any = None,
        backward_kv_splits: Any = None,
        backward_use_pt_reduction: bool = False,
        run_persistent_kernel: bool = True,
        kernel_schedule: Any = None,
        torch_compile: bool = False,
        return_lse: bool = False,
    ) -> Any:
        _check_backend(backend, "fna")
        axes = query.ndim - 3 if rank is None else rank
        if axes not in _NA:
            raise InvalidArgument(f"query must be [batch, *spatial, heads, head_dim], got shape {list(query.shape)}")
        settings = (kernel_size, stride, dilation, is_causal, scale, additional_keys, additional_values, return_lse)
        return _attend(axes, query, key, value, *settings)

    na.__name__ = na.__qualname__ = "neighborhood_attention_generic" if rank is None else f"na{rank}d"
    na.__doc__ = (
        """`natten_core.neighborhood_attention`; from `attention_kwargs` to `torch_compile` nothing has an effect."""
    )
    return na


na1d, na2d, na3d, neighborhood_attention_generic = (_make(rank) for rank in (1, 2, 3, None))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool = False,
    scale: float | None = None,
    backend: str | None = None,
    q_tile_size: int | None = None,
    kv_tile_size: int | None = None,
    backward_q_tile_size: int | None = None,
    backward_kv_tile_size: int | None = None,
    backward_kv_splits: int | None = None,
    backward_use_pt_reduction: bool = False,
    run_persistent_kernel: bool = True,
    kernel_schedule: Any = None,
    torch_compile: bool = False,
    return_lse: bool = False,
) -> Any:
    """Attention of all to all, on `[batch, length, heads, head_dim]`; key and value may have another length.

    Returns:
        The output, or with `return_lse` a tuple of it and the log-sum-exp `[batch, length, heads]`.

    Raises:
        NotImplementedError: causal attention between two lengths, or a backend that NATTEN did not have.
    """
    _check_backend(backend, "fmha")
    if query.ndim == key.ndim == 4 and query.shape[1] != key.shape[1]:
        if is_causal:
            raise NotImplementedError(
                f"causal attention of {query.shape[1]} queries to {key.shape[1]} keys has no one meaning: use a mask"
            )
        return _cross_attention(query, key, value, scale, return_lse)
    return _attend(1, query, key, value, query.shape[1], is_causal=is_causal, scale=scale, return_lse=return_lse)


def _cross_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None, return_lse: bool) -> Any:
    """Torch's attention; its log-sum-exp, which torch does not give out, is of scores made for it."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output = scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True).transpose(1, 2)
    if not return_lse:
        return output
    dtype = torch.promote_types(query.dtype, torch.float32)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * factor
    return output, scores.logsumexp(-1).transpose(1, 2)


def merge_attentions(
    outputs: Sequence[Tensor],
    lse_tensors: Sequence[Tensor],
    torch_compile: bool = True,
    use_autograd_fix: bool = True,
) -> tuple[Tensor, Tensor]:
    """`natten_core.merge_attentions` of at least two parts; its gradients are exact whatever the last arguments."""
    if len(outputs) < 2:
        raise ValueError(f"outputs must be at least two, got {len(outputs)}")
    return merge.merge_attentions(outputs, lse_tensors)


def _check_backend(backend: str | None, kind: str) -> None:
    known = [f"{family}-{kind}" for family in _FAMILIES]
    if backend is not None and backend not in known:
        raise NotImplementedError(
            f"backend must be None or one of {known}, all of which natten-core stands in for, got {backend!r}"
        )
