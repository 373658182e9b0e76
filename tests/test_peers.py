"""What `benchmarks/compare.py` times inside compiled code does the work of the public kernel it stands for.

And what `benchmarks/gpu.sh` finds is where it was asked to be.
"""

import functools
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks import peers
from fastnn.kernels import activation, gemm
from tests import naive


def test_an_activation_in_a_compiled_loop_is_the_activation():
    z = np.linspace(-3, 3, 64, dtype=np.float32).reshape(4, 16)
    for name in ("tanh", "gelu", "softmax"):
        a = np.full_like(z, np.nan)
        call = (
            functools.partial(activation.softmax_forward, a, z)
            if name == "softmax"
            else functools.partial(activation.activation_forward, a, z, name)
        )
        loop = peers._compiled_loop(call, 2)
        a[:] = np.nan
        loop()
        want = np.empty(z.shape)
        if name == "softmax":
            naive.softmax_forward(want, z)
        else:
            naive.activation_forward(want, z, name)
        np.testing.assert_allclose(a, want, atol=1e-6, err_msg=name)


def test_a_product_in_a_compiled_loop_is_the_product():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((7, 3))
    c = np.full((5, 3), np.nan)
    loop = peers._compiled_loop(functools.partial(gemm.matmul, c, a, b), 2)
    c[:] = np.nan
    loop()
    np.testing.assert_allclose(c, a @ b, atol=1e-12)


@pytest.mark.skipif(os.name != "posix" or not shutil.which("timeout"), reason="a script of bash")
def test_what_a_gpu_shows_is_kept_in_a_folder_of_the_callers(tmp_path):
    script = pathlib.Path(peers.__file__).with_name("gpu.sh")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho called with "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    subprocess.run(["bash", script, "new/found"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    kept = tmp_path / "new" / "found"
    assert "called with -m fastnn.cuda.check" in (kept / "gpu-check.txt").read_text()
    assert f"--json {kept}/gpu-training.json" in (kept / "gpu-training.txt").read_text()
