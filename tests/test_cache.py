"""Compiled code on disk: found again, never stale, and no reason to stop where there is no disk."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core.codegen import JITCPUCodegen
from support import run_python

import fastnn
from fastnn.kernels import _compile, _jit, _warmup, epoch

SCRIPT = """
import sys, warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {before}
    from fastnn.kernels import activation_forward
    from fastnn.kernels.activation import ACTIVATE
    cached = not ACTIVATE.must_be_compiled(np.dtype("float32"))
    a = np.empty(3, np.float32)
    activation_forward(a, np.array([-1, 0, 2], np.float32), "relu")
print(a.tolist(), cached, len(caught), *[str(w.message)[:58] for w in caught])
"""


def start(root, cache, before="pass"):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env={**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache)},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture
def package(tmp_path):
    source = pathlib.Path(fastnn.__file__).parent
    shutil.copytree(source, tmp_path / "root" / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "root"


def test_code_is_found_again_and_an_edit_anywhere_is_seen(package, tmp_path):
    cache = tmp_path / "cache"
    assert finish(start(package, cache)) == "[0.0, 0.0, 2.0] False 0"
    assert finish(start(package, cache)) == "[0.0, 0.0, 2.0] True 0"
    formulas = package / "fastnn" / "kernels" / "formulas.py"  # not the file that the kernel stands in
    text = formulas.read_text()
    assert text.count("return largest(z, like(0.0, z))\n") == 1
    formulas.write_text(text.replace("return largest(z, like(0.0, z))\n", "return largest(z, like(1.0, z))\n"))
    assert finish(start(package, cache)) == "[1.0, 1.0, 2.0] False 0"


def test_an_edit_is_seen_in_a_zip_file_too(package, tmp_path):
    program = """
import sys; sys.path.insert(0, sys.argv[1])
from fastnn.kernels import _jit
print(_jit.__file__, _jit.kernel_sources_stamp())
"""

    def stamp():
        archive = shutil.make_archive(str(tmp_path / "program"), "zip", package)
        where, found = run_python(program, archive).split()
        assert where.startswith(archive)
        return found

    before = stamp()
    assert before == stamp() == _jit.kernel_sources_stamp()
    with (package / "fastnn" / "kernels" / "formulas.py").open("a") as file:
        file.write("\n")
    assert stamp() != before


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_a_program_that_holds_no_sources_is_the_stamp_itself(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    program = tmp_path / "program"
    program.write_bytes(b"one")
    monkeypatch.setattr(_jit.resources, "files", lambda package: tmp_path / folder)
    monkeypatch.setattr(sys, "executable", str(program))
    before = _jit.kernel_sources_stamp.__wrapped__()
    assert before == _jit.kernel_sources_stamp.__wrapped__()
    program.write_bytes(b"another")
    assert _jit.kernel_sources_stamp.__wrapped__() != before


def test_two_processes_at_once_fill_one_cache(package, tmp_path):
    cache = tmp_path / "cache"
    both = [start(package, cache) for _ in range(2)]
    assert [finish(process)[:15] for process in both] == ["[0.0, 0.0, 2.0]"] * 2
    assert finish(start(package, cache)) == "[0.0, 0.0, 2.0] True 0"


@pytest.mark.parametrize("program", ["/opt/app/photo-editor", "", None])
def test_another_program_is_never_started_to_compile(program, monkeypatch):
    """Where Python is inside another program, sys.executable is that program."""
    started = []

    def start(command, **options):
        started.append(command)
        raise OSError("not started")

    def compile_beside():
        with _compile.running_beside(["pass"]):
            pass
        return len(started)

    monkeypatch.setattr(_compile.subprocess, "Popen", start)
    monkeypatch.setattr(sys, "executable", program)
    assert compile_beside() == 0
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert compile_beside() == 1, "Python itself is"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert compile_beside() == 1


def test_processes_beside_compile_with_the_same_optimization(tmp_path):
    script = "from fastnn.kernels import _compile\nwith _compile.running_beside([{!r}]): pass"
    place = tmp_path / "level"
    level = f"import sys; open({str(place)!r}, 'w').write(str(sys.flags.optimize))"
    for optimize in ("", "1", "2"):
        run_python(script.format(level), PYTHONOPTIMIZE=optimize)
        assert place.read_text() == (optimize or "0")


def test_without_compilation_there_is_a_sentence():
    with pytest.raises(AssertionError, match="ImportError: NUMBA_DISABLE_JIT: got 1, expected it unset"):
        run_python("import fastnn", NUMBA_DISABLE_JIT="1")


BESIDE = """
import numpy as np
from fastnn.kernels import _compile, epoch
_compile.processes, missing = lambda: 3, [5, 8]
class Elsewhere:
    def __init__(self, i): self.i = i
    def must_be_compiled(self, dtype): return self.i in missing
    def address(self, dtype): print("here", self.i)
tasks, also = [Elsewhere(i) for i in range(9)], lambda: print("also")
seconds = {{task: 9.0 if task.i in missing else 1.0 for task in tasks}}
wanted = [tasks[i] for i in {wanted}]
_compile.compile_tasks(
    "fastnn.kernels.epoch", seconds, wanted, np.dtype("float32"), also, 99.0, lambda s: print(f"some {{s:.0f}} s")
)
print([i for i, task in enumerate(epoch.TASKS) if not task.must_be_compiled(np.dtype("float32"))])
"""


@pytest.mark.parametrize(
    ("wanted", "want"),
    [
        ([5, 8, 2], "some 99 s\nalso\n[5, 8]\n"),  # the first is missing: this process has 99 seconds of other work
        ([2, 5], "some 9 s\nhere 5\nalso\n[]\n"),
        ([2, 3], "[]\n"),
    ],
)
def test_other_processes_compile_what_they_are_dealt(wanted, want, tmp_path):
    """Two small tasks of nine are missing."""
    program = BESIDE.format(wanted=wanted)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == want


FIRST_FIT = """
import numpy as np
from numba.core import event
from fastnn import Callback, Dense, Sequential
from fastnn.kernels import update, loss
compiled = event.RecordingListener()
class Listening(Callback):
    def on_epoch_begin(self, epoch):
        event.register("numba:compile", compiled)
x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
model = Sequential([Dense(1)], loss="squared_error", optimizer="sgd")
model.fit(x, y, epochs=1, batch_size=2, callbacks=[Listening()], verbose=False)
assert not compiled.buffer, "while the epoch was timed"
tasks = {**update.UPDATES, "value": loss.VALUE_LOSS, "class": loss.CLASS_LOSS}
print([name for name, task in tasks.items() if not task.must_be_compiled(x.dtype)])
"""


def test_the_first_run_says_what_it_does_and_compiles_no_other_loss_or_optimizer(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", FIRST_FIT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout for run in runs] == ["[0, 'value']\n"] * 2
    said = r"fastnn: compiling kernels for this CPU, once, some \d+ seconds; they are kept on disk\n"
    assert re.fullmatch(said, runs[0].stderr)
    assert runs[1].stderr == ""


@pytest.mark.parametrize(
    ("cores", "most", "want"),
    [
        (1, "max", 1),
        (2, "max", 2),
        (64, "max", 4),
        (64, None, 4),
        (64, 200, 1),
        (64, 950, 3),
        (64, 90, 1),
        (2, 9000, 2),
    ],
)
def test_as_many_processes_compile_as_there_is_room_for(cores, most, want, tmp_path, monkeypatch):
    """In a container of `most` MB, of which 100 are taken, and more by files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(_compile, "LIMITS", tmp_path)
    if most is not None:
        (tmp_path / "memory.max").write_text(f"{most if most == 'max' else most << 20}\n")
        (tmp_path / "memory.stat").write_text(f"anon {100 << 20}\nfile {9000 << 20}\nkernel 17\n")
    assert _compile.processes() == want


@pytest.mark.parametrize(("processes", "beside"), [(1, []), (2, ["float64"])])
def test_warmup_leaves_the_second_type_to_another_process(processes, beside, monkeypatch):
    done, statements = [], []

    @contextlib.contextmanager
    def run_beside(each):
        statements.extend(each)
        yield

    monkeypatch.setattr(epoch, "compile_all", lambda dtype, tasks, say: None)
    for name in ("compile_entries", "compile_forward_rows"):
        monkeypatch.setattr(epoch, name, lambda dtype: None)
    monkeypatch.setattr(_warmup.FORWARD, "must_be_compiled", lambda dtype: True)
    monkeypatch.setattr(_warmup, "processes", lambda: processes)
    monkeypatch.setattr(_warmup, "running_beside", run_beside)
    monkeypatch.setattr(_warmup, "compile_rest", done.append)
    fastnn.warmup()
    assert done[-2:] == ["float32", "float64"]  # whatever others did
    done.clear()
    for statement in statements:
        exec(statement)
    assert done == beside


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 20])
def test_tasks_are_dealt_out_evenly(processes):
    seconds = dict(enumerate(epoch.TASKS.values()))
    dealt = _compile.shares(seconds, epoch.ENTRY_SECONDS, processes)
    assert len(dealt) == processes
    assert sorted(task for share in dealt for task in share) == list(range(len(epoch.TASKS)))
    busy = [sum(seconds[task] for task in share) for share in dealt]
    others = _compile.START_SECONDS * (processes - 1)
    fair = max((sum(busy) + epoch.ENTRY_SECONDS + others) / processes, max(seconds.values()) + _compile.START_SECONDS)
    assert busy[0] + epoch.ENTRY_SECONDS <= 1.2 * fair
    assert max(busy[1:], default=0) + _compile.START_SECONDS <= 1.2 * fair


def test_a_process_that_fails_leaves_the_work_to_this_one():
    done = []
    with _compile.running_beside(["import fastnn.no_such_module", "pass"]):
        done.append(1)
    assert done == [1]


READ_ONLY = """
from numba.core import caching
def refuse(self): raise OSError("read-only")
caching._CacheLocator.ensure_cache_path = refuse"""


def test_a_read_only_installation_works_and_warns_once(package, tmp_path):
    before = READ_ONLY.replace("\n", "\n    ")
    answer = finish(start(package, tmp_path / "cache", before))
    assert answer.startswith("[0.0, 0.0, 2.0] True 1 fastnn: no writable directory for compiled kernels")


WARMUP = """{before}
import sys
sys.stderr = sys.stdout
import fastnn.cli.warmup as command
from fastnn.cli import main
from fastnn.kernels.dense import FORWARD
import numpy as np
command.warmup = lambda names: [FORWARD.address(np.dtype(name)) for name in names]
print(main(["warmup", "--dtype", "float32"]))"""


@pytest.mark.parametrize("before", ["", "READ_ONLY", "FULL"])
def test_the_command_says_that_nothing_could_be_kept(before, tmp_path):
    script = WARMUP.format(before=globals().get(before, ""))
    lines = run_python(script, NUMBA_CACHE_DIR=str(tmp_path / "cache")).splitlines()
    message = "fastnn: the compiled code could not be kept: set NUMBA_CACHE_DIR to a writable directory"
    assert lines[-1] == ("1" if before else "0")
    assert (message in lines) == bool(before)


FULL = """
from numba.core import caching
def refuse(self, *args): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = refuse"""


def test_a_full_disk_works_and_warns_once(package, tmp_path):
    before = FULL.replace("\n", "\n    ")
    answer = finish(start(package, tmp_path / "cache", before))
    assert answer.startswith("[0.0, 0.0, 2.0] False 1 fastnn: the compiled-kernel cache in ")


@pytest.mark.parametrize(("kind", "size", "cached"), [("nbc", 100, True), ("nbi", 100, False)])
def test_a_damaged_cache_is_compiled_anew(kind, size, cached, package, tmp_path):
    cache = tmp_path / "cache"
    finish(start(package, cache))
    for path in cache.rglob(f"*.{kind}"):
        path.write_bytes(path.read_bytes()[:size])
    answer = finish(start(package, cache))
    assert answer.startswith(f"[0.0, 0.0, 2.0] {cached} 1 fastnn: the compiled-kernel cache in ")
    assert finish(start(package, cache)) == "[0.0, 0.0, 2.0] True 0"


def test_code_of_two_processes_under_one_name_is_told_apart(tmp_path):
    def first_of(values):
        return values[0]

    def key(dtype):
        return (numba.typeof(np.ones(1, dtype)),)

    first, again = (_jit._cached(numba.njit(first_of)) for _ in range(2))
    files = first._cache._cache_file
    files._cache_path, files._index_path = str(tmp_path), str(tmp_path / files._index_name)
    write, dtypes = files._save_data, ["float64"]

    def late(name, data):
        if dtypes:
            files.flush()  # as if the other had read the index before this one wrote to it
            first.compile(key(dtypes.pop()))
        write(name, data)

    files._save_data = late
    first.compile(key("float32"))
    again._cache._cache_file = files
    for dtype in ("float32", "float64"):
        assert again(np.full(1, 1.5, dtype)) == 1.5


def test_only_what_is_called_by_address_becomes_machine_code(monkeypatch):
    @_jit.formula
    def double(v):
        return v + v

    @_jit.block
    def double_all(values):
        for i in range(values.size):
            values[i] = double(values[i])

    compiled = []
    add = JITCPUCodegen._add_module
    monkeypatch.setattr(JITCPUCodegen, "_add_module", lambda self, m: (compiled.append(m.name), add(self, m))[1])
    address = _jit.Task(double_all, "e[:]").address(np.dtype("float64"))
    assert address != 0
    assert [name.split(".")[-1] for name in compiled if name != "nrt"] == ["double_all"]
