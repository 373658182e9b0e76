"""Every hot loop of fastnn on the CPU, usable alone on NumPy arrays.

A public kernel checks its arguments, writes into its outputs and returns nothing (a loss or a norm returns
its number). Each module imports nothing of fastnn outside this package.
"""

from fastnn.kernels.activation import activation_backward, activation_forward, softmax_forward
from fastnn.kernels.dense import dense_backward, dense_forward
from fastnn.kernels.dropout import dropout_backward, dropout_forward, dropout_mask
from fastnn.kernels.gemm import matmul
from fastnn.kernels.loss import absolute_error, binary_cross_entropy, cross_entropy, huber, poisson, squared_error
from fastnn.kernels.random import philox_fill, shuffle_indices
from fastnn.kernels.statistics import activation_statistics
from fastnn.kernels.update import (
    adagrad_update,
    adam_update,
    adamw_update,
    amsgrad_update,
    clip_by_norm,
    clip_by_value,
    global_norm,
    penalty,
    rmsprop_update,
    sgd_update,
    soft_threshold,
)

__all__ = [
    "absolute_error",
    "activation_backward",
    "activation_forward",
    "activation_statistics",
    "adagrad_update",
    "adam_update",
    "adamw_update",
    "amsgrad_update",
    "binary_cross_entropy",
    "clip_by_norm",
    "clip_by_value",
    "cross_entropy",
    "dense_backward",
    "dense_forward",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "global_norm",
    "huber",
    "matmul",
    "penalty",
    "philox_fill",
    "poisson",
    "rmsprop_update",
    "sgd_update",
    "shuffle_indices",
    "soft_threshold",
    "softmax_forward",
    "squared_error",
]
