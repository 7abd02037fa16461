"""The classifiers' bodies as backbones of dense heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from dinat_zoo._hierarchical import NeighborhoodTransformer


class Backbone(nn.Module):
    """The tokenizer and the levels of a model of this package, with a LayerNorm of its own on each level's output.

    Its parameters are named as those of the models that have `out_norms`, and loaded from the published detection and
    segmentation checkpoints, where `norm0` is `out_norms.0`, by `dinat_zoo.load_checkpoint`. The classifier's final
    norm and head are no part of it.

    Args:
        model: the model whose body is taken, not copied; its `out_norms` too, where it has them.
        out_indices: the levels to give.

    Attributes:
        in_chans: channels of the images.
        channels: channels of each output.
        reductions: image pixels per output pixel, per side.

    Raises:
        ValueError: `out_indices` names a level that the model has not.

    Shape:
        `[B, in_chans, H, W]` -> for each level i of `out_indices` `[B, channels, H / reduction, W / reduction]`,
        sides rounded up, contiguous.
    """

    def __init__(self, model: NeighborhoodTransformer, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        info = model.feature_info
        if not out_indices or not set(out_indices) <= set(range(len(info))):
            raise ValueError(f"out_indices is {tuple(out_indices)}; the model has levels 0 to {len(info) - 1}.")
        self.out_indices = tuple(sorted(set(out_indices)))
        self.channels = [int(info[i]["num_chs"]) for i in self.out_indices]
        self.reductions = [int(info[i]["reduction"]) for i in self.out_indices]
        self.in_chans = model.in_chans
        self.patch_embed = model.patch_embed
        self.levels = model.levels[: self.out_indices[-1] + 1]
        weight = next(model.parameters())
        self.out_norms = nn.ModuleList(nn.Identity() for _ in self.levels)
        for i, channels in zip(self.out_indices, self.channels, strict=True):
            norm = model.out_norms[i]
            if isinstance(norm, nn.Identity):
                norm = nn.LayerNorm(channels, device=weight.device, dtype=weight.dtype)
            self.out_norms[i] = norm

    @classmethod
    def create(cls, name: str, out_indices: Sequence[int] = (0, 1, 2, 3), **arguments: Any) -> Backbone:
        """The backbone of a registered model.

        Args:
            name: a model's name, see `dinat_zoo.list_models`.
            out_indices: the levels to give.
            **arguments: further arguments of `timm.create_model`: `pretrained`, `dilations`, `drop_path_rate` etc.

        Raises:
            ValueError: a model without levels.
        """
        return cls(create_body(name, **arguments), out_indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        for module in self.levels.modules():
            if hasattr(module, "grad_checkpointing"):
                setattr(module, "grad_checkpointing", enable)  # noqa: B010

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images `[B, C, H, W]` to the normalised outputs of the levels, finest first, NCHW."""
        outputs = []
        x = self.patch_embed(images)
        for i, (level, out_norm) in enumerate(zip(self.levels, self.out_norms, strict=True)):
            x = level(x)
            if i in self.out_indices:
                outputs.append(out_norm(x).permute(0, 3, 1, 2).contiguous())
        return outputs


def create_body(name: str, **arguments: Any) -> NeighborhoodTransformer:
    """The model without classifier whose body is to be a backbone.

    Args:
        name: a model's name.
        **arguments: further arguments of `timm.create_model`.

    Raises:
        ValueError: a model without levels.
    """
    model = timm.create_model(name, num_classes=0, **arguments)
    if not isinstance(model, NeighborhoodTransformer):
        raise ValueError(f"name is {name!r}; a backbone needs levels: take NAT, DiNAT or DiNATs.")
    return model
