"""Python threads, forks, pools and loops of one's own around fastnn: the right numbers, and no process that ends.

Under each of Numba's threading layers that can be had here, each in a process of its own.
"""

import functools
import os
import pathlib
import subprocess
import sys

import pytest
from support import run_python

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
from fastnn.kernels import _jit, gemm
_jit.FORK_CHUNKS, gemm.FORK_FLOPS = 1, 1000  # threads for the smallest piece of work

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
    "What goes through Numba's parallel loops, as bytes."
    p, stats = np.empty_like(wide), np.empty(4)
    kernels.softmax_forward(p, wide)
    kernels.activation_statistics(stats, wide, wide, "tanh")
    numbers = [kernels.penalty(wide, 0.1, 0.2), kernels.global_norm(wide), kernels.squared_error(np.empty_like(wide), wide, p)]
    return p.tobytes() + stats.tobytes() + repr(numbers).encode()

def bits(model):
    return b"".join(w.tobytes() for w in model.get_weights())
"""


@functools.cache
def layer_is_there(layer):
    script = "import numba; from fastnn.kernels import _jit; numba.get_num_threads(); print(numba.threading_layer())"
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    return result.returncode == 0 and result.stdout.strip() == layer


@pytest.fixture(params=LAYERS)
def layer(request):
    if not layer_is_there(request.param):
        pytest.skip(f"Numba has no {request.param} here")
    return request.param


def run(script, layer, threads=4):
    return run_python(PRELUDE + script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=str(threads)).split()


MANY = """
want_loops, want = loops(), [bits(trained(seed)) for seed in range(2)]
fixed = trained()
answers = [fixed.predict(x).tobytes(), fixed.predict_proba(x).tobytes(), fixed.predict(x[:3]).tobytes(), fixed.penalty()]
wrong = []

def fit(seed):
    for _ in range(2):
        if bits(trained(seed)) != want[seed]:
            wrong.append("fit")

def predict():
    for _ in range(5):
        got = [fixed.predict(x).tobytes(), fixed.predict_proba(x).tobytes(), fixed.predict(x[:3]).tobytes(), fixed.penalty()]
        if got != answers:
            wrong.append("predict")
        if loops() != want_loops:
            wrong.append("loops")

workers = [threading.Thread(target=fit, args=(seed,)) for seed in range(2)]
workers += [threading.Thread(target=predict) for _ in range(20)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(numba.threading_layer(), len(wrong), *wrong[:3])
"""


def test_two_fit_and_twenty_predict_at_once(layer):
    assert run(MANY, layer) == [layer, "0"]


def test_two_fit_and_twenty_predict_with_one_thread_of_numba():
    assert run(MANY, "default", threads=1)[1:] == ["0"]


POOL = """
from concurrent.futures import ThreadPoolExecutor
want, want_loops = bits(trained()), loops()
with ThreadPoolExecutor(8) as pool:
    models = list(pool.map(lambda _: bits(trained()), range(8)))
    results = list(pool.map(lambda _: loops(), range(40)))
print(all(b == want for b in models), all(r == want_loops for r in results))
"""


def test_a_pool_of_threads(layer):
    assert run(POOL, layer) == ["True", "True"]


PRANGE = """
want, want_loops = bits(trained()), loops()
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


def test_inside_the_users_own_prange(layer):
    assert run(PRANGE, layer) == ["6"]


FORK = """
import os
want, want_loops, predicted = bits(trained()), loops(), trained().predict_proba(x).tobytes()
children = []
for _ in range(3):  # as a server forks its workers
    child = os.fork()
    if child == 0:
        same = bits(trained()) == want and loops() == want_loops and trained().predict_proba(x).tobytes() == predicted
        os._exit(0 if same else 3)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children], loops() == want_loops)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_fork_after_use(layer):
    assert run(FORK, layer) == ["[0,", "0,", "0]", "True"]


@needs_fork
def test_fork_before_use(layer):
    """The child is the first to train: its threads are its own."""
    script = "import os\nchild = os.fork()\nresult = len(loops()) > 0 and len(bits(trained())) > 0\n"
    script += "if child == 0:\n    os._exit(0 if result else 3)\nprint(os.waitpid(child, 0)[1])"
    assert run(script, layer) == ["0"]


MULTIPROCESSING = """
import multiprocessing
want = (bits(trained()), loops())

def work(seed):
    return bits(trained()), loops()

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(all(pair == want for pair in pool.map(work, range(4))))
"""


@needs_fork
def test_multiprocessing_by_fork(layer):
    assert run(MULTIPROCESSING, layer) == ["True"]


JOBLIB = """
import joblib
want = loops()
print(*[
    all(r == want for r in joblib.Parallel(2, backend=backend)(joblib.delayed(loops)() for _ in range(4)))
    for backend in ("loky", "multiprocessing", "threading")
])
"""


def test_joblib(layer, tmp_path):
    pytest.importorskip("joblib")
    # loky pickles what is defined in a script by value, but not its module-level names of modules that change
    assert run(JOBLIB, layer) == ["True", "True", "True"]
