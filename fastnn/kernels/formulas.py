"""One scalar formula for each activation and its derivative: the only place they are written.

`z` is the input of the activation and `a` its output. The derivative of a monotonic activation is taken from
`a` alone, so that training keeps one array a layer; GELU and SiLU need `z` (`NEEDS_Z`). Constants are
PyTorch's.
"""

from __future__ import annotations

from fastnn.kernels._jit import formula
from fastnn.kernels.elementary import (
    absolute,
    choose,
    copysign,
    exp,
    expm1_negative,
    fma,
    largest,
    like,
    log1p_unit,
    scaled_exp,
    scaled_normal_tail,
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
    """z where z > 0, else e^z - 1."""
    return largest(z, like(0.0, z)) + expm1_negative(smallest(z, like(0.0, z)))


@formula
def elu_slope(a):
    """1 where a > 0, else e^z = a + 1."""
    return choose(a > like(0.0, a), like(1.0, a), a + like(1.0, a))


@formula
def sigmoid(z):
    """1 / (1 + e^-z), from e^-|z| so that nothing overflows and both tails keep their digits."""
    e = exp(-absolute(z))
    return choose(z > like(0.0, z), like(1.0, z), e) / (like(1.0, z) + e)


@formula
def sigmoid_slope(a):
    """a (1 - a)."""
    return a * (like(1.0, a) - a)


@formula
def tanh(z):
    """(1 - e^-2|z|) / (1 + e^-2|z|) with the sign of z, by expm1 so that small z keep their digits."""
    e = expm1_negative(like(-2.0, z) * absolute(z))
    return copysign(-e / (like(2.0, z) + e), z)


@formula
def tanh_slope(a):
    """1 - a^2, as (1 - a)(1 + a)."""
    return (like(1.0, a) - a) * (like(1.0, a) + a)


@formula
def softplus(z):
    """log(1 + e^z) = max(z, 0) + log1p(e^-|z|)."""
    return largest(z, like(0.0, z)) + log1p_unit(exp(-absolute(z)))


@formula
def softplus_slope(a):
    """sigmoid(z) = 1 - e^-a."""
    return -expm1_negative(-a)


@formula
def gelu(z):
    """z Phi(z), Phi the normal distribution function (the exact form, not the tanh one)."""
    size = choose(absolute(z) > like(40.0, z), like(40.0, z), absolute(z))
    product = scaled_normal_tail(copysign(size, z), size)
    return choose(z > like(0.0, z), z - product, product)


@formula
def gelu_slope(z):
    """Phi(z) + z phi(z)."""
    size = choose(absolute(z) > like(40.0, z), like(40.0, z), absolute(z))
    tail = scaled_normal_tail(like(1.0, z), size)
    density = like(0.3989422804014327, z) * exp(like(-0.5, z) * size * size)
    return choose(z > like(0.0, z), like(1.0, z) - tail, tail) + copysign(size, z) * density


@formula
def silu(z):
    """z sigmoid(z); 0, not NaN, at minus infinity."""
    e = exp(-absolute(z))
    size = choose(z > like(0.0, z), like(0.0, z), choose(z < like(-1000.0, z), like(-1000.0, z), z))
    return choose(z > like(0.0, z), z, scaled_exp(size, size)) / (like(1.0, z) + e)


@formula
def silu_slope(z):
    """s (1 + z (1 - s)) with s = sigmoid(z)."""
    s = sigmoid(z)
    small = choose(absolute(z) > like(1000.0, z), like(0.0, z), z * sigmoid(-z))
    return s * (like(1.0, z) + small)


@formula
def exp_difference(z, top):
    """e^(z - top) with the rounding error of the subtraction carried along (TwoSum)."""
    difference = z - top
    back = difference + top
    error = (z - back) + (top - (back - difference)) * like(-1.0, z)
    small = exp(difference)
    return choose(error != error, small, small * (like(1.0, z) + error))
