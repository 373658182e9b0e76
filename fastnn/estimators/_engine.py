"""One network of an estimator: its parameters in a flat vector, and the compiled calls on them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.devices import HERE, Place, check_precision, runtime_on
from fastnn.estimators._optimizer import Steps
from fastnn.estimators._samples import Samples
from fastnn.kernels import layout
from fastnn.layers import Dense, Dropout, Layer
from fastnn.losses import AbsoluteError, BinaryCrossEntropy, CrossEntropy, Huber, Loss, SquaredError
from fastnn.network import Network, aligned_empty
from fastnn.optimizers import SGD, Optimizer
from fastnn.sparse import Rows
from fastnn.training import ROWS_A_CALL, next_steps

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Poisson(Loss):
    """e^z - t + t log(t / e^z), half the Poisson deviance of the rate e^z."""

    name = "poisson"
    takes = "values"


@dataclass(frozen=True)
class Objective:
    """A loss in scikit-learn's measure: what it reports, and what it takes the gradient of.

    Parameters
    ----------
    loss : Loss
        A mean over outputs.
    last : str
        Activation of the last layer in our network, worked out by the loss where the loss takes logits.
    name : str
        What scikit-learn calls the output's activation.
    halved, summed : bool
        Whether the reported loss is halved, and whether it is a sum over outputs. The gradient is halved as well, and
        always that of the sum.
    """

    loss: Loss
    last: str | None
    name: str
    halved: bool = False
    summed: bool = False

    def reported(self, outputs: int) -> float:
        """Factor from the kernel's loss to the reported one."""
        return (0.5 if self.halved else 1.0) * (outputs if self.summed else 1)

    def gradient(self, outputs: int) -> float:
        """Factor from the kernel's gradient to the one that is followed."""
        mean_over_outputs = not isinstance(self.loss, CrossEntropy)
        return (0.5 if self.halved else 1.0) * (outputs if mean_over_outputs else 1)


CLASSES = Objective(CrossEntropy(), "softmax", "softmax")
LABELS = Objective(BinaryCrossEntropy(), "sigmoid", "logistic", summed=True)
VALUES = {
    "squared_error": Objective(SquaredError(), None, "identity", halved=True),
    "poisson": Objective(Poisson(), None, "exp", summed=True),
    "absolute_error": Objective(AbsoluteError(), None, "identity"),
    "huber": Objective(Huber(), None, "identity"),
}

OUTPUTS = {objective.name: objective for objective in (CLASSES, LABELS, VALUES["squared_error"], VALUES["poisson"])}
"""An objective by the output's activation, for prediction, where nothing else of it matters."""

_MOST_KEPT = 1 << 22
"""Largest training workspace, in elements and roughly, that is kept for the next fit."""


def value_objective(loss: str | Loss) -> Objective:
    """Return the objective of a regressor's `loss`."""
    return Objective(loss, None, "identity") if isinstance(loss, Huber) else VALUES[str(loss)]


@dataclass(frozen=True)
class Shape:
    """All that makes two networks different, weights aside.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, hidden layers, outputs.
    activations : tuple of str
        Of each hidden layer, fastnn's names.
    dropout : tuple of float
        Behind each hidden layer.
    objective : Objective
    dtype : numpy dtype
    l1, l2 : float
        Penalties, divided by the batch's weight.
    truncate : bool
        Whether L1 is a soft threshold after each step.
    n_threads : int or None
    place : Place
        Where it runs.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    dropout: tuple[float, ...]
    objective: Objective
    dtype: np.dtype[Any]
    l1: float
    l2: float
    truncate: bool
    n_threads: int | None
    place: Place = HERE

    @property
    def outputs(self) -> tuple[Any, ...]:
        """All that the outputs depend on, weights aside."""
        return self.sizes, self.activations, self.objective.name, self.dtype, self.n_threads, self.place

    def network(self) -> Network:
        """Return the network as data."""
        layers: list[Layer] = []
        for units, activation, rate in zip(self.sizes[1:-1], self.activations, self.dropout, strict=True):
            layers += [Dense(units, activation), *([Dropout(rate)] if rate else [])]
        layers.append(Dense(self.sizes[-1], self.objective.last))
        return Network(layers, self.sizes[0], self.objective.loss, self.dtype, self.l1, self.l2)


class Engine:
    """A network with room for its weights, for prediction and, with the rule of an optimizer, for training.

    Parameters
    ----------
    shape : Shape
    rule : Optimizer, optional
        Which update the training steps do.
    seed : int
        Of the dropout masks.
    """

    def __init__(self, shape: Shape, rule: Optimizer | None = None, seed: int = 0) -> None:
        self.shape, self.rule, self.seed = shape, rule, seed
        check_precision(shape.place.matmul_precision, shape.dtype)
        self.network = shape.network()
        self.runtime = runtime_on(shape.place)(self.network, rule or SGD(), shape.truncate, seed, shape.n_threads)
        self.runtime.loss_scale = shape.objective.gradient(shape.sizes[-1])
        self.runtime.penalty_per_weight = True
        self._view_params()
        self._handed_out = False
        self._decay = np.zeros_like(self.runtime.params)
        for coef in self.network.views(self._decay)[0::2]:
            coef[:] = shape.l2
        self._steps_a_call = 1
        self._calls: tuple[tuple[int, ...], tuple[Any, ...], Callable[..., None]] | None = None
        self._gradient_calls: tuple[Rows, int, Callable[[int, int], Array]] | None = None

    def _view_params(self) -> None:
        views = self.network.views(self.runtime.params)
        self.coefs, self.intercepts = views[0::2], views[1::2]

    def hand_out(self) -> tuple[list[Array], list[Array]]:
        """Return the weights and the biases as views, which others may keep."""
        self._handed_out = True
        return list(self.coefs), list(self.intercepts)

    @property
    def params(self) -> Array:
        """All parameters, one flat vector."""
        return self.runtime.params

    @property
    def large(self) -> bool:
        """Whether the workspace of training takes more memory than another one takes time."""
        return self.runtime.rows * sum(self.shape.sizes) > _MOST_KEPT

    def load(self, coefs: Sequence[Any], intercepts: Sequence[Any], anew: bool = False) -> None:
        """Take over weights that are not this engine's own views, and leave views that were handed out as they are.

        `anew` takes own views over too, so that training leaves what was handed out as it is.

        Raises
        ------
        ValueError
            For another number of layers or another shape.
        """
        own, given = [*self.coefs, *self.intercepts], [*coefs, *intercepts]
        if [np.shape(array) for array in given] != [array.shape for array in own]:
            raise ValueError(
                f"hidden_layer_sizes: got layers of {self.shape.sizes}, "
                f"but the fitted weights have shapes {', '.join(str(np.shape(coef)) for coef in coefs)}"
            )
        if not anew and all(mine is other for mine, other in zip(own, given, strict=True)):
            return
        renew = self._handed_out
        params = aligned_empty(self.network.params_size, self.shape.dtype) if renew else self.runtime.params
        if renew:
            params[:] = 0.0
        views = self.network.views(params)
        for mine, other in zip([*views[0::2], *views[1::2]], given, strict=True):
            mine[:] = other
        if renew:  # only now: other threads may predict meanwhile
            self.runtime.params = params
            self._view_params()
            self._handed_out = False

    def forward(self, samples: Samples) -> Array:
        """Return the outputs of all rows: probabilities, values, or the rates of a Poisson loss."""
        out = np.empty((samples.rows, self.shape.sizes[-1]), self.shape.dtype)
        for data, start, first, rows in samples.blocks(samples.rows):
            self.runtime.forward(data, start, rows, out[first : first + rows])
        if self.shape.objective.name == "exp":
            with np.errstate(over="ignore"):
                np.exp(out, out=out)
        return out

    def loss(self, samples: Samples) -> float:
        """Return the weighted mean loss of all rows, without penalties and dropout."""
        total = 0.0
        for data, start, _, rows in samples.blocks(samples.rows):
            report = np.zeros((-(-rows // self.runtime.blocks_of_rows(data.rows)), layout.N_REPORT))
            self.runtime.forward(data, start, rows, np.empty((rows, self.shape.sizes[-1]), self.shape.dtype), report)
            total += report[:, layout.REPORT_LOSS].sum()
        return self.shape.objective.reported(self.shape.sizes[-1]) * total / samples.weight

    def gradient(self, samples: Samples, rows: int) -> tuple[float, Array]:
        """Return the objective on all rows (loss and L2 penalty) and its gradient by the flat vector, in float64.

        `rows` are looked at together.
        """
        total, gradient = 0.0, np.zeros(len(self.params))
        for data, start, _, n in samples.blocks(rows):
            kept = self._gradient_calls
            if kept is None or kept[0] is not data or kept[1] < n:
                kept = self._gradient_calls = (data, n, self.runtime.gradient_calls(data, n))
            report = kept[2](start, n)
            total += report[0, layout.REPORT_LOSS]
            gradient += report[0, layout.REPORT_WEIGHT] * self.runtime.grads.astype(np.float64)
        params = self.params.astype(np.float64)
        penalty = 0.5 * float((self._decay * params) @ params)
        gradient += self._decay * params
        loss = self.shape.objective.reported(self.shape.sizes[-1]) * total + penalty
        return loss / samples.weight, gradient / samples.weight

    def train(self, samples: Samples, order: Array, batch: int, steps: Steps) -> float:
        """Take all steps of one epoch and return its loss, penalties included; NaN where it was not finite.

        Parameters
        ----------
        samples : Samples
        order : array of int64 (rows,) or (0,)
            The order of the rows; (0,) as they stand.
        batch : int
            Rows a step.
        steps : Steps
            The optimizer's state and learning rates; its counters go on.
        """
        n = -(-samples.rows // batch)
        rates = steps.rates(n)
        report = np.zeros((n, layout.N_REPORT))
        done = 0
        while done < n:
            stop = min(n, done + self._steps_a_call, done + max(1, samples.rows_at_a_time // batch))
            first, last = done * batch, min(samples.rows, stop * batch)
            data, rows, start = samples.part(order, first, last)
            before = time.perf_counter()
            call = self._training_calls(data, batch, steps)
            call(rows, start, last - first, steps.step + done, rates[done:stop], report[done:stop])
            self._steps_a_call = next_steps(self._steps_a_call, stop - done, time.perf_counter() - before)
            if not report[stop - 1, layout.REPORT_ROWS]:
                self.runtime.to_host()
                return math.nan
            done = stop
        steps.step += n
        self.runtime.to_host()
        return self._epoch_loss(report)

    def epochs_a_call(self, samples: Samples, batch: int, steps: Steps) -> int:
        """Return how many epochs `train_epochs` shall take at most; 1 for one by one."""
        if not steps.alike or samples.rows_at_a_time < samples.rows:
            return 1
        return max(1, min(self._steps_a_call // -(-samples.rows // batch), ROWS_A_CALL // samples.rows))

    def train_epochs(self, samples: Samples, orders: Sequence[Array], batch: int, steps: Steps) -> list[float]:
        """Take the steps of an epoch in each of the orders, in one call, and return their losses.

        Where a loss is not finite, or the call is interrupted, nothing is done and no loss returned.
        """
        n = -(-samples.rows // batch)
        report = np.zeros((len(orders), n, layout.N_REPORT))
        data, order, first = samples.part(np.concatenate(orders), 0, samples.rows)
        rates = steps.rates(len(orders) * n)
        kept = self.params.copy(), steps.state.copy()
        call = self._training_calls(data, batch, steps)
        losses: list[float] = []
        before = time.perf_counter()
        try:
            call(order, first, samples.rows, steps.step, rates, report.reshape(-1, layout.N_REPORT))
            self._steps_a_call = next_steps(self._steps_a_call, len(rates), time.perf_counter() - before)
            if report[-1, -1, layout.REPORT_ROWS]:
                losses = [self._epoch_loss(epoch) for epoch in report]
        finally:
            self.runtime.to_host()
            if losses and np.isfinite(losses).all():
                steps.step += len(rates)
            else:
                self.runtime.params[:], self.runtime.state[:] = kept
                losses = []
        return losses

    def _training_calls(self, data: Rows, batch: int, steps: Steps) -> Callable[..., None]:
        """Return the calls for the data at hand: those of the call before where it was on the same."""
        key = (id(data), id(steps.state), batch, self.runtime.threads)
        if self._calls is None or key != self._calls[0]:
            self.runtime.keep_data(True)
            self.runtime.state = steps.state
            self._calls = (key, (data, steps.state), self.runtime.training_calls(data, batch))
        return self._calls[2]

    def forget_data(self) -> None:
        """Let go of the data that was trained on."""
        self._calls = self._gradient_calls = None
        self.runtime.keep_data(False)

    def _epoch_loss(self, report: Array) -> float:
        """Return the mean over rows of the batches' losses, as scikit-learn has it."""
        weight = report[:, layout.REPORT_WEIGHT]
        means = report[:, layout.REPORT_LOSS] / np.where(weight > 0, weight, 1.0)
        losses = self.shape.objective.reported(self.shape.sizes[-1]) * means + report[:, layout.REPORT_PENALTY]
        return float(losses @ report[:, layout.REPORT_ROWS] / report[:, layout.REPORT_ROWS].sum())
