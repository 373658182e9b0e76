"""Training on a file four times as large as the memory that the process may have: Parquet, .npy, and a memory map.

The operating system enforces the cap (RLIMIT_DATA: everything but the pages of mapped files), on Python, NumPy, the
compiled kernels and the data together. Loading the file fails under it; `fastnn.stream` and `fit` on a `numpy.memmap`
hold two buffers of rows at most, one to train on and one that is being read.

    python examples/larger_than_memory.py [folder for the file, 2 GB]

Needs Linux; the part on Parquet needs PyArrow (pip install "fastnn[table]").
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CAP = 512 << 20
TIMES = 4
COLUMNS, ROWS_A_CHUNK = 128, 1 << 14
HELD_OUT = 4096

WAYS = {
    "load": ("np.load(path), all of it", "x.npy"),
    "npy": ("fastnn.stream of .npy files", "x.npy"),
    "memmap": ("fit on a numpy.memmap", "x.npy"),
    "parquet": ("fastnn.stream of a Parquet file", "train.parquet"),
}


def rows_of(cap: int) -> int:
    """Rows whose float32 samples take `TIMES` caps."""
    return TIMES * cap // (4 * COLUMNS)


def chunks(rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield samples and their class, 0 or 1, which a linear function of the sample decides."""
    direction = np.random.default_rng(0).standard_normal(COLUMNS, np.float32)
    rng = np.random.default_rng(rows)
    for first in range(0, rows, ROWS_A_CHUNK):
        x = rng.standard_normal((min(ROWS_A_CHUNK, rows - first), COLUMNS), np.float32)
        yield x, (x @ direction > 0).astype(np.int64)


def write_npy(folder: Path, rows: int) -> None:
    """Write x.npy and y.npy a chunk at a time."""
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, COLUMNS))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (rows,))
    first = 0
    for part, labels in chunks(rows):
        x[first : first + len(part)], y[first : first + len(part)] = part, labels
        first += len(part)


def write_parquet(folder: Path, rows: int) -> None:
    """Write train.parquet, a row group a chunk, with the class in column y."""
    import pyarrow as pa
    from pyarrow import parquet

    names = [f"x{j}" for j in range(COLUMNS)]
    schema = pa.schema([*((name, pa.float32()) for name in names), ("y", pa.int64())])
    with parquet.ParquetWriter(folder / "train.parquet", schema, use_dictionary=False) as writer:
        for x, y in chunks(rows):
            columns = [*(np.ascontiguousarray(column) for column in x.T), y]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema))


def train(way: str, folder: Path, cap: int) -> dict[str, float]:
    """Train for an epoch under the cap, in a process of its own; returns what it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    import fastnn

    x_test, y_test = next(chunks(HELD_OUT))
    model = fastnn.Sequential([fastnn.Dense(32, "relu"), fastnn.Dense(2)], "cross_entropy", "adam", seed=0)
    start = time.perf_counter()
    if way == "load":
        model.fit(np.load(folder / "x.npy"), np.load(folder / "y.npy"), epochs=1, batch_size=256)
    elif way == "memmap":
        x = np.load(folder / "x.npy", mmap_mode="r")
        model.fit(x, np.load(folder / "y.npy", mmap_mode="r"), epochs=1, batch_size=256)
    else:
        source = {
            "npy": lambda: fastnn.stream(folder / "x.npy", folder / "y.npy"),
            "parquet": lambda: fastnn.stream(folder / "train.parquet", target="y"),
        }[way]()
        model.fit(source, epochs=1, batch_size=256)
    seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rows": rows_of(cap),
        "seconds": seconds,
        "peak": int(status["VmHWM"].split()[0]) * 1024,
        "accuracy": model.evaluate(x_test, y_test)["accuracy"],
    }


def run(way: str, folder: Path, cap: int) -> dict[str, float] | str:
    """Run `train` in a process of its own; returns its result, or its last line of error."""
    # Every thread has a stack, and a heap of its own.
    few = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS", "MALLOC_ARENA_MAX"), "1")
    pool = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # mimalloc reserves a gigabyte, which counts, used or not
    command = [sys.executable, __file__, way, str(folder), str(cap)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", **few, **pool}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines() or ["no output"]
    return json.loads(lines[-1]) if result.returncode == 0 else lines[-1]


def main(parent: Path | None = None, cap: int = CAP) -> int:
    """Write each file, train on it and print; returns 1 if a claim does not hold."""
    size = rows_of(cap) * COLUMNS * 4
    print(f"{rows_of(cap):,} rows of {COLUMNS} float32, {size / 1e6:,.0f} MB; cap {cap / 1e6:,.0f} MB of memory\n")
    print(f"{'':<34}{'seconds':>9}{'samples/s':>12}{'peak MB':>9}{'accuracy':>10}")
    results = {}
    for kind, write, ways in (("npy", write_npy, ("load", "npy", "memmap")), ("parquet", write_parquet, ("parquet",))):
        if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
            print('PyArrow is not installed, so there is no Parquet: pip install "fastnn[table]"')
            continue
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            write(Path(folder), rows_of(cap))
            for way in ways:
                results[way] = run(way, Path(folder), cap)
                print(f"{WAYS[way][0]:<34}{shown(results[way])}", flush=True)
    print("\nwhat this shows:")
    table = claims(results, cap)
    for claim, holds in table.items():
        print(f"  {'yes' if holds else 'NO '}  {claim}")
    return 0 if all(table.values()) else 1


def shown(result: dict[str, float] | str) -> str:
    """One line of the table."""
    if isinstance(result, str):
        return f"  {result}"
    rate = result["rows"] / result["seconds"]
    return f"{result['seconds']:>9.1f}{rate:>12,.0f}{result['peak'] / 1e6:>9,.0f}{result['accuracy']:>10.1%}"


def claims(results: dict[str, dict[str, float] | str], cap: int) -> dict[str, bool]:
    """What the table is to show, and whether it does."""
    streamed = {way: result for way, result in results.items() if way != "load"}
    learned = [isinstance(result, dict) and result["accuracy"] > 0.95 for result in streamed.values()]
    return {
        "the cap is real: the whole file cannot be loaded": "MemoryError" in str(results["load"]),
        "every other way trains on the whole file under it": all(learned),
        "they stay below it with their code and the pages of mapped files too, which the cap leaves out": all(
            isinstance(result, dict) and result["peak"] < cap for result in streamed.values()
        ),
    }


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
