"""`Backbone` for Hugging Face transformers (5 and later): importing this module registers it with its auto classes.

>>> from dinat_zoo.dense.adapters.transformers import DinatZooConfig  # doctest: +SKIP
>>> from transformers import UperNetConfig, UperNetForSemanticSegmentation  # doctest: +SKIP
>>> config = UperNetConfig(backbone_config=DinatZooConfig(backbone="dinat_mini"))  # doctest: +SKIP
>>> model = UperNetForSemanticSegmentation(config)  # doctest: +SKIP

Unlike a `TimmBackboneConfig`, this one takes dilations and every other argument of the models, and is saved and loaded
with the model that it is part of.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from dinat_zoo import dinat, dinat_s, nat
from dinat_zoo.dense.backbone import Backbone

__all__ = ["DinatZooBackbone", "DinatZooConfig"]


class DinatZooConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a `DinatZooBackbone`.

    Args:
        backbone: name of a NAT, DiNAT or DiNATs of `dinat_zoo.list_models`.
        arguments: arguments of the model that override its own, such as `dilations` and `drop_path_rate`.
        out_indices: the levels to give, by default all; or `out_features`, "stage1" for the first of them.

    Raises:
        ValueError: if there is no such model.
    """

    model_type = "dinat_zoo"

    backbone: str = "dinat_mini"
    arguments: dict[str, Any] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Name the stages and choose among them."""
        variants = {**nat.VARIANTS, **dinat.VARIANTS, **dinat_s.VARIANTS}
        if self.backbone not in variants:
            raise ValueError(f"backbone is {self.backbone!r}; it must be one of {', '.join(variants)}.")
        self.arguments = dict(self.arguments or {})
        depths = self.arguments.get("depths", variants[self.backbone].arguments["depths"])
        self.stage_names = [f"stage{i + 1}" for i in range(len(depths))]
        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if features is None and indices is None:
            features = list(self.stage_names)
        self.set_output_features_output_indices(out_features=features, out_indices=indices)
        super().__post_init__(**kwargs)


class DinatZooBackbone(BackboneMixin, PreTrainedModel):
    """A `Backbone`, with a LayerNorm on each output, as a backbone of transformers' models.

    Shape:
        `pixel_values` `[B, 3, H, W]` -> `feature_maps`, for each chosen level `[B, channels, H / r, W / r]`.
    """

    config_class = DinatZooConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False
    has_attentions = False

    def __init__(self, config: DinatZooConfig) -> None:
        super().__init__(config)
        indices = tuple(config.out_indices)
        self.body = Backbone.create(config.backbone, indices, **(config.arguments or {}))
        width = self.body.channels[0] >> indices[0]
        self.num_features = [width << i for i in range(len(self.stage_names))]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the body has initialised itself."""

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[tuple[Tensor, ...]]:
        """Map images to the chosen levels' normalised outputs; hidden states and attentions are not given."""
        maps = tuple(self.body(pixel_values))
        return (maps,) if return_dict is False else BackboneOutput(feature_maps=maps)


AutoConfig.register(DinatZooConfig.model_type, DinatZooConfig)
AutoBackbone.register(DinatZooConfig, DinatZooBackbone)
