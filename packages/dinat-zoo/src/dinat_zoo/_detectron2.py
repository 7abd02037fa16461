"""Reads the pickles that detectron2 takes as weights, such as those the Mask2Former models were trained from.

They are plain pickles of tensors or numpy arrays, which `torch.load` does not read. Only what makes up an array is
looked up by name here; anything else is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_ARRAY = np.zeros(1).__reduce__()[0]  # numpy's own maker of arrays; its module's name differs between versions
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage,  # torch's own would unpickle anything
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),  # how protocol 2 spells bytes
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return _KNOWN[module, name]


def read_detectron2(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of detectron2, its arrays as tensors.

    Args:
        path: the file.

    Raises:
        pickle.UnpicklingError: if it holds anything but a dictionary of arrays, tensors and plain values.
    """
    with path.open("rb") as file:
        content = _Unpickler(file).load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dictionary")
    converted: dict[str, Any] = _tensors(content)
    return converted


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        tensor: Tensor = torch.from_numpy(value)
        return tensor
    return value
