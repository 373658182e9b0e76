"""Losses: value and gradient in one pass over the outputs.

The loss of a batch is sum_b w_b l_b / sum_b w_b, and 0 with zero gradient where the weights sum to 0. A row of
weight 0 has no part in it, whatever its outputs: 0 times a loss beyond all numbers would be NaN. Sums are kept in
float64 over fixed blocks of rows. Cross entropies take logits, so that nothing is lost to a rounded probability.
"""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import copy, fill
from fastnn.kernels._check import check_array, check_arrays
from fastnn.kernels._chunks import CHUNK, COUNTS, LABELS, NUMBERS, SUMS, WEIGHTS, A, B, C, share
from fastnn.kernels._context import doubles_at, floats_at, integers_at
from fastnn.kernels._errors import check_number
from fastnn.kernels._jit import Task, block, formula, inlined
from fastnn.kernels._pool import KINDS
from fastnn.kernels.activation import (
    GROUP_ROWS,
    NARROW,
    group_doubles,
    group_floats,
    softmax_group,
    softmax_row,
)
from fastnn.kernels.elementary import absolute, choose, copysign, like, log1p_exp

SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON, EXTERNAL = range(7)

CODES = {
    "squared_error": SQUARED_ERROR,
    "absolute_error": ABSOLUTE_ERROR,
    "huber": HUBER,
    "cross_entropy": CROSS_ENTROPY,
    "binary_cross_entropy": BINARY_CROSS_ENTROPY,
    "poisson": POISSON,
}


@formula
def error_loss(code, e, delta):
    """Loss of one output with error e = y - t: e^2; |e|; or Huber's e^2/2 and delta (|e| - delta/2)."""
    size = absolute(e)
    if code == ABSOLUTE_ERROR:
        return size
    if code == HUBER:
        half = like(0.5, e)
        return choose(size <= delta, half * e * e, delta * (size - half * delta))
    return e * e


@formula
def error_slope(code, e, delta):
    """Derivative of `error_loss`: 2 e; sign(e); or e clipped to +-delta."""
    if code == ABSOLUTE_ERROR:
        return choose(e == like(0.0, e) or e != e, e, copysign(like(1.0, e), e))
    if code == HUBER:
        return choose(absolute(e) > delta, copysign(delta, e), e)
    return like(2.0, e) * e


@formula
def binary_loss(z, t):
    """-t log s - (1 - t) log(1 - s), s = sigmoid(z), as max(z, 0) - z t + log1p(e^-|z|)."""
    return choose(z > like(0.0, z), z, z * like(0.0, z)) - z * t + log1p_exp(-absolute(z))


@inlined
def poisson_loss(rate, z, t):
    """Half the Poisson deviance, e^z - t + t log(t / e^z), given rate = e^z; t log t counts 0 at t = 0."""
    return rate - t + (t * (math.log(t) - z) if t > 0.0 else 0.0)


@block
def value_rows(code, delta, d, y, t, weights, rows, n, factor):
    """Squared, absolute, Huber, binary and Poisson loss of `rows` rows of `n` outputs, all flat.

    Writes d = factor w_b l'; returns (sum_b w_b l_b, sum_b share of outputs on the right side, for the binary
    loss). `weights` is empty where all are 1; l_b is the mean over outputs.
    """
    loss, correct = 0.0, 0.0
    bound, outputs = like(delta, y[0]), n
    if weights.size == 0:  # one long row
        rows, n = 1, rows * n
    for b in range(rows):
        weight = weights[b] if weights.size else 1.0
        scale = like(factor * weight / outputs, y[0])
        y_row, t_row, d_row = y[b * n : (b + 1) * n], t[b * n : (b + 1) * n], d[b * n : (b + 1) * n]
        if weight == 0.0:
            fill(d_row, 0.0)
            continue
        row = 0.0
        if code == BINARY_CROSS_ENTROPY:
            right = 0
            for j in range(n):
                row += np.float64(binary_loss(y_row[j], t_row[j]))
            for j in range(n):
                right += (y_row[j] > 0) == (t_row[j] > 0.5)
            for j in range(n):
                d_row[j] = scale * (f.sigmoid(y_row[j]) - t_row[j])
            correct += weight * right / outputs
        elif code == POISSON:
            for j in range(n):
                rate = math.exp(y_row[j])
                row += poisson_loss(np.float64(rate), np.float64(y_row[j]), np.float64(t_row[j]))
                d_row[j] = scale * (rate - t_row[j])
        else:
            for j in range(n):
                row += np.float64(error_loss(code, y_row[j] - t_row[j], bound))
            for j in range(n):
                d_row[j] = scale * error_slope(code, y_row[j] - t_row[j], bound)
        loss += weight * row / outputs
    return loss, correct


@block
def cross_entropy_rows(d, z, labels, t, weights, rows, n, factor):
    """Cross entropy of `rows` rows of `n` logits: l_b = log sum_j e^z_bj - z_b,label, or with soft rows t.

    Writes d = factor w_b (p sum t - t); returns (sum_b w_b l_b, sum_b w_b [largest logit is the label]).
    """
    loss, correct = 0.0, 0.0
    for b in range(rows):
        weight = weights[b] if weights.size else 1.0
        scale = like(factor * weight, z[0])
        z_row, p = z[b * n : (b + 1) * n], d[b * n : (b + 1) * n]
        if weight == 0.0:
            fill(p, 0.0)
            continue
        copy(p, z_row)
        top, total = softmax_row(p)
        log_total = np.float64(top) + math.log(np.float64(total))
        if labels.size:
            label = labels[b]
            row = log_total - np.float64(z_row[label])
            right = z_row[label] == top
            for j in range(label):
                right = right and z_row[j] != top
            for j in range(n):
                p[j] *= scale
            p[label] -= scale
        else:
            t_row = t[b * n : (b + 1) * n]
            row, mass, best, best_z = 0.0, 0.0, 0, 0
            for j in range(n):
                if t_row[j] != 0:
                    row += np.float64(t_row[j]) * (log_total - np.float64(z_row[j]))
                mass += np.float64(t_row[j])
                best = j if t_row[j] > t_row[best] else best
                best_z = j if z_row[j] > z_row[best_z] else best_z
            right = best == best_z
            share = like(mass, z[0])
            for j in range(n):
                p[j] = scale * (p[j] * share - t_row[j])
        loss += weight * row
        correct += weight * right
    return loss, correct


@block
def cross_entropy_groups(d, z, labels, weights, rows, n, factor):
    """`cross_entropy_rows` for labels and n <= NARROW logits: GROUP_ROWS rows at once, one logarithm for all of them.

    sum_b log s_b = log prod_b s_b, where 1 <= s_b <= n: the product stays far below the largest float64.
    """
    loss, correct = 0.0, 0.0
    tops, totals, firsts = group_floats(z), group_doubles(z), group_floats(z)
    for b0 in range(0, rows, GROUP_ROWS):
        b1 = min(b0 + GROUP_ROWS, rows)
        logits, p = z[b0 * n : b1 * n], d[b0 * n : b1 * n]
        softmax_group(p, logits, n, tops, totals, firsts)
        if weights.size == 0:
            for i in range(p.size):
                p[i] *= like(factor, p[i])
        product = 1.0
        for r in range(b1 - b0):
            label, weight, scale = labels[b0 + r], 1.0, like(factor, z[0])
            log_total = 0.0
            if weights.size:
                weight = weights[b0 + r]
                row = p[r * n : (r + 1) * n]
                if weight == 0.0:
                    fill(row, 0.0)
                    continue
                scale = like(factor * weight, z[0])
                log_total = math.log(totals[r])
                for j in range(n):
                    row[j] *= scale
            else:
                product *= totals[r]
            p[r * n + label] -= scale
            loss += weight * (np.float64(tops[r]) - np.float64(logits[r * n + label]) + log_total)
            correct += weight * (firsts[r] == label and tops[r] == tops[r])
        loss += math.log(product)
    return loss, correct


@block
def loss_rows_singly(result, code, delta, d, y, labels, t, weights, rows, n, factor):
    """Loss and gradient by code, row by row whatever their length: what a GPU's thread does with its row."""
    if code == CROSS_ENTROPY:
        result[0], result[1] = cross_entropy_rows(d, y, labels, t, weights, rows, n, factor)
    else:
        result[0], result[1] = value_rows(code, delta, d, y, t, weights, rows, n, factor)


@block
def class_loss_rows(result, code, delta, d, y, labels, t, weights, rows, n, factor):
    """Cross entropy of some rows, and its gradient; result = [weighted loss sum, weighted count of correct rows]."""
    if n <= NARROW and labels.size:
        result[0], result[1] = cross_entropy_groups(d, y, labels, weights, rows, n, factor)
    else:
        result[0], result[1] = cross_entropy_rows(d, y, labels, t, weights, rows, n, factor)


@block
def value_loss_rows(result, code, delta, d, y, labels, t, weights, rows, n, factor):
    """`class_loss_rows` for the other losses, by code."""
    result[0], result[1] = value_rows(code, delta, d, y, t, weights, rows, n, factor)


_KINDS = "d[:] i d e[:] e[:] i[:] e[:] d[:] i i d"
CLASS_LOSS = Task(class_loss_rows, _KINDS)
VALUE_LOSS = Task(value_loss_rows, _KINDS)
call_loss_rows = CLASS_LOSS.call


def loss_task(code: int) -> Task:
    """Return the task for rows of the loss with a code."""
    return CLASS_LOSS if code == CROSS_ENTROPY else VALUE_LOSS


@block
def _loss_task(p, element, task, seat):
    numbers, counts, sums = doubles_at(p, NUMBERS), integers_at(p, COUNTS), doubles_at(p, SUMS)
    loss, code, n, per_task = counts[0], counts[1], counts[2], counts[3]
    delta, factor = numbers[0], numbers[1]
    y = floats_at(p, B, element)
    low, high = task * per_task, min((task + 1) * per_task, y.size // n)
    call_loss_rows(
        loss, sums[2 * task : 2 * task + 2], code, delta, floats_at(p, A, element)[low * n : high * n],
        y[low * n : high * n], integers_at(p, LABELS)[low:high], floats_at(p, C, element)[low * n : high * n],
        doubles_at(p, WEIGHTS)[low:high], high - low, n, factor,
    )  # fmt: skip


_LOSS = Task(_loss_task, KINDS)


def rows_per_task(n: int) -> int:
    """Return how many rows of n outputs one parallel block of a loss takes."""
    return max(1, CHUNK // (4 * n))


def _run(
    code: int,
    d: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    w: np.ndarray | None,
    names: str,
    delta: float = 1.0,
) -> float:
    prediction, target = names.split()
    labelled = code == CROSS_ENTROPY and isinstance(t, np.ndarray) and t.dtype.kind in "biu"
    if labelled:
        check_arrays({"d" + prediction: d}, {prediction: y}, {"d" + prediction: (None, None), prediction: np.shape(d)})
        check_array(target, t, dtypes=(np.dtype(np.int64),), shape=y.shape[:1])
        if t.size and (t.min() < 0 or t.max() >= y.shape[1]):
            raise ValueError(f"{target}: got labels from {t.min()} to {t.max()}, expected 0 to {y.shape[1] - 1}")
    else:
        shape = np.shape(d)
        check_arrays(
            {"d" + prediction: d},
            {prediction: y, target: t},
            {"d" + prediction: (None, None), prediction: shape, target: shape},
        )
    for name, other in ((target, t), ("w", w)):
        if isinstance(other, np.ndarray) and np.may_share_memory(d, other):
            raise ValueError(f"d{prediction}: shares memory with {name}, expected arrays that do not overlap")
    rows, n = y.shape
    weights = np.empty(0) if w is None else w
    if w is not None:
        check_array("w", w, shape=(rows,))
        weights = w.astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("w: got a negative or non-finite weight, expected finite weights >= 0")
    total = float(rows) if w is None else float(weights.sum())
    if total == 0.0 or y.size == 0:
        d[:] = 0.0
        return 0.0
    labels = t if labelled else np.empty(0, np.int64)
    targets = np.empty(0, y.dtype) if labelled else t
    per_task = rows_per_task(n)
    n_tasks = -(-rows // per_task)
    sums = np.empty(2 * n_tasks)
    counts = (loss_task(code).address(y.dtype), code, n, per_task)
    share(
        _LOSS, (d, y, targets), n_tasks=n_tasks, numbers=(delta, 1.0 / total), counts=counts, sums=sums,
        weights=weights, labels=labels,
    )  # fmt: skip
    return float(sums[::2].sum()) / total


def squared_error(dy: np.ndarray, y: np.ndarray, t: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean squared error and write its gradient: l_b = mean_j (y_bj - t_bj)^2.

    The survey has half of it (sum (a - y)^2 / 2, with delta = a - y); this is the field's mean, with gradient
    2 (y - t) / n.

    Parameters
    ----------
    dy : array (B, N), out
        Gradient of the returned loss with respect to `y`; overwritten.
    y : array (B, N), in
        Predictions, float32 or float64.
    t : array (B, N), in
        Targets; dtype of `y`.
    w : array (B,), optional
        Weights of the rows, >= 0; 1 by default.

    Returns
    -------
    float
        sum_b w_b l_b / sum_b w_b; 0 where the weights sum to 0.

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape or order, a read-only or overlapping output, a bad weight; nothing is written.
    """
    return _run(SQUARED_ERROR, dy, y, t, w, "y t")


def absolute_error(dy: np.ndarray, y: np.ndarray, t: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean absolute error and write its gradient: l_b = mean_j |y_bj - t_bj|; slope 0 where y = t.

    Parameters, result and errors as in `squared_error`.
    """
    return _run(ABSOLUTE_ERROR, dy, y, t, w, "y t")


def huber(dy: np.ndarray, y: np.ndarray, t: np.ndarray, w: np.ndarray | None = None, delta: float = 1.0) -> float:
    """Return Huber's loss and write its gradient: mean of e^2/2 where |e| <= delta, else delta (|e| - delta/2).

    Parameters, result and errors as in `squared_error`; `delta` > 0. Source: Huber, Ann. Math. Statist. 35,
    1964.
    """
    check_number("delta", delta, low=0, high=math.inf, low_open=True)
    return _run(HUBER, dy, y, t, w, "y t", delta)


def cross_entropy(dz: np.ndarray, z: np.ndarray, t: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the softmax cross entropy of logits and write its gradient: l_b = -sum_j t_bj log softmax(z_b)_j.

    Parameters
    ----------
    dz : array (B, C), out
        Gradient, w_b (softmax(z_b) sum_j t_bj - t_b) / sum w; overwritten.
    z : array (B, C), in
        Logits.
    t : array of int64 (B,), or of the dtype of `z` (B, C), in
        Class labels 0 .. C-1, or one-hot or soft rows.
    w : array (B,), optional
        As in `squared_error`.

    Returns
    -------
    float
        As in `squared_error`.

    Raises
    ------
    TypeError, ValueError
        As in `squared_error`, and for a label out of range.
    """
    return _run(CROSS_ENTROPY, dz, z, t, w, "z t")


def binary_cross_entropy(dz: np.ndarray, z: np.ndarray, t: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the binary cross entropy of logits and write its gradient, (sigmoid(z) - t) / N per output.

    l_b = mean_j [max(z, 0) - z t + log(1 + e^-|z|)], t between 0 and 1.
    Parameters, result and errors as in `squared_error`.
    """
    return _run(BINARY_CROSS_ENTROPY, dz, z, t, w, "z t")


def poisson(dz: np.ndarray, z: np.ndarray, t: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return half the Poisson deviance of log rates and write its gradient, (e^z - t) / N per output.

    l_b = mean_j [e^z - t + t log(t / e^z)], t >= 0; a term with t = 0 is e^z.
    Parameters, result and errors as in `squared_error`. Source: McCullagh and Nelder, Generalized Linear Models, 1989,
    section 2.3.
    """
    if isinstance(t, np.ndarray) and t.dtype.kind == "f" and (t < 0).any():
        raise ValueError(f"t: got {t[t < 0].flat[0]}, expected numbers >= 0")
    return _run(POISSON, dz, z, t, w, "z t")
