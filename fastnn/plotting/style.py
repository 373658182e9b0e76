"""What all pictures share: the colours on light and dark paper, figures, files, axes."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn._errors import check_path, needed, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
"""What a picture's file may end in."""


@dataclass(frozen=True)
class Theme:
    """Colours that stand apart on the paper for all eyes (blue and orange, 4.5:1 against it for text)."""

    paper: str
    ink: str
    soft: str
    grid: str
    train: str
    validation: str
    full: str
    """Of a cell that holds all; the paper's colour is that of one that holds nothing."""
    layers: tuple[float, float]
    """Part of the plasma map, from the first layer to the last, that shows on the paper."""


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#656d76", "#e4e7eb", "#5b7fb0", "#c2410c", "#1d4f91", (0.0, 0.62)),
    "dark": Theme("#0d1117", "#e6edf3", "#9198a1", "#262c36", "#5b7fb0", "#ff9a57", "#8db4e6", (0.45, 1.0)),
}


@functools.cache
def _picture_kind(base: Any) -> Any:
    """Return matplotlib's Figure, with what makes a notebook show it: without pyplot none is shown there by itself."""

    class Picture(base):
        """A figure that a notebook shows where it is the value of a cell."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", facecolor=self.get_facecolor())
            return buffer.getvalue()

    return Picture


def new_figure(figure: Any, size: tuple[float, float], theme: Theme) -> Figure:
    """Return the figure that was given, or one of a size in inches, with the theme's paper.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    module = needed("matplotlib.figure", "plots", 'pip install "fastnn[plot]"')
    drawn = _picture_kind(module.Figure)(figsize=size) if figure is None else figure
    drawn.set_layout_engine("constrained")
    drawn.set_facecolor(theme.paper)
    result: Figure = drawn
    return result


def theme_of(name: str) -> Theme:
    """Return a theme by its name."""
    if name not in THEMES:
        raise unknown_name("theme", name, THEMES)
    return THEMES[name]


def picture_path(path: str | os.PathLike[str] | None) -> Path | None:
    """Return where a picture is to be written, before any work is done for it."""
    if path is None:
        return None
    target = Path(check_path("path", path))
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"path: got {str(target)!r}, expected a name that ends in {', '.join(FORMATS)}")
    return target


def headline(figure: Figure, title: str | None, theme: Theme) -> None:
    """Write a title above all panels, as it stands: "$" begins no formula."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", color=theme.ink, fontsize=12, fontweight="bold", parse_math=False)


def finish(figure: Figure, path: Path | None, drawn_by: str | None = None) -> Figure:
    """Write the figure where a path says; into a PNG file also what drew it, for `is_drawn_by`."""
    if path is not None:
        noted = None if drawn_by is None or path.suffix.lower() != ".png" else {"Software": drawn_by}
        figure.savefig(path, dpi=160, facecolor=figure.get_facecolor(), metadata=noted)
    return figure


def is_drawn_by(path: Path, drawn_by: str) -> bool:
    """Whether a PNG file says that this drew it."""
    with open(path, "rb") as file:
        return f"tEXtSoftware\0{drawn_by}".encode() in file.read(1024)


def dress(axes: Axes, x_label: str, theme: Theme) -> None:
    """Leave the axes' lines that carry something, in the theme's colours."""
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(x_label, color=theme.soft)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.soft, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    """Mark whole epochs only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)


def logarithmic(axes: Axes, values: Any) -> None:
    """Scale by decades; where there are fewer than two, numbers between them are written as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.size and finite.max() < 100 * finite.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def percent(axes: Axes) -> None:
    """Write shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
