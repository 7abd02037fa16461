"""Small problems of every window against loops over numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import natten_loops
import pytest
import torch
from natten_cases import Case
from natten_compare import results
from natten_slots import attention_written_out

from natten_core import neighborhood_attention

MORE = [  # heads, heads of key and value, head_dim, head_dim_v, additional, bias
    (2, None, 2, None, None, True),
    (4, 2, 1, 3, 2, True),
    (3, 1, 3, 2, 1, False),
]


def axes(longest: int) -> list[tuple[int, int, int, int, bool]]:
    """Every axis up to a length: length, kernel, dilation, stride, causality."""
    return [
        (length, kernel, dilation, stride, is_causal)
        for length in range(1, longest + 1)
        for kernel in range(1, length + 1)
        for dilation in range(1, length // kernel + 1)
        for stride in range(1, kernel + 1)
        for is_causal in (False, True)
    ]


def problems(rank: int, longest: int, step: int) -> Iterator[Case]:
    """Every `step`-th problem of axes up to a length, alternately with plain and with grouped heads and more keys."""
    for number, problem in enumerate(itertools.islice(itertools.product(axes(longest), repeat=rank), 0, None, step)):
        lengths, kernels, dilations, strides, causal = zip(*problem, strict=True)
        heads = MORE[number % len(MORE)]
        name = f"{lengths} {kernels} {dilations} {strides} {causal}"
        yield Case(name, lengths, kernels, dilations, strides, causal, 1 + number % 2, *heads)


@pytest.mark.parametrize(("rank", "longest", "step"), [(1, 7, 1), (2, 4, 17), (3, 3, 157)])
def test_every_small_window(rank: int, longest: int, step: int, backend: str) -> None:
    count = 0
    for case in problems(rank, longest, step):
        tensors = case.tensors()
        grads = tuple(torch.randn_like(part) for part in attention_written_out(case, tensors))
        wanted = natten_loops.attention(case, tensors, *grads)
        found = results(
            lambda given, case=case: neighborhood_attention(**given, **case.settings, return_lse=True, backend=backend),
            tensors,
            grads,
        )
        for name, result in found.items():
            torch.testing.assert_close(
                result, wanted[name], rtol=1e-12, atol=1e-12, msg=lambda text, n=name, c=case: f"{n} of {c}: {text}"
            )
        count += 1
    assert count > 100


def test_attention_over_slots_is_the_loops() -> None:
    for case in problems(2, 3, 7):
        tensors = case.tensors()
        grads = tuple(torch.randn_like(part) for part in attention_written_out(case, tensors))
        wanted = natten_loops.attention(case, tensors, *grads)
        found = results(lambda given, case=case: attention_written_out(case, given), tensors, grads)
        for name, result in found.items():
            torch.testing.assert_close(result, wanted[name], rtol=1e-12, atol=1e-12)
