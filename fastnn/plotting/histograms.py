"""Histograms of what is inside a network: weights and outputs, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn.plotting.style import Theme, dress, finish, headline, new_figure, percent, picture_path, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastnn.model import Sequential

COLUMNS = 4
"""Panels side by side at most."""

BINS = (10, 50)
"""Bars at least and at most; in between, the square root of how many values there are."""


def plot_weights(
    model: Sequential,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw a histogram of the weights of each dense layer, biases left out.

    Below each stand mean and standard deviation, and the share of weights that are exactly 0, as L1 in its truncating
    form makes them: those are not in the bars, which they would dwarf.

    Parameters
    ----------
    model : Sequential
        Built.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
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
    ValueError
        If the model has no weights, or for an unknown theme or file ending.
    OSError
        If the picture cannot be written.
    """
    _check_model(model)
    segments = zip(model.network.segments, model.get_weights(), strict=True)
    weights = [weight for segment, weight in segments if segment.is_weight]
    names = [stage.name for stage in model.network.stages if stage.dense is not None]
    return _panels(names, weights, "weight", path, title, theme, figure)


def plot_activations(
    model: Sequential,
    x: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    rows: int = 1000,
    title: str | None = None,
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw a histogram of the outputs of each layer, dropout off.

    Below each stand mean and standard deviation, and the share of outputs that are exactly 0, as ReLU makes them:
    those are not in the bars, which they would dwarf.

    Parameters
    ----------
    model : Sequential
        Built.
    x : array-like (rows, inputs)
        Samples, as `predict` takes them.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
    rows : int
        Rows that are drawn, >= 1, spread evenly over `x`.
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
        For bad samples, a model without weights, an unknown theme or file ending.
    OSError
        If the picture cannot be written.
    """
    _check_model(model)
    outputs = model.layer_outputs(x, rows)
    return _panels(list(outputs), list(outputs.values()), "output", path, title, theme, figure)


def _panels(
    names: Sequence[str],
    arrays: Sequence[npt.NDArray[Any]],
    what: str,
    path: str | os.PathLike[str] | None,
    title: str | None,
    theme: str,
    figure: Any,
) -> Figure:
    """Draw a panel for each array."""
    if not arrays:
        raise ValueError(f"model: got no layer with a {what} of its own, expected one at least")
    colours, target = theme_of(theme), picture_path(path)
    columns = min(COLUMNS, len(arrays))
    rows = -(-len(arrays) // columns)
    drawn = new_figure(figure, (2.9 * columns + 0.4, 2.3 * rows + 0.4), colours)
    for place, (name, values) in enumerate(zip(names, arrays, strict=True)):
        axes = drawn.add_subplot(rows, columns, place + 1)
        _histogram(axes, values.ravel().astype(np.float64), what, colours)
        axes.set_title(name, color=colours.ink, loc="left", fontsize=10)
        if place % columns == 0:
            axes.set_ylabel("share", color=colours.soft, fontsize=8)
    headline(drawn, title, colours)
    return finish(drawn, target)


def _histogram(axes: Axes, values: npt.NDArray[np.float64], what: str, theme: Theme) -> None:
    finite = values[np.isfinite(values)]
    shown = finite[finite != 0.0]
    span = np.array([0.0, *shown])  # with 0 in it, so that values that hardly differ are a bar beside it
    counts, edges = np.histogram(shown, int(np.clip(shown.size**0.5, *BINS)), (span.min(), span.max()))
    axes.stairs(counts / max(1, values.size), edges, fill=True, color=theme.train)
    axes.axvline(0.0, color=theme.soft, linewidth=0.8, linestyle=(0, (2, 3)))
    notes = [f"mean {finite.mean():.2g}, std {finite.std():.2g}"] if finite.size else []
    for share, of_what in ((finite.size - shown.size, "are 0"), (values.size - finite.size, "are not finite")):
        if share:
            notes.append(f"{_rounded(share / values.size)} {of_what}")
    dress(axes, f"{what}: " + ", ".join(notes), theme)
    axes.xaxis.label.set_fontsize(8)
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=5)
    axes.set_ylim(bottom=0.0)
    percent(axes)


def _rounded(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{share:.0%}"


def _check_model(model: Any) -> None:
    if not hasattr(model, "layer_outputs"):
        raise TypeError(f"model: got {type(model).__name__}, expected a Sequential")
