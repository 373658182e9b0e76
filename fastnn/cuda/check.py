"""``python -m fastnn.cuda.check``: is this device fit for use? Every kernel against its oracle, and short training.

Prints the device and a line a check; ends with 1 if anything is off, with 2 if there is no device. The oracles are
NumPy in float64 and, for formulas that have a kernel on the CPU, that kernel, which is tested against others.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import fastnn
from fastnn import cuda, kernels
from fastnn.cuda import _cublas, _numba, launches
from fastnn.kernels._compile import cores

SIZES = ((1, 1, 1), (3, 5, 2), (9, 7, 11)) if _numba.SIMULATED else ((1, 1, 1), (65, 33, 130), (257, 784, 129))
LARGE = () if _numba.SIMULATED else ((1200, 96, 1100),)
ROWS, VALUES, EPOCHS = (7, 9, 1) if _numba.SIMULATED else (33, 777, 2)
TRAINED = (
    ((4, 8, 5), (4, 8, 8), (5, 8, 5))
    if _numba.SIMULATED
    else ((32, 1000, 5), (64, 1000, 24), (300, 1000, 300), (600, 1000, 300), (32, 5000, 4500), (1100, 5000, 4500))
)
"""Units, rows and batch of training runs, with a shorter last batch: in one block with what it has unasked, and with
what its kernel asks for; then one or two for each other kernel (`step.shape_for`)."""

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-10, "bf16": 2.0**-8}
"""Relative error of a factor that is rounded; tf32 by cutting off bits, as some tensor cores do."""
LOSS_WITHIN = {"float32": 1e-2, "tf32": 2e-2, "bf16": 5e-2}


def describe() -> str:
    """Return what the kernels run on."""
    if _numba.SIMULATED:
        return "Numba's CUDA simulator"
    device = _numba.driver.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    implementation = getattr(_numba.driver, "implementation", "Built-in")
    return (
        f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}, "
        f"{device.MULTIPROCESSOR_COUNT} multiprocessors, {_numba.most_shared() // 1024} KB of shared memory a block; "
        f"Numba's CUDA target: {implementation}"
    )


def _there(array: np.ndarray) -> Any:
    return _numba.driver.to_device(array)


def _off(got: Any, want: np.ndarray, bound: np.ndarray | float) -> str:
    """Return "" where |got - want| <= bound, NaN where NaN is expected; else what is off."""
    values = got.copy_to_host().astype(np.float64)
    with np.errstate(invalid="ignore"):
        right = (np.abs(values - want) <= bound) | (values == want) | (np.isnan(values) & np.isnan(want))
    if right.all():
        return ""
    at = np.unravel_index(int(np.argmin(right)), right.shape)
    return (
        f"{(~right).sum()} of {right.size} are off; at {tuple(map(int, at))} got {values[at]!r}, expected {want[at]!r}"
    )


def check_products(dtype: str, rng: np.random.Generator) -> Iterator[str]:
    """Dense forward and backward in all their shapes."""
    for m, k, n in SIZES + LARGE:
        x, w, b, dz = (rng.normal(size=s).astype(dtype) for s in ((m, k), (k, n), (n,), (m, n)))
        there = [_there(array) for array in (x, w, b, dz)]
        a, z, dx, dw, db = (_there(np.full(s, np.nan, dtype)) for s in ((m, n), (m, n), (m, k), (k, n), (n,)))
        cuda.dense_forward(a, z, there[0], there[1], there[2], "relu")
        cuda.dense_backward(dx, dw, db, there[3], there[0], there[1])
        x, w, b, dz = (array.astype(np.float64) for array in (x, w, b, dz))
        bound = UNIT[dtype] * 4
        yield _off(z, x @ w + b, bound * (k + 4) * (np.abs(x) @ np.abs(w) + np.abs(b)))
        yield _off(a, np.maximum(x @ w + b, 0), bound * (k + 4) * (np.abs(x) @ np.abs(w) + np.abs(b)))
        yield _off(dw, x.T @ dz, bound * (m + 4) * (np.abs(x).T @ np.abs(dz)))
        yield _off(db, dz.sum(axis=0), bound * (m + 4) * np.abs(dz).sum(axis=0))
        yield _off(dx, dz @ w.T, bound * (n + 4) * (np.abs(dz) @ np.abs(w).T))


def check_elementwise(dtype: str, rng: np.random.Generator) -> Iterator[str]:
    """Activations, softmax, dropout and statistics, against the CPU's kernels."""
    z = (4 * rng.normal(size=(3, VALUES))).astype(dtype)
    z[0, :6] = 0.0, np.inf, -np.inf, np.nan, 1e30, -1e-30
    da, finite = rng.normal(size=z.shape).astype(dtype), np.nan_to_num(z, nan=1.0, posinf=5.0, neginf=-5.0)
    rough = 16 * UNIT[dtype]
    for name in ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "silu"):
        a, slope, stats = np.empty_like(z), np.empty_like(z), np.empty(4)
        kernels.activation_forward(a, z, name)
        kernels.activation_backward(slope, da, z, a, name)
        got, dz = _there(np.full_like(z, np.nan)), _there(np.full_like(z, np.nan))
        cuda.activation_forward(got, _there(z), name)
        cuda.activation_backward(dz, _there(da), _there(z), _there(a), name)
        yield _off(got, a, rough * np.abs(a))
        yield _off(dz, slope, rough * (np.abs(slope) + np.abs(da)))
        kernels.activation_forward(a, finite, name)
        kernels.activation_statistics(stats, a, finite, name)
        sums = _there(np.full(4, np.nan))
        cuda.activation_statistics(sums, _there(a), _there(finite), name)
        yield _off(sums, stats, 1e-9)
    p, got = np.empty_like(z), _there(np.full_like(z, np.nan))
    kernels.softmax_forward(p, finite)
    cuda.softmax_forward(got, _there(finite))
    yield _off(got, p, rough * p)
    for seed, step, layer in ((0, 0, 0), (2**64 - 1, 2**32 - 1, 5)):
        kernels.dropout_forward(p, finite, 0.3, seed, step, layer)
        cuda.dropout_forward(got, _there(finite), 0.3, seed, step, layer)
        yield _off(got, p, 0.0)


def check_losses(dtype: str, rng: np.random.Generator) -> Iterator[str]:
    """Losses with weights, against the CPU's kernels."""
    y, t = (np.abs(rng.normal(size=(ROWS, 5))).astype(dtype) for _ in range(2))
    t /= t.sum(axis=1, keepdims=True)
    w, labels = rng.random(ROWS).astype(dtype), rng.integers(0, 5, ROWS)
    for name, target in (
        ("squared_error", t), ("absolute_error", t), ("huber", t), ("cross_entropy", t), ("cross_entropy", labels),
        ("binary_cross_entropy", t), ("poisson", t),
    ):  # fmt: skip
        d, got = np.empty_like(y), _there(np.full_like(y, np.nan))
        want = getattr(kernels, name)(d, y, target, w)
        value = getattr(cuda, name)(got, _there(y), _there(target), _there(w))
        yield "" if abs(value - want) <= 100 * UNIT[dtype] * abs(want) else f"{name}: got {value}, expected {want}"
        yield _off(got, d, 32 * UNIT[dtype] * (np.abs(d) + 0.1))


def check_updates(dtype: str, rng: np.random.Generator) -> Iterator[str]:
    """Optimizer steps, penalties and clipping, against the CPU's kernels."""
    size = VALUES
    extras = {"l1": 0.01, "l2": 0.02, "grad_scale": 0.7, "clip_value": 0.9, "truncate": 0.001}
    adam = {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "step": 3}
    for name, states, numbers in (
        ("sgd_update", ["velocity"], {"lr": 0.1, "momentum": 0.9, "nesterov": True, "step": 2}),
        ("adagrad_update", ["g2"], {"lr": 0.1}),
        ("rmsprop_update", ["v", "velocity", "mean"], {"lr": 0.1, "momentum": 0.5, "centered": True}),
        ("adam_update", ["m", "v"], adam),
        ("adamw_update", ["m", "v"], {**adam, "weight_decay": 0.1}),
        ("amsgrad_update", ["m", "v", "vmax"], adam),
    ):
        arrays = {each: np.abs(rng.normal(size=size)).astype(dtype) for each in ["param", "grad", *states]}
        if "mean" in arrays:
            arrays["mean"] *= dtype_like(dtype, 0.01)
        there = {each: _there(array) for each, array in arrays.items()}
        getattr(cuda, name)(**there, **numbers, **extras)
        getattr(kernels, name)(**arrays, **numbers, **extras)
        for each, array in arrays.items():
            yield _off(there[each], array, 64 * UNIT[dtype] * (np.abs(array) + 1.0))
    w = rng.normal(size=size).astype(dtype)
    for value, want in (
        (cuda.penalty(_there(w), 0.3, 0.7), kernels.penalty(w, 0.3, 0.7)),
        (cuda.global_norm(_there(w)), kernels.global_norm(w)),
    ):
        yield "" if abs(value - want) <= 1e-12 * want else f"got {value}, expected {want}"


def dtype_like(dtype: str, value: float) -> Any:
    """Return a number in a float type."""
    return np.dtype(dtype).type(value)


def check_training(dtype: str, rng: np.random.Generator, run: tuple[int, int, int]) -> Iterator[str]:
    """A short training run on the device and on the CPU, by fastnn's own kernels; `run` is one of `TRAINED`."""
    units, rows, batch = run
    with mock.patch.object(launches, "WORTH_FLOPS", math.inf):
        x, y = rng.normal(size=(rows, 4)), rng.integers(0, 3, rows)
        layers = [
            fastnn.Dense(units, "gelu"), fastnn.Dropout(0.2), fastnn.Activation("tanh"), fastnn.Dense(units, "relu"),
            fastnn.Dense(3),
        ]  # fmt: skip
        models = [
            fastnn.Sequential(
                layers, "cross_entropy", fastnn.Adam(0.01, clip_norm=1.0), device=device, dtype=dtype, seed=3, l2=1e-3
            )
            for device in ("cpu", "cuda")
        ]
        for model in models:
            model.fit(x, y, epochs=EPOCHS, batch_size=batch, validation_data=(x, y), verbose=False)
        for name in ("loss", "val_loss"):
            want, got = (np.array(model.history.history[name]) for model in models)
            off = np.abs(got / want - 1).max()
            limit = 1e-2 if dtype == "float32" else 1e-7
            yield "" if off <= limit else f"{name} differs by {off:.1e}: got {got.tolist()}, expected {want.tolist()}"
        again = fastnn.Sequential(
            layers, "cross_entropy", fastnn.Adam(0.01, clip_norm=1.0), device="cuda", dtype=dtype, seed=3, l2=1e-3
        )
        again.fit(x, y, epochs=EPOCHS, batch_size=batch, validation_data=(x, y), verbose=False)
        same = [w.tobytes() for w in again.get_weights()] == [w.tobytes() for w in models[1].get_weights()]
        yield "" if same else "two runs with one seed differ: blocks do not wait for each other"


def _check_epilogues(
    c: Any, factors: tuple[_cublas.Matrix, _cublas.Matrix], a: np.ndarray, b: np.ndarray, bound: np.ndarray, kind: str
) -> Iterator[str]:
    """Bias, ReLU and sums of columns at the end of C = A B, where the library does them; `bound` is of C's error."""
    blas: Any = _cublas.loaded()
    (m, n), dtype = bound.shape, str(c.dtype)
    bias = np.linspace(-1, 1, n).astype(dtype)
    within = bound + 4 * UNIT[dtype] * (np.abs(a @ b) + 1)
    wants = (a @ b + bias, np.maximum(a @ b + bias, 0), a @ b)
    for epilogue, want in zip(_cublas.EPILOGUES.values(), wants, strict=True):
        vector = _there(bias)
        done = blas.product(
            _cublas.Matrix(c, 0, m, n), *factors, kind, epilogue=epilogue, vector=_cublas.Matrix(vector, 0, 1, n)
        )
        _numba.driver.synchronize()
        yield _off(c, (want if done else a @ b).reshape(-1), within.reshape(-1))
        if done and epilogue == _cublas.COLUMN_SUMS:
            relative = ROUNDING[kind] + 2 * len(b) * UNIT[dtype]
            yield _off(vector, b.sum(axis=0), relative * np.abs(b).sum(axis=0))


def check_library(dtype: str, rng: np.random.Generator) -> Iterator[str]:
    """Products by cuBLASLt in every precision, training with them, and CUDA graphs against their launches."""
    blas = _cublas.loaded()
    if blas is None:
        return
    precisions = [kind for kind in _cublas.COMPUTE_32F if kind == "float32" or dtype == "float32"]
    precisions = [kind for kind in precisions if not _cublas.missing(kind)]
    blas.use(0)
    for m, k, n in SIZES + LARGE:
        for kind in precisions:
            rounding = ROUNDING[kind] if dtype == "float32" else UNIT[dtype]
            for left, right in ((False, False), (True, False), (False, True)):
                a, b = (rng.normal(size=s).astype(dtype) for s in ((m, k), (k, n)))
                c = _there(np.full(m * n, np.nan, dtype))
                first, second = (
                    _cublas.Matrix(_there(np.ascontiguousarray(x.T if t else x).reshape(-1)), 0, *shape, t)
                    for x, t, shape in ((a, left, (k, m) if left else (m, k)), (b, right, (n, k) if right else (k, n)))
                )
                blas.product(_cublas.Matrix(c, 0, m, n), first, second, kind)
                _numba.driver.synchronize()
                a, b = a.astype(np.float64), b.astype(np.float64)
                bound = (2.2 * rounding + 4 * (k + 4) * UNIT[dtype]) * (np.abs(a) @ np.abs(b))
                yield _off(c, (a @ b).reshape(-1), bound.reshape(-1))
                yield from _check_epilogues(c, (first, second), a, b, bound, kind)
    rows, units, batch = (11, 3, 2) if _numba.SIMULATED else (1001, 300, 50)
    x, y = rng.normal(size=(rows, 4)), rng.integers(0, 3, rows)

    def train(device: str, kind: str = "float32", least: float = 1) -> tuple[float, bytes]:
        layers = [fastnn.Dense(units, "gelu"), fastnn.Dropout(0.2), fastnn.Dense(units, "tanh"), fastnn.Dense(3)]
        model = fastnn.Sequential(
            layers, "cross_entropy", fastnn.Adam(0.003, clip_norm=1.0), device=device, dtype=dtype, seed=3, l2=1e-3,
            matmul_precision=kind,
        )  # fmt: skip
        with mock.patch.object(launches, "WORTH_FLOPS", 0), mock.patch.object(launches, "LEAST_REPLAYS", least):
            history = model.fit(x, y, epochs=EPOCHS, batch_size=batch, verbose=False)
        return history.history["loss"][-1], b"".join(weights.tobytes() for weights in model.get_weights())

    want = train("cpu")[0]
    for kind in precisions:
        loss, bits = train("cuda", kind)
        yield "" if abs(loss / want - 1) <= LOSS_WITHIN[kind] else f"{kind}: got loss {loss}, expected {want}"
        same = train("cuda", kind, least=math.inf)[1] == bits
        yield "" if same else f"{kind}: steps by a CUDA graph differ from the same launches one by one"


def describe_library() -> str:
    """Return whether there is cuBLAS, and how large steps are done with it."""
    blas = _cublas.loaded()
    if blas is None:
        return f"large networks take their products from fastnn's kernels: {_cublas.missing()}"
    major, minor = divmod(blas.version // 100, 100)
    reduced = _cublas.missing("tf32")
    ends = ", ".join(f"{name} {done} of {asked}" for name, (done, asked) in blas.epilogues().items())
    return (
        f"large networks take their products from cuBLASLt {major}.{minor}, and a step is {launches.how()}; "
        f"epilogues of products (done, of those asked for): {ends}; "
        f"matmul_precision: {reduced or ', '.join(_cublas.COMPUTE_32F)}"
    )


CHECKS: dict[str, Callable[[str, np.random.Generator], Iterator[str]]] = {
    "products": check_products,
    "activations, dropout, statistics": check_elementwise,
    "losses": check_losses,
    "updates, penalties, norms": check_updates,
    **{f"training {run[0]} wide by {run[2]} rows": functools.partial(check_training, run=run) for run in TRAINED},
    "cuBLASLt, CUDA graphs": check_library,
}


class Outcome(NamedTuple):
    """What one check of one float type found."""

    compared: int
    problem: str  # the first, "" where there is none
    seconds: float
    library: str


def outcome_of(name: str, dtype: str) -> Outcome:
    """Run one check; whatever it raises is a problem."""
    start, results = time.perf_counter(), list[str]()
    try:
        results.extend(CHECKS[name](dtype, np.random.default_rng(0)))
    except Exception as error:  # a device that was lost, a kernel that cannot be compiled
        results.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    problem = next(filter(None, results), "")
    return Outcome(len(results), problem, time.perf_counter() - start, describe_library())


def _outcomes(asked: list[tuple[str, str]], jobs: int) -> Iterator[Outcome]:
    """Run the checks asked for, several at once in processes of their own, and yield what they found in their order.

    Nearly all of their time the first time is compilation, which keeps one core busy.
    """
    if jobs == 1:
        yield from (outcome_of(*each) for each in asked)
        return
    spawn = multiprocessing.get_context("spawn")  # a device does not survive a fork
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(asked)), spawn) as pool:
        for future in [pool.submit(outcome_of, *each) for each in asked]:
            try:
                yield future.result()
            except concurrent.futures.BrokenExecutor as error:
                yield Outcome(0, f"its process ended: {error}", math.nan, "")


def main(dtypes: tuple[str, ...] = ("float32", "float64"), jobs: int = 1) -> int:
    """Run all checks, `jobs` at a time; returns the exit code."""
    reason = cuda.missing()
    if reason:
        print(f"no device: {reason}", file=sys.stderr)
        return 2
    print(f"fastnn {fastnn.__version__} on {describe()}", flush=True)
    asked = [(name, dtype) for name in CHECKS for dtype in dtypes]
    failed, library = 0, ""
    for (name, dtype), outcome in zip(asked, _outcomes(asked, jobs), strict=True):
        failed += bool(outcome.problem)
        found = f"FAILED: {outcome.problem}" if outcome.problem else "ok"
        print(f"  {name}, {dtype}: {outcome.compared} compared, {outcome.seconds:.1f} s: {found}", flush=True)
        library = outcome.library or library
    print(f"  {library}")
    print("all well" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn.cuda.check",
        description="Is this device fit for use? Every kernel against its oracle, and short training. "
        "Ends with 1 if anything is off, with 2 if there is no device.",
    )
    parser.add_argument(
        "--jobs", type=int, default=1 if _numba.SIMULATED else cores(), metavar="N",
        help="checks at a time, each in its own process: at first they compile for minutes (default: one a core)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: got {options.jobs}, expected a whole number from 1")
    return options


if __name__ == "__main__":
    sys.exit(main(jobs=parse().jobs))
