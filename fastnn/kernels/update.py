"""Optimizer steps: one pass over parameters, state and gradient, with penalties and clipping folded in.

The total gradient of a weight w with loss gradient d is

    g = scale * clip(d + l2 w + l1 sign(w))

with clip to [-clip_value, clip_value] first and the global-norm factor `scale` after it. Forms and defaults
are PyTorch's; where the survey puts epsilon inside the root (AdaGrad, RMSprop), `eps_inside_sqrt` does.
"""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels._check import check_array, check_arrays
from fastnn.kernels._chunks import CHUNK, COUNTS, NUMBERS, SUMS, A, B, C, D, E, chunk_at, share
from fastnn.kernels._context import doubles_at, integers_at
from fastnn.kernels._errors import check_flag, check_number
from fastnn.kernels._jit import Task, block, formula, inlined
from fastnn.kernels._pool import KINDS
from fastnn.kernels.elementary import absolute, choose, copysign, largest, like

SGD, ADAGRAD, RMSPROP, ADAM, AMSGRAD = range(5)

# Positions in the vector of hyper-parameters that one compiled update reads.
LR, BETA1, BETA2, EPS, EPS_INSIDE, NESTEROV, CENTERED, CLIP_VALUE, CORRECTION1, CORRECTION2, FIRST, EPS_HAT = range(12)
N_HYPER = 12


@formula
def sign(w):
    """-1, 0 or 1."""
    return choose(w == like(0.0, w), like(0.0, w), copysign(like(1.0, w), w))


@formula
def total_gradient(d, w, l1, l2, clip_value, scale):
    """scale * clip(d + l2 w + l1 sign(w), +-clip_value); NaN stays NaN."""
    g = d + l2 * w + l1 * sign(w)
    g = choose(g > clip_value, clip_value, g)
    g = choose(g < -clip_value, -clip_value, g)
    return g * scale


@formula
def soft(w, amount):
    """Soft threshold: sign(w) max(|w| - amount, 0), the proximal map of amount * |w|."""
    size = absolute(w) - amount
    return choose(size > like(0.0, w), copysign(size, w), choose(w != w, w, like(0.0, w)))


@formula
def positive(x):
    """max(x, 0); NaN stays NaN."""
    return largest(x, like(0.0, x))


@formula
def clip_one(g, clip_value, scale):
    """scale * clip(g, +-clip_value); NaN stays NaN."""
    g = choose(g > clip_value, clip_value, g)
    g = choose(g < -clip_value, -clip_value, g)
    return g * scale


@inlined
def _common(w, hyper, l1, l2, scale):
    """What every rule reads, in the float type of `w`: learning rate, penalties, clip value and gradient factor."""
    lr, clip = hyper[LR], hyper[CLIP_VALUE]
    return like(lr, w[0]), like(l1, w[0]), like(l2, w[0]), like(clip, w[0]), like(scale, w[0])


@inlined
def _epsilons(w, hyper):
    """Epsilon inside and outside the root; one of them is 0."""
    inside = hyper[EPS] * hyper[EPS_INSIDE]
    return like(inside, w[0]), like(hyper[EPS] - inside, w[0])


# One step of each rule on one block.
#
# w, d : array (P,)
#     Parameters (in, out) and the loss gradient (in).
# s0, s1, s2 : array (P,) or empty, in and out
#     State, as each rule says.
# hyper : array (N_HYPER,) float64
#     LR .. EPS_HAT as named above; CORRECTION1 = 1 - b1^t, CORRECTION2 = sqrt(1 - b2^t); FIRST is 1 at the first step;
#     EPS_HAT is 1 where Adam's epsilon is added before v is corrected.
# l1, l2, decay, scale : float
#     Penalties, decoupled weight decay and gradient factor of this block.


@block
def sgd_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale):
    """Stochastic gradient descent; s0 is the velocity, or empty without momentum."""
    lr, l1, l2, clip, scale = _common(w, hyper, l1, l2, scale)
    momentum = like(hyper[BETA1], w[0])
    if s0.size == 0:
        for i in range(w.size):
            w[i] -= lr * total_gradient(d[i], w[i], l1, l2, clip, scale)
    else:
        first, nesterov = hyper[FIRST] != 0.0, hyper[NESTEROV] != 0.0
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = g if first else momentum * s0[i] + g
            w[i] -= lr * (g + momentum * s0[i] if nesterov else s0[i])


@block
def adagrad_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale):
    """AdaGrad; s0 is the sum of squares."""
    lr, l1, l2, clip, scale = _common(w, hyper, l1, l2, scale)
    inside, outside = _epsilons(w, hyper)
    for i in range(w.size):
        g = total_gradient(d[i], w[i], l1, l2, clip, scale)
        s0[i] += g * g
        w[i] -= lr * g / (math.sqrt(s0[i] + inside) + outside)


@block
def rmsprop_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale):
    """RMSprop; s0 is the mean square, s1 the velocity or empty, s2 the mean or empty."""
    lr, l1, l2, clip, scale = _common(w, hyper, l1, l2, scale)
    inside, outside = _epsilons(w, hyper)
    momentum, b2, rest2 = like(hyper[BETA1], w[0]), like(hyper[BETA2], w[0]), like(1.0 - hyper[BETA2], w[0])
    centered = hyper[CENTERED] != 0.0
    if s1.size == 0 and not centered:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b2 * s0[i] + rest2 * (g * g)
            w[i] -= lr * g / (math.sqrt(s0[i] + inside) + outside)
    elif not centered:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b2 * s0[i] + rest2 * (g * g)
            s1[i] = momentum * s1[i] + g / (math.sqrt(s0[i] + inside) + outside)
            w[i] -= lr * s1[i]
    elif s1.size == 0:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b2 * s0[i] + rest2 * (g * g)
            s2[i] = b2 * s2[i] + rest2 * g
            w[i] -= lr * g / (math.sqrt(positive(s0[i] - s2[i] * s2[i]) + inside) + outside)
    else:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b2 * s0[i] + rest2 * (g * g)
            s2[i] = b2 * s2[i] + rest2 * g
            s1[i] = momentum * s1[i] + g / (math.sqrt(positive(s0[i] - s2[i] * s2[i]) + inside) + outside)
            w[i] -= lr * s1[i]


@block
def adam_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale):
    """Adam and AdamW; s0 is m, s1 is v, s2 the largest v so far (AMSGrad) or empty."""
    _, l1, l2, clip, scale = _common(w, hyper, l1, l2, scale)
    b1, b2 = like(hyper[BETA1], w[0]), like(hyper[BETA2], w[0])
    rest1, rest2 = like(1.0 - hyper[BETA1], w[0]), like(1.0 - hyper[BETA2], w[0])
    rate, root = like(hyper[LR] / hyper[CORRECTION1], w[0]), like(1.0 / hyper[CORRECTION2], w[0])
    # m_hat / (sqrt(v) / c + eps / c) = m_hat c / (sqrt(v) + eps)
    eps = like(hyper[EPS] / hyper[CORRECTION2] if hyper[EPS_HAT] != 0.0 else hyper[EPS], w[0])
    shrink = like(1.0 - hyper[LR] * decay, w[0])
    if s2.size == 0:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b1 * s0[i] + rest1 * g
            s1[i] = b2 * s1[i] + rest2 * (g * g)
            w[i] = w[i] * shrink - rate * s0[i] / (math.sqrt(s1[i]) * root + eps)
    else:
        for i in range(w.size):
            g = total_gradient(d[i], w[i], l1, l2, clip, scale)
            s0[i] = b1 * s0[i] + rest1 * g
            s1[i] = b2 * s1[i] + rest2 * (g * g)
            s2[i] = choose(s1[i] > s2[i], s1[i], s2[i])
            w[i] = w[i] * shrink - rate * s0[i] / (math.sqrt(s2[i]) * root + eps)


@block
def soft_threshold_block(w, amount):
    """Apply the soft threshold to one block in place."""
    threshold = like(amount, w[0])
    for i in range(w.size):
        w[i] = soft(w[i], threshold)


@block
def penalty_block(w, l1, l2):
    """Return l1 sum|w| + l2/2 sum w^2 of one block, summed in float64."""
    size, square = 0.0, 0.0
    for i in range(w.size):
        value = np.float64(w[i])
        size += abs(value)
        square += value * value
    return l1 * size + 0.5 * l2 * square


@block
def squared_norm_block(d, w, l1, l2, clip_value):
    """Return the sum of squares, in float64, of the clipped total gradient of one block."""
    clip, l1, l2, one = like(clip_value, w[0]), like(l1, w[0]), like(l2, w[0]), like(1.0, w[0])
    total = 0.0
    for i in range(d.size):
        g = np.float64(total_gradient(d[i], w[i], l1, l2, clip, one))
        total += g * g
    return total


_KINDS = "e[:] e[:] e[:] e[:] e[:] d[:] d d d d"
_ADAM = Task(adam_block, _KINDS)
UPDATES = {
    SGD: Task(sgd_block, _KINDS), ADAGRAD: Task(adagrad_block, _KINDS), RMSPROP: Task(rmsprop_block, _KINDS),
    ADAM: _ADAM, AMSGRAD: _ADAM,
}  # fmt: skip
call_update = _ADAM.call


_L1, _L2, _DECAY, _SCALE, _TRUNCATE = range(N_HYPER, N_HYPER + 5)  # behind the hyper-parameters


@block
def _update_task(p, element, task, seat):
    w, d = chunk_at(p, A, element, task), chunk_at(p, B, element, task)
    rule, numbers = integers_at(p, COUNTS)[0], doubles_at(p, NUMBERS)
    call_update(
        rule, w, chunk_at(p, C, element, task), chunk_at(p, D, element, task), chunk_at(p, E, element, task), d,
        numbers, numbers[_L1], numbers[_L2], numbers[_DECAY], numbers[_SCALE],
    )  # fmt: skip
    if numbers[_TRUNCATE] > 0.0:
        soft_threshold_block(w, numbers[_TRUNCATE])


@block
def _penalty_task(p, element, task, seat):
    numbers = doubles_at(p, NUMBERS)
    doubles_at(p, SUMS)[task] = penalty_block(chunk_at(p, A, element, task), numbers[0], numbers[1])


@block
def _square_task(p, element, task, seat):
    d, square = chunk_at(p, A, element, task), 0.0
    for i in range(d.size):
        square += np.float64(d[i]) * np.float64(d[i])
    doubles_at(p, SUMS)[task] = square


@block
def _clip_task(p, element, task, seat):
    d, numbers = chunk_at(p, A, element, task), doubles_at(p, NUMBERS)
    bound, factor = like(numbers[0], d[0]), like(numbers[1], d[0])
    for i in range(d.size):
        d[i] = clip_one(d[i], bound, factor)


@block
def _soft_threshold_task(p, element, task, seat):
    soft_threshold_block(chunk_at(p, A, element, task), doubles_at(p, NUMBERS)[0])


_UPDATE, _PENALTY, _SQUARE = Task(_update_task, KINDS), Task(_penalty_task, KINDS), Task(_square_task, KINDS)
_CLIP, _SOFT_THRESHOLD = Task(_clip_task, KINDS), Task(_soft_threshold_task, KINDS)


def hyper_vector(
    *,
    lr: float,
    b1: float = 0.0,
    b2: float = 0.0,
    eps: float = 0.0,
    eps_inside_sqrt: bool = False,
    nesterov: bool = False,
    centered: bool = False,
    clip_value: float = math.inf,
    step: int = 1,
    eps_hat: bool = False,
) -> np.ndarray:
    """Return the float64 vector of hyper-parameters that each rule reads, for the step counted from 1."""
    correction1, correction2 = 1.0 - b1**step, math.sqrt(1.0 - b2**step)
    return np.array(  # in the order of the positions LR .. EPS_HAT
        [
            lr, b1, b2, eps, bool(eps_inside_sqrt), bool(nesterov), bool(centered), clip_value, correction1,
            correction2, step == 1, bool(eps_hat),
        ],
        np.float64,
    )  # fmt: skip


def _run(
    kind: int,
    param: np.ndarray,
    states: dict[str, np.ndarray | None],
    grad: np.ndarray,
    hyper: np.ndarray,
    options: dict[str, float],
    decay: float = 0.0,
) -> None:
    given = {name: state for name, state in states.items() if state is not None or name not in ("velocity", "mean")}
    shape = np.shape(param)
    check_arrays({"param": param, **given}, {"grad": grad}, dict.fromkeys([*given, "grad"], shape))
    hyper[CLIP_VALUE] = options["clip_value"]
    numbers = [*hyper.tolist(), options["l1"], options["l2"], decay, options["grad_scale"], options["truncate"]]
    empty = np.empty(0, param.dtype)
    slots = [empty if state is None else state for state in states.values()]
    share(_UPDATE, (param, grad, *slots), numbers=numbers, counts=(UPDATES[kind].address(param.dtype),))


def _options(l1: float, l2: float, grad_scale: float, clip_value: float, truncate: float) -> dict[str, float]:
    """Return what every update takes besides its own numbers, checked."""
    return {
        "l1": check_number("l1", l1, low=0),
        "l2": check_number("l2", l2, low=0),
        "grad_scale": check_number("grad_scale", grad_scale),
        "clip_value": check_number("clip_value", clip_value, low=0, high=math.inf),
        "truncate": check_number("truncate", truncate, low=0),
    }


def sgd_update(
    param: np.ndarray,
    velocity: np.ndarray | None,
    grad: np.ndarray,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    step: int = 1,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
) -> None:
    """Do one step of stochastic gradient descent.

        u = momentum u + g  (u = g at step 1);  w -= lr u,  Nesterov: w -= lr (g + momentum u)

    Parameters
    ----------
    param : array, in and out
        Any shape, float32 or float64.
    velocity : array or None, in and out
        u, needed where `momentum` is not 0.
    grad : array, in
        Gradient of the loss; shape and dtype of `param`.
    lr : float
        Learning rate.
    momentum : float
        0 <= momentum < 1.
    nesterov : bool
        Look ahead along the velocity.
    step : int
        Number of this step, from 1.
    l1, l2 : float
        Penalty added to the gradient: l1 sign(w) + l2 w.
    grad_scale : float
        Factor on the whole gradient, as global-norm clipping gives it.
    clip_value : float
        The gradient is clipped to +- this before `grad_scale`.
    truncate : float
        Soft threshold on the new weights (lr * l1 for proximal L1).

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape, order, a read-only or overlapping array, a number out of range; nothing is
        written.

    Notes
    -----
    Sutskever, Martens, Dahl and Hinton, ICML 2013, in PyTorch's form.
    """
    check_number("lr", lr, low=0)
    check_number("momentum", momentum, low=0, high=1, high_open=True)
    check_number("step", step, low=1, high=2**63 - 1, integer=True)
    check_flag("nesterov", nesterov)
    if momentum and velocity is None:
        raise ValueError("velocity: got None, expected an array like param, since momentum is not 0")
    hyper = hyper_vector(lr=lr, b1=momentum, nesterov=nesterov, step=step)
    options = _options(l1, l2, grad_scale, clip_value, truncate)
    _run(SGD, param, {"velocity": velocity if momentum else None}, grad, hyper, options)


def adagrad_update(
    param: np.ndarray,
    g2: np.ndarray,
    grad: np.ndarray,
    lr: float,
    eps: float = 1e-10,
    eps_inside_sqrt: bool = False,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
) -> None:
    """Do one AdaGrad step: G += g^2;  w -= lr g / (sqrt(G) + eps).

    Parameters
    ----------
    param, grad, lr, l1, l2, grad_scale, clip_value, truncate
        As in `sgd_update`.
    g2 : array, in and out
        G, the sum of squared gradients; starts at 0.
    eps : float
        Keeps the first steps finite.
    eps_inside_sqrt : bool
        The survey's form, sqrt(G + eps).

    Notes
    -----
    Duchi, Hazan and Singer, JMLR 12, 2011.
    """
    check_number("lr", lr, low=0)
    check_number("eps", eps, low=0)
    check_flag("eps_inside_sqrt", eps_inside_sqrt)
    hyper = hyper_vector(lr=lr, eps=eps, eps_inside_sqrt=eps_inside_sqrt)
    _run(ADAGRAD, param, {"g2": g2}, grad, hyper, _options(l1, l2, grad_scale, clip_value, truncate))


def rmsprop_update(
    param: np.ndarray,
    v: np.ndarray,
    velocity: np.ndarray | None,
    mean: np.ndarray | None,
    grad: np.ndarray,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    eps_inside_sqrt: bool = False,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
) -> None:
    """Do one RMSprop step: v = alpha v + (1 - alpha) g^2;  w -= lr g / (sqrt(v) + eps).

    With `centered`, v - mean^2 stands for v, mean = alpha mean + (1 - alpha) g; with `momentum`,
    u = momentum u + g / (sqrt(v) + eps) and w -= lr u.

    Parameters
    ----------
    param, grad, lr, l1, l2, grad_scale, clip_value, truncate
        As in `sgd_update`.
    v : array, in and out
        Average of squared gradients; starts at 0.
    velocity, mean : array or None, in and out
        u and mean, needed with `momentum` and with `centered`.
    alpha : float
        0 <= alpha < 1, decay of the averages.
    eps : float
        Added to the root, or inside it with `eps_inside_sqrt` (the survey's form).

    Notes
    -----
    Tieleman and Hinton, Coursera lecture 6.5, 2012; centred: Graves, arXiv:1308.0850, eq. 38-45.
    """
    check_number("lr", lr, low=0)
    check_number("alpha", alpha, low=0, high=1, high_open=True)
    check_number("eps", eps, low=0)
    check_number("momentum", momentum, low=0, high=1, high_open=True)
    if momentum and velocity is None:
        raise ValueError("velocity: got None, expected an array like param, since momentum is not 0")
    check_flag("centered", centered)
    check_flag("eps_inside_sqrt", eps_inside_sqrt)
    if centered and mean is None:
        raise ValueError("mean: got None, expected an array like param, since centered is true")
    hyper = hyper_vector(
        lr=lr,
        b1=momentum,
        b2=alpha,
        eps=eps,
        eps_inside_sqrt=eps_inside_sqrt,
        centered=centered,
    )
    states = {"v": v, "velocity": velocity if momentum else None, "mean": mean if centered else None}
    _run(RMSPROP, param, states, grad, hyper, _options(l1, l2, grad_scale, clip_value, truncate))


def _adam(
    kind: int,
    param: np.ndarray,
    states: dict[str, np.ndarray | None],
    grad: np.ndarray,
    numbers: tuple[float, float, float, float, int, float],
    options: dict[str, float],
    eps_hat: bool = False,
) -> None:
    lr, b1, b2, eps, step, decay = numbers
    check_number("lr", lr, low=0)
    check_number("b1", b1, low=0, high=1, high_open=True)
    check_number("b2", b2, low=0, high=1, high_open=True)
    check_number("eps", eps, low=0)
    check_number("weight_decay", decay, low=0)
    check_number("step", step, low=1, high=2**63 - 1, integer=True)
    check_flag("eps_hat", eps_hat)
    hyper = hyper_vector(lr=lr, b1=b1, b2=b2, eps=eps, step=step, eps_hat=eps_hat)
    _run(kind, param, states, grad, hyper, options, decay)


def adam_update(
    param: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    grad: np.ndarray,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
    step: int,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """Do one Adam step.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2

        w -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - b1^t),  v_hat = v / (1 - b2^t)

    Parameters
    ----------
    param, grad, lr, l1, l2, grad_scale, clip_value, truncate
        As in `sgd_update`.
    m, v : array, in and out
        First and second moment; start at 0.
    b1, b2 : float
        0 <= b < 1, decay of the moments.
    eps : float
        Added to the root.
    step : int
        t, the number of this step, from 1.
    eps_hat : bool
        Add eps before v is corrected, as scikit-learn, Keras and the paper's section 2 do:
        w -= lr m_hat sqrt(1 - b2^t) / (sqrt(v) + eps).

    Notes
    -----
    Kingma and Ba, ICLR 2015, algorithm 1.
    """
    numbers = (lr, b1, b2, eps, step, 0.0)
    options = _options(l1, l2, grad_scale, clip_value, truncate)
    _adam(ADAM, param, {"m": m, "v": v}, grad, numbers, options, eps_hat)


def adamw_update(
    param: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    grad: np.ndarray,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
    step: int,
    weight_decay: float,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
) -> None:
    """Do one AdamW step: w *= 1 - lr weight_decay, then as `adam_update`.

    Parameters
    ----------
    param, m, v, grad, lr, b1, b2, eps, step, l1, l2, grad_scale, clip_value, truncate
        As in `adam_update`.
    weight_decay : float
        Decoupled decay, a share of the weight per unit of learning rate.

    Notes
    -----
    Loshchilov and Hutter, ICLR 2019.
    """
    numbers = (lr, b1, b2, eps, step, weight_decay)
    _adam(ADAM, param, {"m": m, "v": v}, grad, numbers, _options(l1, l2, grad_scale, clip_value, truncate))


def amsgrad_update(
    param: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    vmax: np.ndarray,
    grad: np.ndarray,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
    step: int,
    weight_decay: float = 0.0,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    grad_scale: float = 1.0,
    clip_value: float = math.inf,
    truncate: float = 0.0,
) -> None:
    """Do one AMSGrad step: as `adamw_update` with vmax = max(vmax, v) in place of v.

    Parameters
    ----------
    param, m, v, grad, lr, b1, b2, eps, step, weight_decay, l1, l2, grad_scale, clip_value, truncate
        As in `adamw_update`.
    vmax : array, in and out
        Largest second moment so far; starts at 0.

    Notes
    -----
    Reddi, Kale and Kumar, ICLR 2018; the bias correction is applied to vmax, as in PyTorch.
    """
    numbers = (lr, b1, b2, eps, step, weight_decay)
    options = _options(l1, l2, grad_scale, clip_value, truncate)
    _adam(AMSGRAD, param, {"m": m, "v": v, "vmax": vmax}, grad, numbers, options)


def _sum(task: Task, array: np.ndarray, numbers: tuple[float, ...] = ()) -> float:
    """Return the sum over all chunks of what a task writes for one."""
    sums = np.empty(-(-array.size // CHUNK))
    share(task, (array,), numbers=numbers, sums=sums)
    return float(sums.sum())


def penalty(w: np.ndarray, l1: float, l2: float) -> float:
    """Return l1 sum|w| + l2/2 sum w^2.

    Parameters
    ----------
    w : array, in
        Any shape, float32 or float64.
    l1, l2 : float
        Strengths, >= 0.
    """
    check_array("w", w)
    check_number("l1", l1, low=0)
    check_number("l2", l2, low=0)
    return _sum(_PENALTY, w, (l1, l2))


def global_norm(grad: np.ndarray) -> float:
    """Return sqrt(sum g^2), summed in float64 in fixed blocks.

    Parameters
    ----------
    grad : array, in
        Any shape, float32 or float64.
    """
    check_array("grad", grad)
    return math.sqrt(_sum(_SQUARE, grad))


def clip_by_value(grad: np.ndarray, limit: float) -> None:
    """Clip `grad` in place to [-limit, limit]; NaN stays NaN.

    Parameters
    ----------
    grad : array, in and out
    limit : float
        >= 0.
    """
    check_array("grad", grad, writable=True)
    check_number("limit", limit, low=0, high=math.inf)
    share(_CLIP, (grad,), numbers=(limit, 1.0))


def clip_by_norm(grad: np.ndarray, limit: float) -> float:
    """Scale `grad` in place so that its norm is at most `limit`, and return the norm before.

    Parameters
    ----------
    grad : array, in and out
    limit : float
        >= 0.

    Notes
    -----
    Pascanu, Mikolov and Bengio, ICML 2013.
    """
    check_array("grad", grad, writable=True)
    check_number("limit", limit, low=0, high=math.inf)
    norm = global_norm(grad)
    if norm > limit:
        share(_CLIP, (grad,), numbers=(math.inf, limit / norm))
    return norm


def soft_threshold(w: np.ndarray, amount: float) -> None:
    """Replace w by sign(w) max(|w| - amount, 0) in place: small weights become exactly 0.

    Parameters
    ----------
    w : array, in and out
    amount : float
        >= 0; lr * l1 for the proximal step of an L1 penalty (Parikh and Boyd, *Proximal Algorithms*, 2014,
        6.5.2).
    """
    check_array("w", w, writable=True)
    check_number("amount", amount, low=0)
    share(_SOFT_THRESHOLD, (w,), numbers=(amount,))
