"""Receptive fields of models: by theory, from the settings of their layers, and measured, by gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from dinat_zoo._tokens import image_channels
from dinat_zoo.analysis.axis import CENTER, AxisLayer, Position, Reach, compose, token_at, unbounded
from dinat_zoo.analysis.structure import Layer, Model, Size, check, image_hw, layers


@dataclass(frozen=True)
class Field:
    """What one token of a layer's output sees.

    Attributes:
        layer: the layer's path in the model.
        kind: as `structure.Layer.kind`.
        map_size: height and width of its output.
        stride: pixels from one of its tokens to the next, per axis.
        keys: how many tokens of its own input the token sees, per axis.
        extent: pixels from the first to the last one that the token would see of an image without borders, per axis;
            None where it sees all.
        rows: `[height of the image]`: whether the token sees pixels of a row.
        columns: `[width of the image]`: the same of columns. It sees the pixels of these rows in these columns.
    """

    layer: str
    kind: str
    map_size: Size
    stride: Size
    keys: Size
    extent: tuple[int | None, int | None]
    rows: Reach
    columns: Reach

    @property
    def pixels(self) -> Reach:
        """`[height, width]` of the image: whether the token sees a pixel."""
        seen: Reach = self.rows[:, None] & self.columns
        return seen

    @property
    def seen(self) -> Size:
        """How many rows and columns of the image the token sees."""
        return int(self.rows.sum()), int(self.columns.sum())

    @property
    def share(self) -> float:
        """Which part of the image's pixels the token sees."""
        return float(self.rows.mean() * self.columns.mean())


def receptive_fields(model: nn.Module, image_size: int | Size, position: Position = CENTER) -> list[Field]:
    """What one token of every layer's output sees, by the layers' settings alone; Figure 5 and section 3.3.

    The last entry is the receptive field of the model before its pooling.

    Args:
        model: of this package, or timm's `SwinTransformer` or `ConvNeXt`; on any device, "meta" too.
        image_size: height and width, or one int for both.
        position: where the token is on each layer's map, see `CENTER`.

    Raises:
        TypeError: for another model.
        ValueError: for an image size that a Swin is not made for, or a position outside the map.
    """
    model, size = check(model), image_hw(model, image_size)
    spatial = layers(model)
    height, width = (list(_axis([layer.axes[i] for layer in spatial], size[i], position[i])) for i in (0, 1))
    return [
        Field(
            layer.name,
            layer.kind,
            map_size=(y.length, x.length),
            stride=(y.stride, x.stride),
            keys=(y.keys, x.keys),
            extent=(y.extent, x.extent),
            rows=y.seen,
            columns=x.seen,
        )
        for layer, y, x in zip(spatial, height, width, strict=True)
    ]


def measured_fields(
    model: nn.Module,
    image_size: int | Size,
    position: Position = CENTER,
    names: Sequence[str] | None = None,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Reach]:
    """What one token of layers' outputs depends on: the pixels at which its gradient is not zero.

    It is the gradient of a random combination of the token's channels, for one random image, in fp64, on a copy of
    the model whose layer scales are 1 (ConvNeXt's 1e-6 let too little through) and whose windows are wholly masked
    (timm's Swin adds -100, which lets a little through).

    Args:
        model: as for `receptive_fields`, with weights; random ones do.
        image_size: height and width, or one int for both.
        position: where the token is on each layer's map, see `CENTER`.
        names: paths of layers, of `receptive_fields(...)`; the last one's alone if None.
        seed: of the random image and combinations.
        advance: called after every layer.

    Returns:
        For each layer `[height, width]` of the image: whether a pixel has a gradient.

    Raises:
        TypeError, ValueError: as `receptive_fields`, and where a name is no spatial layer's or the model is on "meta".
    """
    model, size = check(model), image_hw(model, image_size)
    known = {layer.name: layer for layer in layers(model)}
    wanted = [list(known)[-1]] if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ValueError(f"names has {name!r}, which is no spatial layer; there are {', '.join(known)}.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("model is on the meta device; gradients need weights, give it without device='meta'.")
    prepared = _prepared(model)
    weight = next(prepared.parameters())
    generator = torch.Generator().manual_seed(seed)
    shape = (1, image_channels(prepared), *size)
    image = torch.randn(shape, generator=generator, dtype=weight.dtype).to(weight.device)
    outputs = _outputs(prepared, image.requires_grad_(), [known[name] for name in wanted])
    measured = {}
    for name, output in zip(wanted, outputs, strict=True):
        y, x = (token_at(place, length) for place, length in zip(position, output.shape[1:3], strict=True))
        token = output[0, y, x]
        cotangent = torch.randn(token.shape, generator=generator, dtype=token.dtype).to(token.device)
        (gradient,) = torch.autograd.grad(token @ cotangent, image, retain_graph=True)
        measured[name] = (gradient[0] != 0).any(0).cpu().numpy()
        advance()
    return measured


class _OfAxis(NamedTuple):
    """One axis of a `Field`."""

    length: int
    stride: int
    keys: int
    extent: int | None
    seen: Reach


def _axis(axis: list[AxisLayer], length: int, place: float) -> Iterator[_OfAxis]:
    """What the token at `place` of every layer's output sees along one axis of the image."""
    cumulated: Reach = np.eye(length, dtype=np.bool_)
    stride = 1
    for i, layer in enumerate(axis, 1):
        own = layer.reach(len(cumulated))
        cumulated = compose(own, cumulated)
        stride *= layer.stride
        token = token_at(place, len(own))
        first, last = unbounded(axis[:i], token)
        extent = None if math.isinf(first) else int(last - first) + 1
        yield _OfAxis(len(own), stride, int(own[token].sum()), extent, cumulated[token])


def _prepared(model: Model) -> Model:
    prepared = copy.deepcopy(model).double().eval().requires_grad_(False)
    prepared.set_grad_checkpointing(False)
    for module in prepared.modules():
        for name in ("gamma", "gamma1", "gamma2"):
            scale = getattr(module, name, None)
            if isinstance(scale, nn.Parameter):
                nn.init.ones_(scale)
        if isinstance(module, SwinTransformerBlock):
            _mask_wholly(module)
    return prepared


def _mask_wholly(block: SwinTransformerBlock) -> None:
    """Makes the mask in every pass, which timm can, and puts -inf for its -100."""
    partial = block.get_attn_mask

    def mask(*args: Any) -> Tensor | None:
        given = partial(*args)
        return None if given is None else given.masked_fill(given < 0, -math.inf)

    block.dynamic_mask = True
    block.get_attn_mask = mask  # type: ignore[method-assign, assignment]


def _outputs(model: Model, image: Tensor, wanted: list[Layer]) -> list[Tensor]:
    """The outputs of layers in one pass, all `[1, height, width, channels]`."""
    found: dict[str, Tensor] = {}

    def keep(layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[layer.name] = output.permute(0, 2, 3, 1) if layer.channels_first else output

        return hook

    for layer in wanted:
        model.get_submodule(layer.name).register_forward_hook(keep(layer))
    model.forward_features(image)
    return [found[layer.name] for layer in wanted]
