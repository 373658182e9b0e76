"""Learning curves: the loss, and accuracy or R², of training and validation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.plotting.style import (
    Theme,
    dress,
    epoch_axis,
    finish,
    headline,
    logarithmic,
    new_figure,
    percent,
    picture_path,
    theme_of,
)
from fastnn.schedules import metric_name, resolve_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastnn.history import History
    from fastnn.model import Sequential

_TITLES = {"loss": "loss", "accuracy": "accuracy", "r2": "R²"}


def plot_history(
    history: History | Sequential | Mapping[str, Sequence[float]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    monitor: str | None = None,
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw the learning curves: the loss and, beside it, the accuracy or R², of training and validation.

    The best epoch by `monitor` is marked. Where `EarlyStopping` ended the training, the mark is on the epoch that was
    the best to it, and the epochs that it waited in vain are shaded.

    Parameters
    ----------
    history : History, Sequential or mapping
        What `fit` returned, the model itself, or columns as in ``History.history``.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
    title : str, optional
    monitor : str, optional
        Column that says which epoch is best. None: the one that `EarlyStopping` watched, else "val_loss". Where there
        is no validation, "val_loss" means "loss".
    theme : {"light", "dark"}
        The paper it stands on.
    figure : matplotlib Figure, optional
        One to draw in, such as ``plt.figure()``, which a notebook or window shows; None makes a new one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        For no history, an empty one, a column that is not there, an unknown theme or file ending.
    OSError
        If the picture cannot be written.
    """
    columns, epochs = _columns(history)
    stops = _stops(history, epochs)
    last = stops[-1] if stops and stops[-1]["epoch"] == epochs[-1] else None
    watched = metric_name(columns, last["monitor"] if last else "val_loss")
    monitor = watched if monitor is None else metric_name(columns, monitor)
    colours = theme_of(theme)
    target = picture_path(path)
    rows = [name for name in _TITLES if name in columns or f"val_{name}" in columns]
    drawn = new_figure(figure, (4.6 * len(rows) + 0.4, 3.4), colours)
    best, words = _best(columns[monitor], resolve_mode(monitor, "auto")), "best epoch"
    if last and monitor == watched:
        best = epochs.index(last["best_epoch"])
        words = f"stopped after {last['epoch']}, {'back to' if last['restored'] else 'best'} epoch"
    for place, name in enumerate(rows):
        axes = drawn.add_subplot(1, len(rows), place + 1)
        for stop in stops:
            axes.axvspan(stop["best_epoch"], stop["epoch"], color=colours.grid, alpha=0.5, linewidth=0, zorder=0)
        _curves(axes, name, columns, epochs, best, words, colours)
    headline(drawn, title, colours)
    return finish(drawn, target)


def _columns(history: Any) -> tuple[dict[str, list[float]], list[int]]:
    """Return the columns of a history and the epochs' numbers, from 1."""
    history = getattr(history, "history", history)  # a model's
    columns = getattr(history, "history", history)
    if not isinstance(columns, Mapping):
        raise TypeError(f"history: got {type(columns).__name__}, expected what fit returned, or a model")
    if "loss" not in columns or not len(columns["loss"]):
        raise ValueError("history: holds no epoch, expected at least one")
    epochs = [number + 1 for number in getattr(history, "epoch", range(len(columns["loss"])))]
    return {name: list(column) for name, column in columns.items()}, epochs


def _stops(history: Any, epochs: list[int]) -> list[dict[str, Any]]:
    """Return the decisions of early stopping that lie within these epochs, with numbers from 1."""
    history = history if hasattr(history, "stops") else getattr(history, "history", history)
    stops = [
        {**stop, "epoch": stop["epoch"] + 1, "best_epoch": stop["best_epoch"] + 1}
        for stop in getattr(history, "stops", ())
    ]
    return [stop for stop in stops if stop["epoch"] in epochs and stop["best_epoch"] in epochs]


def _best(column: Sequence[float], mode: str) -> int | None:
    """Return the place of the best value, the first of equals; None where there is none."""
    signed = [math.inf if math.isnan(value) else -value if mode == "max" else value for value in column]
    best = min(range(len(signed)), key=signed.__getitem__)
    return best if math.isfinite(column[best]) else None


def _curves(
    axes: Axes,
    name: str,
    columns: dict[str, list[float]],
    epochs: list[int],
    best: int | None,
    words: str,
    theme: Theme,
) -> None:
    """Draw one number of training and validation, and mark the best epoch on it."""
    both = [(name, "training", theme.train), (f"val_{name}", "validation", theme.validation)]
    both = [line for line in both if line[0] in columns]
    few = len(epochs) < 3
    values = np.array([columns[key] for key, _, _ in both])
    for (_, label, colour), line in zip(both, values, strict=True):
        axes.plot(epochs, line, color=colour, linewidth=1.7, marker="o" if few else None, label=label)
    dress(axes, "epoch", theme)
    epoch_axis(axes, epochs)
    finite = values[np.isfinite(values)]
    if name == "loss" and finite.size and finite.min() > 0 and finite.max() > 30 * finite.min():
        logarithmic(axes, values)
    if name == "accuracy":
        percent(axes)
    axes.set_title(_TITLES[name], color=theme.ink, loc="left", fontsize=11)
    if best is not None and math.isfinite(values[-1, best]):
        _mark(axes, name, epochs[best], float(values[-1, best]), both[-1][2], words, theme)
    if len(both) > 1:
        axes.legend(frameon=False, labelcolor=theme.soft, loc="best", handlelength=1.4)


def _mark(axes: Axes, name: str, epoch: int, value: float, colour: str, words: str, theme: Theme) -> None:
    """Put a dot on the best epoch and a line through it, and say above what it is."""
    axes.axvline(epoch, color=theme.soft, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.plot([epoch], [value], "o", color=colour, markeredgecolor=theme.paper, markersize=8, zorder=4)
    text = f"{value:.1%}" if name == "accuracy" else f"{value:.3g}"
    axes.set_title(f"{words} {epoch}: {text}", color=theme.soft, loc="right", fontsize=9)
