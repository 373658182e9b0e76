"""The gate: what users hand in becomes contiguous arrays of known types, or a clear error.

Behind it there are float samples of the model's dtype or bytes, int64 labels or float targets, and float64
weights: so compiled code meets one signature a dtype. Nothing here changes a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn._errors import shown
from fastnn.losses import Loss

Array = npt.NDArray[Any]

_ROWS_AT_A_TIME = 4_000_000
"""Elements looked at together when values are checked, so that a large memory-mapped array is never copied whole."""


class Data(NamedTuple):
    """Samples with what is wanted of them.

    Of `x` and `x_bytes`, and of `labels` and `targets`, one is empty.
    """

    x: Array
    x_bytes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    targets: Array
    weights: npt.NDArray[np.float64]

    @classmethod
    def unlabelled(cls, x: Array, x_bytes: npt.NDArray[np.uint8]) -> Data:
        """Return samples of which nothing is wanted but the outputs."""
        return cls(x, x_bytes, np.empty(0, np.int64), np.empty((0, 0), x.dtype), np.empty(0))

    @property
    def rows(self) -> int:
        """Number of samples."""
        return max(len(self.x), len(self.x_bytes))

    @property
    def inputs(self) -> int:
        """Width of a sample."""
        return max(self.x.shape[1], self.x_bytes.shape[1])


def _as_array(name: str, value: Any, expected: str) -> Array:
    """Return a numeric ndarray, or raise a TypeError that says what came."""
    if value is None:
        raise TypeError(f"{name}: got None, expected {expected}")
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"{name}: got a sparse matrix, expected {expected}; x.toarray() makes a dense one")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"{name}: got {type(value).__name__} that makes no array ({error}), expected {expected}"
        ) from None
    if array.dtype.kind not in "biuf":
        kinds = {
            "U": "strings",
            "S": "byte strings",
            "O": "objects",
            "c": "complex numbers",
            "M": "dates",
            "m": "time spans",
        }
        what = kinds.get(array.dtype.kind, f"dtype {array.dtype}")
        raise TypeError(f"{name}: got {what} (dtype {array.dtype}), expected {expected}")
    return array


def _contiguous(array: Array, dtype: Any) -> Array:
    """Return a C-ordered, aligned, native array of `dtype`; the same one where it is so already."""
    result = np.require(array, dtype, ["C", "A"])
    return np.asarray(result)


def _check_finite(name: str, array: Array) -> None:
    """Raise with the first row and column that holds NaN or infinity."""
    if array.dtype.kind != "f" or array.size == 0:
        return
    flat = array.reshape(len(array), -1)
    step = max(1, _ROWS_AT_A_TIME // flat.shape[1])
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        bad = ~np.isfinite(piece)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name}: got {piece[row, column]} in row {start + row}, column {column}, expected finite numbers "
                f"in the range of {array.dtype} (check_finite=False lets them through)"
            )


def as_samples(
    name: str, value: Any, inputs: int | None, dtype: np.dtype[Any], check_finite: bool
) -> tuple[Array, Array]:
    """Return (float samples, byte samples) of shape (rows, inputs), one of them empty.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like
        (rows, ...); what lies behind the first axis is flattened. uint8 stays bytes; other integers, booleans
        and floats become `dtype`.
    inputs : int or None
        Width expected; None takes any.
    dtype : numpy dtype
    check_finite : bool
        Whether NaN and infinity are refused.

    Raises
    ------
    TypeError
        For what is no array of numbers.
    ValueError
        For a wrong shape or no rows, or NaN or infinity.
    """
    expected = f"numbers of shape (rows, {inputs if inputs is not None else 'inputs'})"
    array = _as_array(name, value, expected)
    if array.ndim < 2:
        hint = ", a single sample as x[None, :]" if array.ndim == 1 and inputs in (None, array.size) else ""
        raise ValueError(
            f"{name}: got shape {array.shape}, expected (rows, {inputs if inputs is not None else 'inputs'}){hint}"
        )
    array = array.reshape(len(array), -1) if array.size else array.reshape(len(array), int(np.prod(array.shape[1:])))
    if len(array) == 0 or array.shape[1] == 0:
        raise ValueError(f"{name}: got shape {array.shape}, expected at least one row and one input")
    if inputs is not None and array.shape[1] != inputs:
        raise ValueError(f"{name}: got {array.shape[1]} inputs a row (shape {np.shape(value)}), expected {inputs}")
    if array.dtype == np.uint8:
        return np.empty((0, 0), dtype), _contiguous(array, np.uint8)
    with np.errstate(over="ignore"):
        samples = _contiguous(array, dtype)
    if check_finite:
        _check_finite(name, samples)
    return samples, np.empty((0, 0), np.uint8)


def as_targets(
    name: str, value: Any, rows: int, loss: Loss, units: int, dtype: np.dtype[Any], check_finite: bool
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return (labels, targets), one of them empty, for what a loss takes.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like
        Values or probabilities (rows, units), or (rows,) where units is 1; class labels (rows,) 0 .. units-1,
        or rows of class probabilities (rows, units).
    rows, units : int
        What the samples and the last layer have.
    loss : Loss
    dtype : numpy dtype
    check_finite : bool

    Raises
    ------
    TypeError, ValueError
        For a wrong type, shape, length or range.
    """
    wanted = f"({rows}, {units})"
    expected = f"class labels 0 to {units - 1}" if loss.takes == "labels" else f"numbers of shape {wanted}"
    array = _as_array(name, value, expected)
    if array.ndim == 0 or len(array) != rows:
        raise ValueError(f"{name}: got shape {array.shape} for {rows} samples, expected {rows} rows")
    if (
        loss.takes == "labels"
        and (array.ndim == 1 or array.shape == (rows, 1))
        and not (units == 1 and array.ndim == 2)
    ):
        return _as_labels(name, array.reshape(-1), units), np.empty((0, 0), dtype)
    if array.ndim == 1 and units == 1:
        array = array.reshape(-1, 1)
    if array.shape != (rows, units):
        also = f" or {rows} class labels" if loss.takes == "labels" else ""
        raise ValueError(f"{name}: got shape {array.shape}, expected {wanted}{also}")
    with np.errstate(over="ignore"):
        targets = _contiguous(array, dtype)
    if check_finite:
        _check_finite(name, targets)
    if loss.takes == "labels" and (targets < 0).any():
        raise ValueError(
            f"{name}: got a negative class probability, {targets.min()}, expected rows of probabilities >= 0"
        )
    if loss.takes == "probabilities" and ((targets < 0) | (targets > 1)).any():
        outside = targets[(targets < 0) | (targets > 1)][0]
        raise ValueError(f"{name}: got {outside}, expected targets between 0 and 1 for {loss.name!r}")
    return np.empty(0, np.int64), targets


def _as_labels(name: str, array: Array, units: int) -> npt.NDArray[np.int64]:
    whole = array.dtype.kind in "biu" or (np.isfinite(array).all() and (array == np.rint(array)).all())
    if not whole:
        wrong = array[~(np.isfinite(array) & (array == np.rint(array)))][0]
        raise ValueError(f"{name}: got {wrong}, expected whole class labels 0 to {units - 1}")
    low, high = array.min(), array.max()
    if low < 0 or high >= units:
        wrong, row = (low, array.argmin()) if low < 0 else (high, array.argmax())
        raise ValueError(
            f"{name}: got label {int(wrong)} in row {row}, expected 0 to {units - 1} for the {units} units of the "
            "last layer"
        )
    return _contiguous(array, np.int64)


def as_weights(
    sample_weight: Any,
    class_weight: Any,
    rows: int,
    labels: npt.NDArray[np.int64],
    targets: Array,
    loss: Loss,
    units: int,
) -> npt.NDArray[np.float64]:
    """Return the weight of each row, sample weight x class weight, or an empty array where all are 1.

    Parameters
    ----------
    sample_weight : array-like (rows,) or None
        Finite, >= 0.
    class_weight : mapping from class to weight, sequence of weights, "balanced" or None
        "balanced": rows / (classes x rows of the class), as in scikit-learn. The class of a row is its label,
        the largest of its probabilities, or, with one output, whether its target exceeds 1/2.

    Raises
    ------
    TypeError, ValueError
        For a wrong type, length or range, or a class that is not there.
    """
    weights = np.empty(0)
    if sample_weight is not None:
        array = _as_array("sample_weight", sample_weight, f"{rows} weights")
        if array.shape != (rows,):
            raise ValueError(f"sample_weight: got shape {array.shape}, expected ({rows},)")
        weights = _check_weights("sample_weight", array)
    if class_weight is None:
        return weights
    if loss.takes == "values":
        raise ValueError(f"class_weight: {loss.name} takes values, expected a loss over classes, or sample_weight")
    if len(labels):
        classes, n_classes = labels, units
    elif targets.shape[1] == 1:
        classes, n_classes = (targets[:, 0] > 0.5).astype(np.int64), 2
    else:
        classes, n_classes = targets.argmax(axis=1).astype(np.int64), targets.shape[1]
    return _class_weights(class_weight, n_classes, classes)[classes] * (weights if len(weights) else 1.0)


def _class_weights(class_weight: Any, n_classes: int, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the weight of each class."""
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight: got {class_weight!r}, expected 'balanced', a mapping or a sequence of weights"
            )
        counts = np.bincount(classes, minlength=n_classes)
        present = (counts > 0).sum()
        return np.where(counts > 0, len(classes) / (present * np.maximum(counts, 1)), 0.0)
    if isinstance(class_weight, Mapping):
        table = np.ones(n_classes)
        for key, weight in class_weight.items():
            if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or key < 0:
                raise ValueError(f"class_weight: got class {shown(key)}, expected a class label 0, 1, ...")
            if key >= n_classes:
                raise ValueError(f"class_weight: got class {key}, expected classes 0 to {n_classes - 1}")
            table[key] = _check_weights("class_weight", _as_array("class_weight", [weight], "weights"))[0]
        return table
    table = _check_weights("class_weight", _as_array("class_weight", class_weight, "weights"))
    if table.ndim != 1 or len(table) != n_classes:
        raise ValueError(f"class_weight: got shape {table.shape}, expected a weight for each of {n_classes} classes")
    return table


def _check_weights(name: str, array: Array) -> npt.NDArray[np.float64]:
    weights = _contiguous(array, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise ValueError(f"{name}: got {wrong}, expected finite weights >= 0")
    return weights
