"""The command line on tables and arrays of the user's: train, evaluate, predict, export, info, bench."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import run

import fastnn
from fastnn.cli import BAD_INPUT, FAILED, bench, export, main
from fastnn.cli.shared import columns_of
from fastnn.cli.sources import infer
from fastnn.preparation import Classes, Preparation, Values
from fastnn.tables import Categories, Table

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
needs_pyarrow = pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed")
QUICK = ("--layers", "16", "--threads", "1", "--no-plot")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def people(rows=400, seed=0):
    """Rows of a table as lists of text: a plan and a sum of money that age, city and membership decide."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, rows).round(1)
    city = rng.choice(["Lima", "Oslo", "Rome"], rows)
    member = rng.choice(["no", "yes"], rows)
    z = (age - 40) / 12 + 1.5 * (city == "Rome") - (member == "no")
    plan = np.where(z > 1, "gold", np.where(z > 0, "silver", "basic"))
    shown_age = np.where(rng.random(rows) < 0.05, "", age.astype(str))
    return {
        "id": [f"p{seed}-{i}" for i in range(rows)],
        "age": shown_age.tolist(),
        "city": city.tolist(),
        "member": member.tolist(),
        "plan": plan.tolist(),
        "spend": (5000 + 2000 * z).round(2).astype(str).tolist(),
    }


def write_csv(name, columns):
    lines = [",".join(columns), *(",".join(cells) for cells in zip(*columns.values(), strict=True))]
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with people.csv, later.csv and models of the classes and of the values."""
    if not HAS_PYARROW:
        pytest.skip("pyarrow is not installed")
    where = tmp_path_factory.mktemp("trained")
    write_csv(where / "people.csv", people())
    write_csv(where / "later.csv", people(100, 1))
    for target, other in (("plan", "spend"), ("spend", "plan")):
        options = ["--target", target, "--ignore", other, "--output", str(where / target), "--epochs", "40", "--quiet"]
        assert main(["train", str(where / "people.csv"), *options, *QUICK]) == 0
    return where


# --------------------------------------------------------------------------------------------------- train


@needs_pyarrow
def test_train_on_a_csv_of_classes(capsys):
    write_csv("people.csv", people())
    options = ("--target", "plan", "--ignore", "spend", "--epochs", "40")
    code, out, err = run(capsys, "train", "people.csv", *options, *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "people.csv: 288 rows to train on, 32 to choose the best epoch by, 80 to test on"
    assert lines[1] == "task: classes, since 'plan' holds words"
    assert lines[2] == "'id' is left out: 400 different words (--categorical id takes it in)"
    assert "rows without 'plan'" not in out, "all have one"
    assert lines[3] == "columns: 1 numeric, 2 categorical, 7 inputs"
    assert lines[4] == "7-16-3 relu, 179 parameters, adam"
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) > 85
    model = fastnn.load("fastnn-model.safetensors")
    assert model.preparation.target == Classes("plan", ("basic", "gold", "silver"))
    assert [column.name for column in model.preparation.columns] == ["age", "city", "member"]


@needs_pyarrow
def test_the_preparation_knows_the_training_rows_alone(capsys):
    """Neither the rows set apart nor those of the test."""
    write_csv("t.csv", {"x": [str(i) for i in range(20)], "y": ["1.5", "2.5"] * 10})
    options = ("--target", "y", "--test", "0.3", "--validation", "0.5", "--seed", "3", "--epochs", "1", "--quiet")
    assert run(capsys, "train", "t.csv", *options, *QUICK)[0] == 0
    order = np.random.default_rng(3).permutation(20)
    train = order[6 + 7 :]
    preparation = fastnn.load("fastnn-model.safetensors").preparation
    assert preparation.columns[0].mean == pytest.approx(train.mean())
    assert preparation.columns[0].spread == pytest.approx(train.std())
    assert preparation.target.means[0] == pytest.approx(np.where(train % 2, 2.5, 1.5).mean())


@needs_pyarrow
def test_train_on_values(capsys):
    write_csv("people.csv", people())
    options = ("--target", "spend", "--ignore", "plan,id", "--loss", "huber", "--epochs", "40", "--test", "0.25")
    code, out, _ = run(capsys, "train", "people.csv", *options, *QUICK)
    assert code == 0
    assert "task: values, since 'spend' holds numbers that are not all whole (--task classes overrules)" in out
    assert re.search(r"^epoch  1/40  loss [\d.]+  val_loss [\d.]+  val_r2 +-?[\d.]+ +[\d,]+ samples/s$", out, re.M)
    r2, error = re.search(r"test R2 ([\d.]+), mean absolute error ([\d.]+), loss ", out).groups()
    assert float(r2) > 0.8
    assert 50 < float(error) < 1000, "in the target's own units: its spread is some 2,700"
    model = fastnn.load("fastnn-model.safetensors")
    assert model.loss.name == "huber"
    assert not any(isinstance(layer, fastnn.Dropout) for layer in model.layers)


@needs_pyarrow
def test_test_rows_from_a_file(capsys, trained):
    files = (trained / "people.csv", "--test", trained / "later.csv")
    options = ("--target", "plan", "--ignore", "spend", "--epochs", "40", "--json")
    code, out, _ = run(capsys, "train", *files, *options, *QUICK)
    assert code == 0
    result = json.loads(out)
    evaluated = json.loads(run(capsys, "evaluate", "fastnn-model.safetensors", trained / "later.csv", "--json")[1])
    assert result["test_rows"] == evaluated["rows"] == 100
    assert result["test_accuracy"] == evaluated["accuracy"]
    assert result["task"] == "classes"


@needs_pyarrow
def test_columns_by_choice(capsys):
    write_csv("people.csv", people())
    cases = (
        (("--columns", "age,id"), ["age", "id"]),
        (("--columns", "city,age", "--ignore", "member"), ["city", "age"]),
        (("--ignore", "age,id"), ["city", "member", "spend"]),
        (("--categorical", "id", "--ignore", "age,spend"), ["id", "city", "member"]),
    )
    for options, expected in cases:
        arguments = ("--target", "plan", *options, "--epochs", "1", "--quiet")
        assert run(capsys, "train", "people.csv", *arguments, *QUICK)[0] == 0
        columns = fastnn.load("fastnn-model.safetensors").preparation.columns
        assert [column.name for column in columns] == expected


@needs_pyarrow
def test_numbers_that_are_categories(capsys):
    zips = ["01234", "00001", "77777"] * 60
    write_csv("t.csv", {"zip": zips, "y": ["a" if z == "00001" else "b" for z in zips]})
    options = ("--target", "y", "--categorical", "zip", "--epochs", "30", "--dropout", "0", "--lr", "0.05", "--json")
    code, out, _ = run(capsys, "train", "t.csv", *options, *QUICK)
    assert (code, json.loads(out)["test_accuracy"]) == (0, 1.0)
    preparation = fastnn.load("fastnn-model.safetensors").preparation
    assert preparation.columns[0].categories == ("00001", "01234", "77777")
    write_csv("new.csv", {"zip": ["00001", "77777"]})
    assert run(capsys, "predict", "fastnn-model.safetensors", "new.csv")[1] == "y\na\nb\n"


@needs_pyarrow
def test_numbers_that_are_names_of_classes(capsys):
    write_csv("t.csv", {"x": ["1.5", "-2", "0"] * 20, "zip": ["01234", "00001", "77777"] * 20})
    options = ("--target", "zip", "--categorical", "zip", "--epochs", "1", "--quiet")
    assert run(capsys, "train", "t.csv", *options, *QUICK)[0] == 0
    code, out, _ = run(capsys, "evaluate", "fastnn-model.safetensors", "t.csv", "--json")
    assert code == 0
    assert [each["class"] for each in json.loads(out)["classes"]] == ["00001", "01234", "77777"]


@needs_pyarrow
def test_rows_without_a_target_are_left_out(capsys):
    columns = people(60)
    columns["plan"][:7] = [""] * 7
    write_csv("t.csv", columns)
    code, out, _ = run(capsys, "train", "t.csv", "--target", "plan", "--epochs", "1", *QUICK)
    assert code == 0
    assert "7 rows without 'plan' are left out" in out.splitlines()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"y": Categories(np.array([0, 1]), ("a", "b"))}, ("classes", "since 'y' holds words")),
        ({"y": np.array([0.0, 1.0] * 5)}, ("classes", "since 'y' holds 2 different whole numbers (--task values over")),
        ({"y": np.arange(20.0)}, ("values", "since 'y' holds 20 different whole numbers (--task classes overrules)")),
        ({"y": np.arange(100) % 21.0}, ("values", "since 'y' holds 21 different whole numbers")),
        ({"y": np.array([0.5, 1.0] * 9)}, ("values", "since 'y' holds numbers that are not all whole")),
        ({"a": np.zeros(9), "b": np.zeros(9)}, ("values", "since there are 2 columns to learn")),
    ],
)
def test_what_kind_of_task_it_is(columns, expected):
    target = Table(columns, 0)
    kind, reason = infer(target, None)
    assert kind == expected[0]
    assert reason.startswith(expected[1])
    assert infer(target, "values") == ("values", "as asked for")


@needs_pyarrow
def test_the_task_by_choice(capsys):
    write_csv("t.csv", {"x": [str(i % 3) for i in range(60)], "y": [str(i % 3) for i in range(60)]})
    for options, kind in (((), Classes), (("--task", "values"), Values)):
        assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", "--quiet", *options, *QUICK)[0] == 0
        assert isinstance(fastnn.load("fastnn-model.safetensors").preparation.target, kind)
    code, _, err = run(capsys, "train", "t.csv", "--target", "y", "--loss", "huber", *QUICK)
    assert code == BAD_INPUT
    assert err == "fastnn: --loss: got huber for classes, expected cross_entropy (--task overrules)\n"


@needs_pyarrow
def test_several_columns_of_values(capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    columns = {"a": x[:, 0], "b": x[:, 1], "sum": 100 + x.sum(axis=1), "half": x[:, 0] / 2000}
    write_csv("t.csv", {name: column.astype(str).tolist() for name, column in columns.items()})
    code, out, _ = run(capsys, "train", "t.csv", "--target", "sum,half", "--epochs", "60", "--test", "0", *QUICK)
    assert code == 0
    assert "not tested, from epoch" in out
    write_csv("new.csv", {"b": ["0.5", "-0.5"], "a": ["1", "0"]})
    _, out, _ = run(capsys, "predict", "fastnn-model.safetensors", "new.csv")
    assert out.startswith("sum,half\n")
    values = np.array([line.split(",") for line in out.splitlines()[1:]], float)
    assert (abs(values - [[101.5, 0.0005], [99.5, 0]]) < [0.5, 2e-4]).all(), values
    result = json.loads(run(capsys, "evaluate", "fastnn-model.safetensors", "t.csv", "--json")[1])
    assert [each["target"] for each in result["targets"]] == ["sum", "half"]
    assert result["r2"] == pytest.approx(np.mean([each["r2"] for each in result["targets"]]), abs=1e-5)


def test_npz(capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, size=(300, 2, 2))
    y = np.where(x[:, 0, 0] > 5, "up", "down")
    np.savez("t.npz", x=x, y=y)
    np.savez("named.npz", rows=x, side=y)
    code, out, err = run(capsys, "train", "t.npz", "--epochs", "60", "--dropout", "0", *QUICK)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "t.npz: 216 rows to train on, 24 to choose the best epoch by, 60 to test on"
    assert out.splitlines()[1] == "task: classes, since 'y' holds words"
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) > 90
    assert re.findall(r"^epoch +(\d+)/60", out, re.M) == [*map(str, range(1, 51)), "60"]
    arguments = ("named.npz", "--target", "side", "--epochs", "1", "--output", "named", "--quiet")
    assert run(capsys, "train", *arguments, *QUICK)[0] == 0
    for model, data, target in (("fastnn-model.safetensors", "t.npz", ()), ("named", "named.npz", ())):
        code, out, _ = run(capsys, "evaluate", model, data, *target, "--json")
        assert code == 0
        assert [each["class"] for each in json.loads(out)["classes"]] == ["down", "up"]
    np.save("x.npy", x)
    _, out, _ = run(capsys, "predict", "fastnn-model.safetensors", "x.npy")
    assert (np.array(out.split()) == y).mean() > 0.9
    run(capsys, "predict", "fastnn-model.safetensors", "x.npy", "--output", "c.npy")
    assert np.load("c.npy").tolist() == out.split()


def test_npz_of_values(capsys):
    x = np.random.default_rng(0).normal(size=(300, 3))
    np.savez("t.npz", x=x, y=np.column_stack([1000 * x[:, 0], x[:, 1] - 7]))
    options = ("--epochs", "60", "--test", "0", "--lr", "0.01", "--dtype", "float64", "--json")
    assert run(capsys, "train", "t.npz", *options, *QUICK)[0] == 0
    result = json.loads(run(capsys, "evaluate", "fastnn-model.safetensors", "t.npz", "--json")[1])
    assert [each["target"] for each in result["targets"]] == ["y[0]", "y[1]"]
    for columns, message in ((1, "got no column 'y[1]', expected it"), (3, "got 3 targets a row, expected 2")):
        np.savez("other.npz", x=np.zeros((9, 3)), y=np.zeros((9, columns)))
        code, _, err = run(capsys, "evaluate", "fastnn-model.safetensors", "other.npz")
        assert (code, err.count("\n"), message in err) == (BAD_INPUT, 1, True)
    assert result["r2"] > 0.95
    assert 1 < result["targets"][0]["mean_absolute_error"] < 300


def test_a_pair_of_idx_files(capsys, folder):
    x, y, _, _ = fastnn.load_digits()
    for name, array, shape in (("images", x * 15, (1442, 8, 8)), ("labels", y.astype(np.uint8), (1442,))):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        (folder / name).write_bytes(header + array.tobytes())
    code, out, _ = run(capsys, "train", "images", "--target", "labels", "--epochs", "20", *QUICK)
    assert code == 0
    assert "task: classes, since 'label' holds 10 different whole numbers (--task values overrules)" in out
    code, out, _ = run(capsys, "evaluate", "fastnn-model.safetensors", "images", "--target", "labels")
    assert float(re.match(r"1,442 rows: accuracy ([\d.]+)%", out)[1]) > 85
    code, _, err = run(capsys, "train", "images", *QUICK)
    assert code == BAD_INPUT
    assert err == "fastnn: images: got images alone, expected the IDX file of their labels as --target\n"


@pytest.mark.usefixtures("folder")
def test_without_pyarrow(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    write_csv("n.csv", {"x": [str(i) for i in range(40)], "y": [str(i / 2) for i in range(40)]})
    assert run(capsys, "train", "n.csv", "--target", "y", "--epochs", "1", "--quiet", *QUICK) == (0, "", "")
    write_csv("w.csv", people(20))
    code, _, err = run(capsys, "train", "w.csv", "--target", "plan", *QUICK)
    assert (code, err.count("\n")) == (BAD_INPUT, 1)
    assert 'pyarrow is not installed: pip install "fastnn[table]" brings it' in err
    code, _, err = run(capsys, "predict", "fastnn-model.safetensors", "n.csv", "--output", "p.parquet")
    assert (code, err) == (
        BAD_INPUT,
        'fastnn: --output: pyarrow is not installed: pip install "fastnn[table]" brings it\n',
    )


# ------------------------------------------------------------------------------------ evaluate and predict


def test_evaluate_classes(capsys, trained):
    metrics = pytest.importorskip("sklearn.metrics")
    code, out, _ = run(capsys, "evaluate", trained / "plan", trained / "later.csv", "--json")
    assert code == 0
    result = json.loads(out)
    true = people(100, 1)["plan"]
    run(capsys, "predict", trained / "plan", trained / "later.csv", "--output", "p.csv")
    with open("p.csv", encoding="utf-8") as file:
        header, *predicted = file.read().split()
    assert header == "plan"
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    assert result["confusion"] == metrics.confusion_matrix(true, predicted).tolist()
    report = metrics.classification_report(true, predicted, output_dict=True, zero_division=0)
    for each in result["classes"]:
        for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert each[name] == pytest.approx(report[each["class"]][theirs]), name
        assert each["rows"] == report[each["class"]]["support"]
    lines = run(capsys, "evaluate", trained / "plan", trained / "later.csv")[1].splitlines()
    assert lines[0] == f"100 rows: accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}"
    assert lines[2].split() == ["class", "rows", "precision", "recall", "f1", "taken", "for", "basic", "gold", "silver"]
    assert lines[3].split()[-3:] == [str(count) for count in result["confusion"][0]]


def test_evaluate_values(capsys, trained):
    metrics = pytest.importorskip("sklearn.metrics")
    result = json.loads(run(capsys, "evaluate", trained / "spend", trained / "later.csv", "--json")[1])
    true = np.array(people(100, 1)["spend"], float)
    predicted = np.array(run(capsys, "predict", trained / "spend", trained / "later.csv")[1].split()[1:], float)
    (each,) = result["targets"]
    assert each["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(true, predicted), rel=1e-4)
    assert each["root_mean_squared_error"] ** 2 == pytest.approx(metrics.mean_squared_error(true, predicted), rel=1e-4)
    assert each["r2"] == pytest.approx(metrics.r2_score(true, predicted), abs=1e-4)
    assert result["r2"] == pytest.approx(each["r2"], abs=1e-4)
    out = run(capsys, "evaluate", trained / "spend", trained / "later.csv")[1]
    assert out.splitlines()[2].split("  ")[-1] == "root mean squared error"
    assert out.splitlines()[3].startswith("spend ")


def test_evaluate_values_that_do_not_vary(capsys, trained, tmp_path):
    """One R2 of a target in two places: the column's was NaN where the score was 0."""
    rows = (trained / "later.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(rows[:2]))
    result = json.loads(run(capsys, "evaluate", trained / "spend", tmp_path / "one.csv", "--json")[1])
    assert (result["r2"], result["targets"][0]["r2"]) == (0.0, 0.0)


def test_evaluate_models_made_in_python(capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    cases = (
        ("cross_entropy", 4, rng.integers(0, 4, 50), "accuracy"),
        ("binary_cross_entropy", 1, rng.integers(0, 2, 50), "accuracy"),
        ("binary_cross_entropy", 2, rng.integers(0, 2, (50, 2)), "accuracy"),
        ("squared_error", 1, rng.normal(size=50), "r2"),
        ("huber", 2, rng.normal(size=(50, 2)), "r2"),
    )
    for loss, units, y, score in cases:
        model = fastnn.Sequential([fastnn.Dense(units)], loss, input_size=3)
        model.save("m")
        np.savez("t.npz", x=x, y=y)
        code, out, err = run(capsys, "evaluate", "m", "t.npz", "--json")
        assert (code, err) == (0, ""), loss
        expected = model.evaluate(x, y)
        result = json.loads(out)
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert result[score] == pytest.approx(expected[score])
        assert len(result.get("classes", [])) == {("cross_entropy", 4): 4, ("binary_cross_entropy", 1): 2}.get(
            (loss, units), 0
        )


def test_evaluate_a_folder_of_idx_files_takes_its_test_files(capsys, folder):
    rng = np.random.default_rng(0)
    sizes = {"train": 30, "t10k": 20}
    for part, rows in sizes.items():
        images, labels = rng.integers(0, 256, (rows, 2, 2), np.uint8), rng.integers(0, 3, rows).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / name).write_bytes(header + array.tobytes())
    assert run(capsys, "train", ".", "--epochs", "1", "--quiet", *QUICK)[0] == 0
    assert run(capsys, "evaluate", "fastnn-model.safetensors", ".")[1].startswith("20 rows: accuracy ")


def test_predict_takes_raw_files(capsys, trained):
    """Another order, further columns, a date, categories never seen, cells without a value, no target."""
    columns = people(5, 2)
    del columns["plan"], columns["spend"]
    columns = {"when": ["2026-01-01"] * 5, **dict(reversed(columns.items()))}
    columns["city"] = ["Paris", "", "Oslo", "Rome", "Lima"]
    columns["age"][:2] = ["", "90"]
    write_csv("new.csv", columns)
    code, out, err = run(capsys, "predict", trained / "plan", "new.csv")
    assert (code, err) == (
        0, "fastnn: column 'city': 1 of 5 rows hold a category that training gave no input: 'Paris'\n"
    )  # fmt: skip
    lines = out.split()
    assert lines[0] == "plan"
    model = fastnn.load(trained / "plan")
    rows = {name: columns[name] for name in ("age", "city", "member")}
    rows["age"] = [float(age) if age else None for age in rows["age"]]
    rows["city"][1] = None
    x = model.preparation.transform(rows, warn=False)
    assert x[0].tolist()[2:5] == [0, 0, 0], "Paris is no city of the training rows"
    assert lines[1:] == model.preparation.target.decode(model.predict_class(x)).tolist()
    header, *shares = run(capsys, "predict", trained / "plan", "new.csv", "--proba")[1].splitlines()
    assert header == "basic,gold,silver"
    printed = np.array([line.split(",") for line in shares], np.float32)
    np.testing.assert_array_equal(printed, model.predict_proba(x))


def test_categories_without_an_input_are_counted(capsys, trained):
    columns = people(6, 2)
    columns["city"] = ["Paris", "Bern", "Oslo", "Paris", "Rome", ""]
    columns["member"][4] = "maybe"
    write_csv("new.csv", columns)
    for command, lead in (("evaluate", ()), ("predict", ())):
        code, _, err = run(capsys, command, trained / "plan", "new.csv", *lead)
        assert code == 0
        assert err.splitlines() == [
            "fastnn: column 'city': 3 of 6 rows hold a category that training gave no input: 'Paris', 'Bern'",
            "fastnn: column 'member': 1 of 6 rows hold a category that training gave no input: 'maybe'",
        ]
        code, out, err = run(capsys, command, trained / "plan", "new.csv", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["unseen"] == {
            "city": {"rows": 3, "categories": ["Paris", "Bern"]},
            "member": {"rows": 1, "categories": ["maybe"]},
        }
    for command in ("evaluate", "predict"):
        assert run(capsys, command, trained / "plan", trained / "later.csv")[2] == ""


def test_predict_json(capsys, trained):
    predicted = run(capsys, "predict", trained / "plan", trained / "later.csv")[1].split()[1:]
    result = json.loads(run(capsys, "predict", trained / "plan", trained / "later.csv", "--json")[1])
    assert result == {"rows": 100, "columns": ["plan"], "unseen": {}, "predictions": predicted}
    result = json.loads(run(capsys, "predict", trained / "plan", trained / "later.csv", "--proba", "--json")[1])
    assert result["columns"] == ["basic", "gold", "silver"]
    np.testing.assert_allclose(np.sum(result["predictions"], axis=1), 1, atol=1e-6)
    assert np.shape(result["predictions"]) == (100, 3)
    out = run(capsys, "predict", trained / "spend", trained / "later.csv", "--json", "--output", "s.csv")[1]
    facts = json.loads(out)
    assert facts == {
        "rows": 100,
        "columns": ["spend"],
        "unseen": {},
        "file": "s.csv",
        "bytes": Path("s.csv").stat().st_size,
    }
    plain = run(capsys, "predict", trained / "spend", trained / "later.csv")[1]
    assert Path("s.csv").read_text() == plain
    values = json.loads(run(capsys, "predict", trained / "spend", trained / "later.csv", "--json")[1])["predictions"]
    np.testing.assert_allclose(values, np.array(plain.split()[1:], float), rtol=1e-6)


def test_dates_are_learned_from(capsys, folder):
    """The answer is whether a day is in the second half of 2024; prediction takes dates that training never saw."""
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + rng.integers(0, 366, 600)
    late = np.where(days >= np.datetime64("2024-07-01"), "late", "early")
    seconds = rng.integers(0, 86400, 600).astype("m8[s]")
    moments = [str(moment).replace("T", " ") for moment in days.astype("M8[s]") + seconds]
    shown = ["" if i % 50 == 0 else str(day) for i, day in enumerate(days)]
    write_csv("days.csv", {"day": shown, "moment": moments, "half": late.tolist()})
    code, out, err = run(
        capsys, "train", "days.csv", "--target", "half", "--json", "--no-plot", "--epochs", "40", *QUICK
    )
    assert (code, err) == (0, "")
    assert "columns: 0 numeric, 0 categorical, 2 of dates, 3 inputs" in json.loads(out)["notes"]
    assert json.loads(out)["test_accuracy"] > 0.95
    model = fastnn.load("fastnn-model.safetensors")
    assert [(column.name, column.dates) for column in model.preparation.columns] == [("day", True), ("moment", True)]
    assert model.preparation.columns[1].mean == pytest.approx(19723 + 183, abs=12)  # 2024-01-01 is day 19,723
    write_csv(
        "new.csv",
        {"day": ["2024-02-03", "", "2024-12-31"], "moment": [f"2024-{m}-03 10:00:00" for m in ("02", "11", "12")]},
    )
    assert run(capsys, "predict", "fastnn-model.safetensors", "new.csv")[1].split() == ["half", "early", "late", "late"]
    told = run(capsys, "info", "fastnn-model.safetensors")[1]
    day = model.preparation.columns[0]
    mean = np.datetime64(int(day.mean), "D")
    assert f"column      day: mean {mean}, spread {day.spread:.4g} days, or missing" in told.splitlines()
    for cells, got in ((["1", "2", "3"], "numbers"), (["2024-02-03", "June", "July"], "'June' in row 1")):
        write_csv("bad.csv", {"day": cells, "moment": ["2024-02-03 10:00:00"] * 3})
        code, _, err = run(capsys, "predict", "fastnn-model.safetensors", "bad.csv")
        assert (code, err) == (2, f"fastnn: bad.csv: column 'day': got {got}, expected dates, as in training\n")
    code, _, err = run(capsys, "train", "days.csv", "--target", "day")
    assert (code, err) == (2, "fastnn: --target: 'day' holds dates, expected numbers or words\n")
    code, out, _ = run(
        capsys, "train", "days.csv", "--target", "half", "--categorical", "day", "--json", "--no-plot", "--epochs", "1"
    )
    assert "columns: 0 numeric, 1 categorical, 1 of dates" in " ".join(json.loads(out)["notes"])


def test_predict_writes_parquet(capsys, trained):
    import pyarrow.parquet

    for options, names in (((), ["plan"]), (("--proba",), ["basic", "gold", "silver"])):
        arguments = (trained / "plan", trained / "later.csv", *options, "--output", "p.parquet")
        assert run(capsys, "predict", *arguments) == (0, "", "")
        table = pyarrow.parquet.read_table("p.parquet")
        assert table.column_names == names
        printed = run(capsys, "predict", trained / "plan", trained / "later.csv", *options)[1].splitlines()[1:]
        written = zip(*table.to_pydict().values(), strict=True)
        if options:
            shares = [[float(cell) for cell in line.split(",")] for line in printed]
            np.testing.assert_allclose(shares, list(written), rtol=1e-7)
        else:
            assert printed == [row[0] for row in written]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "predict plan narrow.csv",
            "narrow.csv: got no column 'age', 'member', expected all columns that the model was",
        ),
        ("predict plan words.csv", "words.csv: column 'age': got 'old' in row 0, expected numbers, as in training"),
        ("predict plan x.npy", "x.npy: got .npy, expected a table, CSV or Parquet, as the model was trained on one"),
        ("predict plan nothing.csv", "nothing.csv: No such file or directory"),
        ("evaluate plan words.csv", "words.csv: column 'age': got 'old'"),
        ("evaluate plan new.csv", "new.csv: got no column 'plan', expected it among 'age', 'city', 'member'"),
        ("evaluate plan later.csv --target spend", "--target: the model was trained on plan, expected none"),
        ("evaluate plan empty.csv", "empty.csv: got no rows, expected some"),
        ("evaluate plan untold.csv", "untold.csv: got no rows with a target, expected some"),
        ("evaluate plan untold.csv --stream-from 0", "untold.csv: got no rows with a target, expected some"),
        ("evaluate plan -", "fastnn: -: got a pipe, expected a file, which is read more than once"),
        ("predict plan -", "fastnn: -: got a pipe, expected a file, which is read more than once"),
        ("train - --target plan", "fastnn: -: got a pipe, expected a file, which is read more than once"),
        ("train later.csv --target plan,spend --task classes", "got 2 columns as classes, expected one"),
        ("train later.csv --target spend --task classes", "later.csv: column 'spend': got "),
        (
            "train later.csv --target plan --task values",
            "later.csv: column 'plan': got 'basic' in row 0, expected numbers",
        ),
        ("train later.csv --target plan --test new.csv", "new.csv: got no column 'plan', expected it among 'age'"),
        ("train later.csv --target plan --ignore agee", "--ignore: got 'agee', expected one of 'id', 'age', "),
        ("train later.csv --target plan --ignore id,plan", "--ignore: got 'plan', which --target names, expected col"),
        ("train later.csv --target plan --columns age --ignore age", "--ignore: got 'age', which --columns names, exp"),
        ("train later.csv --target paln", "Did you mean 'plan'?"),
        (
            "train later.csv --target plan --columns age,plan",
            "--columns: got 'plan', which --target names, expected col",
        ),
        ("train later.csv --target plan --ignore id,age,city,member,spend", "later.csv: got no column but the target"),
        ("train later.csv --target plan --ignore id --ignore id", "--ignore: got 'id' more than once, expected each"),
        ("train later.csv", "--target: got none, expected the column to learn, one of 'id', 'age', 'city', 'member', "),
        ("train one.csv --target y", "one.csv: column 'y': got one class alone, a, expected two or more"),
        ("train cut.npz --decay 0.5", "--decay: says nothing to --schedule cosine, "),
        ("train head.csv --target y", "are these the first row? The first line of a file names its columns"),
        ("train x.npy", "x.npy: got one array, expected inputs and targets, as in .npz"),
        ("train x.npz", "x.npz: got arrays x, expected the targets in one named y"),
        ("train x.npz --columns a", "--columns: says nothing to arrays"),
        ("train cut.npz", "cut.npz: got a damaged file"),
        ("train book.xlsx --target y", "book.xlsx: got a spreadsheet, expected CSV (plain or .gz), Parquet or .npz"),
        ("predict plan book.xlsx", "book.xlsx: got a spreadsheet, expected CSV (plain or .gz), Parquet or .npz"),
        ("train csv.zip --target y", "csv.zip: got a zip archive, expected CSV (plain or .gz), Parquet or .npz"),
        ("predict plan empty.csv", "empty.csv: got no rows, expected some"),
        ("predict plan empty.csv --stream-from 0", "empty.csv: got no rows, expected some"),
        ("predict plan new.csv --output p.csv.gz", "--output: got p.csv.gz, expected a name that ends in .npy, .parq"),
        ("predict plan new.csv --output p.xlsx", "--output: got p.xlsx, expected a name that ends in .npy, .parquet"),
        ("train same.csv --target y", "same.csv: column 'y': got one value alone, 2.5, expected two or more"),
        (
            "train same.csv --target y --stream-from 0",
            "same.csv: column 'y': got one value alone, 2.5, expected two or more",
        ),
        ("train none.npz", "none.npz: got inputs of shape (3, 0), expected numbers in rows"),
        ("export plan --to keras", "--to: got 'keras', expected one of 'npz', 'onnx', 'torch'"),
        ("export plan --output net.pb", "--to: got pb, expected npz, onnx or torch"),
        ("export plan --to torch --output plan", "--output: got plan, a file that is read, expected another name"),
    ],
)
def test_bad_files_are_one_sentence(capsys, folder, trained, arguments, message):
    new = people(5)
    write_csv("new.csv", {name: new[name] for name in ("age", "city", "member")})
    write_csv("narrow.csv", {"city": ["Oslo"]})
    write_csv("words.csv", {**new, "age": ["old"] * 5})
    write_csv("untold.csv", {**new, "plan": [""] * 5})
    write_csv("empty.csv", {name: [] for name in new})
    write_csv("one.csv", {"x": list("123456"), "y": list("aaaaaa")})
    write_csv("same.csv", {"x": list("123456"), "y": ["2.5"] * 6})
    for name, part in (("book.xlsx", "xl/workbook.xml"), ("csv.zip", "same.csv")):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr(part, "x,y")
    write_csv("head.csv", {"1.5": ["2", "3"], "a": ["b", "c"]})
    np.save("x.npy", np.zeros((3, 3)))
    np.savez("x.npz", x=np.zeros((3, 3)))
    np.savez("none.npz", x=np.zeros((3, 0)), y=np.arange(3))
    (folder / "cut.npz").write_bytes(b"PK\x03\x04" + b"\0" * 40)
    for name in ("plan", "later.csv"):
        (folder / name).write_bytes((trained / name).read_bytes())
    before = sorted(path.name for path in folder.iterdir())
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (BAD_INPUT, "")
    assert message in err
    assert err.startswith("fastnn")
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


# ---------------------------------------------------------------------------------------- export, info, bench


def test_export_npz(capsys, trained):
    code, out, _ = run(capsys, "export", trained / "plan", "--to", "npz")
    assert (code, out) == (0, "wrote plan.npz: 7 prepared inputs in, 3 logits out\n")
    model = fastnn.load(trained / "plan")
    with np.load("plan.npz", allow_pickle=False) as arrays:
        names = ["dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"]
        for name, weight in zip(names, model.get_weights(), strict=True):
            np.testing.assert_array_equal(arrays[name], weight)
        config = json.loads(str(arrays["config"]))
    assert config["preparation"] == json.loads(json.dumps(model.preparation.config()))
    code, out, _ = run(capsys, "export", trained / "spend", "--output", "s.npz", "--json")
    result = json.loads(out)
    assert result["output_kind"] == "standardised values"
    assert "module" not in result


def test_export_torch_needs_no_pytorch(capsys, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    from safetensors import safe_open

    code, out, _ = run(capsys, "export", trained / "plan", "--to", "torch")
    assert code == 0
    assert out.splitlines() == [
        "wrote plan.torch.safetensors: 7 prepared inputs in, 3 logits out",
        "torch.nn.Sequential(Linear(7, 16), ReLU(), Dropout(0.25), Linear(16, 3))",
    ]
    w0, b0, w1, b1 = fastnn.load(trained / "plan").get_weights()
    with safe_open("plan.torch.safetensors", "numpy") as file:
        names = file.keys()
        got = {name: file.get_tensor(name) for name in names}
        assert file.metadata() == {"torch.nn": "Sequential(Linear(7, 16), ReLU(), Dropout(0.25), Linear(16, 3))"}
    for name, want in (("0.weight", w0.T), ("0.bias", b0), ("3.weight", w1.T), ("3.bias", b1)):
        np.testing.assert_array_equal(got.pop(name), want)
    assert got == {}
    result = json.loads(run(capsys, "export", trained / "plan", "--output", "p.torch.safetensors", "--json")[1])
    assert (result["format"], result["module"][:20]) == ("torch", "torch.nn.Sequential(")


@pytest.mark.torch
def test_export_torch_loads_as_printed(capsys, trained):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    lines = run(capsys, "export", trained / "plan", "--to", "torch")[1].splitlines()
    net = eval(lines[1], {"torch": torch, **vars(torch.nn)})
    net.load_state_dict(load_file("plan.torch.safetensors"))
    model = fastnn.load(trained / "plan")
    rows = np.random.default_rng(0).standard_normal((5, model.network.inputs)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(net.eval()(torch.tensor(rows)).numpy(), model.predict(rows), atol=1e-5)


@pytest.mark.onnx
def test_export_onnx(capsys, trained):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    code, _, _ = run(capsys, "export", trained / "plan", "--to", "onnx", "--output", "net.onnx")
    assert code == 0
    model = fastnn.load(trained / "plan")
    rows = np.random.default_rng(0).standard_normal((5, model.network.inputs)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession("net.onnx").run(None, {"input": rows})
    np.testing.assert_allclose(got, model.predict(rows), atol=1e-5)


def test_export_onnx_is_left_to_the_model(capsys, monkeypatch, trained):
    written = []

    def to_onnx(model, path):
        written.append(model.network.n_params)
        path.write_bytes(b"onnx")

    monkeypatch.setattr(fastnn.Sequential, "to_onnx", to_onnx)
    assert run(capsys, "export", trained / "plan", "--output", "net.onnx")[1].startswith("wrote net.onnx: 7 prepared")
    assert written == [fastnn.load(trained / "plan").network.n_params]

    def full(model, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fastnn.Sequential, "to_onnx", full)
    code, _, err = run(capsys, "export", trained / "plan", "--to", "onnx")
    assert (code, err) == (FAILED, "fastnn: plan.onnx: cannot be written: No space left on device\n")


def test_info_shows_the_preparation(capsys, trained):
    lines = run(capsys, "info", trained / "plan")[1].splitlines()
    assert "target      plan: basic, gold, silver" in lines
    assert "column      city: Lima, Oslo, Rome" in lines
    age = fastnn.load(trained / "plan").preparation.columns[0]
    assert f"column      age: mean {age.mean:.4g}, spread {age.spread:.4g}, or missing" in lines
    result = json.loads(run(capsys, "info", trained / "spend", "--json")[1])
    assert result["inputs"][:3] == ["age", "age is missing", "city = Lima"]
    assert result["preparation"]["target"]["names"] == ["spend"]
    assert result["parameters"] == 7 * 16 + 16 + 16 + 1
    assert result["epoch"] == 40
    assert "target      spend: mean " in run(capsys, "info", trained / "spend")[1]


@needs_pyarrow
def test_info_shows_times_and_categories_with_commas(capsys, folder):
    columns = {"at": ["06:00", "12:00", "21:30"] * 9, "city": ['"York, NY"', "Rome", "Lima"] * 9}
    write_csv("t.csv", {**columns, "y": ["a", "b", "b"] * 9})
    assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", "--test", "0", "--validation", "0")[0] == 0
    lines = run(capsys, "info", "fastnn-model.safetensors")[1].splitlines()
    assert any(line.startswith("column      at: mean 13:10, spread 0.26") and line.endswith(" days") for line in lines)
    assert "column      city: Lima, Rome, 'York, NY'" in lines


def test_columns_of_wide_characters_stand_below_each_other():
    lines = columns_of([["", "東京", "e\u0301"], ["東", "1", "23"], ["abc", "45", "6"]])
    assert lines == ["     東京   e\u0301", "東      1  23", "abc    45   6"]


@needs_pyarrow
def test_names_with_line_ends_and_control_characters_are_printed_in_a_line(capsys, folder):
    cells = {"a\x1b[31m": ['"x\ny"', "z", "z"] * 9, "b": list("123") * 9, "y": ['"p\nq"', "r\x1b[31m", "s"] * 9}
    write_csv("t.csv", cells)
    assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", *QUICK)[0] == 0
    told = run(capsys, "info", "fastnn-model.safetensors")[1]
    assert "target      y: p\\nq, r\\x1b[31m, s" in told.splitlines()
    assert "column      a\\x1b[31m: x\\ny, z" in told.splitlines()
    lines = run(capsys, "evaluate", "fastnn-model.safetensors", "t.csv")[1].splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["p\\nq", "r\\x1b[31m", "s"]


def test_bench(capsys, monkeypatch):
    small = bench.Workload("small", 64, (5, 7, 3), 32, "relu")
    assert small.flops == 64 * (6 * (5 * 7 + 7 * 3) - 2 * 5 * 7)
    monkeypatch.setattr(bench, "WORKLOADS", (small,))
    code, out, err = run(capsys, "bench", "--seconds", "0.01", "--threads", "1")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split() == ["network", "layers", "batch", "us/step", "samples/s", "GFLOP/s"]
    assert line.split()[:3] == ["small", "5-7-3", "32"]
    (result,) = json.loads(run(capsys, "bench", "--seconds", "0.01", "--threads", "1", "--json")[1])["workloads"]
    seconds = 64 / result["samples_per_second"]
    assert result["us_per_step"] == pytest.approx(1e6 * seconds / 2)
    assert result["gflops"] == pytest.approx(small.flops / seconds / 1e9)


# -------------------------------------------------------------------------------------- corners of files


def write_parquet(name, columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), name)


INDEX = "__index_level_0__"


@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_an_index_of_pandas_is_learned_from_where_it_is_asked_for(capsys, extra):
    x = np.random.default_rng(0).normal(size=80)
    write_parquet("t.parquet", {"x": x, "y": ["no", "yes"] * 40, INDEX: np.arange(80)})
    arguments = ("train", "t.parquet", "--target", "y", "--epochs", "1", *QUICK, *extra)
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert f"'{INDEX}' is left out: the index that pandas wrote (--columns takes it in)" in out
    assert fastnn.load("fastnn-model.safetensors").preparation.inputs == ("x",)
    assert run(capsys, *arguments, "--quiet", "--columns", f"x,{INDEX}")[0] == 0
    assert fastnn.load("fastnn-model.safetensors").preparation.inputs == ("x", INDEX)


@needs_pyarrow
def test_values_keep_the_digits_that_a_float32_network_gives_them(capsys):
    """The target lies far from 0: in float32 it would come in steps of 128."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    write_csv("t.csv", {"x": x.astype(str).tolist(), "y": (1.7e9 + 10 * x).astype(str).tolist()})
    options = ("--target", "y", "--epochs", "60", "--lr", "0.01", "--quiet", *QUICK)
    assert run(capsys, "train", "t.csv", *options)[0] == 0
    model = "fastnn-model.safetensors"
    _, out, _ = run(capsys, "predict", model, "t.csv")
    printed = np.array(out.split()[1:], float)
    assert np.abs(printed - 1.7e9 - 10 * x).mean() < 2
    assert max(map(len, out.split()[1:])) < 19, "digits beyond those of the network's type are none"
    told = json.loads(run(capsys, "predict", model, "t.csv", "--json")[1])["predictions"]
    assert told == printed.tolist()
    for name in ("p.npy", "p.parquet"):
        assert run(capsys, "predict", model, "t.csv", "--output", name)[0] == 0
    np.testing.assert_allclose(np.load("p.npy").ravel(), printed, atol=1e-6, rtol=0)


def test_json_has_the_digits_of_csv(capsys, trained):
    arguments = ("predict", trained / "plan", trained / "later.csv", "--proba")
    shares = json.loads(run(capsys, *arguments, "--json")[1])["predictions"]
    printed = [[float(cell) for cell in line.split(",")] for line in run(capsys, *arguments)[1].splitlines()[1:]]
    assert shares == printed


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_large_whole_numbers_as_classes(capsys, extra):
    ids = [str(2**53 + i % 2) for i in range(40)]
    write_csv("t.csv", {"x": [str(i % 2) for i in range(40)], "id": ids})
    arguments = ("train", "t.csv", "--target", "id", "--epochs", "1", "--quiet", *QUICK, *extra)
    code, _, err = run(capsys, *arguments, "--task", "classes")
    assert (code, err.count("\n")) == (BAD_INPUT, 1)
    assert "column 'id': got 9007199254740992, expected words, or whole numbers below 2**53, as classes" in err
    assert run(capsys, *arguments, "--categorical", "id") == (0, "", "")
    assert fastnn.load("fastnn-model.safetensors").preparation.target.classes == tuple(sorted(set(ids)))
    ids = [str(2**53 - 2 + i % 2) for i in range(40)]
    write_csv("t.csv", {"x": [str(i % 2) for i in range(40)], "id": ids})
    assert run(capsys, *arguments, "--task", "classes") == (0, "", "")
    assert set(run(capsys, "predict", "fastnn-model.safetensors", "t.csv")[1].split()[1:]) <= set(ids)


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--target y --columns x,x", "--columns: got 'x' more than once, expected each column once"),
        ("--target y,y", "--target: got 'y' more than once, expected each column once"),
        ("--target y --columns=", "--columns: got '', expected one of 'x', 'y', 'none', 'huge'"),
        ("--target y --columns none", "t.csv: got no column with a value to learn from, expected one at least"),
        ("--target y --columns huge", "t.csv: column 'huge': got numbers too large for their standard deviation, "),
    ],
)
def test_columns_that_cannot_be_learned_from(capsys, arguments, message, extra):
    numbers = [str(i) for i in range(40)]
    huge = [f"{i - 20}e200" for i in range(40)]
    write_csv("t.csv", {"x": numbers, "y": numbers, "none": [""] * 40, "huge": huge})
    code, out, err = run(capsys, "train", "t.csv", *arguments.split(), *QUICK, *extra)
    assert (code, out, err.count("\n")) == (BAD_INPUT, "", 1)
    assert message in err


@needs_pyarrow
def test_nothing_is_left_but_names_of_rows(capsys):
    write_csv("t.csv", {"id": [f"p{i}" for i in range(300)], "y": [str(i % 2) for i in range(300)]})
    code, _, err = run(capsys, "train", "t.csv", "--target", "y", *QUICK)
    assert (code, err.count("\n")) == (BAD_INPUT, 1)
    assert "t.csv: got no column with a value to learn from ('id' is left out: 300 different words" in err


def test_a_number_that_float32_cannot_hold(capsys, trained, recwarn):
    write_csv("t.csv", {**people(2), "age": ["30", "1e300"]})
    code, out, err = run(capsys, "predict", trained / "plan", "t.csv")
    assert (code, out, err.count("\n")) == (BAD_INPUT, "", 1)
    assert "t.csv: column 'age': got 1e+300 in row 1, expected numbers that float32 holds as (value - " in err
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_a_preparation_of_another_size_is_damage(capsys, trained, folder, monkeypatch):
    """It is not written, and not read from what something else has written."""
    model = fastnn.load(trained / "plan")
    columns, target = model.preparation.columns, model.preparation.target
    for changed, message in (
        (Preparation(columns[:1], target), "preparation: its columns make 2 inputs, expected the network's"),
        (Preparation(columns, Classes("plan", ("a",))), "preparation: its target has 1 classes, expected the 3"),
    ):
        model.preparation = changed
        with pytest.raises(ValueError, match=f"^{message}"):
            model.save(folder / "m")
        assert not (folder / "m").exists()
        with monkeypatch.context() as unchecked:
            unchecked.setattr(Preparation, "check_fit", lambda *_: None)
            model.save(folder / "m")
        code, out, err = run(capsys, "predict", "m", trained / "later.csv")
        assert (code, out) == (BAD_INPUT, "")
        assert err.startswith(f"fastnn: m: is damaged (ValueError: {message}")
        (folder / "m").unlink()


OVERWRITES = [
    "train t.npz --output t.npz",
    "train t.npz --output ./x/../t.npz",
    "train t.npz --output t.png",
    "train t.npz --output m --plot link.png",
    "train t.npz --test later.npz --output later.npz",
    "train images --target labels --output labels",
    "train folder --output folder/train-labels-idx1-ubyte",
    "predict plan later.csv --output later.csv",
    "predict plan later.csv --output plan",
    "export plan --to npz --output plan",
]


@pytest.mark.parametrize("arguments", OVERWRITES)
def test_no_file_is_written_over_another(capsys, folder, trained, arguments):
    (folder / "x").mkdir()
    (folder / "folder").mkdir()
    np.savez("t.npz", x=np.zeros((9, 3)), y=np.arange(9))
    for name in ("later.npz", "link.png"):
        (folder / name).write_bytes((folder / "t.npz").read_bytes())
    (folder / "link.png").unlink()
    os.link("t.npz", "link.png")
    for name in ("images", "labels", "folder/train-labels-idx1-ubyte"):
        (folder / name).write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))
    for name in ("plan", "later.csv"):
        (folder / name).write_bytes((trained / name).read_bytes())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run(capsys, *arguments.split())
    assert (code, out, err.count("\n")) == (BAD_INPUT, "", 1)
    assert re.search(
        r"--(output|plot): got .*, (a file that is read|the file of --output), expected another name$", err
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_refused(capsys, folder, trained):
    os.mkfifo("pipe")
    for command in (("predict", trained / "plan", "pipe"), ("train", "pipe", "--target", "plan")):
        code, out, err = run(capsys, *command)
        assert (code, out) == (BAD_INPUT, "")
        assert err == "fastnn: pipe: got a pipe, expected a file, which is read more than once\n"


@pytest.mark.parametrize("kind", ["npz", "torch", "onnx"])
def test_export_writes_over_no_file_that_was_not_named(capsys, folder, trained, kind):
    (folder / "sim.safetensors").write_bytes((trained / "plan").read_bytes())
    path = folder / f"sim{export.ENDINGS[kind]}"
    path.write_bytes(b"rows to train on")
    code, out, err = run(capsys, "export", "sim.safetensors", "--to", kind)
    message = f"fastnn: --output: got none, and there is a file {path.name} already, expected the name to write to\n"
    assert (code, out, err) == (BAD_INPUT, "", message)
    assert path.read_bytes() == b"rows to train on"
    if kind != "onnx":
        assert run(capsys, "export", "sim.safetensors", "--to", kind, "--output", path.name)[0] == 0
    code, _, err = run(capsys, "export", "sim.safetensors", "--to", kind, "--output", "")
    assert code == BAD_INPUT
    assert "--output: got ., a folder" in err


def test_train_draws_over_no_picture_that_was_not_named(capsys, folder):
    pytest.importorskip("matplotlib")
    np.savez("t.npz", x=np.zeros((9, 3)), y=np.arange(9) % 2)
    (folder / "house.png").write_bytes(b"a photo")
    arguments = ("train", "t.npz", "--output", "house.safetensors", "--epochs", "1", "--quiet", *QUICK[:-1])
    code, out, err = run(capsys, *arguments)
    message = "fastnn: --plot: got none, and there is a file house.png already, expected a name, or --no-plot\n"
    assert (code, out, err) == (BAD_INPUT, "", message)
    assert (folder / "house.png").read_bytes() == b"a photo"
    assert not (folder / "house.safetensors").exists()
    assert run(capsys, *arguments, "--plot", "house.png") == (0, "", "")
    before = (folder / "house.png").read_bytes()
    assert run(capsys, *arguments, "--seed", "1") == (0, "", ""), "the model is there: it is trained anew"
    assert (folder / "house.png").read_bytes() != before
    (folder / "house.png").write_bytes(b"a photo")
    assert run(capsys, *arguments) == (BAD_INPUT, "", message), "the model is there, the picture is another one"
    assert (folder / "house.png").read_bytes() == b"a photo"


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_evaluate_leaves_out_rows_without_a_target(capsys, trained, extra):
    columns = people(60, 1)
    columns["city"][7] = columns["city"][8] = "Paris"
    write_csv(
        "whole.csv", {name: [cell for i, cell in enumerate(cells) if i % 6 != 1] for name, cells in columns.items()}
    )
    for target in ("plan", "spend"):
        columns[target] = ["" if i % 6 == 1 else cell for i, cell in enumerate(columns[target])]
    write_csv("gaps.csv", columns)
    for target in ("plan", "spend"):
        code, whole, err = run(capsys, "evaluate", trained / target, "whole.csv", *extra)
        assert code == 0
        said = "column 'city': 1 of 50 rows hold a category that training gave no input: 'Paris'"
        gaps = run(capsys, "evaluate", trained / target, "gaps.csv", *extra)
        assert gaps == (0, f"10 rows without {target!r} are left out\n{whole}", f"fastnn: {said}\n")
        assert gaps[2] == err
        assert json.loads(run(capsys, "evaluate", trained / target, "gaps.csv", "--json", *extra)[1])["left_out"] == 10


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
@pytest.mark.parametrize("labels", [[str(i) for i in range(80)], [f"row {i % 9}" for i in range(80)]])
def test_a_first_column_without_a_name_is_an_index(capsys, labels, extra):
    write_csv("t.csv", {"": labels, "x": [str(i % 7) for i in range(80)], "y": ["no", "yes"] * 40})
    arguments = ("train", "t.csv", "--target", "y", "--epochs", "1", *QUICK, *extra)
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    expected = "the first column, which has no name, is left out: the index that pandas wrote (--columns takes it in)\n"
    assert expected in out
    assert fastnn.load("fastnn-model.safetensors").preparation.inputs == ("x",)
    assert run(capsys, *arguments, "--quiet", "--columns", "x,")[0] == 0
    assert [part.name for part in fastnn.load("fastnn-model.safetensors").preparation.columns] == ["x", ""]
    write_csv("t.csv", {"Unnamed: 0": labels, "x": [str(i % 7) for i in range(80)], "y": ["no", "yes"] * 40})
    assert "'Unnamed: 0' is left out: the index that pandas wrote" in run(capsys, *arguments)[1]
    write_csv("t.csv", {"x": [str(i % 7) for i in range(80)], "": labels, "y": ["no", "yes"] * 40})
    assert "has no name" not in run(capsys, *arguments)[1], "it is the first column that pandas writes"


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_truth_values_and_whole_numbers_are_one_category_in_all_files(capsys, extra):
    truth = np.arange(200) % 3 == 0
    code = 1 + np.arange(200) % 2
    written = [str(number) if i % 5 else f"{number}.0" for i, number in enumerate(code)]
    y = np.where(truth ^ (code == 1), "a", "b")
    write_csv("t.csv", {"member": [str(cell).lower() for cell in truth], "code": written, "y": y.tolist()})
    options = ("--target", "y", "--categorical", "code", "--epochs", "60", "--lr", "0.05", "--dropout", "0", "--quiet")
    assert run(capsys, "train", "t.csv", *options, *QUICK, *extra) == (0, "", "")
    model = fastnn.load("fastnn-model.safetensors")
    assert model.preparation.inputs == ("member = false", "member = true", "code = 1", "code = 2")
    write_parquet("t.parquet", {"member": truth, "code": code, "y": y})
    for name in ("t.csv", "t.parquet"):
        code_, out, err = run(capsys, "predict", "fastnn-model.safetensors", name, *extra)
        assert (code_, err) == (0, "")
        assert out.split()[1:] == y.tolist()


@needs_pyarrow
def test_dates_as_text_in_parquet_are_dates(capsys):
    days = np.datetime64("2024-01-01") + np.arange(300)
    write_csv("t.csv", {"day": [str(day) for day in days], "y": ["a", "b"] * 150})
    assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", "--quiet", *QUICK) == (0, "", "")
    write_parquet("text.parquet", {"day": [str(day) for day in days]})
    whole = run(capsys, "predict", "fastnn-model.safetensors", "t.csv", "--proba")
    for extra in ((), ("--stream-from", "0")):
        assert run(capsys, "predict", "fastnn-model.safetensors", "text.parquet", "--proba", *extra) == whole


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_decimal_commas_are_said_and_learned_from(capsys, extra):
    x = [f"{i % 7},5" for i in range(80)]
    with open("t.csv", "w") as file:
        file.write("\n".join(["x;y", *(f"{cell};{i % 2}" for i, cell in enumerate(x))]) + "\n")
    code, out, err = run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", *QUICK, *extra)
    assert (code, err) == (0, "")
    assert "numbers are read with decimal commas, 1,23 as 1.23 and 1.234 as 1234\n" in out
    assert "columns: 1 numeric, 0 categorical, 1 inputs\n" in out
    with open("t.csv", "w") as file:
        file.write("\n".join(["x;y", *(f"{cell.replace(',', '.')};{i % 2}" for i, cell in enumerate(x))]) + "\n")
    os.rename("fastnn-model.safetensors", "comma.safetensors")
    assert "decimal commas" not in run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", *QUICK, *extra)[1]
    comma, point = (fastnn.load(f"{name}.safetensors").preparation for name in ("comma", "fastnn-model"))
    assert (comma.point, point.point) == (",", ".")
    assert dataclasses.replace(comma, point=".") == point


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_a_model_of_decimal_commas_reads_numbers_that_do_not_say(capsys, extra):
    for name, row in (("t.csv", lambda i: f"1.{i:03},0;{i % 2}"), ("dots.csv", lambda i: f"1.{i:03};{i % 2}")):
        with open(name, "w") as file:
            file.write("\n".join(["x;y", *map(row, range(80))]) + "\n")
    train = ("train", "t.csv", "--target", "y", "--test", "dots.csv", "--epochs", "2", *QUICK)
    assert run(capsys, *train, *extra)[0] == 0
    for command in ("evaluate", "predict"):
        same = [run(capsys, command, "fastnn-model.safetensors", name, *extra) for name in ("t.csv", "dots.csv")]
        assert same[0] == same[1]
        assert same[0][0] == 0


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_commas_between_thousands_are_said_and_learned_from(capsys, extra):
    """New rows that show nothing are read as those of training, in a file of commas and in one of semicolons."""
    rows = [(f"{900 + i}" if i < 100 else f"{1 + i // 1000},{i:03}", 5 * i) for i in range(0, 990, 9)]
    for name, form in (("t.csv", '"{}",{}'), ("t.tsv", "{}\t{}"), ("plain.csv", "{},{}")):
        cells = [(cell.replace(",", "") if name == "plain.csv" else cell, y) for cell, y in rows]
        with open(name, "w") as file:
            file.write("\n".join([form.format("x", "y"), *(form.format(*row) for row in cells)]) + "\n")
    train = ("train", "t.csv", "--target", "y", "--test", "t.tsv", "--epochs", "2", *QUICK)
    code, out, err = run(capsys, *train, *extra)
    assert (code, err) == (0, "")
    assert "numbers are read with commas between thousands, 1,234 as 1234 (--categorical takes a column as" in out
    assert "columns: 1 numeric, 0 categorical, 1 inputs\n" in out
    assert fastnn.load("fastnn-model.safetensors").preparation.point == ".,"
    for command in ("evaluate", "predict"):
        same = [run(capsys, command, "fastnn-model.safetensors", t, *extra) for t in ("t.csv", "t.tsv", "plain.csv")]
        assert same[0] == same[1] == same[2]
        assert same[0][0] == 0


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")])
def test_a_word_among_decimal_commas_is_named(capsys, extra):
    rows = [f"{i % 7},5;{'ab'[i % 2]}" for i in range(80)]
    for name, more in (("t.csv", []), ("words.csv", ["1.234,5;a", "none;b"])):
        with open(name, "w") as file:
            file.write("\n".join(["x;y", *rows, *more]) + "\n")
    assert run(capsys, "train", "t.csv", "--target", "y", "--epochs", "1", *QUICK)[0] == 0
    for command in ("evaluate", "predict"):
        code, out, err = run(capsys, command, "fastnn-model.safetensors", "words.csv", *extra)
        message = "fastnn: words.csv: column 'x': got 'none' in row 81, expected numbers, as in training\n"
        assert (code, out, err) == (BAD_INPUT, "", message)


@needs_pyarrow
@pytest.mark.parametrize("extra", [(), ("--stream-from", "0")], ids=["at once", "in batches"])
def test_a_word_among_numbers_is_said_to_make_a_column_one_of_words(capsys, extra):
    numbers = [f"{i}.5" for i in range(240)]
    doors = ["2", "3", "4", "5more"] * 60
    write_csv("t.csv", {"x": [*numbers[:-2], "n.a.", "Total"], "z": numbers, "doors": doors, "y": ["a", "b"] * 120})
    quick = ("--epochs", "1", "--json", "--output", "m", *QUICK, *extra)
    for more, told in ((), True), (("--categorical", "x"), False):
        code, out, err = run(capsys, "train", "t.csv", "--target", "y", *more, *quick)
        assert (code, err) == (0, "")
        notes = [note for note in json.loads(out)["notes"] if "is taken as words" in note]
        assert notes == ["'x' is taken as words, since it holds 'Total' among numbers"] * told
    code, out, _ = run(capsys, "train", "t.csv", "--target", "x", "--ignore", "y", *quick)
    assert "'x' is taken as words, since it holds 'Total' among numbers" in json.loads(out)["notes"]
    code, _, err = run(capsys, "train", "t.csv", "--target", "y", "--ignore", "z,doors", *quick)
    assert (code, "x' is taken as words, since it holds 'Total'" in err) == (2, True)


@needs_pyarrow
def test_columns_whose_names_hold_commas_and_quotes(capsys):
    with open("t.csv", "w", newline="") as file:
        rows = [[i % 17, i % 11, i % 7, i % 3 + 0.5, i % 5 + 0.5] for i in range(60)]
        csv.writer(file).writerows([["a, b", 'c "d"', "e", "y", "z, w"], *rows])
    quick = ("--epochs", "1", "--quiet", *QUICK)
    for options, inputs in (
        (("--ignore", "a, b"), ('c "d"', "e")),
        (("--ignore", '"a, b",e'), ('c "d"',)),
        (("--ignore", 'c "d"', "--ignore", "a, b"), ("e",)),
        (("--columns", "a, b", "--columns", 'e,"c ""d"""'), ("a, b", "e", 'c "d"')),
        (("--categorical", "a, b", "--ignore", 'e,c "d"'), None),
    ):
        assert run(capsys, "train", "t.csv", "--target", 'y, "z, w"', *options, *quick) == (0, "", ""), options
        preparation = fastnn.load("fastnn-model.safetensors").preparation
        assert preparation.target.names == ("y", "z, w")
        assert inputs is None or preparation.inputs == inputs
    assert [(column.kind, column.name) for column in preparation.columns] == [("categorical", "a, b")]


def test_arrays_of_one_axis_are_samples_of_one_input(capsys):
    """To `train` and `evaluate` they were, to `predict` not."""
    x = np.linspace(-1, 1, 60)
    for name, values in (("flat", x), ("column", x[:, None])):
        np.savez(f"{name}.npz", x=values, y=(x > 0).astype(int))
    np.save("flat.npy", x)
    assert run(capsys, "train", "flat.npz", "--epochs", "1", "--quiet", *QUICK) == (0, "", "")
    for command in ("evaluate", "predict"):
        flat, column = (run(capsys, command, "fastnn-model.safetensors", f"{name}.npz") for name in ("flat", "column"))
        assert flat == column
        assert flat[0] == 0
    assert run(capsys, "predict", "fastnn-model.safetensors", "flat.npy") == flat
    np.save("number.npy", 0.5)
    code, out, err = run(capsys, "predict", "fastnn-model.safetensors", "number.npy")
    assert (code, out) == (BAD_INPUT, "")
    assert err.startswith("fastnn: number.npy: got shape (), expected (rows, 1)")


def test_arrays_that_lie_close_together_are_not_blown_up(capsys):
    """Their digits are beyond those of float32, in which they come in steps of 128 or are all equal."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=200), 1.7e9 + rng.normal(size=200), 0.3 + 1e-16 * rng.integers(0, 2, 200)])
    np.savez("t.npz", x=x, y=(x[:, 0] > 0).astype(int))
    arguments = ("--epochs", "30", "--dropout", "0", "--json", *QUICK)
    code, out, err = run(capsys, "train", "t.npz", *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out)["test_accuracy"] > 0.9
    rescale = fastnn.load("fastnn-model.safetensors").layers[0]
    inputs = x.astype(np.float32) * np.float32(rescale.scale) + np.float32(rescale.offset)
    assert np.abs(inputs).max() < 10
