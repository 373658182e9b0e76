"""The matrix product: every edge of tile and block, both transposes, against sums and a rigorous bound."""

from __future__ import annotations

import naive
import numba
import numpy as np
import pytest
from conftest import sampled_shapes
from hypothesis import given
from hypothesis import strategies as st

from fastnn.kernels._simd import first_cache_ways, pointer
from fastnn.kernels.gemm import GEMM, call_gemm, matmul, product_scratch

pytestmark = pytest.mark.usefixtures("one_thread")

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
TRANSPOSES = [(False, False), (False, True), (True, False), (True, True)]
# Past every block of rows, columns and depth, and where A, B or both are packed.
LARGE = [
    (300, 200, 400),
    (97, 193, 513),
    (145, 97, 257),
    (128, 258, 300),
    (1, 700, 300),
    (700, 1, 300),
    (513, 3, 769),
    # Few rows times a transposed matrix, its rows 4 or 8 KB apart or not.
    (2, 61, 1024),
    (3, 70, 515),
    # Rows of A that begin pages apart, and rows so long that they are copied.
    (410, 200, 1024),
    (200, 200, 1024),
    (20, 200, 2060),
    (397, 195, 2050),
]

every_transpose = pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)


def stored(matrix, transpose):
    return np.ascontiguousarray(matrix.T) if transpose else matrix


def assert_product(c, a, b, dtype):
    """c = a b to the bound of a sum of K products in any order: K rounding steps of sum |a| |b|."""
    k = a.shape[1]
    a, b = a.astype(np.float64), b.astype(np.float64)
    # The float64 reference has rounding errors of its own, of the same bound.
    bound = (k + 2) * (UNIT[dtype.name] + 2.0**-53) * (np.abs(a) @ np.abs(b))
    error = np.abs(c - a @ b)
    assert (error <= bound).all(), f"worst {np.nanmax(error / bound)} of the bound, shape {a.shape} {b.shape}"


@every_transpose
def test_small_shapes_match_naive(transpose_a, transpose_b, dtype, rng, guard):
    for m, n, k in sampled_shapes(3, 19, seed=2, sizes=(1, 2, 3, 5, 6, 7, 8, 13, 15, 17)):
        a = guard.input(stored(rng.normal(size=(m, k)), transpose_a), dtype)
        b = guard.input(stored(rng.normal(size=(k, n)), transpose_b), dtype)
        c = guard.output((m, n), dtype)
        matmul(c, a, b, transpose_a, transpose_b)
        guard.check()
        want = np.empty((m, n))
        naive.matmul(want, a, b, transpose_a, transpose_b)
        np.testing.assert_allclose(c, want, rtol=0, atol=40 * UNIT[dtype.name] * k)
        assert_product(c, a.T if transpose_a else a, b.T if transpose_b else b, dtype)


@every_transpose
def test_awkward_and_large_shapes(transpose_a, transpose_b, dtype, rng, guard, same_bits):
    for m, n, k in sampled_shapes(3, 38, seed=3) + LARGE:
        a = guard.input(stored(rng.normal(size=(m, k)), transpose_a), dtype)
        b = guard.input(stored(rng.normal(size=(k, n)), transpose_b), dtype)

        def compute(a=a, b=b, shape=(m, n)):
            c = guard.output(shape, dtype)
            matmul(c, a, b, transpose_a, transpose_b)
            return c

        c = same_bits(compute)
        guard.check()
        assert_product(c, a.T if transpose_a else a, b.T if transpose_b else b, dtype)


@given(
    m=st.integers(1, 80),
    n=st.integers(1, 80),
    k=st.integers(1, 80),
    transposes=st.sampled_from(TRANSPOSES),
    name=st.sampled_from(["float32", "float64"]),
)
def test_any_shape(m, n, k, transposes, name, guard):
    dtype = np.dtype(name)
    values = np.random.default_rng([m, n, k])
    a = guard.input(stored(values.normal(size=(m, k)), transposes[0]), dtype)
    b = guard.input(stored(values.normal(size=(k, n)), transposes[1]), dtype)
    c = guard.output((m, n), dtype)
    matmul(c, a, b, *transposes)
    guard.check()
    assert_product(c, a.T if transposes[0] else a, b.T if transposes[1] else b, dtype)


@numba.njit(nogil=True)
def write_block(address, c, c0, ldc, a, transpose_a, b, transpose_b, m, n, k, bias, start, scratch):
    a_rs, a_cs = (1, m) if transpose_a else (k, 1)
    b_rs, b_cs = (1, k) if transpose_b else (n, 1)
    out, at, panel = pointer(c, c0), pointer(a, 0), pointer(b, 0)
    first, room = out if start > 0 else pointer(bias, 0), pointer(scratch, 0)
    call_gemm(address, out, ldc, at, a_rs, a_cs, panel, b_rs, b_cs, m, n, k, first, start, room, out, 0)


@every_transpose
@pytest.mark.parametrize("start", ["nothing", "bias", "what is there"])
def test_a_block_is_all_that_is_written(start, transpose_a, transpose_b, dtype, rng):
    """Every count of columns up to beyond a tile's, of rows up to two tiles' and more, inside a larger matrix."""
    address = GEMM.address(dtype)
    narrow = [(m, n) for n in (*range(1, 41), 63, 65) for m in ((*range(1, 34), 40) if n < 34 else (1, 2, 3, 13, 31))]
    shapes = [(m, n, k) for m, n in narrow for k in ((1, 9) if m % 7 else (1, 325))]  # 325: sums that go on
    packed = [
        (263, 100, 20),
        (263, 107, 330),
        (31, 196, 390),
        (31, 203, 390),
        (200, 192, 1024),
        (400, 40, 9),
    ]  # A, or A and B
    column = [(m, 1, k, 0, 0) for m in (*range(1, 40), 70) for k in (1, 8, 9, 32, 67)]  # which lies in one piece
    for m, n, k, before, room in [(*shape, 2, 40) for shape in shapes + packed] + column:
        a, b = (rng.integers(-8, 9, size=shape).astype(dtype) for shape in ((m, k), (k, n)))
        bias = rng.integers(-8, 9, size=n).astype(dtype)
        c = np.full((m + 4, before + n + room), 7.5, dtype)
        block = c[2 : 2 + m, before : before + n]
        block += rng.integers(-8, 9, size=block.shape)
        first, stride = {"nothing": (0, -1), "bias": (bias, 0), "what is there": (block.copy(), c.shape[1])}[start]
        want = c.copy()
        want[2 : 2 + m, before : before + n] = a.astype(float) @ b.astype(float) + first
        scratch = np.full(product_scratch(m, n, k, dtype) + 64, np.nan, dtype)
        scratch[-64:] = 7.5
        write_block(
            address, c.reshape(-1), 2 * c.shape[1] + before, c.shape[1],
            stored(a, transpose_a).reshape(-1), transpose_a, stored(b, transpose_b).reshape(-1), transpose_b,
            m, n, k, bias, stride, scratch,
        )  # fmt: skip
        assert np.array_equal(c, want), f"{m} rows, {n} columns, depth {k}"
        assert (scratch[-64:] == 7.5).all(), f"scratch of {m} rows, {n} columns, depth {k}"


@every_transpose
def test_small_integers_are_exact(transpose_a, transpose_b, dtype, rng):
    """Every product and sum fits the mantissa: any wrong, missing or doubled term shows."""
    for m, n, k in [(33, 65, 257), (257, 33, 300), (15, 129, 17)]:
        a, b = rng.integers(-8, 9, size=(m, k)), rng.integers(-8, 9, size=(k, n))
        c = np.full((m, n), np.nan, dtype)
        matmul(
            c,
            stored(a.astype(dtype), transpose_a),
            stored(b.astype(dtype), transpose_b),
            transpose_a,
            transpose_b,
        )
        np.testing.assert_array_equal(c, (a @ b).astype(dtype))


@every_transpose
def test_an_element_does_not_depend_on_the_rest_of_the_matrix(transpose_a, transpose_b, dtype, rng):
    """One chain of multiply-adds in the order of k, wherever tiles begin: a part has the same bits."""
    a = rng.normal(size=(307, 401)).astype(dtype)
    b = rng.normal(size=(401, 259)).astype(dtype)
    whole = np.full((307, 259), np.nan, dtype)
    matmul(whole, stored(a, transpose_a), stored(b, transpose_b), transpose_a, transpose_b)
    for rows, columns in [
        (slice(0, 1), slice(0, 1)),
        (slice(5, 38), slice(3, 20)),
        (slice(200, 307), slice(66, 259)),
        (slice(3, 300), slice(70, 71)),
    ]:
        left, right = np.ascontiguousarray(a[rows]), np.ascontiguousarray(b[:, columns])
        part = np.full((left.shape[0], right.shape[1]), np.nan, dtype)
        matmul(part, stored(left, transpose_a), stored(right, transpose_b), transpose_a, transpose_b)
        np.testing.assert_array_equal(part, whole[rows, columns])


@every_transpose
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row_and_column(transpose_a, transpose_b, bad, dtype, rng):
    m, n, k = 31, 45, 19
    for row, inner, column in [(0, 0, 0), (m - 1, k - 1, n - 1), (14, 7, 32)]:
        a, b = np.abs(rng.normal(size=(m, k))) + 0.5, np.abs(rng.normal(size=(k, n))) + 0.5
        a[row, inner] = bad
        c = np.zeros((m, n), dtype)
        matmul(
            c,
            stored(a.astype(dtype), transpose_a),
            stored(b.astype(dtype), transpose_b),
            transpose_a,
            transpose_b,
        )
        assert (~np.isfinite(c[row])).all()
        assert np.isfinite(np.delete(c, row, axis=0)).all()
        a[row, inner] = 1.0
        b[inner, column] = bad
        matmul(
            c,
            stored(a.astype(dtype), transpose_a),
            stored(b.astype(dtype), transpose_b),
            transpose_a,
            transpose_b,
        )
        assert (~np.isfinite(c[:, column])).all()
        assert np.isfinite(np.delete(c, column, axis=1)).all()


def test_inputs_may_be_one_array(dtype, rng):
    """The Gram matrix: only outputs must not overlap."""
    a = rng.normal(size=(37, 20)).astype(dtype)
    c = np.full((37, 37), np.nan, dtype)
    matmul(c, a, a, transpose_b=True)
    assert_product(c, a, a.T, dtype)


def test_read_only_inputs_are_taken(rng):
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3))
    a.flags.writeable = b.flags.writeable = False
    c = np.full((5, 3), np.nan)
    matmul(c, a, b)
    assert_product(c, a, b, c.dtype)


def test_empty_dimensions(dtype):
    c = np.full((3, 4), np.nan, dtype)
    matmul(c, np.empty((3, 0), dtype), np.empty((0, 4), dtype))
    np.testing.assert_array_equal(c, np.zeros((3, 4)))
    matmul(np.empty((0, 4), dtype), np.empty((0, 5), dtype), np.empty((5, 4), dtype))
    matmul(np.empty((3, 0), dtype), np.empty((3, 5), dtype), np.empty((5, 0), dtype))


@every_transpose
def test_broken_arguments_are_refused(transpose_a, transpose_b, dtype, rng, refuses):
    a = stored(rng.normal(size=(4, 6)).astype(dtype), transpose_a)
    b = stored(rng.normal(size=(6, 5)).astype(dtype), transpose_b)
    c = np.full((4, 5), np.nan, dtype)
    refuses(matmul, ["c"], c=c, a=a, b=b, transpose_a=transpose_a, transpose_b=transpose_b)


def test_ways_of_the_first_cache(monkeypatch):
    told = ["12\n", "", OSError()]

    def read(path):
        assert path.name == "ways_of_associativity"
        if isinstance(told[0], OSError):
            raise told.pop(0)
        return told.pop(0)

    monkeypatch.setattr("pathlib.Path.read_text", read)
    assert [first_cache_ways.__wrapped__() for _ in range(3)] == [12, 8, 8]
