"""The confusion matrix: which class is taken for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import unknown_name
from fastnn.plotting.style import Theme, finish, headline, new_figure, picture_path, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 20
"""Up to so many classes the cells bear their numbers and all classes their names."""


def plot_confusion_matrix(
    y_true: Any,
    y_pred: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    labels: Sequence[Any] | None = None,
    normalize: str | None = None,
    title: str | None = None,
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw how often each class (a row) was taken for each class (a column).

    A cell is as dark (on dark paper, as bright) as its share of the row. One without any sample is empty.

    Parameters
    ----------
    y_true, y_pred : array-like (rows,)
        Classes: numbers or words, such as the labels and what `predict_class` returns.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
    labels : sequence, optional
        Names of the classes, in their sorted order; for classes numbered from 0, of all that there may be.
    normalize : {"true", "pred", "all"}, optional
        Show shares of the row, of the column or of all, as in scikit-learn; None shows counts.
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
        For arrays of other shapes, another number of labels, an unknown theme, normalisation or file ending.
    OSError
        If the picture cannot be written.
    """
    counts, names = _count(_classes("y_true", y_true), _classes("y_pred", y_pred), labels)
    sums = {"true": counts.sum(axis=1, keepdims=True), "pred": counts.sum(axis=0), "all": counts.sum()}
    if normalize is not None and normalize not in sums:
        raise unknown_name("normalize", normalize, sums)
    colours, target = theme_of(theme), picture_path(path)
    size = 2.0 + 0.42 * min(len(names), NUMBERED)
    drawn = new_figure(figure, (size + 0.1, size), colours)
    axes = drawn.add_subplot()
    shares = counts / np.maximum(sums["true"], 1)
    _cells(axes, shares, names, colours)
    if len(names) <= NUMBERED:
        if normalize is None:
            texts = np.vectorize(lambda count: f"{count:,}")(counts)
        else:
            texts = np.vectorize(lambda share: f"{share:.0%}")(counts / np.maximum(sums[normalize], 1))
        _numbers(axes, np.where(counts, texts, ""), shares, colours)
    accuracy = counts.trace() / counts.sum()
    axes.set_title(f"accuracy {accuracy:.1%}", color=colours.soft, loc="right", fontsize=9)
    headline(drawn, title, colours)
    return finish(drawn, target)


def _classes(name: str, value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"{name}: got shape {array.shape}, expected one class a row, such as what predict_class returns"
        )
    return array


def _count(
    true: npt.NDArray[Any], predicted: npt.NDArray[Any], labels: Sequence[Any] | None
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the matrix of counts and the classes' names."""
    if len(true) != len(predicted):
        raise ValueError(f"y_pred: got {len(predicted)} rows, expected the {len(true)} of y_true")
    classes = np.unique(np.concatenate([true, predicted]))
    if labels is not None and classes.dtype.kind in "iu" and classes[0] >= 0 and classes[-1] < len(labels):
        classes = np.arange(len(labels))
    names = [str(name) for name in (classes if labels is None else labels)]
    if len(names) != len(classes):
        raise ValueError(f"labels: got {len(names)}, expected one for each of the {len(classes)} classes")
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, true), np.searchsorted(classes, predicted)), 1)
    return counts, names


def _cells(axes: Axes, shares: npt.NDArray[np.float64], names: Sequence[str], theme: Theme) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    colours = LinearSegmentedColormap.from_list("share", [theme.paper, theme.full])
    axes.imshow(shares, cmap=colours, vmin=0.0, vmax=1.0)
    axes.set_facecolor(theme.paper)
    axes.set_xlabel("predicted", color=theme.soft)
    axes.set_ylabel("true", color=theme.soft)
    axes.tick_params(colors=theme.soft, length=0)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    if len(names) <= NUMBERED:
        long = max(map(len, names)) > 4
        side = "right" if long else "center"
        # A "$" in a name begins no formula.
        axes.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha=side, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _numbers(axes: Axes, texts: npt.NDArray[Any], shares: npt.NDArray[np.float64], theme: Theme) -> None:
    """Write a cell's text in black or white, whichever stands out more."""
    colours = axes.images[0].to_rgba(shares)[..., :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    bright = linear @ [0.2126, 0.7152, 0.0722] > 0.18  # WCAG's luminance; there both have a contrast of 4.6
    for (row, column), text in np.ndenumerate(texts):
        if text:
            colour = "#000000" if bright[row, column] else "#ffffff"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
