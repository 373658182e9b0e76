"""What the soak test complains about, on windows made up and on real ones."""

from __future__ import annotations

import copy
import gc
import itertools
import mmap
import sys
import sysconfig
import threading
import time
import weakref

import numpy as np
import pytest
import soak
from soak import GRAIN, Window, complaints

import fastnn

QUIET = [Window(60.0 * i, 10, 200 << 20, 12, 5, 0.020, 0.010) for i in range(1, 61)]


def with_column(name, value):
    """Return the windows with the numbers ``value(i, old)`` in one column."""
    return [window._replace(**{name: value(i, getattr(window, name))}) for i, window in enumerate(QUIET)]


def test_nothing_grew():
    assert complaints(QUIET) == []


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("resident", lambda i, old: old + i * (256 << 10), "memory grew from 203.6 to 212.6 MB"),
        ("resident", lambda i, old: old + (8 << 20 if i >= 40 else 0), "memory grew from 200.0 to 208.0 MB"),
        ("files", lambda i, old: old + i // 10, "files grew from 13 to 17"),
        ("threads", lambda i, old: old + (i >= 30), "threads grew from 5 to 6"),
        ("fit", lambda i, old: old * (1 + i / 120), "the CPU time of fit went from"),
        ("predict", lambda i, old: old * (1.2 if i > 40 else 1), "the CPU time of predict went from 10.00 to 12.00 ms"),
    ],
    ids=["memory creeps", "memory jumps", "files", "threads", "fit", "predict"],
)
def test_what_grows_or_slows_down_is_told(column, value, said):
    found = complaints(with_column(column, value))
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("resident", lambda i, old: old + (90 << 20 if i < 6 else 100 << 20)),  # caches fill in the first tenth
        ("resident", lambda i, old: old + (i % 2) * (20 << 20)),
        ("resident", lambda i, old: old + (GRAIN - 1 if i > 30 else 0)),
        ("resident", lambda i, old: old - i * (1 << 20)),
        ("files", lambda i, old: old + (i % 7 == 3)),
        ("threads", lambda i, old: old - (i > 30)),
        ("fit", lambda i, old: 50.0 if i < 3 else old),  # the first calls are compiled
        ("fit", lambda i, old: old * (10.0 if i % 5 == 4 else 1)),
        ("predict", lambda i, old: old * (1.14 if i > 30 else 1)),
    ],
)
def test_what_comes_and_goes_is_not(column, value):
    assert complaints(with_column(column, value)) == []


def test_large_programs_may_grow_by_a_hundredth():
    large = [window._replace(resident=(4 << 30) + (40 << 20 if i > 30 else 0)) for i, window in enumerate(QUIET)]
    assert complaints(large) == []
    larger = [window._replace(resident=(4 << 30) + (42 << 20 if i > 30 else 0)) for i, window in enumerate(QUIET)]
    assert len(complaints(larger)) == 1


def test_all_that_went_wrong_is_told():
    broken = [w._replace(resident=w.resident + (i << 20), files=i, threads=i, fit=1 + i, predict=1 + i)
              for i, w in enumerate(QUIET)]  # fmt: skip
    assert [complaint.split()[0] for complaint in complaints(broken)] == ["memory", "files", "threads", "the", "the"]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_windows_are_compared_as_well(count):
    assert complaints(QUIET[:count]) == []
    assert (complaints(with_column("files", lambda i, old: old + i)[:count]) != []) == (count > 1)


class Leaking:
    """Work of which nothing is given back and that takes longer every time; `leaks` names what is wrong with it."""

    leaks: frozenset[str] = frozenset()

    def __init__(self, folder):
        self.folder, self.kept, self.turns = folder, [], {"fit": 0, "predict": 0}
        self.end = threading.Event()

    def begin(self):
        pass

    def take(self, name):
        """Take 1 ms of CPU time, or a tenth of that more each time."""
        self.turns[name] += name in self.leaks
        until = time.thread_time() + 1e-3 * (1 + 0.1 * self.turns[name])
        while time.thread_time() < until:
            pass

    def fit(self):
        self.take("fit")

    def predict(self):
        self.take("predict")

    def checkpoints(self):
        if "files" in self.leaks:
            self.kept.append((self.folder / "file").open("w"))

    def stream(self):
        if "memory" in self.leaks:
            self.kept.append(mmap.mmap(-1, 8 << 20))  # a heap may have had the room before
            self.kept[-1].write(bytes(8 << 20))

    def shapes(self):
        if "threads" in self.leaks:
            self.kept.append(threading.Thread(target=self.end.wait))
            self.kept[-1].start()

    def threads(self):
        pass

    def refused(self):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("leak", ["memory", "files", "threads", "fit", "predict", None])
def test_work_that_leaks_is_found(leak, monkeypatch):
    works = []

    class Work(Leaking):
        leaks = frozenset({leak})

        def __init__(self, folder):
            super().__init__(folder)
            works.append(self)

    monkeypatch.setattr(soak, "Work", Work)
    monkeypatch.setattr(soak, "SLOWER", 0.5)  # a millisecond is less steady than what is timed otherwise
    try:
        found = complaints(list(itertools.islice(soak.windows(60.0, 0.005), 12)))
    finally:
        for work in works:
            work.end.set()
            for kept in work.kept:
                if isinstance(kept, threading.Thread):
                    kept.join()
                elif leak == "files":
                    kept.close()
    said = {"fit": "the CPU time of fit", "predict": "the CPU time of predict", None: "nothing"}.get(leak, leak)
    assert any(complaint.startswith(said) for complaint in found) == bool(found) == (leak is not None), found
    if leak != "threads" or not sysconfig.get_config_var("Py_GIL_DISABLED"):  # there each has a heap of its own
        assert len(found) <= 1, found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_windows_are_measured():
    """One round of all kinds of work."""
    seen = list(soak.windows(0.1, 0.1))
    assert len(seen) == 1
    (window,) = seen
    assert window.rounds == 1
    assert window.end > 0.1
    assert window.resident > 20 << 20
    assert window.files >= 3
    assert window.threads >= 1
    assert window.predict > 0
    assert 0 < window.fit < window.end


USES = {
    "predict": lambda model, x, y: (model.predict(x[:1]), model.predict(x)),
    "fit": lambda model, x, y: model.fit(x, y, epochs=1, validation_split=0.5),
    "callbacks": lambda model, x, y: model.fit(x, y, epochs=1, callbacks=[fastnn.EarlyStopping("loss")]),
    "calls": lambda model, x, y: (model.train_on_batch(x, y), model.gradients(x, y), model.layer_outputs(x)),
    "copies": lambda model, x, y: (model.clone(), copy.deepcopy(model)),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_is_gone_with_its_name(use):
    """Python looks for cycles where there are many objects, not where a few are large."""
    x, y = np.ones((200, 3), np.float32), np.ones(200, np.float32)
    model = fastnn.Sequential([fastnn.Dense(4), fastnn.Dense(1)], "squared_error", input_size=3)
    gone = [weakref.ref(model), weakref.ref(model.runtime), weakref.ref(model.parameters_vector().base)]
    gc.disable()
    try:
        USES[use](model, x, y)
        del model
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_a_fit_keeps_no_data():
    x = np.ones((200, 3), np.float32)
    model = fastnn.Sequential([fastnn.Dense(1)], "squared_error", input_size=3)
    before = sys.getrefcount(x)
    model.fit(x, x[:, :1], epochs=1, callbacks=[fastnn.EarlyStopping("loss")])
    assert sys.getrefcount(x) == before


def test_a_stream_is_gone_with_its_name():
    """With the arrays and files that it reads."""
    x, y = np.ones((200, 3), np.float32), np.ones(200, np.float32)
    model = fastnn.Sequential([fastnn.Dense(1)], "squared_error", input_size=3)
    gc.disable()
    try:
        stream = fastnn.stream(x, target=y, buffer_rows=50)
        gone = [weakref.ref(stream), weakref.ref(x), weakref.ref(y)]
        model.fit(stream, epochs=1, validation_split=0.5)
        model.predict(stream)
        del stream, x, y
        assert [each() is None for each in gone] == [True] * len(gone)
    finally:
        gc.enable()
