"""What torch.compile is told about functions that it should not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])


def run_while_tracing(function: _Function) -> _Function:
    """Has torch.compile call `function` as it traces, and take what it returns for a constant.

    This is `torch.compiler.assume_constant_result` without the seconds of import that it costs.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
