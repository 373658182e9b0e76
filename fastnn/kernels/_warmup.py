"""Compile every kernel ahead: for container images, CI, and machines whose first call shall not take seconds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastnn.kernels import epoch
from fastnn.kernels._compile import processes, running_beside
from fastnn.kernels._pool import compile_attend
from fastnn.kernels.activation import activation_backward, activation_forward, softmax_forward
from fastnn.kernels.dense import FORWARD, dense_backward, dense_forward
from fastnn.kernels.dropout import dropout_forward
from fastnn.kernels.gemm import matmul
from fastnn.kernels.loss import squared_error
from fastnn.kernels.random import philox_fill, shuffle_indices
from fastnn.kernels.statistics import activation_statistics
from fastnn.kernels.update import clip_by_value, global_norm, penalty, sgd_update, soft_threshold


def warmup(dtypes: Iterable[str] = ("float32", "float64")) -> None:
    """Compile every kernel for this CPU and keep the code on disk, so that no later call of any process compiles.

    Some twenty seconds for each float type on two cores, less where the code is there already. The code goes where
    Numba keeps it: ``NUMBA_CACHE_DIR``, or beside the package, or the user's cache directory.

    Parameters
    ----------
    dtypes : iterable of str
        The float types to compile for.

    Raises
    ------
    ValueError
        For another name than "float32" and "float64".
    TypeError
        For what holds no names.
    """
    if not isinstance(dtypes, Iterable):
        raise TypeError(f"dtypes: got {type(dtypes).__name__}, expected names such as 'float32'")
    names = [dtypes] if isinstance(dtypes, str) else list(dtypes)
    for name in names:
        if name not in ("float32", "float64"):
            raise ValueError(f"dtypes: got {name!r}, expected 'float32' or 'float64'")
    compile_attend()
    philox_fill(np.empty(4, np.uint32), 0, 0, 0)
    shuffle_indices(np.empty(2, np.int64), 0, 0)
    for name in names:
        epoch.compile_all(np.dtype(name), epoch.TASKS, say=lambda seconds: None)
        epoch.compile_entries(np.dtype(name))
        epoch.compile_forward_rows(np.dtype(name))
    missing = [name for name in names if FORWARD.must_be_compiled(np.dtype(name))] if processes() > 1 else []
    with running_beside(f"from {__name__} import compile_rest; compile_rest({name!r})" for name in missing[1:]):
        for name in missing[:1]:
            compile_rest(name)
    for name in names:
        compile_rest(name)


def kept(dtypes: Iterable[str]) -> bool:
    """Return whether what `warmup` compiled lies on disk, as the last of its tasks shows."""
    return all(FORWARD.is_kept(np.dtype(name)) for name in dtypes)


def compile_rest(name: str) -> None:
    """Compile, for one float type, all that training does not need."""
    dtype = np.dtype(name)
    a, b, c = (np.zeros((2, 2), dtype) for _ in range(3))
    row = np.zeros(2, dtype)
    matmul(a, b, c)
    dense_forward(np.zeros((2, 2), dtype), a, b, c, row)
    dense_backward(None, a, row, b, c, np.zeros((2, 2), dtype))
    activation_forward(a, b, "tanh")
    activation_backward(a, b, c, c, "tanh")
    activation_statistics(np.zeros(4), a, b, "tanh")
    softmax_forward(a, b)
    dropout_forward(a, b, 0.5, 0, 0, 0)
    squared_error(a, b, c)
    sgd_update(row, None, np.zeros(2, dtype), 0.1)
    penalty(row, 0.1, 0.1)
    global_norm(row)
    clip_by_value(row, 1.0)
    soft_threshold(row, 0.1)
