"""Loads checkpoints of NAT and DiNAT, in any format that there is, into models of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import clean_state_dict
from torch import Tensor, nn

from dinat_zoo._formats import BACKBONE, Weights, convert
from dinat_zoo._rpb import interpolate_rpb
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import WeightsError, read

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # the order in which timm looks
_OUT_NORM = re.compile(r"^(backbone\.)?(?:norm|out_norms\.)(\d)\.")
_CLASSIFIER = ("norm.", "head.")
_NAMED = 3  # as many keys an error names of each kind


def load_checkpoint(
    model: nn.Module,
    source: str | Path,
    *,
    strict: bool = True,
    interpolate: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[list[str], list[str]]:
    """Load weights from wherever they are, in whichever format, into a model of this package.

    Args:
        model: a classifier, the result of `features_only=True`, or a model for dense prediction.
        source: a file; a folder that `save_hugging_face` or transformers wrote; a URL; "hf-hub:" and a repository; or
            the name of a published checkpoint.
        strict: raise if anything of the model is not in the checkpoint or the other way round. A model without
            classes, or of features alone, takes what it has of a classifier or a detector strictly.
        interpolate: fit biases of another kernel size, as the authors made 11x11 models of 7x7 ones.
        cache_dir: where downloads are kept; by default the hub's cache, and for URLs `DINAT_ZOO_CACHE`.

    Returns:
        The missing and the unexpected keys; both empty if strict.

    Raises:
        WeightsError: if the weights cannot be had or read, are of no format known here, or do not fit.

    Example:
        >>> import timm, dinat_zoo
        >>> model = timm.create_model("dinat_mini")
        >>> dinat_zoo.load_checkpoint(model, "dinat_mini_in1k_224")  # doctest: +SKIP
    """
    weights = read_weights(resolve(source, cache_dir))
    children = dict(model.named_children())
    if children.keys() == {"model"}:  # timm's wrapper for features_only
        model = children["model"]
    weights = checkpoint_filter_fn(weights, model, interpolate=interpolate)
    return fit(model, weights, str(source), strict=strict)


def read_weights(path: Path) -> Weights:
    """The tensors of a file, freed from what they may be wrapped in, under the names that the file has for them.

    Raises:
        WeightsError: if the file cannot be read, is refused, or holds something else.
    """
    return _unwrap(read(path), f"checkpoint {str(path)!r}")


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any], model: nn.Module, *, features_only: bool = False, interpolate: bool = False
) -> Weights:
    """Bring a checkpoint into a model's format; timm calls this with what it has read.

    Args:
        state_dict: the authors' classification, detection, segmentation or Mask2Former format, Hugging Face's `nat` or
            `dinat`, or ours; also wrapped in a `model` or `state_dict` entry, or saved from DistributedDataParallel.
        model: the model to load into. If it is a classifier without classes, a classifier's checkpoint loses its
            head; from a checkpoint of dense prediction a classifier takes the backbone, and its final norm, which such
            a checkpoint does not have, stays as it is.
        features_only: the model's classifier will not be used, and need not be in the checkpoint.
        interpolate: fit biases of another kernel size, or for another map, with `interpolate_rpb`.

    Returns:
        Tensors under the model's names.

    Raises:
        WeightsError: if these are no such weights, have no classifier though the model has one, or are of another
            kernel size and not to be interpolated.
    """
    weights = _unwrap(state_dict, "the checkpoint")
    expected: dict[str, Tensor] = model.state_dict()
    body = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
    if body and not any(key.startswith(BACKBONE) for key in expected):
        weights = body
    weights = _place_out_norms(convert(weights, "timm"), expected)
    if not any(key.startswith(_CLASSIFIER) for key in weights):  # of a detector or segmenter
        if "head.fc.weight" in expected and not features_only:
            raise WeightsError(
                "this is a checkpoint of a detector or segmenter, which has no classifier: give it to a model made "
                "with features_only=True or num_classes=0"
            )
        weights |= {key: value for key, value in expected.items() if key.startswith("norm.") and key not in weights}
    elif not any(key.startswith("head.") for key in expected):
        weights = {key: value for key, value in weights.items() if key in expected or not key.startswith(_CLASSIFIER)}
    return _fit_windows(weights, expected, interpolate)


def fit(model: nn.Module, weights: Weights, source: str, *, strict: bool = True) -> tuple[list[str], list[str]]:
    """Load weights that have the model's names, or say in one line why they do not fit.

    Raises:
        WeightsError: if a shape differs, or, if strict, a name.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    shapes = [
        f"{key} is {list(value.shape)}, not {list(expected[key].shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    problems = [("sizes", shapes)] + ([("missing", missing), ("unexpected", unexpected)] if strict else [])
    said = [f"{what}: {_some(items)}" for what, items in problems if items]
    if said:
        architecture = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)
        raise WeightsError(f"checkpoint {source!r} does not fit {architecture!r}: {'; '.join(said)}")
    model.load_state_dict(weights, strict=False)
    return missing, unexpected


def _place_out_norms(weights: Weights, expected: Mapping[str, Tensor]) -> Weights:
    """Name the norms of the levels' outputs `out_norms`, whatever the file is like, and drop those not wanted."""
    named = {_OUT_NORM.sub(r"\1out_norms.\2.", key): value for key, value in weights.items()}
    return {key: value for key, value in named.items() if key in expected or not _OUT_NORM.match(key)}


def _fit_windows(weights: Weights, expected: Mapping[str, Tensor], interpolate: bool) -> Weights:
    """Give biases the model's kernel size, or refuse if they have another one."""
    other = [key for key, value in weights.items() if key in expected and value.shape != expected[key].shape]
    if not other or not all(key.endswith(".rpb") for key in other):
        return weights  # what else differs decides, and `fit` or timm names it
    windows = {key: [(side + 1) // 2 for side in expected[key].shape[1:]] for key in other}
    if interpolate:
        return weights | {key: interpolate_rpb(weights[key], window) for key, window in windows.items()}
    key = other[0]
    theirs, ours = ("x".join(str((side + 1) // 2) for side in t.shape[1:]) for t in (weights[key], expected[key]))
    raise WeightsError(
        f"{key} is of a {theirs} window, and the model's window is {ours}: "
        "dinat_zoo.load_checkpoint(..., interpolate=True) interpolates"
    )


def _unwrap(checkpoint: Any, what: str) -> Weights:
    while isinstance(checkpoint, Mapping):
        inner = next((checkpoint[name] for name in _WRAPPERS if isinstance(checkpoint.get(name), Mapping)), None)
        if inner is None:
            break
        checkpoint = inner
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{what} holds a {type(checkpoint).__name__}, not weights by name")
    other = [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]
    if other or not checkpoint:
        raise WeightsError(f"{what} has {_some([str(key) for key in other]) or 'nothing'} where weights were expected")
    weights: Weights = clean_state_dict(dict(checkpoint))
    return weights


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more
