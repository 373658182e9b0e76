"""Optimizer steps, penalties and clipping on device arrays, by the CPU's formulas and loops.

A thread takes every so-many-th element of a vector, so that neighbouring threads read neighbouring numbers, and runs
the CPU's loop over them.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from fastnn.cuda._arrays import address, check_array, check_arrays, empty, flat
from fastnn.cuda._formulas import like, on_device
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import cuda, device_function, kernel
from fastnn.cuda.loss import total_of
from fastnn.cuda.reduction import block_total
from fastnn.cuda.tile import THREADS
from fastnn.cuda.vector import load4, store4
from fastnn.kernels import update as on_cpu
from fastnn.kernels._errors import check_number

sgd_block, adagrad_block = on_device(on_cpu.sgd_block), on_device(on_cpu.adagrad_block)
rmsprop_block, adam_block = on_device(on_cpu.rmsprop_block), on_device(on_cpu.adam_block)
penalty_block = on_device(on_cpu.penalty_block)
squared_norm_block = on_device(on_cpu.squared_norm_block)
soft_threshold_block = on_device(on_cpu.soft_threshold_block)
clip_one = on_device(on_cpu.clip_one)


@device_function
def update_block(kind, w, s0, s1, s2, d, hyper, l1, l2, decay, scale, truncate):
    """Do one step of the optimizer `kind` on some numbers, then the soft threshold."""
    if kind == on_cpu.SGD:
        sgd_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale)
    elif kind == on_cpu.ADAGRAD:
        adagrad_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale)
    elif kind == on_cpu.RMSPROP:
        rmsprop_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale)
    else:
        adam_block(w, s0, s1, s2, d, hyper, l1, l2, decay, scale)
    if truncate > 0.0:
        soft_threshold_block(w, truncate)


@device_function
def fetch_four(own, values, first, high, aligned):
    """Copy four numbers into a thread's own array, 0 where there are fewer; `aligned`: `values` begin at 16 bytes."""
    if aligned and first & 3 == 0 and first + 4 <= high:
        own[0], own[1], own[2], own[3] = load4(values, first)
    else:
        for x in range(4):
            own[x] = values[first + x] if first + x < high else like(0.0, values[first])


@device_function
def put_four(values, own, first, high, aligned):
    """Copy them back."""
    if aligned and first & 3 == 0 and first + 4 <= high:
        store4(values, first, (own[0], own[1], own[2], own[3]))
    else:
        for x in range(4):
            if first + x < high:
                values[first + x] = own[x]


@device_function
def update_four(
    kind,
    w,
    s0,
    at0,
    s1,
    at1,
    s2,
    at2,
    d,
    hyper,
    l1,
    l2,
    decay,
    scale,
    truncate,
    first,
    high,
    aligned,
    penalised,
    own_l1,
):
    """Do the step on w[first : first + 4], less from `high` on, whose gradient is d; returns their penalty where asked.

    Their state begins at s0[at0 + first] and so on; -1 where there is none. All that a thread reads is on its way
    before it works out the first number. The penalty has `own_l1` in place of `l1`.
    """
    own = cuda.local.array(4, w.dtype)
    own0 = cuda.local.array(4, w.dtype)
    own1 = cuda.local.array(4, w.dtype)
    own2 = cuda.local.array(4, w.dtype)
    fetch_four(own, w, first, high, aligned)
    if at0 >= 0:
        fetch_four(own0, s0, at0 + first, at0 + high, aligned)
    if at1 >= 0:
        fetch_four(own1, s1, at1 + first, at1 + high, aligned)
    if at2 >= 0:
        fetch_four(own2, s2, at2 + first, at2 + high, aligned)
    penalty = penalty_block(own, own_l1, l2) if penalised else 0.0
    update_block(
        kind, own, own0[: 4 if at0 >= 0 else 0], own1[: 4 if at1 >= 0 else 0], own2[: 4 if at2 >= 0 else 0], d, hyper,
        l1, l2, decay, scale, truncate,
    )  # fmt: skip
    put_four(w, own, first, high, aligned)
    if at0 >= 0:
        put_four(s0, own0, at0 + first, at0 + high, aligned)
    if at1 >= 0:
        put_four(s1, own1, at1 + first, at1 + high, aligned)
    if at2 >= 0:
        put_four(s2, own2, at2 + first, at2 + high, aligned)
    return penalty


@kernel
def _update(kind, w, s0, at0, s1, at1, s2, at2, d, hyper, l1, l2, decay, scale, truncate, aligned):
    first, own = 4 * cuda.grid(1), cuda.local.array(4, w.dtype)
    while first < w.size:
        fetch_four(own, d, first, w.size, aligned)
        update_four(
            kind, w, s0, at0, s1, at1, s2, at2, own, hyper, l1, l2, decay, scale, truncate, first, w.size, aligned,
            False, l1,
        )  # fmt: skip
        first += 4 * cuda.gridsize(1)


@kernel
def _penalty(partial, w, l1, l2):
    lanes = cuda.shared.array(THREADS, numba.float64)
    first, stride = cuda.grid(1), cuda.gridsize(1)
    total = block_total(penalty_block(w[first::stride], l1, l2), lanes)
    if cuda.threadIdx.x == 0:
        partial[cuda.blockIdx.x] = total


@kernel
def _squared_norm(partial, d):
    lanes = cuda.shared.array(THREADS, numba.float64)
    total = 0.0
    for i in range(cuda.grid(1), d.size, cuda.gridsize(1)):
        total += np.float64(d[i]) * np.float64(d[i])
    total = block_total(total, lanes)
    if cuda.threadIdx.x == 0:
        partial[cuda.blockIdx.x] = total


@kernel
def _clip(d, limit, scale):
    for i in range(cuda.grid(1), d.size, cuda.gridsize(1)):
        d[i] = clip_one(d[i], like(limit, d[i]), like(scale, d[i]))


@kernel
def _soft_threshold(w, amount):
    first = cuda.grid(1)
    if first < w.size:
        soft_threshold_block(w[first :: cuda.gridsize(1)], amount)


def _run(
    kind: int,
    param: Any,
    states: dict[str, Any],
    grad: Any,
    hyper: np.ndarray,
    options: dict[str, float],
    decay: float = 0.0,
) -> None:
    """Do one optimizer step on device arrays, in place of `kernels/update._run`."""
    given = {name: state for name, state in states.items() if state is not None or name not in ("velocity", "mean")}
    shape = getattr(param, "shape", None)
    arrays = check_arrays({"param": param, **given}, {"grad": grad}, dict.fromkeys([*given, "grad"], shape))
    l1, l2, scale, truncate = (options[name] for name in ("l1", "l2", "grad_scale", "truncate"))
    hyper[on_cpu.CLIP_VALUE] = options["clip_value"]
    size = arrays["param"].size
    if size == 0:
        return
    kept = [flat(arrays[name]) if name in given else None for name in states] + [None] * (3 - len(states))
    param, own_grad = flat(arrays["param"]), flat(arrays["grad"])
    slots = [(param, -1) if state is None else (state, 0) for state in kept]
    aligned = all(address(array) % 16 == 0 for array in (param, own_grad, *(state for state, _ in slots)))
    launch(
        _update, grid_of(size), kind, param, *slots[0], *slots[1], *slots[2], own_grad, tuple(hyper.tolist()), l1, l2,
        float(decay), scale, truncate, aligned,
    )  # fmt: skip


def _on_device_arrays(function: Callable[..., Any], **replaced: Any) -> Callable[..., None]:
    """Return a CPU update that ends in this module's `_run`: its checks and numbers are the same."""
    twin = types.FunctionType(
        function.__code__, {**function.__globals__, "_run": _run, **replaced}, function.__name__, function.__defaults__
    )
    functools.update_wrapper(twin, function)
    twin.__kwdefaults__, twin.__module__ = function.__kwdefaults__, __name__
    del twin.__wrapped__  # type: ignore[attr-defined]
    return twin


_adam = _on_device_arrays(on_cpu._adam)
sgd_update = _on_device_arrays(on_cpu.sgd_update)
adagrad_update = _on_device_arrays(on_cpu.adagrad_update)
rmsprop_update = _on_device_arrays(on_cpu.rmsprop_update)
adam_update = _on_device_arrays(on_cpu.adam_update, _adam=_adam)
adamw_update = _on_device_arrays(on_cpu.adamw_update, _adam=_adam)
amsgrad_update = _on_device_arrays(on_cpu.amsgrad_update, _adam=_adam)


def _total(kernel_: Any, size: int, *arguments: Any) -> float:
    blocks = grid_of(size)
    partial = empty(blocks, np.float64)
    launch(kernel_, blocks, partial, *arguments)
    return total_of(partial, blocks)


def penalty(w: Any, l1: float, l2: float) -> float:
    """Return l1 sum|w| + l2/2 sum w^2: `fastnn.kernels.penalty` on a device array."""
    view = check_array("w", w)
    check_number("l1", l1, low=0)
    check_number("l2", l2, low=0)
    return _total(_penalty, view.size, flat(view), float(l1), float(l2)) if view.size else 0.0


def global_norm(grad: Any) -> float:
    """Return sqrt(sum g^2), summed in float64: `fastnn.kernels.global_norm` on a device array."""
    view = check_array("grad", grad)
    return math.sqrt(_total(_squared_norm, view.size, flat(view))) if view.size else 0.0


def clip_by_value(grad: Any, limit: float) -> None:
    """Clip `grad` in place to [-limit, limit]: `fastnn.kernels.clip_by_value` on a device array."""
    view = check_array("grad", grad, writable=True)
    check_number("limit", limit, low=0, high=math.inf)
    if view.size:
        launch(_clip, grid_of(view.size), flat(view), float(limit), 1.0)


def clip_by_norm(grad: Any, limit: float) -> float:
    """Scale `grad` in place to a norm of at most `limit`, return the norm before; as `fastnn.kernels`."""
    view = check_array("grad", grad, writable=True)
    check_number("limit", limit, low=0, high=math.inf)
    norm = global_norm(view)
    if norm > limit:
        launch(_clip, grid_of(view.size), flat(view), math.inf, limit / norm)
    return norm


def soft_threshold(w: Any, amount: float) -> None:
    """Replace w by sign(w) max(|w| - amount, 0) in place: `fastnn.kernels.soft_threshold` on a device array."""
    view = check_array("w", w, writable=True)
    check_number("amount", amount, low=0)
    if view.size:
        launch(_soft_threshold, grid_of(view.size), flat(view), float(amount))
