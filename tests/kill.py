"""Kill training with SIGKILL at random moments, and see what is left: ``python -m tests.kill --moments 200``.

Half of the moments are chosen by the clock, half by a place: the process kills itself before the n-th thing that saving
does to the disk. After each, the newest checkpoint must load and be as new as the last that was saved; then training is
resumed (and perhaps killed again), and must end with the bits of training that was left alone. It says how many moments
fell into which phase, and ends with 1 where anything was wrong. Needs os.fork.
"""

from __future__ import annotations

import argparse
import collections
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


def train(folder):
    """Train with everything that has a state, going on from the folder, and return the model."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(400, 7)), rng.integers(0, 3, 400)
    rate = fastnn.Warmup(fastnn.ReduceOnPlateau(0.05, 0.5, patience=0), steps=30)
    model = Sequential(
        [Dense(30, "gelu"), Dropout(0.2), Dense(3)],
        "cross_entropy",
        fastnn.Adam(rate, amsgrad=True),
        seed=3,
        n_threads=1,
    )
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
        self._memory = np.frombuffer(mmap.mmap(-1, 24), np.int64)

    phase = property(lambda self: PHASES[int(self._memory[0])])
    saved = property(lambda self: int(self._memory[1]))
    events = property(lambda self: int(self._memory[2]))

    def clear(self):
        self._memory[2] = 0

    def install(self, last):
        """Watch this process, and end it before it does the `last`-th thing to the disk."""
        memory = self._memory

        def enter(phase):
            memory[0] = PHASES.index(phase)
            memory[2] += 1
            if memory[2] > last:
                os.kill(os.getpid(), signal.SIGKILL)

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


def start(folder, answer, watch, last=NEVER):
    """Train in a process of its own, and return its number."""
    watch.clear()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            watch.install(last)
            model = train(folder)
            answer.write_text(f"{digest(model)} {digest(fastnn.load(folder / 'best.safetensors'))}")
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def was_killed(process):
    """Wait for a process and return whether it was killed, or False where it had finished; errors are raised."""
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise AssertionError(f"training ended with status {status}")
    return False


def check(folder, watch):
    """Look at what a killed process left: whole files, and the checkpoint that it had saved last, or a newer one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = fastnn.latest_checkpoint(folder)
    for path in folder.glob("[!.]*"):
        fastnn.load(path)
    epoch = 0 if newest is None else fastnn.load(newest).epoch
    assert epoch >= watch.saved, f"the newest checkpoint is of epoch {epoch}, but {watch.saved} had been saved"


def run(moments, seed, root):
    """Kill so often, and return the moments by phase."""
    rng, watch, counts = random.Random(seed), Watch(), collections.Counter()
    answer = root / "answer"
    train(root / "here")  # the kernels are loaded now, and children have them
    begin = time.perf_counter()
    assert not was_killed(start(root / "whole", answer, watch))
    seconds, events, want = time.perf_counter() - begin, watch.events, answer.read_text()
    number = 0
    while sum(counts.values()) < moments:
        number += 1
        folder, watch = root / f"run-{number}", Watch()
        answer.unlink(missing_ok=True)
        while True:
            by_place, again = rng.random() < 0.5, rng.random() < 0.7 and sum(counts.values()) < moments
            process = start(folder, answer, watch, rng.randrange(events) if again and by_place else NEVER)
            if again and not by_place:
                time.sleep(rng.uniform(0, seconds))
                os.kill(process, signal.SIGKILL)  # not yet waited for: it is there, if only as a zombie
            if not was_killed(process):
                break
            counts[watch.phase] += 1
            check(folder, watch)
        assert answer.read_text() == want, f"{folder}: resumed training ends with other bits"
        left = sorted(path.name for path in folder.iterdir())
        assert left == sorted(path.name for path in (root / "whole").iterdir()), f"{folder}: {left} is left"
    return counts


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Kill training at random moments, and see what is left.")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        counts = run(options.moments, options.seed, pathlib.Path(folder))
    for phase in PHASES:
        print(f"{counts[phase]:5d}  {phase}")
    killed = sum(counts.values())
    print(f"{killed:5d}  killed; each time the newest checkpoint loaded, and the bits were the same in the end")


if __name__ == "__main__":
    main()
