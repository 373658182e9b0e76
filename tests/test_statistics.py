"""Activation statistics, the numbers behind the diagnosis of vanishing and exploding gradients."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from conftest import sampled_shapes

from fastnn.kernels.activation import activation_forward
from fastnn.kernels.statistics import activation_statistics

pytestmark = pytest.mark.usefixtures("one_thread")

every_activation = pytest.mark.parametrize("activation", naive.ACTIVATIONS)


def forward(z, activation):
    a = np.empty_like(z)
    activation_forward(a, z, activation)
    return a


@every_activation
def test_matches_naive(activation, dtype, rng, guard, same_bits):
    for shape in [(1, 1), (4, 1), (1, 5), (300, 65), *sampled_shapes(2, 6, seed=7, sizes=(2, 3, 17, 33, 65))]:
        # Units from nearly off to nearly on, so that some are flat in every row.
        z = guard.input(rng.normal(scale=2.0, size=shape) + rng.normal(scale=8.0, size=shape[1]), dtype)
        a = guard.input(forward(z, activation))

        def compute(a=a, z=z):
            stats = guard.output((4,), np.float64)
            activation_statistics(stats, a, z, activation)
            return stats

        stats = same_bits(compute)
        guard.check()
        want = np.empty(4)
        naive.activation_statistics(want, a, z, activation)
        np.testing.assert_allclose(stats, want, rtol=1e-10, atol=1e-10)


def test_leaky_relu_is_never_flat(dtype):
    """Its smallest slope is 1% itself: not below it, in either dtype."""
    z = np.full((5, 3), -1.0, dtype)
    stats = np.full(4, np.nan)
    activation_statistics(stats, forward(z, "leaky_relu"), z, "leaky_relu")
    np.testing.assert_array_equal(stats[2:], [0.0, 0.0])


def test_dead_and_live_relu_units(dtype):
    z = np.array([[1.0, -1.0, -1.0, 0.0], [2.0, -2.0, 3.0, -0.0]], dtype)
    stats = np.full(4, np.nan)
    activation_statistics(stats, forward(z, "relu"), z, "relu")
    np.testing.assert_allclose(stats, [6 / 8, np.std([1, 0, 0, 0, 2, 0, 3, 0]), 5 / 8, 2 / 4], rtol=1e-12)


@pytest.mark.parametrize("mean", [1e4, 1e8, -1e12])
def test_spread_beside_a_large_mean(mean, rng):
    """The difference of two large sums must not swallow it."""
    a = mean + rng.normal(size=(300, 7))
    stats = np.full(4, np.nan)
    activation_statistics(stats, a, a.copy(), "identity")
    np.testing.assert_allclose(stats[:2], [a.mean(), (a - mean).std()], rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 1)])
def test_what_is_not_finite_has_no_spread(bad, place, dtype, rng):
    a = rng.normal(size=(5, 3)).astype(dtype)
    a[place] = bad
    stats = np.zeros(4)
    activation_statistics(stats, a, a.copy(), "identity")
    np.testing.assert_array_equal(stats[:2], [bad, np.nan])


def test_broken_arguments_are_refused(dtype, rng, refuses):
    z = rng.normal(size=(4, 6)).astype(dtype)
    stats = np.full(4, np.nan)
    # `stats` is float64 always, and is told from the data by its shape.
    refuses(activation_statistics, ["stats"], stats=stats, a=forward(z, "tanh"), z=z, activation="tanh")
    with pytest.raises((TypeError, ValueError), match="activation: got"):
        activation_statistics(stats, z, z, "rleu")
    with pytest.raises(ValueError, match="a: got shape"):
        activation_statistics(stats, z[:0].copy(), z[:0].copy(), "tanh")
    assert np.isnan(stats).all()
