"""`Backbone` for detectron2: importing this module registers it as `build_dinat_zoo_backbone`.

>>> cfg = get_cfg()  # doctest: +SKIP
>>> add_config(cfg)  # doctest: +SKIP
>>> cfg.MODEL.BACKBONE.NAME = "build_dinat_zoo_backbone"  # doctest: +SKIP
>>> cfg.MODEL.DINAT_ZOO.NAME = "dinat_mini"  # doctest: +SKIP

In a lazy configuration `DinatZooBackbone` itself is what is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling import Backbone as Detectron2Backbone
from torch import Tensor

from dinat_zoo.dense.backbone import Backbone, create_body

__all__ = ["DinatZooBackbone", "add_config", "build_dinat_zoo_backbone"]


class DinatZooBackbone(Backbone, Detectron2Backbone):
    """A `Backbone` that gives maps by name, "res2" for the first level.

    Args:
        name: a model's name, see `dinat_zoo.list_models`.
        out_features: the maps to give.
        **arguments: further arguments of `timm.create_model`: `pretrained`, `dilations`, `drop_path_rate` etc.

    Raises:
        ValueError: a model without levels, or a level that it has not.
    """

    def __init__(
        self, name: str, out_features: Sequence[str] = ("res2", "res3", "res4", "res5"), **arguments: Any
    ) -> None:
        super().__init__(create_body(name, **arguments), [int(feature[3:]) - 2 for feature in out_features])
        # What detectron2's own methods read:
        self._out_features = [f"res{i + 2}" for i in self.out_indices]
        self._out_feature_channels = dict(zip(self._out_features, self.channels, strict=True))
        self._out_feature_strides = dict(zip(self._out_features, self.reductions, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map images `[B, C, H, W]` to the normalised outputs of the levels by name, NCHW."""
        return dict(zip(self._out_features, super().forward(images), strict=True))


def add_config(cfg: CfgNode) -> None:
    """Add the node `MODEL.DINAT_ZOO`: `NAME`, `OUT_FEATURES`, and `ARGUMENTS` of the model in lower case."""
    cfg.MODEL.DINAT_ZOO = CfgNode()
    cfg.MODEL.DINAT_ZOO.NAME = "dinat_mini"
    cfg.MODEL.DINAT_ZOO.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DINAT_ZOO.ARGUMENTS = CfgNode(new_allowed=True)


@BACKBONE_REGISTRY.register()
def build_dinat_zoo_backbone(cfg: CfgNode, input_shape: Any) -> DinatZooBackbone:
    """The backbone that a configuration with the node of `add_config` describes."""
    node = cfg.MODEL.DINAT_ZOO
    return DinatZooBackbone(node.NAME, node.OUT_FEATURES, **{"in_chans": input_shape.channels, **node.ARGUMENTS})
