"""The table of what is measured: a row a kernel and shape, and the training workloads.

`CASES` feeds pytest-benchmark (`test_kernels.py`), asv (`kernels.py`) and the comparison of updates
(`compare.py --updates`); `WORKLOADS` feeds asv (`train.py`) and the comparison with the peers (`compare.py`).

A case that changes its meaning gets another name: results over the project's history are kept by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray
Binder = Callable[[SimpleNamespace], Callable[[], Any]]
"""Takes the arrays of a case as attributes, and the module of its library as `lib`; returns what is timed."""

LIBRARIES = ("fastnn", "numpy", "torch")
FLOATS = ("float32", "float64")
_MODULES = {"fastnn": "fastnn.kernels", "numpy": "numpy", "torch": "torch"}
_ALIGNMENT = 64


@dataclass(frozen=True)
class Case:
    """One kernel on one shape, and the same work in other libraries.

    Parameters
    ----------
    group : str
        The kernel's module in `fastnn.kernels`.
    kernel : str
        Its name there.
    name : str
        Unique among all cases.
    make : (rng, dtype, steady) -> dict of arrays and numbers
        What the libraries work on. With `steady` a state that the kernel updates in place stands at its fixed
        point and the learning rate is 0, so that no call differs from the one before; without, it is in the
        midst of training, so that the libraries' results can be compared.
    bind : dict library -> Binder
        Every library works on the same memory.
    outputs : tuple of str
        Names of the arrays that all libraries must agree on after one call; "result" is what the call
        returns. Empty for random numbers.
    flops : int
        Multiplications and additions of one call; 0 where the memory is the limit.
    moved : int
        Elements of `dtype` that one call has to read and to write, at least.
    dtypes : tuple of str
        Element types it makes sense for.
    """

    group: str
    kernel: str
    name: str
    make: Callable[[np.random.Generator, np.dtype, bool], dict[str, Any]] = field(repr=False)
    bind: dict[str, Binder] = field(repr=False)
    outputs: tuple[str, ...] = ()
    flops: int = 0
    moved: int = 0
    dtypes: tuple[str, ...] = FLOATS

    def work(self, dtype: str) -> tuple[float, str]:
        """Return how much one call does and its unit by second: floating-point operations or bytes, in 1e9."""
        if self.flops:
            return self.flops / 1e9, "GFLOP/s"
        return self.moved * np.dtype(dtype).itemsize / 1e9, "GB/s"


def aligned(shape: int | tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialised array that begins at a multiple of 64 bytes, as the peers' own do."""
    kind = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * kind.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(kind).reshape(shape)


def bind(
    case: Case, library: str, dtype: str, *, steady: bool = True, seed: int = 0
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return (call, values): what does the case's work once in a library, and the NumPy arrays it works on."""
    values = case.make(np.random.default_rng(seed), np.dtype(dtype), steady)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = aligned(value.shape, value.dtype)
            values[name][...] = value
    module = importlib.import_module(_MODULES[library])
    seen = dict(values)
    if library == "torch":
        seen |= {name: module.from_numpy(v) for name, v in values.items() if isinstance(v, np.ndarray)}
    return case.bind[library](SimpleNamespace(lib=module, **seen)), values


def installed(library: str) -> bool:
    """Return whether a library can be imported, without importing it."""
    return importlib.util.find_spec(_MODULES.get(library, library).partition(".")[0]) is not None


def available_cores() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find(name: str) -> Case:
    """Return the case of that name."""
    return _BY_NAME[name]


def group(name: str) -> list[Case]:
    """Return the cases of one kernel module."""
    return [case for case in CASES if case.group == name]


# The cases. Shapes of products are written rows x columns x inner size.


def _matmul(m: int, n: int, k: int, transpose: str = "") -> Case:
    ta, tb = transpose == "A", transpose == "B"

    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        a = rng.standard_normal((k, m) if ta else (m, k), dtype)
        b = rng.standard_normal((n, k) if tb else (k, n), dtype)
        return {"a": a, "b": b, "c": np.empty((m, n), dtype)}

    return Case(
        "gemm", "matmul", f"matmul{f' {transpose}^T' if transpose else ''} {m}x{n}x{k}", make,
        {
            "fastnn": lambda v: functools.partial(v.lib.matmul, v.c, v.a, v.b, ta, tb),
            "numpy": lambda v: functools.partial(
                np.matmul, v.a.T if ta else v.a, v.b.T if tb else v.b, out=v.c
            ),
            "torch": lambda v: functools.partial(
                v.lib.mm, v.a.t() if ta else v.a, v.b.t() if tb else v.b, out=v.c
            ),
        },
        ("c",), flops=2 * m * n * k,
    )  # fmt: skip


def _dense_values(rows: int, k: int, n: int) -> Callable[..., dict[str, Any]]:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {
            "x": rng.standard_normal((rows, k), dtype), "w": rng.standard_normal((k, n), dtype) / math.sqrt(k),
            "b": rng.standard_normal(n, dtype), "z": np.empty((rows, n), dtype), "a": np.empty((rows, n), dtype),
            "dz": rng.standard_normal((rows, n), dtype), "dx": np.empty((rows, k), dtype),
            "dw": np.empty((k, n), dtype), "db": np.empty(n, dtype),
        }  # fmt: skip

    return make


def _dense_forward(rows: int, k: int, n: int) -> Case:
    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            np.matmul(v.x, v.w, out=v.z)
            np.add(v.z, v.b, out=v.z)
            np.maximum(v.z, 0.0, out=v.a)

        return call

    def torch(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            v.lib.addmm(v.b, v.x, v.w, out=v.z)
            v.lib.clamp(v.z, min=0.0, out=v.a)

        return call

    return Case(
        "dense", "dense_forward", f"dense_forward relu {rows}x{n}x{k}", _dense_values(rows, k, n),
        {
            "fastnn": lambda v: functools.partial(v.lib.dense_forward, v.a, v.z, v.x, v.w, v.b, "relu"),
            "numpy": numpy, "torch": torch,
        },
        ("z", "a"), flops=2 * rows * k * n,
    )  # fmt: skip


def _dense_backward(rows: int, k: int, n: int) -> Case:
    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            np.matmul(v.x.T, v.dz, out=v.dw)
            np.sum(v.dz, axis=0, out=v.db)
            np.matmul(v.dz, v.w.T, out=v.dx)

        return call

    def torch(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            v.lib.mm(v.x.t(), v.dz, out=v.dw)
            v.lib.sum(v.dz, 0, out=v.db)
            v.lib.mm(v.dz, v.w.t(), out=v.dx)

        return call

    return Case(
        "dense", "dense_backward", f"dense_backward {rows}x{n}x{k}", _dense_values(rows, k, n),
        {
            "fastnn": lambda v: functools.partial(v.lib.dense_backward, v.dx, v.dw, v.db, v.dz, v.x, v.w),
            "numpy": numpy, "torch": torch,
        },
        ("dx", "dw", "db"), flops=4 * rows * k * n,
    )  # fmt: skip


_NUMPY_ACTIVATIONS: dict[str, Callable[[Array, Array], Any]] = {
    "identity": lambda a, z: np.copyto(a, z),
    "relu": lambda a, z: np.maximum(z, 0.0, out=a),
    "leaky_relu": lambda a, z: np.maximum(z, 0.01 * z, out=a),
    "elu": lambda a, z: np.copyto(a, np.where(z > 0.0, z, np.expm1(np.minimum(z, 0.0)))),
    "sigmoid": lambda a, z: np.divide(1.0, 1.0 + np.exp(-z), out=a),
    "tanh": lambda a, z: np.tanh(z, out=a),
    "softplus": lambda a, z: np.logaddexp(z, 0.0, out=a),
    "silu": lambda a, z: np.divide(z, 1.0 + np.exp(-z), out=a),
}
"""What a NumPy user writes; there is no error function in NumPy, so no GELU."""

_TORCH_ACTIVATIONS = {
    "relu": "relu", "leaky_relu": "leaky_relu", "elu": "elu", "sigmoid": "sigmoid", "tanh": "tanh",
    "softplus": "softplus", "gelu": "gelu", "silu": "silu",
}  # fmt: skip

_NUMPY_SLOPES: dict[str, Callable[[Array, Array, Array, Array], Any]] = {
    "relu": lambda dz, da, z, a: np.multiply(da, a > 0.0, out=dz),
    "sigmoid": lambda dz, da, z, a: np.multiply(da, a * (1.0 - a), out=dz),
    "tanh": lambda dz, da, z, a: np.multiply(da, 1.0 - a * a, out=dz),
    "silu": lambda dz, da, z, a: _numpy_silu_slope(dz, da, z),
}


def _numpy_silu_slope(dz: Array, da: Array, z: Array) -> None:
    s = 1.0 / (1.0 + np.exp(-z))
    np.multiply(da, s * (1.0 + z * (1.0 - s)), out=dz)


_TORCH_SLOPES: dict[str, Callable[[Any, Any, Any, Any, Any], Any]] = {
    "relu": lambda ops, dz, da, z, a: ops.threshold_backward.grad_input(da, a, 0.0, grad_input=dz),
    "sigmoid": lambda ops, dz, da, z, a: ops.sigmoid_backward.grad_input(da, a, grad_input=dz),
    "tanh": lambda ops, dz, da, z, a: ops.tanh_backward.grad_input(da, a, grad_input=dz),
    "gelu": lambda ops, dz, da, z, a: ops.gelu_backward.grad_input(da, z, grad_input=dz),
    "silu": lambda ops, dz, da, z, a: ops.silu_backward.grad_input(da, z, grad_input=dz),
}


def _activation_forward(name: str, size: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"z": 3.0 * rng.standard_normal(size, dtype), "a": np.empty(size, dtype)}

    binders: dict[str, Binder] = {"fastnn": lambda v: functools.partial(v.lib.activation_forward, v.a, v.z, name)}
    if name in _NUMPY_ACTIVATIONS:
        binders["numpy"] = lambda v: functools.partial(_NUMPY_ACTIVATIONS[name], v.a, v.z)
    if name == "identity":
        binders["torch"] = lambda v: functools.partial(v.a.copy_, v.z)
    else:
        operation = _TORCH_ACTIVATIONS[name]
        binders["torch"] = lambda v: functools.partial(getattr(v.lib.ops.aten, operation).out, v.z, out=v.a)
    return Case(
        "activation", "activation_forward", f"activation_forward {name} {size}", make, binders, ("a",), moved=2 * size
    )


def _activation_backward(name: str, size: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        z = 3.0 * rng.standard_normal(size, dtype)
        a = np.empty(size, dtype)
        if name in _NUMPY_ACTIVATIONS:
            _NUMPY_ACTIVATIONS[name](a, z)
        else:
            a[:] = z
        return {"z": z, "a": a, "da": rng.standard_normal(size, dtype), "dz": np.empty(size, dtype)}

    binders: dict[str, Binder] = {
        "fastnn": lambda v: functools.partial(v.lib.activation_backward, v.dz, v.da, v.z, v.a, name),
        "torch": lambda v: functools.partial(_TORCH_SLOPES[name], v.lib.ops.aten, v.dz, v.da, v.z, v.a),
    }
    if name in _NUMPY_SLOPES:
        binders["numpy"] = lambda v: functools.partial(_NUMPY_SLOPES[name], v.dz, v.da, v.z, v.a)
    return Case(
        "activation", "activation_backward", f"activation_backward {name} {size}", make, binders, ("dz",),
        moved=3 * size,
    )  # fmt: skip


def _softmax(rows: int, n: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"z": 3.0 * rng.standard_normal((rows, n), dtype), "p": np.empty((rows, n), dtype)}

    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        return functools.partial(_numpy_softmax, v.p, v.z)

    return Case(
        "activation", "softmax_forward", f"softmax_forward {rows}x{n}", make,
        {
            "fastnn": lambda v: functools.partial(v.lib.softmax_forward, v.p, v.z),
            "numpy": numpy,
            "torch": lambda v: functools.partial(v.lib.softmax, v.z, 1, out=v.p),
        },
        ("p",), moved=2 * rows * n,
    )  # fmt: skip


def _numpy_softmax(p: Array, z: Array) -> None:
    np.exp(z - z.max(axis=1, keepdims=True), out=p)
    p /= p.sum(axis=1, keepdims=True)


def _statistics(rows: int, n: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        z = rng.standard_normal((rows, n), dtype)
        return {"z": z, "a": np.maximum(z, 0.0), "stats": np.empty(4)}

    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            off = v.a <= 0.0
            v.stats[:] = v.a.mean(dtype=np.float64), v.a.std(dtype=np.float64), off.mean(), off.all(axis=0).mean()

        return call

    return Case(
        "statistics", "activation_statistics", f"activation_statistics relu {rows}x{n}", make,
        {
            "fastnn": lambda v: functools.partial(v.lib.activation_statistics, v.stats, v.a, v.z, "relu"),
            "numpy": numpy,
        },
        ("stats",), moved=rows * n,
    )  # fmt: skip


_RATE = 0.2


def _dropout(kernel: str, size: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"x": rng.standard_normal(size, dtype), "y": np.empty(size, dtype), "rng": np.random.default_rng(0)}

    def fastnn(v: SimpleNamespace) -> Callable[[], Any]:
        arrays = (v.y,) if kernel == "dropout_mask" else (v.y, v.x)
        return functools.partial(getattr(v.lib, kernel), *arrays, _RATE, 0, 1, 0)

    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> None:
            keep = v.rng.random(size, v.x.dtype) >= _RATE
            np.multiply(v.x, keep * v.x.dtype.type(1.0 / (1.0 - _RATE)), out=v.y)

        return call

    def torch(v: SimpleNamespace) -> Callable[[], Any]:
        return functools.partial(v.lib.nn.functional.dropout, v.x, _RATE)

    binders: dict[str, Binder] = {"fastnn": fastnn}
    if kernel == "dropout_forward":  # the other libraries store the mask: their backward pass is a product
        binders |= {"numpy": numpy, "torch": torch}
    moved = size if kernel == "dropout_mask" else 2 * size
    return Case("dropout", kernel, f"{kernel} {size}", make, binders, moved=moved)


def _value_loss(kernel: str, rows: int, n: int) -> Case:
    binary = kernel == "binary_cross_entropy"

    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        t = rng.standard_normal((rows, n), dtype)
        y = 2.0 * rng.standard_normal((rows, n), dtype)
        if binary:
            t = (t > 0).astype(dtype)
        if kernel == "poisson":
            t = np.exp(t)
        return {"y": y, "t": t, "dy": np.empty((rows, n), dtype)}

    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> float:
            e = v.y - v.t
            if kernel == "squared_error":
                np.multiply(e, 2.0 / e.size, out=v.dy)
                return float(np.mean(e * e))
            if kernel == "absolute_error":
                np.multiply(np.sign(e), 1.0 / e.size, out=v.dy)
                return float(np.mean(np.abs(e)))
            if kernel == "huber":
                np.multiply(np.clip(e, -1.0, 1.0), 1.0 / e.size, out=v.dy)
                size = np.abs(e)
                return float(np.mean(np.where(size <= 1.0, 0.5 * e * e, size - 0.5)))
            if kernel == "poisson":
                rate = np.exp(v.y)
                np.multiply(rate - v.t, 1.0 / e.size, out=v.dy)
                return float(np.mean(rate - v.t + v.t * (np.log(v.t) - v.y)))
            np.multiply(1.0 / (1.0 + np.exp(-v.y)) - v.t, 1.0 / e.size, out=v.dy)
            return float(np.mean(np.logaddexp(v.y, 0.0) - v.y * v.t))

        return call

    def torch(v: SimpleNamespace) -> Callable[[], Any]:
        names = {
            "squared_error": "mse_loss", "absolute_error": "l1_loss", "huber": "huber_loss",
            "binary_cross_entropy": "binary_cross_entropy_with_logits",
        }  # fmt: skip
        loss = getattr(v.lib.nn.functional, names[kernel])
        y = v.y.requires_grad_()

        def call() -> float:
            value = loss(y, v.t)
            v.dy.copy_(v.lib.autograd.grad(value, y)[0])
            return value.item()

        return call

    binders: dict[str, Binder] = {
        "fastnn": lambda v: functools.partial(getattr(v.lib, kernel), v.dy, v.y, v.t),
        "numpy": numpy,
    }
    if kernel != "poisson":  # PyTorch's lacks the terms that the targets alone give
        binders["torch"] = torch
    return Case("loss", kernel, f"{kernel} {rows}x{n}", make, binders, ("dy", "result"), moved=3 * rows * n)


def _cross_entropy(rows: int, n: int, soft: bool) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        z = 3.0 * rng.standard_normal((rows, n), dtype)
        t: Array = rng.integers(0, n, rows)
        if soft:
            t = 0.1 / n + 0.9 * np.eye(n, dtype=dtype)[t]
        return {"z": z, "t": t, "dz": np.empty((rows, n), dtype), "rows": np.arange(rows)}

    def numpy(v: SimpleNamespace) -> Callable[[], Any]:
        def call() -> float:
            shifted = v.z - v.z.max(axis=1, keepdims=True)
            np.exp(shifted, out=v.dz)
            total = v.dz.sum(axis=1, keepdims=True)
            v.dz /= total
            logs = shifted - np.log(total)
            if soft:
                v.dz -= v.t
                value = -float((logs * v.t).sum()) / rows
            else:
                v.dz[v.rows, v.t] -= 1.0
                value = -float(logs[v.rows, v.t].mean())
            v.dz /= rows
            return value

        return call

    def torch(v: SimpleNamespace) -> Callable[[], Any]:
        z = v.z.requires_grad_()

        def call() -> float:
            value = v.lib.nn.functional.cross_entropy(z, v.t)
            v.dz.copy_(v.lib.autograd.grad(value, z)[0])
            return value.item()

        return call

    return Case(
        "loss", "cross_entropy", f"cross_entropy {'rows' if soft else 'labels'} {rows}x{n}", make,
        {"fastnn": lambda v: functools.partial(v.lib.cross_entropy, v.dz, v.z, v.t), "numpy": numpy, "torch": torch},
        ("dz", "result"), moved=(3 if soft else 2) * rows * n,
    )  # fmt: skip


def _philox(size: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"out": np.empty(size, np.uint32), "rng": np.random.Generator(np.random.Philox(0))}

    return Case(
        "random", "philox_fill", f"philox_fill {size}", make,
        {
            "fastnn": lambda v: functools.partial(v.lib.philox_fill, v.out, 1, 2, 3),
            "numpy": lambda v: functools.partial(v.rng.integers, 0, 2**32, size, np.uint32),
        },
        moved=size, dtypes=("uint32",),
    )  # fmt: skip


def _shuffle(size: int) -> Case:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"order": np.empty(size, np.int64), "rng": np.random.default_rng(0)}

    return Case(
        "random", "shuffle_indices", f"shuffle_indices {size}", make,
        {
            "fastnn": lambda v: functools.partial(v.lib.shuffle_indices, v.order, 1, 2),
            "numpy": lambda v: functools.partial(v.rng.permutation, size),
            "torch": lambda v: functools.partial(v.lib.randperm, size, out=v.order),
        },
        moved=size, dtypes=("int64",),
    )  # fmt: skip


# Updates. A constant gradient takes every state to a fixed point, where timing starts: m = g, v = g^2,
# u = g / (1 - momentum). AdaGrad's sum has none, so it starts so high that a float32 adds nothing to it.

_LR, _MOMENTUM, _ALPHA, _B1, _B2, _EPS = 1e-3, 0.9, 0.99, 0.9, 0.999, 1e-8
_INSIDE = 1.0
"""Epsilon of centred RMSprop, inside the root: a constant gradient has no variance, and its rounded value may be
negative."""

_HUGE = 1e9


def _update_values(size: int, states: Callable[[Array], dict[str, Array]], names: tuple[str, ...]) -> Any:
    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        g = rng.standard_normal(size, dtype)
        values = {"w": rng.standard_normal(size, dtype), "g": g, "lr": 0.0 if steady else _LR}
        if steady:
            return values | states(g)
        drawn = {name: 0.5 + np.square(rng.standard_normal(size, dtype)) for name in names}
        if "mean" in drawn:  # a mean whose square is not above the mean square
            drawn["mean"] *= 0.5 * drawn["mean"] / np.maximum(drawn["mean"] ** 2, drawn["v"])
        return values | drawn

    return make


@dataclass(frozen=True)
class _Update:
    """One optimizer in the libraries; `states` gives its fixed point for a constant gradient."""

    kernel: str
    states: Callable[[Array], dict[str, Array]]
    fastnn: Binder
    numpy: Callable[[SimpleNamespace], None]
    torch: tuple[str, dict[str, Any], dict[str, str]] | None = None
    """Class in `torch.optim`, its options, and which of its state stands for which of ours."""


def _numpy_sgd(v: SimpleNamespace) -> None:
    v.w -= v.lr * v.g


def _numpy_momentum(v: SimpleNamespace) -> None:
    v.u *= _MOMENTUM
    v.u += v.g
    v.w -= v.lr * v.u


def _numpy_adagrad(v: SimpleNamespace) -> None:
    v.g2 += v.g * v.g
    v.w -= v.lr * v.g / (np.sqrt(v.g2) + 1e-10)


def _numpy_rmsprop(v: SimpleNamespace) -> None:
    v.v *= _ALPHA
    v.v += (1.0 - _ALPHA) * v.g * v.g
    v.w -= v.lr * v.g / (np.sqrt(v.v) + _EPS)


def _numpy_rmsprop_full(v: SimpleNamespace) -> None:
    v.v *= _ALPHA
    v.v += (1.0 - _ALPHA) * v.g * v.g
    v.mean *= _ALPHA
    v.mean += (1.0 - _ALPHA) * v.g
    v.u *= _MOMENTUM
    v.u += v.g / np.sqrt(v.v - v.mean * v.mean + _INSIDE)
    v.w -= v.lr * v.u


def _numpy_adam(v: SimpleNamespace, decay: float = 0.0, largest: bool = False) -> None:
    v.m *= _B1
    v.m += (1.0 - _B1) * v.g
    v.v *= _B2
    v.v += (1.0 - _B2) * v.g * v.g
    second = np.maximum(v.vmax, v.v, out=v.vmax) if largest else v.v
    v.w *= 1.0 - v.lr * decay
    v.w -= v.lr / (1.0 - _B1**_STEP) * v.m / (np.sqrt(second) / math.sqrt(1.0 - _B2**_STEP) + _EPS)


_STEP = 100
_DECAY = 0.01
_ADAM = {"betas": (_B1, _B2), "eps": _EPS}

_UPDATES = {
    "sgd": _Update(
        "sgd_update", lambda g: {},
        lambda v: functools.partial(v.lib.sgd_update, v.w, None, v.g, v.lr),
        _numpy_sgd, ("SGD", {"fused": True}, {}),
    ),
    "sgd momentum": _Update(
        "sgd_update", lambda g: {"u": g / (1.0 - _MOMENTUM)},
        lambda v: functools.partial(v.lib.sgd_update, v.w, v.u, v.g, v.lr, _MOMENTUM, False, _STEP),
        _numpy_momentum, ("SGD", {"momentum": _MOMENTUM, "fused": True}, {"momentum_buffer": "u"}),
    ),
    "adagrad": _Update(
        "adagrad_update", lambda g: {"g2": np.full_like(g, _HUGE)},
        lambda v: functools.partial(v.lib.adagrad_update, v.w, v.g2, v.g, v.lr, 1e-10),
        _numpy_adagrad, ("Adagrad", {"eps": 1e-10, "fused": True}, {"sum": "g2"}),
    ),
    "rmsprop": _Update(
        "rmsprop_update", lambda g: {"v": g * g},
        lambda v: functools.partial(v.lib.rmsprop_update, v.w, v.v, None, None, v.g, v.lr, _ALPHA, _EPS),
        _numpy_rmsprop, ("RMSprop", {"alpha": _ALPHA, "eps": _EPS}, {"square_avg": "v"}),
    ),
    "rmsprop momentum centred": _Update(
        "rmsprop_update",
        lambda g: {"v": g * g, "u": g / (1.0 - _MOMENTUM), "mean": g.copy()},
        lambda v: functools.partial(
            v.lib.rmsprop_update, v.w, v.v, v.u, v.mean, v.g, v.lr, _ALPHA, _INSIDE, _MOMENTUM, True, True
        ),
        _numpy_rmsprop_full,
    ),
    "adam": _Update(
        "adam_update", lambda g: {"m": g.copy(), "v": g * g},
        lambda v: functools.partial(v.lib.adam_update, v.w, v.m, v.v, v.g, v.lr, _B1, _B2, _EPS, _STEP),
        _numpy_adam, ("Adam", {**_ADAM, "fused": True}, {"exp_avg": "m", "exp_avg_sq": "v"}),
    ),
    "adamw": _Update(
        "adamw_update", lambda g: {"m": g.copy(), "v": g * g},
        lambda v: functools.partial(
            v.lib.adamw_update, v.w, v.m, v.v, v.g, v.lr, _B1, _B2, _EPS, _STEP, _DECAY
        ),
        functools.partial(_numpy_adam, decay=_DECAY),
        ("AdamW", {**_ADAM, "weight_decay": _DECAY, "fused": True}, {"exp_avg": "m", "exp_avg_sq": "v"}),
    ),
    "amsgrad": _Update(
        "amsgrad_update", lambda g: {"m": g.copy(), "v": g * g, "vmax": g * g},
        lambda v: functools.partial(
            v.lib.amsgrad_update, v.w, v.m, v.v, v.vmax, v.g, v.lr, _B1, _B2, _EPS, _STEP
        ),
        functools.partial(_numpy_adam, largest=True),
        (
            "Adam", {**_ADAM, "amsgrad": True, "fused": True},
            {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "vmax"},
        ),
    ),
}  # fmt: skip


def _torch_update(update: _Update) -> Binder:
    """Bind `torch.optim`'s own step, its state laid over the case's arrays, at the step number of the others."""
    assert update.torch is not None
    name, options, places = update.torch

    def binder(v: SimpleNamespace) -> Callable[[], Any]:
        parameter = v.lib.nn.Parameter(v.w)
        parameter.grad = v.g
        optimizer = getattr(v.lib.optim, name)([parameter], lr=v.lr, **options)
        if name == "Adagrad":
            optimizer.state[parameter]["sum"] = v.g2
        elif places:
            count = v.lib.tensor(float(_STEP - 1))
            optimizer.state[parameter] = {"step": count} | {key: getattr(v, own) for key, own in places.items()}
        return optimizer.step

    return binder


def update_case(name: str, size: int) -> Case:
    """Return the case of one optimizer on a flat vector of `size` parameters."""
    update = _UPDATES[name]
    states = tuple(update.states(np.ones(1)))
    binders: dict[str, Binder] = {
        "fastnn": update.fastnn,
        "numpy": lambda v: functools.partial(update.numpy, v),
    }
    if update.torch is not None:
        binders["torch"] = _torch_update(update)
    return Case(
        "update", update.kernel, f"{name} {size}", _update_values(size, update.states, states), binders,
        ("w", *states), moved=(3 + 2 * len(states)) * size,
    )  # fmt: skip


UPDATE_NAMES = tuple(_UPDATES)


def optimizer_of(name: str) -> str:
    """Return the optimizer whose step the case of that name is; empty where it is another kernel's."""
    optimizer = name.rpartition(" ")[0]
    return optimizer if optimizer in _UPDATES else ""


def streams(name: str) -> int:
    """Return how many vectors an optimizer's step reads and writes; it reads the gradient besides."""
    return 1 + len(_UPDATES[name].states(np.ones(1)))


def _on_vector(kernel: str, size: int) -> Case:
    """The passes over one vector; limits and amounts are such that a second call changes nothing."""

    def make(rng: np.random.Generator, dtype: np.dtype, steady: bool) -> dict[str, Any]:
        return {"w": rng.standard_normal(size, dtype), "amount": 0.0 if steady else 0.5}

    def torch_penalty(v: SimpleNamespace) -> float:
        return (1e-3 * v.w.abs().sum() + 0.5e-3 * v.w.square().sum()).item()

    binders: dict[str, dict[str, Binder]] = {
        "penalty": {
            "fastnn": lambda v: functools.partial(v.lib.penalty, v.w, 1e-3, 1e-3),
            "numpy": lambda v: lambda: float(1e-3 * np.abs(v.w).sum() + 0.5e-3 * np.square(v.w).sum()),
            "torch": lambda v: functools.partial(torch_penalty, v),
        },
        "global_norm": {
            "fastnn": lambda v: functools.partial(v.lib.global_norm, v.w),
            "numpy": lambda v: lambda: float(np.linalg.norm(v.w)),
            "torch": lambda v: lambda: v.lib.linalg.vector_norm(v.w).item(),
        },
        "clip_by_norm": {  # a limit that is not reached: a clipped gradient would be another one at the next call
            "fastnn": lambda v: functools.partial(v.lib.clip_by_norm, v.w, 1e9),
        },
        "clip_by_value": {
            "fastnn": lambda v: functools.partial(v.lib.clip_by_value, v.w, 1.0),
            "numpy": lambda v: functools.partial(np.clip, v.w, -1.0, 1.0, out=v.w),
            "torch": lambda v: functools.partial(v.w.clamp_, -1.0, 1.0),
        },
        "soft_threshold": {
            "fastnn": lambda v: functools.partial(v.lib.soft_threshold, v.w, v.amount),
            "numpy": lambda v: lambda: np.copyto(v.w, np.sign(v.w) * np.maximum(np.abs(v.w) - v.amount, 0.0)),
            "torch": lambda v: functools.partial(v.lib.ops.aten.softshrink.out, v.w, v.amount, out=v.w),
        },
    }
    number = kernel in ("penalty", "global_norm", "clip_by_norm")
    outputs, passes = (("result",), 1) if number else (("w",), 2)
    return Case("update", kernel, f"{kernel} {size}", make, binders[kernel], outputs, moved=passes * size)


_IN_CACHE = 1 << 15
"""Elements of an element-wise case: input and output stay in the second cache."""

_LARGE = 1 << 20


def _cases() -> Iterable[Case]:
    for size in (64, 256, 1024):
        yield _matmul(size, size, size)
    # The three products of a layer of 784 inputs and 256 units, batch 128; then awkward ones.
    yield _matmul(128, 256, 784)
    yield _matmul(784, 256, 128, "A")
    yield _matmul(128, 784, 256, "B")
    yield _matmul(127, 129, 131)
    yield _matmul(1, 128, 784)
    for shape in ((32, 32, 32), (128, 784, 256), (512, 256, 7)):
        yield _dense_forward(*shape)
        yield _dense_backward(*shape)
    for name in ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "silu"):
        yield _activation_forward(name, _IN_CACHE)
    for name in ("relu", "sigmoid", "tanh", "gelu", "silu"):
        yield _activation_backward(name, _IN_CACHE)
    yield _softmax(1024, 10)
    yield _softmax(128, 256)
    yield _statistics(512, 256)
    for kernel in ("dropout_forward", "dropout_backward", "dropout_mask"):
        yield _dropout(kernel, _LARGE)
    for kernel in ("squared_error", "absolute_error", "huber", "binary_cross_entropy", "poisson"):
        yield _value_loss(kernel, 512, 64)
    yield _cross_entropy(512, 10, soft=False)
    yield _cross_entropy(512, 10, soft=True)
    yield _philox(_LARGE)
    yield _shuffle(60_000)
    for name in _UPDATES:
        yield update_case(name, 1_000_000)
    yield update_case("adam", 10_000)
    for kernel in ("penalty", "global_norm", "clip_by_norm", "clip_by_value", "soft_threshold"):
        yield _on_vector(kernel, _LARGE)


CASES: tuple[Case, ...] = tuple(_cases())
_BY_NAME = {case.name: case for case in CASES}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(case.group for case in CASES))


# Training.


@dataclass(frozen=True)
class Workload:
    """One network to train, with its data.

    `sizes` are the inputs, the hidden layers and the outputs; `epochs` is how long one timed run lasts. The
    penalty is l2/2 sum W^2, on weights alone; dropout follows every hidden layer.
    """

    name: str
    rows: int
    sizes: tuple[int, ...]
    batch: int
    activation: str
    optimizer: str
    lr: float
    epochs: int = 1
    loss: str = "cross_entropy"
    dropout: float = 0.0
    l2: float = 0.0
    momentum: float = 0.0
    data: str = "clusters"

    @property
    def full_batch(self) -> bool:
        """Whether a step takes all rows; nothing is shuffled then."""
        return self.batch >= self.rows

    @property
    def steps(self) -> int:
        """Steps of one epoch; the last batch may be short."""
        return -(-self.rows // self.batch)

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(a * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def nominal_flops(self) -> int:
        """Operations of one epoch as FINDINGS counts them: 6 x rows x weights."""
        return 6 * self.rows * self.weights

    @property
    def executed_flops(self) -> int:
        """Operations of one epoch without the product toward the network's input, which nobody computes."""
        return self.nominal_flops - 2 * self.rows * self.sizes[0] * self.sizes[1]

    def describe(self) -> str:
        """Return the workload in one line."""
        parts = [f"{self.rows} rows", "-".join(str(size) for size in _shortened(self.sizes))]
        parts += ["full batch" if self.full_batch else f"batch {self.batch}", self.activation]
        parts += [f"dropout {self.dropout}"] if self.dropout else []
        parts += [f"L2 {self.l2:g}"] if self.l2 else []
        parts += [f"{self.optimizer} lr {self.lr:g}" + (f" momentum {self.momentum}" if self.momentum else "")]
        return ", ".join(parts)


def _shortened(sizes: tuple[int, ...]) -> list[Any]:
    """Write runs of equal hidden layers as 16x64."""
    result: list[Any] = []
    for size in sizes:
        if result and result[-1][0] == size:
            result[-1][1] += 1
        else:
            result.append([size, 1])
    return [f"{count}x{size}" if count > 2 else "-".join([str(size)] * count) for size, count in result]


_WORKLOADS = (
    Workload("tiny", 20_000, (8, 32, 32, 1), 32, "tanh", "adam", 1e-3, 4, "squared_error", data="waves"),
    Workload("mnist", 60_000, (784, 128, 64, 10), 128, "relu", "adam", 1e-3),
    Workload("mnist_do", 60_000, (784, 256, 128, 10), 128, "relu", "adam", 1e-3, dropout=0.2, l2=1e-4),
    Workload("tabular", 100_000, (54, 256, 256, 7), 512, "relu", "adam", 1e-3),
    Workload("wide", 16_384, (784, 1024, 1024, 10), 256, "relu", "rmsprop", 2e-4),
    Workload("deep", 20_000, (64,) * 18 + (10,), 64, "relu", "adam", 1e-3, 4),
    # SimpleChains.jl's own benchmark: the exponential of a 2 x 2 matrix, all 10,000 rows a step.
    Workload("simplechains", 10_000, (4, 32, 16, 4), 10_000, "tanh", "adam", 1e-2, 200, "squared_error", data="expm"),
    # OpenNN's approximation benchmark.
    Workload("opennn", 20_000, (28, 300, 300, 300, 300, 300, 1), 100, "tanh", "sgd", 1e-2, 1, "squared_error",
             momentum=0.9, data="waves"),
)  # fmt: skip
"""The six of FINDINGS and the published shapes; the third of those, MNIST with dropout and L2, is `mnist_do`."""

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _WORKLOADS}

_FOR_A_GPU = (
    # As much as one block of a card has room for, where it may have more than 48 KB.
    Workload("small", 20_000, (8, 64, 64, 4), 32, "relu", "adam", 1e-3, 4),
    # As tiny-cuda-nn's published networks, with biases: 64 wide, 4 hidden layers, 2^18 rows a batch.
    Workload("mlp64", 1 << 19, (64, 64, 64, 64, 64, 10), 1 << 18, "relu", "adam", 1e-3, 4),
    Workload("wide4096", 16_384, (784, 4096, 4096, 10), 1024, "relu", "rmsprop", 1e-4),
)
ALL_WORKLOADS = WORKLOADS | {workload.name: workload for workload in _FOR_A_GPU}
"""With those that say something about a GPU only."""


@functools.lru_cache(maxsize=1)
def training_data(name: str, rows: int | None = None) -> tuple[Array, Array]:
    """Return (x float32, y) of a workload: int64 labels, or float32 values of shape (rows, outputs).

    "clusters" are Gaussian clouds, three a class, 6 standard deviations apart, with 5% of the labels drawn at
    random: a loss then has a floor that the network comes near to, and stops there in every library alike.
    "waves" is a smooth function of three projections with noise half as wide; "expm" the exponential of 2 x 2 matrices.
    """
    workload = ALL_WORKLOADS[name]
    rows = workload.rows if rows is None else min(rows, workload.rows)
    inputs, outputs = workload.sizes[0], workload.sizes[-1]
    rng = np.random.default_rng(20240229)
    if workload.data == "clusters":
        centres = rng.standard_normal((3 * outputs, inputs), np.float32) * np.float32(6.0 / math.sqrt(2 * inputs))
        which = rng.integers(0, 3 * outputs, rows)
        x = rng.standard_normal((rows, inputs), np.float32)
        x += centres[which]
        y = which % outputs
        noisy = rng.random(rows) < 0.05
        y[noisy] = rng.integers(0, outputs, int(noisy.sum()))
        return x, y
    if workload.data == "waves":
        x = rng.standard_normal((rows, inputs), np.float32)
        u = x @ (rng.standard_normal((inputs, 3)) / math.sqrt(inputs)).astype(np.float32)
        y = np.sin(1.5 * u[:, :1]) + np.tanh(2.0 * u[:, 1:2] - u[:, 2:3])
        return x, (y + 0.5 * rng.standard_normal((rows, 1))).astype(np.float32)
    matrices = rng.standard_normal((rows, 2, 2)) * 0.7
    result, term = np.eye(2) + matrices, matrices
    for order in range(2, 20):
        term = term @ matrices / order
        result = result + term
    return matrices.reshape(rows, 4).astype(np.float32), result.reshape(rows, 4).astype(np.float32)


def first_weights(workload: Workload, seed: int) -> list[Array]:
    """Return [W0, b0, W1, b1, ...] as every library starts from: He's or Glorot's uniform, biases 0."""
    rng = np.random.default_rng(seed)
    weights = []
    pairs = list(zip(workload.sizes[:-1], workload.sizes[1:], strict=True))
    for number, (fan_in, fan_out) in enumerate(pairs):
        he = workload.activation == "relu" and number < len(pairs) - 1
        limit = math.sqrt(6.0 / (fan_in if he else fan_in + fan_out))
        weights += [rng.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32), np.zeros(fan_out, np.float32)]
    return weights


def fastnn_model(workload: Workload, seed: int = 0, n_threads: int | None = None, **machine: str) -> Any:
    """Return the workload's network in fastnn, built, with `first_weights`; `machine`: where, as to `Sequential`."""
    import fastnn

    layers: list[Any] = []
    for units in workload.sizes[1:-1]:
        layers.append(fastnn.Dense(units, activation=workload.activation))
        if workload.dropout:
            layers.append(fastnn.Dropout(workload.dropout))
    layers.append(fastnn.Dense(workload.sizes[-1]))
    optimizers = {
        "adam": lambda: fastnn.Adam(workload.lr),
        "rmsprop": lambda: fastnn.RMSprop(workload.lr),
        "sgd": lambda: fastnn.SGD(workload.lr, momentum=workload.momentum),
    }
    model = fastnn.Sequential(
        layers, loss=workload.loss, optimizer=optimizers[workload.optimizer](), seed=seed, l2=workload.l2,
        input_size=workload.sizes[0], n_threads=n_threads, **machine,
    )  # fmt: skip
    model.set_weights(first_weights(workload, seed))
    return model


def fit(model: Any, workload: Workload, x: Array, y: Array, epochs: int) -> Any:
    """Train a fastnn model as the workload says; returns its history."""
    return model.fit(
        x, y, epochs=epochs, batch_size=workload.batch, shuffle=not workload.full_batch, verbose=False
    )  # fmt: skip


def outputs_of(workload: Workload, weights: list[Array], x: Array) -> Array:
    """Return the network's outputs by NumPy in float64: the same judge for every library."""
    a = x.astype(np.float64)
    for number in range(0, len(weights), 2):
        a = a @ weights[number].astype(np.float64) + weights[number + 1]
        if number < len(weights) - 2:
            a = np.maximum(a, 0.0) if workload.activation == "relu" else np.tanh(a)
    return a


def judge(workload: Workload, weights: list[Array], x: Array, y: Array) -> dict[str, float]:
    """Return the loss, without penalty and dropout, and for classes the accuracy, of trained weights."""
    out = outputs_of(workload, weights, x)
    if workload.loss == "squared_error":
        return {"loss": float(np.mean(np.square(out - y)))}
    top = out.max(axis=1, keepdims=True)
    logs = out - top - np.log(np.exp(out - top).sum(axis=1, keepdims=True))
    return {
        "loss": -float(logs[np.arange(len(y)), y].mean()),
        "accuracy": float((out.argmax(axis=1) == y).mean()),
    }
