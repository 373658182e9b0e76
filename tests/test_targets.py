"""Other CPUs than this one: kernels compiled for fewer vector features, in a process of their own."""

import platform

import pytest
from support import run_python

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the features named here are x86's"
)

SCRIPT = """
import sys
import numpy as np
import fastnn
from fastnn.kernels import _simd, activation_forward, dense_backward, dense_forward, matmul
target = _simd.target()
print(target.vector_bytes, target.fma, target.tile_rows, _simd.masked_loads())
rng = np.random.default_rng(0)
worst = 0.0
for name in ("float32", "float64"):
    unit = np.finfo(name).eps
    for m, n, k in [(1, 1, 1), (2, 3, 5), (3, 70, 9), (6, 16, 8), (7, 17, 300), (13, 9, 31), (150, 33, 260)]:
        for transpose_a, transpose_b in [(False, False), (True, False), (False, True), (True, True)]:
            a = rng.normal(size=(k, m) if transpose_a else (m, k)).astype(name)
            b = rng.normal(size=(n, k) if transpose_b else (k, n)).astype(name)
            room = np.full(m * n + 64, 7.0, name)
            c = room[32:-32].reshape(m, n)
            c[:] = np.nan
            matmul(c, a, b, transpose_a, transpose_b)
            x = (a.T if transpose_a else a).astype(float)
            y = (b.T if transpose_b else b).astype(float)
            worst = max(worst, (np.abs(c - x @ y) / (np.abs(x) @ np.abs(y) * unit * (k + 1))).max())
            assert (room[:32] == 7).all() and (room[-32:] == 7).all()
    z = np.linspace(-20, 20, 1001).astype(name)
    for activation, formula in {"tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z))}.items():
        a = np.empty_like(z)
        activation_forward(a, z, activation)
        exact = formula(z.astype(float))
        assert (np.abs(a - exact) <= 4 * np.spacing(np.abs(exact).astype(name)).astype(float)).all(), activation
print(worst <= 1.0)
x = rng.normal(size=(200, 5)).astype("float32")
y = x @ np.arange(1, 6, dtype="float32")
layers = [fastnn.Dense(40, "gelu"), fastnn.Dropout(0.1), fastnn.Dense(1)]
model = fastnn.Sequential(layers, "squared_error", fastnn.Adam(0.01), seed=0)
history = model.fit(x, y, epochs=30, batch_size=32).history["loss"]
print(history[-1] < 0.2 * history[0])
"""

SSE2 = ("x86-64", "+sse2,+cx8,+fxsr,+mmx,+sse,+x87,+64bit")
AVX2 = (
    "haswell",
    SSE2[1] + ",+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+movbe,+f16c",
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(SSE2, "16 False 6 False"), (AVX2, "32 True 6 True")],
    ids=["sse2", "avx2"],
)
def test_products_and_training_for_another_cpu(target, expected, tmp_path):
    name, features = target
    environment = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_python(SCRIPT, **environment).splitlines() == [expected, "True", "True"]
