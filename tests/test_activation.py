"""Activations, derivatives and softmax: against `naive`, against float64 in ulps, at the range's ends."""

from __future__ import annotations

import math

import naive
import numba
import numpy as np
import pytest
from conftest import assert_ulps, float_sweep, sampled_shapes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastnn.kernels import elementary
from fastnn.kernels.activation import activation_backward, activation_forward, softmax_forward

pytestmark = pytest.mark.usefixtures("one_thread")

EPS = {"float32": 2.0**-24, "float64": 2.0**-53}
TRANSCENDENTAL = ("elu", "sigmoid", "tanh", "softplus", "gelu", "silu")
SHAPES = [(1,), (17,), (257,), (3, 5), (33, 65), (2, 3, 7), (8191,), (8192,), (8193,)]

every_activation = pytest.mark.parametrize("activation", naive.ACTIVATIONS)
erfc = np.frompyfunc(math.erfc, 1, 1)


def reference(z, activation):
    """f(z) of a float64 array, by NumPy and the C library."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        e = np.exp(-np.abs(z))
        if activation == "elu":
            return np.where(z > 0, z, np.expm1(z))
        if activation == "sigmoid":
            return np.where(z >= 0, 1.0, e) / (1.0 + e)
        if activation == "tanh":
            return np.tanh(z)
        if activation == "softplus":
            return np.maximum(z, 0.0) + np.log1p(e)
        if activation == "gelu":
            return 0.5 * z * erfc(-z / math.sqrt(2.0)).astype(np.float64)
        if activation == "silu":
            return z * (np.where(z >= 0, 1.0, e) / (1.0 + e))
    raise ValueError(activation)


def forward(z, activation):
    a = np.full_like(z, np.nan)
    activation_forward(a, z, activation)
    return a


# ---------------------------------------------------------------------------- against the naive twin


@every_activation
def test_forward_matches_naive(activation, dtype, rng, guard, same_bits):
    for shape in SHAPES[:-2]:
        z = guard.input(rng.normal(scale=4.0, size=shape), dtype)
        want = np.empty(shape)
        naive.activation_forward(want, z, activation)

        def compute(z=z):
            a = guard.output(z.shape, dtype)
            activation_forward(a, z, activation)
            return a

        got = same_bits(compute)
        guard.check()
        if dtype == np.float32:
            assert_ulps(got, want, dtype, 4, at=z)
        else:
            # The oracle is float64 itself; its normal tail is good to z^2 ulp.
            np.testing.assert_allclose(got, want, rtol=1e-13, atol=0)


@every_activation
def test_backward_matches_naive(activation, dtype, rng, guard, same_bits):
    eps = EPS[dtype.name]
    for shape in SHAPES[:-2]:
        z = guard.input(rng.normal(scale=4.0, size=shape), dtype)
        da = guard.input(rng.normal(size=shape), dtype)
        a = guard.input(forward(z, activation))
        want = np.empty(shape)
        naive.activation_backward(want, da, z, a, activation)

        def compute(z=z, da=da, a=a):
            dz = guard.output(z.shape, dtype)
            activation_backward(dz, da, z, a, activation)
            return dz

        got = same_bits(compute)
        guard.check()
        # The slope of a saturating activation comes from its rounded output: the error is absolute.
        assert (np.abs(got - want) <= 12 * eps * np.abs(da)).all()


@pytest.mark.parametrize("kernel", ["forward", "backward", "softmax"])
def test_same_bits_for_any_number_of_threads(kernel, dtype, rng, same_bits):
    """Large enough for many parallel blocks, the last of them short."""
    z = rng.normal(scale=3.0, size=(1237, 127)).astype(dtype)
    da = rng.normal(size=z.shape).astype(dtype)
    a = forward(z, "gelu")

    def compute():
        out = np.full_like(z, np.nan)
        if kernel == "forward":
            activation_forward(out, z, "gelu")
        elif kernel == "backward":
            activation_backward(out, da, z, a, "gelu")
        else:
            softmax_forward(out, z)
        return out

    assert np.isfinite(same_bits(compute)).all()


@every_activation
def test_result_of_an_element_does_not_depend_on_its_place(activation, dtype, rng):
    """Vector body and scalar remainder of a loop round alike."""
    z = rng.normal(scale=3.0, size=67).astype(dtype)
    whole = forward(z, activation)
    one_by_one = np.concatenate([forward(z[i : i + 1].copy(), activation) for i in range(z.size)])
    np.testing.assert_array_equal(whole, one_by_one)


def test_empty_arrays_do_nothing(dtype):
    for shape in ((0,), (0, 3), (3, 0)):
        empty = np.empty(shape, dtype)
        activation_forward(np.empty(shape, dtype), empty, "tanh")
        activation_backward(np.empty(shape, dtype), empty, empty.copy(), empty.copy(), "tanh")


# --------------------------------------------------------------------------------------- derivatives


@every_activation
def test_backward_is_the_derivative_of_forward(activation):
    z = np.linspace(-6.0, 6.0, 401) + 1e-3
    h = 1e-5
    slope = (forward(z + h, activation) - forward(z - h, activation)) / (2 * h)
    dz = np.full_like(z, np.nan)
    activation_backward(dz, np.full_like(z, 2.0), z, forward(z, activation), activation)
    away_from_kink = np.abs(z) > 2 * h
    np.testing.assert_allclose(dz[away_from_kink], 2.0 * slope[away_from_kink], rtol=1e-8, atol=2e-10)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0)])
def test_slope_at_zero_is_the_one_from_the_left(activation, slope, dtype):
    z = np.array([0.0, -0.0], dtype)
    dz = np.full_like(z, np.nan)
    activation_backward(dz, np.ones_like(z), z, forward(z, activation), activation)
    np.testing.assert_array_equal(dz, np.full(2, slope, dtype))


@pytest.mark.parametrize("activation", TRANSCENDENTAL)
def test_slope_is_accurate_in_float32(activation, rng):
    """Absolute error, over the whole range of float32."""
    z = np.concatenate([np.linspace(-20, 20, 20001, dtype=np.float32), float_sweep("float32", 2000, rng)])
    dz = np.full_like(z, np.nan)
    activation_backward(dz, np.ones_like(z), z, forward(z, activation), activation)
    want = np.array([naive.activation_slope(float(v), activation) for v in z])
    assert np.abs(dz - want).max() <= 6 * EPS["float32"]


# -------------------------------------------------------------------------------- accuracy and the ends


@pytest.mark.parametrize("activation", TRANSCENDENTAL)
def test_float32_within_4_ulp_over_the_whole_range(activation, rng):
    z = np.concatenate(
        [
            float_sweep("float32", 200_000, rng),
            np.linspace(-110.0, 110.0, 300_001, dtype=np.float32),
            np.linspace(-1.5, 1.5, 100_001, dtype=np.float32),
            np.linspace(-15.0, -10.0, 50_001, dtype=np.float32),
            np.linspace(-4.0, -1e-3, 1_000_003, dtype=np.float32),
        ]
    )
    assert_ulps(forward(z, activation), reference(z.astype(np.float64), activation), "float32", 4, at=z)


@pytest.mark.parametrize("activation", TRANSCENDENTAL)
def test_float64_accuracy(activation, rng):
    mpmath = pytest.importorskip("mpmath")
    mp = mpmath.mp.clone()
    mp.prec = 120
    z = np.concatenate(
        [
            rng.normal(size=400),
            rng.uniform(-40.0, 40.0, 400),
            rng.uniform(-770.0, -30.0, 100),
            rng.uniform(-1e-6, 1e-6, 20),
        ]
    )
    formula = {
        "elu": lambda x: x if x > 0 else mp.expm1(x),
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
        "tanh": mp.tanh,
        "softplus": lambda x: mp.log1p(mp.exp(x)),
        "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
        "silu": lambda x: x / (1 + mp.exp(-x)),
    }[activation]
    want = np.array([float(formula(mp.mpf(float(v)))) for v in z])
    got = forward(z, activation)
    assert_ulps(got, want, "float64", 4, at=z)


@every_activation
def test_large_finite_numbers_stay_finite(activation, dtype):
    largest = float(np.finfo(dtype).max)
    z = np.array([-largest, -1e30, -1e4, -750.0, -110.0, 110.0, 750.0, 1e4, 1e30, largest], dtype)
    a = forward(z, activation)
    want = np.array([naive.activation_value(float(v), activation) for v in z])
    np.testing.assert_allclose(a, want, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-38)
    dz = np.full_like(z, np.nan)
    activation_backward(dz, np.ones_like(z), z, a, activation)
    slopes = np.array([naive.activation_slope(float(v), activation) for v in z])
    np.testing.assert_allclose(dz, slopes, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize(
    ("activation", "at_minus_infinity", "at_infinity"),
    [
        ("identity", -math.inf, math.inf),
        ("relu", 0.0, math.inf),
        ("leaky_relu", -math.inf, math.inf),
        ("elu", -1.0, math.inf),
        ("sigmoid", 0.0, 1.0),
        ("tanh", -1.0, 1.0),
        ("softplus", 0.0, math.inf),
        ("gelu", 0.0, math.inf),
        ("silu", 0.0, math.inf),
    ],
)
def test_infinities(activation, at_minus_infinity, at_infinity, dtype):
    a = forward(np.array([-np.inf, np.inf], dtype), activation)
    np.testing.assert_array_equal(a, np.array([at_minus_infinity, at_infinity], dtype))


@every_activation
def test_nan_stays_visible(activation, dtype):
    z = np.zeros(41, dtype)
    z[[0, 16, 40]] = np.nan
    a = forward(z, activation)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(z))
    dz = np.full_like(z, 0.0)
    da = np.ones_like(z)
    da[[3, 39]] = np.nan
    activation_backward(dz, da, np.ones_like(z), forward(np.ones_like(z), activation), activation)
    np.testing.assert_array_equal(np.isnan(dz), np.isnan(da))


def every_kind_of_nan(dtype, rng):
    """Return NaNs of both signs with any low bits: what makes powers of two with integer arithmetic may lose them."""
    integer, digits = np.dtype(f"uint{8 * dtype.itemsize}"), np.finfo(dtype).nmant
    bits = rng.integers(0, 2**digits, size=499).astype(integer) | np.array(np.nan, dtype).view(integer)
    return np.concatenate([bits.view(dtype), -bits.view(dtype)])


@pytest.mark.parametrize("activation", TRANSCENDENTAL)
def test_every_kind_of_nan_stays_nan(activation, dtype, rng):
    z = every_kind_of_nan(dtype, rng)
    assert np.isnan(forward(z, activation)).all()
    if activation != "elu":  # whose slope is a choice between two numbers
        dz = np.zeros_like(z)
        activation_backward(dz, np.ones_like(z), z, z.copy(), activation)
        assert np.isnan(dz).all()


@every_activation
def test_zero_and_subnormal_inputs(activation, dtype):
    info = np.finfo(dtype)
    z = np.array([0.0, info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 8, -info.tiny / 8], dtype)
    want = np.array([naive.activation_value(float(v), activation) for v in z])
    assert_ulps(forward(z, activation), want, dtype, 1, at=z)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softplus", "elu"])
def test_bounded_and_monotonic_where_the_function_is(activation):
    z = np.linspace(-30.0, 30.0, 100_001, dtype=np.float32)
    a = forward(z, activation)
    lowest, highest = {"sigmoid": (0, 1), "tanh": (-1, 1), "softplus": (0, 31), "elu": (-1, 31)}[activation]
    assert a.min() >= lowest
    assert a.max() <= highest
    # A step back may be as large as the two errors of 4 ulp together, no larger.
    assert (np.diff(a) >= -8 * np.spacing(np.abs(a[1:]))).all()


@pytest.mark.torch
@every_activation
def test_against_torch(activation, torch, rng):
    functional = torch.nn.functional
    function = {"identity": lambda x: x * 1.0, "tanh": torch.tanh, "sigmoid": torch.sigmoid}.get(activation)
    function = function or getattr(functional, activation)
    z = np.concatenate([rng.normal(scale=3.0, size=500), [0.0, -30.0, 30.0]])
    leaf = torch.tensor(z, requires_grad=True)
    output = function(leaf)
    da = rng.normal(size=z.size)
    output.backward(torch.tensor(da))
    a = forward(z, activation)
    np.testing.assert_allclose(a, output.detach().numpy(), rtol=1e-6, atol=1e-12)
    dz = np.full_like(z, np.nan)
    activation_backward(dz, da, z, a, activation)
    np.testing.assert_allclose(dz, leaf.grad.numpy(), rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------- softmax


def softmax_reference(z):
    z = z.astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / np.array([[math.fsum(row)] for row in e])


def softmax(z):
    p = np.full_like(z, np.nan)
    softmax_forward(p, z)
    return p


def test_softmax_matches_naive(dtype, rng, guard, same_bits):
    for shape in [(1, 1), (1, 2), (2, 1), (7, 10), *sampled_shapes(2, 12, seed=1)]:
        z = guard.input(rng.normal(scale=5.0, size=shape), dtype)
        want = np.empty(shape)
        naive.softmax_forward(want, z)

        def compute(z=z):
            p = guard.output(z.shape, dtype)
            softmax_forward(p, z)
            return p

        p = same_bits(compute)
        guard.check()
        if dtype == np.float32:
            assert_ulps(p, want, dtype, 4)
        else:
            # The oracle rounds z - max to float64 itself, and e^x magnifies that |x| times.
            np.testing.assert_allclose(p, want, rtol=2e-14, atol=0)


@pytest.mark.parametrize("columns", [2, 3, 10, 100, 1000, 4097])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_softmax_float32_within_4_ulp(columns, spread, rng):
    z = rng.normal(scale=spread, size=(max(2, 40_000 // columns), columns)).astype(np.float32)
    # An offset that makes every z - max round: its error must be carried along.
    z[::2] += rng.uniform(-100, 100, size=(z[::2].shape[0], 1)).astype(np.float32)
    assert_ulps(softmax(z), softmax_reference(z), "float32", 4)


@pytest.mark.parametrize("offset", [-3e38, -1e6, -65540.0, -65530.0, -3e4, 3e4, 65530.0, 65540.0, 1e6, 1e30])
def test_softmax_float32_of_far_logits(offset, rng):
    """On both sides of 2^16, where the way the largest logit is taken out changes."""
    z = (offset + rng.normal(scale=20.0, size=(500, 11))).astype(np.float32)
    assert_ulps(softmax(z), softmax_reference(z), "float32", 4)


def test_softmax_tails(dtype):
    """One dominant logit, the others from 0 to 120 below it, into the subnormal numbers of float32."""
    low = np.linspace(0.0, 120.0, 2001)
    z = np.stack([np.zeros_like(low), -low], axis=1).astype(dtype)
    assert_ulps(softmax(z), softmax_reference(z), dtype, 4 if dtype == np.float32 else 6)


def test_softmax_of_huge_logits(dtype):
    largest = float(np.finfo(dtype).max)
    z = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [largest, 0.0, -largest], [-np.inf, 0.0, 0.0]], dtype)
    third = np.asarray(1.0, dtype) / 3
    want = np.array([[1, 0, 0], [third, third, third], [1, 0, 0], [0, 0.5, 0.5]], dtype)
    np.testing.assert_allclose(softmax(z), want, rtol=1e-6, atol=0)


def test_softmax_shows_nan_in_its_row_only(dtype):
    z = np.zeros((3, 20), dtype)
    z[1, 17] = np.nan
    p = softmax(z)
    assert np.isnan(p[1]).all()
    np.testing.assert_allclose(p[[0, 2]], 0.05, rtol=1e-6)


@pytest.mark.parametrize("columns", [1, 2, 3, 10, 15, 16, 17, 18])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 128, 129])
def test_softmax_at_the_ends_of_groups_of_rows(rows, columns, dtype, rng, guard):
    """Rows of up to 16 logits go by 64 at once: no row sees another one, wherever its group begins."""
    z = guard.input(rng.normal(scale=5.0, size=(rows, columns)), dtype)
    p = guard.output(z.shape, dtype)
    softmax_forward(p, z)
    guard.check()
    assert_ulps(p, softmax_reference(z), dtype, 4 if dtype == np.float32 else 24)
    for count in {1, 2, rows // 2, rows - 1, min(rows, 64)} - {0}:
        np.testing.assert_array_equal(softmax(z[:count].copy()), p[:count])
        np.testing.assert_array_equal(softmax(z[-count:].copy()), p[-count:])


@pytest.mark.parametrize("columns", [2, 3, 16, 17])
def test_softmax_of_rows_unlike_their_neighbours(columns, dtype, rng):
    """NaN, infinities, ties and logits far beyond 2^16, at the ends of groups and of rows."""
    rows = {
        "nan": ([np.nan, 0.0], [np.nan, np.nan]),
        "infinity": ([np.inf, 0.0], [np.nan, np.nan]),
        "nothing": ([-np.inf, -np.inf], [np.nan, np.nan]),
        "masked": ([-np.inf, 3.0], [0.0, 1.0]),
        "zeros": ([-0.0, 0.0], [0.5, 0.5]),
        "far": ([2e5, 2e5], [0.5, 0.5]),
        "farther": ([-1e30, -1e30], [0.5, 0.5]),
        "apart": ([1e30, -1e30], [1.0, 0.0]),
    }
    z = rng.normal(size=(130, columns)).astype(dtype)
    plain = softmax(z)
    for name, (logits, want) in rows.items():
        for place in (0, 1, 63, 64, 127, 128, 129):
            for first, second in ((0, columns - 1), (columns - 1, 0)):
                other = z.copy()
                other[place] = np.nan if name == "nothing" else -np.inf
                other[place, [first, second]] = logits
                if name == "nothing":
                    other[place] = -np.inf
                p = softmax(other)
                np.testing.assert_allclose(p[place, [first, second]], want, rtol=1e-6, err_msg=name)
                between = np.delete(p[place], [first, second])
                np.testing.assert_array_equal(between, np.full_like(between, np.nan if want[0] != want[0] else 0.0))
                np.testing.assert_array_equal(np.delete(p, place, axis=0), np.delete(plain, place, axis=0))


def test_softmax_keeps_every_kind_of_nan(dtype, rng):
    nan = every_kind_of_nan(dtype, rng)
    for columns in (10, 19):
        for column in (0, 1, columns - 1):
            z = np.zeros((nan.size, columns), dtype)
            z[:, column] = nan
            assert np.isnan(softmax(z)).all()


@given(z=npst.arrays(np.float64, npst.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-1e5, 1e5)))
def test_softmax_rows_sum_to_one(z):
    p = softmax(z)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-13)
    np.testing.assert_allclose(p, softmax_reference(z), rtol=1e-12, atol=1e-300)


@numba.njit(error_model="numpy")
def divide_by_inverse(out, x, y):
    for i in range(out.size):
        out[i] = elementary.quotient_by_inverse(x[i], y[i], elementary.quotient(out.dtype.type(1), y[i]))


def test_quotients_by_an_inverse_are_rounded_as_quotients(dtype, rng):
    x = rng.uniform(size=100_000).astype(dtype) * np.dtype(dtype).type(elementary.SCALE)
    y = (rng.uniform(1.0, 1e4, size=x.size)).astype(dtype) * np.dtype(dtype).type(elementary.SCALE)
    x[::5] = y[::5]
    out = np.empty_like(x)
    divide_by_inverse(out, x, y)
    np.testing.assert_array_equal(out, x / y)


# --------------------------------------------------------------------------------------------- checks


def test_broken_arguments_are_refused(dtype, rng, refuses):
    z, da, a = (rng.normal(size=(4, 6)).astype(dtype) for _ in range(3))
    out = np.full_like(z, np.nan)
    refuses(activation_forward, ["a"], a=out, z=z, activation="tanh")
    refuses(activation_backward, ["dz"], dz=out, da=da, z=z, a=a, activation="gelu")
    refuses(softmax_forward, ["p"], p=out, z=z)


@pytest.mark.parametrize("name", ["rleu", "", "TANH", None, 3, "softmax"])
def test_unknown_activation_is_refused(name):
    z = np.zeros(3)
    out = np.full(3, np.nan)
    with pytest.raises((TypeError, ValueError), match="activation: got") as error:
        activation_forward(out, z, name)
    assert "relu" in str(error.value)
    with pytest.raises((TypeError, ValueError), match="activation: got"):
        activation_backward(out, z, z.copy(), z.copy(), name)
    assert np.isnan(out).all()
