"""R2 of outputs that come some rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class R2:
    """1 - sum w (y - t)^2 / sum w (t - mean)^2 for each output, their mean.

    An output that does not vary counts 1 or 0. Sums of several parts are put together as Chan, Golub and LeVeque do
    (1979), without the cancellation of sum t^2 - n mean^2; means are those of differences to a first row, which are
    exactly 0 where nothing varies.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean: Array = np.zeros(0)
        self._spread: Array = np.zeros(0)
        self._residual: Array = np.zeros(0)

    def add(self, y: Array, t: Array, weights: Array) -> None:
        """Take in outputs `y` (rows, outputs) of targets `t`, with the weights of the rows or none."""
        if len(weights) and not weights.all():  # a row of weight 0 may be no number
            y, t, weights = (each[weights > 0] for each in (y, t, weights))
        w = weights[:, None] if len(weights) else np.ones((len(t), 1))
        total = float(w.sum())
        if total == 0:
            return
        exact = t.astype(np.float64)
        mean = exact[0] + (w * (exact - exact[0])).sum(axis=0) / total
        spread = (w * (exact - mean) ** 2).sum(axis=0)
        residual = (w * (y.astype(np.float64) - exact) ** 2).sum(axis=0)
        if self._weight == 0:
            self._weight, self._mean, self._spread, self._residual = total, mean, spread, residual
            return
        together, apart = self._weight + total, mean - self._mean
        self._spread += spread + apart**2 * (self._weight * total / together)
        self._mean += apart * (total / together)
        self._residual += residual
        self._weight = together

    def value(self) -> float:
        """Return R2 of all that was taken in; NaN where all weights were 0."""
        if self._weight == 0:
            return float("nan")
        constant = self._spread == 0
        met = np.where(np.isnan(self._residual), np.nan, self._residual == 0)
        scores = np.where(constant, met, 1.0 - self._residual / np.where(constant, 1.0, self._spread))
        return float(scores.mean())
