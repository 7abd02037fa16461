"""Nested tensors, whose components are batches, in the unfused operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from natten_core.compat import heads_first

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
SHAPES = [(1, 2, 9, 14), (2, 4, 10, 15), (3, 1, 12, 16)]
EXTRA = 5


def nested(last: int, extra: bool = False) -> Tensor:
    parts = [torch.randn(*((*shape[:2], EXTRA) if extra else shape), last) for shape in SHAPES]
    result: Tensor = torch.nested.nested_tensor(parts)
    return result


@pytest.mark.parametrize("extra", [False, True])
def test_every_component_by_itself(extra: bool) -> None:
    settings: dict[str, Any] = {"kernel_size": (3, 7), "dilation": (3, 2)}
    query, key, value = (nested(8) for _ in range(3))
    more_keys, more_values = (nested(8, extra=True), nested(8, extra=True)) if extra else (None, None)
    scores = heads_first.na2d_qk(query, key, additional_keys=more_keys, **settings)
    output = heads_first.na2d_av(scores, value, additional_values=more_values, **settings)
    assert scores.is_nested
    assert output.is_nested
    for i, shape in enumerate(SHAPES):
        expected = heads_first.na2d_qk(query[i], key[i], additional_keys=more_keys[i] if extra else None, **settings)
        assert torch.equal(scores[i], expected)
        assert scores[i].shape == (*shape, 21 + EXTRA * extra)
        weighted = heads_first.na2d_av(
            expected, value[i], additional_values=more_values[i] if extra else None, **settings
        )
        assert torch.equal(output[i], weighted)


def test_what_is_refused() -> None:
    query, plain = nested(8), torch.randn(1, 2, 9, 14, 8)
    with pytest.raises(ValueError, match="either all tensors must be nested, or none"):
        heads_first.na2d_qk(query, plain, 3)
    with pytest.raises(ValueError, match="either all tensors must be nested, or none"):
        heads_first.na2d_qk(query, query, 3, additional_keys=plain[:, :, 0])
    with pytest.raises(ValueError, match=r"as many components each, got \[3, 1\]"):
        heads_first.na2d_qk(query, torch.nested.nested_tensor([plain]), 3)
    with pytest.raises(ValueError, match="nested tensors have no gradient here"):
        heads_first.na2d_qk(query.requires_grad_(), query, 3)
