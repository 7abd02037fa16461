"""Convolutions as the heads use them."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def conv_unit(in_channels: int, out_channels: int, kernel_size: int, *, norm: bool, act: bool) -> nn.Sequential:
    """A convolution that keeps the size, named `conv`, then a BatchNorm `bn` and a ReLU where asked for.

    With a norm the convolution has no bias. The weights start as He et al. (2015) propose, with the fan of the output
    where a ReLU follows, and uniform as Glorot and Bengio's (2010) where none does.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
    if act:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parts: list[tuple[str, nn.Module]] = [("conv", conv)]
    if norm:
        parts.append(("bn", nn.BatchNorm2d(out_channels)))
    if act:
        parts.append(("activate", nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(parts))


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Fill the weight from a normal distribution, and the bias with 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
