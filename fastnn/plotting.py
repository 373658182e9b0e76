"""Pictures of a training run: learning curves, and how the gradient gets through the layers.

They need matplotlib, which `pip install "fastnn[plot]"` brings and which is imported only when a picture is drawn.
No figure is shown or kept by matplotlib's own state: each function returns one, and writes it where `path` says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn._errors import unknown_name
from fastnn.diagnostics import GradientFlow
from fastnn.history import History
from fastnn.schedules import resolve_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastnn.model import Sequential

__all__ = ["plot_gradient_flow", "plot_history"]

FORMATS = (".png", ".svg", ".pdf")
"""What a picture's file may end in."""


@dataclass(frozen=True)
class _Theme:
    """Colours that stand apart on the paper for all eyes (blue and orange, 4.5:1 against it for text)."""

    paper: str
    ink: str
    soft: str
    grid: str
    train: str
    validation: str
    layers: tuple[float, float]
    """Part of the plasma map, from the first layer to the last, that shows on the paper."""


_THEMES = {
    "light": _Theme("#ffffff", "#1f2328", "#656d76", "#e4e7eb", "#5b7fb0", "#c2410c", (0.0, 0.62)),
    "dark": _Theme("#0d1117", "#e6edf3", "#9198a1", "#262c36", "#5b7fb0", "#ff9a57", (0.45, 1.0)),
}

_TITLES = {"loss": "loss", "accuracy": "accuracy", "r2": "R²"}


def plot_history(
    history: History | Sequential | Mapping[str, Sequence[float]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    monitor: str = "val_loss",
    theme: str = "light",
    figure: Any = None,
) -> Figure:
    """Draw the learning curves: the loss and, beside it, the accuracy or R², of training and validation.

    The best epoch by `monitor` is marked, the one whose weights `EarlyStopping` restores.

    Parameters
    ----------
    history : History, Sequential or mapping
        What `fit` returned, the model itself, or columns as in ``History.history``.
    path : path, optional
        Where to write the picture: .png, .svg or .pdf.
    title : str, optional
    monitor : str
        Column that says which epoch is best; where there is no validation, "val_loss" means "loss".
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
    monitor = "loss" if monitor == "val_loss" and "val_loss" not in columns else monitor
    if monitor not in columns:
        raise unknown_name("monitor", monitor, columns)
    colours = _theme(theme)
    target = _check_path(path)
    rows = [name for name in _TITLES if name in columns or f"val_{name}" in columns]
    drawn = _figure(figure, (4.6 * len(rows) + 0.4, 3.4), colours)
    best = _best(columns[monitor], resolve_mode(monitor, "auto"))
    for place, name in enumerate(rows):
        axes = drawn.add_subplot(1, len(rows), place + 1)
        _curves(axes, name, columns, epochs, best, colours)
    if title:
        drawn.suptitle(title, x=0.01, ha="left", color=colours.ink, fontsize=12, fontweight="bold")
    return _finish(drawn, target)


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

    Lines that lie far below those of the later layers are gradients that vanish; see `GradientFlow.diagnosis`.

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
    colours = _theme(theme)
    target = _check_path(path)
    drawn = _figure(figure, (7.2, 3.9), colours)
    axes = drawn.add_subplot()
    values = np.array(flow.history[quantity])
    shown = [layer for layer in range(len(flow.layers)) if np.isfinite(values[:, layer]).any()]
    logarithmic = quantity not in ("mean", "saturated", "dead")
    if logarithmic:
        values = np.where(values > 0, values, np.nan)  # 0 has no place on the scale: the line ends there
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
    _dress(axes, "epochs trained", flow.epoch, colours)
    if logarithmic:
        _logarithmic(axes, values)
    elif quantity != "mean":
        _percent(axes)
    if title:
        axes.set_title(title, color=colours.ink, loc="left", fontweight="bold")
    if len(ends) <= _NAMED:
        _label_ends(axes, ends, logarithmic)
    elif ends:
        _colour_bar(drawn, axes, [_layer_number(flow.layers[layer]) for layer in shown], colours)
    return _finish(drawn, target)


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


def _matplotlib() -> Any:
    """Import matplotlib, or say how to get it."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            f'matplotlib is not installed ({error}), expected it for plots: pip install "fastnn[plot]"'
        ) from None
    return matplotlib


def _figure(figure: Any, size: tuple[float, float], theme: _Theme) -> Figure:
    drawn = _matplotlib().figure.Figure(figsize=size) if figure is None else figure
    drawn.set_layout_engine("constrained")
    drawn.set_facecolor(theme.paper)
    result: Figure = drawn
    return result


def _theme(name: str) -> _Theme:
    if name not in _THEMES:
        raise unknown_name("theme", name, _THEMES)
    return _THEMES[name]


def _check_path(path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"path: got {str(target)!r}, expected a name that ends in {', '.join(FORMATS)}")
    return target


def _finish(figure: Figure, path: Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=160, facecolor=figure.get_facecolor())
    return figure


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


def _best(column: Sequence[float], mode: str) -> int | None:
    """Return the place of the best value, the first of equals; None where there is none."""
    signed = [math.inf if math.isnan(value) else -value if mode == "max" else value for value in column]
    best = min(range(len(signed)), key=signed.__getitem__)
    return best if math.isfinite(column[best]) else None


def _curves(
    axes: Axes, name: str, columns: dict[str, list[float]], epochs: list[int], best: int | None, theme: _Theme
) -> None:
    """Draw one number of training and validation, and mark the best epoch on it."""
    both = [(name, "training", theme.train), (f"val_{name}", "validation", theme.validation)]
    both = [line for line in both if line[0] in columns]
    few = len(epochs) < 3
    values = np.array([columns[key] for key, _, _ in both])
    for (_, label, colour), line in zip(both, values, strict=True):
        axes.plot(epochs, line, color=colour, linewidth=1.7, marker="o" if few else None, label=label)
    _dress(axes, "epoch", epochs, theme)
    finite = values[np.isfinite(values)]
    if name == "loss" and finite.size and finite.min() > 0 and finite.max() > 30 * finite.min():
        _logarithmic(axes, values)
    if name == "accuracy":
        _percent(axes)
    axes.set_title(_TITLES[name], color=theme.ink, loc="left", fontsize=11)
    if best is not None and math.isfinite(values[-1, best]):
        _mark(axes, name, epochs[best], float(values[-1, best]), both[-1][2], theme)
    if len(both) > 1:
        axes.legend(frameon=False, labelcolor=theme.soft, loc="best", handlelength=1.4)


def _mark(axes: Axes, name: str, epoch: int, value: float, colour: str, theme: _Theme) -> None:
    """Put a dot on the best epoch and a line through it, and say above what it is."""
    axes.axvline(epoch, color=theme.soft, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.plot([epoch], [value], "o", color=colour, markeredgecolor=theme.paper, markersize=8, zorder=4)
    text = f"{value:.1%}" if name == "accuracy" else f"{value:.3g}"
    axes.set_title(f"best epoch {epoch}: {text}", color=theme.soft, loc="right", fontsize=9)


def _dress(axes: Axes, x_label: str, epochs: Sequence[int], theme: _Theme) -> None:
    """Leave the axes' lines that carry something, in the theme's colours."""
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(theme.paper)
    axes.set_xlabel(x_label, color=theme.soft)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.soft, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def _logarithmic(axes: Axes, values: Any) -> None:
    """Scale by decades; where there are fewer than two, numbers between them are written as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.size and finite.max() < 100 * finite.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _layer_colour(place: float, theme: _Theme) -> Any:
    """Return the colour of a layer that lies at `place` between the first (0) and the last (1)."""
    low, high = theme.layers
    return _matplotlib().colormaps["plasma"](low + (high - low) * place)


def _layer_number(name: str) -> int:
    """Return 3 for "layer 3 (Dense, 32 relu)"."""
    return int(name.split()[1])


def _colour_bar(figure: Figure, axes: Axes, layers: Sequence[int], theme: _Theme) -> None:
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


def _label_ends(axes: Axes, ends: list[tuple[float, str, Any]], logarithmic: bool) -> None:
    """Write each line's name behind its end, pushed apart where ends lie close."""
    if not ends:
        return
    ends = sorted(ends, key=lambda end: end[0])
    low, high = axes.get_ylim()

    def height(value: float) -> float:
        """Return how far up the axes a value lies, 0 to 1."""
        if logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

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
