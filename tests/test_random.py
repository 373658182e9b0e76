"""The counter-based generator: known answers, the shuffle, and statistics."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from fastnn.kernels.random import SHUFFLE_STREAM, philox_fill, shuffle_indices

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = [0, 1, 12345, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**64 - 1]

# Random123's published test vectors for philox4x32, 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_oracle_gives_the_published_answers(counter, key, answer):
    assert naive.philox4x32(counter, key) == answer


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_compiled_generator_gives_the_published_answers(counter, key, answer):
    """The function that the kernels inline, with all four counter words and both key words in use."""
    import numba

    from fastnn.kernels.random import philox

    @numba.njit
    def call(words, k):
        return philox(words[0], words[1], words[2], words[3], k[0], k[1])

    got = call(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert tuple(int(word) for word in got) == answer


def test_fill_gives_the_published_answer(guard):
    """Counter and key zero are all that `philox_fill` can reach of the published vectors."""
    out = guard.output((4,), np.uint32)
    philox_fill(out, 0, 0, 0)
    assert tuple(out.tolist()) == KNOWN_ANSWERS[0][2]


@pytest.mark.parametrize("seed", SEEDS)
def test_fill_matches_naive(seed, guard):
    for size, step, stream in [
        (1, 0, 0),
        (2, 1, 0),
        (3, 0, 1),
        (4, 7, 3),
        (5, 2**32 - 1, 2**32 - 1),
        (257, 9, 2),
    ]:
        out = guard.output((size,), np.uint32)
        philox_fill(out, seed, step, stream)
        guard.check()
        want = np.empty(size, np.uint32)
        naive.philox_fill(want, seed, step, stream)
        np.testing.assert_array_equal(out, want)


def test_fill_prefix_does_not_depend_on_the_length():
    long, short = np.empty(1000, np.uint32), np.empty(123, np.uint32)
    philox_fill(long, 5, 6, 7)
    philox_fill(short, 5, 6, 7)
    np.testing.assert_array_equal(short, long[:123])


def test_step_and_stream_have_defaults_of_zero():
    out, want = np.empty(9, np.uint32), np.empty(9, np.uint32)
    philox_fill(out, 3)
    philox_fill(want, 3, 0, 0)
    np.testing.assert_array_equal(out, want)


def test_every_part_of_the_address_changes_the_numbers():
    def fill(*address):
        out = np.empty(64, np.uint32)
        philox_fill(out, *address)
        return out

    addresses = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2**31, 0), (0, 0, 2**31)]
    blocks = [fill(*address) for address in addresses]
    for i, one in enumerate(blocks):
        for other in blocks[:i]:
            # 64 pairs of 32-bit words: one chance hit in 7e7.
            assert (one != other).all()


def test_bits_are_fair_and_independent():
    out = np.empty(1 << 16, np.uint32)
    philox_fill(out, 11, 1, 2)
    bits = np.unpackbits(out.view(np.uint8)).reshape(-1, 32).astype(np.float64) - 0.5
    n = out.size
    # Each mean is normal with standard deviation 0.5/sqrt(n), each correlation 1/sqrt(n): 5 sigma.
    assert np.abs(bits.mean(axis=0)).max() < 5 * 0.5 / np.sqrt(n)
    between_bits = (bits.T @ bits) / n * 4 - np.eye(32)
    assert np.abs(between_bits).max() < 5 / np.sqrt(n)
    for lag in (1, 2, 3, 4, 8, 16):
        assert np.abs((bits[lag:] * bits[:-lag]).mean(axis=0) * 4).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 17, 63, 64, 65, 66, 128, 129, 130, 257, 4001])
def test_shuffle_matches_naive(n, guard):
    for seed, epoch in [(0, 0), (1, 0), (2**64 - 1, 2**32 - 1), (0x1234567890ABCDEF, 41)]:
        order = guard.output((n,), np.int64)
        shuffle_indices(order, seed, epoch)
        guard.check()
        want = np.empty(n, np.int64)
        naive.shuffle_indices(want, seed, epoch)
        np.testing.assert_array_equal(order, want)


def test_shuffle_of_many_rows_takes_all_64_bits():
    """Without the low word of its random number, one swap in 30,000 of these would go elsewhere."""
    n, epoch = 300_000, 2
    words = naive.philox4x32((np.arange(n, dtype=np.uint64), 0, epoch, SHUFFLE_STREAM), (5, 0))
    want = list(range(n))
    for i, low, high in zip(range(n - 1, 0, -1), words[0].tolist()[:0:-1], words[1].tolist()[:0:-1], strict=True):
        j = (low | high << 32) * (i + 1) >> 64
        want[i], want[j] = want[j], want[i]
    order = np.empty(n, np.int64)
    shuffle_indices(order, 5, epoch)
    np.testing.assert_array_equal(order, want)


def test_shuffle_is_a_permutation_that_seed_and_epoch_choose():
    n = 10_007
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (2**32, 0)]:
        order = np.full(n, -1, np.int64)
        shuffle_indices(order, seed, epoch)
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        orders.append(order)
    for i, one in enumerate(orders):
        # The number of places that agree by chance is Poisson(1).
        assert (one != np.arange(n)).sum() > n - 12
        for other in orders[:i]:
            assert (one != other).sum() > n - 12


def test_shuffle_is_uniform():
    """All 24 orders of 4 rows in 24,000 epochs: chi-square, 23 degrees of freedom, chance 1e-7 above 77."""
    counts = {}
    order = np.empty(4, np.int64)
    for epoch in range(24_000):
        shuffle_indices(order, 99, epoch)
        key = tuple(order.tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 77


@pytest.mark.parametrize(
    ("kernel", "good", "position", "bad", "name"),
    [
        (philox_fill, (1, 2, 3), 0, -1, "seed"),
        (philox_fill, (1, 2, 3), 0, 2**64, "seed"),
        (philox_fill, (1, 2, 3), 0, 1.5, "seed"),
        (philox_fill, (1, 2, 3), 0, True, "seed"),
        (philox_fill, (1, 2, 3), 0, "1", "seed"),
        (philox_fill, (1, 2, 3), 0, None, "seed"),
        (philox_fill, (1, 2, 3), 1, -1, "step"),
        (philox_fill, (1, 2, 3), 1, 2**32, "step"),
        (philox_fill, (1, 2, 3), 2, -1, "stream"),
        (philox_fill, (1, 2, 3), 2, 2**32, "stream"),
        (shuffle_indices, (1, 2), 0, -1, "seed"),
        (shuffle_indices, (1, 2), 0, 2**64, "seed"),
        (shuffle_indices, (1, 2), 1, -1, "epoch"),
        (shuffle_indices, (1, 2), 1, 2**32, "epoch"),
        (shuffle_indices, (1, 2), 1, 0.5, "epoch"),
    ],
)
def test_numbers_out_of_range_are_refused(kernel, good, position, bad, name):
    out = np.full(6, 77, np.uint32 if kernel is philox_fill else np.int64)
    numbers = [*good[:position], bad, *good[position + 1 :]]
    with pytest.raises((TypeError, ValueError), match=f"{name}: got"):
        kernel(out, *numbers)
    assert (out == 77).all()


@pytest.mark.parametrize(("kernel", "right"), [(philox_fill, np.uint32), (shuffle_indices, np.int64)])
def test_broken_arrays_are_refused(kernel, right):
    numbers = (1, 2)
    read_only = np.full(6, 77, right)
    read_only.flags.writeable = False
    wrong = [np.full(6, 77, kind) for kind in (np.int32, np.uint64, np.float64, object)]
    for out in [*wrong, read_only, np.full((2, 3), 77, right), np.full(12, 77, right)[::2], [77] * 6, None]:
        with pytest.raises((TypeError, ValueError), match=r"(out|order): got"):
            kernel(out, *numbers)
        assert out is None or (np.asarray(out) == 77).all()


def test_numpy_integers_are_taken():
    out, want = np.empty(5, np.uint32), np.empty(5, np.uint32)
    philox_fill(out, np.uint64(2**64 - 1), np.int64(3), np.int32(4))
    philox_fill(want, 2**64 - 1, 3, 4)
    np.testing.assert_array_equal(out, want)
