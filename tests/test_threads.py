"""Python threads, forks, pools and loops of one's own around fastnn: the right numbers, and no process that ends.

Under each of Numba's threading layers that can be had here, each in a process of its own.
"""

import functools
import os
import pathlib
import subprocess
import sys
import sysconfig
import threading

import numpy as np
import pytest
from support import run_python

import fastnn
from fastnn import Dense

LAYERS = ("omp", "tbb", "workqueue")

PRELUDE = """
import faulthandler, sys, threading, warnings
faulthandler.enable()
faulthandler.dump_traceback_later(240, exit=True)
warnings.simplefilter("ignore")
import numba
import numpy as np
import fastnn
from fastnn import Dense, kernels
from fastnn.kernels import _chunks, gemm
_chunks.HELPED_CHUNKS, gemm.FORK_FLOPS = 1, 1000  # threads for the smallest piece of work

rng = np.random.default_rng(0)
x = rng.normal(size=(3000, 8)).astype(np.float32)
y = (x[:, 0] > 0).astype(int)
wide = rng.normal(size=(2000, 30)).astype(np.float32)

def model(seed=0):
    return fastnn.Sequential([Dense(16, "tanh"), Dense(2)], "cross_entropy", "adam", seed=seed, l1=1e-3)

def trained(seed=0):
    result = model(seed)
    result.fit(x, y, epochs=2, batch_size=64, verbose=False)
    return result

def loops():
    "Kernels called from Python whose chunks helpers share, as bytes."
    p, stats = np.empty_like(wide), np.empty(4)
    kernels.softmax_forward(p, wide)
    kernels.activation_statistics(stats, wide, wide, "tanh")
    numbers = [kernels.penalty(wide, 0.1, 0.2), kernels.global_norm(wide)]
    numbers.append(kernels.squared_error(np.empty_like(wide), wide, p))
    return p.tobytes() + stats.tobytes() + repr(numbers).encode()

def bits(model):
    return b"".join(w.tobytes() for w in model.get_weights())
"""


@functools.cache
def layer_is_there(layer):
    script = "import numba; import fastnn; numba.get_num_threads(); print(numba.threading_layer())"
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    return result.returncode == 0 and result.stdout.strip() == layer


@pytest.fixture(params=LAYERS)
def layer(request):
    if not layer_is_there(request.param):
        pytest.skip(f"Numba has no {request.param} here")
    return request.param


def run_parts(parts, layer, threads=4):
    """Run scripts one after the other in one process, each of which prints one line."""
    answers = run_python(
        PRELUDE + "".join(parts.values()), NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=str(threads)
    ).splitlines()
    return dict(zip(parts, answers, strict=True))


USED = """
want, want_loops = bits(trained()), loops()
"""

AT_ONCE = """
others, fixed = bits(trained(1)), trained()

def answers():
    return [
        fixed.predict(x).tobytes(), fixed.predict_proba(x).tobytes(), fixed.predict(x[:3]).tobytes(), fixed.penalty(),
        loops(),
    ]

right, wrong = answers(), []

def fit(seed):
    for _ in range(2):
        if bits(trained(seed)) != (want, others)[seed]:
            wrong.append("fit")

def predict():
    for _ in range(2):
        if answers() != right:
            wrong.append("predict")

workers = [threading.Thread(target=fit, args=(seed,)) for seed in range(2)]
workers += [threading.Thread(target=predict) for _ in range(20)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(len(wrong), *wrong[:3])
"""

THREAD_POOL = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    models = list(pool.map(lambda _: bits(trained()), range(8)))
    results = list(pool.map(lambda _: loops(), range(40)))
print(all(b == want for b in models) and all(r == want_loops for r in results))
"""

OWN_PRANGE = """
out = np.zeros(6, np.int64)

@numba.njit(parallel=True)
def own_loop(out):
    for i in numba.prange(out.size):
        with numba.objmode(same="int64"):
            same = int(bits(trained()) == want and loops() == want_loops)
        out[i] = same

own_loop(out)
print(out.sum())
"""

LAYER = """
print(numba.threading_layer())
"""


def test_python_threads_at_once(layer):
    """Two fit and twenty predict; a pool of threads; a parallel loop of the user's own that calls back into Python."""
    first = {"two fit and twenty predict": USED + AT_ONCE, "a pool": THREAD_POOL, "prange": OWN_PRANGE, "layer": LAYER}
    assert run_parts(first, layer) == {
        "two fit and twenty predict": "0",
        "a pool": "True",
        "prange": "6",
        "layer": layer,
    }


def test_python_threads_at_once_with_one_thread_of_numba():
    parts = {"two fit and twenty predict": USED + AT_ONCE, "a pool": THREAD_POOL}
    assert run_parts(parts, "default", threads=1) == {"two fit and twenty predict": "0", "a pool": "True"}


def test_few_rows_at_once(rng):
    """Each thread asks for rows of its own, again and again: no call sees what another one works on."""
    model = fastnn.Sequential([Dense(128, "tanh"), Dense(128, "tanh"), Dense(4)], "squared_error", seed=0)
    x = rng.normal(size=(8, 60, 16)).astype(np.float32)
    model.build(16)
    want, wrong = [model.predict(part) for part in x], []

    def work(part, right):
        for _ in range(200):
            if not np.array_equal(model.predict(part), right):
                wrong.append(part)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(x, want, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(wrong) == 0


PREFORK = """
import concurrent.futures, os, signal, threading
served = trained()  # loaded before the fork, and used
want_served = served.predict(x).tobytes()
held, done = threading.Event(), threading.Event()

def hold():  # as a thread does that asks for gradients
    with served.runtime.alone:
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
children = []
for _ in range(3):  # as a server forks its workers, each with threads of its own
    child = os.fork()
    if child == 0:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            answers = set(threads.map(lambda _: served.predict(x).tobytes(), range(20)))
        right = answers == {want_served} and bits(trained()) == want and loops() == want_loops
        signal.alarm(100)  # nobody here lets go of a lock that a thread of the parent's held
        right = right and np.isfinite(served.gradients(x, y)[0])
        os._exit(0 if right else 3)
    children.append(child)
done.set()
print([os.waitpid(child, 0)[1] for child in children], loops() == want_loops)
"""

MULTIPROCESSING = """
import multiprocessing

def work(seed):
    return bits(trained()), loops()

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(all(pair == (want, want_loops) for pair in pool.map(work, range(4))))
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_forks_after_use(layer):
    """GNU OpenMP ends a forked process in its first parallel region, where the parent had one."""
    parts = {"os.fork": USED + PREFORK, "multiprocessing": MULTIPROCESSING}
    assert run_parts(parts, layer) == {"os.fork": "[0, 0, 0] True", "multiprocessing": "True"}


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a global lock always")
def test_free_threaded_python_stays_so():
    """An extension module that does not say it can do without the lock would bring it back for everyone."""
    script = PRELUDE + "trained().predict(x); loops(); fastnn.MLPClassifier(max_iter=1).fit(x, y)"
    assert run_python(script + "\nprint(sys._is_gil_enabled())") == "False\n"


BEFORE = """
import os
child = os.fork()
result = len(loops()) > 0 and len(bits(trained())) > 0
if child == 0:
    os._exit(0 if result else 3)
print(os.waitpid(child, 0)[1])
"""


@needs_fork
def test_a_fork_before_use():
    assert run_parts({"fork": BEFORE}, "default") == {"fork": "0"}


JOBLIB = """
import joblib, multiprocessing
multiprocessing.set_start_method("fork", force=True)  # Python 3.14 has a server fork, which knows none of this
print(*[
    all(r == want_loops for r in joblib.Parallel(2, backend=backend)(joblib.delayed(loops)() for _ in range(4)))
    for backend in ("loky", "multiprocessing", "threading")
])
"""


def test_joblib():
    pytest.importorskip("joblib")
    assert run_parts({"joblib": USED + JOBLIB}, "default") == {"joblib": "True True True"}
