"""Checkpoints and what can happen to them: resuming, damaged files, full disks, Ctrl-C and kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time

import numpy as np
import pytest
import tqdm
from support import run_python, through, training_state

import fastnn
from fastnn import Callback, Checkpoint, Dense, Dropout, EarlyStopping, ModelFileError, Sequential, saving

pytestmark = pytest.mark.usefixtures("one_thread")

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = X[:, :3].argmax(axis=1)


def build(**settings):
    rate = fastnn.Warmup(fastnn.ReduceOnPlateau(0.05, 0.5, patience=0), steps=9)
    arguments = {"loss": "cross_entropy", "optimizer": fastnn.Adam(rate, amsgrad=True), "seed": 2, **settings}
    return Sequential([Dense(6, "gelu"), Dropout(0.3), Dense(3)], **arguments)


def fit(model, epochs, *callbacks, **arguments):
    model.fit(X, Y, epochs=epochs, batch_size=7, validation_split=0.25, callbacks=callbacks, **arguments)
    return model


class Break(Callback):
    """Interrupts training as an epoch begins, or in its middle: its first steps are taken, and lost."""

    def __init__(self, epoch, middle=False):
        self.epoch, self.middle = epoch, middle

    def on_epoch_begin(self, epoch):
        if epoch == self.epoch:
            if self.middle:
                self.model.train_on_batch(X, Y)
            raise KeyboardInterrupt


class Memory(Callback):
    """Keeps numbers and arrays of its own."""

    def reset(self):
        self.seen, self.counts = [], np.zeros((2, 3), np.int64)

    def on_epoch_end(self, epoch, logs):
        self.seen.append(logs["loss"])
        self.counts += epoch

    def state(self):
        return {"seen": list(self.seen), "counts": self.counts.copy()}

    def restore(self, state):
        self.seen, self.counts = list(state["seen"]), np.array(state["counts"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def numbered(*epochs):
    return [f"epoch-{epoch:06}.safetensors" for epoch in epochs]


# --------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("middle", [False, True])
def test_epochs_counts_from_where_the_interrupted_call_began(middle, tmp_path):
    """Which need not be the model's first epoch."""

    def callbacks(folder):
        best = Checkpoint(tmp_path / "best" / folder / "m.safetensors", save_best_only=True)
        return Checkpoint(tmp_path / folder), best, EarlyStopping(patience=9), Memory()

    whole = fit(fit(build(), 2), 6, *callbacks("whole"))
    assert whole.epoch == 8
    with pytest.raises(KeyboardInterrupt):
        fit(fit(build(), 2), 6, *callbacks("parts"), Break(5, middle), resume=tmp_path / "parts")
    resumed = fit(build(), 6, *callbacks("parts"), resume=tmp_path / "parts")
    assert training_state(resumed) == training_state(whole)
    assert names(tmp_path / "parts") == names(tmp_path / "whole") == numbered(*range(3, 9))
    best = [fastnn.load(tmp_path / "best" / folder / "m.safetensors") for folder in ("whole", "parts")]
    assert training_state(best[0]) == training_state(best[1])
    fit(resumed, 6, *callbacks("parts"), resume=tmp_path / "parts")
    assert resumed.epoch == 8, "nothing was left to train"
    fit(resumed, 1, resume=None)
    assert resumed.epoch == 9, "an ordinary call trains epochs of its own"


def test_what_early_stopping_ended_stays_ended(tmp_path):
    """Resumed behind its last epoch, the model goes back to the best weights, and no epoch is trained."""

    def callbacks():
        return EarlyStopping(patience=1, min_delta=9.0), Checkpoint(tmp_path / "c")

    whole = fit(build(), 9, *callbacks())
    assert whole.epoch == 2
    resumed = fit(build(), 9, *callbacks(), resume=tmp_path / "c")
    assert training_state(resumed) == training_state(whole)


def test_best_model_is_saved_before_the_checkpoint_that_remembers_it(tmp_path, monkeypatch):
    """Or a process that is killed between the two would never save it."""
    saved = []
    monkeypatch.setattr(saving, "write_atomically", lambda path, *contents: saved.append(path.name))
    best = Checkpoint(tmp_path / "best.safetensors", save_best_only=True)
    fit(build(), 1, Checkpoint(tmp_path), best)
    assert saved == ["best.safetensors", *numbered(1)]


def test_a_first_start_has_nothing_to_resume(tmp_path):
    (tmp_path / "empty").mkdir()
    plain = fit(build(), 2)
    for folder in ("missing", "empty", "missing.d/"):
        assert training_state(fit(build(), 2, resume=f"{tmp_path}/{folder}")) == training_state(plain)
        assert fastnn.latest_checkpoint(f"{tmp_path}/{folder}") is None


def test_a_file_that_is_named_must_be_there(tmp_path):
    model = fit(build(), 1)
    before = training_state(model)
    with pytest.raises(FileNotFoundError, match=r"resume: got .*m\.safetensors.* expected a checkpoint"):
        fit(model, 2, resume=tmp_path / "m.safetensors")
    with pytest.raises(TypeError, match=r"resume: got True \(bool\), expected a path"):
        fit(model, 2, resume=True)
    assert training_state(model) == before
    model.save(tmp_path / "m.safetensors")
    assert fit(build(), 3, resume=tmp_path / "m.safetensors").epoch == 3


def test_a_checkpoint_that_makes_room_for_a_newer_one_while_it_is_looked_at(tmp_path, monkeypatch):
    fit(build(), 2, Checkpoint(tmp_path, keep=1))
    old, new = tmp_path / numbered(2)[0], tmp_path / numbered(3)[0]
    load = saving.load

    def load_late(kind, path, *more):
        if path == old:  # what another process does meanwhile
            old.rename(new)
        return load(kind, path, *more)

    monkeypatch.setattr(saving, "load", load_late)
    assert fastnn.latest_checkpoint(tmp_path) == new


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    whole = fit(build(), 5, Checkpoint(tmp_path))
    newest, older = tmp_path / numbered(5)[0], tmp_path / numbered(4)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"epoch-000005.*took .*epoch-000004"):
        assert fastnn.latest_checkpoint(tmp_path) == older
    with pytest.warns(UserWarning, match=r"epoch-000005.*took .*epoch-000004"):
        resumed = fit(build(), 5, Checkpoint(tmp_path), resume=tmp_path)
    assert training_state(resumed) == training_state(whole)
    assert fastnn.latest_checkpoint(tmp_path) == newest, "it was written anew"
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="no checkpoint that loads"):
        fit(build(), 5, resume=tmp_path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("seed", {"seed": 3}), ("optimizer", {"optimizer": "adam"}), ("dtype", {"dtype": "float64"}), ("l2", {"l2": 0.1})],
)
def test_a_checkpoint_of_another_model_is_refused(name, settings, tmp_path):
    fit(build(), 1, Checkpoint(tmp_path))
    model = build(**settings)
    with pytest.raises(ValueError, match=rf"resume: got .*epoch-000001.* with {name}=.*expected .*as the model has"):
        fit(model, 1, resume=tmp_path)
    with pytest.raises(ValueError, match="no weights yet"):
        model.get_weights()
    assert fit(build(n_threads=1), 1, resume=tmp_path).epoch == 1, "threads may differ: the bits do not"


# --------------------------------------------------------------------------------------------- what is kept


def test_the_last_ones_are_kept_and_others_left_alone(tmp_path):
    for name in ("best.safetensors", "notes.txt", "other-000001.safetensors"):
        (tmp_path / name).write_text("mine")
    stale = [".epoch-000003.safetensors.abc.part", ".other.safetensors.abc.part"]
    for name in stale:
        (tmp_path / name).write_text("half")
    fit(build(), 12, Checkpoint(tmp_path, keep=2, every=3))
    mine = ["best.safetensors", "notes.txt", "other-000001.safetensors"]
    assert names(tmp_path) == sorted([*mine, *numbered(9, 12), stale[1]])
    fit(build(), 12, Checkpoint(tmp_path, keep=1, every=3), resume=tmp_path)  # as if killed before it was removed
    assert names(tmp_path) == sorted([*mine, *numbered(12), stale[1]])
    fit(build(), 2, Checkpoint(tmp_path / "new" / "run-{epoch}.safetensors", keep=1))
    assert names(tmp_path / "new") == ["run-2.safetensors"]
    with pytest.raises(ValueError, match=r"keep: got 2 for the file .*m\.safetensors, expected"):
        Checkpoint(tmp_path / "m.safetensors", keep=2)


def test_folders_named_like_checkpoints_are_none(tmp_path):
    folders = [".epoch-000001.safetensors.abc.part", *numbered(0, 9)]
    for name in folders:
        (tmp_path / name).mkdir()
    fit(build(), 2, Checkpoint(tmp_path, keep=1))
    assert names(tmp_path) == sorted([*folders, *numbered(2)])
    assert fastnn.latest_checkpoint(tmp_path).name == numbered(2)[0]
    assert fit(build(), 3, resume=tmp_path).epoch == 3


def test_numbers_are_compared_as_numbers(tmp_path):
    fit(build(), 11, Checkpoint(tmp_path / "run-{epoch}.safetensors", keep=3))
    assert names(tmp_path) == ["run-10.safetensors", "run-11.safetensors", "run-9.safetensors"]
    assert fastnn.latest_checkpoint(tmp_path).name == "run-11.safetensors"


def test_a_folder_of_a_longer_training_is_noticed(tmp_path):
    fit(build(), 3, Checkpoint(tmp_path))
    with pytest.warns(UserWarning, match=r"path: .*epoch-000003.* later epoch than the model's, 0"):
        fit(build(), 1, Checkpoint(tmp_path, keep=1))
    assert names(tmp_path) == numbered(1, 2, 3), "what it did not write is left alone"


def test_a_checkpoint_every_so_many_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(fastnn.callbacks.time, "monotonic", lambda: next(clock))
    fit(build(), 9, Checkpoint(tmp_path, every_seconds=12))
    assert names(tmp_path) == numbered(3, 6, 9)


# --------------------------------------------------------------------------------------------- faults


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []

    def noted(name, function):
        def call(*arguments):
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("fsync of the folder" if folder else name)
            return function(*arguments)

        monkeypatch.setattr(os, name, call)

    noted("fsync", os.fsync)
    noted("replace", os.replace)
    build(input_size=5).save(tmp_path / "m.safetensors")
    assert done == ["fsync", "replace", "fsync of the folder"]


@contextlib.contextmanager
def limit(folder):
    """No file may become longer than so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield "File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def full(folder):
    """Nothing is left of the disk."""
    filler = folder / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"1" * 2**20)
    yield "No space left on device"
    filler.unlink()


@pytest.mark.parametrize("fault", [limit, full])
def test_a_disk_that_takes_no_more(fault, tmp_path, small_disk):
    """The system itself refuses to write: what was learned, and what was saved, is all there."""
    folder = tmp_path / "c" if fault is limit else small_disk()
    model = fit(build(), 1, Checkpoint(folder, keep=1))
    kept = (folder / numbered(1)[0]).read_bytes()
    with fault(folder) as message, pytest.raises(OSError, match=rf"{message}: '.*epoch-000002\.safetensors'"):
        fit(model, 3, Checkpoint(folder, keep=1))
    assert names(folder) == numbered(1)
    assert (folder / numbered(1)[0]).read_bytes() == kept
    assert (model.epoch, model.history.epoch) == (2, [0, 1])
    fit(model, 1, Checkpoint(folder))
    assert training_state(model) == training_state(fit(build(), 3, Checkpoint(tmp_path / "other")))


@pytest.fixture
def small_disk(tmp_path):
    """A function that returns the folder of a disk of 64 KB, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount():
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("cannot mount a small disk")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_was_removed(tmp_path):
    folder = tmp_path / "c"

    class Remove(Callback):
        def on_epoch_end(self, epoch, logs):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    model = build()
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/c/epoch-000001\.safetensors'"):
        fit(model, 3, Checkpoint(folder), Remove())
    assert (model.epoch, model.history.epoch) == (1, [0])
    assert training_state(fit(model, 2, Checkpoint(folder))).items() >= {"epoch": 3}.items()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_that_must_not_be_written():
    """Said before anything is trained."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders cannot be entered by another user
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            model = build()
            with pytest.raises(PermissionError, match=folder):
                fit(model, 1, Checkpoint(folder))
            assert model.step == 0
            with pytest.raises(PermissionError, match=rf"{folder}/m\.safetensors"):
                build(input_size=5).save(f"{folder}/m.safetensors")
        finally:
            os.seteuid(user)
        assert os.listdir(folder) == []


def test_a_best_model_that_could_not_be_saved_is_not_the_best(tmp_path, monkeypatch):
    """Or no later one would be saved before it is better still."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    best = Checkpoint(tmp_path / "best.safetensors", save_best_only=True)
    monkeypatch.setattr(saving, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(build(), 1, best)
    assert best.best == np.inf


# --------------------------------------------------------------------------------------------- Ctrl-C

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")

MARGIN_SECONDS = 5.0
"""What is promised is one second; the machine may be busy."""


class Interrupt:
    """Sends SIGINT to this process a moment after it is told to, and measures from there."""

    def __init__(self):
        self.at = None

    def soon(self):
        if self.at is None:
            self.at = time.monotonic() + 0.05
            timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
            timer.start()

    def ends(self, call):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert time.monotonic() - self.at < MARGIN_SECONDS


@pytest.fixture
def interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Interrupt()
    signal.signal(signal.SIGINT, before)


def usable(model):
    """It can be used, saved and trained on."""
    assert np.isfinite(model.predict(X)).all()
    epoch = model.epoch
    assert fit(model, 1).epoch == epoch + 1


def long_work(rows):
    """Return a model, and samples; rows that are all one row take no memory."""
    model = fit(Sequential([Dense(600, "gelu"), Dense(600, "gelu"), Dense(3)], "cross_entropy"), 1)
    x = np.lib.stride_tricks.as_strided(np.zeros(5, np.float32), (rows, 5), (0, 4))
    return model, x, np.zeros(rows, np.int64)


@needs_signals
def test_ctrl_c_in_training(interrupt):
    """An epoch takes half a minute."""
    model, x, y = long_work(400_000)

    def watched(train, *arguments):
        interrupt.soon()
        train(*arguments)

    back = through(model.runtime, watched)
    interrupt.ends(lambda: model.fit(x, y, epochs=1, shuffle=False))
    back()
    assert model.epoch == 1
    usable(model)


@needs_signals
def test_ctrl_c_in_validation(interrupt):
    """A pass over it takes half a minute."""
    model, x, y = long_work(2_000_000)
    forward = model.runtime.forward

    def watched(*arguments):
        interrupt.soon()
        forward(*arguments)

    model.runtime.forward = watched
    interrupt.ends(lambda: model.fit(X, Y, epochs=1, validation_data=(x, y)))
    del model.runtime.forward
    assert (model.epoch, model.step) == (1, 7)
    usable(model)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that nobody got is closed later
@pytest.mark.parametrize("place", ["open", "fsync", "replace"])
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_while_saving(place, after, interrupt, tmp_path, monkeypatch):
    model = fit(build(), 1, Checkpoint(tmp_path))
    function = open if place == "open" else getattr(os, place)

    def interrupted(*arguments):
        result = function(*arguments) if after else None
        interrupt.at = time.monotonic()
        signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(saving if place == "open" else os, place, interrupted, raising=False)
        interrupt.ends(lambda: fit(model, 9, Checkpoint(tmp_path)))
    assert names(tmp_path) == numbered(*range(1, 3 if (place, after) == ("replace", True) else 2))
    for path in tmp_path.iterdir():
        fastnn.load(path)
    assert model.epoch == 2
    usable(model)


def test_ctrl_c_while_the_history_is_written(tmp_path):
    """Half an epoch in it would make a model that is saved, but never loads."""

    class Interrupting(float):
        def __float__(self):
            raise KeyboardInterrupt

    class Log(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["accuracy"] = Interrupting(1.0) if epoch == 2 else 1.0

    model = build()
    with pytest.raises(KeyboardInterrupt):
        fit(model, 5, Log())
    assert {len(column) for column in model.history.history.values()} == {2}
    model.save(tmp_path / "m.safetensors")
    fastnn.load(tmp_path / "m.safetensors")
    assert fit(model, 1).history.epoch == [0, 1, 3]


@needs_signals
def test_ctrl_c_while_a_stream_is_read(interrupt):
    """A source that does not answer: the network drive of a notebook."""
    release = threading.Event()

    class Slow:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            if rows.start >= 20:
                interrupt.soon()
                release.wait(60)
            return X[rows]

    model = build()
    source = fastnn.stream(Slow(), Y, block_rows=5, buffer_rows=10)
    try:
        interrupt.ends(lambda: model.fit(source, batch_size=5, epochs=1, shuffle=False))
        assert 0 < model.step <= 4
        assert model.epoch == 0
        usable(model)
    finally:
        release.set()


# --------------------------------------------------------------------------------------------- kill -9


def test_a_lock_that_a_killed_process_holds_is_not_waited_for():
    """tqdm's is shared with forked processes, and nobody releases it where one of them is killed."""
    lock, held, done = tqdm.tqdm.get_lock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    fit(build(), 1)
    assert holder.is_alive()
    done.set()
    holder.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_moment():
    """The short form of ``python -m tests.kill --moments 200``."""
    answer = run_python("import sys, kill; kill.main(sys.argv[1:])", "--moments", "6", "--seed", "4")
    assert "6  killed; each time the newest checkpoint loaded, and the bits were the same in the end" in answer
