"""What the analyses draw, with matplotlib: `pip install 'dinat-zoo[analysis]'`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from dinat_zoo._figure import new_figure
from dinat_zoo.analysis.attention import Weights
from dinat_zoo.analysis.axis import CENTER, Position, Reach
from dinat_zoo.analysis.structure import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_fields(fields: Mapping[str, Reach], title: str = "") -> Figure:
    """The pixels that a token sees, a panel per model or layer.

    Args:
        fields: `[height, width]` of an image, under the name of each panel.
        title: above all.

    Raises:
        ImportError: without matplotlib.
    """
    figure, panels = _panels(len(fields))
    for axes, (name, seen) in zip(panels, fields.items(), strict=True):
        axes.imshow(seen, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        axes.set_title(f"{name}\n{seen.mean():.1%} of the pixels", fontsize="small")
    figure.suptitle(title)
    return figure


def plot_span(spans: Mapping[int, Reach], query: Size) -> Figure:
    """The keys of one query, a panel per dilation: Figure 1.

    Args:
        spans: what `attention_span` gives.
        query: row and column of the query, which is marked.

    Raises:
        ImportError: without matplotlib.
    """
    figure, panels = _panels(len(spans))
    for axes, (dilation, keys) in zip(panels, spans.items(), strict=True):
        axes.imshow(keys, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        axes.plot(query[1], query[0], "s", color="tab:red", markersize=4)
        axes.set_title(f"dilation {dilation}", fontsize="small")
    return figure


def plot_attention(image: Tensor, weights: Weights) -> Figure:
    """What a query looks at, over the image: a panel per head.

    Args:
        image: `[channels, height, width]`, as the model took it; its range is stretched to be seen.
        weights: what `attention_weights` gives.

    Raises:
        ImportError: without matplotlib.
    """
    rows, columns = weights.map_size
    maps = {f"head {head}": values for head, values in enumerate(weights.values[:, :rows, :columns])}
    y, x = ((place + 0.5) / of for place, of in zip(weights.query, weights.map_size, strict=True))
    return _overlay(image, maps, (y, x), weights.layer)


def plot_rollout(image: Tensor, rollouts: Mapping[str, Tensor], position: Position = CENTER) -> Figure:
    """What tokens are made of, over the image: a panel per block.

    Args:
        image: as in `plot_attention`.
        rollouts: what `attention_rollout` gives.
        position: where the tokens are, which is marked.

    Raises:
        ImportError: without matplotlib.
    """
    return _overlay(image, rollouts, position, "attention rollout")


def _overlay(image: Tensor, maps: Mapping[str, Tensor], position: Position, title: str) -> Figure:
    """Maps over an image, each with its own scale, 0 left out."""
    pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()
    low, high = pixels.min(), pixels.max()
    pixels = (pixels - low) / max(high - low, 1e-12)  # as matplotlib takes colours
    if pixels.shape[2] != 3:
        pixels = pixels.mean(2)
    height, width = pixels.shape[:2]
    extent = (0, width, height, 0)
    figure, panels = _panels(len(maps))
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        axes.imshow(pixels, cmap="gray", extent=extent)
        shown = np.ma.masked_equal(values.detach().cpu().float().numpy(), 0)
        axes.imshow(shown, cmap="viridis", vmin=0, alpha=0.6, extent=extent)
        axes.plot(position[1] * width, position[0] * height, "s", color="tab:red", markersize=4)
        axes.set_title(name, fontsize="small")
    figure.suptitle(title, fontsize="small")
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    """A figure with a row of panels without ticks."""
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = new_figure(3 * columns, 3.3 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]
