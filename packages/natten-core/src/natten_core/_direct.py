"""When a call may go around torch's dispatcher, which takes longer than the kernels do on a small map.

It may where nobody can tell the difference: plain dense tensors, and no mode, transform, tracer or profiler to see the
operator. Everyone else sees the registered operators of `_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import _C, Tensor

_compiling, _recording = torch.compiler.is_compiling, torch.is_grad_enabled
_keys, _profiled = _C._dispatch_keys, _C._autograd._profiler_enabled
_overridden, _modes = _C._has_torch_function, _C._len_torch_dispatch_stack
_transforms, _tracer = _C._are_functorch_transforms_active, _C._get_tracing_state


def unobserved(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a kernel called on `tensors` does all that the dispatcher would have done, but record a gradient."""
    if (
        _compiling()
        or _overridden(tensors)  # subclasses, and modes
        or _modes()
        or _transforms()
        or _tracer() is not None
        or _profiled()
    ):
        return False
    # Batched, negated, zero, functional and other tensors of class Tensor that are not what they seem.
    dense = _dense(tensors[0].is_cuda)  # type: ignore[union-attr]
    for tensor in tensors:  # noqa: SIM110  # a generator takes longer
        if tensor is not None and _keys(tensor).raw_repr() not in dense:
            return False
    return True


def wants_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd has something to record."""
    return _recording() and _any_requires_grad(*tensors)


def records() -> bool:
    """Whether autograd would be asked: it is not in the kernel of an operator, whatever its tensors require."""
    # Its keys are excluded all together, and of those for a device it cannot be told.
    return not _C._dispatch_tls_is_dispatch_key_excluded(_C.DispatchKey.AutogradOther)


def _look_at_each(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


# torch 2.7 does not have it.
_any_requires_grad = getattr(_C, "_any_requires_grad", _look_at_each)


@lru_cache
def _dense(cuda: bool) -> frozenset[int]:
    """The sets of dispatch keys that dense tensors on a CPU or a GPU have, outside and inside inference mode."""
    keys = set()
    for inside in (False, True):
        with torch.inference_mode(inside):
            keys.add(_keys(torch.empty(0, device="cuda" if cuda else "cpu")).raw_repr())
    return frozenset(keys)
