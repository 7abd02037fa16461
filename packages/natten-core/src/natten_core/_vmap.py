"""torch.vmap of the operators: the mapped dimension is folded into the batch, or into the heads.

Heads have a bias each, so that is where the dimension goes when every sample needs a bias, or a bias gradient, of its
own; the batch is cheaper otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def register(
    operator: Any, heads: Sequence[int], result_heads: Sequence[int], *, rpb: int | None, gives_rpb: bool
) -> None:
    """Registers the vmap rule of an operator.

    Args:
        operator: called with the folded arguments.
        heads: the axis of the heads in every tensor argument; other arguments follow them.
        result_heads: the axis of the heads in every result.
        rpb: which argument is the bias; None where there is none.
        gives_rpb: whether a result is the gradient of the bias, so that every sample needs a bias of its own.
    """

    def vmapped(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        by_head = rpb is not None and args[rpb] is not None and (gives_rpb or in_dims[rpb] is not None)
        folded = list(args)
        for i, axis in enumerate(heads):
            if args[i] is not None and (by_head or i != rpb):
                folded[i] = _fold(args[i], in_dims[i], size, axis if by_head else 0)
        results = operator(*folded)
        single = isinstance(results, Tensor)
        results = (results,) if single else results
        # Of no samples only the shape of one, computed for itself, tells how long an axis was before it was folded.
        ones: Any = None if size else operator(*_sample(args, in_dims, len(heads)))
        ones = (ones,) if single else ones
        unfolded, out_dims = [], []
        for i, (result, axis) in enumerate(zip(results, result_heads, strict=True)):
            absent = result.ndim == 1  # the gradient of what was not given
            where = (axis if by_head else 0) % result.ndim
            if not absent:
                one = result.shape[where] // size if size else ones[i].shape[where]
                result = result.unflatten(where, (size, one))
            unfolded.append(result)
            out_dims.append(None if absent else where)
        return (unfolded[0], out_dims[0]) if single else (tuple(unfolded), tuple(out_dims))

    torch.library.register_vmap(operator, vmapped)


def _sample(args: Sequence[Any], in_dims: Sequence[int | None], tensors: int) -> list[Any]:
    """The arguments for one sample, on the meta device: what tells the shapes of results where there is no sample."""
    sample = list(args)
    for i in range(tensors):
        if args[i] is not None:
            shape = [length for axis, length in enumerate(args[i].shape) if axis != in_dims[i]]
            sample[i] = torch.empty(shape, dtype=args[i].dtype, device="meta")
    return sample


def _fold(tensor: Tensor, mapped: int | None, size: int, axis: int) -> Tensor:
    """Merges dimension `mapped` (None: there is none, every sample has the same) into `axis` of what it maps over."""
    if mapped is None:
        tensor, mapped = tensor.expand(size, *tensor.shape), 0
    axis %= tensor.ndim - 1
    return tensor.movedim(mapped, axis).flatten(axis, axis + 1)
