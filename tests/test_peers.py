"""What `benchmarks/compare.py` times inside compiled code does the work of the public kernel it stands for."""

import functools

import numpy as np

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
