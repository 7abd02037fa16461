from __future__ import annotations

import itertools

import pytest
import torch
from harness.problems import TINY, Problem
from peers import PLAIN, TILED, Flex

import natten_core

f64 = torch.float64
CASES = [
    Problem("1d", 2, (24,), 2, 4, (5,), (1,), f64),
    Problem("1d-even-dilated", 1, (24,), 1, 4, (4,), (3,), f64),
    Problem("2d", 2, (12, 8), 2, 4, (5, 3), (1, 1), f64),
    Problem("2d-dilated", 1, (12, 16), 2, 4, (3, 4), (2, 4), f64),
    Problem("2d-whole-map", 2, (14, 14), 1, 4, (7, 7), (2, 2), f64),
    Problem("3d", 1, (4, 6, 8), 2, 4, (3, 2, 3), (1, 2, 2), f64),
]


def tiles(problem: Problem) -> list[tuple[int, ...]]:
    divisors = [[t for t in (1, 2, 3, 4, 6, 7, 8, 12) if length % t == 0] for length in problem.groups]
    return list(itertools.product(*(d[-2:] for d in divisors)))


def results(attend: object, problem: Problem) -> list[torch.Tensor]:
    assert callable(attend)
    inputs = [x.requires_grad_() for x in problem.inputs()]
    output = attend(*inputs)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def reference(problem: Problem) -> list[torch.Tensor]:
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rpb: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = natten_core.neighborhood_attention(
            query, key, value, problem.kernel_size, dilation=problem.dilation, rpb=rpb, backend="reference"
        )
        return output

    return results(attend, problem)


def agree(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    rtol, atol = (1e-10, 1e-11) if expected[0].dtype == f64 else (1e-4, 1e-5)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("problem", [*CASES, *TINY.values()], ids=lambda problem: problem.name)
def test_plain_peers_agree_with_the_reference(problem: Problem) -> None:
    expected = reference(problem)
    for make in PLAIN.values():
        agree(results(make(problem), problem), expected)


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("problem", [*CASES, *TINY.values()], ids=lambda problem: problem.name)
def test_tiled_peers_agree_with_the_reference_in_every_cut(name: str, problem: Problem) -> None:
    expected = reference(problem)
    for tile, scores_bytes in itertools.product(tiles(problem), (None, 1 << 14, 1 << 9)):
        agree(results(TILED[name](problem, tile, scores_bytes), problem), expected)


def test_a_tile_that_does_not_divide_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="tile 5 with dilation 2"):
        TILED["tiled-bmm"](CASES[4], (7, 5), None)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("problem", [*CASES, *TINY.values()], ids=lambda problem: problem.name)
def test_flex_agrees_with_the_reference(problem: Problem) -> None:
    """Uncompiled, which is the same mathematics and saves the compiler's minute."""
    inputs = problem.inputs()
    flex = Flex(problem, compiler=lambda function, **_: function)
    agree([flex(*inputs)], reference(problem)[:1])
