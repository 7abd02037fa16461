"""Exported graphs of the operators, decomposed: no operator of ours is left, and the numbers are the oracle's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from torch import Tensor, nn

import natten_core
from natten_core import _decompositions, na1d_av, na1d_qk, na2d_av, na2d_qk, na2d_qkvpacked, na3d_av, na3d_qk

# Every argument of the operator, and every rank; how windows fall is the business of other tests.
NAMES = (
    "1d-causal-strided",
    "1d-bands",
    "2d-no-bias",
    "2d-dilated-remainder",
    "2d-causal-strided",
    "2d-grouped",
    "2d-wide-values",
    "2d-additional-grouped",
    "3d-dilated",
    "3d-everything",
)
OF_ANY_SIZE = ("1d-causal-strided", "2d-dilated-remainder", "2d-additional-grouped", "3d-dilated")
IN_TWO_STAGES = ("1d-causal-strided", "2d-additional-grouped", "2d-no-bias", "3d-everything")
_QK, _AV = (None, na1d_qk, na2d_qk, na3d_qk), (None, na1d_av, na2d_av, na3d_av)


def cases(names: tuple[str, ...]) -> pytest.MarkDecorator:
    found = [case for case in CASES if case.name in names]
    assert len(found) == len(names)
    return pytest.mark.parametrize("case", found, ids=[case.name for case in found])


class Call(nn.Module):
    """A function as a module, which is what is exported."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, **tensors: Tensor) -> Any:
        return self.function(**tensors)


def plain(function: Any, tensors: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """The function as an exported graph without our operators."""
    exported = torch.export.export(Call(function), (), tensors, strict=False)
    program = exported.run_decompositions(natten_core.decompositions())
    assert ours(exported)
    assert not ours(program)
    return program


def ours(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "natten_core" in str(node.target)]


@pytest.mark.usefixtures("kernels")
@cases(NAMES)
def test_attention(case: Case) -> None:
    tensors = case.tensors(requires_grad=False)

    def attend(**tensors: Tensor) -> Any:
        return natten_core.neighborhood_attention(**tensors, **case.settings, return_lse=True)

    program = plain(attend, tensors)
    torch.testing.assert_close(program.module()(**tensors), case.oracle(tensors), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("kernels")
@cases(OF_ANY_SIZE)
def test_attention_on_maps_of_any_size(case: Case) -> None:
    """Exported from a larger map than the case's, whose sizes stay symbols, and run on both."""
    larger = case._replace(spatial=tuple(length + 2 + axis for axis, length in enumerate(case.spatial)))
    sizes = {1 + axis: torch.export.Dim.AUTO for axis in range(case.rank)}
    tensors = larger.tensors(requires_grad=False)

    class Attention(nn.Module):  # guards on the sizes of arguments that have no names of their own are lost by torch
        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, rpb: Any, additional_keys: Any, additional_values: Any
        ) -> Any:
            more = {"rpb": rpb, "additional_keys": additional_keys, "additional_values": additional_values}
            return natten_core.neighborhood_attention(query, key, value, **more, **case.settings, return_lse=True)

    def arguments(tensors: dict[str, Tensor]) -> tuple[Any, ...]:
        return tuple(map(tensors.get, ("query", "key", "value", "rpb", "additional_keys", "additional_values")))

    shapes = (sizes,) * 3 + (None,) * 3
    program = torch.export.export(Attention(), arguments(tensors), dynamic_shapes=shapes, strict=False)
    program = program.run_decompositions(natten_core.decompositions())
    assert not ours(program)
    for one in (larger, case):
        tensors = one.tensors(requires_grad=False)
        found = program.module()(*arguments(tensors))
        torch.testing.assert_close(found, one.oracle(tensors), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("kernels")
@cases(IN_TWO_STAGES)
def test_two_stages(case: Case) -> None:
    tensors = case.tensors(requires_grad=False)
    settings = {key: value for key, value in case.settings.items() if key != "scale"}
    scale = case.head_dim**-0.5

    def attend(query: Tensor, key: Tensor, value: Tensor, rpb: Any = None, **more: Tensor) -> Tensor:
        keys, values = more.get("additional_keys"), more.get("additional_values")
        scores = _QK[case.rank](query, key, **settings, scale=scale, rpb=rpb, additional_keys=keys)
        return _AV[case.rank](scores.softmax(-1), value, **settings, additional_values=values)

    program = plain(attend, tensors)
    torch.testing.assert_close(program.module()(**tensors), case.oracle(tensors)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("kernels")
def test_any_batch() -> None:
    module = natten_core.NeighborhoodAttention2D(16, 2, 3, dilation=2)
    sizes = {0: torch.export.Dim("batch")}
    exported = torch.export.export(module, (torch.randn(2, 9, 12, 16),), dynamic_shapes={"x": sizes}, strict=False)
    program = exported.run_decompositions(natten_core.decompositions())
    assert not ours(program)
    for batch in (1, 3, 7):
        x = torch.randn(batch, 9, 12, 16)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(dtype: torch.dtype) -> None:
    tensors = {"qkv": torch.randn(2, 9, 11, 3, 2, 8, dtype=dtype), "rpb": torch.randn(2, 5, 5, dtype=dtype)}

    def attend(**tensors: Tensor) -> Tensor:
        return na2d_qkvpacked(**tensors, kernel_size=3, dilation=2)

    output = plain(attend, tensors).module()(**tensors)
    exact = attend(**{name: tensor.double() for name, tensor in tensors.items()})
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.usefixtures("kernels")
def test_layers_of_one_geometry_share_their_constants() -> None:
    layers = nn.Sequential(*(natten_core.NeighborhoodAttention2D(8, 2, 3, dilation=2) for _ in range(3)))
    x = torch.randn(1, 12, 9, 8)
    program = torch.export.export(layers, (x,), strict=False).run_decompositions(natten_core.decompositions())
    torch.testing.assert_close(program.module()(x), layers(x))
    if _decompositions._TAKES_CONSTANTS:
        assert len(program.constants) == 5  # queries, keys, what is seen, entries of the bias, and the order
