"""The names that one and the same weights have: the authors', timm's (ours) and Hugging Face's.

Nothing here needs a model: a format, and which of the architectures it is, shows in the names.

| | original | timm | hf |
| --- | --- | --- | --- |
| a level's downsampling | at its end | at the start of the next | at its end |
| classifier | `head` | `head.fc` | `classifier` |
| query, key and value | one `qkv` | one `qkv` | one each |
| layer scales | `gamma1`, `gamma2` | `gamma1`, `gamma2` | stacked |
| DiNATs: levels | `layers.i.blocks.j` | `levels.i.blocks.j` | no such models |
| isotropic: blocks | `layers.j` | `levels.j` | no such models |
| norms of the levels' outputs | `norm0` | `out_norms.0` | `hidden_states_norms.stage1` |

Detectors and segmenters have the same names behind `backbone.`, and their heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dinat_zoo._weights_file import WeightsError

Weights = dict[str, Tensor]
FORMATS = ("original", "timm", "hf")
BACKBONE = "backbone."
NO_HEADS = "Hugging Face's format has no heads of dense prediction; take the backbone alone"
POSITIONS = ".attn.relative_position_index"  # a buffer of the authors' ViT with bias; its shape determines it

_HUGGING_FACE = (
    (r"^(?:dinat|nat)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.levels\.(\d+)\.layers\.(\d+)\.", r"levels.\1.blocks.\2."),
    (r"^encoder\.levels\.", "levels."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_TO_HUGGING_FACE = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^levels\.(\d+)\.blocks\.(\d+)\.", r"encoder.levels.\1.layers.\2."),
    (r"^levels\.", "encoder.levels."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
    (r"^head\.", "classifier."),
)
_LEVEL_NORM = re.compile(r"^out_norms\.(\d)\.")
_PARTS = ("query", "key", "value")


def format_of(keys: Iterable[str]) -> str:
    """The format of a set of names, those behind `backbone.` if there are such.

    Raises:
        WeightsError: if it is none of them.
    """
    names = backbone_keys(keys)
    if any(name.startswith("model.pixel_level_module.") for name in names):
        raise WeightsError(
            "these are weights of Mask2Former or OneFormer under transformers' names: dinat_zoo.dense.oneformer.create "
            "reads the hub's, from_pretrained those that save_pretrained wrote, and `dinat-zoo convert` both"
        )
    if any(".attention.self." in name for name in names):
        return "hf"
    if any(re.match(r"levels\.0\.downsample\.|layers\.\d+\.(blocks\.\d+\.)?attn\.", name) for name in names):
        return "original"
    if any(re.match(r"levels\.\d+\.(blocks\.\d+\.)?attn\.", name) for name in names):
        return "timm"
    some = ", ".join(sorted(names)[:3]) or "none"
    raise WeightsError(f"these are no weights of NAT or DiNAT: parameters are named {some}, ...")


def family_of(keys: Iterable[str]) -> str:
    """The architecture of names in the original or timm's format: "nat", "dinat_s" or "isotropic"."""
    names = set(backbone_keys(keys))
    if "patch_embed.proj.0.weight" in names:
        return "nat"
    return "dinat_s" if any(re.match(r"(levels|layers)\.\d+\.blocks\.", name) for name in names) else "isotropic"


def backbone_keys(keys: Iterable[str]) -> list[str]:
    """The names without `backbone.`, and of them alone where any has it."""
    names = list(keys)
    return [name.removeprefix(BACKBONE) for name in names if name.startswith(BACKBONE)] or names


def convert(weights: Mapping[str, Tensor], to: str, prefix: str | None = None) -> Weights:
    """Rename weights from whatever format they are in.

    Args:
        weights: tensors by name; the heads of dense prediction keep their names.
        to: "original", "timm" or "hf".
        prefix: "nat" or "dinat", Hugging Face's name for the model; only for `to="hf"`, which needs it unless that is
            the format already.

    Returns:
        New names, the tensors themselves unchanged, except that Hugging Face's q, k and v are joined or taken apart.

    Raises:
        WeightsError: if the format is unknown, or the one wanted cannot hold them.
    """
    source = format_of(weights)
    if source == to:
        return dict(weights)
    if any(key.startswith(BACKBONE) for key in weights):
        if to == "hf":
            raise WeightsError(NO_HEADS)
        inside = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
        heads = {key: value for key, value in weights.items() if not key.startswith(BACKBONE)}
        return {**{BACKBONE + key: value for key, value in convert(inside, to).items()}, **heads}
    original = dict(weights)
    if source != "original":
        original = _from_timm(weights) if source == "timm" else _from_hugging_face(weights)
    if to == "hf":
        return _to_hugging_face(original, prefix)
    return _to_timm(original) if to == "timm" else original


def _to_timm(weights: Weights) -> Weights:
    renamed = {}
    for key, value in weights.items():
        if key.endswith(POSITIONS):
            continue
        key = re.sub(r"^layers\.", "levels.", key)
        key = re.sub(r"^norm(\d)\.", r"out_norms.\1.", key)
        key = re.sub(r"^levels\.(\d+)\.downsample\.", lambda m: f"levels.{int(m[1]) + 1}.downsample.", key)
        renamed[re.sub(r"^head\.", "head.fc.", key)] = value
    return renamed


def _from_timm(weights: Mapping[str, Tensor]) -> Weights:
    family = family_of(weights)
    renamed: Weights = {}
    for key, value in weights.items():
        key = re.sub(r"^levels\.(\d+)\.downsample\.", lambda m: f"levels.{int(m[1]) - 1}.downsample.", key)
        key = re.sub(r"^head\.fc\.", "head.", key)
        key = _LEVEL_NORM.sub(r"norm\1.", key)
        if family != "nat":
            key = re.sub(r"^levels\.", "layers.", key)
        renamed[key] = value
        # The bias of a neighborhood has 2 * k - 1 entries and k is odd; that of a ViT whose map has an even side:
        if family == "isotropic" and key.endswith(".attn.rpb") and value.shape[-1] % 4 == 3:
            renamed[key.removesuffix(".attn.rpb") + POSITIONS] = _positions((value.shape[-1] + 1) // 2)
    return renamed


def _positions(side: int) -> Tensor:
    """For each pair of a query and a key of a square map, the bias's index in its table flattened, [side^2, side^2]."""
    row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    down, right = (axis[None, :] - axis[:, None] + side - 1 for axis in (row, column))
    return down * (2 * side - 1) + right


def _from_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    renamed: Weights = {}
    for key, value in weights.items():
        for pattern, replacement in _HUGGING_FACE:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^hidden_states_norms\.stage(\d+)\.", lambda m: f"norm{int(m[1]) - 1}.", key)
        if key.endswith(".layer_scale_parameters"):
            stem = key.removesuffix("layer_scale_parameters")
            renamed[f"{stem}gamma1"], renamed[f"{stem}gamma2"] = value.unbind(0)
        else:
            renamed[key] = value
    for key in [key for key in renamed if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{part}.") for part in _PARTS]
        missing = [part for part in parts if part not in renamed]
        if missing:
            raise WeightsError(f"{missing[0]!r} is missing beside {key!r}")
        renamed[key.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def _to_hugging_face(weights: Weights, prefix: str | None) -> Weights:
    if family_of(weights) != "nat":
        raise WeightsError("Hugging Face's format has NAT and DiNAT, but neither DiNATs nor the isotropic models")
    if prefix not in ("nat", "dinat"):
        raise WeightsError(
            "Hugging Face's format names the model, which the weights do not: say 'nat' or 'dinat', or one of their "
            "models"
        )
    bare = any(
        re.match(r"norm\d\.", key) for key in weights
    )  # their backbones, unlike their classifiers, have no prefix
    renamed: Weights = {}
    for original, value in weights.items():
        if original.endswith("gamma2"):
            continue
        key = original
        for pattern, replacement in _TO_HUGGING_FACE:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^norm(\d)\.", lambda m: f"hidden_states_norms.stage{int(m[1]) + 1}.", key)
        if not (bare or original.startswith("head.")):
            key = f"{prefix}.{key}"
        if ".self.qkv." in key:
            for part, rows in zip(_PARTS, value.chunk(3), strict=True):
                renamed[key.replace(".qkv.", f".{part}.")] = rows
        elif key.endswith("gamma1"):
            other = weights.get(original.removesuffix("gamma1") + "gamma2")
            if other is None:
                raise WeightsError(f"'gamma2' is missing beside {original!r}")
            renamed[key.removesuffix("gamma1") + "layer_scale_parameters"] = torch.stack([value, other])
        else:
            renamed[key] = value
    return renamed
