"""Which tokens a token sees, one spatial axis at a time.

Every layer here sees a product of one set of tokens per axis, and layers compose axis by axis, so that the receptive
field of a whole model, at its borders too, is a product of boolean matrices. `reach(length)` is such a matrix for an
axis of `length` tokens, borders included; `interval(first, last)` is the same on an axis without borders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from natten_core.backends.reference import window

Reach: TypeAlias = "NDArray[np.bool_]"
"""`[tokens of the output, tokens of the input]`: whether the one depends on the other."""

Interval: TypeAlias = tuple[float, float]
"""First and last token, both included; infinite where everything is seen."""


Position: TypeAlias = tuple[float, float]
CENTER: Position = (0.5, 0.5)
"""Height and width in units of the map's: (0, 0) and (1, 1) are its corners; token i of n is at (i + 0.5) / n."""


class AxisLayer(Protocol):
    """One axis of a layer."""

    @property
    def stride(self) -> int:
        """Input tokens per output token."""

    def reach(self, length: int) -> Reach:
        """Which of `length` input tokens every output token sees."""

    def interval(self, first: float, last: float) -> Interval:
        """What the output tokens from `first` to `last` see on an axis without borders."""


@dataclass(frozen=True)
class Convolution:
    """A convolution, or patches: those of `stride == kernel_size`.

    Args:
        kernel_size: taps.
        stride: input tokens per output token.
        padding: zeros before the first token, and as many after the last one.
        dilation: distance between the taps.
        complete: whether zeros after the last token complete the last patch.
    """

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    complete: bool = False

    def reach(self, length: int) -> Reach:
        """Which of `length` input tokens every output token sees."""
        extent = (self.kernel_size - 1) * self.dilation + 1
        padded = -(-length // self.stride) * self.stride if self.complete else length
        outputs = np.arange((padded + 2 * self.padding - extent) // self.stride + 1)
        taps = np.arange(self.kernel_size) * self.dilation - self.padding
        seen = outputs[:, None] * self.stride + taps
        reached: Reach = (seen[:, :, None] == np.arange(length)).any(1)
        return reached

    def interval(self, first: float, last: float) -> Interval:
        """What the output tokens from `first` to `last` see on an axis without borders."""
        end = (self.kernel_size - 1) * self.dilation - self.padding
        return first * self.stride - self.padding, last * self.stride + end


@dataclass(frozen=True)
class Neighborhood:
    """(Dilated) neighborhood attention; a short axis is padded at its end, as the models do it.

    Args:
        kernel_size: tokens of the window.
        dilation: distance between them.
    """

    kernel_size: int
    dilation: int = 1
    stride: int = 1

    def reach(self, length: int) -> Reach:
        """Which of `length` tokens every token sees."""
        tokens = torch.arange(max(length, self.kernel_size * self.dilation))
        group, position = tokens % self.dilation, tokens // self.dilation
        members = (len(tokens) - group + self.dilation - 1) // self.dilation
        start, end = window(position, members, self.kernel_size, 1, False)
        within = (position >= start[:, None]) & (position < end[:, None]) & (group == group[:, None])
        seen: Reach = within[:length, :length].numpy()
        return seen

    def interval(self, first: float, last: float) -> Interval:
        """What the tokens from `first` to `last` see on an axis without borders."""
        before, after = self.kernel_size // 2, (self.kernel_size - 1) // 2
        return first - before * self.dilation, last + after * self.dilation


@dataclass(frozen=True)
class Window:
    """Window self attention, of Swin, with or without a shift.

    The map is rolled by the shift and padded at its end to whole windows, as timm does it; the windows that hold both
    ends of the map are masked.

    Args:
        size: tokens of a window.
        shift: how far the map is rolled.
    """

    size: int
    shift: int = 0
    stride: int = 1

    def reach(self, length: int) -> Reach:
        """Which of `length` tokens every token sees."""
        rolled = (np.arange(length) - self.shift) % length
        padded = -(-length // self.size) * self.size
        part = rolled // self.size
        masked = np.searchsorted([padded - self.size, padded - self.shift], rolled, side="right") if self.shift else 0
        seen: Reach = (part[:, None] == part) & ((masked + 0 * part)[:, None] == masked)
        return seen

    def interval(self, first: float, last: float) -> Interval:
        """What the tokens from `first` to `last` see on an axis without borders."""
        if math.isinf(first):
            return first, last
        low = (first - self.shift) // self.size * self.size + self.shift
        high = (last - self.shift) // self.size * self.size + self.shift + self.size - 1
        return low, high


@dataclass(frozen=True)
class Everything:
    """Self attention over the whole axis."""

    stride: int = 1

    def reach(self, length: int) -> Reach:
        """Which of `length` tokens every token sees: all."""
        return np.ones((length, length), dtype=np.bool_)

    def interval(self, first: float, last: float) -> Interval:
        """What tokens see on an axis without borders."""
        return -math.inf, math.inf


def compose(outer: Reach, inner: Reach) -> Reach:
    """The reach of two layers, `outer` after `inner`."""
    product: Reach = (outer.astype(np.float32) @ inner.astype(np.float32)) > 0  # BLAS has no booleans
    return product


def unbounded(layers: Iterable[AxisLayer], position: int) -> Interval:
    """What the token at `position` of the last layer's output sees of the first one's input, without borders."""
    interval: Interval = (position, position)
    for layer in reversed(list(layers)):
        interval = layer.interval(*interval)
    return interval


def token_at(place: float, length: int) -> int:
    """The token at a place from 0 to 1 of an axis.

    Raises:
        ValueError: for a place outside.
    """
    if not 0 <= place <= 1:
        raise ValueError(f"position has {place}; it must be between 0 and 1.")
    return min(int(place * length), length - 1)
