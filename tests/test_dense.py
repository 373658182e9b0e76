"""The dense layer, forward and backward, alone and with its activation."""

from __future__ import annotations

import naive
import numba
import numpy as np
import pytest
from conftest import sampled_shapes

from fastnn.kernels.activation import activation_backward, activation_forward
from fastnn.kernels.dense import column_sums, dense_backward, dense_forward

pytestmark = pytest.mark.usefixtures("one_thread")

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
SMALL = sampled_shapes(3, 10, seed=4, sizes=(1, 2, 3, 5, 7, 13, 15, 17))
# Both below and above the size where the work is cut into parallel blocks.
LARGE = [*sampled_shapes(3, 19, seed=5), (300, 257, 200), (128, 784, 256), (64, 1024, 10), (513, 1, 700)]

every_activation = pytest.mark.parametrize("activation", naive.ACTIVATIONS)


def within(got, want, magnitude, steps, dtype):
    """|got - want| is at most `steps` rounding errors of `magnitude`, the sum of the terms' sizes."""
    bound = (steps + 3) * (UNIT[dtype.name] + 2.0**-53) * magnitude
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= bound).all(), f"error {np.nanmax(error)}, bound there {bound.flat[np.nanargmax(error)]}"


@every_activation
@pytest.mark.parametrize("with_bias", [True, False])
def test_forward_matches_naive(activation, with_bias, dtype, rng, guard):
    for rows, k, n in SMALL:
        x = guard.input(rng.normal(size=(rows, k)), dtype)
        w = guard.input(rng.normal(size=(k, n)), dtype)
        b = guard.input(rng.normal(size=n), dtype) if with_bias else None
        a, z = guard.output((rows, n), dtype), guard.output((rows, n), dtype)
        dense_forward(a, z, x, w, b, activation)
        guard.check()
        want_a, want_z = np.empty((rows, n)), np.empty((rows, n))
        naive.dense_forward(want_a, want_z, x, w, b, activation)
        magnitude = np.abs(x).astype(np.float64) @ np.abs(w) + (0 if b is None else np.abs(b))
        within(z, want_z, magnitude, k, dtype)
        # No slope is larger than 1.13, and an activation adds a few rounding errors of its own.
        within(a, want_a, 1.13 * magnitude + np.abs(want_a), k + 6, dtype)


@pytest.mark.parametrize("with_bias", [True, False])
def test_forward_of_awkward_and_large_shapes(with_bias, dtype, rng, guard, same_bits):
    for rows, k, n in LARGE:
        x = guard.input(rng.normal(size=(rows, k)), dtype)
        w = guard.input(rng.normal(size=(k, n)), dtype)
        b = guard.input(rng.normal(size=n), dtype) if with_bias else None

        def compute(x=x, w=w, b=b, shape=(rows, n)):
            a, z = guard.output(shape, dtype), guard.output(shape, dtype)
            dense_forward(a, z, x, w, b, "tanh")
            return a, z

        a, z = same_bits(compute)
        guard.check()
        want = x.astype(np.float64) @ w.astype(np.float64) + (0 if b is None else b.astype(np.float64))
        within(z, want, np.abs(x).astype(np.float64) @ np.abs(w) + (0 if b is None else np.abs(b)), k + 1, dtype)
        alone = np.empty_like(z)
        activation_forward(alone, z, "tanh")
        np.testing.assert_array_equal(a, alone)


def test_identity_is_the_default(dtype, rng):
    x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((5, 3), (3, 4), (4,)))
    a, z = np.full((5, 4), np.nan, dtype), np.full((5, 4), np.nan, dtype)
    dense_forward(a, z, x, w, b)
    np.testing.assert_array_equal(a, z)
    np.testing.assert_allclose(z, x @ w + b, rtol=1e-4, atol=1e-5)


def test_backward_matches_naive(dtype, rng, guard):
    for rows, k, n in SMALL:
        x = guard.input(rng.normal(size=(rows, k)), dtype)
        w = guard.input(rng.normal(size=(k, n)), dtype)
        dz = guard.input(rng.normal(size=(rows, n)), dtype)
        dx, dw, db = (guard.output(shape, dtype) for shape in ((rows, k), (k, n), (n,)))
        dense_backward(dx, dw, db, dz, x, w)
        guard.check()
        want_dx, want_dw, want_db = np.empty((rows, k)), np.empty((k, n)), np.empty(n)
        naive.dense_backward(want_dx, want_dw, want_db, dz, x, w)
        within(dx, want_dx, np.abs(dz).astype(np.float64) @ np.abs(w.T), n, dtype)
        within(dw, want_dw, np.abs(x.T).astype(np.float64) @ np.abs(dz), rows, dtype)
        within(db, want_db, np.abs(dz).astype(np.float64).sum(axis=0), rows, dtype)


@numba.njit
def sum_columns(out, d, n, rows, cut):
    column_sums(out, 0, d, 0, n, rows, 0, cut, False)
    column_sums(out, 0, d, 0, n, rows, cut, n, False)


def test_a_sum_of_rows_is_the_same_wherever_columns_are_cut(dtype, rng):
    for rows in (1, 3, 4, 5, 9, 100, 150):
        d = rng.normal(size=(rows, 300)).astype(dtype)
        want = np.empty(300, dtype)
        sum_columns(want, d.reshape(-1), 300, rows, 300)
        for cut in (1, 8, 16, 32, 40, 64, 96, 160, 257):
            got = np.empty(300, dtype)
            sum_columns(got, d.reshape(-1), 300, rows, cut)
            np.testing.assert_array_equal(got, want, err_msg=f"{rows} rows, cut at {cut}")


def test_bias_gradients_are_sums_of_rows_in_four_chains(dtype, rng, guard):
    """Whole panels of columns, parts of one, and rows of which several fill a vector."""
    shapes = [(rows, n) for rows in (1, 2, 5) for n in range(1, 131)]
    for rows, n in [
        *shapes,
        *[(rows, n) for rows in (64, 319, 320, 321, 700) for n in (1, 7, 16, 40, 64, 75, 128, 150)],
    ]:
        dz = guard.input(rng.normal(size=(rows, n)), dtype)
        db = guard.output((n,), dtype)
        dense_backward(None, np.empty((1, n), dtype), db, dz, np.zeros((rows, 1), dtype), np.zeros((1, n), dtype))
        if n not in (1, 2, 4, 8):  # of which a vector holds several rows
            whole = rows - rows % 4
            chains = [np.zeros(n, dtype) for _ in range(4)]
            for row in range(rows):
                chains[row % 4 if row < whole else 0] += dz[row]
            want = (chains[0] + chains[1]) + (chains[2] + chains[3])
            np.testing.assert_array_equal(db, want, err_msg=f"{rows} rows of {n}")
        exact, size = dz.astype(np.longdouble).sum(0), np.abs(dz).astype(float).sum(0)
        chain = (rows // 4 + 3 + 5) * np.finfo(dtype).eps / 2
        assert (np.abs(db - exact) <= chain * size).all(), f"{rows} rows of {n}"


@pytest.mark.parametrize(("with_dx", "with_db"), [(True, True), (True, False), (False, True), (False, False)])
def test_backward_of_awkward_and_large_shapes(with_dx, with_db, dtype, rng, guard, same_bits):
    for rows, k, n in LARGE:
        x = guard.input(rng.normal(size=(rows, k)), dtype)
        w = guard.input(rng.normal(size=(k, n)), dtype)
        dz = guard.input(rng.normal(size=(rows, n)), dtype)

        def compute(x=x, w=w, dz=dz, rows=rows, k=k, n=n):
            dx = guard.output((rows, k), dtype) if with_dx else None
            db = guard.output((n,), dtype) if with_db else None
            dw = guard.output((k, n), dtype)
            dense_backward(dx, dw, db, dz, x, w)
            return tuple(out for out in (dw, dx, db) if out is not None)

        dw, *others = same_bits(compute)
        guard.check()
        x64, w64, dz64 = (array.astype(np.float64) for array in (x, w, dz))
        within(dw, x64.T @ dz64, np.abs(x64.T) @ np.abs(dz64), rows, dtype)
        if with_dx:
            within(others[0], dz64 @ w64.T, np.abs(dz64) @ np.abs(w64.T), n, dtype)
        if with_db:
            within(others[-1], dz64.sum(axis=0), np.abs(dz64).sum(axis=0), rows, dtype)


@every_activation
def test_gradients_match_central_differences(activation, rng):
    """The chain dense, activation, weighted sum, by x, w and b in float64."""
    rows, k, n = 4, 5, 3
    x, w, b = rng.normal(size=(rows, k)), rng.normal(size=(k, n)), rng.normal(size=n)
    direction = rng.normal(size=(rows, n))
    a, z, dz = (np.full((rows, n), np.nan) for _ in range(3))

    def value():
        out_a, out_z = np.empty((rows, n)), np.empty((rows, n))
        dense_forward(out_a, out_z, x, w, b, activation)
        return float((out_a * direction).sum())

    dense_forward(a, z, x, w, b, activation)
    assert np.abs(z).min() > 1e-4, "too near a kink"
    activation_backward(dz, direction, z, a, activation)
    gradients = [np.full_like(array, np.nan) for array in (x, w, b)]
    dense_backward(*gradients, dz, x, w)
    h = 1e-5
    for array, gradient in zip((x, w, b), gradients, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + h
            above = value()
            array[index] = kept - h
            below = value()
            array[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * h), rel=1e-7, abs=1e-8)


def test_nan_stays_visible(dtype, rng):
    x, w, b = (
        rng.normal(size=(9, 6)).astype(dtype),
        rng.normal(size=(6, 35)).astype(dtype),
        np.zeros(35, dtype),
    )
    x[8, 5] = np.nan
    a, z = np.zeros((9, 35), dtype), np.zeros((9, 35), dtype)
    dense_forward(a, z, x, w, b, "relu")
    assert np.isnan(a[8]).all()
    assert np.isfinite(a[:8]).all()
    x[8, 5] = 0.0
    b[34] = np.nan
    dense_forward(a, z, x, w, b, "relu")
    assert np.isnan(a[:, 34]).all()
    assert np.isfinite(a[:, :34]).all()


@pytest.mark.parametrize("shape", [(3, 0, 4), (0, 5, 4), (3, 5, 0)])
def test_empty_dimensions(shape, dtype, guard):
    rows, k, n = shape
    x, w, dz = (
        guard.input(np.ones((rows, k)), dtype),
        guard.input(np.ones((k, n)), dtype),
        np.ones((rows, n), dtype),
    )
    b = guard.input(np.full(n, -2.0), dtype)
    a, z = guard.output((rows, n), dtype), guard.output((rows, n), dtype)
    dense_forward(a, z, x, w, b, "relu")
    np.testing.assert_array_equal(z, np.full((rows, n), k - 2.0))
    np.testing.assert_array_equal(a, np.maximum(z, 0))
    dx, dw, db = guard.output((rows, k), dtype), guard.output((k, n), dtype), guard.output((n,), dtype)
    dense_backward(dx, dw, db, dz, x, w)
    np.testing.assert_array_equal(dx, np.full((rows, k), float(n)))
    np.testing.assert_array_equal(dw, np.full((k, n), float(rows)))
    np.testing.assert_array_equal(db, np.full(n, float(rows)))


def test_broken_arguments_are_refused(dtype, rng, refuses):
    x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((4, 6), (6, 5), (5,)))
    a, z = np.full((4, 5), np.nan, dtype), np.full((4, 5), np.nan, dtype)
    refuses(dense_forward, ["a", "z"], a=a, z=z, x=x, w=w, b=b, activation="tanh")
    dz = rng.normal(size=(4, 5)).astype(dtype)
    dx, dw, db = (np.full(shape, np.nan, dtype) for shape in ((4, 6), (6, 5), (5,)))
    refuses(dense_backward, ["dx", "dw", "db"], dx=dx, dw=dw, db=db, dz=dz, x=x, w=w)
    with pytest.raises((TypeError, ValueError), match="activation: got 'rleu'"):
        dense_forward(a, z, x, w, b, "rleu")
    with pytest.raises((TypeError, ValueError), match="dw: got"):
        dense_backward(dx, None, db, dz, x, w)
    assert np.isnan(a).all()
    assert np.isnan(dx).all()
