"""The gate: what users hand in becomes contiguous arrays of known types, or a clear error.

Behind it there are float samples of the model's dtype or bytes, int64 labels or float targets, and float64
weights: so compiled code meets one signature a dtype. Nothing here changes a model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fastnn._errors import shown
from fastnn.frames import column_names, frame_array, is_frame
from fastnn.losses import Loss

if TYPE_CHECKING:
    from fastnn.sparse import Rows

R = TypeVar("R", bound="Rows")

Array = npt.NDArray[Any]

_NUMBERS_AT_A_TIME = 1 << 16
"""Numbers looked at together when values are checked, so that what is made of them on the way stays small."""


_KINDS = {
    "U": "strings",
    "S": "byte strings",
    "O": "objects",
    "c": "complex numbers",
    "M": "dates",
    "m": "time spans",
}
_ADVICE = {
    "U": "; encode categories as numbers, for labels np.unique(y, return_inverse=True) does",
    "O": "; astype(float) makes an array of numbers where all are some",
}

_DLPACK_CPU = (1, 3)
"""DLPack's numbers for the CPU's memory, plain and pinned."""


class Data(NamedTuple):
    """Samples with what is wanted of them.

    Of `x` and `x_bytes`, and of `labels` and `targets`, one is empty. Samples that came as an array on a GPU may lie
    there; nothing else does.
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

    def on_host(self) -> Data:
        """Return the same with copies of what is on a GPU."""
        return Data._make(array if isinstance(array, np.ndarray) else array.copy_to_host() for array in self)

    def spoilt(self) -> str | None:
        """Return which of "x" and "y" has NaN or infinity in a row that weighs something, None where neither has."""
        data = self.on_host()
        if len(data.weights):
            data = data.at(np.flatnonzero(data.weights))
        arrays = {"x": data.x, "y": data.targets}
        return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)

    def part(self, first: int, last: int) -> Data:
        """Return rows [first, last) as views."""
        return Data._make(array[first:last] if len(array) else array for array in self)

    def at(self, rows: npt.NDArray[np.int64]) -> Data:
        """Return copies of some rows."""
        return Data._make(array[rows] if len(array) else array for array in self)


def as_numbers(name: str, value: Any, expected: str, dtype: np.dtype[Any] | None = None) -> Array:
    """Return a numeric ndarray, or raise a TypeError that says what came, and what to do.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like
        An array or nested lists; a frame or column of pandas, polars or PyArrow; a scipy.sparse matrix, which is
        made dense; what has ``__array__``, or DLPack in the CPU's memory.
    expected : str
        For messages.
    dtype : numpy dtype or None
        What the numbers of a frame become; see `frames.frame_array`.
    """
    if value is None:
        raise TypeError(f"{name}: got None, expected {expected}")
    if is_frame(value):
        array = frame_array(name, value, expected, dtype)
        if array is not None:
            return array
    if is_sparse(value):
        value = checked_sparse(name, value).toarray()
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"{name}: got a sparse matrix, expected {expected}; x.toarray() makes a dense one")
    _check_foreign(name, value, expected)
    try:
        by_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
        array = np.from_dlpack(value) if by_dlpack else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise TypeError(
            f"{name}: got {type(value).__name__} that makes no array ({error}), expected {expected}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: got {_no_numbers(array)}, expected {expected}{_ADVICE.get(array.dtype.kind, '')}")
    return array


def is_sparse(value: object) -> bool:
    """Whether a value is a sparse matrix or array of SciPy, which is not imported for it."""
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and bool(scipy_sparse.issparse(value))


def checked_sparse(name: str, matrix: Any) -> Any:
    """Return a sparse matrix over the same arrays, in an object of its own, since a check leaves marks there.

    Raises
    ------
    ValueError
        For places outside its shape, which compiled code, SciPy's too, would follow.
    """
    if not hasattr(matrix, "check_format"):  # only compressed formats have places that others may have changed
        return matrix
    checked = type(matrix)(matrix)
    try:
        checked.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(
            f"{name}: got a sparse matrix with wrong places ({error}), expected those of its shape"
        ) from None
    return checked


def is_on_gpu(value: object) -> bool:
    """Whether a value is an array on a GPU: CuPy's, a CUDA tensor of PyTorch's without gradient, one of Numba's."""
    if isinstance(value, np.ndarray):
        return False
    try:
        return hasattr(value, "__cuda_array_interface__") or hasattr(value, "__cuda_ndarray__")
    except RuntimeError:  # PyTorch's, of a tensor that requires grad
        return False


def _check_foreign(name: str, value: Any, expected: str) -> None:
    """Raise for a masked array with gaps, and for a tensor that needs a step of the user's own before."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        where = _where(np.argwhere(np.ma.getmaskarray(value))[0])
        raise TypeError(
            f"{name}: got a masked value in {where}, expected {expected}; {name}.filled(...) puts one there"
        )
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return  # NumPy's own arrays have it too
    if getattr(value, "requires_grad", False) is True:
        raise TypeError(f"{name}: got a tensor that requires grad, expected {expected}; {name}.detach() is without it")
    try:
        on_cpu = int(value.__dlpack_device__()[0]) in _DLPACK_CPU
    except (ValueError, TypeError, RuntimeError, BufferError):
        on_cpu = False
    if not on_cpu:
        device = getattr(value, "device", "another device")
        also = ", or hand it to a Sequential with device='cuda'" if is_on_gpu(value) else ""
        raise TypeError(
            f"{name}: got {type(value).__name__} on {device}, expected {expected} in the CPU's memory; "
            f"copy it there first, as x.cpu() does in PyTorch{also}"
        )


def _no_numbers(array: Array) -> str:
    """Say what an array holds in place of numbers and, of objects, the first that is none."""
    what = f"{_KINDS.get(array.dtype.kind, f'dtype {array.dtype}')} (dtype {array.dtype}"
    if array.dtype.kind == "O":
        for place, item in np.ndenumerate(array):
            if not isinstance(item, (int, float, np.number)):
                return f"{what}, with {shown(item)} in {_where(place)})" if place else f"{what})"
    return f"{what})"


def _where(place: Iterable[int]) -> str:
    """Say which row, and which column where there are any."""
    return ", ".join(f"{axis} {number}" for axis, number in zip(("row", "column"), place, strict=False))


def contiguous(array: Array, dtype: Any) -> Array:
    """Return a C-ordered, aligned, native array of `dtype`; the same one where it is so already."""
    if array.dtype == dtype and array.flags.carray:
        return array
    with np.errstate(over="ignore"):  # what leaves the range of `dtype` is infinite then
        return np.asarray(np.require(array, dtype, ["C", "A"]))


def _check_finite(name: str, array: Array, first_row: int = 0, columns: Sequence[str] = ()) -> None:
    """Raise with the first row and column that holds NaN or infinity; rows count from `first_row`."""
    if array.dtype.kind != "f":
        return
    flat = array.reshape(len(array), -1)
    step = max(1, _NUMBERS_AT_A_TIME // flat.shape[1])
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        if math.isfinite(np.vdot(piece, piece)):  # as it is in one pass over the memory, unless squares are too large
            continue
        bad = ~np.isfinite(piece)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            named = f" ({columns[column]!r})" if columns else ""
            raise not_finite(name, piece[row, column], first_row + start + row, f"{column}{named}")


def not_finite(name: str, number: np.generic, row: int, column: str) -> ValueError:
    """Return the error for NaN or infinity in a place."""
    return ValueError(
        f"{name}: got {number} in row {row}, column {column}, expected finite numbers in the range of {number.dtype} "
        "(check_finite=False lets them through)"
    )


def as_samples(
    name: str, value: Any, inputs: int | None, dtype: np.dtype[Any], check_finite: bool, first_row: int = 0
) -> tuple[Array, Array]:
    """Return (float samples, byte samples) of shape (rows, inputs), one of them empty.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like
        (rows, ...), of any kind that `as_numbers` takes; what lies behind the first axis is flattened. uint8 stays
        bytes; other integers, booleans and floats become `dtype`.
    inputs : int or None
        Width expected; None takes any.
    dtype : numpy dtype
    check_finite : bool
        Whether NaN and infinity are refused.
    first_row : int
        The number of the first row, for messages.

    Raises
    ------
    TypeError
        For what is no array of numbers.
    ValueError
        For a wrong shape or no rows, or NaN or infinity.
    """
    expected = f"numbers of shape (rows, {inputs if inputs is not None else 'inputs'})"
    array = as_numbers(name, value, expected, dtype)
    array = array.reshape(row_shape(name, array.shape, inputs))
    if array.dtype == np.uint8:
        return np.empty((0, 0), dtype), contiguous(array, np.uint8)
    samples = contiguous(array, dtype)
    if check_finite:
        _check_finite(name, samples, first_row, column_names(value))
    return samples, np.empty((0, 0), np.uint8)


def row_shape(name: str, shape: tuple[int, ...], inputs: int | None) -> tuple[int, int]:
    """Return rows and width of samples of a shape, or raise a ValueError for one that a network cannot take."""
    wanted = inputs if inputs is not None else "inputs"
    if len(shape) < 2:
        hint = ""
        if len(shape) == 1 and inputs in (None, *shape):
            hint = ", a single sample as x[None, :]"
        if len(shape) == 1 and inputs in (None, 1):
            hint += ", samples of one input as x[:, None]"
        raise ValueError(f"{name}: got shape {shape}, expected (rows, {wanted}){hint}")
    rows, width = shape[0], math.prod(shape[1:])
    if rows == 0 or width == 0:
        raise ValueError(f"{name}: got shape {(rows, width)}, expected at least one row and one input")
    if inputs is not None and width != inputs:
        raise ValueError(f"{name}: got {width} inputs a row (shape {shape}), expected {inputs}")
    return rows, width


def as_targets(
    name: str,
    value: Any,
    rows: int,
    loss: Loss,
    units: int,
    dtype: np.dtype[Any],
    check_finite: bool,
    first_row: int = 0,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return (labels, targets), one of them empty, for what a loss takes.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like
        Values or probabilities (rows, units), or (rows,) where units is 1; class labels 0 .. units-1, (rows,) or
        (rows, 1), or rows of class probabilities (rows, units > 1).
    rows, units : int
        What the samples and the last layer have.
    loss : Loss
    dtype : numpy dtype
    check_finite : bool
    first_row : int
        The number of the first row, for messages.

    Raises
    ------
    TypeError, ValueError
        For a wrong type, shape, length or range.
    """
    wanted = f"({rows}, {units})"
    expected = f"class labels 0 to {units - 1}" if loss.takes == "labels" else f"numbers of shape {wanted}"
    array = as_numbers(name, value, expected)
    if array.ndim == 0 or len(array) != rows:
        raise ValueError(f"{name}: got shape {array.shape} for {rows} samples, expected {rows} rows")
    if loss.takes == "labels" and (array.ndim == 1 or array.shape == (rows, 1)):
        return _as_labels(name, array.reshape(-1), units, first_row), np.empty((0, 0), dtype)
    if array.ndim == 1 and units == 1:
        array = array.reshape(-1, 1)
    if array.shape != (rows, units):
        also = f" or {rows} class labels" if loss.takes == "labels" else ""
        raise ValueError(f"{name}: got shape {array.shape}, expected {wanted}{also}")
    targets = contiguous(array, dtype)
    if check_finite:
        _check_finite(name, targets, first_row, column_names(value))
    if loss.takes == "labels" and (targets < 0).any():
        raise ValueError(
            f"{name}: got a negative class probability, {targets.min()}, expected rows of probabilities >= 0"
        )
    if loss.takes == "probabilities" and ((targets < 0) | (targets > 1)).any():
        outside = targets[(targets < 0) | (targets > 1)][0]
        raise ValueError(f"{name}: got {outside}, expected targets between 0 and 1 for {loss.name!r}")
    return np.empty(0, np.int64), targets


def _as_labels(name: str, array: Array, units: int, first_row: int) -> npt.NDArray[np.int64]:
    whole = array.dtype.kind in "biu" or (np.isfinite(array).all() and (array == np.rint(array)).all())
    if not whole:
        wrong = array[~(np.isfinite(array) & (array == np.rint(array)))][0]
        raise ValueError(f"{name}: got {wrong}, expected whole class labels 0 to {units - 1}")
    low, high = array.min(), array.max()
    if low < 0 or high >= units:
        wrong, row = (low, array.argmin()) if low < 0 else (high, array.argmax())
        for_units = f"0 to {units - 1} for the {units} units of the last layer"
        if units == 1:
            for_units = "0 alone for the one unit of the last layer: two classes take 2, or 'binary_cross_entropy'"
        raise ValueError(f"{name}: got label {int(wrong)} in row {first_row + row}, expected {for_units}")
    return contiguous(array, np.int64)


def as_weights(name: str, value: Any, rows: int) -> npt.NDArray[np.float64]:
    """Return the weight of each row, or an empty array where all are 1.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : array-like (rows,) or None
        Finite, >= 0.
    rows : int

    Raises
    ------
    TypeError, ValueError
        For a wrong type, length or range.
    """
    if value is None:
        return np.empty(0)
    array = as_numbers(name, value, f"{rows} weights")
    if array.shape != (rows,):
        raise ValueError(f"{name}: got shape {array.shape}, expected ({rows},)")
    return _check_weights(name, array)


def weighed_by_class(data: R, class_weight: Any, loss: Loss, units: int) -> R:
    """Return data whose weights are multiplied by those of the rows' classes.

    Parameters
    ----------
    data : Data or SparseData
    class_weight : mapping from class to weight, sequence of weights, or "balanced"
        "balanced": rows / (classes x rows of the class), as in scikit-learn. The class of a row is its label,
        the largest of its probabilities, under a binary cross entropy the one that its targets name, or, with one
        output, whether its target exceeds 1/2.
    loss : Loss
    units : int
        Of the last layer.

    Raises
    ------
    TypeError, ValueError
        For a wrong type, length or range, a class that is not there, or rows of no class or of several.
    """
    if loss.takes == "values":
        raise ValueError(f"class_weight: {loss.name} takes values, expected a loss over classes, or sample_weight")
    classes, n_classes = classes_of(data.labels, data.targets, loss, units)
    by_class = _class_weights(class_weight, n_classes, classes)[classes]
    weights = by_class * data.weights if len(data.weights) else by_class
    return data._replace(weights=weights)  # type: ignore[return-value]


def classes_of(
    labels: npt.NDArray[np.int64], targets: Array, loss: Loss, units: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the class of each row, and the number of classes; see `weighed_by_class`."""
    if len(labels):
        return labels, units
    if targets.shape[1] == 1:
        return (targets[:, 0] > 0.5).astype(np.int64), 2
    if loss.takes == "probabilities":  # of each output by itself
        named = (targets > 0.5).sum(axis=1)
        if (named != 1).any():
            raise ValueError(
                f"class_weight: got a row with {named[named != 1][0]} of {units} targets above 1/2, expected one class "
                "a row; rows of several labels, or of none, are weighed by sample_weight"
            )
    return targets.argmax(axis=1).astype(np.int64), targets.shape[1]


def balanced_weights(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return rows / (classes x rows of the class) for classes of so many rows; 0 for one without any."""
    present = (counts > 0).sum()
    return np.where(counts > 0, counts.sum() / (present * np.maximum(counts, 1)), 0.0)


def _class_weights(class_weight: Any, n_classes: int, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the weight of each class."""
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight: got {class_weight!r}, expected 'balanced', a mapping or a sequence of weights"
            )
        return balanced_weights(np.bincount(classes, minlength=n_classes))
    if isinstance(class_weight, Mapping):
        table = np.ones(n_classes)
        for key, weight in class_weight.items():
            if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or key < 0:
                raise ValueError(f"class_weight: got class {shown(key)}, expected a class label 0, 1, ...")
            if key >= n_classes:
                raise ValueError(f"class_weight: got class {key}, expected classes 0 to {n_classes - 1}")
            table[key] = _check_weights("class_weight", as_numbers("class_weight", [weight], "weights"))[0]
        return table
    table = _check_weights("class_weight", as_numbers("class_weight", class_weight, "weights"))
    if table.ndim != 1 or len(table) != n_classes:
        raise ValueError(f"class_weight: got shape {table.shape}, expected a weight for each of {n_classes} classes")
    return table


def _check_weights(name: str, array: Array) -> npt.NDArray[np.float64]:
    weights = contiguous(array, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        also = ""
        if wrong < 0 and name != "class_weight":
            also = "; an advantage of either sign goes into the gradient for backward and apply_gradients"
        raise ValueError(f"{name}: got {wrong}, expected finite weights >= 0{also}")
    return weights
