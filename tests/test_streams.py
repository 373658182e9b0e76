"""Streams: the same bits as on arrays, whatever the blocks are; bounded memory; errors that leave the model alone."""

from __future__ import annotations

import gzip
import sys
import threading
import tracemalloc
import zipfile
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from support import history_of, through, training_state
from test_datasets import write_idx

import fastnn
from fastnn import Dense, Dropout, Rescale, Sequential, feeds, runtime, scores, streams, training

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 103
rng = np.random.default_rng(5)
X = rng.normal(size=(ROWS, 6)).astype(np.float32)
LABELS = rng.integers(0, 3, size=ROWS)
VALUES = rng.normal(size=(ROWS, 2)).astype(np.float32)
WEIGHTS = rng.uniform(0.1, 2, size=ROWS)
SMALL = {"block_rows": 8, "buffer_rows": 20}


def model_of(loss="cross_entropy", seed=9, **more):
    units = {"cross_entropy": 3, "squared_error": 2}[loss]
    optimizer = fastnn.Adam(fastnn.Warmup(fastnn.InverseTime(0.02, 0.1, unit="step"), steps=9))
    return Sequential([Dense(7, "tanh"), Dropout(0.2), Dense(units)], loss, optimizer, seed=seed, l2=0.01, **more)


def fitted(*data, loss="cross_entropy", epochs=3, batch_size=7, **more):
    model = model_of(loss)
    model.fit(*data, epochs=epochs, batch_size=batch_size, **more)
    return model


def same(one, other):
    one, other = training_state(one), training_state(other)
    assert [name for name in one if one[name] != other[name]] == []


def numbered(rows=ROWS):
    """Samples that say which row they are."""
    return np.arange(rows, dtype=np.float64).reshape(-1, 1)


def feed_of(stream):
    """A feed of a stream of `numbered` rows."""

    def gate(piece):
        x = np.asarray(piece.x)
        return fastnn.arrays.Data.unlabelled(x, np.empty((0, 0), np.uint8))

    return feeds.Streamed(stream, gate)


def taken(feed, multiple, key):
    """The rows in the order in which training takes them, buffer by buffer."""
    return [
        (data.x[order, 0] if len(order) else data.x[:, 0].copy()).astype(int).tolist()
        for data, order in feed.buffers(multiple, key)
    ]


# ------------------------------------------------------------------------------------- the files


def write_npy(folder, x, y, w):
    for name, array in (("x", x), ("y", y), ("w", w)):
        np.save(folder / f"{name}.npy", array)
    return folder / "x.npy", {"target": folder / "y.npy", "sample_weight": folder / "w.npy"}


def write_npz(folder, x, y, w):
    np.savez(folder / "all.npz", x=x, y=y, w=w)
    return folder / "all.npz", {"target": "y", "sample_weight": "w"}


def write_idx_files(folder, x, y, w):
    y = y.astype(np.int32) if y.dtype.kind == "i" else y
    write_idx(folder / "x", x)
    write_idx(folder / "y", y)
    write_idx(folder / "w", w)
    return str(folder / "x"), {"target": str(folder / "y"), "sample_weight": folder / "w"}


def write_packed_npz(folder, x, y, w):
    np.savez_compressed(folder / "packed-all.npz", x=x, y=y, w=w)
    return folder / "packed-all.npz", {"target": "y", "sample_weight": "w"}


def write_packed_files(folder, x, y, w):
    """IDX and .npy with gzip, the samples in three members one behind the other, and zeros behind those."""
    write_idx(folder / "x", x)
    raw = (folder / "x").read_bytes()
    members = b"".join(gzip.compress(part) for part in (raw[:11], raw[11:500], raw[500:]))
    (folder / "x.gz").write_bytes(members + bytes(100))
    for name, array in (("y", y), ("w", w)):
        np.save(folder / f"{name}.npy", array)
        (folder / f"{name}.npy.gz").write_bytes(gzip.compress((folder / f"{name}.npy").read_bytes()))
    return folder / "x.gz", {"target": folder / "y.npy.gz", "sample_weight": folder / "w.npy.gz"}


def write_parquet(folder, x, y, w, row_group_size=30):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    y = y.reshape(len(y), -1)
    columns = {f"x{j}": x[:, j] for j in range(x.shape[1])}
    columns |= {f"y{j}": y[:, j] for j in range(y.shape[1])} | {"w": w}
    table = pyarrow.table(columns)
    half = len(x) // 2
    for name, part in (("a", table[:half]), ("b", table[half:])):
        parquet.write_table(part, folder / f"{name}.parquet", row_group_size=row_group_size)
    targets = [f"y{j}" for j in range(y.shape[1])]
    return folder, {"target": targets[0] if len(targets) == 1 else targets, "sample_weight": "w"}


def memmaps(folder, x, y, w):
    path, beside = write_npy(folder, x, y, w)
    return np.load(path, mmap_mode="r"), {name: np.load(value, mmap_mode="r") for name, value in beside.items()}


def arrays(folder, x, y, w):
    return x, {"target": y, "sample_weight": w}


PACKED = [write_packed_npz, write_packed_files]
SOURCES = [write_npy, write_npz, write_idx_files, write_parquet, memmaps, arrays, *PACKED]


# ---------------------------------------------------------------------------------- the same bits as arrays


@pytest.mark.parametrize("write", SOURCES)
def test_every_source_trains_as_arrays_do(write, tmp_path):
    path, beside = write(tmp_path, X, LABELS, WEIGHTS)
    want = fitted(X, LABELS, sample_weight=WEIGHTS, shuffle=False)
    source = fastnn.stream(path, **beside, **SMALL)
    assert (source.rows, source.inputs) == X.shape
    got = fitted(source, shuffle=False)
    same(got, want)
    assert got.evaluate(source) == want.evaluate(X, LABELS, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(got.predict(source), want.predict(X))
    np.testing.assert_array_equal(got.predict_class(source), want.predict_class(X))


@pytest.mark.parametrize("write", SOURCES)
def test_values_and_bytes(write, tmp_path):
    pixels = rng.integers(0, 256, size=(ROWS, 6)).astype(np.uint8)
    path, beside = write(tmp_path, pixels, VALUES, WEIGHTS)
    source = fastnn.stream(path, **beside, **SMALL)
    layers = [Rescale(1 / 255), Dense(4, "relu"), Dense(2)]
    want, got = (Sequential(layers, "squared_error", seed=1) for _ in range(2))
    want.fit(pixels, VALUES, sample_weight=WEIGHTS, epochs=2, batch_size=9, shuffle=False)
    got.fit(source, epochs=2, batch_size=9, shuffle=False)
    same(got, want)
    one, other = got.evaluate(source), want.evaluate(pixels, VALUES, sample_weight=WEIGHTS)
    assert one["loss"] == other["loss"]
    assert one["r2"] == pytest.approx(other["r2"], abs=1e-12)
    data, _ = next(feeds.Streamed(source, lambda p: got._intake.batch(p.x, p.y, p.weight)).buffers(9))
    assert data.x_bytes.dtype == np.uint8
    assert not data.x.size


@pytest.mark.parametrize("batch", [1, 7, 20, 64, 103, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (8, 20), (20, 20), (5, 102), (7, 49)])
def test_batches_go_on_across_blocks(batch, sizes):
    """A batch may be larger than a block or a buffer; the short one is the last of the epoch."""
    source = fastnn.stream(X, LABELS, block_rows=sizes[0], buffer_rows=sizes[1])
    same(
        fitted(source, shuffle=False, batch_size=batch, epochs=2),
        fitted(X, LABELS, shuffle=False, batch_size=batch, epochs=2),
    )


@pytest.mark.parametrize("buffer", [103, 5000])
def test_what_fits_into_a_buffer_is_shuffled_as_arrays_are(buffer, tmp_path):
    path, beside = write_npy(tmp_path, X, LABELS, WEIGHTS)
    same(
        fitted(fastnn.stream(path, **beside, block_rows=8, buffer_rows=buffer)),
        fitted(X, LABELS, sample_weight=WEIGHTS),
    )


def test_a_memmap_in_place_of_an_array(tmp_path, monkeypatch):
    path, _ = write_npy(tmp_path, X.astype(np.float64), LABELS, WEIGHTS)
    x = np.load(path, mmap_mode="r")
    want = fitted(X, LABELS, sample_weight=WEIGHTS, validation_data=(X[:50], LABELS[:50]))
    same(fitted(x, LABELS, sample_weight=WEIGHTS, validation_data=(x[:50], LABELS[:50])), want)
    monkeypatch.setattr(streams, "BUFFER_BYTES", 20 * 4 * 6)  # and now it does not fit
    want = fitted(X, LABELS, sample_weight=WEIGHTS, shuffle=False, validation_split=0.3)
    whole = []
    convert = fastnn.arrays.contiguous
    monkeypatch.setattr(fastnn.arrays, "contiguous", lambda a, d: (whole.append(a.shape), convert(a, d))[1])
    got = fitted(x, LABELS.tolist(), sample_weight=WEIGHTS, shuffle=False, validation_split=0.3)
    same(got, want)
    assert max(shape[0] for shape in whole if len(shape) == 2) <= 20, "a part of it was converted, never the whole"
    np.testing.assert_array_equal(got.predict(x), want.predict(X))


def test_class_weights_of_a_stream():
    for weights in ("balanced", {1: 3.0}, [1.0, 2.0, 0.5]):
        want = fitted(X, LABELS, sample_weight=WEIGHTS, class_weight=weights, shuffle=False)
        source = fastnn.stream(X, LABELS, sample_weight=WEIGHTS, **SMALL)
        same(fitted(source, class_weight=weights, shuffle=False), want)
    chances = (VALUES[:, :1] > 0.3).astype(np.float32)
    results = []
    for data in ((X, chances), (fastnn.stream(X, chances, **SMALL),)):
        model = Sequential([Dense(1)], "binary_cross_entropy", seed=3)
        model.fit(*data, epochs=2, class_weight="balanced", shuffle=False)
        results.append(model)
    same(*results)


@pytest.mark.parametrize("kind", ["csr_array", "coo_array"])
def test_sparse_rows_are_shuffled_as_arrays_are_even_where_a_buffer_holds_some(kind, monkeypatch):
    """They are in memory: any row is at hand."""
    scipy_sparse = pytest.importorskip("scipy.sparse")
    dense = X * (rng.uniform(size=X.shape) < 0.3)
    monkeypatch.setattr(streams, "BUFFER_BYTES", 20 * 4 * 6)
    x = getattr(scipy_sparse, kind)(dense)
    same(fitted(x, LABELS, validation_split=0.3), fitted(dense, LABELS, validation_split=0.3))
    part = fastnn.stream(x, LABELS).split(70)[1].take(np.array([3, 1]))
    np.testing.assert_array_equal(part.x, dense[[73, 71]])
    np.testing.assert_array_equal(part.y, LABELS[[73, 71]])
    x.data[-1] = np.nan
    model = model_of()
    with pytest.raises(ValueError, match=r"x: got nan in row 10\d, column \d, expected finite"):
        model.fit(x, LABELS)
    assert model._runtime is None


def test_validation_by_a_stream():
    want = fitted(X, LABELS, validation_data=(X[:55], LABELS[:55], WEIGHTS[:55]))
    source = fastnn.stream(X[:55], LABELS[:55], sample_weight=WEIGHTS[:55], **SMALL)
    same(fitted(X, LABELS, validation_data=source), want)
    got = fitted(fastnn.stream(X, VALUES, **SMALL), loss="squared_error", validation_split=0.3, shuffle=False)
    want = fitted(X, VALUES, loss="squared_error", validation_split=0.3, shuffle=False)
    for name in ("loss", "val_loss"):
        assert got.history.history[name] == want.history.history[name]
    np.testing.assert_allclose(got.history.history["val_r2"], want.history.history["val_r2"], atol=1e-12)


@pytest.mark.parametrize("write", [write_npy, write_parquet])
def test_evaluation_and_prediction_in_many_buffers(write, tmp_path, monkeypatch):
    path, beside = write(tmp_path, X, VALUES, WEIGHTS)
    source = fastnn.stream(path, **beside, **SMALL)
    model = fitted(X, VALUES, loss="squared_error")
    monkeypatch.setattr(runtime, "_PREDICT_ELEMENTS", 1)  # blocks of 16 rows
    assert [data.rows for data, _ in feed_of(source).buffers(model.runtime.blocks_of_rows(ROWS))] == [16] * 6 + [7]
    np.testing.assert_array_equal(model.predict(source), model.predict(X))
    got, want = model.evaluate(source), model.evaluate(X, VALUES, sample_weight=WEIGHTS)
    assert got["loss"] == want["loss"]
    assert got["r2"] == pytest.approx(want["r2"], abs=1e-12)


def test_r2_does_not_cancel():
    far = VALUES.astype(np.float64) + 1e6
    whole, parts = scores.R2(), scores.R2()
    assert np.isnan(parts.value())
    whole.add(far + 0.1, far, WEIGHTS)
    for rows in (slice(0, 1), slice(1, 60), slice(60, ROWS)):
        parts.add(far[rows] + 0.1, far[rows], WEIGHTS[rows])
    parts.add(far, far, np.zeros(ROWS))
    assert parts.value() == pytest.approx(whole.value(), abs=1e-9)
    assert 0.98 < parts.value() < 0.995


def test_an_array_that_an_npz_file_has_not_is_named(tmp_path):
    np.savez(tmp_path / "s.npz", x=X, price=LABELS, weight=LABELS)
    named = {"target": "price", "features": "x"}
    for argument in ("target", "sample_weight", "features"):
        with pytest.raises(ValueError, match=rf"^{argument}: got 'prize', expected one of .*Did you mean 'price'"):
            fastnn.stream(tmp_path / "s.npz", **{**named, argument: "prize"})
    same(fitted(fastnn.stream(tmp_path / "s.npz", **named)), fitted(X, LABELS))


def test_predictions_do_not_read_the_target():
    source = fastnn.stream(X, LABELS, sample_weight=WEIGHTS, **SMALL).without_target()
    for block in source.blocks:
        assert [(piece.y, piece.weight) for piece in block.read(True, True)] == [(None, None)]


def test_buffers_have_32_mb_of_what_they_hold(tmp_path):
    pixels = np.zeros((ROWS, 6), np.uint8)
    assert fastnn.stream(X).buffer_rows == (32 << 20) // 24
    assert fastnn.stream(X.astype(np.float64)).buffer_rows == (32 << 20) // 24
    assert fastnn.stream(pixels).buffer_rows == (32 << 20) // 6
    assert fastnn.stream(X, block_rows=10**8).buffer_rows == 10**8
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": pixels[:, 0], "b": X[:, 1], "y": X[:, 0]}), tmp_path / "f.parquet")
    assert fastnn.stream(tmp_path / "f.parquet", "y").buffer_rows == (32 << 20) // 8
    assert fastnn.stream(tmp_path / "f.parquet", "y", features=["a"]).buffer_rows == 32 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much of a file is in the process")
def test_pages_of_a_memory_map_are_given_back(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((20_000, 256), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")

    def in_process():
        return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) << 10

    before = in_process()
    source = fastnn.stream(x, np.ones(20_000), block_rows=1000)
    assert all(piece.x.all() for block in source.blocks for piece in block.read(True, True))
    assert in_process() - before < 10 << 20
    assert (x[-1] == 1).all()
    assert x.sum() == x.size
    assert in_process() - before > 15 << 20, "or the number says nothing"


@pytest.mark.parametrize("mode", ["c", "r+", "r"])
def test_what_was_written_into_a_memory_map_is_trained_on(mode, tmp_path):
    """A private copy of a page exists in the process alone: it must not be given back."""
    np.save(tmp_path / "x.npy", np.zeros_like(X) if mode == "c" else X)
    x = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        x[:] = X
    source = fastnn.stream(x, LABELS, **SMALL)
    same(fitted(source, shuffle=False), fitted(X, LABELS, shuffle=False))
    np.testing.assert_array_equal(x, X)


# ------------------------------------------------------------------------------------------ packed files


@pytest.mark.parametrize("write", PACKED)
def test_packed_files_are_shuffled_as_others_are(write, tmp_path):
    path, beside = write(tmp_path, X, LABELS, WEIGHTS)
    want = fitted(fastnn.stream(X, LABELS, sample_weight=WEIGHTS, **SMALL))
    same(fitted(fastnn.stream(path, **beside, **SMALL)), want)


@pytest.mark.parametrize("write", PACKED)
def test_packed_files_have_few_places_to_begin_at(write, tmp_path, monkeypatch):
    """Then blocks are larger, come in an order of each epoch's own, and give every row once."""
    monkeypatch.setattr(streams, "MOST_MARKS", 4)
    path, beside = write(tmp_path, numbered(), LABELS, WEIGHTS)
    source = fastnn.stream(path, **beside, **SMALL)
    assert [(block.first, block.rows) for block in source.blocks] == [(0, 32), (32, 32), (64, 32), (96, 7)]
    pieces = list(chain(*(block.read(True, True) for block in reversed(source.blocks))))
    assert [len(piece.x) for piece in pieces] == [7] + 12 * [8]
    for piece in pieces:
        rows = slice(piece.first, piece.first + len(piece.x))
        np.testing.assert_array_equal(np.asarray(piece.x).reshape(-1, 1), numbered()[rows])
        np.testing.assert_array_equal(piece.y, LABELS[rows])
    feed = feed_of(source)
    orders = [list(chain(*taken(feed, 7, (1, epoch)))) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(ROWS))
    assert list(chain(*taken(feed, 7, None))) == list(range(ROWS))
    first, second = source.split(50)
    assert [list(chain(*taken(feed_of(part), 1, None))) for part in (first, second)] == [
        list(range(50)), list(range(50, ROWS))
    ]  # fmt: skip


def test_two_readers_of_one_packed_file_at_once(tmp_path):
    path, beside = write_packed_npz(tmp_path, numbered(), LABELS, WEIGHTS)
    source = fastnn.stream(path, **beside, block_rows=4, buffer_rows=20)
    readers = [chain(*(block.read(True, True) for block in source.blocks)) for _ in range(2)]
    for one, other in zip(*readers, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.x[:, 0], numbered()[one.first : one.first + len(one.x), 0])


@pytest.mark.parametrize("kind", ["npz", "gz"])
def test_a_packed_file_takes_little_memory(kind, tmp_path):
    """48 MB in a buffer of 1 MB; tracemalloc counts arrays, bytes and the states of zlib."""
    x = np.tile(np.arange(1 << 16, dtype=np.float32), 3 << 6).reshape(-1, 256)
    np.save(tmp_path / "x.npy", x)
    if kind == "npz":
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(tmp_path / "x.npy", "x.npy")
    else:
        path = tmp_path / "x.npy.gz"
        path.write_bytes(gzip.compress((tmp_path / "x.npy").read_bytes(), 1))
    want = x.sum(dtype=np.float64), len(x)
    del x
    for _ in feed_of(fastnn.stream(X, **SMALL)).buffers(1, (1, 0)):
        pass  # imports and compiles what shall not be counted
    tracemalloc.start()
    try:
        source = fastnn.stream(path, block_rows=128, buffer_rows=1024)
        feed = feed_of(source)
        got = [(data.x.sum(dtype=np.float64), data.rows) for data, _ in feed.buffers(1, (1, 0))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source.blocks) == 192
    assert tuple(map(sum, zip(*got, strict=True))) == want
    assert peak < 16 << 20, f"{peak:,}"


def damaged(folder, what):
    """Packed files with something wrong, each with the words that say so."""
    np.savez_compressed(folder / "x.npz", x=X)
    np.save(folder / "x.npy", X)
    raw, whole = (folder / "x.npy").read_bytes(), bytearray((folder / "x.npz").read_bytes())
    with zipfile.ZipFile(folder / "x.npz") as archive:
        size = archive.getinfo("x.npy").compress_size
    path, content = folder / "bad.gz", b""
    if what == "gzip cut short":
        content = gzip.compress(raw)[:-9]
    elif what == "rows cut short":
        content = gzip.compress(raw[:-1])
    elif what == "rows too many":
        content = gzip.compress(raw + b"\0")
    elif what == "a wrong checksum":
        content = bytearray(gzip.compress(raw))
        content[-8] ^= 1
    elif what == "a wrong bit":
        content = bytearray(gzip.compress(raw, 0))  # stored: only the checksum can tell
        content[-500] ^= 1
    elif what == "a wrong bit in a zip":
        path = folder / "bad.npz"
        np.save(folder / "x.npy", np.tile(X, (100, 1)))  # zipfile itself checks what is as small as its own buffer
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
            archive.write(folder / "x.npy", "x.npy")
        content = bytearray(path.read_bytes())
        content[-500] ^= 1
    else:
        path, content = folder / "bad.npz", whole
        content[60 + size // 2 : 60 + size // 2 + 40] = bytes(40)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    {
        "gzip cut short": "damaged",
        "rows cut short": "cut short expected 2600 bytes shape (103, 6)",
        "rows too many": "holds more than (103, 6)",
        "a wrong checksum": "damaged",
        "a wrong bit": "damaged",
        "a wrong bit in a zip": "checksum is wrong",
        "garbage in a zip": "expected a whole file",
    }.items(),
)
def test_a_damaged_packed_file_is_found_when_the_stream_is_made(what, words, tmp_path):
    path = damaged(tmp_path, what)
    with pytest.raises(ValueError, match="path: got") as caught:
        fastnn.stream(path)
    for word in [path.name, *words.split()]:
        assert word in str(caught.value), f"{word!r} is missing in {caught.value!r}"


def test_a_packed_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MOST_MARKS", 1)  # with what is kept of each, all of so small a file is in memory
    x, labels = rng.normal(size=(20 * ROWS, 6)).astype(np.float32), np.tile(LABELS, 20)
    path, beside = write_packed_npz(tmp_path, x, labels, np.ones(20 * ROWS))
    model, source = model_of(), fastnn.stream(path, **beside, **SMALL)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="has changed since it was opened"):
        model.fit(source, epochs=1)
    assert model.step == 0


# -------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("write", [write_npy, write_parquet])
def test_every_epoch_takes_every_row_once_in_an_order_of_its_own(write, tmp_path):
    path, beside = write(tmp_path, numbered(), LABELS, WEIGHTS)
    feed = feed_of(fastnn.stream(path, **beside, **SMALL))
    orders = {tuple(chain(*taken(feed, 7, key))) for key in ((1, 0), (1, 1), (2, 0), (2, 1))}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(ROWS)) for order in orders)
    assert taken(feed, 7, (1, 1)) == taken(feed, 7, (1, 1))
    assert list(chain(*taken(feed, 7, None))) == list(range(ROWS))


def test_blocks_and_rows_are_both_shuffled():
    feed = feed_of(fastnn.stream(numbered(4000), block_rows=10, buffer_rows=200))
    buffers = taken(feed, 10, (3, 0))
    assert [len(buffer) for buffer in buffers] == [200] * 20
    for buffer in buffers:
        blocks = [row // 10 for row in buffer]
        assert max(blocks) - min(blocks) > 150, "blocks of a buffer come from all over the data"
        assert sum(a == b for a, b in pairwise(blocks)) < 40, "rows of a block are kept apart"
    first, second = ([row - 10 * (row // 10) for row in buffer] for buffer in buffers[:2])
    assert first != second


def test_buffers_are_multiples_of_a_batch_and_the_last_has_the_rest():
    feed = feed_of(fastnn.stream(numbered(), **SMALL))
    assert [len(buffer) for buffer in taken(feed, 7, (1, 0))] == [14] * 7 + [5]
    assert [len(buffer) for buffer in taken(feed, 50, None)] == [50, 50, 3]
    assert [len(buffer) for buffer in taken(feed, 200, None)] == [103]


def test_two_buffers_at_most_are_held(monkeypatch):
    made, room = [], feeds._room
    monkeypatch.setattr(feeds, "_room", lambda like, rows: made.append(rows) or room(like, rows))
    taken(feed_of(fastnn.stream(numbered(), **SMALL)), 7, (1, 0))
    assert made == [14, 14]


def test_the_same_bits_for_any_number_of_threads_and_calls(threads, monkeypatch):
    source = fastnn.stream(X, LABELS, **SMALL)
    want = fitted(source)
    threads(2)
    same(fitted(source), want)
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    same(fitted(source), want)


def test_counters_go_on_across_fits_and_files(tmp_path):
    source = fastnn.stream(X, LABELS, **SMALL)
    whole, parts = fitted(source, epochs=5), fitted(source, epochs=2)
    parts.save(tmp_path / "m.safetensors")
    parts = fastnn.load(tmp_path / "m.safetensors")
    parts.fit(source, epochs=3, batch_size=7)
    same(parts, whole)


def test_callbacks_see_rows_from_all_over_the_stream():
    seen, flow = [], fastnn.GradientFlow()

    class Look(fastnn.Callback):
        def on_train_begin(self):
            seen.append(self.data)

    source = fastnn.stream(numbered(2000) / 2000, np.arange(2000) % 3, block_rows=10, buffer_rows=100)
    stop = fastnn.EarlyStopping("loss", patience=0, min_delta=9.0)
    model = fitted(source, callbacks=[Look(), flow, stop], epochs=5)
    assert stop.stopped
    assert model.epoch == 2
    data = seen[0]
    assert data.rows == len(data.labels) == 160
    assert data.x.min() < 0.1
    assert data.x.max() > 0.9
    assert flow.epoch


def test_the_report_of_steps_to_come_is_zero():
    report = training.EpochReport(10**6)
    while True:
        part = report.next(3000)
        assert not part.any()
        part[:] = 1.0
        if len(part) < 3000:
            break
    assert not report.next(1).any()


def test_an_epoch_of_many_steps_is_added_up_in_parts(monkeypatch):
    whole = fitted(X, LABELS, batch_size=2)
    monkeypatch.setattr(training, "REPORT_STEPS", 5)
    parts = fitted(X, LABELS, batch_size=2)
    streamed = fitted(fastnn.stream(X, LABELS, buffer_rows=16), batch_size=2, shuffle=False)
    plain = fitted(X, LABELS, batch_size=2, shuffle=False)
    assert history_of(streamed) == history_of(plain)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(parts.history.history[name], whole.history.history[name], rtol=1e-13)


# ------------------------------------------------------------------------------------------ what goes wrong


def with_value(array, place, value):
    result = np.array(array, dtype=np.result_type(array, type(value)))
    result[place] = value
    return result


@pytest.mark.parametrize("write", SOURCES)
def test_a_bad_value_behind_the_first_block_puts_the_model_back(write, tmp_path):
    (tmp_path / "bad").mkdir()
    path, beside = write(tmp_path, X, LABELS, WEIGHTS)
    good = fastnn.stream(path, **beside, **SMALL)
    path, beside = write(tmp_path / "bad", with_value(X, (77, 2), np.nan), LABELS, WEIGHTS)
    bad = fastnn.stream(path, **beside, **SMALL)
    model = fitted(good, epochs=2)
    before = training_state(model)
    named = r" \('x2'\)" if write is write_parquet else ""
    with pytest.raises(ValueError, match=rf"x: got nan in row 77, column 2{named}, expected finite numbers"):
        model.fit(bad, epochs=2, batch_size=7)
    assert training_state(model) == before
    with pytest.raises(ValueError, match=r"x: got nan in row 77"):
        model.predict(bad)
    model.fit(good, epochs=1, batch_size=7)
    same(model, fitted(good, epochs=3))


def test_bytes_of_which_one_is_missing(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = pyarrow.array([1] * 60 + [None] + [2] * 42, pyarrow.uint8())
    parquet.write_table(pyarrow.table({"a": column, "y": LABELS}), tmp_path / "f.parquet", row_group_size=30)
    source = fastnn.stream(tmp_path / "f.parquet", "y", **SMALL)
    with pytest.raises(ValueError, match=r"x: got nan in row 60, column 0 \('a'\)"):
        model_of().fit(source)
    with pytest.raises(
        ValueError, match="x: got rows of another kind than the first of the stream, expected all alike"
    ):
        model_of(check_finite=False).fit(source)


def test_a_bad_label_says_which_row():
    model = model_of()
    with pytest.raises(ValueError, match=r"y: got label 3 in row 90, expected 0 to 2"):
        model.fit(fastnn.stream(X, with_value(LABELS, 90, 3), **SMALL))
    assert model.step == model.epoch == 0
    with pytest.raises(ValueError, match=r"validation_y: got label 3 in row 90, expected 0 to 2"):
        model.fit(X, LABELS, validation_data=fastnn.stream(X, with_value(LABELS, 90, 3), **SMALL), epochs=1)


def test_an_interrupt_leaves_a_usable_model_and_no_thread():
    def interrupted(train, *arguments):
        train(*arguments)
        if model.step >= 4:
            raise KeyboardInterrupt

    class Stop(fastnn.Callback):
        def on_epoch_begin(self, epoch):
            back.append(through(self.model.runtime, interrupted))

    source, back = fastnn.stream(X, LABELS, **SMALL), []
    model = model_of()
    with pytest.raises(KeyboardInterrupt) as caught:  # kept, with its frames, as a debugger or a notebook does
        model.fit(source, batch_size=7, epochs=3, callbacks=[Stop()])
    back[0]()
    assert model.epoch == 0
    assert 4 < model.step < 15
    steps = model.step
    assert [thread.name for thread in threading.enumerate() if "fastnn-read" in thread.name] == [], caught
    model.fit(source, batch_size=7, epochs=1)
    assert model.step == steps + 15


def test_divergence_in_a_later_buffer():
    model = Sequential([Dense(4), Dense(2)], "squared_error", fastnn.SGD(0.01), seed=1, check_finite=False)
    source = fastnn.stream(with_value(X, (77, 2), np.nan), VALUES, **SMALL)
    with pytest.raises(fastnn.TrainingDiverged, match=r"step 12 \(epoch 1, batch 12\)"):
        model.fit(source, batch_size=7, shuffle=False, epochs=2)
    assert model.step == 0


CALLS = {
    "no data": (lambda f: fastnn.stream(None), TypeError, "data: got NoneType expected paths array"),
    "a list of numbers": (lambda f: fastnn.stream([1, 2]), TypeError, "data: got list expected paths"),
    "no path": (lambda f: fastnn.stream([]), ValueError, "data: got an empty list expected at least one path"),
    "flat": (lambda f: fastnn.stream(X[:, 0]), ValueError, "data: got float32 (103,) expected numbers (rows, inputs)"),
    "strings": (lambda f: fastnn.stream(X.astype(str)), ValueError, "data: got <U expected numbers"),
    "no rows": (lambda f: fastnn.stream(X[:0]), ValueError, "data: got (0, 6) expected"),
    "another length": (lambda f: fastnn.stream(X, LABELS[1:]), ValueError, "target: got (102,) 103 samples"),
    "weights of another length": (
        lambda f: fastnn.stream(X, LABELS, sample_weight=WEIGHTS[1:]),
        ValueError,
        "sample_weight: got (102,) 103 samples",
    ),
    "blocks of 0": (lambda f: fastnn.stream(X, block_rows=0), ValueError, "block_rows: got 0 integer >= 1"),
    "a buffer of 1.5": (lambda f: fastnn.stream(X, buffer_rows=1.5), TypeError, "buffer_rows: got 1.5 integer"),
    "a block beyond the buffer": (
        lambda f: fastnn.stream(X, block_rows=30, buffer_rows=20),
        ValueError,
        "block_rows: got 30 at most 20",
    ),
    "names for an array": (lambda f: fastnn.stream(X, features=["a"]), ValueError, "features: got names for an array"),
    "no file": (lambda f: fastnn.stream(f / "nowhere.npy"), FileNotFoundError, "nowhere"),
    "an empty folder": (lambda f: fastnn.stream(f / "empty"), FileNotFoundError, "data: got folder .parquet"),
    "text": (lambda f: fastnn.stream(f / "text.csv"), ValueError, "path: got expected a Parquet, .npy, .npz or IDX"),
    "gzip of one axis": (
        lambda f: fastnn.stream(f / "idx.gz"),
        ValueError,
        "data: got uint8 (1,) expected (rows, inputs)",
    ),
    "gzip of text": (
        lambda f: fastnn.stream(f / "text.gz"),
        ValueError,
        "path: got expected a Parquet, .npy, .npz or IDX",
    ),
    "bzip2 in a zip": (
        lambda f: fastnn.stream(f / "bzip2.npz"),
        ValueError,
        "path: method 12 expected 0 or 8 (deflate)",
    ),
    "Fortran order": (lambda f: fastnn.stream(f / "fortran.npy"), ValueError, "path: Fortran np.ascontiguousarray"),
    "objects": (lambda f: fastnn.stream(f / "objects.npy"), ValueError, "path: object expected rows of numbers"),
    "cut short": (
        lambda f: fastnn.stream(f / "short.npy"),
        ValueError,
        "path: cut short expected bytes shape (103, 6)",
    ),
    "no member": (lambda f: fastnn.stream(f / "all.npz", "z"), ValueError, "target: got 'z' x y w"),
    "another member": (
        lambda f: fastnn.stream(f / "all.npz", "z", features="x"),
        ValueError,
        "target: got 'z' x y w",
    ),
    "several members": (
        lambda f: fastnn.stream(f / "all.npz", "y"),
        ValueError,
        "features: got nothing x, w expected a name",
    ),
    "a path for a member": (lambda f: fastnn.stream(f / "all.npz", LABELS), TypeError, "target: got ndarray name"),
    "files of several widths": (
        lambda f: fastnn.stream([f / "x.npy", f / "wide.npy"]),
        ValueError,
        "data: got float32 (6,) float32 (7,) expected one type and shape",
    ),
    "another column": (
        lambda f: fastnn.stream(f / "a.parquet", "y9"),
        ValueError,
        "target: got 'y9' expected one of 'y0'",
    ),
    "another feature": (
        lambda f: fastnn.stream(f / "a.parquet", "y0", features=["x0", "X1"]),
        ValueError,
        "features: got 'X1' mean 'x1'?",
    ),
    "a number for a column": (
        lambda f: fastnn.stream(f / "a.parquet", "y0", features=["x0", 1]),
        TypeError,
        "features: got list expected names of columns",
    ),
    "one name for features": (
        lambda f: fastnn.stream(f / "a.parquet", "y0", features="x0"),
        TypeError,
        "features: got str expected names of columns",
    ),
    "another weight": (
        lambda f: fastnn.stream(f / "a.parquet", "y0", sample_weight="v"),
        ValueError,
        "sample_weight: got 'v'",
    ),
    "an array for a column": (
        lambda f: fastnn.stream(f / "a.parquet", LABELS),
        TypeError,
        "target: got ndarray expected names of columns",
    ),
    "Parquet with other columns": (
        lambda f: fastnn.stream([f / "a.parquet", f / "other.parquet"], "y0"),
        ValueError,
        "data: got other.parquet other columns than a.parquet",
    ),
    "a target beside a stream": (
        lambda f: model_of().fit(fastnn.stream(X, LABELS), LABELS),
        TypeError,
        "y: got ndarray beside a stream fastnn.stream(..., target=...)",
    ),
    "weights beside a stream": (
        lambda f: model_of().fit(fastnn.stream(X, LABELS), sample_weight=WEIGHTS),
        TypeError,
        "sample_weight: got ndarray beside a stream fastnn.stream(..., sample_weight=...)",
    ),
    "no target": (
        lambda f: model_of().fit(fastnn.stream(X)),
        TypeError,
        "y: got a stream without target fastnn.stream(..., target=...)",
    ),
    "no target beside a memory map": (
        lambda f: model_of().fit(np.load(f / "x.npy", mmap_mode="r")),
        TypeError,
        "y: got None expected targets of 103 samples",
    ),
    "another width": (
        lambda f: fitted(X, LABELS).predict(fastnn.stream(X[:, :5], **SMALL)),
        ValueError,
        "x: got 5 inputs (103, 5) expected 6",
    ),
    "validation of another width": (
        lambda f: model_of().fit(X, LABELS, validation_data=fastnn.stream(X[:, :5], LABELS, **SMALL)),
        ValueError,
        "validation_x: got 5 inputs (103, 5) expected 6",
    ),
    "a share of Parquet": (
        lambda f: model_of().fit(fastnn.stream(f / "a.parquet", "y0", **SMALL), validation_split=0.2),
        ValueError,
        "validation_split: Parquet validation_data=fastnn.stream(...)",
    ),
    "a stream for one step": (
        lambda f: model_of().train_on_batch(fastnn.stream(X, LABELS), LABELS),
        TypeError,
        "x: got Stream that makes no array (fit, evaluate and predict alone read a stream) expected numbers",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_npy(folder, X, LABELS, WEIGHTS)
    write_npz(folder, X, LABELS, WEIGHTS)
    (folder / "text.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with zipfile.ZipFile(folder / "bzip2.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(folder / "x.npy", "x.npy")
    np.save(folder / "fortran.npy", np.asfortranarray(X))
    np.save(folder / "objects.npy", X.astype(object), allow_pickle=True)
    np.save(folder / "wide.npy", np.ones((3, 7), np.float32))
    (folder / "short.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    (folder / "text.csv").write_text("a,b\n1,2\n")
    (folder / "idx.gz").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\1\7"))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_says_so(case, folder):
    call, error, words = CALLS[case]
    if "a.parquet" in call.__code__.co_consts:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        write_parquet(folder, X, LABELS, WEIGHTS)
        parquet.write_table(pyarrow.table({"z": WEIGHTS}), folder / "other.parquet")
    with pytest.raises(error) as caught:
        call(folder)
    for word in words.split():
        assert word in str(caught.value), f"{word!r} is missing in {caught.value!r}"


def test_without_pyarrow_the_error_says_what_brings_it(folder, monkeypatch):
    write_parquet(folder, X, LABELS, WEIGHTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'^pyarrow is not installed: pip install "fastnn\[table\]"'):
        fastnn.stream(folder / "a.parquet", "y0")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path, beside = write_npy(tmp_path, X, LABELS, WEIGHTS)
    model, source = model_of(), fastnn.stream(path, **beside, **SMALL)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="has changed since it was opened"):
        model.fit(source, epochs=1)
    assert model.step == 0


@pytest.mark.parametrize("write", [write_npy, write_npz, write_packed_npz, write_packed_files, write_parquet])
def test_a_file_that_is_written_anew_while_it_is_read(write, tmp_path):
    """Values lie elsewhere in it, so that its bytes would be other numbers; a new stream reads it."""
    path, beside = write(tmp_path, X, LABELS, WEIGHTS)
    model, source = model_of(), fastnn.stream(path, **beside, **SMALL)
    model.fit(source, epochs=1)
    step = model.step
    write(tmp_path, np.float64(X[::-1]), LABELS, WEIGHTS)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        model.fit(source, epochs=1)
    assert model.step == step
    with pytest.raises(ValueError, match="has changed since it was opened"):
        model.predict(source)
    model.fit(fastnn.stream(path, **beside, **SMALL), epochs=1)


def test_several_files_in_a_row(tmp_path):
    np.save(tmp_path / "x1.npy", X[:37])
    np.save(tmp_path / "x2.npy", X[37:])
    np.save(tmp_path / "y.npy", LABELS)
    source = fastnn.stream([tmp_path / "x1.npy", tmp_path / "x2.npy"], [tmp_path / "y.npy"], **SMALL)
    same(fitted(source, shuffle=False), fitted(X, LABELS, shuffle=False))
    assert repr(source) == "<Stream: 103 rows of 6 inputs in 13 blocks, with target, 20 rows a buffer>"


def test_an_index_of_pandas_is_no_feature(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": LABELS}, index=[f"row {i}" for i in range(ROWS)])
    frame.to_parquet(tmp_path / "f.parquet")
    assert fastnn.stream(tmp_path / "f.parquet", "y").inputs == 2
    chosen = fastnn.stream(tmp_path / "f.parquet", "y", features=["b"])
    np.testing.assert_array_equal(np.asarray(next(chosen.blocks[0].read(True, False)).x["b"]), X[:, 1])


def test_sparse_rows_with_targets_in_files(tmp_path):
    """Any rows are taken of the matrix, while files are read in slices."""
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x = scipy_sparse.csr_array(X * (rng.uniform(size=X.shape) < 0.3))
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "w.npy", WEIGHTS)
    source = fastnn.stream(x, tmp_path / "y.npy", sample_weight=tmp_path / "w.npy", buffer_rows=20)
    same(fitted(source), fitted(fastnn.stream(x, LABELS, sample_weight=WEIGHTS, buffer_rows=20)))


def test_no_columns_of_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"y": LABELS}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"^features: got no name, expected at least one column$"):
        fastnn.stream(tmp_path / "y.parquet", "y", features=[])
    with pytest.raises(ValueError, match=r"^data: got 103 rows of 0 inputs in .*, expected at least one of each$"):
        fastnn.stream(tmp_path / "y.parquet", "y")
