"""What detectron2's Mask2Former and OneFormer call their parameters, and what transformers calls them.

transformers has the parameters of the published heads, one for one, with the query, key and value of the decoder's self
attention apart. The backbone inside is `dinat_zoo.dense.Backbone`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dinat_zoo._formats import BACKBONE, Weights, convert
from dinat_zoo._weights_file import WeightsError

ENCODER = "model.pixel_level_module.encoder."
BODY = ENCODER + "body."
_SELF_ATTENTION = re.compile(
    r"(model\.transformer_module\.decoder\.layers\.\d+\.(?:self_attn\.)+)in_proj_(weight|bias)"
)
_PARTS = ("q_proj", "k_proj", "v_proj")
_SHORT = {
    "DECODER": "sem_seg_head.pixel_decoder",
    "PREDICTOR": "sem_seg_head.predictor",
    "PIXEL": "model.pixel_level_module.decoder",
    "QUERY": "model.transformer_module",
    "TEXT": "model.text_mapper",
}
_PIXEL_DECODER = (
    ("DECODER.transformer.encoder.layers.#.norm1", "PIXEL.encoder.layers.#.self_attn_layer_norm"),
    ("DECODER.transformer.encoder.layers.#.norm2", "PIXEL.encoder.layers.#.final_layer_norm"),
    ("DECODER.transformer.encoder.layers.#.linear#", "PIXEL.encoder.layers.#.fc#"),
    ("DECODER.transformer", "PIXEL"),
    ("DECODER.input_proj", "PIXEL.input_projections"),
    ("DECODER.mask_features", "PIXEL.mask_projection"),
    ("DECODER.adapter_#.norm", "PIXEL.adapter_#.1"),
    ("DECODER.adapter_#", "PIXEL.adapter_#.0"),
    ("DECODER.layer_#.norm", "PIXEL.layer_#.1"),
    ("DECODER.layer_#", "PIXEL.layer_#.0"),
    ("criterion", "criterion"),
)
_Rules = list[tuple[re.Pattern[str], str]]


class Names:
    """The names of one kind of model.

    Args:
        kind: what an error calls it.
        modules: pairs of the published and transformers' names of modules, beside those of the pixel decoder. `#` is a
            number, words in capitals are prefixes; the longest name that fits decides.
    """

    def __init__(self, kind: str, modules: Sequence[tuple[str, str]]) -> None:
        self.kind = kind
        table = [[_written_out(name) for name in pair] for pair in (*_PIXEL_DECODER, *modules)]
        self._to, self._from = _rules(table, 0), _rules(table, 1)

    def to_transformers(self, weights: Mapping[str, Tensor]) -> Weights:
        """The names that transformers has for a published file's tensors; query, key and value are taken apart.

        What has transformers' names already keeps them.

        Raises:
            WeightsError: for a name that no published file has.
        """
        if any(key.startswith(BODY) for key in weights):
            return dict(weights)
        body = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
        renamed = {BODY + key: value for key, value in convert(body, "timm").items()}
        for key, value in weights.items():
            if key.startswith(BACKBONE):
                continue
            name = self._renamed(key, self._to)
            found = _SELF_ATTENTION.fullmatch(name)
            if found is None:
                renamed[name] = value
            else:
                renamed |= {f"{found[1]}{part}.{found[2]}": x for part, x in zip(_PARTS, value.chunk(3), strict=True)}
        return renamed

    def from_transformers(self, weights: Mapping[str, Tensor]) -> Weights:
        """The published names of a model's tensors: the inverse of `to_transformers`.

        Raises:
            WeightsError: for a name that such a model has not.
        """
        body = {key.removeprefix(BODY): value for key, value in weights.items() if key.startswith(BODY)}
        renamed = {BACKBONE + key: value for key, value in convert(body, "original").items()}
        for key, value in weights.items():
            if key.startswith(BODY) or ".self_attn.k_proj." in key or ".self_attn.v_proj." in key:
                continue
            name, tensor = key, value
            if ".self_attn.q_proj." in key:
                tensor = torch.cat([weights[key.replace("q_proj", part)] for part in _PARTS])
                name = key.replace("q_proj.", "in_proj_")
            renamed[self._renamed(name, self._from)] = tensor
        return renamed

    def _renamed(self, key: str, rules: _Rules) -> str:
        for pattern, target in rules:
            if found := pattern.match(key):
                return found.expand(target) + key[found.end() :]
        raise WeightsError(f"{key!r} is no parameter of a {self.kind}")


def _written_out(name: str) -> str:
    return re.sub("[A-Z]{2,}", lambda found: _SHORT[found[0]], name)


def _rules(table: list[list[str]], source: int) -> _Rules:
    """Patterns of one side of the table with replacements of the other, the longest first."""
    rules = []
    for modules in sorted(table, key=lambda modules: -len(modules[source])):
        pattern = re.compile(re.escape(modules[source]).replace(r"\#", r"(\d+)") + r"(?=\.)")
        target = modules[1 - source]
        for i in range(1, pattern.groups + 1):
            target = target.replace("#", rf"\g<{i}>", 1)
        rules.append((pattern, target))
    return rules
