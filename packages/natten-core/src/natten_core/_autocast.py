"""Autocast as torch's scaled_dot_product_attention has it: in the lower precision, whatever comes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from natten_core._tracing import run_while_tracing

is_on = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any type of device: asked first where microseconds count."""


def cast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors in autocast's dtype for the device of the first; as they are outside autocast.

    What is no floating point tensor of that device, and what is float64, stays as it is, as everywhere in torch.
    """
    if not isinstance(tensors[0], Tensor) or not is_enabled(device := tensors[0].device.type):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) if _eligible(tensor, device) else tensor for tensor in tensors)


def is_enabled(device: str) -> bool:
    """Whether autocast is on for a type of device."""
    return _is_known(device) and torch.is_autocast_enabled(device)


@run_while_tracing
def _is_known(device: str) -> bool:
    """Whether autocast is for such devices; it raises for others, such as "meta"."""
    return bool(torch.amp.is_autocast_available(device))


def _eligible(tensor: Any, device: str) -> bool:
    if not isinstance(tensor, Tensor) or tensor.device.type != device:
        return False
    return tensor.is_floating_point() and tensor.dtype is not torch.float64
