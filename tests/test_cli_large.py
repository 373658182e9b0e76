"""Tables read in batches by train, evaluate and predict: what they do with the table in memory, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import run
from test_cli_tables import QUICK, people, write_csv

import fastnn
from fastnn import batches, preparation
from fastnn.cli import BAD_INPUT, FAILED, INTERRUPTED, files, large, make_parser
from fastnn.cli.sources import _split, parts_of
from fastnn.cli.tasks import make_task
from fastnn.streams import Stream

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

BATCHED = ("--stream-from", "0")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, in batches of 64 rows of Parquet, some tens of which are prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batches, "BATCH_ROWS", 64)
    monkeypatch.setattr(preparation, "PIECE_NUMBERS", 200)
    return tmp_path


def write_parquet(name, rows=500, seed=0):
    """Write a table with a column of each kind, gaps, and targets that some rows lack."""
    rng = np.random.default_rng(seed)

    def gaps(share=0.05):
        return rng.random(rows) < share

    age, city = rng.normal(1e6, 12, rows), rng.choice(["Lima", "Oslo", " Rome", "?"], rows)
    columns = {
        "age": pa.array(age, mask=gaps()),
        "kids": pa.array(rng.integers(0, 5, rows)),
        "city": pa.array(city, mask=gaps()),
        "many": pa.array([f"w{int(code)}" for code in rng.exponential(40, rows)]),
        "member": pa.array(rng.random(rows) > 0.5, mask=gaps()),
        "day": pa.array(rng.integers(10_000, 20_000, rows).astype("int32"), pa.date32(), mask=gaps()),
        "equal": pa.array(np.full(rows, 0.1)),
        "nothing": pa.array([None] * rows, pa.float64()),
        "id": pa.array([f"{seed}-{i}" for i in range(rows)]),
        "plan": pa.array(np.where(age > 1e6, "gold", "basic"), mask=gaps(0.02)),
        "grade": pa.array(rng.integers(0, 3, rows)),
        "spend": pa.array(age * 3 + rng.normal(size=rows), mask=gaps(0.02)),
        "debt": pa.array(rng.normal(size=rows)),
    }
    parquet.write_table(pa.table(columns), name, row_group_size=170)


def task_of(*arguments):
    with contextlib.ExitStack() as cleanup:
        task = make_task(make_parser().parse_args(["train", *arguments]), cleanup)
        return task, [arrays_of(part) for part in (task.train, task.validation, task.test)]


def arrays_of(part):
    """Return inputs and targets; those of a stream while its files are there."""
    if isinstance(part, Stream):
        pieces = [piece for block in part.blocks for piece in block.read(True, True)]
        return np.concatenate([piece.x for piece in pieces]), np.concatenate([piece.y for piece in pieces])
    return part


def numbers(value):
    """Return all numbers of a configuration as floats to compare to rounding, and everything else."""
    if isinstance(value, dict):
        return [item for name in sorted(value) for item in numbers(value[name])]
    if isinstance(value, (list, tuple)):
        return [item for each in value for item in numbers(each)]
    return [value]


def compare(*arguments):
    """Compare the tasks of both ways: the preparation, and the prepared rows, those of a stream in the file's order."""
    (whole, in_memory), (batched, streamed) = task_of(*arguments), task_of(*arguments, *BATCHED)
    ours, theirs = numbers(batched.preparation.config()), numbers(whole.preparation.config())
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == (pytest.approx(other, rel=1e-12) if isinstance(other, float) else other)
    assert batched.notes[:-1] == whole.notes
    assert batched.notes[-1].startswith("read in batches, with ")
    assert batched.name == whole.name
    assert isinstance(batched.train, Stream)
    assert not isinstance(whole.train, Stream)
    options = make_parser().parse_args(["train", *arguments])
    from_file = isinstance(options.test, str)
    rows = len(in_memory[0][0]) + (len(in_memory[1][0]) if in_memory[1] else 0)
    rows += len(in_memory[2][0]) if in_memory[2] and not from_file else 0
    orders = [*_split(options, rows, not from_file)]
    if from_file and in_memory[2]:
        orders[2] = np.arange(len(in_memory[2][0]))
    for mine, other, order in zip(streamed, in_memory, orders, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            places = np.argsort(order)
            np.testing.assert_allclose(mine[0], other[0][places], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(mine[1], other[1][places], rtol=1e-9, atol=1e-9)
    return batched, streamed


# --------------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize(
    "options",
    [
        ("--target", "plan"),
        ("--target", "plan", "--ignore", "spend,debt", "--test", "0.3", "--validation", "0.25", "--seed", "7"),
        ("--target", "plan", "--test", "0", "--validation", "0"),
        ("--target", "grade"),
        ("--target", "grade", "--task", "values"),
        ("--target", "kids", "--task", "classes", "--columns", "city,age"),
        ("--target", "spend"),
        ("--target", "spend,debt", "--ignore", "id,plan"),
        ("--target", "plan", "--categorical", "kids,day,id", "--dtype", "float64"),
        ("--target", "plan", "--test", "later.parquet"),
        ("--target", "spend", "--test", "later.parquet", "--validation", "0"),
    ],
)
def test_the_same_preparation_and_rows_as_in_memory(options):
    write_parquet("t.parquet")
    write_parquet("later.parquet", 150, 1)
    compare("t.parquet", *options)


def test_the_same_of_a_csv_whose_last_row_is_of_words():
    rows = 60_000
    columns = {
        "n": [str(i % 7) for i in range(rows)],
        "late": [*(str(i % 3) for i in range(rows - 1)), "x"],
        "w": ["abcdefghijklmnopqrstuvwxyz"[i % 11 :] for i in range(rows)],
        "y": [str(i % 5 / 4) for i in range(rows)],
    }
    write_csv("t.csv", columns)
    task, _ = compare("t.csv", "--target", "y")
    assert [column.kind for column in task.preparation.columns] == ["numeric", "categorical", "categorical"]
    assert "x" not in [name for name in task.preparation.columns[1].categories if name.isdigit()]


def test_ones_and_zeros_are_written_as_bytes():
    write_parquet("t.parquet")
    _, ((x, _), *_) = compare("t.parquet", "--target", "spend", "--columns", "city,member")
    assert x.dtype == np.uint8
    assert x.sum(axis=1).tolist() == [2] * len(x)


@pytest.mark.parametrize("tests", [True, False])
@pytest.mark.parametrize("rows", [2, 3, 1000])
def test_parts_are_those_of_the_split(rows, tests, monkeypatch):
    monkeypatch.setattr("fastnn.cli.sources._AT_ONCE", 64)
    options = make_parser().parse_args(["train", "t", "--seed", "5", "--validation", "0.3"])
    parts = parts_of(options, rows, tests)
    for part, chosen in enumerate(_split(options, rows, tests)):
        assert np.flatnonzero(parts == part).tolist() == sorted(chosen)


@pytest.mark.parametrize("target", ["plan", "spend"])
def test_train_evaluate_and_predict(capsys, folder, target):
    """The model is as good; what it says of rows in batches is what it says of them in memory, to the last digit."""
    write_csv("people.csv", people(2000))
    write_csv("later.csv", people(300, 1))
    ignore = ("--ignore", "spend" if target == "plan" else "plan")
    before = set(os.listdir())
    results = []
    for extra in ((), BATCHED):
        options = ("--target", target, *ignore, "--epochs", "20", "--json", "--output", "m", *extra)
        code, out, err = run(capsys, "train", "people.csv", *options, *QUICK)
        assert (code, err) == (0, "")
        results.append(json.loads(out))
    assert set(os.listdir()) == before | {"m"}
    score = "test_accuracy" if target == "plan" else "test_r2"
    assert results[1][score] == pytest.approx(results[0][score], abs=0.03)
    assert results[1]["test_rows"] == results[0]["test_rows"] == 400
    for name in ("task", "epochs", "parameters"):
        assert results[0][name] == results[1][name]
    pairs = [json.loads(run(capsys, "evaluate", "m", "later.csv", "--json", *extra)[1]) for extra in ((), BATCHED)]
    assert list(pairs[0]) == list(pairs[1])
    for whole, batched in zip(*map(numbers, pairs), strict=True):
        assert batched == (pytest.approx(whole, rel=1e-6) if isinstance(whole, float) else whole)
    for proba in ((), ("--proba",)) if target == "plan" else ((),):
        for ending in ("csv", "npy", "parquet"):
            for name, extra in (("whole", ()), ("batched", BATCHED)):
                assert run(capsys, "predict", "m", "later.csv", *proba, "--output", f"{name}.{ending}", *extra)[0] == 0
        assert Path("batched.csv").read_text() == Path("whole.csv").read_text()
        whole, batched = np.load("whole.npy"), np.load("batched.npy")
        assert (batched.dtype, batched.tolist()) == (whole.dtype, whole.tolist())
        assert parquet.read_table("batched.parquet").equals(parquet.read_table("whole.parquet"))
        assert run(capsys, "predict", "m", "later.csv", *proba, *BATCHED)[1] == Path("whole.csv").read_text()
    code, out, _ = run(capsys, "predict", "m", "later.csv", "--json", "--output", "p.npy", *BATCHED)
    whole = json.loads(run(capsys, "predict", "m", "later.csv", "--json", "--output", "p.npy")[1])
    assert json.loads(out) == whole
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_the_same_seed_gives_the_same_bits(capsys):
    write_parquet("t.parquet")
    for name in ("a", "b"):
        options = ("--target", "plan", "--epochs", "3", "--quiet", "--output", name)
        assert run(capsys, "train", "t.parquet", *options, *QUICK, *BATCHED)[0] == 0
    first, second = (fastnn.load(name) for name in ("a", "b"))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_small_tables_are_read_at_once(monkeypatch):
    write_csv("t.csv", people(60))
    assert not isinstance(task_of("t.csv", "--target", "plan")[0].train, Stream)
    monkeypatch.setattr(files, "STREAM_FROM", 0)
    assert isinstance(task_of("t.csv", "--target", "plan")[0].train, Stream)
    assert not isinstance(task_of("t.csv", "--target", "plan", "--stream-from", "1")[0].train, Stream)


def test_unseen_categories_are_counted_over_all_batches(capsys):
    write_parquet("t.parquet")
    options = ("--target", "plan", "--columns", "age,city", "--epochs", "1", "--quiet")
    assert run(capsys, "train", "t.parquet", *options, *QUICK)[0] == 0
    last = [f"Kyiv {district}" for district in range(9)]
    cities = ["Oslo", "Bonn", "Rome", "Ulm"] * 100 + last
    parquet.write_table(pa.table({"age": np.zeros(409), "city": cities, "plan": ["gold"] * 409}), "new.parquet")
    expected = {"city": {"rows": 209, "categories": ["Bonn", "Ulm", *last[:8]]}}  # ten are named
    model = "fastnn-model.safetensors"
    for extra in ((), BATCHED):
        assert json.loads(run(capsys, "evaluate", model, "new.parquet", "--json", *extra)[1])["unseen"] == expected
        _, out, err = run(capsys, "predict", model, "new.parquet", *extra)
        assert len(out.splitlines()) == 410
        assert err.startswith("fastnn: column 'city': 209 of 409 rows hold a category that training gave no input: 'B")


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("t.parquet", "--target", "day"),
        ("t.parquet", "--target", "plan", "--task", "values"),
        ("t.parquet", "--target", "spend", "--task", "classes"),
        ("t.parquet", "--target", "spend,debt", "--task", "classes"),
        ("t.parquet", "--target", "equal", "--task", "classes", "--columns", "age"),
        ("one.parquet", "--target", "plan"),
        ("inf.parquet", "--target", "y"),
        ("none.csv", "--target", "y"),
        ("cut.csv", "--target", "y"),
        ("t.parquet", "--target", "plan", "--loss", "huber"),
        ("t.parquet", "--target", "plan", "--test", "new.parquet"),
        ("t.parquet", "--target", "plan", "--test", "lacking.parquet"),
    ],
)
def test_errors_are_those_of_tables_in_memory(capsys, arguments):
    write_parquet("t.parquet")
    table = parquet.read_table("t.parquet")
    gold = table.filter(pa.compute.equal(table["plan"], "gold"))
    parquet.write_table(gold, "one.parquet")
    new = ["gold"] * 100 + [None, "new"]
    parquet.write_table(gold.slice(0, 102).set_column(9, "plan", pa.array(new)), "new.parquet")
    parquet.write_table(table.drop_columns(["kids"]), "lacking.parquet")
    parquet.write_table(pa.table({"x": [*np.zeros(300), np.inf], "y": np.arange(301)}), "inf.parquet")
    Path("none.csv").write_text("x,y\n")
    Path("cut.csv").write_text("x,y\n1,2\n3\n")
    whole = run(capsys, "train", *arguments, *QUICK)
    assert whole[0] == BAD_INPUT
    batched = run(capsys, "train", *arguments, *QUICK, *BATCHED)
    assert batched[2] == whole[2] or arguments[2:4] == ("spend", "--task")  # which of many fractions is named
    assert (batched[0], batched[2].count("\n")) == (BAD_INPUT, 1)
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_evaluate_and_predict_name_the_row_in_the_file(capsys):
    write_parquet("t.parquet")
    options = ("--target", "plan", "--columns", "age,city", "--epochs", "1", "--quiet", "--output", "m")
    assert run(capsys, "train", "t.parquet", *options, *QUICK)[0] == 0
    ages, plans = np.zeros(300), ["gold"] * 300
    plans[200] = "new"
    parquet.write_table(pa.table({"age": ages, "city": ["Oslo"] * 300, "plan": plans}), "new.parquet")
    parquet.write_table(pa.table({"age": ages}), "lacking.parquet")
    parquet.write_table(
        pa.table({"age": ["1.5"] * 200 + ["w"] * 100, "city": ["Oslo"] * 300, "plan": plans}), "words.parquet"
    )
    parquet.write_table(pa.table({"age": ages[:0], "city": plans[:0], "plan": plans[:0]}), "empty.parquet")
    for name, message in (
        ("new", "column 'plan': got 'new' in row 200, expected one of the classes basic, gold"),
        ("lacking", "got no column 'city', expected all columns that the model was trained on"),
        ("words", "column 'age': got 'w' in row 200, expected numbers, as in training"),
        ("empty", "got no rows, expected some"),
    ):
        for extra in (BATCHED, ()) if name != "empty" else (BATCHED,):
            code, _, err = run(capsys, "evaluate", "m", f"{name}.parquet", *extra)
            assert (code, err) == (BAD_INPUT, f"fastnn: {name}.parquet: {message}\n")
        if name != "new":
            code, _, err = run(capsys, "predict", "m", f"{name}.parquet", "--output", "p.npy", *BATCHED)
            assert (code, err) == (BAD_INPUT, f"fastnn: {name}.parquet: {message}\n")
            assert not Path("p.npy").exists()
    code, _, err = run(capsys, "predict", "m", "new.parquet", "--json", *BATCHED)
    expected = "fastnn: --json: the answers to a table that is read in batches are not held, expected --output\n"
    assert (code, err) == (BAD_INPUT, expected)


def test_more_words_than_are_held(capsys, monkeypatch):
    monkeypatch.setattr(large, "MOST_WORDS", 20)
    write_parquet("t.parquet")
    task, _ = task_of("t.parquet", "--target", "plan", *BATCHED)
    assert "'many' is left out: more than 20 different words" in task.notes
    assert "'id' is left out: more than 20 different words" in task.notes
    assert [column.name for column in task.preparation.columns if column.kind == "categorical"] == ["city", "member"]
    words = "'many' has more than 20 different words, expected fewer in a table that is read in batches"
    classes = "column 'many': got more than 20 classes, expected fewer in a table that is read in batches"
    numbers_ = classes.replace("many", "day_number")
    table = parquet.read_table("t.parquet")
    parquet.write_table(table.append_column("day_number", pa.array(np.arange(500))), "n.parquet")
    for options, message in (
        (("--target", "plan", "--categorical", "many"), f"--categorical: {words}"),
        (("--target", "plan", "--columns", "age,many"), f"--columns: {words}"),
        (("--target", "many"), f"n.parquet: {classes}"),
        (("--target", "day_number", "--task", "classes"), f"n.parquet: {numbers_}"),
    ):
        code, _, err = run(capsys, "train", "n.parquet", *options, *QUICK, *BATCHED)
        assert (code, err) == (BAD_INPUT, f"fastnn: {message}\n")
    task, _ = task_of("n.parquet", "--target", "day_number", *BATCHED)
    assert "holds more than 20 different whole numbers (--task classes overrules)" in task.notes[0]


def test_options_that_say_nothing_are_refused(capsys, folder):
    np.savez("a.npz", x=np.zeros((9, 2)), y=np.arange(9))
    for data, what in ((("a.npz",), "arrays"), ((), "the digits")):
        for option in (("--temp", "."), BATCHED):
            code, _, err = run(capsys, "train", *data, *option)
            assert (code, err.startswith(f"fastnn: {option[0]}: says nothing to {what}")) == (BAD_INPUT, True)
    model = fastnn.Sequential([fastnn.Dense(1)], "squared_error", input_size=2)
    model.save("m")
    for command in ("evaluate", "predict"):
        code, _, err = run(capsys, command, "m", "a.npz", *BATCHED)
        assert (code, err.startswith("fastnn: --stream-from: says nothing to a model of arrays")) == (BAD_INPUT, True)
    write_csv("t.csv", people(60))
    code, _, err = run(capsys, "train", "t.csv", "--target", "plan", "--temp", "nowhere")
    assert (code, err) == (BAD_INPUT, "fastnn: --temp: got nowhere, expected a folder\n")


# ------------------------------------------------------------------------------------------ temporary files


def test_the_folder_of_the_prepared_rows(capsys, monkeypatch, folder):
    """It is where --temp says, holds the three parts, and goes however training ends."""
    write_csv("t.csv", people(300))
    (folder / "scratch").mkdir()
    seen = []
    fit = fastnn.Sequential.fit
    options = ("t.csv", "--target", "plan", "--epochs", "1", "--quiet", "--temp", "scratch", *QUICK, *BATCHED)
    for error, code in ((None, 0), (KeyboardInterrupt(), INTERRUPTED), (ValueError("bad"), BAD_INPUT)):

        def watched(self, *arguments, error=error, **settings):
            seen.append(sorted(path.name for path in (folder / "scratch").glob("*/*")))
            if error is not None:
                raise error
            return fit(self, *arguments, **settings)

        monkeypatch.setattr(fastnn.Sequential, "fit", watched)
        assert run(capsys, "train", *options)[0] == code
        assert not os.listdir("scratch")
    expected = sorted(f"{part}-{which}.npy" for part in ("train", "validation", "test") for which in "xy")
    assert seen == [expected] * 3
    monkeypatch.setattr(large._NpyFile, "add", lambda self, rows: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(capsys, "train", *options)[0] == INTERRUPTED
    assert not os.listdir("scratch")


def test_a_full_disk(capsys, monkeypatch):
    write_csv("t.csv", people(30_000))
    options = ("t.csv", "--target", "plan", "--ignore", "id", "--epochs", "1", "--quiet", *QUICK, *BATCHED)
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, _, err = run(capsys, "train", *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == FAILED
    pattern = r"fastnn: \.: cannot be written: .+ \(the prepared rows take 1\.2 MB; --temp names another folder\)\n"
    assert re.fullmatch(pattern, err), err
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    code, _, err = run(capsys, "train", *options)
    expected = "fastnn: --temp: got . with 1.0 MB free, expected 1.2 MB for the prepared rows\n"
    assert (code, err) == (FAILED, expected)
    assert os.listdir() == ["t.csv"]


# -------------------------------------------------------------------------------------------------- memory

PEAK = """
import pathlib, sys
from fastnn import streams
from fastnn.cli import main
streams.BUFFER_BYTES = 2 << 20  # or they would grow with the table, up to some 100 MB
code = main(sys.argv[1:])
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024, file=sys.stderr)
sys.exit(code)
"""


def peak(*arguments):
    """Run a command in a process of its own and return the MB that it held at most."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastnn.__file__).parents[1])}
    command = [sys.executable, "-c", PEAK, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return int(result.stderr.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_memory_is_bounded():
    """Commands on 2,000,000 rows take what they take on 500,000, but for 5 bytes a row.

    Two peaks of the same differ by up to 40 MB. Where the rows are held, as a table, prepared, or as answers, those of
    1,500,000 more take 70 MB at least.
    """
    rng = np.random.default_rng(0)
    x, word = rng.normal(size=(20_000, 8)), rng.choice(["a", "b", "c"], 20_000)
    y = np.where(x.sum(axis=1) + (word == "a") > 0, "a full member", "not a member")
    table = pa.table({**{f"x{i}": x[:, i] for i in range(8)}, "word": word, "y": y})
    lines = "".join(
        f"{','.join(f'{value:.15f}' for value in row)},{name},{label}\n"
        for row, name, label in zip(x.tolist(), word, y, strict=True)
    )
    for name, times in (("first", 1), ("some", 25), ("many", 100)):
        with open(f"{name}.csv", "w") as file, parquet.ParquetWriter(f"{name}.parquet", table.schema) as writer:
            file.write(",".join(table.column_names) + "\n")
            for _ in range(times):
                file.write(lines)
                writer.write_table(table)
    train = ("--target", "y", "--epochs", "1", "--quiet", "--dtype", "float64", "--output", "m", *QUICK, *BATCHED)
    peak("train", "first.csv", *train)  # compiles what there is to compile
    for command in (
        lambda name: peak("train", f"{name}.csv", *train),
        lambda name: peak("evaluate", "m", f"{name}.parquet", *BATCHED),
        lambda name: peak("predict", "m", f"{name}.csv", "--output", "p.npy", *BATCHED),
    ):
        some, many = command("some"), command("many")
        assert many - some < 58
