"""One class a library: the same training, products, updates and functions, written as its users would.

Every library runs in a process of its own (`Worker`), so that none sees the threads, the allocator or the
OpenMP runtime of another; only one of them works at a time. Each is given what is best for it and usual: fused
optimizers in PyTorch, the whole epoch in one `lax.scan` in JAX, the shuffle by NumPy, donated buffers.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import math
import multiprocessing
import os
import sys
import time
import traceback
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from benchmarks import cases
from benchmarks.cases import ALL_WORKLOADS, Workload, aligned

Array = np.ndarray
Shape = tuple[int, int, int]

SAMPLE_SECONDS = 0.02
SMALL_FLOPS = 1_000_000
"""Products below this are timed inside a compiled loop: a call from Python would measure the way there."""

FUNCTIONS = ("tanh", "sigmoid", "gelu", "silu", "softplus", "softmax")
FUNCTION_ROWS, FUNCTION_COLUMNS = 64, 256
"""Block that a transcendental works on, 64 KB in and as many out: softmax takes its rows, the others all at once."""


class Unsupported(Exception):
    """The library cannot do this; the message says why."""


class Peer:
    """A library, in the worker's process. A subclass does what it can, the rest raises `Unsupported`.

    Parameters
    ----------
    threads : int
        How many it may use.
    """

    package: ClassVar[str]

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._calls: dict[Any, tuple[Callable[[], Any], int]] = {}

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def load(self, name: str, rows: int, epochs: int) -> float:
        """Take the data of a workload and train once, to compile; returns the seconds that took."""
        self.workload = ALL_WORKLOADS[name]
        self.x, self.y = cases.training_data(name, rows)
        start = time.perf_counter()
        self.prepare()
        self.restart(cases.first_weights(self.workload, 0), 0)
        self.epochs(epochs if self.workload.full_batch else 1)
        return time.perf_counter() - start

    def train(self, start_seed: int, seed: int, epochs: int) -> tuple[float, list[Array]]:
        """Train from the weights that belong to `start_seed`, with shuffles and masks that belong to `seed`.

        Returns seconds and the weights [W0, b0, ...] reached.
        """
        self.restart(cases.first_weights(self.workload, start_seed), seed)
        gc.collect()
        start = time.perf_counter()
        measured = self.epochs(epochs)
        seconds = time.perf_counter() - start if measured is None else measured
        return seconds, [np.array(weight) for weight in self.weights()]

    def prepare(self) -> None:
        """Get ready for `self.workload` on `self.x` and `self.y`."""
        raise Unsupported("no training")

    def restart(self, weights: list[Array], seed: int) -> None:
        """Begin anew from these weights, with a fresh optimizer."""
        raise NotImplementedError

    def epochs(self, count: int) -> float | None:
        """Train that many epochs and wait until they are over; returns seconds where all of it is not what counts."""
        raise NotImplementedError

    def weights(self) -> list[Array]:
        """Return the weights as NumPy arrays, W of shape (inputs, units)."""
        raise NotImplementedError

    # Small pieces: `*_call` returns what does the work once, or a loop of it with its length.

    def product(self, shape: Shape, kind: str, dtype: str) -> float:
        """Return seconds of one product of a dense layer with B rows, K inputs, N units: forward, dX or dW."""
        return self._time(("product", shape, kind, dtype), lambda: self.product_call(shape, kind, dtype))

    def update(self, name: str, size: int) -> float:
        """Return seconds of one optimizer step on a flat float32 vector."""
        return self._time(("update", name, size), lambda: self.update_call(name, size))

    def function(self, name: str) -> float:
        """Return seconds of one pass of a transcendental over a block in cache, float32."""
        return self._time(("function", name), lambda: self.function_call(name))

    def forget(self) -> None:
        """Give the memory of earlier measurements back."""
        self._calls.clear()
        gc.collect()

    def product_call(self, shape: Shape, kind: str, dtype: str) -> tuple[Callable[[], Any], int]:
        raise Unsupported("no products")

    def update_call(self, name: str, size: int) -> tuple[Callable[[], Any], int]:
        raise Unsupported("no fused update")

    def function_call(self, name: str) -> tuple[Callable[[], Any], int]:
        raise Unsupported("no functions")

    def _time(self, key: Any, make: Callable[[], tuple[Callable[[], Any], int]]) -> float:
        if key not in self._calls:
            call, inner = make()
            call()
            seconds = min(_seconds(call, 1) for _ in range(3))
            self._calls[key] = (functools.partial(_seconds, call, max(1, int(SAMPLE_SECONDS / seconds))), inner)
        timed, inner = self._calls[key]
        return timed() / inner


def _seconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def product_arrays(shape: Shape, kind: str, dtype: str) -> tuple[Array, Array, Array, bool, bool]:
    """Return (c, a, b, transpose a, transpose b) of one product of a layer with B rows, K inputs and N units."""
    rows, k, n = shape
    rng = np.random.default_rng(sum(shape))
    shapes = {"forward": ((rows, k), (k, n)), "dX": ((rows, n), (k, n)), "dW": ((rows, k), (rows, n))}[kind]
    out = {"forward": (rows, n), "dX": (rows, k), "dW": (k, n)}[kind]
    arrays = [aligned(out, dtype), *(aligned(each, dtype) for each in shapes)]
    for array in arrays[1:]:
        array[:] = rng.standard_normal(array.shape)
    return arrays[0], arrays[1], arrays[2], kind == "dW", kind == "dX"


def repetitions(shape: Shape) -> int:
    """Return how often a small product is repeated inside a compiled loop; 1 for one that is timed as it is."""
    flops = 2 * math.prod(shape)
    return 1 if flops >= SMALL_FLOPS else max(10, min(10_000, SMALL_FLOPS * 10 // flops))


def function_block() -> Array:
    """Return the block that transcendentals work on: (rows, columns), from a normal distribution of width 3."""
    block = aligned((FUNCTION_ROWS, FUNCTION_COLUMNS), np.float32)
    block[:] = 3.0 * np.random.default_rng(0).standard_normal(block.shape)
    return block


class FastNN(Peer):
    package = "fastnn"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import numba

        numba.set_num_threads(threads)

    def version(self) -> str:
        import numba

        import fastnn

        return f"{fastnn.__version__} (numba {numba.__version__})"

    def prepare(self) -> None:
        pass

    def restart(self, weights: list[Array], seed: int) -> None:
        self.model = cases.fastnn_model(self.workload, seed, 1 if self.threads == 1 else None)
        self.model.set_weights(weights)

    def epochs(self, count: int) -> float | None:
        cases.fit(self.model, self.workload, self.x, self.y, count)
        return None

    def weights(self) -> list[Array]:
        return list(self.model.get_weights())

    def product_call(self, shape: Shape, kind: str, dtype: str) -> tuple[Callable[[], Any], int]:
        from fastnn.kernels import gemm

        c, a, b, ta, tb = product_arrays(shape, kind, dtype)
        call = functools.partial(gemm.matmul, c, a, b, ta, tb)
        call()
        expected = (a.T if ta else a).astype(np.float64) @ (b.T if tb else b).astype(np.float64)
        inner = a.shape[0] if ta else a.shape[1]
        # A chain of `inner` multiply-adds, each rounded: a tenth of the bound where no error cancels another.
        bound = 0.1 * (inner + 10) * np.finfo(dtype).eps * float(np.abs(a).max() * np.abs(b).max())
        worst = float(np.abs(c - expected).max())
        if not worst < bound:
            raise ArithmeticError(f"matmul {kind} {shape} {dtype}: off by {worst:.2g}, expected at most {bound:.2g}")
        count = repetitions(shape)
        return (call, 1) if count == 1 else (_compiled_loop(call, count), count)

    def update_call(self, name: str, size: int) -> tuple[Callable[[], Any], int]:
        return cases.bind(cases.update_case(name, size), "fastnn", "float32")[0], 1

    def function_call(self, name: str) -> tuple[Callable[[], Any], int]:
        from fastnn.kernels import activation

        z = function_block()
        a = aligned(z.shape, z.dtype)
        softmax = functools.partial(activation.softmax_forward, a, z)
        call = softmax if name == "softmax" else functools.partial(activation.activation_forward, a, z, name)
        return _compiled_loop(call, 100), 100

    def plain(self, streams: int, size: int) -> float:
        """Return seconds of a plain loop over as many vectors as an update has."""
        from benchmarks.limits import plain_update

        return self._time(("plain", streams, size), lambda: (plain_update(streams, size), 1))

    def peak(self, dtype: str, threads: int) -> float:
        """Return GFLOP/s of register-only multiply-adds."""
        import numba

        from benchmarks.limits import fma_peak

        try:
            return fma_peak(dtype, threads)
        finally:
            numba.set_num_threads(self.threads)

    def function_error(self, name: str) -> float:
        """Return the largest error of a transcendental on the block, in units in the last place of float32."""
        from fastnn import kernels

        z = function_block()
        a = np.empty_like(z)
        if name == "softmax":
            kernels.softmax_forward(a, z)
        else:
            kernels.activation_forward(a, z, name)
        x = z.astype(np.float64)
        exact = {
            "tanh": lambda: np.tanh(x),
            "sigmoid": lambda: 1.0 / (1.0 + np.exp(-x)),
            "gelu": lambda: 0.5 * x * _erfc(-x / math.sqrt(2.0)),
            "silu": lambda: x / (1.0 + np.exp(-x)),
            "softplus": lambda: np.logaddexp(x, 0.0),
            "softmax": lambda: _softmax(x),
        }[name]()
        return float((np.abs(a - exact) / np.spacing(np.abs(exact).astype(np.float32))).max())


_erfc = np.vectorize(math.erfc, otypes=[float])


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _compiled_loop(call: Callable[[], Any], count: int) -> Callable[[], Any]:
    """Return a call that does what `call`, a public kernel, does, `count` times in compiled code.

    The public kernel checks its arguments and calls a compiled one; that call is taken down, and done in a loop with
    the same arguments on one thread.
    """
    import numba

    from fastnn.kernels import _chunks, gemm

    launched: list[Any] = []

    def take_down(before: Any, team: Any, job: Any, members: int, *arguments: Any) -> None:
        launched.append((before, (team, job, 1, *arguments)))

    with contextlib.ExitStack() as patches:
        for module, name in ((gemm, "_matmul"), (_chunks, "_lead")):
            replaced = functools.partial(take_down, getattr(module, name))
            patches.enter_context(unittest.mock.patch.object(module, name, replaced))
        call()
    ((kernel, arguments),) = launched

    @numba.njit(nogil=True)
    def loop(count, arguments):
        for _ in range(count):
            kernel(*arguments)

    return functools.partial(loop, count, arguments)


class NumPy(Peer):
    """NumPy and its BLAS; small products by the same BLAS interface inside compiled code, where SciPy is there."""

    package = "numpy"

    def product_call(self, shape: Shape, kind: str, dtype: str) -> tuple[Callable[[], Any], int]:
        c, a, b, ta, tb = product_arrays(shape, kind, dtype)
        left, right = (a.T if ta else a), (b.T if tb else b)
        count = repetitions(shape)
        if count == 1 or importlib.util.find_spec("scipy") is None:
            return functools.partial(np.matmul, left, right, out=c), 1
        import numba

        @numba.njit
        def loop(count, left, right, c):
            for _ in range(count):
                np.dot(left, right, c)

        return functools.partial(loop, count, left, right, c), count

    def function_call(self, name: str) -> tuple[Callable[[], Any], int]:
        if name == "gelu":
            raise Unsupported("NumPy has no error function")
        return _case_function("numpy", name), 1


def _case_function(library: str, name: str) -> Callable[[], Any]:
    case = (
        cases._softmax(FUNCTION_ROWS, FUNCTION_COLUMNS)
        if name == "softmax"
        else cases._activation_forward(name, FUNCTION_ROWS * FUNCTION_COLUMNS)
    )
    return cases.bind(case, library, "float32")[0]


class Torch(Peer):
    """PyTorch, eager, with its fused optimizers (RMSprop has none)."""

    package = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def prepare(self) -> None:
        torch, w = self.torch, self.workload
        layers: list[Any] = []
        pairs = list(zip(w.sizes[:-1], w.sizes[1:], strict=True))
        for number, (inputs, units) in enumerate(pairs):
            layers.append(torch.nn.Linear(inputs, units))
            if number < len(pairs) - 1:
                layers.append(torch.nn.ReLU() if w.activation == "relu" else torch.nn.Tanh())
                layers += [torch.nn.Dropout(w.dropout)] if w.dropout else []
        self.model = torch.nn.Sequential(*layers)
        loss = torch.nn.MSELoss() if w.loss == "squared_error" else torch.nn.CrossEntropyLoss()
        self.loss = self.wrap(lambda x, y: loss(self.model(x), y))
        self.tx, self.ty = torch.from_numpy(self.x), torch.from_numpy(self.y)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def restart(self, weights: list[Array], seed: int) -> None:
        torch, w = self.torch, self.workload
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter, weight in zip(self.model.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(weight.T.copy() if weight.ndim == 2 else weight))
        self.model.zero_grad(set_to_none=True)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": w.l2},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        make = {
            "adam": lambda: torch.optim.Adam(groups, lr=w.lr, fused=True),
            "sgd": lambda: torch.optim.SGD(groups, lr=w.lr, momentum=w.momentum, fused=True),
            "rmsprop": lambda: torch.optim.RMSprop(groups, lr=w.lr),
        }
        self.optimizer = make[w.optimizer]()

    def epochs(self, count: int) -> None:
        torch, x, y, batch = self.torch, self.tx, self.ty, self.workload.batch
        self.model.train()
        for _ in range(count):
            if self.workload.full_batch:
                self._step(x, y)
                continue
            order = torch.randperm(len(x))
            for start in range(0, len(x), batch):
                index = order[start : start + batch]
                self._step(x[index], y[index])

    def _step(self, x: Any, y: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, y).backward()
        self.optimizer.step()

    def weights(self) -> list[Array]:
        arrays = [parameter.detach().numpy() for parameter in self.model.parameters()]
        return [array.T if array.ndim == 2 else array for array in arrays]

    def product_call(self, shape: Shape, kind: str, dtype: str) -> tuple[Callable[[], Any], int]:
        torch = self.torch
        c, a, b, ta, tb = product_arrays(shape, kind, dtype)
        tc, left, right = (torch.from_numpy(array) for array in (c, a, b))
        left, right = (left.t() if ta else left), (right.t() if tb else right)
        return functools.partial(torch.mm, left, right, out=tc), 1

    def update_call(self, name: str, size: int) -> tuple[Callable[[], Any], int]:
        case = cases.update_case(name, size)
        if "torch" not in case.bind:
            raise Unsupported("its form differs")
        return cases.bind(case, "torch", "float32")[0], 1

    def function_call(self, name: str) -> tuple[Callable[[], Any], int]:
        return _case_function("torch", name), 1


class TorchCompiled(Torch):
    """PyTorch with forward and backward pass compiled by TorchInductor."""

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.torch._dynamo.reset()
        return self.torch.compile(function, dynamic=False)


class Jax(Peer):
    """JAX: one jitted call an epoch, steps in `lax.scan`, the short last batch behind it; shuffled by NumPy."""

    package = "jax"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import jax

        self.jax = jax
        jax.config.update("jax_platforms", "cpu")

    def prepare(self) -> None:
        jax, w = self.jax, self.workload
        jnp = jax.numpy
        self.jx, self.jy = jnp.asarray(self.x), jnp.asarray(self.y)
        activation = jax.nn.relu if w.activation == "relu" else jnp.tanh

        def loss(params: Any, x: Any, y: Any, key: Any) -> Any:
            for number in range(0, len(params), 2):
                x = x @ params[number] + params[number + 1]
                if number < len(params) - 2:
                    x = activation(x)
                    if w.dropout:
                        key, own = jax.random.split(key)
                        x = jnp.where(jax.random.bernoulli(own, 1.0 - w.dropout, x.shape), x / (1.0 - w.dropout), 0.0)
            if w.loss == "squared_error":
                return jnp.mean(jnp.square(x - y))
            logs = jax.nn.log_softmax(x)
            return -jnp.mean(jnp.take_along_axis(logs, y[:, None], axis=1))

        def step(carry: Any, x: Any, y: Any) -> Any:
            params, state, t, key = carry
            key, own = jax.random.split(key)
            grads = jax.grad(loss)(params, x, y, own)
            if w.l2:
                grads = [g + w.l2 * p if p.ndim == 2 else g for p, g in zip(params, grads, strict=True)]
            t = t + 1
            params, state = _jax_update(jnp, w, params, state, grads, t)
            return params, state, t, key

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(carry: Any, x: Any, y: Any, order: Any) -> Any:
            whole = len(order) // w.batch * w.batch

            def body(carry: Any, index: Any) -> Any:
                return step(carry, x[index], y[index]), None

            carry, _ = jax.lax.scan(body, carry, order[:whole].reshape(-1, w.batch))
            return step(carry, x[order[whole:]], y[order[whole:]]) if whole < len(order) else carry

        @functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
        def full_batch(carry: Any, x: Any, y: Any, count: int) -> Any:
            return jax.lax.scan(lambda carry, _: (step(carry, x, y), None), carry, None, count)[0]

        self.epoch, self.full_batch = epoch, full_batch

    def restart(self, weights: list[Array], seed: int) -> None:
        jnp = self.jax.numpy
        states = {"adam": 2, "rmsprop": 1, "sgd": 1}[self.workload.optimizer]
        params = [jnp.array(weight) for weight in weights]
        state = [[jnp.zeros_like(param) for param in params] for _ in range(states)]
        self.carry = (params, state, jnp.int32(0), self.jax.random.key(seed))
        self.rng = np.random.default_rng(seed)
        self.jax.block_until_ready(self.carry)

    def epochs(self, count: int) -> None:
        if self.workload.full_batch:
            self.carry = self.full_batch(self.carry, self.jx, self.jy, count)
        else:
            for _ in range(count):
                order = self.rng.permutation(len(self.x)).astype(np.int32)
                self.carry = self.epoch(self.carry, self.jx, self.jy, order)
        self.jax.block_until_ready(self.carry)

    def weights(self) -> list[Array]:
        return [np.asarray(param) for param in self.carry[0]]

    def product_call(self, shape: Shape, kind: str, dtype: str) -> tuple[Callable[[], Any], int]:
        jax = self.jax
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        _, a, b, ta, tb = product_arrays(shape, kind, dtype)
        count = repetitions(shape)

        def product(a: Any, b: Any) -> Any:
            return (a.T if ta else a) @ (b.T if tb else b)

        def loop(a: Any, b: Any) -> Any:
            def body(_: int, carry: Any) -> Any:
                # Ties the factors to the last product, so that XLA does not take the product out of the loop.
                a, b, _ = jax.lax.optimization_barrier(carry)
                return a, b, product(a, b)

            return jax.lax.fori_loop(0, count, body, (a, b, product(a, b)))[2]

        call = jax.jit(product if count == 1 else loop)
        ja, jb = jax.numpy.asarray(a), jax.numpy.asarray(b)
        return lambda: call(ja, jb).block_until_ready(), count


def _jax_update(jnp: Any, w: Workload, params: Any, state: Any, grads: Any, t: Any) -> Any:
    """Return new parameters and state: Adam, RMSprop and SGD with momentum in PyTorch's forms."""
    if w.optimizer == "adam":
        m = [0.9 * old + 0.1 * g for old, g in zip(state[0], grads, strict=True)]
        v = [0.999 * old + 0.001 * g * g for old, g in zip(state[1], grads, strict=True)]
        rate = w.lr / (1.0 - 0.9**t)
        root = jnp.sqrt(1.0 - 0.999**t)
        new = [p - rate * mi / (jnp.sqrt(vi) / root + 1e-8) for p, mi, vi in zip(params, m, v, strict=True)]
        return new, [m, v]
    if w.optimizer == "rmsprop":
        v = [0.99 * old + 0.01 * g * g for old, g in zip(state[0], grads, strict=True)]
        return [p - w.lr * g / (jnp.sqrt(vi) + 1e-8) for p, g, vi in zip(params, grads, v, strict=True)], [v]
    u = [w.momentum * old + g for old, g in zip(state[0], grads, strict=True)]
    return [p - w.lr * ui for p, ui in zip(params, u, strict=True)], [u]


class SciKitLearn(Peer):
    """scikit-learn's MLP: one `partial_fit` an epoch, in float32."""

    package = "scikit-learn"

    def prepare(self) -> None:
        w = self.workload
        if w.dropout:
            raise Unsupported("scikit-learn has no dropout")
        if w.optimizer == "rmsprop":
            raise Unsupported("scikit-learn has no RMSprop")

    def restart(self, weights: list[Array], seed: int) -> None:
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        w = self.workload
        classes = w.loss == "cross_entropy"
        # Its squared error has a factor 1/2, which Adam does not notice and SGD's rate makes up for. Its gradient
        # of a mean over outputs is a sum over them; only Adam has several outputs here.
        rate = w.lr if w.optimizer == "adam" else 2.0 * w.lr
        self.model = (MLPClassifier if classes else MLPRegressor)(
            hidden_layer_sizes=w.sizes[1:-1], activation=w.activation, solver=w.optimizer, alpha=w.l2 * w.batch,
            batch_size=min(w.batch, len(self.x)), learning_rate_init=rate, momentum=w.momentum,
            nesterovs_momentum=False, shuffle=not w.full_batch,
            random_state=np.random.RandomState(seed),  # a number would repeat one shuffle every epoch
        )  # fmt: skip
        self.target = self.y.ravel() if w.sizes[-1] == 1 else self.y
        self.more = {"classes": np.arange(w.sizes[-1])} if classes else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the first rows are fewer than a batch
            rows = 10 * w.sizes[-1]
            self.model.partial_fit(self.x[:rows], self.target[:rows], **self.more)
        for number in range(len(self.model.coefs_)):
            self.model.coefs_[number][:] = weights[2 * number]
            self.model.intercepts_[number][:] = weights[2 * number + 1]
        del self.model._optimizer
        self.model.loss_curve_ = []

    def epochs(self, count: int) -> None:
        for _ in range(count):
            self.model.partial_fit(self.x, self.target, **self.more)

    def weights(self) -> list[Array]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]


PEERS: dict[str, tuple[type[Peer], bool]] = {
    "fastnn": (FastNN, True),
    "fastnn-1": (FastNN, False),
    "torch": (Torch, True),
    "torch-1": (Torch, False),
    "torch-compile": (TorchCompiled, True),
    "jax": (Jax, True),
    "sklearn": (SciKitLearn, True),
    "numpy": (NumPy, True),
    "numpy-1": (NumPy, False),
}
"""Name -> class, and whether it gets all threads; "-1" is the same on one thread."""

_IMPORTS = {"scikit-learn": "sklearn"}


def on(device: str) -> dict[str, tuple[type[Peer], bool]]:
    """Return the table of peers for a device, "cpu" or "cuda"."""
    if device == "cpu":
        return PEERS
    from benchmarks import peers_cuda

    return peers_cuda.PEERS


def is_installed(name: str, device: str = "cpu") -> bool:
    """Return whether a peer's package is there."""
    package = on(device)[name][0].package
    return importlib.util.find_spec(_IMPORTS.get(package, package)) is not None


def _environment(threads: int) -> dict[str, str]:
    """Return the variables that give every runtime the same number of threads, read when it is loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    variables = dict.fromkeys(names, str(threads))
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return variables


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Worker:
    """A peer in a process of its own; `ask` calls a method there and waits for its result.

    Parameters
    ----------
    name : str
        One of `PEERS`.
    threads : int
        How many a peer gets that is not limited to one. With fewer than the machine has, the process is bound to
        as many CPUs, since not every library can be told in another way.
    device : str
        "cpu" or "cuda".
    """

    def __init__(self, name: str, threads: int, device: str = "cpu") -> None:
        self.name = name
        self.threads = threads if on(device)[name][1] else 1
        cores = threads if threads < cases.available_cores() else 0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        with _set(_environment(self.threads)):
            self._process = context.Process(
                target=_serve, args=(theirs, name, self.threads, cores, device), daemon=True
            )
            self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what the peer's method returns.

        Raises
        ------
        Unsupported
            If the library cannot do it.
        RuntimeError
            If it failed, with its traceback, or the process ended.
        """
        try:
            self._connection.send((method, arguments))
            kind, result = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None
        if kind == "unsupported":
            raise Unsupported(result)
        if kind == "error":
            raise RuntimeError(f"{self.name}: {result}")
        return result

    def close(self) -> None:
        """End the process: by itself where it answers, so that it ends its own helpers."""
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5)


def _serve(connection: Any, name: str, threads: int, cores: int, device: str) -> None:
    """Answer the requests of a `Worker`; runs in its process."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    peer: Peer | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if peer is None:
                peer = on(device)[name][0](threads)
            answer = ("done", getattr(peer, method)(*arguments))
        except Unsupported as reason:
            answer = ("unsupported", str(reason))
        except KeyboardInterrupt:
            return
        except BaseException:
            answer = ("error", traceback.format_exc(limit=-4))
        sys.stdout.flush()
        connection.send(answer)
