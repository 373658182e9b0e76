"""Optimizer steps, penalties and clipping: against `naive`, PyTorch over 100 steps, and at the edges."""

from __future__ import annotations

import inspect
import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnn.kernels import update

pytestmark = pytest.mark.usefixtures("one_thread")

# Name of a case: (kernel, its states, its numbers). A state is an array like the parameters, or None.
CASES = {
    "sgd": ("sgd_update", {"velocity": False}, {"lr": 0.1}),
    "sgd momentum": ("sgd_update", {"velocity": True}, {"lr": 0.1, "momentum": 0.9}),
    "sgd nesterov": ("sgd_update", {"velocity": True}, {"lr": 0.1, "momentum": 0.7, "nesterov": True}),
    "adagrad": ("adagrad_update", {"g2": True}, {"lr": 0.1, "eps": 1e-10}),
    "adagrad eps inside": ("adagrad_update", {"g2": True}, {"lr": 0.1, "eps": 0.1, "eps_inside_sqrt": True}),
    "rmsprop": (
        "rmsprop_update",
        {"v": True, "velocity": False, "mean": False},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-8},
    ),
    "rmsprop eps inside": (
        "rmsprop_update",
        {"v": True, "velocity": False, "mean": False},
        {"lr": 0.01, "alpha": 0.9, "eps": 0.1, "eps_inside_sqrt": True},
    ),
    "rmsprop momentum": (
        "rmsprop_update",
        {"v": True, "velocity": True, "mean": False},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8},
    ),
    "rmsprop centered": (
        "rmsprop_update",
        {"v": True, "velocity": False, "mean": True},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "centered": True},
    ),
    "rmsprop centered momentum eps inside": (
        "rmsprop_update",
        {"v": True, "velocity": True, "mean": True},
        {"lr": 0.01, "alpha": 0.9, "eps": 0.05, "momentum": 0.8, "centered": True, "eps_inside_sqrt": True},
    ),
    "rmsprop centered momentum": (
        "rmsprop_update",
        {"v": True, "velocity": True, "mean": True},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-2, "momentum": 0.8, "centered": True},
    ),
    "adam": ("adam_update", {"m": True, "v": True}, {"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "adam eps hat": (
        "adam_update",
        {"m": True, "v": True},
        {"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 0.1, "eps_hat": True},
    ),
    "adamw": (
        "adamw_update",
        {"m": True, "v": True},
        {"lr": 0.01, "b1": 0.8, "b2": 0.99, "eps": 1e-4, "weight_decay": 0.3},
    ),
    "amsgrad": (
        "amsgrad_update",
        {"m": True, "v": True, "vmax": True},
        {"lr": 0.01, "b1": 0.9, "b2": 0.9, "eps": 1e-8},
    ),
}
# Every penalty and clipping alone, and all together.
OPTIONS = {
    "plain": {},
    "l1": {"l1": 0.3},
    "l2": {"l2": 0.2},
    "l1 and l2": {"l1": 0.3, "l2": 0.2},
    "scaled": {"grad_scale": 0.35},
    "clipped": {"clip_value": 0.4},
    "clipped with penalties, then scaled": {"l1": 0.3, "l2": 0.2, "clip_value": 0.4, "grad_scale": 0.35},
    "truncated": {"truncate": 0.02},
    "everything": {"l1": 0.1, "l2": 0.2, "clip_value": 0.9, "grad_scale": 1.7, "truncate": 0.01},
}
SIZES = [1, 2, 7, 15, 16, 17, 33, 65, 127, 257]

every_case = pytest.mark.parametrize("case", CASES)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def build(case, size, rng, dtype, guard):
    """(kernel, naive twin, parameters, states, numbers) of a case, the arrays guarded."""
    name, slots, numbers = CASES[case]
    param = rng.normal(size=size)
    param[rng.uniform(size=size) < 0.1] = 0.0  # sign(0) is 0
    states = {slot: guard.state(np.zeros(size), dtype) if used else None for slot, used in slots.items()}
    return getattr(update, name), getattr(naive, name), guard.state(param, dtype), states, numbers


def numbers_at(kernel, numbers, step):
    return {**numbers, "step": step} if "step" in inspect.signature(kernel).parameters else numbers


def copies(states):
    return {slot: None if state is None else state.astype(np.float64) for slot, state in states.items()}


# ---------------------------------------------------------------------------- against the naive twin


@every_case
@every_option
def test_matches_naive(case, options, dtype, rng, guard):
    """Every single step, from the states that the steps before it left."""
    single = dtype == np.float32
    for size in SIZES:
        kernel, twin, param, states, numbers = build(case, size, rng, dtype, guard)
        for step in (1, 2, 3):
            grad = guard.input(rng.normal(size=size), dtype)
            want_param, want_states = param.astype(np.float64), copies(states)
            before, left = want_param.copy(), copies(states)
            twin(want_param, *want_states.values(), grad, **numbers_at(kernel, numbers, step), **options)
            kernel(param, *states.values(), grad, **numbers_at(kernel, numbers, step), **options)
            guard.check()
            # A change of a weight carries a few rounding errors of the largest change, and the sum one of the
            # weight. In centred RMSprop v - mean^2 cancels, in the root of a few thousandths; in Adam 1 - b^t
            # does, in both float64 versions.
            unit = 2.0**-24 if single else 2.0**-53
            steps = 2000 if "centered" in case else (40 if single else 400)
            moved = np.abs(want_param - before).max() + options.get("truncate", 0.0)
            bound = unit * (4 * np.abs(before) + steps * moved)
            assert (np.abs(param - want_param) <= bound).all(), f"{case}, step {step}"
            for slot, want in want_states.items():
                if want is not None:
                    scale = max(np.abs(want).max(), np.abs(left[slot]).max())
                    np.testing.assert_allclose(
                        states[slot], want, rtol=unit * steps, atol=unit * steps * scale, err_msg=slot
                    )


@every_case
def test_same_bits_for_any_number_of_threads(case, dtype, rng, same_bits, guard):
    """Several parallel blocks, the last of them short; an element alone has the same result."""
    size = 40_003
    kernel, _, start, states, numbers = build(case, size, rng, dtype, guard)
    grads = [rng.normal(size=size).astype(dtype) for _ in range(2)]

    def run(param, states, grads):
        for step, grad in enumerate(grads, 1):
            kernel(param, *states.values(), grad, **numbers_at(kernel, numbers, step), **OPTIONS["everything"])
        return (param, *(state for state in states.values() if state is not None))

    def compute():
        fresh = {slot: None if state is None else np.zeros_like(state) for slot, state in states.items()}
        return run(start.copy(), fresh, grads)

    whole = same_bits(compute)
    tail = slice(size - 21, size)
    fresh = {slot: None if state is None else np.zeros(21, dtype) for slot, state in states.items()}
    part = run(start[tail].copy(), fresh, [grad[tail].copy() for grad in grads])
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[tail], other, rtol=0, atol=4 * np.finfo(dtype).eps * np.abs(other).max())


@every_case
def test_shape_does_not_matter(case, dtype, rng, guard):
    kernel, _, flat, states, numbers = build(case, 60, rng, dtype, guard)
    grad = rng.normal(size=60).astype(dtype)
    box = flat.reshape(3, 4, 5).copy()
    box_states = [None if state is None else state.reshape(3, 4, 5).copy() for state in states.values()]
    kernel(flat, *states.values(), grad, **numbers_at(kernel, numbers, 1))
    kernel(box, *box_states, grad.reshape(3, 4, 5), **numbers_at(kernel, numbers, 1))
    np.testing.assert_array_equal(box.reshape(-1), flat)


@every_case
def test_first_step_by_hand(case):
    """One weight of 2, gradient 0.5: written out, not taken from `naive`."""
    name, slots, numbers = CASES[case]
    kernel = getattr(update, name)
    param, grad = np.array([2.0]), np.array([0.5])
    states = [np.zeros(1) if used else None for used in slots.values()]
    kernel(param, *states, grad, **numbers_at(kernel, numbers, 1))
    want = {
        "sgd": 2 - 0.1 * 0.5,
        "sgd momentum": 2 - 0.1 * 0.5,
        "sgd nesterov": 2 - 0.1 * (0.5 + 0.7 * 0.5),
        "adagrad": 2 - 0.1 * 0.5 / (0.5 + 1e-10),
        "adagrad eps inside": 2 - 0.1 * 0.5 / math.sqrt(0.35),
        "rmsprop": 2 - 0.01 * 0.5 / (math.sqrt(0.025) + 1e-8),
        "rmsprop eps inside": 2 - 0.01 * 0.5 / math.sqrt(0.125),
        "rmsprop momentum": 2 - 0.01 * 0.5 / (math.sqrt(0.025) + 1e-3),
        "rmsprop centered": 2 - 0.01 * 0.5 / (0.15 + 1e-3),
        "rmsprop centered momentum eps inside": 2 - 0.01 * 0.5 / math.sqrt(0.0225 + 0.05),
        "rmsprop centered momentum": 2 - 0.01 * 0.5 / (0.15 + 1e-2),
        "adam": 2 - 0.01 * 0.5 / (0.5 + 1e-8),
        "adam eps hat": 2 - 0.01 * 0.5 * math.sqrt(0.001) / (0.5 * math.sqrt(0.001) + 0.1),
        "adamw": 2 * (1 - 0.003) - 0.01 * 0.5 / (0.5 + 1e-4),
        "amsgrad": 2 - 0.01 * 0.5 / (0.5 + 1e-8),
    }[case]
    assert param[0] == pytest.approx(want, rel=1e-14)


def test_first_sgd_step_ignores_what_the_velocity_held(dtype):
    """PyTorch's form: the buffer starts as the gradient, so that no memory is read that nobody wrote."""
    for rubbish in (7.0, np.inf, np.nan):
        param, velocity = np.ones(5, dtype), np.full(5, rubbish, dtype)
        update.sgd_update(param, velocity, np.full(5, 0.5, dtype), 0.5, momentum=0.9, step=1)
        np.testing.assert_array_equal(velocity, np.full(5, 0.5, dtype))
        np.testing.assert_array_equal(param, np.full(5, 0.75, dtype))


def test_centered_rmsprop_survives_a_constant_gradient(dtype):
    """v tends to mean^2, and rounding may put it below: a root of a negative number must not make NaN."""
    for gradient in (0.1, 1 / 3):
        param, v, mean = (np.zeros(4, dtype) for _ in range(3))
        grad = np.full(4, gradient, dtype)
        for _ in range(300):
            update.rmsprop_update(param, v, None, mean, grad, 1e-6, 0.9, 1e-8, centered=True)
            assert np.isfinite(param).all()


def test_long_run_in_float32_follows_float64(rng):
    """100 Adam steps: rounding errors do not pile up."""
    size = 300
    single = [np.zeros(size, np.float32) for _ in range(3)]
    double = [np.zeros(size) for _ in range(3)]
    for step in range(1, 101):
        grad = rng.normal(size=size).astype(np.float32)
        update.adam_update(*single, grad, 0.01, 0.9, 0.999, 1e-8, step)
        update.adam_update(*double, grad.astype(np.float64), 0.01, 0.9, 0.999, 1e-8, step)
    np.testing.assert_allclose(single[0], double[0], rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------- against torch

TORCH = {
    "sgd": ("SGD", {}, {"weight_decay": 0.05}),
    "sgd momentum": ("SGD", {"momentum": 0.9}, {"weight_decay": 0.05}),
    "sgd nesterov": ("SGD", {"momentum": 0.7, "nesterov": True}, {"weight_decay": 0.05}),
    "adagrad": ("Adagrad", {"eps": 1e-10}, {"weight_decay": 0.05}),
    "rmsprop": ("RMSprop", {"alpha": 0.9, "eps": 1e-8}, {"weight_decay": 0.05}),
    "rmsprop momentum": ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "momentum": 0.8}, {"weight_decay": 0.05}),
    "rmsprop centered": ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "centered": True}, {"weight_decay": 0.05}),
    "rmsprop centered momentum": (
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-2, "momentum": 0.8, "centered": True},
        {"weight_decay": 0.05},
    ),
    "adam": ("Adam", {"betas": (0.9, 0.999), "eps": 1e-8}, {"weight_decay": 0.05}),
    # Its weight decay is decoupled, not our l2: always there.
    "adamw": ("AdamW", {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.3}, None),
    "amsgrad": ("Adam", {"betas": (0.9, 0.9), "eps": 1e-8, "amsgrad": True}, {"weight_decay": 0.05}),
}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("case", "with_l2", "clip_value"),
    # PyTorch adds its decay after clipping, and AdamW's is decoupled: l2 alone, and not for AdamW.
    [(case, False, limit) for case in TORCH for limit in (math.inf, 0.5)]
    + [(case, True, math.inf) for case, (_, _, decay) in TORCH.items() if decay],
)
def test_100_steps_against_torch(case, with_l2, clip_value, torch, rng, guard):
    """The same weights, and gradients that each side takes at its own weights: H (w - target) + noise."""
    kernel, _, param, states, numbers = build(case, 23, rng, np.dtype(np.float64), guard)
    name, settings, decay = TORCH[case]
    their = torch.nn.Parameter(torch.tensor(param.copy()))
    optimizer = getattr(torch.optim, name)([their], lr=numbers["lr"], **settings, **(decay if with_l2 else {}))
    square = rng.normal(size=(23, 23))
    curvature, target = square @ square.T / 23, rng.normal(size=23)
    start = param.copy()
    options = {"l2": 0.05 if with_l2 else 0.0, "clip_value": clip_value}
    for step in range(1, 101):
        noise = 0.1 * rng.normal(size=23)
        their.grad = torch.tensor(curvature @ (their.detach().numpy() - target) + noise)
        torch.nn.utils.clip_grad_value_([their], clip_value)
        optimizer.step()
        grad = curvature @ (param - target) + noise
        kernel(param, *states.values(), grad, **numbers_at(kernel, numbers, step), **options)
    np.testing.assert_allclose(param, their.detach().numpy(), rtol=1e-6, atol=1e-10)
    assert np.abs(param - start).max() > 0.05, "nothing was learnt"


# ---------------------------------------------------------------------------- penalties and soft threshold


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_penalty_matches_naive_and_its_gradient(l1, l2, dtype, rng, guard, same_bits):
    for shape in [(1,), (17,), (33, 7), (300, 129)]:
        w = guard.input(rng.normal(size=shape), dtype)
        got = same_bits(lambda w=w: np.float64(update.penalty(w, l1, l2)))
        assert got == pytest.approx(naive.penalty(w, l1, l2), rel=1e-12)
    # The gradient inside the update is the derivative of this number.
    w, h = rng.normal(size=6), 1e-6
    stepped = w.copy()
    update.sgd_update(stepped, None, np.zeros(6), 1.0, l1=l1, l2=l2)
    for i in range(6):
        above, below = w.copy(), w.copy()
        above[i] += h
        below[i] -= h
        slope = (update.penalty(above, l1, l2) - update.penalty(below, l1, l2)) / (2 * h)
        assert w[i] - stepped[i] == pytest.approx(slope, rel=1e-7, abs=1e-9)


def test_penalty_of_many_float32_weights_is_summed_in_float64():
    w = np.full(1_000_003, 0.1, np.float32)
    assert update.penalty(w, 1.0, 0.0) == pytest.approx(float(w[0]) * w.size, rel=1e-12)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.5, 10.0])
def test_soft_threshold_matches_naive(amount, dtype, rng, guard, same_bits):
    for shape in [(1,), (17,), (33, 7), (130, 129)]:
        start = rng.normal(size=shape).astype(dtype)

        def compute(start=start):
            w = guard.state(start)
            update.soft_threshold(w, amount)
            return w

        w = same_bits(compute)
        guard.check()
        want = start.astype(np.float64)
        naive.soft_threshold(want, float(dtype.type(amount)))
        np.testing.assert_allclose(w, want, rtol=0, atol=np.finfo(dtype).eps * np.abs(start).max())
        np.testing.assert_array_equal(w == 0, want == 0)


def test_soft_threshold_edges(dtype):
    w = np.array([0.5, -0.5, np.nextafter(dtype.type(0.5), dtype.type(1)), 0.0, np.nan, np.inf, -np.inf], dtype)
    update.soft_threshold(w, 0.5)
    assert w[0] == w[1] == w[3] == 0.0
    assert w[2] > 0
    assert np.isnan(w[4])
    assert w[5] == np.inf
    assert w[6] == -np.inf


def test_truncating_gives_exact_zeros_where_the_gradient_form_does_not(rng):
    """Proximal L1 on |w - target|^2 / 2: the minimiser is the soft threshold of the target."""
    target, l1, lr = np.linspace(-1, 1, 41), 0.3, 0.1
    truncated, plain = rng.normal(size=41), np.empty(41)
    plain[:] = truncated
    for _ in range(300):
        update.sgd_update(truncated, None, truncated - target, lr, truncate=lr * l1)
        update.sgd_update(plain, None, plain - target, lr, l1=l1)
    want = target.copy()
    naive.soft_threshold(want, l1)
    np.testing.assert_allclose(truncated, want, atol=1e-12)
    np.testing.assert_array_equal(truncated == 0, np.abs(target) < l1 - 1e-9)
    assert (plain != 0).sum() > (truncated != 0).sum()


# ----------------------------------------------------------------------------------------- clipping


def test_clip_by_value_matches_naive(dtype, rng, guard, same_bits):
    for shape in [(1,), (17,), (33, 7), (130, 129)]:
        for limit in (0.0, 0.5, 100.0):
            start = rng.normal(size=shape).astype(dtype)

            def compute(start=start, limit=limit):
                grad = guard.state(start)
                update.clip_by_value(grad, limit)
                return grad

            got = same_bits(compute)
            guard.check()
            np.testing.assert_array_equal(got, np.clip(start, -dtype.type(limit), dtype.type(limit)))


def test_clip_by_value_of_infinities_and_nan(dtype):
    grad = np.array([np.inf, -np.inf, np.nan, 1.0], dtype)
    update.clip_by_value(grad, 2.0)
    np.testing.assert_array_equal(grad, np.array([2.0, -2.0, np.nan, 1.0], dtype))


def test_update_clips_an_infinite_gradient(dtype):
    param = np.ones(3, dtype)
    update.sgd_update(param, None, np.array([np.inf, -np.inf, np.nan], dtype), 0.5, clip_value=1.0)
    np.testing.assert_array_equal(param, np.array([0.5, 1.5, np.nan], dtype))


def test_global_norm_matches_naive(dtype, rng, guard, same_bits):
    for shape in [(1,), (17,), (33, 7), (300, 129)]:
        grad = guard.input(rng.normal(size=shape), dtype)
        got = same_bits(lambda grad=grad: np.float64(update.global_norm(grad)))
        assert got == pytest.approx(naive.global_norm(grad), rel=1e-12)


def test_global_norm_special_values(dtype):
    assert update.global_norm(np.zeros(5, dtype)) == 0.0
    assert update.global_norm(np.array([3.0, 4.0], dtype)) == 5.0
    assert update.global_norm(np.array([1.0, -np.inf], dtype)) == math.inf
    assert math.isnan(update.global_norm(np.array([1.0, np.nan, 2.0], dtype)))
    assert update.global_norm(np.empty(0, dtype)) == 0.0


def test_global_norm_of_float32_neither_overflows_nor_vanishes():
    assert update.global_norm(np.full(4, 1e30, np.float32)) == pytest.approx(2e30, rel=1e-6)
    assert update.global_norm(np.full(4, 1e-30, np.float32)) == pytest.approx(2e-30, rel=1e-6)


@pytest.mark.parametrize("size", [1, 17, 257, 40_003])
def test_clip_by_norm(size, dtype, rng, guard, same_bits):
    start = rng.normal(size=size).astype(dtype)
    norm = naive.global_norm(start)
    for limit in (0.1 * norm, 0.999 * norm, 2 * norm):

        def compute(limit=limit):
            grad = guard.state(start)
            return np.float64(update.clip_by_norm(grad, limit)), grad

        before, grad = same_bits(compute)
        guard.check()
        assert before == pytest.approx(norm, rel=1e-12)
        if limit > norm:
            np.testing.assert_array_equal(grad, start)
        else:
            want = start.astype(np.float64)
            naive.clip_by_norm(want, limit)
            np.testing.assert_allclose(grad, want, rtol=3e-7 if dtype == np.float32 else 1e-14)


def test_clip_by_norm_shows_nan(dtype):
    grad = np.array([1.0, np.nan, 2.0], dtype)
    assert math.isnan(update.clip_by_norm(grad, 1.0))
    assert np.isnan(grad).any()


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50),
    limit=st.floats(1e-3, 1e4),
)
def test_clipped_norm_is_within_the_limit(values, limit):
    grad = np.array(values)
    norm = update.clip_by_norm(grad, limit)
    after = math.sqrt(math.fsum(v * v for v in grad))
    assert after <= limit * (1 + 1e-12)
    assert after == pytest.approx(min(norm, limit), rel=1e-6)


# --------------------------------------------------------------------------------------------- checks


@every_case
def test_broken_arrays_are_refused(case, dtype, rng, refuses):
    name, slots, numbers = CASES[case]
    kernel = getattr(update, name)
    states = {slot: np.zeros((4, 6), dtype) for slot, used in slots.items() if used}
    missing = {slot: None for slot, used in slots.items() if not used}
    grad, param = rng.normal(size=(4, 6)).astype(dtype), rng.normal(size=(4, 6)).astype(dtype)
    refuses(
        kernel,
        ["param", *states],
        param=param,
        **states,
        **missing,
        grad=grad,
        **numbers_at(kernel, numbers, 1),
    )
    for slot in states:
        with pytest.raises((TypeError, ValueError), match=f"{slot}: got"):
            kernel(param=param, **{**states, slot: None}, **missing, grad=grad, **numbers_at(kernel, numbers, 1))


BAD_NUMBERS = {
    "lr": [-0.1, math.nan, "0.1", None, True],
    "momentum": [-0.1, 1.0, math.nan],
    "alpha": [-0.1, 1.0, math.nan],
    "b1": [-0.1, 1.0, math.nan],
    "b2": [-0.1, 1.0, math.nan],
    "eps": [-1e-8, math.nan, "x"],
    "weight_decay": [-0.1, math.nan],
    "step": [0, -1, 1.5, True, None],
    "l1": [-0.1, math.nan, "x"],
    "l2": [-0.1, math.nan, None],
    "clip_value": [-1.0, math.nan, "x", None],
    "grad_scale": [math.nan, "x", None],
    "truncate": [-0.1, math.nan, None],
}


@every_case
def test_broken_numbers_are_refused(case):
    name, slots, numbers = CASES[case]
    kernel = getattr(update, name)
    parameters = inspect.signature(kernel).parameters
    param, grad = np.ones(5), np.ones(5)
    states = [np.zeros(5) if used else None for used in slots.values()]
    tried = 0
    for argument in parameters:
        for bad in BAD_NUMBERS.get(argument, []):
            with pytest.raises((TypeError, ValueError), match=f"{argument}: got"):
                kernel(param, *states, grad, **{**numbers_at(kernel, numbers, 1), argument: bad})
            tried += 1
    assert tried > 15
    assert (param == 1).all()
    assert all(state is None or (state == 0).all() for state in states)


@pytest.mark.parametrize(
    ("kernel", "name", "numbers"),
    [
        (update.soft_threshold, "w", (0.1,)),
        (update.clip_by_value, "grad", (0.1,)),
        (update.clip_by_norm, "grad", (0.1,)),
        (update.global_norm, "grad", ()),
        (update.penalty, "w", (0.1, 0.1)),
    ],
)
def test_one_array_kernels_refuse_broken_arguments(kernel, name, numbers):
    good = np.full((4, 6), 5.0)
    broken = [
        good.astype(np.float16),
        good.astype(np.int64),
        good.astype(object),
        good.tolist(),
        good[:, ::2],
        None,
    ]
    broken += [np.asfortranarray(good)]
    if kernel not in (update.global_norm, update.penalty):
        broken += [good.copy()]
        broken[-1].flags.writeable = False
    for array in broken:
        with pytest.raises((TypeError, ValueError), match=f"{name}: got"):
            kernel(array, *numbers)
        assert array is None or (np.asarray(array) == 5).all()
    for position in range(len(numbers)):
        for bad in (-0.1, math.nan, "x", None):
            with pytest.raises((TypeError, ValueError), match=": got"):
                kernel(good, *numbers[:position], bad, *numbers[position + 1 :])
    assert (good == 5).all()


def test_read_only_gradient_and_weights_are_taken():
    grad = np.full(5, 0.5)
    grad.flags.writeable = False
    param = np.ones(5)
    update.sgd_update(param, None, grad, 0.5)
    np.testing.assert_array_equal(param, np.full(5, 0.75))
    assert update.global_norm(grad) == pytest.approx(0.5 * math.sqrt(5))
    assert update.penalty(grad, 1.0, 0.0) == 2.5


def test_empty_arrays(dtype):
    empty = [np.empty(0, dtype) for _ in range(4)]
    update.adam_update(*empty, 0.1, 0.9, 0.999, 1e-8, 1)
    update.soft_threshold(empty[0], 0.1)
    update.clip_by_value(empty[0], 0.1)
    assert update.clip_by_norm(empty[0], 0.1) == 0.0
    assert update.penalty(empty[0], 1.0, 1.0) == 0.0
