"""What a network makes of rows, in blocks that stay in the caches: outputs, losses, scores."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
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
    out = np.empty((data.rows, runtime.network.units), runtime.network.dtype)
    for first, last in _calls(runtime, data.rows):
        runtime.forward(data, first, last - first, out[first:last])
    return out


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
        block = runtime.blocks_of_rows(data.rows)
        for first, last in _calls(runtime, data.rows):
            if not first:  # no later call takes more rows
                room = np.empty((last, runtime.network.units), runtime.network.dtype)
            out = room[: last - first]
            report = np.zeros((-(-len(out) // block), layout.N_REPORT))
            runtime.forward(data, first, len(out), out, report)
            reports.append(report)
            if not of_classes:
                r2.add(out, data.targets[first:last], data.weights[first:last])
    columns = np.concatenate(reports).T
    weight, loss, correct = (
        float(columns[at].sum()) for at in (layout.REPORT_WEIGHT, layout.REPORT_LOSS, layout.REPORT_CORRECT)
    )
    score = {"accuracy": correct / weight if weight > 0 else math.nan} if of_classes else {"r2": r2.value()}
    return {"loss": loss / weight if weight > 0 else math.nan, **score}


def _calls(runtime: Runtime, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each call: some blocks of rows, a function of the network alone."""
    block = runtime.blocks_of_rows(rows)
    rows_a_call = block * max(1, min(16, _CALL_FLOPS // (2 * runtime.network.params_size * block)))
    with ProgressBar(rows, not sys.stderr.isatty()) as bar:
        for first in range(0, rows, rows_a_call):
            last = min(rows, first + rows_a_call)
            yield first, last
            bar.update(last - first)


def probabilities_of(logits: Array, kind: str) -> Array:
    """Return the softmax or sigmoid of logits."""
    result = np.empty_like(logits)
    if kind == "softmax":
        softmax_forward(result, logits)
    else:
        activation_forward(result, logits, "sigmoid")
    return result
