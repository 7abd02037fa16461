"""Steps to time or to weigh: a model or a layer under a setting. Jobs can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from dinat_zoo.bench.rows import Setting
from natten_core import NeighborhoodAttention2D

Step = Callable[[], None]


@dataclass(frozen=True)
class ModelJob:
    """A timm model by name, with random weights."""

    name: str
    setting: Setting
    channels_last: bool = False

    def step(self) -> Step:
        """Build everything and return what runs one step."""
        setting, side = self.setting, self.setting.image_size
        fixed = timm.get_pretrained_cfg_value(self.name, "fixed_input_size")  # Swin's size, for one, must be told
        options: dict[str, Any] = {"img_size": side} if fixed else {}
        model: Any = timm.create_model(self.name, **options).to(setting.device).train(setting.mode == "train")
        channels = model.pretrained_cfg["input_size"][0]
        images = torch.randn(setting.batch, channels, side, side, device=setting.device)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
            images = images.to(memory_format=torch.channels_last)
        labels = torch.randint(model.num_classes, (setting.batch,), device=setting.device)

        def loss(logits: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits, labels)

        return _step(model, images, loss, setting)


@dataclass(frozen=True)
class LayerJob:
    """A pair of attention layers, one of `layers.LAYERS`, on maps `[batch, side, side, dim]`; residuals left out."""

    kinds: tuple[str, str]
    setting: Setting
    dim: int
    heads: int
    window: int

    def step(self) -> Step:
        """Build everything and return what runs one step."""
        setting, side = self.setting, self.setting.image_size
        pair = nn.Sequential(*(self._layer(kind) for kind in self.kinds)).to(setting.device)
        pair.train(setting.mode == "train")
        maps = torch.randn(setting.batch, side, side, self.dim, device=setting.device)
        maps.requires_grad_(setting.mode == "train")
        return _step(pair, maps, torch.sum, setting)

    def _layer(self, kind: str) -> nn.Module:
        side = self.setting.image_size
        if kind in ("na", "dina"):
            dilation = max(1, side // self.window) if kind == "dina" else 1
            return NeighborhoodAttention2D(self.dim, self.heads, self.window, dilation=dilation)
        return _SwinAttention(self.dim, self.heads, side, self.window, shifted=kind == "swsa")


class _SwinAttention(nn.Module):
    """timm's (shifted) window attention with its shift, padding and partition, without norm and residual."""

    def __init__(self, dim: int, heads: int, side: int, window: int, shifted: bool) -> None:
        super().__init__()
        shift = window // 2 if shifted and side > window else 0
        block = SwinTransformerBlock(dim, (side, side), heads, window_size=window, shift_size=shift)
        del block.norm1, block.norm2, block.mlp
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.block._attn(x)
        return attended


def _step(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor], setting: Setting) -> Step:
    run = torch.compile(model) if setting.compiled else model

    def forward() -> None:
        with torch.inference_mode(), setting.autocast():
            run(inputs)

    def forward_backward() -> None:
        with setting.autocast():
            value = loss(run(inputs))
        value.backward()
        model.zero_grad(set_to_none=True)
        inputs.grad = None

    return forward_backward if setting.mode == "train" else forward
