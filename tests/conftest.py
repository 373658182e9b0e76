"""What the tests share: awkward shapes, guarded arrays, thread counts, ulps, calls that must be refused."""

from __future__ import annotations

import ctypes.util
import inspect
import os
import warnings
import zlib

# Two threads at least, so that "the same bits for any number of threads" says something on one core too.
# Numba reads this when it is first imported.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))
# The CUDA kernels run in Numba's simulator where there is no driver.
if ctypes.util.find_library("cuda") is None:
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from fastnn.kernels import _chunks, gemm

settings.register_profile(
    "fastnn",
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fastnn")

SIZES = (1, 2, 3, 5, 6, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 65, 127, 129, 257)
"""Dimensions that hit 1, odd, prime, and one before and past a vector, a tile or a block."""

MARGIN = 67
"""Canary elements on either side of a guarded array: odd, so that the array sits on no vector boundary."""


def sampled_shapes(n_dims, count, seed=0, sizes=SIZES):
    """Return `count` tuples of awkward sizes; every size turns up once on each axis before any repeats."""
    rng = np.random.default_rng(seed)
    columns = []
    for _ in range(n_dims):
        rounds = [rng.permutation(sizes) for _ in range(count // len(sizes) + 1)]
        columns.append(np.concatenate(rounds)[:count].tolist())
    return list(zip(*columns, strict=True))


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """float32 and float64, one after the other."""
    return np.dtype(request.param)


@pytest.fixture
def rng(request):
    """A generator seeded by the test's own name: each test draws its own numbers, the same in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


class Guard:
    """Hands out arrays that lie inside larger buffers, and finds writes beyond them or into inputs.

    The canaries of inputs are bytes of ones, NaN for a float and -1 for a label: a read beyond shows as well. Those of
    outputs are others: what is computed from NaN may be the very same NaN.
    """

    def __init__(self):
        self._buffers = []
        self._inputs = []

    def _embed(self, shape, dtype, canary=0xFF):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64))
        buffer = np.full((size + 2 * MARGIN) * dtype.itemsize, canary, dtype=np.uint8)
        start, stop = MARGIN * dtype.itemsize, (MARGIN + size) * dtype.itemsize
        self._buffers.append((buffer, start, stop, canary))
        return buffer[start:stop].view(dtype).reshape(shape)

    def output(self, shape, dtype):
        """An array to be overwritten: NaN for floats, the lowest value for integers."""
        array = self._embed(shape, dtype, 0x5A)
        array[...] = np.nan if np.issubdtype(array.dtype, np.floating) else np.iinfo(array.dtype).min
        return array

    def state(self, values, dtype=None):
        """A copy that the kernel reads and changes."""
        values = np.asarray(values, dtype=dtype)
        array = self._embed(values.shape, values.dtype)
        array[...] = values
        return array

    def input(self, values, dtype=None):
        """A copy that must still hold the same bits in the end."""
        array = self.state(values, dtype)
        self._inputs.append((array, array.tobytes()))
        return array

    def check(self):
        """Fail if a canary or an input has changed."""
        for buffer, start, stop, canary in self._buffers:
            assert (buffer[:start] == canary).all(), "a write before the beginning of an array"
            assert (buffer[stop:] == canary).all(), "a write past the end of an array"
        for array, before in self._inputs:
            assert array.tobytes() == before, "an input was changed"


@pytest.fixture
def guard():
    """A `Guard`, checked once more when the test ends."""
    guard = Guard()
    yield guard
    guard.check()


@pytest.fixture
def threads():
    """`numba.set_num_threads`, put back when the test ends."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


@pytest.fixture
def one_thread(threads):
    """One thread while the test runs: thousands of tiny calls need not fork, on cores that may be busy."""
    threads(1)


def _bits(result):
    return [np.asarray(part).tobytes() for part in (result if isinstance(result, tuple) else (result,))]


@pytest.fixture
def same_bits(threads, monkeypatch):
    """Return a function that calls its argument with 1 and with all threads and wants the same bits.

    Helpers are called for the smallest piece of work then.
    """
    monkeypatch.setattr(_chunks, "HELPED_CHUNKS", 1)
    monkeypatch.setattr(gemm, "FORK_FLOPS", 1000)

    def check(compute):
        before = numba.get_num_threads()
        threads(1)
        serial = compute()
        threads(numba.config.NUMBA_NUM_THREADS)
        parallel = compute()
        threads(before)
        assert numba.config.NUMBA_NUM_THREADS > 1
        assert _bits(serial) == _bits(parallel), "1 thread and all threads differ"
        return serial

    return check


def ulps(got, want, dtype):
    """Return the error of `got` in units in the last place of `want`, a float64 reference.

    Equal infinities and NaN on both sides count as 0, NaN on one side as NaN. Below the smallest normal
    number one unit is the smallest subnormal number.
    """
    dtype = np.dtype(dtype)
    got64, want64 = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    largest, tiny = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        want64 = np.where(np.abs(want64) > largest, np.copysign(np.inf, want64), want64)
        spacing = np.spacing(np.clip(np.abs(want64), tiny, largest).astype(dtype)).astype(np.float64)
        error = np.abs(got64 - want64) / spacing
    return np.where((got64 == want64) | (np.isnan(got64) & np.isnan(want64)), 0.0, error)


def assert_ulps(got, want, dtype, limit, at=None):
    """Fail with the worst place if any error is above `limit` ulps."""
    error = ulps(got, want, dtype)
    bad = ~(error <= limit)
    if bad.any():
        worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        where = "" if at is None else f" at {np.asarray(at)[worst]!r}"
        pytest.fail(
            f"{int(bad.sum())} of {error.size} values are off by more than {limit} ulp; the worst{where}: "
            f"got {np.asarray(got)[worst]!r}, expected {np.asarray(want)[worst]!r}, {error[worst]:.3g} ulp"
        )


def float_sweep(dtype, count, rng):
    """Return about `count` numbers spread evenly over the bit patterns of all finite numbers, 0 included."""
    dtype = np.dtype(dtype)
    integer = np.dtype(f"uint{8 * dtype.itemsize}")
    top = int(np.array(np.finfo(dtype).max).view(integer))
    step = max(1, 2 * top // count)
    positive = np.arange(int(rng.integers(step)), top + 1, step, dtype=integer).view(dtype)
    ends = np.array([0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
    half = np.concatenate([ends, positive])
    return np.concatenate([-half, half])


@pytest.fixture(scope="session")
def torch():
    """PyTorch, with one thread; the test is skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def _broken_copies(array, is_output, others):
    """Yield (what is wrong, array) for everything a checked kernel must refuse in place of `array`."""
    other_float = {np.dtype("float32"): np.float64, np.dtype("float64"): np.float32}
    yield "a list", array.tolist()
    yield "object dtype", array.astype(object)
    if array.dtype in other_float:
        yield "the other float dtype", array.astype(other_float[array.dtype])
        yield "float16", array.astype(np.float16)
        yield "big-endian", array.astype(array.dtype.newbyteorder(">"))
        yield "integers", np.ones(array.shape, dtype=np.int32)
    else:
        yield "floats for integers", array.astype(np.float64)
    for axis in range(array.ndim):
        yield f"one more on axis {axis}", np.concatenate([array, array.take([0], axis=axis)], axis=axis)
    yield "one dimension more", array[None].copy()
    if array.ndim > 1:
        yield "Fortran order", np.asfortranarray(array)
        yield "one dimension fewer", array.reshape(-1).copy()
    yield "every second element", np.repeat(array, 2, axis=-1)[..., ::2]
    yield "backwards", array[..., ::-1].copy()[..., ::-1]
    if is_output:
        read_only = array.copy()
        read_only.flags.writeable = False
        yield "read-only", read_only
        for name, other in others:
            if other.dtype == array.dtype and other.size >= array.size:
                yield f"the memory of {name}", other.reshape(-1)[: array.size].reshape(array.shape)


@pytest.fixture
def refuses():
    """Return a function that wants every broken version of each array argument refused, and nothing written.

    ``check(kernel, outputs, **arguments)``: `arguments` are valid, arrays with at least 2 elements on each
    axis; `outputs` names those the kernel writes. `skip` holds (argument, word) pairs: a broken version whose
    description contains the word is legal for this argument.
    """

    def check(kernel, outputs, skip=(), **arguments):
        assert set(outputs) <= set(arguments)
        assert set(arguments) <= set(inspect.signature(kernel).parameters)
        arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
        tried = 0
        for name, array in arrays.items():
            others = [(other, arrays[other]) for other in arrays if other != name]
            for what, broken in _broken_copies(array, name in outputs, others):
                if any(name == argument and word in what for argument, word in skip):
                    continue
                call = {**arguments, name: broken}
                before = {key: value.tobytes() for key, value in call.items() if isinstance(value, np.ndarray)}
                try:
                    kernel(**call)
                except (TypeError, ValueError) as error:
                    message = str(error)
                else:
                    pytest.fail(f"{kernel.__name__} took {what} for {name}")
                assert any(word in message for word in arrays), f"{name}, {what}: no argument named in {message!r}"
                for key, value in before.items():
                    assert call[key].tobytes() == value, f"{name}, {what}: {key} was changed by a refused call"
                tried += 1
        assert tried >= 5 * len(arrays)

    return check
