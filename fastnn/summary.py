"""The table of a model's layers: text for a terminal, HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fastnn.layers import Activation, Dense, Dropout

if TYPE_CHECKING:
    from fastnn.model import Sequential

_TITLES = ("layer", "output", "parameters", "penalty")
Row = tuple[str, str, str, str]


class Summary(str):
    """The text of a summary, which a terminal shows as it is and a notebook as a table.

    Parameters
    ----------
    model : Sequential
    """

    html: str

    def __new__(cls, model: Sequential) -> Summary:
        rows, notes = _rows(model), _notes(model)
        lines = [f"{a:<28}{b:>10}{c:>14}  {d}".rstrip() for a, b, c, d in (_TITLES, *rows)]
        result = super().__new__(cls, "\n".join([*lines, *notes]))
        result.html = _html(rows, notes)
        return result

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.html


def _rows(model: Sequential) -> list[Row]:
    """Return what the table says of each layer."""
    if model._runtime is None:
        return [(type(layer).__name__, "?", "?", "") for layer in model.layers]
    width = model.network.inputs
    rows: list[Row] = [("input", str(width), "", "")]
    segments = {segment.name: segment for segment in model.network.segments}
    dense = 0
    for layer in model.layers:
        name, count, note = type(layer).__name__, 0, ""
        if isinstance(layer, Dense):
            width = layer.units
            weight = segments[f"dense_{dense}.weight"]
            count = weight.size + (width if layer.use_bias else 0)
            note = ", ".join(f"{key} {value:g}" for key, value in (("l1", weight.l1), ("l2", weight.l2)) if value)
            name += f" {layer.activation}"
            dense += 1
        elif isinstance(layer, Dropout):
            name += f" {layer.rate:g}"
        elif isinstance(layer, Activation):
            name += f" {layer.name}"
        rows.append((name, str(width), f"{count:,}", note))
    return rows


def _notes(model: Sequential) -> list[str]:
    """Return what stands below the table."""
    if model._runtime is None:
        return ["input size unknown: it is taken from the first data"]
    network, runtime = model.network, model.runtime
    size = network.dtype.itemsize
    rows = runtime.rows or 32
    work = network.plan(rows, runtime.threads).work_size * size
    slots = len(runtime.slots)
    own, copies = slots + 2, 2 * (slots + 1)
    return [
        f"{network.n_params:,} parameters, {network.n_params * size / 1e6:.2f} MB; training keeps {own} such vectors, "
        f"and {copies} to go back to",
        f"workspace for batches of {rows:,}: {work / 1e6:.2f} MB",
    ]


def _html(rows: list[Row], notes: list[str]) -> str:
    """Return a table without colours of its own, which a notebook's light or dark style gives it."""
    sides = ("left", "right", "right", "left")

    def line(tag: str, cells: Row) -> str:
        pairs = zip(sides, cells, strict=True)
        return (
            "<tr>"
            + "".join(f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for side, cell in pairs)
            + "</tr>"
        )

    body = "\n".join(line("td", row) for row in rows)
    below = "<br>".join(map(escape, notes))
    return f"<table>\n<thead>{line('th', _TITLES)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n<p>{below}</p>"
