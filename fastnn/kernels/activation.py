"""Activations and their derivatives over arrays: the scalar formulas of `formulas.py`, vectorised by LLVM.

The loops work in place on one block, because a loop that reads and writes two arrays that may be the same
one is not vectorised.
"""

from __future__ import annotations

import numpy as np
from numba import types

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import copy, make_stack
from fastnn.kernels._check import check_arrays, check_code
from fastnn.kernels._chunks import CHUNK, COUNTS, A, B, C, chunk_at, share
from fastnn.kernels._context import floats_at, integers_at
from fastnn.kernels._jit import Task, block, inlined
from fastnn.kernels._pool import KINDS
from fastnn.kernels.elementary import (
    SCALE,
    absolute,
    by_type,
    choose,
    exponent_rest,
    largest,
    like,
    nearest_power,
    quotient,
    quotient_by_inverse,
    scaled_exp_difference,
)

GROUP_ROWS = 64
"""Rows of few logits that go through softmax at once."""

NARROW = 16
"""Logits a row up to which rows go by groups: alone, a short row fills no vectors."""

_TOGETHER = 2048
"""Logits of longer rows that go through softmax together."""

_group_logits, _group_row = make_stack(GROUP_ROWS * NARROW), make_stack(GROUP_ROWS)
group_floats, group_doubles = make_stack(GROUP_ROWS), make_stack(GROUP_ROWS, types.float64)


@block
def activate(code, a):
    """Replace each z in the 1-D block `a` by the activation `code` of z."""
    if code == f.RELU:
        for i in range(a.size):
            a[i] = f.relu(a[i])
    elif code == f.LEAKY_RELU:
        for i in range(a.size):
            a[i] = f.leaky_relu(a[i])
    elif code == f.ELU:
        for i in range(a.size):
            a[i] = f.elu(a[i])
    elif code == f.SIGMOID:
        for i in range(a.size):
            a[i] = f.sigmoid(a[i])
    elif code == f.TANH:
        for i in range(a.size):
            a[i] = f.tanh(a[i])
    elif code == f.SOFTPLUS:
        for i in range(a.size):
            a[i] = f.softplus(a[i])
    elif code == f.GELU:
        for i in range(a.size):
            a[i] = f.gelu(a[i])
    elif code == f.SILU:
        for i in range(a.size):
            a[i] = f.silu(a[i])


@block
def multiply_slope(code, d, source):
    """Multiply the gradient block `d` by f'(z); `source` holds z for GELU and SiLU, else a = f(z)."""
    if code == f.RELU:
        for i in range(d.size):
            d[i] *= f.relu_slope(source[i])
    elif code == f.LEAKY_RELU:
        for i in range(d.size):
            d[i] *= f.leaky_relu_slope(source[i])
    elif code == f.ELU:
        for i in range(d.size):
            d[i] *= f.elu_slope(source[i])
    elif code == f.SIGMOID:
        for i in range(d.size):
            d[i] *= f.sigmoid_slope(source[i])
    elif code == f.TANH:
        for i in range(d.size):
            d[i] *= f.tanh_slope(source[i])
    elif code == f.SOFTPLUS:
        for i in range(d.size):
            d[i] *= f.softplus_slope(source[i])
    elif code == f.GELU:
        for i in range(d.size):
            d[i] *= f.gelu_slope(source[i])
    elif code == f.SILU:
        for i in range(d.size):
            d[i] *= f.silu_slope(source[i])


@inlined
def softmax_origin(top):
    """Return what `softmax_term` takes for the largest logit of a row."""
    origin = choose(absolute(top) < like(65536.0, top), like(0.0, top), top)
    start = top - origin
    power = nearest_power(start)
    return origin, start, power, exponent_rest(start, power), start + by_type(top, -112.0, -760.0)


@inlined
def softmax_term(z, origin, start, power, rest, lowest):
    """Return SCALE * e^(z - top)."""
    z -= origin
    return scaled_exp_difference(choose(z < lowest, lowest, z), start, power, rest)


@inlined
def _top_of(z):
    """Return the largest logit of a row."""
    top = z[0]
    for j in range(z.size):  # from 0 on, so that a row of whole vectors is a loop of whole vectors
        top = largest(top, z[j])
    return top


@inlined
def _to_terms(z, top):
    """Replace each logit of a row by SCALE * e^(z - top) and return their sum.

    Where `top` is beyond 2^16, logits are taken less `top`: that rounds none that counts.
    """
    origin, start, power, rest, lowest = softmax_origin(top)
    for j in range(z.size):
        z[j] = softmax_term(z[j], origin, start, power, rest, lowest)
    half, total = z.size // 2, 0.0
    for j in range(half):  # pairs in float32, half the conversions: half an ulp of the sum at most
        total += np.float64(z[j] + z[half + j])
    for j in range(2 * half, z.size):
        total += np.float64(z[j])
    return total


@inlined
def _divide(terms, total):
    """Divide each term of a row by their sum."""
    divisor = like(total, terms[0])
    inverse = quotient(like(1.0, divisor), divisor)
    for j in range(terms.size):
        terms[j] = quotient_by_inverse(terms[j], divisor, inverse)


@block
def softmax_row(p):
    """Replace one row of logits by its softmax and return (m = max z, sum_k e^(z_k - m)).

    p_j = e^(z_j - m) / sum_k e^(z_k - m), by `scaled_exp_difference`.
    """
    top = _top_of(p)
    total = _to_terms(p, top)
    _divide(p, total)
    return top, total / SCALE


@block
def _softmax_together(p, n, tops, totals):
    """`softmax_row` on a few rows that stay in the first cache, step by step: none waits for sums across a vector."""
    rows = p.size // n
    for r in range(rows):
        tops[r] = _top_of(p[r * n : (r + 1) * n])
    for r in range(rows):
        totals[r] = _to_terms(p[r * n : (r + 1) * n], tops[r])
    for r in range(rows):
        _divide(p[r * n : (r + 1) * n], totals[r])


@block
def softmax_group(p, z, n, tops, totals, firsts):
    """Write the softmax of at most GROUP_ROWS rows of n <= NARROW logits, all flat; p may be z.

    The formula of `softmax_row`, for all rows at once. `tops` and `totals` get what that returns, `firsts`
    the number of each row's first largest logit.
    """
    rows = z.size // n
    e, top, first, origin, start = _group_logits(z), _group_row(z), _group_row(z), _group_row(z), _group_row(z)
    power, rest, total = _group_row(z), _group_row(z), group_doubles(z)
    for r in range(rows):
        row = z[r * n : (r + 1) * n]
        for j in range(n):
            e[j * GROUP_ROWS + r] = row[j]
    for r in range(rows):
        top[r], first[r], total[r] = e[r], like(0.0, e[0]), 0.0
    for j in range(1, n):
        column = e[j * GROUP_ROWS : j * GROUP_ROWS + rows]
        for r in range(rows):
            higher = column[r] > top[r]
            first[r] = choose(higher, like(j, e[0]), first[r])
            top[r] = largest(top[r], column[r])
    for r in range(rows):
        origin[r] = choose(absolute(top[r]) < like(65536.0, e[0]), like(0.0, e[0]), top[r])
        start[r] = top[r] - origin[r]
        power[r] = nearest_power(start[r])
        rest[r] = exponent_rest(start[r], power[r])
    for j in range(n):
        column = e[j * GROUP_ROWS : j * GROUP_ROWS + rows]
        for r in range(rows):
            lowest = start[r] + by_type(e[0], -112.0, -760.0)
            logit = column[r] - origin[r]
            column[r] = scaled_exp_difference(choose(logit < lowest, lowest, logit), start[r], power[r], rest[r])
            total[r] += np.float64(column[r])
    for j in range(n):
        column = e[j * GROUP_ROWS : j * GROUP_ROWS + rows]
        for r in range(rows):
            column[r] = quotient(column[r], like(total[r], e[0]))
    for r in range(rows):
        row = p[r * n : (r + 1) * n]
        for j in range(n):
            row[j] = e[j * GROUP_ROWS + r]
        tops[r], totals[r], firsts[r] = top[r], total[r] / SCALE, first[r]


@block
def softmax_rows(p, n):
    """Replace each of the rows of n logits that lie behind one another in `p` by its softmax."""
    if n <= NARROW:
        tops, totals, firsts = group_floats(p), group_doubles(p), group_floats(p)
        for start in range(0, p.size, GROUP_ROWS * n):
            rows = p[start : min(start + GROUP_ROWS * n, p.size)]
            softmax_group(rows, rows, n, tops, totals, firsts)
    else:
        tops, totals = group_floats(p), group_doubles(p)
        length = min(GROUP_ROWS, max(1, _TOGETHER // n)) * n
        for start in range(0, p.size, length):
            _softmax_together(p[start : min(start + length, p.size)], n, tops, totals)


ACTIVATE = Task(activate, "i e[:]")
call_activate = ACTIVATE.call
SOFTMAX = Task(softmax_rows, "e[:] i")
call_softmax = SOFTMAX.call
MULTIPLY_SLOPE = Task(multiply_slope, "i e[:] e[:]")
call_multiply_slope = MULTIPLY_SLOPE.call


@block
def _forward_task(p, element, task, seat):
    a, counts = chunk_at(p, A, element, task), integers_at(p, COUNTS)
    copy(a, chunk_at(p, B, element, task))
    call_activate(counts[0], counts[1], a)


@block
def _backward_task(p, element, task, seat):
    dz, counts = chunk_at(p, A, element, task), integers_at(p, COUNTS)
    copy(dz, chunk_at(p, B, element, task))
    call_multiply_slope(counts[0], counts[1], dz, chunk_at(p, C, element, task))


@block
def _softmax_task(p, element, task, seat):
    counts = integers_at(p, COUNTS)
    softmax, n, length = counts[0], counts[1], counts[2]
    rows = floats_at(p, A, element)[task * length : (task + 1) * length]
    copy(rows, floats_at(p, B, element)[task * length : (task + 1) * length])
    call_softmax(softmax, rows, n)


_FORWARD, _BACKWARD, _ROWS = Task(_forward_task, KINDS), Task(_backward_task, KINDS), Task(_softmax_task, KINDS)


def activation_forward(a: np.ndarray, z: np.ndarray, activation: str) -> None:
    """Write a = f(z), element by element.

    Parameters
    ----------
    a : array, out
        Any shape, float32 or float64, C-contiguous; overwritten.
    z : array, in
        Shape and dtype of `a`.
    activation : str
        "identity" z; "relu" max(0, z); "leaky_relu" z or 0.01 z; "elu" z or e^z - 1; "sigmoid" 1/(1+e^-z);
        "tanh"; "softplus" log(1+e^z); "gelu" z Phi(z) (Hendrycks and Gimpel 2016, exact form);
        "silu" z sigmoid(z) (Elfwing et al. 2018).

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape, order, a read-only output, overlapping arrays, an unknown name; nothing is
        written.

    Notes
    -----
    float32 error: at most 4 ulp over the whole range; results below the smallest normal number are exact to
    one subnormal step.
    """
    code = check_code("activation", activation, f.CODES)
    check_arrays({"a": a}, {"z": z}, {"z": np.shape(a)})
    share(_FORWARD, (a, z), counts=(ACTIVATE.address(a.dtype), code))


def activation_backward(dz: np.ndarray, da: np.ndarray, z: np.ndarray, a: np.ndarray, activation: str) -> None:
    """Write dz = da * f'(z), element by element.

    Parameters
    ----------
    dz : array, out
        Gradient of the loss with respect to z; overwritten.
    da : array, in
        Gradient with respect to a = f(z); shape and dtype of `dz`.
    z, a : array, in
        Input and output of the forward pass. GELU and SiLU read z, the others a.
    activation : str
        As in `activation_forward`. At the kink of ReLU and leaky ReLU the slope from the left is taken.

    Raises
    ------
    TypeError, ValueError
        As `activation_forward`.
    """
    code = check_code("activation", activation, f.CODES)
    shape = np.shape(dz)
    check_arrays({"dz": dz}, {"da": da, "z": z, "a": a}, {"da": shape, "z": shape, "a": shape})
    source = z if code in f.NEEDS_Z else a
    share(_BACKWARD, (dz, da, source), counts=(MULTIPLY_SLOPE.address(dz.dtype), code))


def softmax_forward(p: np.ndarray, z: np.ndarray) -> None:
    """Write p = softmax(z), row by row: p_bj = e^z_bj / sum_k e^z_bk.

    Parameters
    ----------
    p : array (B, C), out
        Probabilities; each row sums to 1; overwritten.
    z : array (B, C), in
        Logits; dtype of `p`.

    Raises
    ------
    TypeError, ValueError
        As `activation_forward`.
    """
    check_arrays({"p": p}, {"z": z}, {"p": (None, None), "z": np.shape(p)})
    if p.size:
        n = p.shape[1]
        length = max(1, CHUNK // n) * n
        share(_ROWS, (p, z), n_tasks=-(-p.size // length), counts=(SOFTMAX.address(p.dtype), n, length))
