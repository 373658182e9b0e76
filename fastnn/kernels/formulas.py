"""One scalar formula for each activation and its derivative: the only place they are written.

`z` is the input of the activation and `a` its output. The derivative of a monotonic activation is taken from
`a` alone, so that training keeps one array a layer; GELU and SiLU need `z` (`NEEDS_Z`). Constants are
PyTorch's. Errors are the largest measured in float32; float64 keeps to 4 ulp.
"""

from __future__ import annotations

from fastnn.kernels._jit import formula
from fastnn.kernels.elementary import (
    SCALE,
    absolute,
    by_type,
    choose,
    expm1,
    fma,
    largest,
    like,
    log1p_exp,
    lowest_exponent,
    normal_tail_ratio,
    scaled_density,
    scaled_exp,
    smallest,
)

IDENTITY, RELU, LEAKY_RELU, ELU, SIGMOID, TANH, SOFTPLUS, GELU, SILU = range(9)

CODES = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "elu": ELU,
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "softplus": SOFTPLUS,
    "gelu": GELU,
    "silu": SILU,
}

NEEDS_Z = frozenset({GELU, SILU})


@formula
def relu(z):
    """max(0, z); NaN stays NaN."""
    return largest(z, like(0.0, z))


@formula
def relu_slope(a):
    """1 where a > 0, else 0 (0 at the kink)."""
    return choose(a > like(0.0, a), like(1.0, a), like(0.0, a))


@formula
def leaky_relu(z):
    """z where z > 0, else 0.01 z."""
    return fma(like(0.01, z), smallest(z, like(0.0, z)), largest(z, like(0.0, z)))


@formula
def leaky_relu_slope(a):
    """1 where a > 0, else 0.01."""
    return choose(a > like(0.0, a), like(1.0, a), like(0.01, a))


@formula
def elu(z):
    """z where z > 0, else e^z - 1: 1 ulp."""
    zero, least = like(0.0, z), like(-40.0, z)
    x = choose(z > zero, zero, z)
    return choose(z > zero, z, zero) + expm1(choose(x < least, least, x))


@formula
def elu_slope(a):
    """1 where a > 0, else e^z = a + 1."""
    return choose(a > like(0.0, a), like(1.0, a), a + like(1.0, a))


@formula
def sigmoid(z):
    """1 / (1 + e^-z), from e^-|z| so that nothing overflows and both tails keep their digits: 2.5 ulp."""
    scale = like(SCALE, z)
    e = scaled_exp(like(1.0, z), lowest_exponent(-absolute(z)), like(0.0, z))
    return choose(z > like(0.0, z), scale, e) / (scale + e)


@formula
def sigmoid_slope(a):
    """a (1 - a)."""
    return a * (like(1.0, a) - a)


@formula
def tanh(z):
    """(e^2z - 1) / (e^2z + 1), by expm1 so that small z keep their digits: 2.6 ulp."""
    x, most = z + z, like(40.0, z)
    x = choose(x > most, most, x)
    e = expm1(choose(x < -most, -most, x))
    return e / (e + like(2.0, z))


@formula
def tanh_slope(a):
    """1 - a^2, as (1 - a)(1 + a)."""
    return (like(1.0, a) - a) * (like(1.0, a) + a)


@formula
def softplus(z):
    """log(1 + e^z) = max(z, 0) + log1p(e^-|z|): 2.3 ulp."""
    return choose(z > like(0.0, z), z, like(0.0, z)) + log1p_exp(-absolute(z))


@formula
def softplus_slope(a):
    """sigmoid(z) = 1 - e^-a."""
    most = like(40.0, a)
    return -expm1(-choose(a > most, most, a))


@formula
def gelu(z):
    """z Phi(z) = max(z, 0) - |z| Phi(-|z|), Phi the normal distribution function (exact, not by tanh): 3.8 ulp."""
    x, most, zero = absolute(z), by_type(z, 15.0, 38.7), like(0.0, z)
    x = choose(x > most, most, x)
    part = scaled_density(normal_tail_ratio(x, x), x)
    return fma(part, like(-1.0 / SCALE, z), choose(z > zero, z, zero))


@formula
def gelu_slope(z):
    """Phi(z) + z phi(z) = 1 + s where z > 0, else -s, s = |z| phi(z) - Phi(-|z|): to 3 * 2^-24."""
    x, most, zero, one = absolute(z), by_type(z, 15.0, 38.7), like(0.0, z), like(1.0, z)
    x, small = choose(x > most, most, x), like(1.0 / SCALE, z)
    part = scaled_density(fma(like(0.3989422804014327, z), x, -normal_tail_ratio(one, x)), x)
    return fma(part, choose(z > zero, small, -small), choose(z > zero, one, zero))


@formula
def silu(z):
    """z sigmoid(z), from e^-|z|; 0, not NaN, at minus infinity: 3.2 ulp."""
    small, one = like(1.0 / SCALE, z), like(1.0, z)
    x = lowest_exponent(-absolute(z))
    e = scaled_exp(one, x, like(0.0, z))
    return choose(z > like(0.0, z), z, e * x * small) / fma(e, small, one)


@formula
def silu_slope(z):
    """s (1 + z (1 - s)), s = sigmoid(z): (q + e (1 + z)) / (1 + e)^2, e = e^-|z|, q = 1 or e^2; to 5 * 2^-24."""
    one, lowest = like(1.0, z), by_type(z, -112.0, -760.0)
    x = choose(z > -lowest, -lowest, lowest_exponent(z))
    e = scaled_exp(like(1.0 / SCALE, z), -absolute(x), like(0.0, z))
    bottom = one + e
    return fma(e, one + x, choose(z > like(0.0, z), one, e * e)) / (bottom * bottom)
