"""No kernel and no model touches a byte beyond its arrays; see `guarded.py` for how that is seen.

200 draws by default; with FASTNN_LONG_TESTS=1 in the environment 10,000 for this CPU's features, and 2,000 each for
AVX2 and plain SSE2.
"""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from test_targets import AVX2, SSE2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called as on Linux")

LONG = os.environ.get("FASTNN_LONG_TESTS") == "1"
HERE = pathlib.Path(__file__).parent


def run(program, **environment):
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    return subprocess.run(
        [sys.executable, *program],
        env={**os.environ, "PYTHONPATH": paths, "NUMBA_NUM_THREADS": "3", **environment},
        capture_output=True,
        text=True,
        timeout=7200,
    )


def make_draws(count, **environment):
    result = run([str(HERE / "guarded.py"), "0", str(count)], **environment)
    last = result.stdout.splitlines()[-1:]
    assert result.returncode == 0, f"died with {result.returncode} at {last}\n{result.stderr[-3000:]}"
    assert last == [f"done {count} draws"]


def test_kernels_and_models_stay_inside_their_arrays():
    make_draws(10_000 if LONG else 200)


@pytest.mark.skipif(not LONG, reason="compiles for another CPU: FASTNN_LONG_TESTS=1 runs it")
@pytest.mark.parametrize("target", [SSE2, AVX2], ids=["sse2", "avx2"])
def test_kernels_for_another_cpu_stay_inside_their_arrays(target, tmp_path):
    name, features = target
    make_draws(2000, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))


TOUCH = """
import sys
import numpy as np
import guarded
pages = guarded.Pages(at_end=sys.argv[1] == "end")
array = pages.input(np.arange(3.0)) if sys.argv[2] == "input" else pages.copy(np.arange(3.0))
assert array.tolist() == [0.0, 1.0, 2.0]
place = {"inside": 0, "after": 3, "before": -1}[sys.argv[3]]
neighbour = np.lib.stride_tricks.as_strided(array[0:1], (5,), (8 * place,)) if place else array
print(float(neighbour[1 if place else 0]))
if sys.argv[4] == "write":
    array[0] = 5.0
"""


@pytest.mark.parametrize(
    ("arguments", "dies"),
    [
        ("end input inside read", False),
        ("end copy inside write", False),
        ("begin copy inside write", False),
        ("end copy after read", True),
        ("begin copy before read", True),
        ("end input inside write", True),
        ("begin input inside write", True),
    ],
)
def test_one_element_too_far_ends_the_process(arguments, dies):
    """Or the draws would show nothing."""
    result = run(["-c", TOUCH, *arguments.split()])
    assert result.returncode == (-signal.SIGSEGV if dies else 0), result.stderr
