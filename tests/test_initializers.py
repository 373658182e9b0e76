"""Initial weights: their moments and bounds, orthogonality, the same bits for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastnn.initializers import NAMES, Initializer, as_initializer, default_for, initialize

VARIANCE = {
    "glorot_uniform": lambda i, o: 2 / (i + o),
    "glorot_normal": lambda i, o: 2 / (i + o),
    "he_uniform": lambda i, o: 2 / i,
    "he_normal": lambda i, o: 2 / i,
    "lecun_uniform": lambda i, o: 1 / i,
    "lecun_normal": lambda i, o: 1 / i,
    "orthogonal": lambda i, o: 1 / max(i, o),
    "normal": lambda i, o: 1e-4,
    "uniform": lambda i, o: 0.05**2 / 3,
}
SHAPES = [(400, 100), (100, 400)]
ACTIVATIONS = (
    "identity relu leaky_relu elu sigmoid tanh softplus gelu silu softmax".split()  # noqa: SIM905, names
)


def draw(initializer, shape, dtype="float64", seed=0):
    return initialize(initializer, shape, rng=np.random.default_rng(seed), dtype=dtype)


def test_the_names_are_these():
    assert set(NAMES) == {*VARIANCE, "zeros"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", VARIANCE)
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_mean_and_variance(name, shape, gain):
    w = draw(Initializer(name, gain), shape)
    std = gain * math.sqrt(VARIANCE[name](*shape))
    # 40,000 draws: the mean's own deviation is std / 200, the variance's at most sqrt(2) / 200 = 0.7%
    assert abs(w.mean()) < 5 * std / 200
    np.testing.assert_allclose(w.var(), std**2, rtol=0.03)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in VARIANCE if "uniform" in name])
def test_uniform_fills_its_bounds_evenly(name, shape):
    w = draw(name, shape)
    limit = math.sqrt(3 * VARIANCE[name](*shape))
    assert np.abs(w).max() <= limit
    share = np.histogram(w, bins=10, range=(-limit, limit))[0] / w.size
    np.testing.assert_allclose(share, 0.1, atol=0.01)


@pytest.mark.parametrize("name", [name for name in VARIANCE if "normal" in name])
def test_normal_is_normal_and_not_truncated(name):
    z = draw(name, (400, 100)) / math.sqrt(VARIANCE[name](400, 100))
    share = [(np.abs(z) < k).mean() for k in (1, 2, 3)]
    np.testing.assert_allclose(share, [0.6827, 0.9545, 0.9973], atol=0.01)
    assert np.abs(z).max() > 3.5


def test_zeros():
    np.testing.assert_array_equal(draw("zeros", (3, 2)), np.zeros((3, 2)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (3, 5), (64, 64), (131, 67), (67, 131)])
def test_orthogonal_has_orthonormal_columns_or_rows(shape):
    w = draw(Initializer("orthogonal", gain=2.0), shape)
    product = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(product, 4.0 * np.eye(min(shape)), atol=1e-13)


def test_orthogonal_draws_all_orthogonal_matrices_alike():
    # Under the uniform measure on O(3): E[q] = 0, E[q^2] = 1/3, E[q^4] = 1/5, and either sign of det q.
    rng = np.random.default_rng(1)
    q = np.array([initialize("orthogonal", (3, 3), rng=rng, dtype="float64") for _ in range(4000)])
    np.testing.assert_allclose(q.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose((q**2).mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((q**4).mean(axis=0), 1 / 5, atol=0.02)
    np.testing.assert_allclose((np.linalg.det(q) > 0).mean(), 0.5, atol=0.04)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "zeros"])
def test_the_seed_decides_and_the_generator_advances(name):
    first, again, other = (draw(name, (17, 9), seed=seed) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert (first != other).all()
    rng = np.random.default_rng(5)
    assert initialize(name, (17, 9), rng=rng, dtype="float64").tobytes() == first.tobytes()
    assert (initialize(name, (17, 9), rng=rng, dtype="float64") != first).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (6, 4), (4, 6)])
def test_float32_is_float64_rounded_in_c_order(name, shape):
    wide, narrow = draw(name, shape), draw(name, shape, dtype=np.float32)
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
    assert narrow.tobytes() == wide.astype(np.float32).tobytes()
    for w in (wide, narrow):
        assert w.shape == shape
        assert w.flags.c_contiguous
        assert w.flags.writeable


def test_float32_is_the_default():
    assert initialize("normal", (2, 2), rng=np.random.default_rng(0)).dtype == np.float32


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_he_keeps_signals_level_through_many_relu_layers(activation):
    assert default_for(activation) == "he_uniform"
    slope = {"relu": 0.0, "leaky_relu": 0.01}[activation]
    rng = np.random.default_rng(0)
    a = rng.standard_normal((64, 256))
    for _ in range(20):
        z = a @ initialize(default_for(activation), (256, 256), rng=rng, dtype="float64")
        a = np.where(z > 0, z, slope * z)
    assert 0.5 < np.mean(z**2) / 2 < 2  # He's variance of z is 2 E[x^2] = 2; one standard deviation is 20%


def test_every_activation_has_a_default():
    defaults = {name: default_for(name) for name in ACTIVATIONS}
    glorot = {name for name, default in defaults.items() if default == "glorot_uniform"}
    assert glorot == {"identity", "sigmoid", "tanh", "softmax"}
    assert set(defaults.values()) == {"glorot_uniform", "he_uniform"}


def test_as_initializer():
    given = Initializer("orthogonal", gain=2)
    assert as_initializer(given) is given
    assert given.gain == 2.0
    assert as_initializer("he_normal") == Initializer("he_normal", 1.0)
    assert as_initializer("auto", "relu") == Initializer("he_uniform")
    assert as_initializer("auto", "tanh") == Initializer("glorot_uniform")
    assert as_initializer("zeros", "tanh") == Initializer("zeros")


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: as_initializer("he"),
            ValueError,
            r"initializer: got 'he', expected one of 'glorot_uniform'",
        ),
        (lambda: as_initializer("he_unifrom"), ValueError, r"Did you mean 'he_uniform'\?"),
        (
            lambda: as_initializer("auto"),
            ValueError,
            r"initializer: got 'auto', expected one of 'glorot_uniform'",
        ),
        (
            lambda: as_initializer("aut", "relu"),
            ValueError,
            r"expected one of 'auto', .* Did you mean 'auto'\?",
        ),
        (
            lambda: as_initializer("auto", "rleu"),
            ValueError,
            r"activation: got 'rleu'.* Did you mean 'relu'\?",
        ),
        (lambda: as_initializer(None), ValueError, r"initializer: got None, expected one of"),
        (lambda: as_initializer(["zeros"]), ValueError, r"initializer: got \['zeros'\], expected one of"),
        (lambda: Initializer(["zeros"]), ValueError, r"initializer: got \['zeros'\], expected one of"),
        (lambda: default_for(["relu"]), ValueError, r"activation: got \['relu'\], expected one of"),
        (lambda: default_for(None), ValueError, r"activation: got None, expected one of 'relu'"),
        (lambda: Initializer("normal", gain=0), ValueError, r"gain: got 0, expected a number > 0"),
        (lambda: Initializer("normal", gain="2"), TypeError, r"gain: got '2'"),
        (lambda: draw("normal", (0, 3)), ValueError, r"inputs: got 0, expected an integer >= 1"),
        (lambda: draw("normal", (3, 2.0)), TypeError, r"units: got 2.0 \(float\), expected an integer >= 1"),
        (lambda: draw("normal", 3), ValueError, r"shape: got 3, expected \(inputs, units\)"),
        (
            lambda: draw("normal", (3, 2, 1)),
            ValueError,
            r"shape: got \(3, 2, 1\), expected \(inputs, units\)",
        ),
        (
            lambda: draw("normal", (3, 2), dtype="float16"),
            ValueError,
            r"dtype: got float16, expected float32 or",
        ),
        (
            lambda: draw("normal", (3, 2), dtype=np.int64),
            ValueError,
            r"dtype: got int64, expected float32 or",
        ),
        (
            lambda: initialize("normal", (3, 2), rng=0),
            TypeError,
            r"rng: got 0 \(int\), expected a numpy.random.Gen",
        ),
    ],
)
def test_wrong_arguments_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
