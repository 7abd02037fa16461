"""Attention over several sets of keys from attention over each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from natten_core._arguments import check_merge
from natten_core._problem import compute_dtype


def merge_attentions(outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention of the same queries over several sets of keys together, from their attentions over each set.

    With `return_lse=True` every attention of this package gives an output and the log-sum-exp of its scores. Of any
    number of such pairs, for disjoint sets of keys, this makes the pair for all keys: each output is weighed by
    `exp(lse - lse of all)`. Differentiable any number of times in all arguments.

    Args:
        outputs: the outputs, each `[batch, *spatial, heads, head_dim]`.
        lses: their log-sum-exps, each `[batch, *spatial, heads]`; -inf where a query sees none of the set's keys.

    Returns:
        The output, in the dtype of the first one, and its log-sum-exp, float32 or, of float64 outputs, float64. A query
        that sees no key at all has output 0 and log-sum-exp -inf.

    Raises:
        TypeError: something is not a tensor, or all of them are one.
        ValueError: no part is given, there are not as many `lses` as `outputs`, their shapes or devices differ, or
            something is not of a floating dtype.

    Example:
        >>> import torch, natten_core
        >>> q, k, v, other_k, other_v = torch.randn(5, 1, 16, 16, 2, 8).unbind(0)
        >>> near, near_lse = natten_core.na2d(q, k, v, 3, return_lse=True)
        >>> other, other_lse = natten_core.na2d(q, other_k, other_v, 7, return_lse=True)
        >>> output, lse = natten_core.merge_attentions([near, other], [near_lse, other_lse])
        >>> output.shape, lse.shape
        (torch.Size([1, 16, 16, 2, 8]), torch.Size([1, 16, 16, 2]))
    """
    outputs, lses = check_merge(outputs, lses)
    dtype = compute_dtype(outputs[0].dtype)
    parts = torch.stack([lse.to(dtype) for lse in lses])
    # Any finite subtrahend serves; where all parts are -inf there is none to take from them.
    top = parts.detach().amax(0)
    top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    weights = (parts - top).exp()
    total = weights.sum(0)
    seen = total > 0
    total = torch.where(seen, total, torch.ones_like(total))
    weights = (weights / total).unsqueeze(-1)
    merged = torch.zeros_like(outputs[0], dtype=dtype)
    for weight, output in zip(weights.unbind(0), outputs, strict=True):
        merged = merged + weight * output.to(dtype)
    lse = torch.where(seen, top + total.log(), torch.full_like(total, float("-inf")))
    return merged.to(outputs[0].dtype), lse
