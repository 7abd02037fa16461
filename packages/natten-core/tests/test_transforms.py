"""torch.func and torch.vmap: right on every backend, also where the kernels step aside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from natten_cases import Case
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from natten_core import na2d, na2d_qkvpacked

pytestmark = pytest.mark.filterwarnings("ignore::natten_core.NattenFallbackWarning")

CASE = Case("transforms", (5, 6), (3, 3), dilation=(1, 2), batch=2, head_dim=3)
NAMES = ("query", "key", "value", "rpb")


def ours(backend: str) -> Any:
    return lambda q, k, v, rpb: na2d(q, k, v, **CASE.settings, rpb=rpb, return_lse=True, backend=backend)


def oracle(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
    return CASE.oracle({"query": q, "key": k, "value": v, "rpb": rpb})


def loss(function: Any) -> Any:
    def total(*tensors: Tensor) -> Tensor:
        output, lse = function(*tensors)
        return output.sin().sum() + lse.square().sum()

    return total


def inputs() -> tuple[Tensor, ...]:
    return tuple(CASE.tensors(requires_grad=False).values())


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_func_grad(route: str) -> None:
    every = tuple(range(4))
    close(torch.func.grad(loss(ours(route)), every)(*inputs()), torch.func.grad(loss(oracle), every)(*inputs()))


def test_func_vjp_and_jvp(route: str) -> None:
    tangents = tuple(torch.randn_like(t) for t in inputs())
    found, wanted = (torch.func.jvp(function, inputs(), tangents) for function in (ours(route), oracle))
    close(found, wanted)
    cotangents = tuple(torch.randn_like(t) for t in wanted[0])
    found, wanted = (torch.func.vjp(function, *inputs())[1](cotangents) for function in (ours(route), oracle))
    close(found, wanted)


def test_jacobians_and_hessian(route: str) -> None:
    q, k, v, rpb = inputs()

    def of_query(function: Any) -> Any:
        return lambda row: function(torch.cat([row[None, None, None], q[:1, :1, 1:]], 2).expand_as(q[:1, :1]), *rest)

    rest = k[:1, :1], v[:1, :1], rpb
    case = CASE._replace(spatial=(1, 6), kernel_size=(1, 3), dilation=(1, 2))
    rest = k[:1, :1], v[:1, :1], rpb[:, 2:3]

    def kernel(*t: Tensor) -> Any:
        return loss(lambda q, k, v, b: na2d(q, k, v, **case.settings, rpb=b, return_lse=True, backend=route))(*t)

    def exact(*t: Tensor) -> Any:
        return loss(lambda *t: case.oracle(dict(zip(NAMES, t, strict=True))))(*t)

    row = q[0, 0, 0].clone()
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        close(transform(of_query(kernel))(row), transform(of_query(exact))(row))


def test_per_sample_gradients(route: str) -> None:
    def gradient(function: Any) -> Any:
        def one(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
            return loss(function)(q[None], k[None], v[None], rpb)

        return torch.vmap(torch.func.grad(one, argnums=(0, 3)), in_dims=(0, 0, 0, None))

    close(gradient(ours(route))(*inputs()), gradient(oracle)(*inputs()))


@pytest.mark.parametrize(
    "in_dims",
    [
        (0, 0, 0, None),
        (1, 2, 0, None),
        (0, None, None, None),
        (None, None, 3, None),
        (0, 0, 0, 0),
        (None, None, None, 1),
        (3, 0, 4, 2),
    ],
    ids=str,
)
def test_vmap(in_dims: tuple[int | None, ...], route: str) -> None:
    samples = [CASE._replace(name=f"sample {i}").tensors(requires_grad=False) for i in range(3)]
    stacked = [
        samples[0][name] if dim is None else torch.stack([sample[name] for sample in samples], dim)
        for name, dim in zip(NAMES, in_dims, strict=True)
    ]
    found = torch.vmap(ours(route), in_dims=in_dims)(*stacked)
    for i, _ in enumerate(samples):
        chosen = [t if dim is None else t.select(dim, i) for t, dim in zip(stacked, in_dims, strict=True)]
        close(tuple(part[i] for part in found), oracle(*chosen))


@pytest.mark.parametrize("mapped", [0, 3], ids=["query", "rpb"])
def test_vmap_over_no_sample(mapped: int) -> None:
    """Whether samples would be folded into the batch or, for biases of their own, into the heads."""
    tensors = list(inputs())
    tensors[mapped] = tensors[mapped].new_empty((0, *tensors[mapped].shape)).requires_grad_()
    in_dims = tuple(0 if i == mapped else None for i in range(4))
    output, lse = torch.vmap(ours("auto"), in_dims)(*tensors)
    assert (output.shape, lse.shape) == ((0, *tensors[1].shape), (0, *tensors[1].shape[:-1]))
    assert torch.autograd.grad(output.sum(), tensors[mapped])[0].shape == tensors[mapped].shape


def test_a_tracer_that_only_watches() -> None:
    """`make_fx` of real tensors, as in `torch.func.linearize`: none may be asked for its numbers."""
    tensors = inputs()
    graph = make_fx(ours("reference"))(*tensors)
    torch.testing.assert_close(graph(*tensors), ours("reference")(*tensors))


def test_transforms_of_everything(route: str) -> None:
    """Stride, causality, grouped heads, additional keys: every tensor in every transform."""
    case = Case("everything", (5, 4), (3, 2), (1, 2), (2, 1), (True, False), 1, 4, 2, 2, 3, 2)
    samples = [list(case._replace(name=f"everything {i}").tensors(requires_grad=False).values()) for i in range(2)]
    names, every = tuple(case.tensors()), tuple(range(6))

    def kernel(*tensors: Tensor) -> Any:
        named = dict(zip(names, tensors, strict=True))
        return na2d(**named, **case.settings, return_lse=True, backend=route)

    def exact(*tensors: Tensor) -> Any:
        return case.oracle(dict(zip(names, tensors, strict=True)))

    primals, tangents = (tuple(sample) for sample in samples)
    found, wanted = (torch.func.jvp(function, primals, tangents) for function in (kernel, exact))
    close(found, wanted)
    found, wanted = (torch.func.vjp(function, *primals)[1](wanted[1]) for function in (kernel, exact))
    close(found, wanted)
    close(*(torch.func.grad(loss(function), every)(*primals) for function in (kernel, exact)))
    stacked = [torch.stack(parts) for parts in zip(*samples, strict=True)]
    mapped = torch.vmap(kernel)(*stacked)
    for i, sample in enumerate(samples):
        close(tuple(part[i] for part in mapped), exact(*sample))


@pytest.mark.parametrize("in_dims", [(0, None), (2, None), (0, 0), (None, 1), (3, 0)], ids=str)
def test_vmap_packed(in_dims: tuple[int | None, ...], route: str) -> None:
    samples = [CASE._replace(name=f"sample {i}").tensors(requires_grad=False) for i in range(3)]
    packed = [torch.stack([sample[name] for name in NAMES[:3]], -3) for sample in samples]
    qkv = packed[0] if in_dims[0] is None else torch.stack(packed, in_dims[0])
    biases = [sample["rpb"] for sample in samples]
    rpb = biases[0] if in_dims[1] is None else torch.stack(biases, in_dims[1])

    def function(qkv: Tensor, rpb: Tensor) -> Any:
        return na2d_qkvpacked(qkv, **CASE.settings, rpb=rpb, return_lse=True, backend=route)

    found = torch.vmap(function, in_dims=in_dims)(qkv, rpb)
    for i in range(3):
        one = qkv if in_dims[0] is None else qkv.select(in_dims[0], i)
        bias = rpb if in_dims[1] is None else rpb.select(in_dims[1], i)
        close(tuple(part[i] for part in found), oracle(*one.unbind(-3), bias))


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_through_vmap(with_bias: bool, route: str) -> None:
    samples = [tuple(CASE._replace(name=f"sample {i}").tensors().values()) for i in range(2)]
    leaves = [tensor for sample in samples for tensor in sample[: 4 if with_bias else 3]]
    stacked = [torch.stack(parts) for parts in zip(*samples, strict=True)]

    def call(function: Any, *tensors: Tensor) -> Any:
        return loss(function)(*tensors, *(() if with_bias else (stacked[3][0].detach(),)))

    tensors = stacked if with_bias else stacked[:3]
    found = torch.autograd.grad(torch.vmap(lambda *t: call(ours(route), *t))(*tensors).sum(), leaves)
    wanted = torch.autograd.grad(sum(call(oracle, *(t[i] for t in tensors)) for i in range(2)), leaves)
    close(found, wanted)


def test_a_vectorised_jacobian(route: str) -> None:
    q, k, v, rpb = inputs()

    def jacobian(function: Any) -> Any:
        def rows(q: Tensor, b: Tensor) -> Tensor:
            return torch.as_tensor(function(q, k, v, b)[1].sum((1, 2)))

        return torch.autograd.functional.jacobian(rows, (q, rpb), vectorize=True)

    close(jacobian(ours(route)), jacobian(oracle))


@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
def test_vmap_over_a_backward(packed: bool, with_bias: bool, route: str) -> None:
    """Many gradients of one result at once; that of the bias is summed over the batch, but not over these."""
    q, k, v, rpb = CASE.tensors().values()
    bias = rpb if with_bias else None
    wanted = [tensor for tensor in (q, k, v, bias) if tensor is not None]
    if packed:
        qkv = torch.stack([q, k, v], -3)
        results = na2d_qkvpacked(qkv, **CASE.settings, rpb=bias, return_lse=True, backend=route)
    else:
        results = na2d(q, k, v, **CASE.settings, rpb=bias, return_lse=True, backend=route)
    grads = tuple(torch.randn(3, *part.shape, dtype=part.dtype) for part in results)

    def gradient(*grads: Tensor) -> Any:
        return torch.autograd.grad(results, wanted, grads, retain_graph=True)

    found = torch.vmap(gradient)(*grads)
    for i in range(3):
        close(tuple(part[i] for part in found), gradient(*(grad[i] for grad in grads)))


@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
def test_forward_mode_through_a_recorded_backward(packed: bool, route: str) -> None:
    """The graph is older than the tangent, which the backward operators would lose."""
    tensors = list(CASE.tensors().values())
    results = ours(route)(*tensors)
    if packed:
        qkv = torch.stack(tensors[:3], -3)
        results = na2d_qkvpacked(qkv, **CASE.settings, rpb=tensors[3], return_lse=True, backend=route)
    grads, tangents = ([torch.randn_like(part) for part in results] for _ in range(2))

    def pull_back(*grads: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(results, tensors, grads, retain_graph=True)

    wanted = pull_back(*tangents)  # it is linear
    close(torch.func.jvp(pull_back, tuple(grads), tuple(tangents))[1], wanted)
    with forward_ad.dual_level():
        found = pull_back(*map(forward_ad.make_dual, grads, tangents))
        close(tuple(forward_ad.unpack_dual(part).tangent for part in found), wanted)


def test_inference_mode(route: str) -> None:
    q, k, v, rpb = inputs()
    with torch.inference_mode():
        found = ours(route)(q, k, v, rpb)
    close(tuple(t.clone() for t in found), oracle(q, k, v, rpb))


def test_activation_checkpointing(route: str) -> None:
    tensors = tuple(CASE.tensors().values())
    saved = torch.utils.checkpoint.checkpoint(loss(ours(route)), *tensors, use_reentrant=False)
    plain = loss(ours(route))(*tensors)
    close(torch.autograd.grad(saved, tensors), torch.autograd.grad(plain, tensors))
