"""Activations and their derivatives on the device, from the CPU's formulas."""

from __future__ import annotations

from typing import Any

from fastnn.cuda._arrays import check_arrays, flat
from fastnn.cuda._formulas import like, on_device, primitive
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import cuda, device_function, kernel
from fastnn.kernels import activation as on_cpu
from fastnn.kernels import elementary, formulas
from fastnn.kernels._check import check_code
from fastnn.kernels.formulas import (
    ELU,
    GELU,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
)

relu, relu_slope = on_device(formulas.relu), on_device(formulas.relu_slope)
leaky_relu, leaky_relu_slope = on_device(formulas.leaky_relu), on_device(formulas.leaky_relu_slope)
elu, elu_slope = on_device(formulas.elu), on_device(formulas.elu_slope)
sigmoid, sigmoid_slope = on_device(formulas.sigmoid), on_device(formulas.sigmoid_slope)
tanh, tanh_slope = on_device(formulas.tanh), on_device(formulas.tanh_slope)
softplus, softplus_slope = on_device(formulas.softplus), on_device(formulas.softplus_slope)
gelu, gelu_slope = on_device(formulas.gelu), on_device(formulas.gelu_slope)
silu, silu_slope = on_device(formulas.silu), on_device(formulas.silu_slope)
softmax_row = on_device(on_cpu.softmax_row)
softmax_origin, softmax_term = on_device(on_cpu.softmax_origin), on_device(on_cpu.softmax_term)
quotient, largest = on_device(elementary.quotient), primitive(elementary.largest)


@device_function
def activate_one(code, z):
    """Return the activation `code` of z."""
    if code == RELU:
        return relu(z)
    if code == LEAKY_RELU:
        return leaky_relu(z)
    if code == ELU:
        return elu(z)
    if code == SIGMOID:
        return sigmoid(z)
    if code == TANH:
        return tanh(z)
    if code == SOFTPLUS:
        return softplus(z)
    if code == GELU:
        return gelu(z)
    if code == SILU:
        return silu(z)
    return z


@device_function
def slope_one(code, source):
    """Return f'(z); `source` is z for GELU and SiLU, else a = f(z)."""
    if code == RELU:
        return relu_slope(source)
    if code == LEAKY_RELU:
        return leaky_relu_slope(source)
    if code == ELU:
        return elu_slope(source)
    if code == SIGMOID:
        return sigmoid_slope(source)
    if code == TANH:
        return tanh_slope(source)
    if code == SOFTPLUS:
        return softplus_slope(source)
    if code == GELU:
        return gelu_slope(source)
    if code == SILU:
        return silu_slope(source)
    return like(1.0, source)


@device_function
def in_fours(code):
    """Return whether `activate_four` and `slope_four` know an activation: those of most hidden layers."""
    return code == RELU or code == TANH or code == IDENTITY


@device_function
def activate_four(code, z):
    """Return one of the activations that `in_fours` names of four numbers: chosen once."""
    if code == RELU:
        return (relu(z[0]), relu(z[1]), relu(z[2]), relu(z[3]))
    if code == TANH:
        return (tanh(z[0]), tanh(z[1]), tanh(z[2]), tanh(z[3]))
    return z


@device_function
def slope_four(code, d, a):
    """Return four gradients times the slopes of one of those activations, whose values are a."""
    if code == RELU:
        return (d[0] * relu_slope(a[0]), d[1] * relu_slope(a[1]), d[2] * relu_slope(a[2]), d[3] * relu_slope(a[3]))
    if code == TANH:
        return (d[0] * tanh_slope(a[0]), d[1] * tanh_slope(a[1]), d[2] * tanh_slope(a[2]), d[3] * tanh_slope(a[3]))
    return d


@kernel
def _activation_forward(a, z, code):
    for i in range(cuda.grid(1), a.size, cuda.gridsize(1)):
        a[i] = activate_one(code, z[i])


@kernel
def _activation_backward(dz, da, source, code):
    for i in range(cuda.grid(1), dz.size, cuda.gridsize(1)):
        dz[i] = da[i] * slope_one(code, source[i])


@kernel
def _softmax_forward(p, z, n):
    for b in range(cuda.grid(1), p.size // n, cuda.gridsize(1)):
        for i in range(b * n, (b + 1) * n):
            p[i] = z[i]
        softmax_row(p[b * n : (b + 1) * n])


def activation_forward(a: Any, z: Any, activation: str) -> None:
    """Write a = f(z), element by element: `fastnn.kernels.activation_forward` on device arrays."""
    code = check_code("activation", activation, formulas.CODES)
    arrays = check_arrays({"a": a}, {"z": z}, {"z": getattr(a, "shape", None)})
    launch(_activation_forward, grid_of(arrays["a"].size), flat(arrays["a"]), flat(arrays["z"]), code)


def activation_backward(dz: Any, da: Any, z: Any, a: Any, activation: str) -> None:
    """Write dz = da * f'(z), element by element: `fastnn.kernels.activation_backward` on device arrays."""
    code = check_code("activation", activation, formulas.CODES)
    shape = getattr(dz, "shape", None)
    arrays = check_arrays({"dz": dz}, {"da": da, "z": z, "a": a}, {"da": shape, "z": shape, "a": shape})
    source = arrays["z" if code in formulas.NEEDS_Z else "a"]
    launch(_activation_backward, grid_of(arrays["dz"].size), flat(arrays["dz"]), flat(arrays["da"]), flat(source), code)


def softmax_forward(p: Any, z: Any) -> None:
    """Write p = softmax(z), row by row: `fastnn.kernels.softmax_forward` on device arrays."""
    arrays = check_arrays({"p": p}, {"z": z}, {"p": (None, None), "z": getattr(p, "shape", None)})
    rows, n = arrays["p"].shape
    if n:
        launch(_softmax_forward, grid_of(rows), flat(arrays["p"]), flat(arrays["z"]), n)
