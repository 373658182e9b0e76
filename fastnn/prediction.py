"""What a network makes of rows, in blocks that stay in the caches: outputs, losses, scores."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.feeds import Feed
from fastnn.kernels import activation_forward, layout, softmax_forward
from fastnn.progress import ProgressBar
from fastnn.runtime import Runtime
from fastnn.scores import R2
from fastnn.sparse import Rows

Array = npt.NDArray[Any]

_CALL_FLOPS = 2_000_000_000
"""Half a second of work at most, even on a slow core: Ctrl-C is served between two calls."""


def outputs_of(runtime: Runtime, data: Rows) -> Array:
    """Return the outputs of all rows, with a progress bar."""
    return _forward(runtime, data, None)


def outputs_of_feed(runtime: Runtime, feed: Feed) -> Array:
    """Return the outputs of rows that come buffer by buffer."""
    out = np.empty((feed.rows, runtime.network.units), runtime.network.dtype)
    done = 0
    for data, _ in feed.buffers(runtime.blocks_of_rows(feed.rows)):
        out[done : done + data.rows] = outputs_of(runtime, data)
        done += data.rows
    return out


def scores_of(runtime: Runtime, feed: Feed) -> dict[str, float]:
    """Return the loss without penalties, and the accuracy of classes or the R2 of values."""
    reports, r2, of_classes = [], R2(), runtime.network.loss.folds is not None
    for data, _ in feed.buffers(runtime.blocks_of_rows(feed.rows)):
        report = np.zeros((-(-data.rows // runtime.blocks_of_rows(data.rows)), layout.N_REPORT))
        out = _forward(runtime, data, report)
        reports.append(report)
        if not of_classes:
            r2.add(out, data.targets, data.weights)
    columns = np.concatenate(reports).T
    weight, loss, correct = (
        float(columns[at].sum()) for at in (layout.REPORT_WEIGHT, layout.REPORT_LOSS, layout.REPORT_CORRECT)
    )
    score = {"accuracy": correct / weight if weight > 0 else math.nan} if of_classes else {"r2": r2.value()}
    return {"loss": loss / weight if weight > 0 else math.nan, **score}


def _forward(runtime: Runtime, data: Rows, report: npt.NDArray[np.float64] | None) -> Array:
    """Return the outputs of all rows and, where there is a report, write into it the loss of each block of them."""
    network, rows = runtime.network, data.rows
    out = np.empty((rows, network.units), network.dtype)
    block = runtime.blocks_of_rows(rows)
    blocks_a_call = max(1, min(16, _CALL_FLOPS // (2 * network.params_size * block)))
    with ProgressBar(rows, not sys.stderr.isatty()) as bar:
        for first in range(0, rows, block * blocks_a_call):
            last = min(rows, first + block * blocks_a_call)
            part = None if report is None else report[first // block : -(-last // block)]
            runtime.forward(data, first, last - first, out[first:last], part)
            bar.update(last - first)
    return out


def probabilities_of(logits: Array, kind: str) -> Array:
    """Return the softmax or sigmoid of logits."""
    result = np.empty_like(logits)
    if kind == "softmax":
        softmax_forward(result, logits)
    else:
        activation_forward(result, logits, "sigmoid")
    return result
