"""Dropout: the exact mask of the generator, and what it must look like."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from fastnn.kernels.dropout import dropout_backward, dropout_forward, dropout_mask

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(1,), (15,), (16,), (17,), (63,), (64,), (65,), (257,), (3, 33), (7, 13), (5, 2, 31)]
KEYS = [
    (0, 0, 0),
    (1, 2, 3),
    (2**32 - 1, 2**32 - 1, 1),
    (2**64 - 1, 5, 2**32 - 1),
    (0x0123456789ABCDEF, 70_000, 2),
]


def mask_of(shape, dtype, rate, seed=0, step=0, layer=0):
    mask = np.full(shape, np.nan, dtype)
    dropout_mask(mask, rate, seed, step, layer)
    return mask


@pytest.mark.parametrize("key", KEYS)
def test_mask_matches_naive_bit_for_bit(key, dtype, guard):
    for shape in SHAPES:
        for rate in (0.2, 0.5, 0.9):
            mask = guard.output(shape, dtype)
            dropout_mask(mask, rate, *key)
            guard.check()
            want = np.empty(shape)
            naive.dropout_mask(want, rate, *key)
            np.testing.assert_array_equal(mask, want.astype(dtype))


def test_forward_and_backward_match_naive(dtype, rng, guard):
    for shape in SHAPES:
        for rate in (0.0, 0.3, 0.75):
            x = guard.input(rng.normal(size=shape), dtype)
            want = np.empty(shape)
            naive.dropout_forward(want, x, rate, 7, 11, 2)
            for kernel in (dropout_forward, dropout_backward):
                y = guard.output(shape, dtype)
                kernel(y, x, rate, 7, 11, 2)
                guard.check()
                np.testing.assert_allclose(y, want, rtol=2 * np.finfo(dtype).eps, atol=0)
                np.testing.assert_array_equal(y, x * mask_of(shape, dtype, rate, 7, 11, 2))


@pytest.mark.parametrize("kernel", [dropout_forward, dropout_mask])
def test_same_bits_for_any_number_of_threads(kernel, dtype, rng, same_bits):
    x = rng.normal(size=(997, 131)).astype(dtype)

    def compute():
        y = np.full_like(x, np.nan)
        kernel(*((y,) if kernel is dropout_mask else (y, x)), 0.3, 1, 2, 3)
        return y

    y = same_bits(compute)
    # The last blocks too follow the one rule for indices.
    words = naive.dropout_words(x.size, 1, 2, 3)
    kept = np.array(words[-300:]) >= round(0.3 * 2**32)
    np.testing.assert_array_equal(y.reshape(-1)[-300:] != 0, kept)


def test_index_is_the_flat_one(dtype):
    """The mask of an array does not depend on its shape, and begins like that of a longer one."""
    flat = mask_of((1000,), dtype, 0.4, 3, 4, 5)
    np.testing.assert_array_equal(mask_of((20, 50), dtype, 0.4, 3, 4, 5).reshape(-1), flat)
    np.testing.assert_array_equal(mask_of((77,), dtype, 0.4, 3, 4, 5), flat[:77])


def test_both_dtypes_drop_the_same_units():
    single, double = (mask_of((5000,), np.dtype(name), 0.3, 3, 4, 5) for name in ("float32", "float64"))
    np.testing.assert_array_equal(single == 0, double == 0)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_share_dropped(rate):
    n = 400_000
    dropped = (mask_of((n,), np.dtype("float32"), rate, 42, 1, 1) == 0).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / n)


def test_mean_is_kept(dtype):
    mask = mask_of((400_000,), dtype, 0.3, 1, 2, 3)
    assert mask.mean(dtype=np.float64) == pytest.approx(1.0, abs=5 * np.sqrt(0.3 / 0.7 / mask.size))
    assert set(np.unique(mask).tolist()) == {0.0, float(dtype.type(1 / 0.7))}


def test_units_and_rows_are_independent():
    rows, units, rate = 4000, 96, 0.4
    kept = (mask_of((rows, units), np.dtype("float64"), rate, 5, 6, 7) != 0) - (1 - rate)
    spread = rate * (1 - rate)
    sigma = np.sqrt(spread / rows)
    assert np.abs(kept.mean(axis=0)).max() < 5 * sigma
    assert np.abs(kept.mean(axis=1)).max() < 5 * np.sqrt(spread / units)
    correlation = (kept.T @ kept) / rows / spread - np.eye(units)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(rows)
    flat = kept.reshape(-1)
    for lag in (1, 2, 4, 15, 16, 17, 32, 48, 64, 128, units):
        assert abs((flat[lag:] * flat[:-lag]).mean() / spread) < 5 / np.sqrt(flat.size)


@pytest.mark.parametrize("other", [(1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2**31, 0), (0, 0, 2**31)])
def test_another_key_is_an_independent_mask(other):
    n = 200_000
    one = (mask_of((n,), np.dtype("float32"), 0.5) != 0) - 0.5
    two = (mask_of((n,), np.dtype("float32"), 0.5, *other) != 0) - 0.5
    assert abs((one * two).mean() * 4) < 5 / np.sqrt(n)


def test_rate_zero_changes_nothing(dtype, rng):
    x = rng.normal(size=333).astype(dtype)
    y = np.full_like(x, np.nan)
    dropout_forward(y, x, 0.0, 1, 2, 3)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(mask_of((333,), dtype, 0.0), np.ones(333))


def test_rate_near_one_drops_nearly_all(dtype):
    """The largest threshold must not wrap around to "keep all"."""
    assert (mask_of((4096,), dtype, 1 - 2.0**-30) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_special_values_pass_where_kept_and_vanish_where_dropped(bad, dtype):
    x = np.full(640, bad, dtype)
    y = np.zeros_like(x)
    dropout_forward(y, x, 0.5, 1, 2, 3)
    kept = mask_of((640,), dtype, 0.5, 1, 2, 3) != 0
    np.testing.assert_array_equal(y, np.where(kept, x, 0))


def test_numpy_integers_are_taken():
    x, y, want = np.ones(100), np.empty(100), np.empty(100)
    for seed in (7, 2**63, 2**64 - 1):
        dropout_forward(y, x, np.float64(0.5), np.uint64(seed), np.int64(2), np.int32(3))
        dropout_forward(want, x, 0.5, seed, 2, 3)
        np.testing.assert_array_equal(y, want)


def test_empty_array(dtype):
    dropout_forward(np.empty((0, 4), dtype), np.empty((0, 4), dtype), 0.5, 1, 2, 3)
    dropout_mask(np.empty(0, dtype), 0.5, 1, 2, 3)


def test_array_without_dimensions(dtype):
    """Any shape is taken."""
    mask = np.full((), np.nan, dtype)
    dropout_mask(mask, 0.5, 1, 2, 3)
    assert mask == mask_of((1,), dtype, 0.5, 1, 2, 3)[0]


def test_broken_arrays_are_refused(dtype, rng, refuses):
    x = rng.normal(size=(4, 6)).astype(dtype)
    y = np.full_like(x, np.nan)
    numbers = {"rate": 0.5, "seed": 1, "step": 2, "layer": 3}
    refuses(dropout_forward, ["y"], y=y, x=x, **numbers)
    refuses(dropout_backward, ["dx"], dx=y, dy=x, **numbers)
    y[...] = 77
    read_only = y.copy()
    read_only.flags.writeable = False
    broken = [
        y.astype(np.float16),
        y.astype(np.int64),
        y.tolist(),
        np.asfortranarray(y),
        y[:, ::2],
        read_only,
        None,
    ]
    for mask in broken:
        with pytest.raises((TypeError, ValueError), match="mask: got"):
            dropout_mask(mask, 0.5, 1, 2, 3)
        assert mask is None or (np.asarray(mask) == 77).all()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("rate", -0.1),
        ("rate", 1.0),
        ("rate", 1.5),
        ("rate", np.nan),
        ("rate", "0.5"),
        ("rate", None),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.5),
        ("step", -1),
        ("step", 2**32),
        ("step", 0.5),
        ("layer", -1),
        ("layer", 2**32),
        ("layer", None),
    ],
)
def test_numbers_out_of_range_are_refused(name, bad):
    numbers = {"rate": 0.5, "seed": 1, "step": 2, "layer": 3, name: bad}
    x, y = np.ones(6), np.full(6, np.nan)
    for call in (
        lambda: dropout_forward(y, x, **numbers),
        lambda: dropout_backward(y, x, **numbers),
        lambda: dropout_mask(y, **numbers),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{name}: got"):
            call()
    assert np.isnan(y).all()
