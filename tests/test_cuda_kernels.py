"""The CUDA kernels, each against its naive twin: on a GPU where there is one, else in Numba's simulator."""

from __future__ import annotations

import functools
import inspect
import types

import naive
import numpy as np
import pytest
from conftest import assert_ulps

from fastnn import cuda, kernels
from fastnn.cuda import _arrays, _launch, _numba, check, loss
from fastnn.cuda._numba import SIMULATED, driver

pytestmark = pytest.mark.skipif(bool(cuda.missing()), reason=cuda.missing())

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
SHAPES = [(1, 1, 1), (3, 2, 5), (9, 7, 11)]
if not SIMULATED:  # a thread of the simulator is a thread of Python: 0.2 s for a product of 9 x 7 x 11
    SHAPES += [(64, 64, 64), (65, 63, 67), (128, 784, 256), (257, 129, 300), (1024, 513, 1040), (1500, 96, 1500)]

on_every_activation = pytest.mark.parametrize("activation", naive.ACTIVATIONS)


@pytest.fixture
def there(rng):
    """Return a function that makes a pair: random numbers as an array on the host, and a copy of it on the device."""

    def make(*shape, dtype, scale=1.0, positive=False):
        host = (scale * rng.normal(size=shape)).astype(dtype)
        host = np.abs(host) if positive else host
        return host, driver.to_device(host)

    return make


def output(shape, dtype):
    """An array on the device that must be overwritten."""
    return driver.to_device(np.full(shape, np.nan, dtype))


def within(got, want, magnitude, steps, dtype):
    bound = (steps + 4) * UNIT[np.dtype(dtype).name] * magnitude
    assert (np.abs(got.copy_to_host().astype(np.float64) - want) <= bound).all()


def test_every_kernel_is_the_cpus_twin():
    names = set(kernels.__all__) - {"philox_fill", "shuffle_indices"}  # the host draws orders, once an epoch
    assert names | {"is_available", "missing"} == set(cuda.__all__)
    for name in names:
        here, on_cpu = inspect.signature(getattr(cuda, name)), inspect.signature(getattr(kernels, name))
        assert list(here.parameters) == list(on_cpu.parameters), name
        assert [p.default for p in here.parameters.values()] == [p.default for p in on_cpu.parameters.values()], name


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_matmul(transpose_a, transpose_b, dtype, there):
    for m, k, n in SHAPES:
        a, a_there = there(*((k, m) if transpose_a else (m, k)), dtype=dtype)
        b, b_there = there(*((n, k) if transpose_b else (k, n)), dtype=dtype)
        c = output((m, n), dtype)
        cuda.matmul(c, a_there, b_there, transpose_a, transpose_b)
        left, right = (a.T if transpose_a else a).astype(np.float64), (b.T if transpose_b else b).astype(np.float64)
        within(c, left @ right, np.abs(left) @ np.abs(right), k, dtype)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_dense_forward(activation, with_bias, dtype, there):
    for rows, k, n in SHAPES:
        (x, x_there), (w, w_there) = there(rows, k, dtype=dtype), there(k, n, dtype=dtype)
        b, b_there = there(n, dtype=dtype) if with_bias else (None, None)
        a, z = output((rows, n), dtype), output((rows, n), dtype)
        cuda.dense_forward(a, z, x_there, w_there, b_there, activation)
        want = x.astype(np.float64) @ w + (0 if b is None else b)
        magnitude = np.abs(x).astype(np.float64) @ np.abs(w) + (0 if b is None else np.abs(b))
        within(z, want, magnitude, k, dtype)
        want_a = np.empty((rows, n))
        naive.activation_forward(want_a, want, activation)
        within(a, want_a, 1.13 * magnitude + np.abs(want_a), k + 6, dtype)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_dx", [True, False])
def test_dense_backward(with_bias, with_dx, dtype, there):
    for rows, k, n in SHAPES:
        (x, x_there), (w, w_there) = there(rows, k, dtype=dtype), there(k, n, dtype=dtype)
        dz, dz_there = there(rows, n, dtype=dtype)
        dx, dw = output((rows, k), dtype) if with_dx else None, output((k, n), dtype)
        db = output(n, dtype) if with_bias else None
        cuda.dense_backward(dx, dw, db, dz_there, x_there, w_there)
        x64, w64, dz64 = (array.astype(np.float64) for array in (x, w, dz))
        within(dw, x64.T @ dz64, np.abs(x64).T @ np.abs(dz64), rows, dtype)
        if with_bias:
            within(db, dz64.sum(axis=0), np.abs(dz64).sum(axis=0), rows, dtype)
        if with_dx:
            within(dx, dz64 @ w64.T, np.abs(dz64) @ np.abs(w64).T, n, dtype)


@on_every_activation
def test_activations(activation, dtype, there):
    z, z_there = there(61, dtype=dtype, scale=4.0)
    specials = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 88.0, -88.0, 700.0, -700.0, 1e30], dtype)
    z[: len(specials)] = specials
    z_there = driver.to_device(z)
    a = output(61, dtype)
    cuda.activation_forward(a, z_there, activation)
    got, want = a.copy_to_host(), np.empty(61)
    with np.errstate(all="ignore"):
        naive.activation_forward(want, z.astype(np.float64), activation)
    want[3] = 0.0 if np.isnan(want[3]) else want[3]  # GELU at minus infinity: its limit, where the formula has 0 inf
    if dtype == np.float64:  # the oracle's own arithmetic
        kernels.activation_forward(want, z, activation)
    assert_ulps(got, want, dtype, 4, at=z)
    da, da_there = there(61, dtype=dtype)
    dz, wanted = output(61, dtype), np.empty(61, dtype)
    cuda.activation_backward(dz, da_there, z_there, a, activation)
    kernels.activation_backward(wanted, da, z, got, activation)
    np.testing.assert_allclose(dz.copy_to_host(), wanted, rtol=16 * UNIT[dtype.name], atol=16 * UNIT[dtype.name])


def test_softmax(dtype, there):
    z, z_there = there(7, 5, dtype=dtype, scale=30.0)
    p, want = output((7, 5), dtype), np.empty((7, 5))
    cuda.softmax_forward(p, z_there)
    (naive if dtype == np.float32 else kernels).softmax_forward(want, z.astype(np.float64))
    assert_ulps(p.copy_to_host(), want, dtype, 4)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.75])
def test_dropout_masks_are_the_cpus(rate, dtype, there):
    for seed, step, layer in ((0, 0, 0), (2**64 - 1, 2**32 - 1, 7), (12345, 3, 2)):
        x, x_there = there(3, 67, dtype=dtype)
        x[0, 0] = np.inf
        x_there = driver.to_device(x)
        y, dx, mask = (output((3, 67), dtype) for _ in range(3))
        cuda.dropout_forward(y, x_there, rate, seed, step, layer)
        cuda.dropout_backward(dx, x_there, rate, seed, step, layer)
        cuda.dropout_mask(mask, rate, seed, step, layer)
        want, want_mask = np.empty_like(x), np.empty_like(x)
        kernels.dropout_forward(want, x, rate, seed, step, layer)
        kernels.dropout_mask(want_mask, rate, seed, step, layer)
        np.testing.assert_array_equal(mask.copy_to_host(), want_mask)
        np.testing.assert_array_equal(y.copy_to_host(), want)
        np.testing.assert_array_equal(dx.copy_to_host(), want)


LOSSES = ("squared_error", "absolute_error", "huber", "cross_entropy", "binary_cross_entropy", "poisson")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [*LOSSES, "labels"])
def test_losses(name, weighted, dtype, there, rng):
    y, y_there = there(6, 4, dtype=dtype, scale=2.0)
    if name == "labels":
        t = rng.integers(0, 4, 6)
        t_there = driver.to_device(t)
    else:
        t = (rng.random((6, 4)) if "entropy" in name else np.abs(rng.normal(size=(6, 4)))).astype(dtype)
        t = t / t.sum(axis=1, keepdims=True) if name == "cross_entropy" else t
        t_there = driver.to_device(t)
    w = rng.random(6).astype(dtype) if weighted else None
    if w is not None:  # no outputs count where the weight is 0
        w[2], y[2] = 0.0, np.inf
        y_there = driver.to_device(y)
    w_there = None if w is None else driver.to_device(w)
    name = "cross_entropy" if name == "labels" else name
    d, want = output((6, 4), dtype), np.empty((6, 4))
    loss = getattr(cuda, name)(d, y_there, t_there, w_there)
    wanted = getattr(naive, name)(want, y.astype(np.float64), t if t.ndim == 1 else t.astype(np.float64), w)
    assert loss == pytest.approx(wanted, rel=40 * UNIT[dtype.name])
    np.testing.assert_allclose(d.copy_to_host(), want, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-7)


def test_losses_whose_weights_are_zero_are_zero(dtype, there):
    (_, y), (_, t) = there(3, 2, dtype=dtype), there(3, 2, dtype=dtype)
    d = output((3, 2), dtype)
    assert cuda.squared_error(d, y, t, driver.to_device(np.zeros(3, dtype))) == 0.0
    assert (d.copy_to_host() == 0).all()


UPDATES = {
    "sgd": ("sgd_update", ["velocity"], {"lr": 0.1, "momentum": 0.0}),
    "momentum": ("sgd_update", ["velocity"], {"lr": 0.1, "momentum": 0.9, "step": 3}),
    "nesterov": ("sgd_update", ["velocity"], {"lr": 0.1, "momentum": 0.9, "nesterov": True, "step": 1}),
    "adagrad": ("adagrad_update", ["g2"], {"lr": 0.1, "eps": 1e-6}),
    "rmsprop": ("rmsprop_update", ["v", "velocity", "mean"], {"lr": 0.1, "alpha": 0.9, "eps": 1e-6}),
    "rmsprop_all": (
        "rmsprop_update", ["v", "velocity", "mean"],
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-6, "momentum": 0.5, "centered": True},
    ),
    "adam": ("adam_update", ["m", "v"], {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "step": 4}),
    "adamw": (
        "adamw_update", ["m", "v"], {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "step": 4, "weight_decay": 0.1}
    ),
    "amsgrad": ("amsgrad_update", ["m", "v", "vmax"], {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "step": 4}),
}  # fmt: skip
EXTRAS = {"l1": 0.01, "l2": 0.02, "grad_scale": 0.7, "clip_value": 0.9, "truncate": 0.003}


@pytest.mark.parametrize("extras", [{}, EXTRAS], ids=["plain", "extras"])
@pytest.mark.parametrize("name", UPDATES)
def test_updates(name, extras, dtype, there):
    function, states, numbers = UPDATES[name]
    w, w_there = there(37, dtype=dtype)
    g, g_there = there(37, dtype=dtype)
    kept = {state: there(37, dtype=dtype, positive=True) for state in states}
    if "mean" in kept:
        kept["mean"] = there(37, dtype=dtype, scale=0.01)
    getattr(cuda, function)(
        param=w_there, grad=g_there, **{state: pair[1] for state, pair in kept.items()}, **numbers, **extras
    )
    want = {state: pair[0].astype(np.float64) for state, pair in kept.items()}
    wanted = w.astype(np.float64)
    getattr(naive, function)(param=wanted, grad=g.astype(np.float64), **want, **numbers, **extras)
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(w_there.copy_to_host(), wanted, **tolerance)
    for state, (_, state_there) in kept.items():
        np.testing.assert_allclose(state_there.copy_to_host(), want[state], **tolerance)


def test_penalties_norms_and_clipping(dtype, there):
    w, w_there = there(5, 9, dtype=dtype)
    rel = 20 * UNIT[dtype.name]
    assert cuda.penalty(w_there, 0.3, 0.7) == pytest.approx(naive.penalty(w, 0.3, 0.7), rel=rel)
    assert cuda.global_norm(w_there) == pytest.approx(naive.global_norm(w), rel=rel)
    for name, limit in (("soft_threshold", 0.4), ("clip_by_value", 0.8), ("clip_by_norm", 2.0)):
        changed, want = driver.to_device(w), w.astype(np.float64)
        got, wanted = getattr(cuda, name)(changed, limit), getattr(naive, name)(want.reshape(-1), limit)
        np.testing.assert_allclose(changed.copy_to_host(), want, rtol=rel, atol=rel)
        assert got is None or got == pytest.approx(wanted, rel=rel)


@on_every_activation
def test_statistics(activation, dtype, there):
    z, z_there = there(9, 5, dtype=dtype, scale=4.0)
    z[:, 1] = -30.0
    z_there = driver.to_device(z)
    a = np.empty((9, 5), dtype)
    kernels.activation_forward(a, z, activation)
    stats, want = output(4, np.float64), np.empty(4)
    cuda.activation_statistics(stats, driver.to_device(a), z_there, activation)
    naive.activation_statistics(want, a, z, activation)
    np.testing.assert_allclose(stats.copy_to_host(), want, rtol=1e-9)


def test_spread_beside_a_large_mean():
    a = 1e8 + np.random.default_rng(3).normal(size=(9, 5))
    stats = output(4, np.float64)
    cuda.activation_statistics(stats, driver.to_device(a), driver.to_device(a), "identity")
    np.testing.assert_allclose(stats.copy_to_host()[:2], [a.mean(), a.std()], rtol=1e-9)


def test_bad_arguments_are_refused_and_write_nothing(dtype, there):
    x, x_there = there(4, 3, dtype=dtype)
    y = output((4, 3), dtype)
    bad = {
        "a NumPy array": (TypeError, "a: got ndarray", lambda: cuda.activation_forward(x, x_there, "relu")),
        "a shape": (
            ValueError,
            "z: got shape",
            lambda: cuda.activation_forward(y, there(3, 4, dtype=dtype)[1], "relu"),
        ),
        "a dtype": (
            TypeError,
            "z: got dtype",
            lambda: cuda.activation_forward(y, driver.to_device(x.astype(int)), "relu"),
        ),
        "overlap": (ValueError, "a: shares memory", lambda: cuda.activation_forward(x_there, x_there, "relu")),
        "a name": (ValueError, "activation: got", lambda: cuda.activation_forward(y, x_there, "rely")),
        "a label": (
            ValueError,
            "t: got labels",
            lambda: cuda.cross_entropy(y, x_there, driver.to_device(np.arange(4))),
        ),
        "a rate": (ValueError, "rate: got", lambda: cuda.dropout_forward(y, x_there, 1.0, 0, 0, 0)),
        "a state": (ValueError, "velocity: got None", lambda: cuda.sgd_update(y, None, x_there, 0.1, 0.9)),
        "columns": (
            ValueError,
            "w: got shape",
            lambda: cuda.dense_forward(y, output((4, 3), dtype), x_there, x_there, None),
        ),
        "order": (ValueError, "C-contiguous", lambda: cuda.global_norm(driver.to_device(np.asfortranarray(x)))),
    }
    for what, (kind, text, call) in bad.items():
        with pytest.raises(kind) as caught:
            call()
        assert text in str(caught.value), (what, str(caught.value))
    assert np.isnan(y.copy_to_host()).all()
    np.testing.assert_array_equal(x_there.copy_to_host(), x)


def of_ones(*shape, dtype="float32"):
    return np.ones(shape, dtype)


REFUSED = {
    "a flag": ("matmul", (of_ones(3, 5), of_ones(3, 4), of_ones(4, 5), "no", 0)),
    "another flag": ("matmul", (of_ones(3, 5), of_ones(3, 4), of_ones(4, 5), False, None)),
    "a factor's rows": ("matmul", (of_ones(3, 5), of_ones(2, 4), of_ones(4, 5))),
    "a factor's columns": ("matmul", (of_ones(3, 5), of_ones(4, 3), of_ones(5, 5), True, True)),
    "a factor's axes": ("matmul", (of_ones(3, 5), of_ones(3, 4), of_ones(20))),
    "weights": ("dense_forward", (of_ones(3, 5), of_ones(3, 5), of_ones(3, 4), of_ones(20), None)),
    "a float type": (
        "dense_backward", (None, of_ones(4, 5), None, of_ones(3, 5, dtype="float64"), of_ones(3, 4), of_ones(4, 5))
    ),
    "a type of labels": ("cross_entropy", (of_ones(3, 4), of_ones(3, 4), of_ones(3, dtype="int32"))),
    "a count": ("poisson", (of_ones(2, 2), of_ones(2, 2), np.array([[1, np.nan], [-2, -3]], "float32"))),
    "a limit": ("clip_by_value", (of_ones(3), np.float32("nan"))),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_in_the_cpus_words(what):
    name, arguments = REFUSED[what]
    said = []
    for module, put in ((kernels, np.copy), (cuda, driver.to_device)):
        own = [put(value) if isinstance(value, np.ndarray) else value for value in arguments]
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(module, name)(*own)
        said.append((caught.type, str(caught.value)))
    assert said[0] == said[1]


def test_a_limit_may_be_infinite(dtype, there):
    grad, grad_there = there(5, dtype=dtype)
    cuda.clip_by_value(grad_there, np.inf)
    assert cuda.clip_by_norm(grad_there, np.inf) == pytest.approx(np.linalg.norm(grad), rel=1e-6)
    np.testing.assert_array_equal(grad_there.copy_to_host(), grad)
    (y, y_there), (t, t_there), d = there(3, 2, dtype=dtype), there(3, 2, dtype=dtype), output((3, 2), dtype)
    assert cuda.huber(d, y_there, t_there, delta=np.inf) == pytest.approx(np.square(y - t).mean() / 2, rel=1e-5)


def test_labels_of_a_library_whose_types_are_not_numpys(monkeypatch, there):
    """PyTorch's int64 is not equal to NumPy's."""

    class Tensor:
        dtype, shape = "torch.int64", (3,)

        def __init__(self, array):
            self.array = array

    as_device = _arrays.as_device
    for module in (_arrays, loss):
        monkeypatch.setattr(
            module, "as_device", lambda name, given: as_device(name, getattr(given, "array", given)), False
        )
    z, z_there = there(3, 4, dtype="float32")
    labels, d = np.array([3, 0, 2]), output((3, 4), "float32")
    got = cuda.cross_entropy(d, z_there, Tensor(driver.to_device(labels)))
    assert got == pytest.approx(kernels.cross_entropy(np.empty_like(z), z, labels), rel=1e-6)


def test_the_check_finds_nothing_and_would_find_something(capsys, monkeypatch):
    assert check.main(("float32",)) == 0
    assert "all well" in capsys.readouterr().out
    monkeypatch.setattr(check, "CHECKS", {"losses": check.check_losses})
    monkeypatch.setattr(cuda, "huber", lambda dy, y, t, w: 1.001 * cuda.absolute_error(dy, y, t, w), raising=False)
    assert check.main(("float32",)) == 1
    assert "FAILED: huber: got" in capsys.readouterr().out


def test_checks_run_several_at_a_time_and_what_they_raise_is_a_problem():
    asked = [("updates, penalties, norms", "float32"), ("losses", "float31"), ("no such check", "float32")]
    good, bad, none = check._outcomes(asked, 2)
    assert (good.compared, good.problem) == (26, "")
    assert good.library == check.describe_library()
    assert "float31" in bad.problem
    assert none.problem == "KeyError: 'no such check'"


def test_a_full_device_is_said_to_be_full(monkeypatch):
    class Full:
        """A device whose allocations fail as the driver's do."""

        def __init__(self, message):
            self.message = message

        def device_array(self, shape, dtype):
            raise RuntimeError(self.message)

        to_device = functools.partialmethod(device_array, None)

        def current_context(self):
            return types.SimpleNamespace(get_memory_info=lambda: (1_500_000_000, 8_000_000_000))

    monkeypatch.setattr(_arrays, "driver", Full("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"))
    for allocate in (lambda: _arrays.empty((1000, 1000), np.float64), lambda: _arrays.to_device(np.zeros(1_000_000))):
        with pytest.raises(
            MemoryError, match=r"device: 0\.01 GB do not fit on the GPU, which has 1\.50 of 8\.00 GB free"
        ):
            allocate()
    monkeypatch.setattr(_arrays, "driver", Full("[700] an illegal address"))
    with pytest.raises(RuntimeError, match="illegal address"):
        _arrays.empty(3, np.float32)


def test_a_tensor_of_another_library_that_may_only_be_read_is_not_written_to(monkeypatch):
    """What Numba makes of it does not know that any more: the tensor itself is asked."""

    class Tensor:
        def __init__(self, read_only):
            self.__cuda_array_interface__ = {"data": (256, read_only)}

    view = types.SimpleNamespace(dtype=np.dtype("float32"), shape=(3,), is_c_contiguous=lambda: True)
    monkeypatch.setattr(_arrays, "SIMULATED", False)
    monkeypatch.setattr(
        _arrays, "driver", types.SimpleNamespace(is_cuda_array=lambda array: True, as_cuda_array=lambda array: view)
    )
    assert _arrays.check_array("w", Tensor(False), writable=True) is view
    assert _arrays.check_array("w", Tensor(True)) is view
    with pytest.raises(ValueError, match="w: got a read-only array, expected a writable one"):
        _arrays.check_array("w", Tensor(True), writable=True)


def test_memory_that_host_and_device_share_is_taken_for_the_devices(monkeypatch):
    """Numba's managed arrays are NumPy's: their own reshape makes what the device knows nothing of."""

    class Managed(np.ndarray):
        __cuda_ndarray__ = True

    view = types.SimpleNamespace(dtype=np.dtype("float32"), shape=(3, 4), is_c_contiguous=lambda: True)
    monkeypatch.setattr(_arrays, "SIMULATED", False)
    monkeypatch.setattr(
        _arrays, "driver", types.SimpleNamespace(is_cuda_array=lambda array: True, as_cuda_array=lambda array: view)
    )
    shared = np.zeros((3, 4), np.float32).view(Managed)
    monkeypatch.setattr(Managed, "__cuda_array_interface__", {"data": (256, False)}, raising=False)
    assert _arrays.check_array("w", shared, writable=True) is view


def a_card(monkeypatch, module, **properties):
    """Put the properties of a card where `module` asks for them."""
    card = types.SimpleNamespace(**properties)
    fake = types.SimpleNamespace(
        is_available=lambda: True, get_current_device=lambda: card, jit=lambda signature: lambda function: None
    )
    monkeypatch.setattr(module, "SIMULATED", False)
    monkeypatch.setattr(module, "driver", fake)
    return card


@pytest.mark.parametrize(("capability", "fits"), [((5, 2), False), ((6, 1), False), ((7, 0), True), ((12, 0), True)])
def test_a_card_that_is_too_old_is_missing(capability, fits, monkeypatch):
    a_card(monkeypatch, _numba, compute_capability=capability)
    have = ".".join(map(str, capability))
    want = "" if fits else f"this device has compute capability {have}, and kernels take 7.0 or more"
    assert _numba.missing.__wrapped__() == want


def test_multiprocessors_are_those_of_the_current_device(monkeypatch):
    card = a_card(monkeypatch, _launch, MULTIPROCESSOR_COUNT=132)
    assert _launch.processors() == 132
    card.MULTIPROCESSOR_COUNT = 84
    assert (_launch.processors(), _launch.grid_of(10**9)) == (84, 8 * 84)
