"""`natten.flops`: multiply-accumulates with fvcore, an optional dependency, as NATTEN counted them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

Handle: TypeAlias = Callable[[list[Any], list[Any]], int]


def _shape(value: Any) -> list[int]:
    from fvcore.nn.jit_handles import get_shape  # type: ignore[import-untyped]

    return list(get_shape(value) or [])


def _ints(value: Any) -> list[int]:
    """A list of ints that a trace holds as one constant or as one each."""
    constant = value.toIValue()
    return [part.toIValue() for part in value.node().inputs()] if constant is None else constant


def _fused(inputs: list[Any], queries: int, extra: int) -> tuple[int, int]:
    """Pairs of a query head and a key, and the width of one."""
    (*batch, heads, head_dim), more = _shape(inputs[0]), _shape(inputs[extra])
    keys = math.prod(_ints(inputs[extra + 2])) + (more[1] if more else 0)
    return math.prod(batch[:queries]) * heads * keys, head_dim


def _handles(additions: int) -> dict[str, Handle]:
    """Counters by operator; `additions`: what each score counts beside its product."""

    def na(inputs: list[Any], outputs: list[Any]) -> int:
        pairs, head_dim = _fused(inputs, len(_shape(inputs[0])) - 2, 4)
        return pairs * (head_dim + _shape(inputs[2])[-1] + additions)

    def qkvpacked(inputs: list[Any], outputs: list[Any]) -> int:
        pairs, head_dim = _fused(inputs, len(_shape(inputs[0])) - 3, 2)
        return pairs * (2 * head_dim + additions)

    def qk(inputs: list[Any], outputs: list[Any]) -> int:
        return math.prod(_shape(outputs[0])) * (_shape(inputs[0])[-1] + additions)

    def av(inputs: list[Any], outputs: list[Any]) -> int:
        return math.prod(_shape(inputs[0])) * _shape(inputs[1])[-1]

    counters = {"na_forward": na, "na_qkvpacked_forward": qkvpacked, "qk": qk, "av": av}
    return {f"natten_core::{name}": counter for name, counter in counters.items()}


def functions(additions: int) -> dict[str, Callable[..., Any]]:
    """`add_natten_handle` and `get_flops`.

    Args:
        additions: 1 where the addition of the bias counts, as up to NATTEN 0.15, else 0.
    """

    def add_natten_handle(flop_ctr: Any) -> Any:
        """Teaches a `fvcore.nn.FlopCountAnalysis` the operators of natten-core, and returns it."""
        return flop_ctr.set_op_handle(**_handles(additions))

    def get_flops(model: Any, input: Any, disable_warnings: bool = False) -> int:
        """Multiply-accumulates of `model(input)`, which fvcore calls FLOPs.

        Raises:
            ImportError: fvcore is not installed.
        """
        from fvcore.nn import FlopCountAnalysis  # type: ignore[import-untyped]

        counter = add_natten_handle(FlopCountAnalysis(model, input))
        if disable_warnings:
            counter = counter.unsupported_ops_warnings(False)
        total: int = counter.total()
        return total

    return {"add_natten_handle": add_natten_handle, "get_flops": get_flops}
