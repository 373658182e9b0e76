"""Kill training with SIGKILL at random moments, and see what is left: ``python -m tests.kill --moments 200``.

Half of the moments are chosen by the clock, half by a place: the process kills itself before the n-th thing that saving
does to the disk. After each, the newest checkpoint must load and be as new as the last that was saved; then training is
resumed (and perhaps killed again), and must end with the bits of training that was left alone. It says how many moments
fell into which phase, and ends with 1 where anything was wrong. Needs os.fork.

``--interrupt`` sends SIGINT instead, and wants KeyboardInterrupt, a model that can be used, and no half-written file.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import mmap
import os
import pathlib
import random
import signal
import stat
import sys
import tempfile
import time
import traceback
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for python -m tests.kill

import numpy as np
from support import digest

import fastnn
from fastnn import Checkpoint, Dense, Dropout, EarlyStopping, Sequential, saving

PHASES = ("training", "writing", "sync of the file", "renaming", "sync of the folder", "removing an older one")
EPOCHS, KEEP = 9, 2
NEVER = 2**31


HIT = 3
"""The exit status of a process that was interrupted and found all well."""


def train(folder, made=None):
    """Train with everything that has a state, going on from the folder, and return the model, early in `made`."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4000, 7)), rng.integers(0, 3, 4000)
    rate = fastnn.Warmup(fastnn.ReduceOnPlateau(0.05, 0.5, patience=0), steps=30)
    model = Sequential(
        [Dense(30, "gelu"), Dropout(0.2), Dense(3)],
        "cross_entropy",
        fastnn.Adam(rate, amsgrad=True),
        seed=3,
        n_threads=1,
    )
    if made is not None:
        made.append(model)
    callbacks = [
        Checkpoint(folder, keep=KEEP),
        Checkpoint(folder / "best.safetensors", save_best_only=True),
        EarlyStopping(patience=5),
    ]
    model.fit(x, y, epochs=EPOCHS, batch_size=4, validation_split=0.25, callbacks=callbacks, resume=folder)
    return model


class Watch:
    """What a process tells the one that kills it: its phase, its last checkpoint, how often it touched the disk."""

    def __init__(self):
        self._memory = np.frombuffer(mmap.mmap(-1, 48), np.int64)

    phase = property(lambda self: PHASES[int(self._memory[0])])
    saved = property(lambda self: int(self._memory[1]))
    events = property(lambda self: int(self._memory[2]))

    seconds = property(lambda self: self._memory[4] / 1e9)

    def clear(self):
        self._memory[[2, 5]] = 0

    def ready(self):
        self._memory[5] = 1

    def wait(self, seconds):
        """Wait until the process is ready, and some seconds."""
        while not self._memory[5]:
            time.sleep(1e-4)
        time.sleep(seconds)

    def send(self, process, number):
        self._memory[3] = time.monotonic_ns()
        os.kill(process, number)

    @contextlib.contextmanager
    def received(self):
        """Note the time, and keep the phase whatever is done now."""
        self._memory[4] = max(self._memory[4], time.monotonic_ns() - self._memory[3])
        phase = self._memory[0]
        yield
        self._memory[0] = phase

    def install(self, last, number):
        """Watch this process, and send it a signal before it does the `last`-th thing to the disk."""
        memory = self._memory

        def enter(phase):
            memory[0] = PHASES.index(phase)
            memory[2] += 1
            if memory[2] == last + 1:
                self.send(os.getpid(), number)

        def before(phase, function):
            def watched(*arguments, **named):
                enter(phase(*arguments) if callable(phase) else phase)
                return function(*arguments, **named)

            return watched

        def chunks(content, original=saving._chunks):
            for part in original(content):
                enter("writing")
                yield part

        def save(model, path, original=saving.save):
            original(model, path)
            memory[0] = 0
            if path.name.startswith("epoch-"):
                memory[1] = model.epoch

        saving._CHUNK, saving._chunks, saving.save = 1000, chunks, save
        os.replace = before("renaming", os.replace)
        os.fsync = before(lambda file: PHASES[4 if stat.S_ISDIR(os.fstat(file).st_mode) else 2], os.fsync)
        pathlib.Path.unlink = before("removing an older one", pathlib.Path.unlink)


def start(folder, answer, watch, last=NEVER, number=signal.SIGKILL):
    """Train in a process of its own, and return its number."""
    watch.clear()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # a file that was opened as the interrupt came
            signal.signal(signal.SIGINT, signal.default_int_handler)
            watch.install(last, number)
            code = work(folder, answer, watch)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def work(folder, answer, watch):
    made = []
    try:
        watch.ready()
        model = train(folder, made)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        with watch.received():
            assert [*folder.glob(".*")] == []
            if made and made[0].step:
                assert np.isfinite(made[0].predict(np.zeros((3, 7)))).all()
                made[0].fit(np.zeros((3, 7)), [0, 1, 2], epochs=1)
                made[0].save(answer)
                fastnn.load(answer)
        return HIT
    answer.write_text(f"{digest(model)} {digest(fastnn.load(folder / 'best.safetensors'))}")
    return 0


def was_hit(process):
    """Wait for a process and return whether it was killed or interrupted, False where it had finished."""
    status = os.waitpid(process, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, HIT, -signal.SIGKILL):
        raise AssertionError(f"training ended with status {code}")
    return code != 0


def check(folder, watch):
    """Look at what a killed process left: whole files, and the checkpoint that it had saved last, or a newer one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = fastnn.latest_checkpoint(folder)
    for path in folder.glob("[!.]*"):
        fastnn.load(path)
    epoch = 0 if newest is None else fastnn.load(newest).epoch
    assert epoch >= watch.saved, f"the newest checkpoint is of epoch {epoch}, but {watch.saved} had been saved"


def run(moments, seed, root, number):
    """Send a signal so often, and return the moments by phase, and the longest time until an interrupt was served."""
    rng, watch, counts = random.Random(seed), Watch(), collections.Counter()
    answer = root / "answer"
    train(root / "here")  # the kernels are loaded now, and children have them
    begin = time.perf_counter()
    assert not was_hit(start(root / "whole", answer, watch))
    seconds, events, want = time.perf_counter() - begin, watch.events, answer.read_text()
    longest = 0.0
    while sum(counts.values()) < moments:
        folder, watch = pathlib.Path(tempfile.mkdtemp(dir=root)), Watch()
        answer.unlink(missing_ok=True)
        while True:
            by_place, again = rng.random() < 0.5, rng.random() < 0.7 and sum(counts.values()) < moments
            process = start(folder, answer, watch, rng.randrange(events) if again and by_place else NEVER, number)
            if again and not by_place:
                watch.wait(rng.uniform(0, seconds))
                watch.send(process, number)  # not yet waited for: it is there, if only as a zombie
            if not was_hit(process):
                break
            counts[watch.phase] += 1
            check(folder, watch)
            longest = max(longest, watch.seconds)
        assert answer.read_text() == want, f"{folder}: resumed training ends with other bits"
        left = sorted(path.name for path in folder.iterdir())
        assert left == sorted(path.name for path in (root / "whole").iterdir()), f"{folder}: {left} is left"
    return counts, longest


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Kill training at random moments, and see what is left.")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interrupt", action="store_true", help="SIGINT instead of SIGKILL")
    options = parser.parse_args(arguments)
    number = signal.SIGINT if options.interrupt else signal.SIGKILL
    with tempfile.TemporaryDirectory() as folder:
        counts, longest = run(options.moments, options.seed, pathlib.Path(folder), number)
    for phase in PHASES:
        print(f"{counts[phase]:5d}  {phase}")
    what = f"interrupted, within {longest:.3f} s" if options.interrupt else "killed"
    what = f"{sum(counts.values()):5d}  {what}"
    print(f"{what}; each time the newest checkpoint loaded, and the bits were the same in the end")


if __name__ == "__main__":
    main()
