"""Data frames and columns of pandas, polars, PyArrow and their like, as arrays of numbers.

They are read through narwhals, which is imported when the first of them comes, and never without one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LIBRARIES = ("pandas", "polars", "pyarrow", "modin", "cudf")


def is_frame(value: object) -> bool:
    """Whether a value comes from a library of data frames, or is derived from what does."""
    if type(value) is np.ndarray:
        return False
    return any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(value).__mro__)


def column_names(value: object) -> list[str]:
    """Return the names of a frame's columns; none for anything else."""
    if _is_arrow_table(value):
        names: list[str] = value.schema.names  # type: ignore[attr-defined]
        return names
    frame = _wrapped(value) if is_frame(value) else value
    return [str(name) for name in getattr(frame, "columns", ())]


def frame_array(name: str, value: Any, expected: str, dtype: np.dtype[Any] | None = None) -> Array | None:
    """Return a frame (rows, columns) or a column (rows,) as numbers, or None for what is neither.

    Parameters
    ----------
    name : str
        The argument, for messages.
    value : frame or column
        Numbers and booleans; missing values become NaN.
    expected : str
        For messages.
    dtype : numpy dtype or None
        What numbers become unless all are bytes (uint8), which stay so; None keeps the type that holds them all.

    Raises
    ------
    TypeError
        For a column of anything else, or a lazy frame.
    """
    if _is_arrow_table(value):
        names = value.schema.names
        labelled = zip(names, value.columns, strict=True)
        columns = [_arrow_column(name, label, column, expected) for label, column in labelled]
        return _side_by_side(columns, (value.num_rows, len(names)), dtype)
    import narwhals as nw

    frame = _wrapped(value)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError(f"{name}: got a lazy frame, expected {expected}; {name}.collect() reads its rows")
    if isinstance(frame, nw.Series):
        return _column(name, frame, expected)
    if not isinstance(frame, nw.DataFrame):
        return None
    columns = [_column(name, frame.get_column(column), expected) for column in frame.columns]
    return _side_by_side(columns, frame.shape, dtype)


def _side_by_side(columns: list[Array], shape: tuple[int, int], dtype: np.dtype[Any] | None) -> Array:
    """Return columns of numbers as one array; see `frame_array`."""
    together = np.result_type(*columns) if columns else np.dtype(np.float64)
    result = np.empty(shape, together if dtype is None or together == np.uint8 else dtype)
    with np.errstate(over="ignore"):
        for place, column in enumerate(columns):
            result[:, place] = column
    return result


def _is_arrow_table(value: object) -> bool:
    """Whether a value is a table or a record batch of PyArrow."""
    return type(value).__module__ == "pyarrow.lib" and hasattr(value, "num_rows")


def _wrapped(value: Any) -> Any:
    """Return narwhals' view of a frame or column; what it does not know comes back as it was."""
    import narwhals as nw

    if type(value).__module__ == "pyarrow.lib":
        import pyarrow

        if isinstance(value, pyarrow.Array):  # narwhals knows the chunked ones alone
            value = pyarrow.chunked_array([value])
    return nw.from_native(value, pass_through=True, allow_series=True)


def _arrow_column(name: str, label: str, column: Any, expected: str) -> Array:
    """Return one column of a PyArrow table as `_column` does, without a detour where it holds plain numbers.

    Files are read in tables of a thousand rows, where narwhals' own work per column would be most of the time.
    """
    from pyarrow import types

    if types.is_integer(column.type) or types.is_floating(column.type):
        array: Array = np.asarray(column)
        return array
    return _column(name, _wrapped(column).alias(label), expected)


def _column(name: str, column: Any, expected: str) -> Array:
    """Return one column as numbers, with NaN where a value is missing."""
    import narwhals as nw

    kind = column.dtype
    if kind == nw.Boolean and column.null_count():
        column = column.cast(nw.Float64)
    if kind == nw.Boolean or kind.is_numeric():
        array: Array = column.to_numpy()
        if kind == nw.Boolean and array.dtype == object:  # pandas before 2.2: its nullable ones, though none is missing
            array = array.astype(bool)
        if array.dtype.kind in "biuf":
            return array
    which = f"column {column.name!r} of {kind}" if column.name else f"a column of {kind}"
    if kind in (nw.String, nw.Categorical, nw.Enum, nw.Object):
        advice = "encode its categories as numbers or leave it out"
        if name.endswith("y"):
            advice = f"numpy.unique({name}, return_inverse=True) gives the classes and a number for each row"
    else:
        advice = "turn it into numbers or leave it out"
    raise TypeError(f"{name}: got {which}, expected {expected}; {advice}")
