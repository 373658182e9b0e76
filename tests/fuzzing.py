"""Damaged files: each loads or is refused with the error that is promised, without much memory.

``python tests/fuzzing.py KIND FIRST COUNT`` tries mutations FIRST .. FIRST + COUNT - 1 of a file of a kind and prints
how many had which outcome. A mutation is a function of its number alone; the number of one that goes wrong is printed
on standard error, and `faulthandler` ends what hangs.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import faulthandler
import gzip
import json
import pathlib
import resource
import struct
import sys
import tempfile
import tracemalloc
import warnings

import numpy as np

import fastnn
from fastnn import Dense, Dropout, ModelFileError, Rescale, Sequential, saving, tables

HOSTILE = (
    0, 1, -1, 2, 7, 2**31, 2**32 + 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**9, 1e308, -0.5, 0.5, True, False, None,
    "", "x", "relu", "Dense", "\0", "a" * 500, [], {}, [[]], [1] * 50, {"float": "nan"}, {"float": "inf"},
    {"float": "x"}, {"float": []}, {"kind": "Dense", "units": 10**9}, {"kind": "Rescale", "scale": 1.0, "offset": 0.0},
    "F64", "I8", "BF16",
)  # fmt: skip
SPARE = 1 << 20
"""Bytes that loading may take beside a multiple of the file's: what Python itself needs."""
MULTIPLE = 24


def model_file() -> bytes:
    """A small model with a bit of everything: state of optimizer, schedule and callback, a history, a rescaling."""
    rng = np.random.default_rng(0)
    layers = [Rescale([1.0, 2.0, 0.5], -0.25), Dense(4, "tanh", l1=0.01), Dropout(0.25), Dense(3)]
    rule = fastnn.SGD(fastnn.Warmup(fastnn.ReduceOnPlateau(0.1, patience=0), steps=3), momentum=0.9)
    model = Sequential(layers, "cross_entropy", rule, seed=1, n_threads=1)
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 3, 12)
    model.fit(x, y, epochs=2, batch_size=5, validation_data=(x, y), callbacks=[fastnn.EarlyStopping()], verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m"
        model.save(path)
        return path.read_bytes()


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Some bytes flipped, cut off, left out, doubled or put in."""
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 40))
        kind = int(rng.integers(6))
        if kind == 0 and content:
            place = min(place, len(content) - 1)
            content = content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]
        elif kind == 1:
            content = content[:place]
        elif kind == 2:
            content = content[:place] + content[place + length :]
        elif kind == 3:
            content = content[:place] + content[max(0, place - length) :]
        elif kind == 4:
            fill = rng.integers(0, 256, length).astype(np.uint8).tobytes()
            content = content[:place] + fill + content[place:]
        else:
            fill = bytes([int(rng.choice([0, 255, 127, 128]))]) * length
            content = content[:place] + fill + content[place + length :]
    return content


def edit(rng: np.random.Generator, tree: object, times: int) -> None:
    """Change some places of a JSON tree: other values, values from elsewhere in it, keys lost, renamed or doubled."""
    for _ in range(times):
        places: list[tuple] = []

        def collect(node, places=places):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], (dict, list)):
                    collect(node[key])

        collect(tree)
        if not places:
            return
        node, key = places[int(rng.integers(len(places)))]
        kind = int(rng.integers(8))
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[str(rng.choice(["kind", "name", "x", "float", "lr", "units"]))] = node.pop(key)
        elif kind == 2:
            other, name = places[int(rng.integers(len(places)))]
            node[key] = copy.deepcopy(other[name])
        elif kind == 3 and isinstance(node, list):
            node.extend(copy.deepcopy(node[key : key + 1]) * int(rng.choice([1, 2, 50])))
        elif kind == 4 and type(node[key]) in (int, float):
            node[key] = node[key] * int(rng.choice([-1, 2, 1000])) + int(rng.choice([0, 1, -1]))
        else:
            node[key] = copy.deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))])


def packed(outer: dict, data: bytes) -> bytes:
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + data


def fail_unless(right: bool, message: str) -> None:
    """Raise an AssertionError, also where this is not rewritten by pytest."""
    if not right:
        raise AssertionError(message)


class Models:
    """Mutations of a model file."""

    def __init__(self) -> None:
        self.whole = model_file()
        size = struct.unpack("<Q", self.whole[:8])[0]
        self.outer, self.data = json.loads(self.whole[8 : 8 + size]), self.whole[8 + size :]
        self.inner = json.loads(self.outer["__metadata__"]["fastnn"])
        self.types = {"F32": np.float32, "F64": np.float64}
        self.loaded = 0

    def signed(self, outer: dict, text: str) -> dict:
        """Set the header and a hash that fits it, so that what lies behind the hash is reached."""
        found = {}
        for name, entry in outer.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                found[name] = np.frombuffer(self.data[start:stop], self.types[entry["dtype"]]).reshape(entry["shape"])
        return {**outer, "__metadata__": {"fastnn": text, "sha256": saving.checksum(text, found)}}

    def mutation(self, rng: np.random.Generator) -> bytes:
        kind = rng.random()
        if kind < 0.25:
            return damaged(rng, self.whole)
        if kind < 0.40:  # names, types, shapes and offsets of tensors, and the metadata
            outer = copy.deepcopy(self.outer)
            edit(rng, outer, int(rng.integers(1, 4)))
            return packed(outer, self.data)
        if kind < 0.92:  # the model's header, signed
            inner = copy.deepcopy(self.inner)
            edit(rng, inner, int(rng.integers(1, 4)))
            return packed(self.signed(self.outer, json.dumps(inner)), self.data)
        text = damaged(rng, json.dumps(self.inner).encode()).decode(errors="replace")
        return packed(self.signed(self.outer, text), self.data)

    def use(self, path: pathlib.Path) -> str:
        try:
            model = fastnn.load(path)
        except ModelFileError as error:
            message = str(error)
            fail_unless(str(path) in message, message)
            fail_unless("\n" not in message and "MemoryError" not in message, message)
            if "SHA-256" in message:
                return "refused: its hash"
            if "safetensors" in message or "no whole" in message:
                return "refused: no safetensors file of a model"
            return "refused: what its header says"
        return f"loaded: {self.check(model)}"

    def check(self, model: Sequential) -> str:
        """Whatever loads is a model that predicts, trains or says why not; one in ten is saved and loaded."""
        x = np.zeros((2, model.network.inputs))
        assert model.predict(x).shape == (2, model.network.units)
        y = np.zeros(2, int) if model.loss.name == "cross_entropy" else np.zeros((2, model.network.units))
        with contextlib.suppress(fastnn.TrainingDiverged, ValueError):  # such as a metric that is not there
            model.fit(x, y, epochs=1, verbose=False)
        self.loaded += 1
        if self.loaded % 10 == 0:
            with tempfile.TemporaryDirectory() as folder:
                model.save(pathlib.Path(folder) / "again")
                fastnn.load(pathlib.Path(folder) / "again")
        return "a model"


class Readers:
    """Mutations of data files: each is read, or refused with a ValueError or OSError."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 3, 40)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "whole"
            if kind in ("csv", "csv.gz"):
                lines = ["a,b,word", *(f"{a:.3f},{b:.2f},{'red' if c > 0 else 'blue'}" for a, b, c in x)]
                text = "\n".join(lines).encode()
                path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
            elif kind in ("parquet", "parquet.table"):
                import pyarrow as pa
                import pyarrow.parquet

                columns = {"a": x[:, 0], "b": x[:, 1], "y": y, "word": [str(v) for v in y]}
                if kind == "parquet":
                    del columns["word"]
                pa.parquet.write_table(pa.table(columns), path, row_group_size=16)
            elif kind == "npz":
                with open(path, "wb") as file:
                    np.savez(file, x=x, y=y)
            elif kind == "npy":
                with open(path, "wb") as file:
                    np.save(file, x)
            else:
                content = b"\0\0\x08\x03" + struct.pack(">III", 10, 4, 4) + bytes(range(160))
                path.write_bytes(gzip.compress(content) if kind == "idx.gz" else content)
            self.whole = path.read_bytes()

    def mutation(self, rng: np.random.Generator) -> bytes:
        return damaged(rng, self.whole)

    def read(self, path: pathlib.Path) -> None:
        if self.kind in ("csv", "csv.gz", "parquet.table"):
            tables.read_table(path)
        elif self.kind in ("idx", "idx.gz"):
            fastnn.load_idx(path)
        else:
            named = {"target": "y"} if self.kind in ("parquet", "npz") else {}
            stream = fastnn.stream(path, **named, buffer_rows=64)
            for block in stream.blocks:
                for piece in block.read(True, "target" in named):
                    np.asarray(piece.x)

    def use(self, path: pathlib.Path) -> str:
        try:
            self.read(path)
        except (ValueError, OSError) as error:
            message = str(error)
            fail_unless(message != "" and "\n" not in message, repr(error))
            fail_unless(type(error).__module__ == "builtins", f"{type(error).__module__}: {error!r}")
            # `read_table` leaves the path to its callers; all others name it, or the argument that does not fit.
            by_caller = self.kind in ("csv", "csv.gz", "parquet.table") or message.startswith(
                ("data: got", "target: got", "features: got")
            )
            fail_unless(by_caller or str(path) in message, repr(error))
            return "refused"
        return "read"


KINDS = ("model", "csv", "csv.gz", "parquet", "parquet.table", "npz", "npy", "idx", "idx.gz")


def fuzz(kind: str, first: int, count: int) -> dict[str, int]:
    """Try some mutations and count the outcomes; every 20th is watched for the memory it takes."""
    source = Models() if kind == "model" else Readers(kind)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "mutated"
        path.write_bytes(source.whole)
        source.use(path)  # what is imported or compiled at the first use
        source.use(path)
        limit = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        worst = 0.0
        for number in range(first, first + count):
            if number % 500 == 0:
                faulthandler.dump_traceback_later(120, exit=True)
            content = source.mutation(np.random.default_rng([number, 21]))
            path.write_bytes(content)
            watched = number % 20 == 0 and kind == "model"
            if watched:
                tracemalloc.start()
            try:
                counts[source.use(path)] += 1
            except BaseException:
                print(f"{kind}, mutation {number}", file=sys.stderr, flush=True)
                raise
            if watched:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                worst = max(worst, peak)
                allowed = SPARE + MULTIPLE * len(content)
                assert peak <= allowed, f"mutation {number} took {peak:,} bytes, a file of {len(content):,}"
    faulthandler.cancel_dump_traceback_later()
    if worst:
        counts["most bytes taken by one"] = int(worst)
    return dict(counts)


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for kind in sys.argv[1].split(","):
        print(kind, json.dumps(fuzz(kind, int(sys.argv[2]), int(sys.argv[3])), sort_keys=True), flush=True)
