"""How the gradient gets through the layers, epoch by epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn._errors import unknown_name
from fastnn.diagnostics import GradientFlow
from fastnn.plotting.style import (
    Theme,
    dress,
    epoch_axis,
    finish,
    logarithmic,
    new_figure,
    percent,
    picture_path,
    theme_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_gradient_flow(
    flow: GradientFlow,
    path: str | os.PathLike[str] | None = None,
    *,
    quantity: str = "gradient_norm",
    title: str | None = None,
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw a number of every layer over the epochs, on a logarithmic scale, each line named by its layer.

    Lines that lie far below those of the later layers are gradients that vanish, those on 0 belong to layers that
    nothing passes; see `GradientFlow.diagnosis`.

    Parameters
    ----------
    flow : GradientFlow
        After a `fit`.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
    quantity : str
        One of ``flow.history``: "gradient_norm", "gradient_rms", "ratio", "spread", ...; shares and means ("mean",
        "saturated", "dead") get a linear scale.
    title : str, optional
    theme : {"light", "dark"}
        The paper it stands on.
    figure : matplotlib Figure, optional
        One to draw in; None makes a new one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        If nothing was measured, or for an unknown quantity, theme or file ending.
    OSError
        If the picture cannot be written.
    """
    if not isinstance(flow, GradientFlow):
        raise TypeError(f"flow: got {type(flow).__name__}, expected the GradientFlow that was handed to fit")
    if not flow.epoch:
        raise ValueError("flow: has measured nothing yet, expected one that was handed to fit")
    if quantity not in flow.history:
        raise unknown_name("quantity", quantity, flow.history)
    colours = theme_of(theme)
    target = picture_path(path)
    drawn = new_figure(figure, (7.2, 3.9), colours)
    axes = drawn.add_subplot()
    values = np.array(flow.history[quantity])
    shown = [layer for layer in range(len(flow.layers)) if np.isfinite(values[:, layer]).any()]
    by_decades = quantity not in ("mean", "saturated", "dead")
    marker = "o" if len(flow.epoch) < 3 else None
    ends: list[tuple[float, str, Any]] = []
    for rank, layer in enumerate(shown):
        colour = _layer_colour(rank / max(1, len(shown) - 1), colours)
        axes.plot(flow.epoch, values[:, layer], color=colour, linewidth=1.7, marker=marker)
        present = values[np.isfinite(values[:, layer]), layer]
        if present.size:
            ends.append((float(present[-1]), flow.layers[layer], colour))
    axes.set_ylabel(_QUANTITIES[quantity], color=colours.soft)
    axes.margins(x=0.02, y=0.06)
    dress(axes, "epochs trained", colours)
    epoch_axis(axes, flow.epoch)
    if by_decades and (values[:, shown] == 0).any():
        _down_to_zero(axes, values)
    elif by_decades:
        logarithmic(axes, values)
    elif quantity != "mean":
        percent(axes)
    if title:
        axes.set_title(title, color=colours.ink, loc="left", fontweight="bold", parse_math=False)
    if len(ends) <= _NAMED:
        _label_ends(axes, ends)
    elif ends:
        _colour_bar(drawn, axes, [_layer_number(flow.layers[layer]) for layer in shown], colours)
    return finish(drawn, target)


_NAMED = 10
"""Up to so many lines bear their layers' names; beyond, a bar says which colour is which layer."""

_QUANTITIES = {
    "gradient_norm": "norm of the gradient",
    "gradient_rms": "gradient, root mean square",
    "weight_norm": "norm of the weights",
    "ratio": "norm of gradient / norm of weights",
    "step": "one step / norm of weights",
    "mean": "mean output",
    "std": "standard deviation of the outputs",
    "spread": "spread of the outputs over samples",
    "saturated": "share of saturated outputs",
    "dead": "share of dead units",
}


def _layer_colour(place: float, theme: Theme) -> Any:
    """Return the colour of a layer that lies at `place` between the first (0) and the last (1)."""
    from matplotlib import colormaps

    low, high = theme.layers
    return colormaps["plasma"](low + (high - low) * place)


def _layer_number(name: str) -> int:
    """Return 3 for "layer 3 (Dense, 32 relu)"."""
    return int(name.split()[1])


def _colour_bar(figure: Figure, axes: Axes, layers: Sequence[int], theme: Theme) -> None:
    """Put a bar beside the axes that says which colour is which layer."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    colours = ListedColormap([_layer_colour(rank / (len(layers) - 1), theme) for rank in range(len(layers))])
    norm = Normalize(layers[0] - 0.5, layers[-1] + 0.5)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, aspect=30, pad=0.03)
    bar.set_label("layer", color=theme.soft)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    bar.ax.tick_params(which="both", colors=theme.soft, length=0)


def _down_to_zero(axes: Axes, values: Any) -> None:
    """Scale by decades, with a last one from the smallest number's down to 0, where what is dead lies."""
    seen = values[np.isfinite(values) & (values > 1e-100)]  # what is less looks like 0
    decade = 10.0 ** math.floor(math.log10(seen.min())) if seen.size else 1.0
    axes.set_yscale("symlog", linthresh=decade)
    axes.set_ylim(0.0, None if seen.size else decade)
    for line in axes.lines:
        line.set(clip_on=False, zorder=3)  # the edge would hide half of those at 0


def _label_ends(axes: Axes, ends: list[tuple[float, str, Any]]) -> None:
    """Write each line's name behind its end, pushed apart where ends lie close."""
    if not ends:
        return
    ends = sorted(ends, key=lambda end: end[0])
    scale = axes.yaxis.get_transform().transform
    low, high = scale(axes.get_ylim())

    def height(value: float) -> float:
        """Return how far up the axes a value lies, 0 to 1."""
        return float((scale([value])[0] - low) / (high - low))

    places = _apart([height(value) for value, _, _ in ends], 0.062)
    for (value, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (1.0, height(value)),
            xycoords="axes fraction",
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights as little as it takes to lie `gap` apart, within 0 to 1 where they fit.

    Neighbours that are too close become a group around the mean of their own heights.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_start(group, gap) + gap * i for group in groups for i in range(len(group))]


def _start(group: Sequence[float], gap: float) -> float:
    """Return where the lowest of a group stands: the group around its mean, kept within 0 to 1."""
    room = gap * (len(group) - 1)
    return min(max(float(np.mean(group)) - room / 2.0, 0.0), max(1.0 - room, 0.0))
