"""How well a model does on rows: one place for what `train` and `evaluate` say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.cli.shared import columns_of
from fastnn.model import Sequential
from fastnn.preparation import Classes, Moments, Values
from fastnn.streams import Stream

Array = npt.NDArray[Any]

SHOWN = 12
"""The confusion of more classes than this is not printed, as it would not fit a line."""


def target_of(model: Sequential) -> Classes | Values:
    """Return the target that a model was prepared for, or labels 0, 1, ... and plain values."""
    if model.preparation is not None:
        return model.preparation.target
    units = model.network.units
    if model.loss.takes == "labels" or (model.counts_correct and units == 1):
        return Classes("y", tuple(range(max(2, units))))
    names = ("y",) if units == 1 else tuple(f"y[{i}]" for i in range(units))
    return Values(names, (0.0,) * units, (1.0,) * units)


def measure(model: Sequential, x: Any, y: Any = None) -> dict[str, Any]:
    """Return rows, loss and accuracy, or R2 and errors in the target's own units.

    Parameters
    ----------
    model : Sequential
    x, y : array
        As the network takes them; or a stream of both as x.
    """
    target = target_of(model)
    result: dict[str, Any] = {"rows": x.rows if isinstance(x, Stream) else len(x), **model.evaluate(x, y)}
    if not model.counts_correct and isinstance(target, Values):
        result["targets"] = _errors(model, target, _pieces(x, y))
    return result


def _pieces(x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    """Yield samples and targets, all at once or as a stream has them."""
    if not isinstance(x, Stream):
        yield x, y
        return
    for block in x.blocks:
        for piece in block.read(True, True):
            yield piece.x, piece.y


def _errors(model: Sequential, target: Values, pieces: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Return R2 and the mean errors of each column of values."""
    spreads = np.array(target.spreads)
    squared, absolute = np.zeros(len(spreads)), np.zeros(len(spreads))
    moments = [Moments() for _ in spreads]
    for samples, values in pieces:
        error = (model.predict(samples).astype(np.float64) - values) * spreads
        squared += (error**2).sum(axis=0)
        absolute += np.abs(error).sum(axis=0)
        for known, column in zip(moments, (values * spreads).T, strict=True):
            known.add(column)
    return [
        {
            "target": name,
            "r2": float(1 - squared[i] / known.squares if known.squares else squared[i] == 0),  # as in `R2`
            "mean_absolute_error": float(absolute[i] / known.count),
            "root_mean_squared_error": float(np.sqrt(squared[i] / known.count)),
        }
        for i, (name, known) in enumerate(zip(target.names, moments, strict=True))
    ]


def brief(result: dict[str, Any]) -> str:
    """Return the score and the loss as a phrase."""
    if "accuracy" in result:
        return f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}"
    errors = result.get("targets", [])
    own = f", mean absolute error {errors[0]['mean_absolute_error']:.4g}" if len(errors) == 1 else ""
    return f"R2 {result['r2']:.4f}{own}, loss {result['loss']:.4f}"


def by_class(model: Sequential, classes: tuple[str | int, ...], x: Any, y: Any = None) -> dict[str, Any]:
    """Return precision, recall and F1 of every class, and how often each (row) was taken for each (column).

    Parameters
    ----------
    model : Sequential
    classes : tuple of str or int
    x, y : array
        As in `measure`.
    """
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for samples, labels in _pieces(x, y):
        np.add.at(confusion, (labels, model.predict_class(samples)), 1)
    right, rows, taken = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    report = [
        {
            "class": name,
            "rows": int(rows[i]),
            "precision": float(right[i] / taken[i]) if taken[i] else 0.0,
            "recall": float(right[i] / rows[i]) if rows[i] else 0.0,
            "f1": float(2 * right[i] / (rows[i] + taken[i])) if rows[i] + taken[i] else 0.0,
        }
        for i, name in enumerate(classes)
    ]
    return {"classes": report, "confusion": confusion.tolist()}


def tables(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table of classes with their confusion, or of targets."""
    if "classes" not in result:
        rows = [["", "R2", "mean absolute error", "root mean squared error"]]
        for each in result.get("targets", []):
            r2, *errors = list(each.values())[1:]
            rows.append([each["target"], f"{r2:.4f}", *(f"{error:.4g}" for error in errors)])
        return columns_of(rows) if len(rows) > 1 else []
    classes = result["classes"]
    rows = [["class", "rows", "precision", "recall", "f1"]]
    for each in classes:
        shares = (f"{each[name]:.2%}" for name in ("precision", "recall"))
        rows.append([str(each["class"]), f"{each['rows']:,}", *shares, f"{each['f1']:.4f}"])
    if len(classes) <= SHOWN:
        rows[0].append("taken for")
        rows[0] += [str(each["class"]) for each in classes]
        for number, counts in enumerate(result["confusion"]):
            rows[number + 1] += ["", *map(str, counts)]
    return columns_of(rows)
