"""The command line: train, predict, info; its files, its words, its exit codes, and Ctrl-C."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import run, weight_bytes, without_notice

import fastnn
from benchmarks import cases
from fastnn import cli
from fastnn.cli import BAD_INPUT, FAILED, INTERRUPTED, bench, evaluate, export, main, predict, train
from fastnn.preparation import Classes, Preparation

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
SMALL = ("--layers", "16", "--epochs", "3", "--threads", "1")

needs_matplotlib = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small model of the digits, and its path."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    assert main(["train", *SMALL, "--quiet", "--no-plot", "--output", str(path)]) == 0
    return path


# A shell that runs the tests in the background has its children ignore Ctrl-C.
HEEDS_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("fastnn", run_name="__main__", alter_sys=True)
"""


def process(*arguments, program=("-m", "fastnn"), **settings):
    """Start `python -m fastnn` in a process of its own."""
    root = str(pathlib.Path(fastnn.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def idx(array):
    """An array as an IDX file has it."""
    array = np.asarray(array)
    code = {"uint8": 8, "int8": 9, "int32": 12, "float32": 13}[array.dtype.name]
    header = bytes([0, 0, code, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx_dir(where, images, labels, test_images, test_labels, packed=False):
    where.mkdir()
    for name, array in {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": test_images,
        "t10k-labels-idx1-ubyte": test_labels,
    }.items():
        content = idx(array)
        (where / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return where


def digits(scale=15, rows=300):
    """Digits as 8 x 8 images of bytes 0 to 240, like MNIST's."""
    x, y, x_test, y_test = fastnn.load_digits()
    images = [(part * scale).astype(np.uint8).reshape(-1, 8, 8) for part in (x[:rows], x_test[:100])]
    return images[0], y[:rows].astype(np.uint8), images[1], y_test[:100].astype(np.uint8)


# ------------------------------------------------------------------------------------------------- train


def test_train_without_arguments(capsys, folder):
    """The main job: at least 97% on rows it has not seen, a line an epoch, a model and a picture."""
    code, out, err = run(capsys, "train")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "digits: 1,298 rows to train on, 144 to choose the best epoch by, 355 to test on"
    assert lines[1] == "64-256-128-10 relu, 50,826 parameters, adam"
    epochs = [line for line in lines if re.match(r"epoch +\d+/30  loss \d+\.\d{4}  accuracy +\d", line)]
    assert len(epochs) == 30
    assert all(re.search(r" [\d,]+ samples/s$", line) for line in epochs)
    (result,) = (line for line in lines if line.startswith("test accuracy"))
    accuracy = float(re.match(r"test accuracy ([\d.]+)%", result)[1])
    assert accuracy >= 97
    assert re.search(r"from epoch \d+ of 30, the best by its validation loss$", result)
    assert re.fullmatch(r"[\d,]+ samples/s, \d+\.\d s of training", lines[lines.index(result) + 1])
    assert "wrote fastnn-model.safetensors" in lines
    model = fastnn.load(folder / "fastnn-model.safetensors")
    _, _, x_test, y_test = fastnn.load_digits()
    assert (model.predict_class(x_test) == y_test).mean() == pytest.approx(accuracy / 100, abs=1e-4)
    if HAS_MATPLOTLIB:
        assert "wrote fastnn-curve.png" in lines
        assert (folder / "fastnn-curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_written_are_the_best_by_validation(capsys, folder):
    code, out, _ = run(capsys, "train", *SMALL, "--lr", "0.5", "--schedule", "constant", "--epochs", "12")
    assert code == 0
    model = fastnn.load(folder / "fastnn-model.safetensors")
    losses = model.history.history["val_loss"]
    best = int(np.argmin(losses))
    assert best != 11, "or the test shows nothing"
    assert f"from epoch {best + 1} of 12" in out
    order = np.random.default_rng(0).permutation(1442)[:144]
    x, y, _, _ = fastnn.load_digits()
    assert model.evaluate(x[order], y[order])["loss"] == pytest.approx(losses[best], rel=1e-6)


def test_the_same_seed_gives_the_same_bits(folder):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert main(["train", *SMALL, "--quiet", "--no-plot", "--seed", str(seed), "--output", name]) == 0
    bits = [weight_bytes(fastnn.load(folder / name)) for name in "abc"]
    assert bits[0] == bits[1] != bits[2]


def test_json(capsys, folder):
    code, out, _ = run(capsys, "train", *SMALL, "--json", "--no-plot", "--validation", "0")
    result = json.loads(out)
    assert code == 0
    _, _, x_test, y_test = fastnn.load_digits()
    model = fastnn.load(folder / "fastnn-model.safetensors")
    assert result["test_accuracy"] == model.evaluate(x_test, y_test)["accuracy"]
    assert result["epochs"] == 3
    assert result["best_epoch"] == 3
    assert result["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert (result["model"], result["plot"]) == ("fastnn-model.safetensors", None)
    assert result["samples_per_second"] > 0
    assert (result["diagnosis"], result["ending"]) == ([], None)
    assert "val_loss" not in model.history.history


def test_quiet_is_quiet(capsys, folder):
    assert run(capsys, "train", *SMALL, "--quiet") == (0, "", "")
    assert {path.name for path in folder.iterdir()} >= {"fastnn-model.safetensors"}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(capsys, folder, packed):
    images, labels, test_images, test_labels = digits(rows=1000)
    write_idx_dir(folder / "images", images, labels, test_images, test_labels, packed)
    code, out, err = run(capsys, "train", "images", "--layers", "32", "--epochs", "30", "--threads", "1")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "images: 900 rows to train on, 100 to choose the best epoch by, 100 to test on"
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) > 85
    model = fastnn.load("fastnn-model.safetensors")
    assert model.layers[0] == fastnn.Rescale(1 / 255)
    name = "images/t10k-images-idx3-ubyte" + ".gz" * packed
    code, out, _ = run(capsys, "predict", "fastnn-model.safetensors", name)
    np.testing.assert_array_equal(np.array(out.split(), int), model.predict_class(test_images))


def test_images_that_are_no_bytes_are_standardised(capsys, folder):
    images, labels, test_images, test_labels = digits()
    write_idx_dir(folder / "d", (images * 1e-3).astype(np.float32), labels, test_images.astype(np.float32), test_labels)
    assert run(capsys, "train", "d", *SMALL, "--no-plot", "--validation", "0")[0] == 0
    x = images.reshape(len(images), -1) * 1e-3
    rescale = fastnn.load("fastnn-model.safetensors").layers[0]
    scaled = x * np.array(rescale.scale) + np.array(rescale.offset)
    varies = x.std(axis=0) > 0
    assert 0 < varies.sum() < 64, "some pixels are always white"
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, varies].std(axis=0), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "schedule"),
    [
        (["--schedule", "constant"], fastnn.Constant(0.002)),
        (["--schedule", "step"], fastnn.StepDecay(0.002, 0.5, 5)),
        (["--schedule", "step", "--decay", "0.1", "--decay-every", "2"], fastnn.StepDecay(0.002, 0.1, 2)),
        (["--schedule", "exponential"], fastnn.Exponential(0.002, 0.9, 1)),
        (["--schedule", "Inverse-Time", "--lr", "0.1"], fastnn.InverseTime(0.1, 0.5, 1)),
        (["--schedule", "plateau"], fastnn.ReduceOnPlateau(0.002, 0.3, 3)),
        ([], fastnn.Cosine(0.002, 3)),
        (["--warmup", "7", "--optimizer", "sgd"], fastnn.Warmup(fastnn.Cosine(0.1, 3), 7)),
    ],
)
def test_schedules(arguments, schedule):
    assert main(["train", *SMALL, "--quiet", "--no-plot", *arguments]) == 0
    optimizer = fastnn.load("fastnn-model.safetensors").optimizer
    assert optimizer.lr.config() == schedule.config()
    assert optimizer.name == ("sgd" if "sgd" in arguments else "adam")


def test_options_reach_the_model():
    options = "--layers 9,8 --activation tanh --dropout 0.3 --l1 1e-3 --l2 2e-3 --l1-mode truncate --optimizer rmsprop"
    options += " --learning-rate 0.03 --batch-size 100 --seed 5 --threads 1 --dtype float64 --epochs 2"
    options += " --quiet --no-plot --output m"
    assert main(["train", *options.split()]) == 0
    model = fastnn.load("m")
    dense, drop = fastnn.Dense, fastnn.Dropout(0.3)
    expected = (fastnn.Rescale(1 / 16), dense(9, "tanh"), drop, dense(8, "tanh"), drop, dense(10))
    assert model.layers == expected
    assert (model.l1, model.l2, model.l1_mode) == (1e-3, 2e-3, "truncate")
    assert isinstance(model.optimizer, fastnn.RMSprop)
    assert model.optimizer.lr.lr == 0.03
    assert (model.seed, model.n_threads, model.dtype) == (5, 1, np.float64)
    assert (model.epoch, model.step) == (2, 2 * 13)


def test_no_hidden_layer(capsys):
    code, out, _ = run(capsys, "train", *SMALL, "--layers", "0", "--no-plot")
    assert code == 0
    assert out.splitlines()[1] == "64-10 relu, 650 parameters, adam"


def test_patience_stops_early(capsys):
    code, out, _ = run(capsys, "train", *SMALL, "--epochs", "200", "--patience", "2", "--lr", "0.05", "--no-plot")
    assert code == 0
    last = int(re.findall(r"^epoch +(\d+)/200", out, re.MULTILINE)[-1])
    assert last < 200
    assert "stopped, as 2 epochs brought no better validation loss." in out
    assert f"from epoch {last - 2} of {last}" in out


def test_an_ill_network_is_diagnosed(capsys):
    deep = "--layers 32,32,32,32,32,32,32,32 --activation sigmoid --dropout 0 --epochs 1 --threads 1 --no-plot"
    code, out, _ = run(capsys, "train", *deep.split())
    assert code == 0
    assert "The gradient vanishes in layers 1 to " in out
    result = json.loads(run(capsys, "train", *deep.split(), "--json")[1])
    assert result["diagnosis"][0].startswith("The gradient vanishes in layers 1 to ")


# ----------------------------------------------------------------------------------------------- pictures


@needs_matplotlib
def test_pictures(capsys, folder):
    assert run(capsys, "train", *SMALL, "--plot", "curves.svg")[1].endswith("wrote curves.svg\n")
    assert (folder / "curves.svg").read_bytes().startswith(b"<?xml")
    (folder / "runs").mkdir()
    run(capsys, "train", *SMALL, "--output", "runs/a.safetensors")
    run(capsys, "train", *SMALL, "--output", "runs/b.safetensors", "--no-plot")
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["a.png", "a.safetensors", "b.safetensors"]
    assert not (folder / "fastnn-curve.png").exists()


def test_without_matplotlib_one_sentence_says_so(capsys, folder, monkeypatch):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = run(capsys, "train", *SMALL)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("no picture, since matplotlib is not installed")
    assert out.splitlines()[-1].endswith('pip install "fastnn[plot]"')
    assert [path.name for path in folder.iterdir()] == ["fastnn-model.safetensors"]
    code, out, err = run(capsys, "train", *SMALL, "--plot", "x.png")
    assert (code, out) == (BAD_INPUT, "")
    assert err == 'fastnn: --plot: matplotlib is not installed: pip install "fastnn[plot]" brings it\n'


# ------------------------------------------------------------------------------- Ctrl-C and what goes wrong


def stop_in_epoch(monkeypatch, number, error):
    """Raise in the middle of training, after `number` epochs."""

    def on_epoch_begin(self, epoch):
        if epoch == number:
            raise error

    monkeypatch.setattr(train.EpochLines, "on_epoch_begin", on_epoch_begin)


def test_ctrl_c_keeps_the_best_model(capsys, monkeypatch):
    stop_in_epoch(monkeypatch, 4, KeyboardInterrupt)
    code, out, err = run(capsys, "train", *SMALL, "--epochs", "9", "--no-plot", "--schedule", "constant")
    assert (code, err) == (INTERRUPTED, "")
    assert "interrupted in epoch 5.\n" in out
    model = fastnn.load("fastnn-model.safetensors")
    best = int(np.argmin(model.history.history["val_loss"]))
    assert f"from epoch {best + 1} of 4, the best by its validation loss" in out
    assert out.endswith("wrote fastnn-model.safetensors\n")


def test_ctrl_c_before_the_first_step_writes_nothing(capsys, folder, monkeypatch):
    stop_in_epoch(monkeypatch, 0, KeyboardInterrupt)
    code, _, err = run(capsys, "train", *SMALL)
    assert code == INTERRUPTED
    assert err == "fastnn: interrupted in epoch 1; nothing was learned and nothing written\n"
    assert list(folder.iterdir()) == []


def test_ctrl_c_within_the_first_epoch_keeps_what_there_is(capsys, monkeypatch):
    def epoch(self, bar):
        self.model.step = 3
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnn.training.Trainer._epoch", epoch)
    code, out, err = run(capsys, "train", *SMALL)
    assert (code, err) == (INTERRUPTED, "")
    assert "after 3 steps, before the end of the first epoch" in out
    assert fastnn.load("fastnn-model.safetensors").step == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_a_real_ctrl_c(folder):
    arguments = ("train", "--epochs", "1000000", "--schedule", "constant", "--threads", "1")
    with process(*arguments, program=("-c", HEEDS_CTRL_C), cwd=folder) as run:
        while not (line := run.stdout.readline()).startswith("epoch       3/"):
            assert line, run.stderr.read()
        time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    assert run.returncode == INTERRUPTED, err
    assert "interrupted in epoch " in out
    assert "Traceback" not in err
    model = fastnn.load(folder / "fastnn-model.safetensors")
    _, _, x_test, y_test = fastnn.load_digits()
    stated = float(re.search(r"test accuracy ([\d.]+)%", out)[1])
    assert 100 * model.evaluate(x_test, y_test)["accuracy"] == pytest.approx(stated, abs=0.01)


def test_divergence_writes_nothing_of_the_first_epoch(capsys, folder):
    wild = "--optimizer sgd --lr 1e12 --schedule constant --dropout 0 --layers 64,64,64"
    code, _, err = run(capsys, "train", *SMALL, *wild.split())
    assert code == FAILED
    assert "loss: became NaN or infinite in step" in err
    assert err.endswith("nothing was learned and nothing written\n")
    assert err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_divergence_later_keeps_the_best_model(capsys, monkeypatch):
    stop_in_epoch(monkeypatch, 2, fastnn.TrainingDiverged("loss: became NaN or infinite in step 80."))
    code, out, err = run(capsys, "train", *SMALL, "--epochs", "5", "--no-plot")
    assert code == FAILED
    assert err == (
        "fastnn: loss: became NaN or infinite in step 80; the best model so far is in fastnn-model.safetensors\n"
    )
    assert "from epoch 2 of 2" in out
    assert fastnn.load("fastnn-model.safetensors").epoch == 2


def test_a_full_disk_is_one_sentence(capsys, monkeypatch):
    def save(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fastnn.Sequential, "save", save)
    code, _, err = run(capsys, "train", *SMALL)
    assert code == FAILED
    assert err == "fastnn: fastnn-model.safetensors: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("options", "types"),
    [((), ["float32", "float64"]), (("--dtype", "float64"), ["float64"]), (("--dtype", "float32") * 2, ["float32"])],
)
def test_warmup(options, types, capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr("fastnn.cli.warmup.warmup", compiled.extend)
    monkeypatch.setattr("fastnn.cli.warmup.kept", lambda names: names == types)
    code, out, err = run(capsys, "warmup", *options)
    assert code == 0
    assert compiled == types
    assert out == f"compiled for {' and '.join(types)} in 0.0 s\n"
    assert err.startswith("compiling every kernel for this CPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --epoch 3", "unrecognized arguments: --epoch; did you mean --epochs?"),
        ("predict m n --probs", "did you mean --proba?"),
        ("", "got no command, expected train, evaluate, predict, info, export, warmup or bench"),
        ("bench --epochs 3", "fastnn bench: unrecognized arguments: --epochs 3 (fastnn bench --help says more)"),
        ("bench --second 3", "unrecognized arguments: --second 3; did you mean --seconds?"),
        ("warmup twice", "fastnn warmup: unrecognized arguments: twice ("),
        ("--verson", "unrecognized arguments: --verson; did you mean --version?"),
        ("warmup --dtype float16", "--dtype: got 'float16', expected one of 'float32', 'float64'"),
        ("bench --dtype float16", "--dtype: got 'float16', expected one of 'float32', 'float64'"),
        ("tarin", "invalid choice: 'tarin'"),
        ("train --layers 64,0", "--layers: got '64,0', expected units such as 256,128"),
        ("train --layers wide", "--layers: got 'wide', expected units"),
        ("train --lr 0", "--lr/--learning-rate: got '0', expected a number > 0"),
        ("train --lr fast", "--lr/--learning-rate: got 'fast', expected a number > 0"),
        ("train --lr nan", "--lr/--learning-rate: got 'nan', expected a number > 0"),
        ("train --dropout 1", "--dropout: got '1', expected a number in [0, 1)"),
        ("train --l1 -1", "--l1: got '-1', expected a number >= 0"),
        ("train --epochs 0", "--epochs: got '0', expected an integer >= 1"),
        ("train --epochs 1.5", "--epochs: got '1.5', expected an integer >= 1"),
        ("train --seed -1", "--seed: got '-1', expected an integer in [0,"),
        ("train --activation rleu", "Did you mean 'relu'?"),
        ("train --optimizer addam", "Did you mean 'adam'?"),
        ("train --schedule cosin", "Did you mean 'cosine'?"),
        ("train --dtype float16", "--dtype: got 'float16', expected one of 'float32', 'float64'"),
        ("train --decay 0.5", "--decay: says nothing to --schedule cosine, expected it with step"),
        ("train --schedule constant --decay-every 3", "--decay-every: says nothing to --schedule constant"),
        ("train --schedule plateau --decay 2", "--decay: got 2.0, expected a number in (0, 1)"),
        ("train nowhere", "nowhere: No such file"),
        ("train .", "fastnn: .: got a folder without IDX files, expected them in it, or a file"),
        ("train . --target y", "fastnn: .: got a folder without IDX files, expected them in it, or a file"),
        ("train --output no/model", "--output: got no/model, but there is no folder no"),
        ("train --output .", "--output: got ., a folder"),
        ("train --plot x.jpg", "--plot: got x.jpg, expected a name that ends in .png"),
        ("train --quiet --json", "not allowed with"),
        ("train --epoch 3", "unrecognized arguments: --epoch"),
        ("train --test 1", "--test: got '1', expected a number in [0, 1)"),
        ("train --test 0.1", "--test: says nothing to the digits"),
        ("train --loss huber", "--loss: got huber for classes, expected cross_entropy"),
        ("train text", "--target: got none, expected the column to learn, one of 'no model at all'"),
        ("train text --target y", "--target: got 'y', expected one of 'no model at all'"),
        ("evaluate nothing x.csv", "nothing: No such file"),
        ("export text", "--to: got none, expected npz, onnx or torch"),
        ("export text --to npz", "text: is no whole safetensors file"),
        ("export . --to npz", ".: Is a directory"),
        ("bench --seconds 0", "--seconds: got '0', expected a number > 0"),
        ("predict", "the following arguments are required: MODEL, FILE"),
        ("predict nothing x.npy", "nothing: No such file"),
        ("predict text x.npy", "text: is no whole safetensors file"),
        ("info text", "text: is no whole safetensors file"),
        ("info .", ".: Is a directory"),
    ],
)
def test_bad_arguments_are_one_sentence(capsys, folder, arguments, message):
    (folder / "text").write_text("no model at all")
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (BAD_INPUT, "")
    assert message in err
    assert err.startswith("fastnn")
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["text"]


def test_a_class_that_training_has_not_seen_is_refused(capsys, folder):
    images, labels, test_images, test_labels = digits(rows=50)
    write_idx_dir(folder / "d", images, labels.astype(np.int8) - 1, test_images, test_labels)
    code, _, err = run(capsys, "train", "d")
    assert code == BAD_INPUT
    row = int((test_labels == 9).argmax())
    expected = f"got '9' in row {row}, expected one of the classes -1, 0, 1, 2, 3, 4, 5, 6, 7, 8"
    assert err == f"fastnn: d: column 'label': {expected}\n"


def test_nan_in_images_is_refused(capsys, folder):
    images, labels, test_images, test_labels = digits(rows=50)
    broken = images.astype(np.float32)
    broken[3, 0, 0] = np.nan
    write_idx_dir(folder / "d", broken, labels, test_images.astype(np.float32), test_labels)
    code, _, err = run(capsys, "train", "d", *SMALL)
    assert code == BAD_INPUT
    assert err == "fastnn: d: got nan in row 3, column 0 of the inputs, expected finite numbers\n"
    assert not (folder / "fastnn-model.safetensors").exists()


def test_help_names_every_option_and_has_examples(capsys):
    code, out, err = run(capsys, "train", "--help")
    assert (code, err) == (0, "")
    options = "target task columns ignore categorical validation test stream-from temp loss layers activation"
    options += " dropout l1 l2 l1-mode"
    options += " optimizer lr schedule decay decay-every warmup"
    options += " epochs batch-size patience seed threads dtype output plot no-plot quiet json"
    for option in options.split():
        assert f"--{option} " in out.replace("\n", " ").replace("]", " "), option
    assert "fastnn train mnist/" in out
    assert "{}" not in out
    for command in ("evaluate", "predict", "info", "export"):
        assert "MODEL" in run(capsys, command, "--help")[1]
    assert "fastnn predict fastnn-model.safetensors" in run(capsys, "--help")[1]


@pytest.mark.parametrize("block", [module.EXAMPLES for module in (cli, train, evaluate, predict, export)])
def test_examples_of_the_help_are_understood(block):
    commands = [line.split("   ")[0].split("|")[0].split() for line in map(str.strip, block.splitlines())]
    commands = [words[1:] for words in commands if words[:1] == ["fastnn"] and "--help" not in words]
    assert len(commands) >= 2
    for words in commands:
        assert cli.make_parser().parse_args(words).run


# ----------------------------------------------------------------------------------------------- predict


def test_predict_reads_all_kinds(capsys, folder, model_file):
    _, _, x, _ = fastnn.load_digits()
    x = x[:20]
    expected = "".join(f"{label}\n" for label in fastnn.load(model_file).predict_class(x))
    np.save("a.npy", x)
    np.savez("b.npz", x=x, y=np.zeros(3))
    np.savez_compressed("c.npz", rows=x.astype(np.float32))
    np.savetxt("d.csv", x, fmt="%d", delimiter=",")
    np.savetxt("e.csv", x, delimiter=";", header=";".join(f"p{i}" for i in range(64)), comments="")
    np.savetxt("f.txt", x, fmt="%.3f")
    (folder / "g-idx3-ubyte").write_bytes(idx(x.reshape(-1, 8, 8)))
    (folder / "h.gz").write_bytes(gzip.compress(idx(x.reshape(-1, 8, 8))))
    (folder / "i.csv").write_bytes(b"\xef\xbb\xbf" + (folder / "d.csv").read_bytes())
    for path in sorted(folder.iterdir()):
        assert run(capsys, "predict", model_file, path.name) == (0, expected, ""), path.name


def test_predict_one_sample(capsys, model_file):
    _, _, x, _ = fastnn.load_digits()
    np.save("flat.npy", x[0])
    np.savetxt("column.txt", x[0])
    np.savetxt("row.csv", x[:1], delimiter=",")
    for name in ("flat.npy", "column.txt", "row.csv"):
        assert run(capsys, "predict", model_file, name)[1] == f"{fastnn.load(model_file).predict_class(x[:1])[0]}\n"


def test_predict_proba_and_output(capsys, folder, model_file):
    _, _, x, _ = fastnn.load_digits()
    np.save("x.npy", x)
    model = fastnn.load(model_file)
    code, out, _ = run(capsys, "predict", model_file, "x.npy", "--proba")
    printed = np.array([line.split(",") for line in out.splitlines()], np.float32)
    assert code == 0
    np.testing.assert_array_equal(printed, model.predict_proba(x), "all digits of a float32 are printed")
    np.testing.assert_allclose(printed.sum(axis=1), 1.0, rtol=1e-5)
    for name in ("p.npy", "p.csv"):
        assert run(capsys, "predict", model_file, "x.npy", "--proba", "--output", name) == (0, "", "")
    np.testing.assert_array_equal(np.load("p.npy"), model.predict_proba(x))
    assert (folder / "p.csv").read_text() == out
    run(capsys, "predict", model_file, "x.npy", "--output", "c.npy")
    np.testing.assert_array_equal(np.load("c.npy"), model.predict_class(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predict_values(capsys, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    model = fastnn.Sequential([fastnn.Dense(2, "tanh")], "squared_error", dtype=dtype, input_size=3)
    model.save("values.safetensors")
    np.save("x.npy", x)
    code, out, _ = run(capsys, "predict", "values.safetensors", "x.npy")
    assert code == 0
    printed = np.array([line.split(",") for line in out.splitlines()], dtype)
    np.testing.assert_array_equal(printed, model.predict(x))
    code, _, err = run(capsys, "predict", "values.safetensors", "x.npy", "--proba")
    assert code == BAD_INPUT
    assert err == "fastnn: --proba: the model's loss is squared_error, which has no probabilities\n"


def test_predict_two_way_classes(capsys):
    model = fastnn.Sequential([fastnn.Dense(1)], "binary_cross_entropy", input_size=3)
    model.save("binary.safetensors")
    x = np.random.default_rng(0).normal(size=(9, 3))
    np.save("x.npy", x)
    assert run(capsys, "predict", "binary.safetensors", "x.npy")[1].split() == [str(c) for c in model.predict_class(x)]


BAD_DATA = {
    "narrow.csv": (b"1,2,3\n", "got 3 inputs a row (shape (1, 3)), expected 64"),
    "word.csv": (b"1,2,three\n", "could not convert string 'three'"),
    "ragged.csv": (b"1,2\n3\n", "the number of columns changed from 2 to 1 at row 2, expected rows of numbers"),
    "empty.csv": (b"", "got no numbers, expected rows of them"),
    "header.csv": (b"a,b\n", "got no numbers, expected rows of them"),
    "nan.csv": (b"nan," * 63 + b"1\n", "got nan in row 0, column 0, expected finite numbers"),
    "noise": (b"\xff\xfe\xfd\xfc" * 9, "got bytes of no known kind"),
    "short-idx": (idx(np.zeros((4, 8, 8), np.uint8))[:100], "which is cut short"),
    "cut.npz": (b"PK\x03\x04" + b"\0" * 40, "got a damaged file"),
    "cut.npy": (b"\x93NUMPY\x01\x00v\x00{'descr'", "EOF"),
}


@pytest.mark.parametrize("name", [*BAD_DATA, "objects.npy", "pair.npz", "missing.npy", "folder"])
def test_bad_data_is_one_sentence(capsys, folder, model_file, name):
    message = {"objects.npy": "Object arrays", "pair.npz": "got arrays a, b, expected one, or one named x"}.get(
        name, ""
    )
    if name in BAD_DATA:
        content, message = BAD_DATA[name]
        (folder / name).write_bytes(content)
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.savez("pair.npz", a=np.zeros(3), b=np.zeros(3))
    (folder / "folder").mkdir()
    code, out, err = run(capsys, "predict", model_file, name)
    assert (code, out) == (BAD_INPUT, "")
    assert err.startswith(f"fastnn: {name}: ")
    assert message in err or name == "cut.npy"
    assert err.count("\n") == 1
    assert "check_finite" not in err


def test_a_reader_that_has_enough_is_no_error(folder, model_file):
    np.save(folder / "x.npy", np.zeros((20_000, 64), np.uint8))
    with process("predict", model_file, folder / "x.npy", "--proba", cwd=folder) as reading:
        assert reading.stdout.readline().count(",") == 9
        reading.stdout.close()
        assert without_notice(reading.stderr.read()) == ""
        assert reading.wait(timeout=120) == FAILED


def test_training_goes_on_where_nobody_reads_of_it(folder):
    options = ("--layers", "4", "--epochs", "3000", "--threads", "1", "--no-plot", "--validation", "0")
    with process("train", *options, cwd=folder, program=("-u", "-m", "fastnn")) as training:
        training.stdout.readline()
        training.stdout.close()
        assert without_notice(training.stderr.read()) == ""
        assert training.wait(timeout=120) == 0
    assert fastnn.load(folder / "fastnn-model.safetensors").epoch == 3000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("command", [("info",), ("info", "--json"), ("train", *SMALL, "--no-plot", "--json")])
def test_a_full_stdout_is_one_sentence(folder, model_file, command):
    given = [model_file] if command[0] == "info" else []
    root = str(pathlib.Path(fastnn.__file__).parents[1])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastnn", command[0], *given, *command[1:]],
            env={**os.environ, "PYTHONPATH": root}, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert without_notice(done.stderr) == "fastnn: stdout: cannot be written: No space left on device\n"
    assert done.returncode == FAILED
    assert (folder / "fastnn-model.safetensors").exists() == (command[0] == "train")


def test_stdout_of_few_characters(folder, monkeypatch):
    """Words that it has not are escaped; JSON stays JSON."""
    names = ("\u6771\u4eac", "\U0001f600")
    model = fastnn.Sequential([fastnn.Dense(2)], "cross_entropy", input_size=3)
    model.preparation = Preparation((), Classes("y", names))
    model.save("m")
    np.save("x.npy", np.eye(3))
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    for extra in ((), ("--json",)):
        with process("predict", "m", "x.npy", *extra, cwd=folder) as predicting:
            out, err = predicting.communicate(timeout=120)
        assert (predicting.returncode, without_notice(err)) == (0, "")
        if extra:
            assert set(json.loads(out)["predictions"]) <= set(names)
        else:
            assert set(out.split()) <= {"\\u6771\\u4eac", "\\U0001f600"}


@needs_matplotlib
def test_a_picture_that_cannot_be_written_takes_nothing_with_it(capsys, folder):
    (folder / "m.png").mkdir()
    code, out, err = run(capsys, "train", *SMALL, "--json", "--output", "m.safetensors")
    assert json.loads(out)["plot"] is None
    assert (code, err) == (FAILED, "fastnn: m.png: cannot be written: Is a directory\n")


def test_text_that_is_no_utf_8(capsys, folder, model_file):
    row = b"0," * 63 + b"0\n"
    (folder / "late.txt").write_bytes(row * 1000 + "é\n".encode("latin-1"))
    code, _, err = run(capsys, "predict", model_file, "late.txt")
    assert (code, err.count("\n")) == (BAD_INPUT, 1)
    assert "UTF-8" in err


# --------------------------------------------------------------------------------------- info, and the rest


def test_info(capsys, model_file):
    code, out, err = run(capsys, "info", model_file)
    assert (code, err) == (0, "")
    model = fastnn.load(model_file)
    assert out.startswith(model.summary())
    lines = out.splitlines()
    assert "loss        cross_entropy" in lines
    assert "optimizer   Adam(lr=Cosine(lr=0.002, steps=3, final=0.0, unit='epoch'))" in lines
    assert "numbers     float32, seed 0" in lines
    assert f"trained     3 epochs, {3 * 41} steps" in lines
    val_loss = model.history.history["val_loss"][-1]
    assert lines[-1].startswith("last epoch  3: loss ")
    assert f"val_loss {val_loss:.4g}" in lines[-1]


def test_info_of_a_model_that_was_never_trained(capsys):
    optimizer = fastnn.RMSprop(0.1, momentum=0.5)
    fastnn.Sequential([fastnn.Dense(2)], "squared_error", optimizer, input_size=3, seed=9).save("new")
    code, out, _ = run(capsys, "info", "new")
    assert code == 0
    assert "optimizer   RMSprop(lr=0.1, momentum=0.5)" in out
    assert "trained     0 epochs, 0 steps" in out
    assert "last epoch" not in out


def test_python_dash_m():
    with process("--version") as run:
        assert run.communicate(timeout=120) == (f"fastnn {fastnn.__version__}\n", "")
    assert run.returncode == 0


def test_the_entry_point_is_declared():
    project = pathlib.Path(__file__).parents[1] / "pyproject.toml"
    assert 'fastnn = "fastnn.cli:main"' in project.read_text()


MNIST = pathlib.Path(
    os.environ.get("FASTNN_MNIST_DIR") or pathlib.Path(__file__).parents[2] / "shared" / "data" / "mnist"
)


@pytest.mark.slow
@pytest.mark.skipif(not any(MNIST.glob("train-images*")), reason="MNIST is not here; set FASTNN_MNIST_DIR")
def test_mnist_reaches_98_percent(capsys):
    """784-256-128-10, within 10 epochs, by the options' defaults."""
    code, out, _ = run(capsys, "train", MNIST, "--json", "--no-plot")
    result = json.loads(out)
    assert code == 0
    assert result["test_accuracy"] >= 0.98
    assert result["epochs"] <= 10
    assert result["parameters"] == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10


def test_a_device_that_is_not_there_is_refused_before_training(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastnn.cuda.missing", lambda: "no CUDA device can be used")
    assert main(["train", "--device", "cuda", "--epochs", "1"]) == 2
    assert "--device: got 'cuda', but no CUDA device can be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_cannot_be_had_is_refused_before_training(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for options, text in (
        ([], "got 'tf32' with device='cpu', expected 'float32'"),
        (["--device", "cuda"], "got 'tf32', but "),  # the simulator has no cuBLAS
    ):
        monkeypatch.setattr("fastnn.cuda.missing", lambda: "")
        monkeypatch.setattr("fastnn.cuda._cublas.missing", lambda precision: "cuBLAS cannot be used")
        assert main(["train", "--matmul-precision", "tf32", *options, "--epochs", "1"]) == 2
        assert f"--matmul-precision: {text}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bench_trains_the_networks_of_the_benchmarks():
    for own in bench.WORKLOADS:
        other = cases.WORKLOADS[own.name]
        assert (own.sizes[:-1], own.batch, own.activation) == (other.sizes[:-1], other.batch, other.activation)
        assert own.rows <= other.rows
