"""`Backbone` for mmengine's registries, which mmdetection and mmsegmentation look into.

In a configuration:

    custom_imports = dict(imports=["dinat_zoo.dense.adapters.mmengine"])
    model = dict(backbone=dict(type="DinatZooBackbone", name="dinat_mini", pretrained=True), ...)

Files of the authors and of mm libraries before 2.x are for models of that time: `dinat-zoo convert IN OUT --to timm`
renames what `load_from` is to read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from dinat_zoo.dense.backbone import Backbone, create_body

__all__ = ["DinatZooBackbone"]


@MODELS.register_module()
class DinatZooBackbone(Backbone, BaseModule):
    """A `Backbone` that gives a tuple.

    Args:
        name: a model's name, see `dinat_zoo.list_models`.
        out_indices: the levels to give.
        init_cfg: mmengine's; None leaves the weights as they are created.
        **arguments: further arguments of `timm.create_model`: `pretrained`, `dilations`, `drop_path_rate` etc.

    Raises:
        ValueError: a model without levels, or a level that it has not.
    """

    def __init__(
        self, name: str, out_indices: Sequence[int] = (0, 1, 2, 3), init_cfg: Any = None, **arguments: Any
    ) -> None:
        super().__init__(create_body(name, **arguments), out_indices)
        self.init_cfg = init_cfg

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Map images `[B, C, H, W]` to the normalised outputs of the levels, finest first, NCHW."""
        return tuple(super().forward(images))
