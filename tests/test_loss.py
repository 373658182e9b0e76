"""Losses: value and gradient against `naive`, central differences and PyTorch, at the ends of the range."""

from __future__ import annotations

import math

import naive
import numba
import numpy as np
import pytest
from conftest import sampled_shapes

from fastnn.kernels.loss import (
    CLASS_LOSS,
    CROSS_ENTROPY,
    absolute_error,
    binary_cross_entropy,
    call_loss_rows,
    cross_entropy,
    huber,
    poisson,
    squared_error,
)

pytestmark = pytest.mark.usefixtures("one_thread")

KERNELS = {
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "poisson": poisson,
}
# (loss, how its targets look)
CASES = [
    ("squared_error", "values"),
    ("absolute_error", "values"),
    ("huber", "values"),
    ("cross_entropy", "labels"),
    ("cross_entropy", "one-hot"),
    ("cross_entropy", "soft"),
    ("cross_entropy", "not summing to 1"),
    ("binary_cross_entropy", "zeros and ones"),
    ("binary_cross_entropy", "soft"),
    ("poisson", "counts"),
]
SHAPES = [(1, 1), (1, 2), (2, 1), (5, 3), *sampled_shapes(2, 12, seed=6)]

every_case = pytest.mark.parametrize(("loss", "targets"), CASES)
every_loss = pytest.mark.parametrize("loss", KERNELS)
every_weighting = pytest.mark.parametrize("weighting", ["none", "positive", "some zero", "other dtype"])


def make_targets(targets, shape, rng, dtype):
    rows, n = shape
    if targets == "labels":
        return rng.integers(0, n, size=rows)
    if targets == "one-hot":
        return np.eye(n, dtype=dtype)[rng.integers(0, n, size=rows)]
    if targets == "zeros and ones":
        return rng.integers(0, 2, size=shape).astype(dtype)
    if targets == "values":
        return rng.normal(scale=2.0, size=shape).astype(dtype)
    if targets == "counts":
        return rng.poisson(1.5, size=shape).astype(dtype)
    t = rng.uniform(size=shape)
    if targets == "soft" and n > 1:
        t /= t.sum(axis=1, keepdims=True)
    return t.astype(dtype)


def make_weights(weighting, rows, rng, dtype):
    if weighting == "none":
        return None
    w = rng.uniform(0.1, 3.0, size=rows)
    if weighting == "some zero":
        w[rng.uniform(size=rows) < 0.4] = 0.0
    if weighting == "other dtype":
        return w.astype(np.float64 if dtype == np.float32 else np.float32)
    return w.astype(dtype)


# ---------------------------------------------------------------------------- against the naive twin


@every_case
@every_weighting
def test_matches_naive(loss, targets, weighting, dtype, rng, guard):
    single = dtype == np.float32
    for shape in SHAPES:
        y = guard.input(rng.normal(scale=3.0, size=shape), dtype)
        t = guard.input(make_targets(targets, shape, rng, dtype))
        w = make_weights(weighting, shape[0], rng, dtype)
        w = None if w is None else guard.input(w)
        dy = guard.output(shape, dtype)
        value = KERNELS[loss](dy, y, t, w)
        guard.check()
        want_dy = np.empty(shape)
        want = getattr(naive, loss)(want_dy, y, t, w)
        assert isinstance(value, float)
        # Logits of size 10 make each row's log-sum and each slope wrong by a rounding of about 10.
        assert value == pytest.approx(want, rel=2e-6 if single else 1e-13, abs=2e-6 if single else 1e-14)
        largest = np.abs(want_dy).max()
        np.testing.assert_allclose(
            dy, want_dy, rtol=1e-5 if single else 1e-13, atol=(4e-7 if single else 1e-15) * largest
        )


@every_case
def test_same_bits_for_any_number_of_threads(loss, targets, dtype, rng, same_bits):
    shape = (3001, 17)
    y = rng.normal(scale=3.0, size=shape).astype(dtype)
    t = make_targets(targets, shape, rng, dtype)
    w = make_weights("some zero", shape[0], rng, dtype)

    def compute():
        dy = np.full_like(y, np.nan)
        return np.float64(KERNELS[loss](dy, y, t, w)), dy

    value, dy = same_bits(compute)
    want_dy = np.empty(shape)
    assert value == pytest.approx(getattr(naive, loss)(want_dy, y, t, w), rel=1e-6 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(dy, want_dy, rtol=1e-5, atol=1e-6 * np.abs(want_dy).max())


def test_float32_sums_are_kept_in_float64(rng):
    """A mean over 300,000 rows: summed in float32 one after the other it would be off by about 1e-4."""
    y = rng.normal(size=(300_000, 1)).astype(np.float32) + np.float32(3.0)
    t = np.zeros_like(y)
    value = squared_error(np.empty_like(y), y, t)
    assert value == pytest.approx(float((y.astype(np.float64) ** 2).mean()), rel=3e-8)


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5])
def test_huber_delta(delta, dtype, rng, guard):
    y = guard.input(np.linspace(-5, 5, 41).reshape(-1, 1), dtype)
    t = guard.input(np.zeros((41, 1)), dtype)
    dy, want_dy = guard.output((41, 1), dtype), np.empty((41, 1))
    # The limit is compared in the dtype of the arrays.
    exact = float(dtype.type(delta))
    assert huber(dy, y, t, delta=delta) == pytest.approx(naive.huber(want_dy, y, t, delta=exact), rel=1e-6)
    np.testing.assert_allclose(dy, want_dy, rtol=1e-6)
    assert huber(dy, y, t, None, delta) == huber(dy, y, t, delta=delta)


def test_hand_computed_values(dtype):
    """Two rows, two outputs, weights 1 and 3: the definitions, worked by hand."""
    y, t = np.array([[1.0, 2.0], [0.0, -1.0]], dtype), np.array([[0.0, 4.0], [0.0, 1.0]], dtype)
    w, dy = np.array([1.0, 3.0], dtype), np.full((2, 2), np.nan, dtype)
    # Errors 1, -2 | 0, -2; mean squares 2.5 and 2, absolute 1.5 and 1, Huber (0.5 + 1.5) / 2 and 0.75.
    assert squared_error(dy, y, t, w) == pytest.approx((2.5 + 3 * 2.0) / 4)
    np.testing.assert_allclose(dy, np.array([[1.0, -2.0], [0.0, -6.0]]) / 4)
    assert absolute_error(dy, y, t, w) == pytest.approx((1.5 + 3 * 1.0) / 4)
    np.testing.assert_allclose(dy, np.array([[0.5, -0.5], [0.0, -1.5]]) / 4)
    assert huber(dy, y, t, w) == pytest.approx((1.0 + 3 * 0.75) / 4)
    np.testing.assert_allclose(dy, np.array([[0.5, -0.5], [0.0, -1.5]]) / 4)
    z = np.zeros((2, 2), dtype)
    assert cross_entropy(dy, z, np.array([0, 1]), w) == pytest.approx(math.log(2))
    np.testing.assert_allclose(dy, np.array([[-0.5, 0.5], [1.5, -1.5]]) / 4)
    assert binary_cross_entropy(dy, z, np.array([[0.0, 1.0], [1.0, 1.0]], dtype), w) == pytest.approx(math.log(2))
    np.testing.assert_allclose(dy, np.array([[0.25, -0.25], [-0.75, -0.75]]) / 4)


# ----------------------------------------------------------------- few logits: groups of 64 rows at once

GROUPS = [(rows, n) for rows in (1, 2, 63, 64, 65, 128, 130) for n in (1, 2, 3, 10, 15, 16, 17)]


@every_weighting
@pytest.mark.parametrize("scale", [0.0, 3.0, 300.0, 1e6])
def test_labels_of_groups_of_rows(scale, weighting, dtype, rng, guard):
    """All logits alike, and log 16 is added 64 times at once; or so far apart that rows have one logit that counts."""
    single = dtype == np.float32
    for shape in GROUPS:
        z = guard.input(rng.normal(scale=scale, size=shape), dtype)
        t = guard.input(make_targets("labels", shape, rng, dtype))
        w = make_weights(weighting, shape[0], rng, dtype)
        if w is not None:
            w[0] = 1.5  # or all of one row might weigh nothing
            w = guard.input(w)
        dz, want_dz = guard.output(shape, dtype), np.empty(shape)
        value = cross_entropy(dz, z, t, w)
        guard.check()
        # The loss of a label that is nearly sure is a small difference of larger numbers, and so is its slope.
        want = naive.cross_entropy(want_dz, z, t, w)
        assert value == pytest.approx(want, rel=1e-6 if single else 1e-13, abs=2e-7 if single else 1e-13)
        tolerance = (4e-7, 1e-36) if single else (1e-15, 0.0)
        np.testing.assert_allclose(
            dz, want_dz, rtol=1e-5 if single else 1e-13, atol=tolerance[0] * np.abs(want_dz).max() + tolerance[1]
        )


@numba.njit(nogil=True)
def loss_and_count(address, result, d, z, labels, t, weights, n):
    call_loss_rows(address, result, CROSS_ENTROPY, 1.0, d, z, labels, t, weights, z.size // n, n, 1.0)


@pytest.mark.parametrize("weighting", ["none", "some zero"])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 15, 16, 17])
def test_the_first_of_the_largest_logits_is_the_answer(n, weighting, dtype, rng):
    """Few different logits, so that most rows have several largest; a row with NaN has no answer."""
    for rows in (1, 63, 64, 65, 130):
        z = rng.choice(np.array([-np.inf, -0.0, 0.0, 1.0], dtype), size=(rows, n))
        z[:, -1] = np.maximum(z[:, -1], 0.0)  # a row of minus infinity would be NaN too
        with_nan = rng.random(rows) < 0.3
        z[with_nan, rng.integers(0, n, rows)[with_nan]] = np.nan
        labels = rng.integers(0, n, rows)
        first = np.where(np.isnan(z), -np.inf, z).argmax(axis=1)
        labels[::2] = first[::2]
        weights = np.empty(0) if weighting == "none" else rng.choice([0.0, 0.5, 3.0], rows)
        right = (first == labels) & ~with_nan
        result = np.full(2, np.nan)
        arguments = np.empty(z.size, dtype), z.reshape(-1), labels, np.empty(0, dtype), weights
        loss_and_count(CLASS_LOSS.address(dtype), result, *arguments, n)
        assert result[1] == (right if weighting == "none" else right * weights).sum()
        assert math.isnan(result[0]) == with_nan[weights > 0 if weights.size else slice(None)].any()


# --------------------------------------------------------------------------------------- derivatives


@every_case
@every_weighting
def test_gradient_matches_central_differences(loss, targets, weighting, rng):
    shape, h = (4, 5), 1e-5
    y = rng.normal(scale=2.0, size=shape)
    t = make_targets(targets, shape, rng, np.float64)
    w = make_weights(weighting, 4, rng, np.dtype(np.float64))
    dy = np.full(shape, np.nan)
    KERNELS[loss](dy, y, t, w)
    if loss in ("absolute_error", "huber"):
        assert np.abs(np.abs(y - t) - (loss == "huber")).min() > 2 * h, "too near a kink"
    scratch = np.empty(shape)
    for index in np.ndindex(shape):
        kept = y[index]
        y[index] = kept + h
        above = KERNELS[loss](scratch, y, t, w)
        y[index] = kept - h
        below = KERNELS[loss](scratch, y, t, w)
        y[index] = kept
        assert dy[index] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-9)


def test_absolute_error_has_slope_zero_at_zero(dtype):
    y = np.array([[1.0, -0.0, 2.0]], dtype)
    t = np.array([[1.0, 0.0, 1.0]], dtype)
    dy = np.full_like(y, np.nan)
    absolute_error(dy, y, t)
    np.testing.assert_allclose(dy, [[0.0, 0.0, 1 / 3]], rtol=1e-6, atol=0)


def test_huber_at_the_joint(dtype):
    y = np.array([[1.0, -1.0]], dtype)
    dy = np.full_like(y, np.nan)
    assert huber(dy, y, np.zeros_like(y)) == 0.5
    np.testing.assert_array_equal(dy, [[0.5, -0.5]])


# --------------------------------------------------------------------------------------------- weights


@every_loss
def test_weights_that_sum_to_zero_give_zero(loss, dtype, rng, guard):
    y = guard.input(rng.normal(size=(5, 3)), dtype)
    t = np.zeros(5, np.int64) if loss == "cross_entropy" else guard.input(np.zeros((5, 3)), dtype)
    dy = guard.output((5, 3), dtype)
    assert KERNELS[loss](dy, y, t, guard.input(np.zeros(5), dtype)) == 0.0
    np.testing.assert_array_equal(dy, np.zeros((5, 3)))


@every_case
@pytest.mark.parametrize("outputs", [1.0, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("n", [4, 40])
def test_weights_count_rows(loss, targets, outputs, n, dtype, rng):
    """Weights 0, 1, 2 are a row left out, whatever its outputs, once and twice; and only their ratios count."""
    rows = 6
    y = rng.normal(size=(rows, n)).astype(dtype)
    t = make_targets(targets, (rows, n), rng, dtype)
    w = np.array([0, 1, 2, 1, 0, 2], dtype)
    y[w == 0, :2] *= dtype.type(outputs)
    twice = np.repeat(np.arange(rows), w.astype(int))
    dy, dy_scaled, dy_rows = np.empty_like(y), np.empty_like(y), np.empty((twice.size, n), dtype)
    value = KERNELS[loss](dy, y, t, w)
    assert value == pytest.approx(KERNELS[loss](dy_scaled, y, t, 8 * w), rel=1e-6)
    np.testing.assert_allclose(dy, dy_scaled, rtol=1e-5)
    repeated = np.ascontiguousarray(y[twice]), np.ascontiguousarray(t[twice])
    assert value == pytest.approx(KERNELS[loss](dy_rows, *repeated), rel=1e-6)
    summed = np.zeros((rows, n))
    np.add.at(summed, twice, dy_rows)
    np.testing.assert_allclose(dy, summed, rtol=1e-5, atol=1e-8)


@every_loss
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_refused(loss, bad):
    y, dy = np.ones((3, 2)), np.full((3, 2), np.nan)
    t = np.zeros(3, np.int64) if loss == "cross_entropy" else np.zeros((3, 2))
    with pytest.raises(ValueError, match="w: got"):
        KERNELS[loss](dy, y, t, np.array([1.0, bad, 1.0]))
    assert np.isnan(dy).all()


# ----------------------------------------------------------------------------------- ends of the range


@every_case
@pytest.mark.parametrize("scale", [1e-30, 100.0, 1e4])
def test_extreme_outputs_stay_finite(loss, targets, scale, dtype, rng):
    y = (rng.choice([-1.0, 1.0], size=(7, 5)) * scale).astype(dtype)
    y = -abs(y) if loss == "poisson" else y  # the rate e^y is beyond all numbers where y is large
    t = make_targets(targets, (7, 5), rng, dtype)
    dy, want_dy = np.full_like(y, np.nan), np.empty((7, 5))
    value, want = KERNELS[loss](dy, y, t), getattr(naive, loss)(want_dy, y, t)
    assert value == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(dy, want_dy, rtol=1e-5, atol=1e-7 * np.abs(want_dy).max())


def test_cross_entropy_of_a_sure_and_a_wrong_prediction(dtype):
    dz = np.full((1, 3), np.nan, dtype)
    z = np.array([[1e4, 0.0, -1e4]], dtype)
    assert cross_entropy(dz, z, np.array([0])) == 0.0
    np.testing.assert_array_equal(dz, [[0, 0, 0]])
    assert cross_entropy(dz, z, np.array([2])) == pytest.approx(2e4)
    np.testing.assert_array_equal(dz, [[1, 0, -1]])


def test_a_class_that_cannot_be_costs_nothing(dtype):
    """A logit of minus infinity (a masked class) counts where its target is 0."""
    z = np.array([[-np.inf, 0.0, 0.0]], dtype)
    dz = np.full_like(z, np.nan)
    assert cross_entropy(dz, z, np.array([1])) == pytest.approx(math.log(2))
    np.testing.assert_allclose(dz, [[0, -0.5, 0.5]])
    assert cross_entropy(dz, z, np.array([[0.0, 0.5, 0.5]], dtype)) == pytest.approx(math.log(2))
    np.testing.assert_allclose(dz, [[0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("z", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_binary_cross_entropy_tails(z, t, dtype):
    """Relative accuracy where the loss is small: e^-20 must not be lost beside 1."""
    array, dz = np.array([[z]], dtype), np.full((1, 1), np.nan, dtype)
    value = binary_cross_entropy(dz, array, np.array([[t]], dtype))
    want_dz = np.empty((1, 1))
    want = naive.binary_cross_entropy(want_dz, array, np.array([[t]]))
    step = float(np.finfo(dtype).smallest_subnormal)
    assert value == pytest.approx(want, rel=1e-6, abs=2 * step)
    np.testing.assert_allclose(dz, want_dz, rtol=1e-6, atol=1e-7)


@every_loss
def test_nan_stays_visible(loss, dtype, rng):
    y = rng.normal(size=(40, 20)).astype(dtype)
    y[33, 19] = np.nan
    t = np.zeros(40, np.int64) if loss == "cross_entropy" else np.zeros((40, 20), dtype)
    dy = np.zeros_like(y)
    assert math.isnan(KERNELS[loss](dy, y, t))
    assert np.isnan(dy[33]).any()
    assert np.isfinite(np.delete(dy, 33, axis=0)).all()


def test_no_rows_are_zero(dtype):
    for loss in ("squared_error", "binary_cross_entropy", "cross_entropy"):
        empty = np.empty((0, 3), dtype)
        assert KERNELS[loss](empty, empty.copy(), empty.copy()) == 0.0


# --------------------------------------------------------------------------------------- against torch


@pytest.mark.torch
@every_case
@pytest.mark.parametrize("weighting", ["none", "some zero"])
def test_against_torch(loss, targets, weighting, torch, rng):
    functional = torch.nn.functional
    shape = (13, 6)
    y = rng.normal(scale=3.0, size=shape)
    t = make_targets(targets, shape, rng, np.float64)
    w = make_weights(weighting, shape[0], rng, np.dtype(np.float64))
    leaf, target = torch.tensor(y, requires_grad=True), torch.tensor(t)
    function = {
        "squared_error": functional.mse_loss,
        "absolute_error": functional.l1_loss,
        "huber": functional.huber_loss,
        "cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
        "poisson": lambda z, t, **how: functional.poisson_nll_loss(z, t, **how) + torch.special.xlogy(t, t) - t,
    }[loss]
    rows = function(leaf, target, reduction="none")
    if rows.ndim == 2:
        rows = rows.mean(dim=1)
    weights = torch.ones(shape[0], dtype=torch.float64) if w is None else torch.tensor(w)
    total = (rows * weights).sum() / weights.sum()
    total.backward()
    dy = np.full(shape, np.nan)
    assert KERNELS[loss](dy, y, t, w) == pytest.approx(float(total.detach()), rel=1e-6)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-6, atol=1e-12)


# --------------------------------------------------------------------------------------------- checks


@every_loss
def test_broken_arguments_are_refused(loss, dtype, rng, refuses):
    kernel = KERNELS[loss]
    d, y = ("dz", "z") if "entropy" in loss or loss == "poisson" else ("dy", "y")
    arrays = {d: np.full((4, 6), np.nan, dtype), y: rng.normal(size=(4, 6)).astype(dtype)}
    t, w = np.full((4, 6), 0.5, dtype), np.array([1.0, 2.0, 3.0, 4.0], dtype)
    # Weights may be of either float dtype.
    refuses(kernel, [d], skip=[("w", "the other float dtype")], **arrays, t=t, w=w)
    if loss == "cross_entropy":
        labels = np.array([0, 5, 2, 3])
        refuses(kernel, [d], skip=[("w", "the other float dtype")], **arrays, t=labels, w=w)


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1], [0, 2**40, 1], [np.iinfo(np.int64).min, 0, 0]])
def test_labels_out_of_range_are_refused(labels, dtype):
    dz = np.full((3, 3), np.nan, dtype)
    with pytest.raises(ValueError, match=r"t: got labels .* expected 0 to 2"):
        cross_entropy(dz, np.ones((3, 3), dtype), np.array(labels))
    assert np.isnan(dz).all()


@every_loss
def test_gradient_may_not_lie_over_weights_or_labels(loss):
    """All of the inputs count, also those of another shape or dtype."""
    buffer = np.full(24, 1.0)
    d, y, t = buffer[:12].reshape(4, 3), np.ones((4, 3)), np.zeros((4, 3))
    with pytest.raises(ValueError, match="overlap"):
        KERNELS[loss](d, y, t, buffer[8:12])
    if loss == "cross_entropy":
        buffer[8:12].view(np.int64)[:] = 1
        with pytest.raises(ValueError, match="overlap"):
            cross_entropy(d, y, buffer[8:12].view(np.int64))


@pytest.mark.parametrize("delta", [0.0, -1.0, np.nan, "1", None])
def test_huber_delta_must_be_positive(delta):
    dy = np.full((3, 2), np.nan)
    with pytest.raises((TypeError, ValueError), match="delta: got"):
        huber(dy, np.ones((3, 2)), np.zeros((3, 2)), None, delta)
    assert np.isnan(dy).all()


def test_poisson_by_hand(dtype):
    """Rates 1 and 2 for counts 0 and 3: e^z - t + t log(t / e^z) is 1 and 3 log 1.5 - 1."""
    z = np.array([[0.0, math.log(2.0)]], dtype)
    dz = np.full_like(z, np.nan)
    assert poisson(dz, z, np.array([[0.0, 3.0]], dtype)) == pytest.approx((1 + 3 * math.log(1.5) - 1) / 2, rel=1e-6)
    np.testing.assert_allclose(dz, [[0.5, -0.5]], rtol=1e-6)


def test_poisson_refuses_negative_counts():
    z = np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"t: got -1\.0, expected numbers >= 0"):
        poisson(np.empty_like(z), z, np.array([[1.0, -1.0]]))
