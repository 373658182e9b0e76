"""fastnn: dense neural networks, trained by kernels compiled for the very CPU they run on."""

import typing as _typing

from fastnn import (
    callbacks,
    cuda,
    datasets,
    diagnostics,
    initializers,
    kernels,
    losses,
    optimizers,
    plotting,
    schedules,
)
from fastnn._version import __version__
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping, LambdaCallback, TensorBoard
from fastnn.datasets import load_digits, load_idx, load_idx_dir
from fastnn.diagnostics import GradientFlow
from fastnn.exchange import from_sklearn, from_torch
from fastnn.history import History
from fastnn.initializers import Initializer
from fastnn.kernels._warmup import warmup
from fastnn.layers import Activation, Dense, Dropout, Rescale
from fastnn.loading import latest_checkpoint, load
from fastnn.losses import AbsoluteError, BinaryCrossEntropy, CrossEntropy, Huber, SquaredError
from fastnn.model import Sequential
from fastnn.optimizers import SGD, AdaGrad, Adam, AdamW, RMSprop
from fastnn.saving import ModelFileError
from fastnn.schedules import Constant, Cosine, Exponential, InverseTime, ReduceOnPlateau, StepDecay, Warmup
from fastnn.streams import Stream, stream
from fastnn.training import TrainingDiverged

__all__ = [
    "SGD",
    "AbsoluteError",
    "Activation",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Exponential",
    "GradientFlow",
    "History",
    "Huber",
    "Initializer",
    "InverseTime",
    "LambdaCallback",
    "ModelFileError",
    "RMSprop",
    "ReduceOnPlateau",
    "Rescale",
    "Sequential",
    "SquaredError",
    "StepDecay",
    "Stream",
    "TensorBoard",
    "TrainingDiverged",
    "Warmup",
    "__version__",
    "callbacks",
    "cuda",
    "datasets",
    "diagnostics",
    "exchange",
    "from_sklearn",
    "from_torch",
    "initializers",
    "kernels",
    "latest_checkpoint",
    "load",
    "load_digits",
    "load_idx",
    "load_idx_dir",
    "losses",
    "optimizers",
    "plotting",
    "schedules",
    "stream",
    "warmup",
]

_ESTIMATORS = ("MLPClassifier", "MLPRegressor")


def _import_estimator(name: str) -> _typing.Any:
    """Import the estimators when they are first asked for: they need scikit-learn, the rest of fastnn does not."""
    if name not in _ESTIMATORS:
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError(
            f"fastnn.{name} needs scikit-learn, which is not installed: pip install 'fastnn[sklearn]'"
        ) from None
    from fastnn import estimators

    return getattr(estimators, name)


if _typing.TYPE_CHECKING:
    from fastnn.estimators import MLPClassifier as MLPClassifier
    from fastnn.estimators import MLPRegressor as MLPRegressor
else:  # to a type checker, a module with `__getattr__` has every name, misspelt ones too
    __getattr__ = _import_estimator


def __dir__() -> list[str]:
    return sorted([*globals(), *_ESTIMATORS])
