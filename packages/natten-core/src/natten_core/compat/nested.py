"""Inference on nested tensors: every component by itself, as in NATTEN 0.15 to 0.17."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from natten_core.compat._errors import InvalidArgument


def each(
    operator: Callable[[Tensor, Tensor, Tensor | None], Tensor], first: Tensor, second: Tensor, more: Tensor | None
) -> Tensor:
    """`operator` on the components of nested tensors, which are whole batches; nested, too.

    Raises:
        ValueError: not all of them are nested, or as many, or one requires a gradient.
    """
    given = [first, second] + ([] if more is None else [more])
    if not all(tensor.is_nested for tensor in given):
        raise InvalidArgument("either all tensors must be nested, or none")
    if any(tensor.requires_grad for tensor in given):
        raise InvalidArgument("nested tensors have no gradient here: detach them, or give their components one by one")
    counts = [tensor.size(0) for tensor in given]
    if len(set(counts)) > 1:
        raise InvalidArgument(f"nested tensors must have as many components each, got {counts}")
    extra = [None] * counts[0] if more is None else more.unbind()
    found = [operator(*parts) for parts in zip(first.unbind(), second.unbind(), extra, strict=True)]
    result: Tensor = torch.nested.nested_tensor(found)
    return result
