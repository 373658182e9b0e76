"""L-BFGS: SciPy's minimiser on the flat vector of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastnn.estimators._compat import warn
from fastnn.estimators._engine import Engine
from fastnn.estimators._samples import Samples


class _StopFit(Exception):
    """A callback asked for the end."""


def minimize_loss(
    engine: Engine,
    samples: Samples,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    after_iteration: Callable[[int, float], bool],
) -> tuple[float, int]:
    """Train by L-BFGS on all rows; return the loss at the end and the number of iterations.

    Parameters
    ----------
    engine : Engine
        In float64: the search ends where the loss stands still, to 1e-9 of it. Its parameters are the start, and at the
        end the result.
    samples : Samples
    max_iter, max_fun : int
        Iterations and evaluations at most.
    tol : float
        Largest element of the projected gradient at which the search ends.
    after_iteration : callable (iterations, loss) -> bool
        Called with the engine's parameters at the point reached; True ends the search.

    Warns
    -----
    ConvergenceWarning
        If a limit was reached first.
    """
    rows = engine.runtime.blocks_of_rows(samples.rows)
    evaluated: dict[bytes, float] = {}
    reached = (engine.params.astype(np.float64), float("nan"), 0)

    def evaluate(vector: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        engine.params[:] = vector
        loss, gradient = engine.gradient(samples, rows)
        evaluated[vector.tobytes()] = loss
        return loss, gradient

    def iteration(vector: npt.NDArray[np.float64]) -> None:
        nonlocal reached
        loss = evaluated.get(vector.tobytes(), float("nan"))
        evaluated.clear()
        engine.params[:] = vector
        reached = (vector.copy(), loss, reached[2] + 1)
        if after_iteration(reached[2], loss):
            raise _StopFit

    try:
        result: Any = minimize(
            evaluate,
            reached[0],
            method="L-BFGS-B",
            jac=True,
            callback=iteration,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    except _StopFit:
        vector, loss, iterations = reached
    else:
        vector, loss, iterations = result.x, float(result.fun), min(int(result.nit), max_iter)
        if result.status != 0:
            warn(
                f"lbfgs failed to converge after {iterations} iterations ({_text(result.message)}); "
                "a larger max_iter or max_fun, or scaled data, may help",
                ConvergenceWarning,
            )
    finally:
        engine.forget_data()
    engine.params[:] = vector
    return loss, iterations


def _text(message: Any) -> str:
    return message.decode("latin1") if isinstance(message, bytes) else str(message)
