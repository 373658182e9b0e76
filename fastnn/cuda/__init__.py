"""The kernels of `fastnn.kernels` on an NVIDIA GPU, with the same names, arguments and formulas, for device arrays.

Arrays are what ``numba.cuda.to_device`` returns, or anything else with ``__cuda_array_interface__``: CuPy's arrays
and PyTorch's CUDA tensors pass in without a copy. A kernel checks its arguments, writes into its outputs and returns
nothing (a loss or a norm returns its number). It runs on the default stream: what another library wrote on a stream of
its own must be waited for first. ``Sequential(..., device="cuda")`` trains whole models here.

Numba's CUDA is imported when the first kernel is asked for. ``pip install 'fastnn[cuda]'`` brings it with its compiler.
With ``NUMBA_ENABLE_CUDASIM=1`` the kernels run in Numba's simulator, without a GPU, and slowly.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "activation": ("activation_backward", "activation_forward", "softmax_forward"),
    "dense": ("dense_backward", "dense_forward", "matmul"),
    "dropout": ("dropout_backward", "dropout_forward", "dropout_mask"),
    "loss": ("absolute_error", "binary_cross_entropy", "cross_entropy", "huber", "poisson", "squared_error"),
    "statistics": ("activation_statistics",),
    "update": (
        "adagrad_update", "adam_update", "adamw_update", "amsgrad_update", "clip_by_norm", "clip_by_value",
        "global_norm", "penalty", "rmsprop_update", "sgd_update", "soft_threshold",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = ["is_available", "missing", *_MODULE_OF]


def missing() -> str:
    """Return in one sentence what is missing to run kernels on a GPU and how to get it; "" where nothing is."""
    from fastnn.cuda import _numba

    return _numba.missing()


def is_available() -> bool:
    """Return whether kernels can run: on a GPU, or in Numba's simulator."""
    return not missing()


def __getattr__(name: str) -> Any:
    """Import a kernel when it is first asked for: Numba's CUDA takes a while, and may be missing."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
