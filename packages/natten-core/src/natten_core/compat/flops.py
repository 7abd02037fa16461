"""`natten.flops`: multiply-accumulates with fvcore, an optional dependency, as NATTEN counted them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from natten_core.flops import fvcore_handles


def functions(additions: int) -> dict[str, Callable[..., Any]]:
    """`add_natten_handle` and `get_flops`.

    Args:
        additions: 1 where the addition of the bias counts, as up to NATTEN 0.15, else 0.
    """

    def add_natten_handle(flop_ctr: Any) -> Any:
        """Teaches a `fvcore.nn.FlopCountAnalysis` the operators of natten-core, and returns it."""
        return flop_ctr.set_op_handle(**fvcore_handles(additions))

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
