"""What the analyses draw, with matplotlib: `pip install 'dinat-zoo[analysis]'`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinat_zoo.analysis.axis import Reach

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


def _panels(count: int) -> tuple[Figure, list[Any]]:
    """A figure with a row of panels without ticks."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'dinat-zoo[analysis]'") from error
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(3 * columns, 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]
