"""Kernels and whole models on arrays that end, or begin, at a page that nobody may touch.

``python tests/guarded.py FIRST COUNT`` makes draws FIRST .. FIRST + COUNT - 1 and prints one line before each, so that
the last line tells the draw of a crash. One element too far is a segmentation fault; a write into an input is one
too, since its pages are read-only. What comes out must have the bits of the same call on plain arrays. A draw is a
function of its number alone.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import sys
import warnings
from typing import Any

import numba
import numpy as np

import fastnn
from fastnn import arrays, kernels, network, prediction, runtime
from fastnn.kernels import _chunks, _context, _team, dense, dropout, gemm, loss, statistics, update

PAGE = mmap.PAGESIZE
NOTHING, READ = 0, 1  # PROT_NONE, PROT_READ
_libc = ctypes.CDLL(None, use_errno=True)


def _protect(address, size, what):
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), what):
        raise OSError(ctypes.get_errno(), "mprotect")


class Pages:
    """Makes arrays with a forbidden page on either side; each touches the one behind it, or the one before."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        dtype = np.dtype(dtype)
        shape = tuple(shape) if np.ndim(shape) else (int(shape),)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        room = max(1, -(-size // PAGE)) * PAGE
        pages = mmap.mmap(-1, room + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        _protect(start, PAGE, NOTHING)
        _protect(start + PAGE + room, PAGE, NOTHING)
        array: np.ndarray = np.ndarray(shape, dtype, pages, PAGE + room - size if self.at_end else PAGE)
        return array

    def copy(self, values: np.ndarray) -> np.ndarray:
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def input(self, values: np.ndarray) -> np.ndarray:
        """A copy on pages that can only be read."""
        array = self.copy(values)
        start = array.ctypes.data // PAGE * PAGE
        _protect(start, max(1, -(-(array.ctypes.data + array.nbytes - start) // PAGE)) * PAGE, READ)
        return array


class GuardedNumpy:
    """Stands for NumPy in a module: what the module allocates has forbidden neighbours."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape, dtype=float):
        return self._pages.empty(shape, dtype)

    def zeros(self, shape, dtype=float):
        return self._pages.empty(shape, dtype)  # new pages are zeros

    def ones(self, shape, dtype=float):
        return self._pages.copy(np.ones(shape, dtype))

    def empty_like(self, array):
        return self._pages.empty(array.shape, array.dtype)


ALLOCATING = (
    *(_context, _team, dense, dropout, gemm, loss, statistics, update),
    *(arrays, fastnn.model, network, prediction, runtime),
)


class Guarded:
    """Meanwhile what these modules allocate is guarded."""

    def __init__(self, pages: Pages) -> None:
        self._numpy, self._pages = GuardedNumpy(pages), pages

    def __enter__(self):
        self._before = runtime.aligned_empty
        runtime.aligned_empty = self._pages.empty
        for module in ALLOCATING:
            module.np = self._numpy

    def __exit__(self, *exception):
        runtime.aligned_empty = self._before
        for module in ALLOCATING:
            module.np = np


# -------------------------------------------------------------------------------------------- draws

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 129)
DEEP = (255, 257, 319, 320, 321, 385, 641, 1023, 1024, 1025, 2049)
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "silu")


class Draw:
    """The choices of one draw, and what they were."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng([number, 20])
        self.number, self.said = number, []

    def pick(self, options, name=None):
        choice = options[int(self.rng.integers(len(options)))]
        if name:
            self.said.append(f"{name}={choice!r}")
        return choice

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def size(self, name: str, deep: bool = True, zero: bool = True) -> int:
        kind = self.rng.random()
        n = (
            self.pick(DEEP)
            if deep and kind < 0.12
            else int(self.rng.integers(1, 70))
            if kind < 0.5
            else self.pick(SIZES)
        )
        n = 0 if zero and kind > 0.98 else n
        self.said.append(f"{name}={n}")
        return n

    def normal(self, *shape, dtype="float64"):
        return self.rng.normal(size=shape).astype(dtype)

    def say(self, what: str) -> None:
        os.write(1, f"draw {self.number}: {what} {' '.join(self.said)}\n".encode())


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same bits; any NaN equals any other."""
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _array_kernels():
    """Every public kernel by name: a function of (draw, dtype) that gives (outputs, inputs, other arguments)."""

    def shape_of(draw):
        shape = (draw.size("rows"), draw.size("columns"))
        return (int(np.prod(shape)) * draw.pick((1, 1, 9)),) if draw.chance(0.3) else shape

    def forward(draw, dtype):
        shape, name = shape_of(draw), draw.pick(ACTIVATIONS, "activation")
        return {"a": np.zeros(shape, dtype)}, {"z": draw.normal(*shape, dtype=dtype)}, {"activation": name}

    def backward(draw, dtype):
        shape, name = shape_of(draw), draw.pick(ACTIVATIONS, "activation")
        inputs = {key: draw.normal(*shape, dtype=dtype) for key in ("da", "z", "a")}
        return {"dz": np.zeros(shape, dtype)}, inputs, {"activation": name}

    def softmax(draw, dtype):
        shape = draw.size("rows"), draw.size("columns")
        return {"p": np.zeros(shape, dtype)}, {"z": draw.normal(*shape, dtype=dtype)}, {}

    def statistics_of(draw, dtype):
        shape = draw.size("rows", zero=False), draw.size("columns", zero=False)
        inputs = {key: draw.normal(*shape, dtype=dtype) for key in ("a", "z")}
        return {"stats": np.zeros(4)}, inputs, {"activation": draw.pick(ACTIVATIONS, "activation")}

    def product(draw, dtype):
        m, n, k = draw.size("m"), draw.size("n"), draw.size("k")
        ta, tb = draw.pick((False, True), "transpose_a"), draw.pick((False, True), "transpose_b")
        inputs = {
            "a": draw.normal(*((k, m) if ta else (m, k)), dtype=dtype),
            "b": draw.normal(*((n, k) if tb else (k, n)), dtype=dtype),
        }
        return {"c": np.zeros((m, n), dtype)}, inputs, {"transpose_a": ta, "transpose_b": tb}

    def dense_forward(draw, dtype):
        rows, k, n = draw.size("rows"), draw.size("inputs"), draw.size("units")
        inputs = {"x": draw.normal(rows, k, dtype=dtype), "w": draw.normal(k, n, dtype=dtype)}
        others = {"activation": draw.pick(ACTIVATIONS, "activation")}
        bias = draw.pick((True, False), "bias")
        (inputs if bias else others)["b"] = draw.normal(n, dtype=dtype) if bias else None
        return {"a": np.zeros((rows, n), dtype), "z": np.zeros((rows, n), dtype)}, inputs, others

    def dense_backward(draw, dtype):
        rows, k, n = draw.size("rows"), draw.size("inputs"), draw.size("units")
        inputs = {"dz": draw.normal(rows, n, dtype=dtype), "x": draw.normal(rows, k, dtype=dtype)}
        inputs["w"] = draw.normal(k, n, dtype=dtype)
        outputs, others = {"dw": np.zeros((k, n), dtype)}, {}
        for name, shape in (("dx", (rows, k)), ("db", (n,))):
            if draw.pick((True, False), name):
                outputs[name] = np.zeros(shape, dtype)
            else:
                others[name] = None
        return outputs, inputs, others

    def masked(output, source):
        def make(draw, dtype):
            shape = shape_of(draw)
            numbers = {"rate": draw.pick((0.0, 0.1, 0.5, 0.99), "rate"), "seed": 2**64 - 1, "step": 3, "layer": 1}
            inputs = {source: draw.normal(*shape, dtype=dtype)} if source else {}
            return {output: np.zeros(shape, dtype)}, inputs, numbers

        return make

    def loss_of(name):
        def make(draw, dtype):
            rows, n = draw.size("rows"), draw.size("outputs")
            z = "z" if name in ("cross_entropy", "binary_cross_entropy", "poisson") else "y"
            inputs = {z: draw.normal(rows, n, dtype=dtype), "t": draw.rng.random((rows, n)).astype(dtype)}
            if name == "cross_entropy" and n and draw.pick((True, False), "labels"):
                inputs["t"] = draw.rng.integers(0, n, rows)
            if draw.pick((True, False), "weights"):
                inputs["w"] = draw.rng.random(rows).astype(dtype)
            return {f"d{z}": np.zeros((rows, n), dtype)}, inputs, {}

        return make

    def update_of(name, states, optional=(), **numbers):
        def make(draw, dtype):
            shape = shape_of(draw)
            kept = [*states, *(state for state in optional if draw.pick((True, False), state))]
            outputs = {"param": draw.normal(*shape, dtype=dtype)}
            outputs |= {state: np.abs(draw.normal(*shape, dtype=dtype)) for state in kept}
            others: dict[str, Any] = dict.fromkeys(set(optional) - set(kept))
            others |= {"lr": 0.1, "l1": 0.01, "l2": 0.1, "clip_value": 0.9, **numbers}
            others["truncate"] = draw.pick((0.0, 0.01), "truncate")
            if "velocity" in kept:
                others["momentum"] = 0.9
            if "mean" in kept:
                others["centered"] = True
            return outputs, {"grad": draw.normal(*shape, dtype=dtype)}, others

        return make

    def in_place(name, **numbers):
        def make(draw, dtype):
            return {name: draw.normal(*shape_of(draw), dtype=dtype)}, {}, numbers

        return make

    def reading(name, **numbers):
        def make(draw, dtype):
            return {}, {name: draw.normal(*shape_of(draw), dtype=dtype)}, numbers

        return make

    def words(name, dtype_of, **numbers):
        def make(draw, dtype):
            return {name: np.zeros(draw.size("size"), dtype_of)}, {}, {"seed": 7, **numbers}

        return make

    adam = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "step": 3}
    return {
        "activation_forward": forward,
        "activation_backward": backward,
        "softmax_forward": softmax,
        "activation_statistics": statistics_of,
        "matmul": product,
        "dense_forward": dense_forward,
        "dense_backward": dense_backward,
        "dropout_forward": masked("y", "x"),
        "dropout_backward": masked("dx", "dy"),
        "dropout_mask": masked("mask", None),
        **{name: loss_of(name) for name in loss.CODES},
        "sgd_update": update_of("sgd_update", (), ("velocity",)),
        "adagrad_update": update_of("adagrad_update", ("g2",)),
        "rmsprop_update": update_of("rmsprop_update", ("v",), ("velocity", "mean")),
        "adam_update": update_of("adam_update", ("m", "v"), **adam),
        "adamw_update": update_of("adamw_update", ("m", "v"), **adam, weight_decay=0.1),
        "amsgrad_update": update_of("amsgrad_update", ("m", "v", "vmax"), **adam),
        "clip_by_norm": in_place("grad", limit=0.5),
        "clip_by_value": in_place("grad", limit=0.5),
        "soft_threshold": in_place("w", amount=0.3),
        "global_norm": reading("grad"),
        "penalty": reading("w", l1=0.1, l2=0.2),
        "philox_fill": words("out", np.uint32),
        "shuffle_indices": words("order", np.int64, epoch=2),
    }


KERNELS = _array_kernels()
# Products are most of what there is to get wrong.
KERNEL_NAMES = [*KERNELS, *["matmul", "dense_forward", "dense_backward"] * 6]


def draw_kernel(draw: Draw, pages: Pages) -> None:
    name = draw.pick(KERNEL_NAMES)
    dtype = draw.pick(("float32", "float64"), "dtype")
    outputs, inputs, others = KERNELS[name](draw, dtype)
    numba.set_num_threads(draw.pick((1, 2, numba.config.NUMBA_NUM_THREADS), "threads"))
    draw.say(name)
    kernel = getattr(kernels, name)
    plain = {key: value.copy() for key, value in outputs.items()}
    want = kernel(**plain, **inputs, **others)
    guarded = {key: pages.copy(value) for key, value in outputs.items()}
    protected = {key: pages.input(value) for key, value in inputs.items()}
    with Guarded(pages):
        got = kernel(**guarded, **protected, **others)
    assert got == want or (got != got and want != want), (got, want)
    for key, value in guarded.items():
        assert same(value, plain[key]), f"{key} is not what it is on plain arrays"


OPTIMIZERS = (
    lambda: fastnn.SGD(0.05),
    lambda: fastnn.SGD(0.05, momentum=0.9, nesterov=True, clip_norm=0.5),
    lambda: fastnn.AdaGrad(0.05),
    lambda: fastnn.RMSprop(0.01, momentum=0.5, centered=True, clip_value=0.5),
    lambda: fastnn.Adam(0.01, amsgrad=True),
    lambda: fastnn.AdamW(0.01, weight_decay=0.1),
)


def draw_model(draw: Draw, pages: Pages) -> None:
    dtype = draw.pick(("float32", "float64"), "dtype")
    rows, inputs, outputs = (draw.size(name, deep=False, zero=False) for name in ("rows", "inputs", "outputs"))
    which = draw.pick(
        ("cross_entropy", "soft", "squared_error", "huber", "absolute_error", "binary_cross_entropy"), "loss"
    )
    layers: list[Any] = []
    as_bytes = draw.pick((False, True), "bytes")
    if as_bytes or draw.chance(0.3):
        layers.append(fastnn.Rescale(1 / 255, -0.5))
    for _ in range(int(draw.rng.integers(0, 4))):
        kind = draw.rng.random()
        if kind < 0.7:
            layers.append(
                fastnn.Dense(
                    draw.size("units", zero=False), draw.pick(ACTIVATIONS), use_bias=draw.chance(0.8),
                    l1=draw.pick((0.0, 0.01)), l2=draw.pick((0.0, 0.1)),
                )
            )  # fmt: skip
        elif kind < 0.85:
            layers.append(fastnn.Dropout(draw.pick((0.1, 0.5))))
        else:
            layers.append(fastnn.Activation(draw.pick(ACTIVATIONS)))
    layers.append(fastnn.Dense(outputs))
    optimizer = draw.pick(OPTIMIZERS)
    batch = draw.pick((1, 2, 7, 16, 33, 200), "batch")
    threads = draw.pick((1, 2, None), "threads")
    mode = draw.pick(("gradient", "truncate"))
    draw.said.append(repr(layers))
    draw.say("model")
    x = (
        draw.rng.integers(0, 256, (rows, inputs)).astype(np.uint8)
        if as_bytes
        else draw.normal(rows, inputs, dtype=dtype)
    )
    y = draw.rng.random((rows, outputs)).astype(dtype)
    if which == "soft":
        y /= y.sum(axis=1, keepdims=True)
    elif which == "cross_entropy":
        y = draw.rng.integers(0, outputs, rows)
    weights = draw.rng.random(rows) if draw.chance(0.4) else None
    name = "cross_entropy" if which == "soft" else which

    def use(protect: Any) -> list[Any]:
        model = fastnn.Sequential(
            layers, name, optimizer(), l1_mode=mode, seed=draw.number, dtype=dtype, n_threads=threads
        )
        given = [None if value is None else protect(value) for value in (x, y, weights)]
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        results: list[Any] = []
        try:
            model.fit(given[0], given[1], epochs=2, batch_size=batch, sample_weight=given[2], verbose=False)
        except fastnn.TrainingDiverged as error:
            results.append(str(error))
        results += model.get_weights()
        results.append(model.evaluate(given[0], given[1])["loss"])
        results += [model.predict(given[0]), model.predict(given[0][:1]), model.predict(given[0][: min(rows, 5)])]
        results.append(model.train_on_batch(given[0], given[1], sample_weight=given[2]))
        value, gradients = model.gradients(given[0], given[1])
        dx, more = model.backward(given[0], protect(np.ones((rows, outputs), dtype)))
        results += [value, *gradients, dx, *more, model.penalty(), *model.layer_outputs(given[0])]
        if "cross_entropy" in name:
            results.append(model.predict_proba(given[0]))
        return results

    want = use(lambda value: value)
    with Guarded(pages):
        got = use(pages.input)
    assert len(got) == len(want)
    for position, (one, other) in enumerate(zip(got, want, strict=True)):
        if isinstance(one, (dict, str)):
            assert one == other, (position, one, other)
        else:
            assert same(one, other), f"result {position} is not what it is on plain arrays"


def make_draws(first: int, count: int) -> None:
    """Make some draws: four of five a kernel, the fifth a whole model."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    fastnn.warmup()  # nothing is compiled while NumPy is not itself
    _chunks.HELPED_CHUNKS, gemm.FORK_FLOPS = 1, 1000
    network._aligned = lambda size: size  # no room between one array and the next
    for number in range(first, first + count):
        draw = Draw(number)
        pages = Pages(at_end=draw.pick((True, True, False), "at_end"))
        if number % 5 == 4:
            draw_model(draw, pages)
        else:
            draw_kernel(draw, pages)
    os.write(1, f"done {count} draws\n".encode())


if __name__ == "__main__":
    make_draws(int(sys.argv[1]), int(sys.argv[2]))
