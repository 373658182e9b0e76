"""Models from files; what is in a file is in `saving.py`."""

from __future__ import annotations

import os
from pathlib import Path

from fastnn import saving
from fastnn.devices import HERE, check_place
from fastnn.model import Sequential
from fastnn.optimizers import Optimizer, as_optimizer


def load(
    path: str | os.PathLike[str],
    *,
    optimizer: Optimizer | None = None,
    device: str = "cpu",
    matmul_precision: str = "float32",
) -> Sequential:
    """Return the model that `Sequential.save` wrote.

    Parameters
    ----------
    path : path
    optimizer : Optimizer, optional
        Instead of the one in the file, of the same kind, whose state it takes over; for a schedule of one's own, of
        which a file holds the name alone, or for another rate. A schedule that is not the file's begins anew.
    device, matmul_precision : str
        As for `Sequential`.

    Raises
    ------
    ModelFileError
        If the file is no fastnn model, is cut short or damaged, or comes from a newer version. No code is run
        from it.
    ValueError
        If `optimizer` is of another kind.
    OSError
        If it cannot be read.
    """
    return saving.load(Sequential, path, check_place(device, matmul_precision), _given(optimizer))


def latest_checkpoint(folder: str | os.PathLike[str], *, optimizer: Optimizer | None = None) -> Path | None:
    """Return the newest checkpoint of a folder that loads, or None where there is none.

    Checkpoints are the files whose names end in a number and ".safetensors"; the highest number is the newest. One that
    is damaged is skipped, with a warning that says so. ``model.fit(..., resume=folder)`` takes the same.

    Parameters
    ----------
    folder : path
        It need not be there yet.
    optimizer : Optimizer, optional
        As for `load`.

    Raises
    ------
    ModelFileError
        If there are checkpoints, and none of them loads.
    OSError
        If the folder cannot be read.
    """
    found = saving.load_latest(Sequential, folder, HERE, _given(optimizer))
    return None if found is None else found[0]


def _given(optimizer: Optimizer | None) -> Optimizer | None:
    return None if optimizer is None else as_optimizer(optimizer)
