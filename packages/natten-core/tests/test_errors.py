"""What bad arguments are told: the argument, its value, and what would work."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import natten_core
from natten_core import na1d, na2d, na2d_qkvpacked, na3d, neighborhood_attention

X = torch.zeros(2, 8, 9, 4, 6)  # [batch, y, x, heads, head_dim]
KV = torch.zeros(2, 8, 9, 2, 6)
FLAT = torch.zeros(2, 8, 4, 6)
QKV = torch.zeros(2, 8, 9, 3, 4, 6)
N = torch.zeros(2, 5, 4, 6)
ATTN = torch.zeros(2, 8, 9, 4, 9)
NAN = float("nan")


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape with a stride of 2 on the last axis."""
    return tensor.repeat_interleave(2, -1)[..., ::2]


def call(
    function: Any = na2d, query: Any = X, key: Any = X, value: Any = X, kernel_size: Any = 3, **settings: Any
) -> Any:
    return lambda: function(query, key, value, kernel_size, **settings)


BAD = {
    "query of another type": (call(query=[1.0]), TypeError, "query must be a torch.Tensor, got list"),
    "query nested": (
        call(query=torch.nested.nested_tensor([torch.zeros(8, 4, 6), torch.zeros(9, 4, 6)], layout=torch.jagged)),
        ValueError,
        "query must be a dense tensor, got a nested one: call once for each of query.unbind()",
    ),
    "key sparse": (
        call(key=X.to_sparse()),
        ValueError,
        "key must be a dense tensor, got one of layout torch.sparse_coo",
    ),
    "rpb of another type": (call(rpb=0.0), TypeError, "rpb must be a torch.Tensor, got float"),
    "map for na1d": (
        call(na1d),
        ValueError,
        "query must be [batch, x, heads, head_dim], got shape [2, 8, 9, 4, 6]",
    ),
    "map for na3d": (call(na3d), ValueError, "query must be [batch, z, y, x, heads, head_dim], got shape"),
    "no spatial axis": (
        call(neighborhood_attention, torch.zeros(2, 4, 6)),
        ValueError,
        "[batch, *spatial, heads, head_dim] with 1 to 3 spatial axes, got shape [2, 4, 6]",
    ),
    "integers": (
        call(query=X.long()),
        ValueError,
        "query must be float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "complex numbers": (call(query=X.cfloat()), ValueError, "query must be float16, bfloat16, float32 or float64"),
    "no heads": (call(query=X[..., :0, :]), ValueError, "at least one head and a head_dim of at least 1, got shape"),
    "no head_dim": (call(query=X[..., :0]), ValueError, "at least one head and a head_dim of at least 1, got shape"),
    "key of another dtype": (
        call(key=X.double()),
        ValueError,
        "key must have the dtype of query, torch.float32, got torch.float64",
    ),
    "value of another dtype": (call(value=X.half()), ValueError, "value must have the dtype of query"),
    "value on another device": (
        call(value=X.to("meta")),
        ValueError,
        "value must be on the device of query, cpu, got meta",
    ),
    "rpb on another device": (
        call(rpb=torch.zeros(4, 5, 5, device="meta")),
        ValueError,
        "rpb must be on the device of query, cpu, got meta",
    ),
    "key of another map": (
        call(key=X[:, :7]),
        ValueError,
        "key must have [2, 8, 9] for its batch and spatial sizes, as query has, got shape [2, 7, 9, 4, 6]",
    ),
    "value of another batch": (
        call(value=X[:1]),
        ValueError,
        "value must have [2, 8, 9] for its batch and spatial sizes",
    ),
    "value of another rank": (
        call(value=FLAT),
        ValueError,
        "value must have [2, 8, 9] for its batch and spatial sizes",
    ),
    "key of another head_dim": (
        call(key=X[..., :5].contiguous()),
        ValueError,
        "key must have query's head_dim, 6, got shape",
    ),
    "heads that do not divide": (
        call(key=X[..., :3, :], value=X[..., :3, :]),
        ValueError,
        "query's 4 heads must be a multiple of key's, got 3 in shape [2, 8, 9, 3, 6]",
    ),
    "value of other heads": (
        call(key=KV),
        ValueError,
        "value must have as many heads as key, 2, got shape [2, 8, 9, 4, 6]",
    ),
    "value without head_dim": (call(value=X[..., :0]), ValueError, "value must have a head_dim of at least 1"),
    "kernel_size too large": (
        call(kernel_size=9),
        ValueError,
        "kernel_size 9 with dilation 1 needs a length of at least 9 on spatial axis 0 of 2, got 8: "
        "the largest kernel_size that fits is 8",
    ),
    "dilation too large": (
        call(dilation=3),
        ValueError,
        "kernel_size 3 with dilation 3 needs a length of at least 9 on spatial axis 0 of 2, got 8: "
        "the largest dilation that fits is 2",
    ),
    "dilation too large on the last axis": (
        call(dilation=(1, 4)),
        ValueError,
        "needs a length of at least 12 on spatial axis 1 of 2, got 9: the largest dilation that fits is 3",
    ),
    "kernel_size zero": (call(kernel_size=0), ValueError, "kernel_size must be at least 1 on every axis, got 0"),
    "dilation negative": (call(dilation=(1, -2)), ValueError, "dilation must be at least 1 on every axis, got (1, -2)"),
    "kernel_size per axis of another rank": (
        call(kernel_size=(3, 3, 3)),
        ValueError,
        "kernel_size has 3 values, (3, 3, 3), for 2 spatial axes: give 2, or one int",
    ),
    "kernel_size a float": (
        call(kernel_size=3.0),
        TypeError,
        "kernel_size must be an int or a tuple of 2 ints, got 3.0",
    ),
    "kernel_size a bool": (
        call(kernel_size=True),
        TypeError,
        "kernel_size must be an int or a tuple of 2 ints, got True",
    ),
    "kernel_size with a float": (
        call(kernel_size=(3, 3.0)),
        TypeError,
        "kernel_size must be an int or a tuple of 2 ints, got (3, 3.0)",
    ),
    "dilation with a bool": (
        call(kernel_size=(3, 3), dilation=[1, True]),
        TypeError,
        "dilation must be an int or a tuple of 2 ints, got (1, True)",
    ),
    "is_causal with a number": (
        call(kernel_size=(3, 3), is_causal=(True, 0)),
        TypeError,
        "is_causal must be a bool or a tuple of 2 bools, got (True, 0)",
    ),
    "kernel_size a set": (call(kernel_size={3}), TypeError, "kernel_size must be an int or a tuple of 2 ints, got {3}"),
    "dilation a string": (call(dilation="2"), TypeError, "dilation must be an int or a tuple of 2 ints, got '2'"),
    "stride above kernel_size": (
        call(stride=(1, 4)),
        ValueError,
        "stride 4 is larger than kernel_size 3 on spatial axis 1 of 2: use a stride of 1 to 3",
    ),
    "stride zero": (call(stride=0), ValueError, "stride must be at least 1 on every axis, got 0"),
    "is_causal a number": (call(is_causal=1), TypeError, "is_causal must be a bool or a tuple of 2 bools, got 1"),
    "is_causal per axis of another rank": (
        call(is_causal=(True,)),
        ValueError,
        "is_causal has 1 values, (True,), for 2 spatial axes: give 2, or one bool",
    ),
    "scale a tensor": (call(scale=torch.ones(())), TypeError, "scale must be a float, or None for head_dim ** -0.5"),
    "scale infinite": (call(scale=float("inf")), ValueError, "scale must be finite in torch.float32, got inf"),
    "rpb of another shape": (
        call(rpb=torch.zeros(4, 5, 3)),
        ValueError,
        "rpb must be [heads, 2 * kernel_size - 1 per spatial axis], here [4, 5, 5], got shape [4, 5, 3]",
    ),
    "rpb of integers": (
        call(rpb=torch.zeros(4, 5, 5).int()),
        ValueError,
        "rpb must be float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "additional keys alone": (
        call(additional_keys=N),
        ValueError,
        "additional_keys was given without additional_values: give both, or neither",
    ),
    "additional values alone": (
        call(additional_values=N),
        ValueError,
        "additional_values was given without additional_keys",
    ),
    "additional keys of another shape": (
        call(additional_keys=N[:1], additional_values=N),
        ValueError,
        "additional_keys must be [batch, N, heads of key, head_dim], here [2, 5, 4, 6], got shape [1, 5, 4, 6]",
    ),
    "additional keys without heads": (
        call(additional_keys=N[0], additional_values=N),
        ValueError,
        "additional_keys must be [batch, N, heads of key, head_dim], here [2, N, 4, 6], got shape [5, 4, 6]",
    ),
    "more additional values than keys": (
        call(additional_keys=N, additional_values=torch.cat([N, N], 1)),
        ValueError,
        "additional_values must be [batch, N, heads of key, head_dim], here [2, 5, 4, 6], got shape [2, 10, 4, 6]",
    ),
    "additional keys of another dtype": (
        call(additional_keys=N.double(), additional_values=N),
        ValueError,
        "additional_keys must have the dtype of query",
    ),
    "query without a unit last stride": (
        call(query=X.transpose(-1, -2).contiguous().transpose(-1, -2)),
        ValueError,
        "query must have a stride of 1 on its last axis (head_dim): pass query.contiguous(), got shape [2, 8, 9, 4, 6]",
    ),
    "value without a unit last stride": (
        call(value=X.repeat_interleave(2, -1)[..., ::2]),
        ValueError,
        "value must have a stride of 1 on its last axis (head_dim): pass value.contiguous()",
    ),
    "scale not a number": (call(scale=NAN), ValueError, "scale must be finite in torch.float32, got nan"),
    "scale a string": (call(scale="1"), TypeError, "scale must be a float, or None for head_dim ** -0.5, got '1'"),
    "scale a bool": (call(scale=True), TypeError, "scale must be a float, or None for head_dim ** -0.5, got True"),
    "kernel_size negative": (call(kernel_size=-3), ValueError, "kernel_size must be at least 1 on every axis, got -3"),
    "kernel_size None": (
        call(kernel_size=None),
        TypeError,
        "kernel_size must be an int or a tuple of 2 ints, got N",
    ),
    "dilation zero": (call(dilation=0), ValueError, "dilation must be at least 1 on every axis, got 0"),
    "stride negative": (call(stride=(1, -1)), ValueError, "stride must be at least 1 on every axis, got (1, -1)"),
    "stride a float": (call(stride=1.5), TypeError, "stride must be an int or a tuple of 2 ints, got 1.5"),
    "is_causal None": (call(is_causal=None), TypeError, "is_causal must be a bool or a tuple of 2 bools, got None"),
    "key None": (call(key=None), TypeError, "key must be a torch.Tensor, got NoneType"),
    "key on another device": (call(key=X.to("meta")), ValueError, "key must be on the device of query, cpu, got meta"),
    "key without a unit last stride": (call(key=spread(X)), ValueError, "pass key.contiguous(), got shape [2, 8, 9, 4"),
    "no tokens": (
        call(query=X[:, :0], key=X[:, :0], value=X[:, :0]),
        ValueError,
        "needs a length of at least 3 on spatial axis 0 of 2, got 0",
    ),
    "rpb of other heads": (
        call(key=KV, value=KV, rpb=torch.zeros(2, 5, 5)),
        ValueError,
        "here [4, 5, 5], got shape [2, 5, 5]",
    ),
    "rpb of complex numbers": (
        call(rpb=torch.zeros(4, 5, 5).cfloat()),
        ValueError,
        "rpb must be float16, bfloat16, float32 or float64, got torch.complex64",
    ),
    "additional keys of another type": (
        call(additional_keys=[1], additional_values=N),
        TypeError,
        "additional_keys must be a torch.Tensor, got list",
    ),
    "additional values on another device": (
        call(additional_keys=N, additional_values=N.to("meta")),
        ValueError,
        "additional_values must be on the device of query, cpu, got meta",
    ),
    "additional keys without a unit last stride": (
        call(additional_keys=spread(N), additional_values=N),
        ValueError,
        "pass additional_keys.contiguous(), got shape [2, 5, 4, 6]",
    ),
    "backend None": (
        call(backend=None),
        ValueError,
        "backend must be 'auto' or one of 'cuda', 'cpu', 'reference', got",
    ),
    "backend a list": (call(backend=["cpu"]), ValueError, "one of 'cuda', 'cpu', 'reference', got ['cpu']"),
    "backend of another device": (
        call(backend="cuda"),
        NotImplementedError,
        "backend 'cuda' cannot run this: the tensors are on 'cpu'",
    ),
    "unknown backend": (
        call(backend="cuda9"),
        ValueError,
        "backend must be 'auto' or one of 'cuda', 'cpu', 'reference', got 'cuda9'",
    ),
    "packed with a size of two": (
        lambda: na2d_qkvpacked(QKV[:, :, :, :2], 3),
        ValueError,
        "qkv must be [batch, *spatial, 3, heads, head_dim]: its third-last size must be 3, got shape [2, 8, 9, 2, 4",
    ),
    "packed of another rank": (
        lambda: na2d_qkvpacked(QKV[:, 0], 3),
        ValueError,
        "qkv must be [batch, *spatial, 3, heads, head_dim] with 2 spatial axes, got shape [2, 9, 3, 4, 6]",
    ),
    "packed of integers": (lambda: na2d_qkvpacked(QKV.int(), 3), ValueError, "qkv must be float16, bfloat16, float32"),
    "packed with a large window": (
        lambda: na2d_qkvpacked(QKV, 9),
        ValueError,
        "the largest kernel_size that fits is 8",
    ),
    "packed of another type": (lambda: na2d_qkvpacked([1], 3), TypeError, "qkv must be a torch.Tensor, got list"),
    "packed without a unit last stride": (
        lambda: na2d_qkvpacked(spread(QKV), 3),
        ValueError,
        "qkv must have a stride of 1 on its last axis (head_dim): pass qkv.contiguous(), got shape [2, 8, 9, 3, 4, 6]",
    ),
    "packed without heads": (
        lambda: na2d_qkvpacked(QKV[..., :0, :], 3),
        ValueError,
        "qkv must have at least one head and a head_dim of at least 1, got shape [2, 8, 9, 3, 0, 6]",
    ),
    "packed with additional values alone": (
        lambda: na2d_qkvpacked(QKV, 3, additional_values=N),
        ValueError,
        "additional_values was given without additional_keys: give both, or neither",
    ),
    "packed with rpb of another shape": (
        lambda: na2d_qkvpacked(QKV, 3, rpb=torch.zeros(4, 3, 3)),
        ValueError,
        "here [4, 5, 5], got shape [4, 3, 3]",
    ),
    "packed on a backend of another device": (
        lambda: na2d_qkvpacked(QKV, 3, backend="cuda"),
        NotImplementedError,
        "backend 'cuda' cannot run this: the tensors are on 'cpu'",
    ),
    "qk: query of another type": (
        lambda: natten_core.na2d_qk([1], X, 3),
        TypeError,
        "query must be a torch.Tensor, got list",
    ),
    "qk: another rank": (
        lambda: natten_core.na3d_qk(X, X, 3),
        ValueError,
        "query must be [batch, z, y, x, heads, head_dim], got shape [2, 8, 9, 4, 6]",
    ),
    "qk: key of another dtype": (
        lambda: natten_core.na2d_qk(X, X.half(), 3),
        ValueError,
        "key must have the dtype of query, torch.float32, got torch.float16",
    ),
    "qk: key without a unit last stride": (
        lambda: natten_core.na2d_qk(X, spread(X), 3),
        ValueError,
        "pass key.contiguous(), got shape [2, 8, 9, 4, 6]",
    ),
    "qk: heads that do not divide": (
        lambda: natten_core.na2d_qk(X, X[..., :3, :], 3),
        ValueError,
        "query's 4 heads must be a multiple of key's, got 3",
    ),
    "qk: additional keys of another dtype": (
        lambda: natten_core.na2d_qk(X, X, 3, additional_keys=N.half()),
        ValueError,
        "additional_keys must have the dtype of query, torch.float32, got torch.float16",
    ),
    "qk: stride": (lambda: natten_core.na2d_qk(X, X, 3, stride=4), ValueError, "use a stride of 1 to 3"),
    "qk: is_causal": (
        lambda: natten_core.na2d_qk(X, X, 3, is_causal=2),
        TypeError,
        "is_causal must be a bool or a tup",
    ),
    "qk: backend": (lambda: natten_core.na2d_qk(X, X, 3, backend="x"), ValueError, "backend must be 'auto' or one of"),
    "qk: backend of another device": (
        lambda: natten_core.na2d_qk(X, X, 3, backend="cuda"),
        NotImplementedError,
        "backend 'cuda' cannot run this: the tensors are on 'cpu'",
    ),
    "av: attn of another type": (
        lambda: natten_core.na2d_av([1], X, 3),
        TypeError,
        "attn must be a torch.Tensor, got list",
    ),
    "av: attn of integers": (
        lambda: natten_core.na2d_av(ATTN.int(), X.int(), 3),
        ValueError,
        "attn must be float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "av: attn without a unit last stride": (
        lambda: natten_core.na2d_av(spread(ATTN), X, 3),
        ValueError,
        "attn must have a stride of 1 on its last axis (slots): pass attn.contiguous(), got shape [2, 8, 9, 4, 9]",
    ),
    "av: value on another device": (
        lambda: natten_core.na2d_av(ATTN, X.to("meta"), 3),
        ValueError,
        "value must be on the device of attn, cpu, got meta",
    ),
    "av: value without head_dim": (
        lambda: natten_core.na2d_av(ATTN, X[..., :0], 3),
        ValueError,
        "value must have a head_dim of at least 1, got shape [2, 8, 9, 4, 0]",
    ),
    "av: additional values of another batch": (
        lambda: natten_core.na2d_av(torch.zeros(2, 8, 9, 4, 14), X, 3, additional_values=N[:1]),
        ValueError,
        "additional_values must be [batch, N, heads of key, head_dim], here [2, 5, 4, 6], got shape [1, 5, 4, 6]",
    ),
    "av: stride": (lambda: natten_core.na2d_av(ATTN, X, 3, stride=0), ValueError, "stride must be at least 1 on every"),
    "av: backend of another device": (
        lambda: natten_core.na2d_av(ATTN, X, 3, backend="cuda"),
        NotImplementedError,
        "backend 'cuda' cannot run this: the tensors are on 'cpu'",
    ),
    "merge: integers": (
        lambda: natten_core.merge_attentions([X.long()], [X[..., 0]]),
        ValueError,
        "outputs[0] must be float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "merge: another device": (
        lambda: natten_core.merge_attentions([X, X], [X[..., 0], X[..., 0].to("meta")]),
        ValueError,
        "lses[1] must be on the device of outputs[0], cpu, got meta",
    ),
    "merge: one tensor": (
        lambda: natten_core.merge_attentions(X, X[..., 0]),  # type: ignore[arg-type]
        TypeError,
        "outputs must be a sequence of tensors, got Tensor",
    ),
    "merge: nothing": (
        lambda: natten_core.merge_attentions([X], None),  # type: ignore[arg-type]
        TypeError,
        "lses must be a sequence of tensors, got NoneType",
    ),
    "merge: no axes": (
        lambda: natten_core.merge_attentions([torch.zeros(())], [torch.zeros(())]),
        ValueError,
        "outputs[0] must be [batch, *spatial, heads, head_dim], got shape []",
    ),
    "scale too large for its dtype": (
        call(scale=1e300),
        ValueError,
        "scale must be finite in torch.float32, got 1e+300",
    ),
    "scale too large for any": (call(scale=10**400), ValueError, "scale must be finite in torch.float32, got 1000"),
    "explain: scale": (
        lambda: natten_core.explain(X, X, X, 3, scale=NAN),
        ValueError,
        "scale must be finite in torch.float32, got nan",
    ),
    "explain: additional keys alone": (
        lambda: natten_core.explain(X, X, X, 3, additional_keys=N),
        ValueError,
        "additional_keys was given without additional_values: give both, or neither",
    ),
    "explain: backend": (
        lambda: natten_core.explain(X, X, X, 3, backend="x"),
        ValueError,
        "backend must be 'auto' or one of 'cuda', 'cpu', 'reference', got 'x'",
    ),
    "module: num_heads": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2.0, 3),  # type: ignore[arg-type]
        TypeError,
        "num_heads must be an int, got 2.0",
    ),
    "module: no heads": (
        lambda: natten_core.NeighborhoodAttention2D(8, 0, 3),
        ValueError,
        "embed_dim must be a multiple of num_heads, got 8 and 0",
    ),
    "module: qk_scale": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, qk_scale=NAN),
        ValueError,
        "qk_scale must be finite in torch.float64, got nan",
    ),
    "module: attn_drop a string": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, attn_drop="a"),  # type: ignore[arg-type]
        TypeError,
        "attn_drop must be a float, got 'a'",
    ),
    "module: proj_drop a string": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, proj_drop="a"),  # type: ignore[arg-type]
        TypeError,
        "proj_drop must be a float, got 'a'",
    ),
    "module: proj_drop": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, proj_drop=NAN),
        ValueError,
        "proj_drop must be a probability, got nan",
    ),
    "module: input of another type": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3)(None),
        TypeError,
        "x must be a torch.Tensor, got NoneType",
    ),
    "module: dilation": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, dilation=-1),
        ValueError,
        "dilation must be at least 1 on every axis, got -1",
    ),
    "module: embed_dim": (
        lambda: natten_core.NeighborhoodAttention2D(10, 3, 7),
        ValueError,
        "embed_dim must be a multiple of num_heads, got 10 and 3",
    ),
    "module: stride": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3, stride=4),
        ValueError,
        "use a stride of 1 to 3",
    ),
    "module: kernel_size": (
        lambda: natten_core.NeighborhoodAttention1D(8, 2, 0),
        ValueError,
        "kernel_size must be at least 1",
    ),
    "module: kernel_size per axis": (
        lambda: natten_core.NeighborhoodAttention3D(8, 2, (3, 3)),
        ValueError,
        "kernel_size has 2 values, (3, 3), for 3 spatial axes",
    ),
    "module: attn_drop": (
        lambda: natten_core.NeighborhoodAttention1D(8, 2, 3, attn_drop=1.5),
        ValueError,
        "attn_drop must be a probability, got 1.5",
    ),
    "module: input": (
        lambda: natten_core.NeighborhoodAttention2D(8, 2, 3)(torch.zeros(1, 5, 5, 9)),
        ValueError,
        "x must be [batch, 2 spatial sizes, 8], got shape [1, 5, 5, 9]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_message(name: str) -> None:
    function, error, message = BAD[name]
    with pytest.raises(error, match=re.escape(message)):
        function()


def test_a_message_is_the_same_after_a_good_call_of_the_same_sizes() -> None:
    """Good calls are remembered, bad ones are not mistaken for them."""
    na2d(X, X, X, 3, backend="reference")
    for name in ("kernel_size a float", "kernel_size a bool", "is_causal a number", "scale a tensor", "backend a list"):
        test_message(name)
    for settings in ({}, {"dilation": [1, 1]}, {"is_causal": (True, False)}):
        na2d(X, X, X, (3, 3), **settings)
    for name in ("kernel_size with a float", "dilation with a bool", "is_causal with a number"):
        test_message(name)


def test_a_window_that_no_longer_fits_the_bias() -> None:
    module = natten_core.NeighborhoodAttention2D(8, 2, 3)
    module.kernel_size = (5, 5)
    with pytest.raises(
        ValueError, match=re.escape("rpb must be [heads, 2 * kernel_size - 1 per spatial axis], here [2, 9, 9]")
    ):
        module(torch.zeros(1, 9, 9, 8))
