"""The published detection and segmentation checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import clean_state_dict
from torch import Tensor, nn

from dinat_zoo._checkpoint import checkpoint_filter_fn as filter_body

_BODY = "backbone."


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename a dense checkpoint's entries to this package's keys; what is in our format passes unchanged.

    Only the backbone's keys differ; the heads have the published names.

    Args:
        state_dict: what the published file holds, its `state_dict` entry, or ours; also from DistributedDataParallel.
        model: the model to load into, which has a `backbone`.

    Returns:
        A flat dictionary of tensors.
    """
    if isinstance(state_dict.get("state_dict"), Mapping):
        state_dict = state_dict["state_dict"]
    weights: dict[str, Tensor] = clean_state_dict(dict(state_dict))
    body = {key.removeprefix(_BODY): value for key, value in weights.items() if key.startswith(_BODY)}
    heads = {key: value for key, value in weights.items() if not key.startswith(_BODY)}
    backbone = model.get_submodule("backbone")
    return {**{_BODY + key: value for key, value in filter_body(body, backbone).items()}, **heads}
