"""torch.compile and torch.export: no graph break, the same numbers, any shape after one compilation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import natten_core
from natten_core import _loader, na2d, na2d_qkvpacked

pytestmark = pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Any, **options: Any) -> Any:
    """All of torch.compile but for the code generator, which takes half a minute."""
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def inputs(batch: int = 2, spatial: tuple[int, int] = (8, 9)) -> list[Tensor]:
    tensors = [torch.randn(batch, *spatial, 2, 4) for _ in range(3)]
    return [tensor.requires_grad_() for tensor in (*tensors, torch.randn(2, 5, 5))]


def same(function: Any, graph: Any, tensors: list[Tensor]) -> None:
    ours, plain = graph(*tensors), function(*tensors)
    torch.testing.assert_close(ours, plain)
    grads = (torch.autograd.grad(sum(part.square().sum() for part in result), tensors) for result in (ours, plain))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def separate(backend: str, **settings: Any) -> Any:
    return lambda q, k, v, rpb: na2d(q, k, v, 3, rpb=rpb, return_lse=True, backend=backend, **settings)


def packed(backend: str) -> Any:
    def function(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Any:
        qkv = torch.stack([q, k, v], -3)
        return na2d_qkvpacked(qkv, 3, rpb=rpb, return_lse=True, backend=backend)

    return function


@pytest.mark.parametrize("make", [separate, packed])
def test_compile(make: Any, route: str) -> None:
    function = make(route)
    same(function, compiled(function), inputs())


def test_compile_for_any_batch(route: str) -> None:
    function = separate(route)
    graph = compiled(function, dynamic=True)
    same(function, graph, inputs(3))
    same(function, graph, inputs(5))


@pytest.mark.usefixtures("kernels")
def test_one_compilation_for_every_map() -> None:
    graphs = 0

    def count(module: Any, _: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module

    graph = torch.compile(separate("auto"), fullgraph=True, dynamic=True, backend=count)
    for batch, spatial in ((3, (8, 9)), (7, (7, 11)), (5, (20, 6))):
        tensors = [tensor.detach() for tensor in inputs(batch, spatial)]
        torch.testing.assert_close(graph(*tensors), separate("auto")(*tensors))
    assert graphs == 1


def in_two_stages(x: Tensor) -> Tensor:
    return natten_core.na2d_av(natten_core.na2d_qk(x, x, 3).softmax(-1), x, 3)


def merged(x: Tensor) -> Tensor:
    parts = [na2d(x, x, x, kernel, return_lse=True) for kernel in (3, 5)]
    return natten_core.merge_attentions(*zip(*parts, strict=True))[0]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("recording", [False, True], ids=["", "recording"])
@pytest.mark.parametrize(
    "function",
    [
        natten_core.NeighborhoodAttention2D(8, 2, 3, dilation=2),
        natten_core.NeighborhoodAttention2D(8, 2, 3, attn_drop=1.0),
        lambda x: na2d(x, x, x, 3, stride=2, is_causal=(True, False)),
        lambda x: na2d_qkvpacked(torch.stack([x, x, x], -3), 3),
        in_two_stages,
        merged,
    ],
    ids=["module", "dropout", "strided", "packed", "two-stages", "merged"],
)
def test_sizes_that_change_are_no_recompile_storm(function: Any, recording: bool) -> None:
    """By default a compiler takes sizes for constants until they change: the batch once, the map once."""
    graphs = CompileCounterWithBackend("eager")
    graph = torch.compile(function, fullgraph=True, backend=graphs)
    size = (8,) if isinstance(function, torch.nn.Module) else (2, 4)
    for batch, height, width in ((2, 9, 12), (3, 9, 12), (3, 11, 14), (5, 20, 16), (7, 10, 11), (4, 30, 13)):
        x = torch.randn(batch, height, width, *size, requires_grad=recording)
        torch.testing.assert_close(graph(x), function(x))
    assert graphs.frame_count <= 3


def test_compile_what_falls_back() -> None:
    function = separate("auto", stride=2)
    same(function, compiled(function, dynamic=True), inputs(3))


def test_a_bad_call_tells_what_is_wrong_when_compiled_too() -> None:
    graph = torch.compile(lambda q, k, v: na2d(q, k, v, 3, dilation=5), backend="eager")
    with pytest.raises(ValueError, match="largest dilation that fits is 2"):
        graph(*inputs()[:3])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compile_a_module(dropout: float) -> None:
    module = natten_core.NeighborhoodAttention2D(16, 2, 5, dilation=2, attn_drop=dropout).eval()
    graph = compiled(module)
    x = torch.randn(2, 9, 12, 16)
    torch.testing.assert_close(graph(x), module(x))
    graph(x).sum().backward()
    assert module.rpb is not None
    assert module.rpb.grad is not None
    module.train()
    assert compiled(module)(x).shape == x.shape


@pytest.mark.usefixtures("kernels")
def test_inductor() -> None:
    function = separate("cpu")
    same(function, torch.compile(function, fullgraph=True), inputs())


@pytest.mark.parametrize("attn_drop", [0.0, 0.5], ids=["kernels", "reference"])
def test_compile_modules_that_differ(attn_drop: float) -> None:
    """What differs between them becomes symbolic, the scale included."""
    x = torch.randn(2, 9, 12, 48)
    for heads, dilation in ((2, 1), (3, 2), (4, 3)):
        module = natten_core.NeighborhoodAttention2D(48, heads, 3, dilation=dilation, attn_drop=attn_drop)
        graph = compiled(module)
        assert graph(x).isfinite().all()
        torch.testing.assert_close(compiled(module.eval())(x), module(x))


def test_compile_a_scale_that_changes(route: str) -> None:
    q, k, v, rpb = (tensor.detach() for tensor in inputs())

    def function(scale: float) -> Tensor:
        return na2d(q, k, v, 3, rpb=rpb, scale=scale, backend=route)

    graph = compiled(function)
    for scale in (0.25, 0.5, -1.5, 0.0):
        torch.testing.assert_close(graph(scale), function(scale))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    module = natten_core.NeighborhoodAttention2D(16, 2, 3)
    x = torch.randn(2, 9, 12, 16)
    sizes = {0: torch.export.Dim("batch")}
    exported = torch.export.export(module, (x,), dynamic_shapes={"x": sizes}, strict=strict)
    bigger = torch.randn(5, 9, 12, 16)
    torch.testing.assert_close(exported.module()(bigger), module(bigger))
    calls = [node.target for node in exported.graph.nodes if "natten_core" in str(node.target)]
    assert calls == ([torch.ops.natten_core.na_qkvpacked_forward.default] if _loader._C else [])


@pytest.mark.parametrize("around", [False, True], ids=["transform-inside", "transform-around"])
def test_transforms_meet_the_compiler(around: bool, route: str) -> None:
    q, k, v, rpb = (tensor.detach() for tensor in inputs())
    tangent = torch.randn_like(q)

    def attend(x: Tensor) -> Tensor:
        return na2d(x, k, v, 3, rpb=rpb, backend=route)

    def graph(function: Any) -> Any:
        return torch.compile(function, backend="aot_eager")

    def derivatives(function: Any) -> Any:
        return lambda x: (
            torch.func.grad(lambda y: function(y).square().sum())(x),
            torch.func.jvp(function, (x,), (tangent,))[1],
        )

    ours = derivatives(graph(attend))(q) if around else graph(derivatives(attend))(q)
    torch.testing.assert_close(ours, derivatives(attend)(q))


def test_vmap_inside_a_compiled_function(route: str) -> None:
    function = torch.vmap(lambda q, k, v: na2d(q, k, v, 3, backend=route))
    q, k, v = torch.randn(3, 4, 2, 6, 7, 2, 4)
    torch.testing.assert_close(compiled(function)(q, k, v), function(q, k, v))
