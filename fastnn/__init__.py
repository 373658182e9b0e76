"""fastnn: dense neural networks, trained by kernels compiled for the very CPU they run on."""

from fastnn import callbacks, datasets, diagnostics, initializers, kernels, losses, optimizers, plotting, schedules
from fastnn._version import __version__
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping, LambdaCallback
from fastnn.datasets import load_digits, load_idx, load_idx_dir
from fastnn.diagnostics import GradientFlow
from fastnn.history import History
from fastnn.initializers import Initializer
from fastnn.kernels._warmup import warmup
from fastnn.layers import Activation, Dense, Dropout, Rescale
from fastnn.losses import AbsoluteError, BinaryCrossEntropy, CrossEntropy, Huber, SquaredError
from fastnn.model import Sequential, load
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
    "TrainingDiverged",
    "Warmup",
    "__version__",
    "callbacks",
    "datasets",
    "diagnostics",
    "initializers",
    "kernels",
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
