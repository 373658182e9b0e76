"""The packaged digits, and IDX files: read back as written, refused where they are damaged."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastnn.datasets import load_digits, load_idx, load_idx_dir

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array):
    """An IDX file's bytes, written down from the format's description."""
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array):
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


# the digits


def test_digits_shapes_types_and_range():
    x_train, y_train, x_test, y_test = load_digits()
    assert x_train.shape == (1442, 64)
    assert x_test.shape == (355, 64)
    assert y_train.shape == (1442,)
    assert y_test.shape == (355,)
    for x in (x_train, x_test):
        assert x.dtype == np.uint8
        assert (x.min(), x.max()) == (0, 16)
        assert x.flags.c_contiguous
    for y in (y_train, y_test):
        assert y.dtype == np.int64


def test_digits_split_is_stratified_and_disjoint():
    x_train, y_train, x_test, y_test = load_digits()
    n_train, n_test = np.bincount(y_train), np.bincount(y_test)
    assert len(n_train) == len(n_test) == 10
    np.testing.assert_array_equal(n_test, (n_train + n_test) // 5)
    assert n_test.min() >= 34
    train, test = ({row.tobytes() for row in x} for x in (x_train, x_test))
    assert len(train) == 1442
    assert len(test) == 355
    assert not train & test


def test_digits_are_always_the_same():
    digest = hashlib.sha256()
    for part in load_digits():
        digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest() == "1220be4c40c635d6eae4bb6ebfee9fcc6d344fdee6a101841258d5e089a33e55"


def test_digits_are_the_callers_own():
    load_digits()[0][:] = 0
    assert load_digits()[0].any()


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x_train, y_train, x_test, y_test = load_digits()

    def rows(x, y):
        return sorted(np.column_stack([x, y]).astype(int).tolist())

    assert rows(np.vstack([x_train, x_test]), np.concatenate([y_train, y_test])) == rows(x, y)
    held_out = [i for digit in range(10) for i in np.flatnonzero(y == digit)[4::5]]
    np.testing.assert_array_equal(x_test, x[sorted(held_out)])


def test_digits_can_be_told_apart_by_their_nearest_neighbour():
    x_train, y_train, x_test, y_test = (part.astype(np.float64) for part in load_digits())
    distance = (x_train**2).sum(axis=1) - 2 * x_test @ x_train.T
    assert (y_train[distance.argmin(axis=1)] == y_test).mean() > 0.97


def test_digits_come_with_their_attribution():
    text = (Path(load_digits.__code__.co_filename).parent / "data" / "ATTRIBUTION.md").read_text()
    assert all(word in text for word in ("E. Alpaydin", "C. Kaynak", "10.24432/C50P49", "CC BY 4.0"))


# one IDX file


@pytest.mark.parametrize("name", ["a.idx", "a.gz"])
@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    )
)
def test_idx_reads_back_what_was_written(tmp_path_factory, name, array):
    path = write_idx(tmp_path_factory.mktemp("idx") / name, array)
    back = load_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_idx_known_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0x01, 0x02, 0xFF, 0xFE]))
    np.testing.assert_array_equal(load_idx(str(path)), [[258], [-2]])


def test_idx_compression_is_seen_from_the_bytes_not_the_name(tmp_path):
    array = np.arange(100, dtype=np.uint8)
    (tmp_path / "packed").write_bytes(gzip.compress(idx_bytes(array)))
    (tmp_path / "plain.gz").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(load_idx(tmp_path / "packed"), array)
    np.testing.assert_array_equal(load_idx(tmp_path / "plain.gz"), array)


def test_idx_takes_the_best_compression_there_is(tmp_path):
    array = np.zeros((3000, 1000), dtype=np.uint8)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx_bytes(array), 9))
    assert path.stat().st_size < 3500  # close to deflate's limit of 1032 to 1
    np.testing.assert_array_equal(load_idx(path), array)


SOUND = idx_bytes(np.arange(6, dtype=np.int32).reshape(2, 3))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", range(len(SOUND)))
def test_idx_cut_short_anywhere_is_refused(tmp_path, packed, length):
    data = gzip.compress(SOUND[:length], mtime=0) if packed else SOUND[:length]
    (tmp_path / "a").write_bytes(data)
    message = "not an IDX file" if length < 4 else "cut short"
    with pytest.raises(ValueError, match=rf"path: got .*{message}.*expected"):
        load_idx(tmp_path / "a")


@pytest.mark.parametrize("length", range(2, len(gzip.compress(SOUND, mtime=0))))
def test_idx_with_its_gzip_cut_short_is_refused(tmp_path, length):
    (tmp_path / "a").write_bytes(gzip.compress(SOUND, mtime=0)[:length])
    with pytest.raises(ValueError, match=r"path: got .*cut short"):
        load_idx(tmp_path / "a")


@pytest.mark.parametrize("packed", [False, True])
def test_idx_longer_than_its_header_says_is_refused(tmp_path, packed):
    data = SOUND + b"\0"
    (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match=r"more than its header says; expected 24 bytes .* shape \(2, 3\)"):
        load_idx(tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its first bytes are none, expected 00 00"),
        (b"\x89PNG\r\n\x1a\n", "its first bytes are 89 50 4e 47, expected 00 00"),
        (b"\0\1\x08\1\0\0\0\1\7", "not an IDX file"),
        (b"\0\0\x0a\1\0\0\0\1\7", "its first bytes are 00 00 0a 01, expected 00 00, a type"),
        (b"\0\0\x08\0\7", "with 0 dimensions, expected 1 to 32"),
        (b"\0\0\x08\x21" + b"\0\0\0\1" * 33 + b"\7", "with 33 dimensions, expected 1 to 32"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_with_a_wrong_beginning_is_refused(tmp_path, data, message, packed):
    (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match=message):
        load_idx(tmp_path / "a")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ndim", [1, 4, 32])
def test_idx_header_that_promises_too_much_allocates_nothing(tmp_path, packed, ndim):
    data = bytes([0, 0, 0x0E, ndim]) + b"\xff\xff\xff\xff" * ndim + b"\0" * 64
    (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(
        ValueError, match=rf"cut short: its size allows at most \d+; expected {8 * (2**32 - 1) ** ndim}"
    ):
        load_idx(tmp_path / "a")


def test_idx_damaged_gzip_is_refused(tmp_path):
    good = bytearray(gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8))))
    for position in (3, 12, 60, len(good) // 2, len(good) - 6):  # flags, deflate data, checksum
        bad = bytearray(good)
        bad[position] ^= 0xFF
        (tmp_path / "a").write_bytes(bad)
        with pytest.raises(ValueError, match=r"path: got "):
            load_idx(tmp_path / "a")


@given(
    data=st.binary(max_size=200),
    magic=st.sampled_from([b"", SOUND[:4], SOUND[:12], b"\x1f\x8b", b"\x1f\x8b\x08"]),
)
def test_idx_gives_an_array_or_a_sentence_for_any_bytes(tmp_path_factory, data, magic):
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(magic + data)
    try:
        array = load_idx(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith("path: got ")
    else:
        assert array.nbytes < 200 * 1032


def test_idx_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_idx(tmp_path / "nowhere")


# a folder


def small_set():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (7, 3, 2)).astype(np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 7).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (4, 3, 2)).astype(np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 4).astype(np.uint8),
    }


def write_set(folder, files, spell=str):
    for name, array in files.items():
        write_idx(folder / spell(name), array)
    return folder


@pytest.mark.parametrize(
    "spell",
    [str, lambda name: name + ".gz", lambda name: name.replace("-idx", ".idx")],
    ids=["plain", "gz", "dot"],
)
def test_idx_dir(tmp_path, spell):
    files = small_set()
    got = load_idx_dir(write_set(tmp_path, files, spell))
    for part, array in zip(got, files.values(), strict=True):
        np.testing.assert_array_equal(part, array.reshape(len(array), -1) if array.ndim == 3 else array)
    assert [part.dtype for part in got] == [np.uint8, np.int64] * 2
    assert [part.shape for part in load_idx_dir(str(tmp_path))] == [(7, 6), (7,), (4, 6), (4,)]


@pytest.mark.parametrize("name", small_set())
def test_idx_dir_says_which_file_is_missing(tmp_path, name):
    files = small_set()
    del files[name]
    with pytest.raises(FileNotFoundError, match=rf"directory: got .* without {name}, expected it"):
        load_idx_dir(write_set(tmp_path, files))


def test_idx_dir_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"directory: got .*nowhere, which is no folder"):
        load_idx_dir(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"directory: got .*, which is no folder"):
        load_idx_dir(write_idx(tmp_path / "file", np.zeros(1, np.uint8)))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-labels-idx1-ubyte",
            np.zeros(6, np.uint8),
            r"train images of shape \(7, 3, 2\) and labels of shape \(6,\)",
        ),
        (
            "t10k-labels-idx1-ubyte",
            np.zeros((4, 1), np.uint8),
            r"t10k images .* labels of shape \(4, 1\) .* \(n,\)",
        ),
        (
            "t10k-labels-idx1-ubyte",
            np.zeros(4, np.float32),
            r"float32 t10k labels in .*, expected integers",
        ),
        (
            "t10k-images-idx3-ubyte",
            np.zeros(4, np.uint8),
            r"t10k images of shape \(4,\) .*, expected \(n, height",
        ),
        (
            "t10k-images-idx3-ubyte",
            np.zeros((4, 2, 2), np.uint8),
            r"train images of 6 pixels and t10k images of 4",
        ),
    ],
)
def test_idx_dir_with_files_that_do_not_fit(tmp_path, name, array, message):
    with pytest.raises(ValueError, match=rf"directory: got {message}"):
        load_idx_dir(write_set(tmp_path, small_set() | {name: array}))


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder of MNIST's files: $FASTNN_MNIST_DIR, else ../shared/data/mnist beside the repository."""
    named = os.environ.get("FASTNN_MNIST_DIR")
    if named:
        assert Path(named).is_dir(), f"FASTNN_MNIST_DIR: got {named}, which is no folder"
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
    if not beside.is_dir():
        pytest.skip("MNIST is not here; FASTNN_MNIST_DIR can name its folder")
    return beside


def test_mnist(mnist_dir):
    x_train, y_train, x_test, y_test = load_idx_dir(mnist_dir)
    assert x_train.shape == (60_000, 784)
    assert x_test.shape == (10_000, 784)
    assert x_train.dtype == x_test.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(y_train), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    np.testing.assert_array_equal(np.bincount(y_test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert math.isclose(x_train.mean(dtype=np.float64) / 255, 0.1307, abs_tol=1e-4)  # the figure everyone divides by
