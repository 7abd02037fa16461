"""Which keys a query sees, over all small problems of one axis."""

from __future__ import annotations

import itertools

import natten_oracle
import pytest
import torch

from natten_core import _loader, na1d
from natten_core.backends import reference

PLAIN = [
    (length, kernel, dilation)
    for length in range(1, 25)
    for kernel in range(1, length + 1)
    for dilation in range(1, length // kernel + 1)
]
STRIDED = [
    (length, kernel, dilation, stride, is_causal)
    for length, kernel, dilation in PLAIN
    if length <= 14
    for stride in range(1, kernel + 1)
    for is_causal in (False, True)
]


def test_oracle_agrees_with_a_figure_drawn_by_hand() -> None:
    # 7 tokens, 3 keys: the windows of the first and last queries are shifted inward
    assert [natten_oracle.window(i, 7, 3, 1, 1, False) for i in (0, 1, 3, 6)] == [
        [0, 1, 2],
        [0, 1, 2],
        [2, 3, 4],
        [4, 5, 6],
    ]
    # dilation 2: even tokens see even ones; there are four of these and three odd ones
    assert [natten_oracle.window(i, 7, 3, 2, 1, False) for i in (0, 1, 6)] == [[0, 2, 4], [1, 3, 5], [2, 4, 6]]
    # an even kernel sees one more key before the query than after it
    assert natten_oracle.window(3, 8, 4, 1, 1, False) == [1, 2, 3, 4]
    # stride = kernel: blocks; causal: the same, up to the query
    assert [natten_oracle.window(i, 6, 3, 1, 3, False) for i in (0, 2, 3)] == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert [natten_oracle.window(i, 6, 3, 1, 1, True) for i in (0, 1, 5)] == [[0], [0, 1], [3, 4, 5]]


def test_reference_arithmetic_is_the_oracles() -> None:
    for length, kernel, dilation, stride, is_causal in STRIDED:
        token = torch.arange(length)
        group, position = token % dilation, token // dilation
        members = length // dilation + (group < length % dilation).long()
        start, end = reference.window(position, members, kernel, stride, is_causal)
        for i in range(length):
            ours = [p * dilation + int(group[i]) for p in range(int(start[i]), int(end[i]))]
            assert ours == natten_oracle.window(i, length, kernel, dilation, stride, is_causal), (length, kernel, i)


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
def test_compiled_arithmetic_is_the_oracles() -> None:
    for length, kernel, dilation in PLAIN:
        for i in range(length):
            wanted = natten_oracle.window(i, length, kernel, dilation, 1, False)[0]
            assert _loader._C.window_start(i, length, kernel, dilation) == wanted, (length, kernel, dilation, i)


def seen_keys(length: int, kernel: int, dilation: int, stride: int, is_causal: bool, backend: str) -> list[list[int]]:
    """From the output for equal scores and one-hot values: the mean of the unit vectors of the keys that are seen."""
    zeros, values = torch.zeros(1, length, 1, length), torch.eye(length)[None, :, None]
    weights = na1d(
        zeros, zeros, values, kernel, stride=stride, dilation=dilation, is_causal=is_causal, backend=backend
    )[0, :, 0]
    keys = [row.nonzero().flatten().tolist() for row in weights]
    for row, found in zip(weights, keys, strict=True):
        torch.testing.assert_close(row[found], torch.full((len(found),), 1 / len(found)))
    return keys


def test_every_window_of_every_plain_problem(backend: str) -> None:
    for length, kernel, dilation in PLAIN:
        wanted = [natten_oracle.window(i, length, kernel, dilation, 1, False) for i in range(length)]
        assert seen_keys(length, kernel, dilation, 1, False, backend) == wanted, (length, kernel, dilation)


def test_every_window_of_every_strided_problem() -> None:
    for length, kernel, dilation, stride, is_causal in itertools.islice(STRIDED, 0, None, 3):
        wanted = [natten_oracle.window(i, length, kernel, dilation, stride, is_causal) for i in range(length)]
        found = seen_keys(length, kernel, dilation, stride, is_causal, "reference")
        assert found == wanted, (length, kernel, dilation, stride, is_causal)
