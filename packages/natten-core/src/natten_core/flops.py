"""Work of the operators, for counters of floating point operations.

Counted is what the definition asks for: two products of every query with the keys that it sees, and four in the
backward pass; not the scores that the kernels compute a second time, nor keys beside a window. Where a window is cut
off, as causal ones are at the start of a map, it counts as whole. `torch.utils.flop_counter.FlopCounterMode` finds
these formulas by itself, and counts an addition and a multiplication as two operations. Calls that run on the
`reference` backend are counted as the torch operations that they consist of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, TypeAlias

import torch

from natten_core import _two_stage_ops  # noqa: F401  # so that all operators are there
from natten_core._when_imported import when_imported

Shape: TypeAlias = Sequence[int]
Handle: TypeAlias = Callable[[list[Any], list[Any]], "Counter[str]"]


def fvcore_handles(additions: int | None = None) -> dict[str, Handle]:
    """What fvcore's counters are told about the operators, in fvcore's convention.

    One multiply-accumulate counts as one operation, and adding the relative positional bias to a score too, as in the
    papers' tables.

    Args:
        additions: what every score counts beside its product; None for 1 where there is a bias, and else 0.

    Example:
        >>> from fvcore.nn import FlopCountAnalysis  # doctest: +SKIP
        >>> FlopCountAnalysis(model, image).set_op_handle(**natten_core.flops.fvcore_handles())  # doctest: +SKIP
    """
    handles = {
        "na_forward": _fvcore_separate,
        "na_qkvpacked_forward": _fvcore_packed,
        "qk": _fvcore_qk,
        "av": _fvcore_av,
    }
    return {f"natten_core::{name}": partial(handle, additions) for name, handle in handles.items()}


def _products(scores: Shape, head_dims: int) -> int:
    """Multiply-accumulates of one product of `[batch, *spatial, heads, keys]` scores for each head_dim in a sum."""
    return prod(scores) * head_dims


def _scores(query: Shape, kernel_size: Shape, additional: Shape | None) -> Shape:
    return (*query[:-1], prod(kernel_size) + (0 if additional is None else additional[1]))


def _of_packed(qkv: Shape) -> Shape:
    return (*qkv[:-3], *qkv[-2:])


# FlopCounterMode calls these with shapes instead of tensors.


def _forward(query: Shape, key: Shape, value: Shape, rpb: Any, keys: Any, values: Any, window: Shape, *_: Any) -> int:
    return 2 * _products(_scores(query, window, keys), query[-1] + value[-1])


def _packed_forward(qkv: Shape, rpb: Any, keys: Any, values: Any, window: Shape, *_: Any) -> int:
    query = _of_packed(qkv)
    return _forward(query, query, query, rpb, keys, values, window)


def _backward(grad_output: Shape, grad_lse: Any, *rest: Any) -> int:
    inputs, window = rest[:6], rest[8]
    return 2 * _forward(*inputs, window)


def _packed_backward(grad_output: Shape, grad_lse: Any, *rest: Any) -> int:
    inputs, window = rest[:4], rest[6]
    return 2 * _packed_forward(*inputs, window)


def _qk(query: Shape, key: Shape, rpb: Any, keys: Any, window: Shape, *_: Any) -> int:
    return 2 * _products(_scores(query, window, keys), query[-1])


def _av(attn: Shape, value: Shape, *_: Any) -> int:
    return 2 * _products(attn, value[-1])


def _twice(forward: Callable[..., int]) -> Callable[..., int]:
    return lambda grad, *rest: 2 * forward(*rest)


_FORMULAS: dict[str, Callable[..., int]] = {
    "na_forward": _forward,
    "na_backward": _backward,
    "na_qkvpacked_forward": _packed_forward,
    "na_qkvpacked_backward": _packed_backward,
    "qk": _qk,
    "qk_backward": _twice(_qk),
    "av": _av,
    "av_backward": _twice(_av),
}


def _register(module: Any) -> None:
    for name, formula in _FORMULAS.items():
        module.register_flop_formula(getattr(torch.ops.natten_core, name))(
            lambda *args, formula=formula, out_shape=None: formula(*args)
        )


# fvcore calls these with values of a traced graph.


def _fvcore_separate(additions: int | None, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, _, value, rpb, keys = map(_shape, inputs[:5])
    return _macs(query, value, rpb, keys, inputs[6], additions)


def _fvcore_packed(additions: int | None, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    qkv, rpb, keys = map(_shape, inputs[:3])
    query = _of_packed(qkv)
    return _macs(query, query, rpb, keys, inputs[4], additions)


def _fvcore_qk(additions: int | None, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, _, rpb, keys = map(_shape, inputs[:4])
    return Counter(scores=_macs(query, query, rpb, keys, inputs[4], additions)["scores"])


def _fvcore_av(additions: int | None, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    attn, value = map(_shape, inputs[:2])
    return Counter(weighted_sum=_products(attn, value[-1]))


def _macs(
    query: Shape, value: Shape, rpb: Shape | None, keys: Shape | None, kernel_size: Any, additions: int | None
) -> Counter[str]:
    window = _ints(kernel_size)
    scores = _scores(query, window, keys)
    if additions is not None:
        added = prod(scores) * additions
    else:
        added = 0 if rpb is None else prod(_scores(query, window, None))
    return Counter(scores=_products(scores, query[-1]) + added, weighted_sum=_products(scores, value[-1]))


def _ints(value: Any) -> list[int]:
    """A list of ints that a trace holds as one constant or as one each."""
    constant = value.toIValue()
    return [int(part.toIValue()) for part in value.node().inputs()] if constant is None else constant


def _shape(value: Any) -> Any:
    return None if isinstance(value.type(), torch._C.NoneType) else value.type().sizes()


when_imported("torch.utils.flop_counter", _register)
