"""Does the gradient reach every layer? Numbers per layer while training, and what they mean in plain words.

The survey names two ailments of deep networks, gradients that vanish and gradients that explode, and two causes,
depth and saturated units. `GradientFlow` watches for all of them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_flag, check_number
from fastnn.arrays import Data
from fastnn.callbacks import Callback
from fastnn.kernels import activation_statistics, global_norm, layout
from fastnn.network import Stage
from fastnn.optimizers import SGD
from fastnn.progress import ProgressBar

__all__ = ["GradientFlow"]

Numbers = npt.NDArray[np.float64]
"""One for each layer."""

VANISHING = 1e-3
"""Smallest healthy gradient of a layer, as a share of the last layer's (root mean square over the weights).

Sigmoid's slope is at most 1/4, so this is what five sigmoid layers do at best: 4^-5 = 1e-3. As all layers share one
learning rate, the layer trains a thousand times more slowly than the last. Between layers of a sound start the
factor is a small one (Glorot and Bengio 2010, figures 7 and 8).
"""

EXPLODING = 1e3
"""Largest healthy gradient of a layer, as a multiple of the last layer's: the mirror image of `VANISHING`."""

SATURATED = 0.5
"""Share of a sigmoid or tanh layer's values with a slope below 1% of the largest that makes the layer saturated.

At half, most paths through the layer are shut. A sound start has next to none: tanh of a unit normal, 0.3%.
"""

DEAD = 0.5
"""Share of a layer's units without slope for any row of the probe from which the layer is reported.

Deep ReLU networks begin with up to 0.45 (8 to 20 layers on the digits, He's weights). "As much as 40% of your network
can be dead if the learning rate is set too high" (Stanford CS231n, notes on ReLU).
"""

STEP = 1.0
"""Largest healthy step of SGD, lr |dW| / |W| of a layer: beyond it one step outweighs all that was learned.

The rule of thumb for a good rate is 1e-3 (Stanford CS231n, notes on the ratio of updates to weights).
"""

ALIKE = 1e-6
"""Largest difference between the outputs of a layer's units, as a share of the largest, that is mere rounding."""

_SLOWER = "lower the learning rate, put a Warmup in front of it or set clip_norm"
_TWO_SIDED = ("sigmoid", "tanh")
_NAMES = ("gradient_norm", "gradient_rms", "weight_norm", "ratio", "step", "mean", "std", "spread", "saturated", "dead")


class GradientFlow(Callback):
    """Record, layer by layer, how gradient and signal get through the network, and say what is wrong with them.

    Measured before the first epoch and after every `every` epochs, on a fixed probe of the training rows, dropout
    off. Training gives the same bits with and without it; it costs a forward and a backward pass over the probe
    each time.

    Parameters
    ----------
    rows : int
        Rows of the probe, >= 2, spread evenly over the training rows whose weight is not 0; fewer where there are
        fewer.
    every : int
        Epochs from one measurement to the next, >= 1.
    verbose : bool
        Whether `diagnosis` is printed after each measurement.

    Attributes
    ----------
    layers : list of str
        Names of the layers measured, the dense ones and activations of their own; the number is the place in
        ``model.layers``.
    epoch : list of int
        Epochs trained at each measurement; 0 is the start.
    history : dict of str to list of list of float
        For each measurement the number of each layer (NaN where it has no weights):

        - "gradient_norm": Euclidean norm of dL/dW, the loss alone without penalties; "gradient_rms": that over
          sqrt(size of W)
        - "weight_norm", "ratio": norm of W, and gradient_norm / weight_norm
        - "step": lr |dW| / |W| as SGD would take it, clipped as the optimizer clips; NaN for other optimizers
        - "mean", "std": of the outputs over rows and units; "spread": root mean square over units of the standard
          deviation over rows, which is what the layer tells about a sample
        - "saturated", "dead": share of outputs with a slope below 1% of the largest, share of units that are so for
          every row (`kernels.activation_statistics`)

    Raises
    ------
    TypeError, ValueError
        For a number out of range.

    Examples
    --------
    >>> import fastnn
    >>> x, y, _, _ = fastnn.load_digits()
    >>> deep = [fastnn.Dense(32, "sigmoid") for _ in range(8)]
    >>> flow = GradientFlow()
    >>> model = fastnn.Sequential([fastnn.Rescale(1 / 16), *deep, fastnn.Dense(10)], loss="cross_entropy")
    >>> history = model.fit(x, y, epochs=1, callbacks=[flow])
    >>> print(flow.diagnosis()[0][:21])
    The gradient vanishes
    """

    def __init__(self, rows: int = 256, every: int = 1, verbose: bool = False) -> None:
        self.rows = check_number("rows", rows, low=2, integer=True)
        self.every = check_number("every", every, low=1, integer=True)
        self.verbose = check_flag("verbose", verbose)
        self._clear()

    def _clear(self) -> None:
        self.layers: list[str] = []
        self.epoch: list[int] = []
        self.history: dict[str, list[list[float]]] = {name: [] for name in _NAMES}
        self._whose: object = None
        self._stages: list[int] = []
        self._activations: list[str] = []
        self._finite: list[bool] = []
        self._alike: list[list[bool]] = []
        self._spoilt: list[str | None] = []
        self._output_r2: list[float] = []
        self._input_spread: list[float] = []

    # When it measures.

    def on_train_begin(self) -> None:
        if self._whose is not self.model:
            self._clear()
            self._whose = self.model
            stages = self.model.network.stages
            self._stages = [i for i, stage in enumerate(stages) if stage.computes]
            self.layers = [stages[i].name for i in self._stages]
            self._activations = [stages[i].activation for i in self._stages]
        self._probe = _probe(self.data, self.rows)
        if not self.epoch or self.epoch[-1] != self.model.epoch:
            self._measure()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % self.every == 0:
            self._measure()

    def _measure(self) -> None:
        model, runtime, network, probe = self.model, self.model.runtime, self.model.network, self._probe
        numbers = {name: [math.nan] * len(self._stages) for name in _NAMES}
        alike = [False] * len(self._stages)
        with runtime.alone:  # nobody else's rows come into the workspace meanwhile
            report = runtime.gradient(probe, model.step, dropout=False)
            finite = math.isfinite(report[0, layout.REPORT_LOSS])
            segments = zip(network.segments, network.views(runtime.params), network.views(runtime.grads), strict=True)
            matrices = [(weight, gradient) for segment, weight, gradient in segments if segment.is_weight]
            for row, number in enumerate(self._stages):
                if network.stages[number].dense is not None:
                    self._gradient_numbers(numbers, row, *matrices.pop(0))
                    alike[row] = _are_alike(runtime.activations(number, probe.rows)[0])
                self._activation_numbers(numbers, row, number, network.stages[number])
            if isinstance(model.optimizer, SGD):
                self._step_numbers(numbers)
            output, _ = runtime.activations(len(network.stages) - 1, probe.rows)
        # Taken together at the end, so that Ctrl-C in between leaves no half a measurement.
        for name in _NAMES:
            self.history[name].append(numbers[name])
        self._finite.append(finite)
        self._alike.append(alike)
        self._spoilt.append(probe.spoilt())
        self._input_spread.append(_spread(_inputs(probe, network.rescale)))
        self._output_r2.append(_r2(output, probe.targets))
        self.epoch.append(model.epoch)
        if self.verbose:
            for sentence in self.diagnosis():
                ProgressBar.write(f"epoch {model.epoch}: {sentence}", file=sys.stdout)

    def _gradient_numbers(
        self, numbers: dict[str, list[float]], row: int, weight: npt.NDArray[Any], gradient: npt.NDArray[Any]
    ) -> None:
        norm, size = global_norm(gradient), global_norm(weight)
        numbers["gradient_norm"][row] = norm
        numbers["gradient_rms"][row] = norm / math.sqrt(gradient.size)
        numbers["weight_norm"][row] = size
        numbers["ratio"][row] = norm / size if size > 0 else math.inf if norm > 0 else 0.0

    def _step_numbers(self, numbers: dict[str, list[float]]) -> None:
        """Note the step that SGD would take: the gradients of all weights and biases are clipped together."""
        model, network, optimizer = self.model, self.model.network, self.model.optimizer
        limit, gradients = optimizer.clip_value, network.views(model.runtime.grads)
        norms = [global_norm(each if limit is None else np.clip(each, -limit, limit)) for each in gradients]
        rate, whole = optimizer.schedule.rate(model.step, model.epoch), math.hypot(*norms)
        if optimizer.clip_norm is not None and whole > optimizer.clip_norm:
            rate *= optimizer.clip_norm / whole
        of_weights = (norm for norm, segment in zip(norms, network.segments, strict=True) if segment.is_weight)
        for row, number in enumerate(self._stages):
            if network.stages[number].dense is not None:
                norm, size = next(of_weights), numbers["weight_norm"][row]
                numbers["step"][row] = rate * norm / size if size > 0 else math.nan

    def _activation_numbers(self, numbers: dict[str, list[float]], row: int, number: int, stage: Stage) -> None:
        output, source = self.model.runtime.activations(number, self._probe.rows)
        stats = np.empty(4)
        activation_statistics(stats, output, source, stage.activation)
        for name, value in zip(("mean", "std", "saturated", "dead"), stats, strict=True):
            numbers[name][row] = float(value)
        numbers["spread"][row] = _spread(output)

    # What it says.

    def _numbers(self, record: int) -> dict[str, Numbers]:
        if not self.epoch:
            raise ValueError("GradientFlow: has measured nothing yet, expected a call of fit with it first")
        return {name: np.array(values[record]) for name, values in self.history.items()}

    def problems(self, record: int = -1) -> dict[str, list[int]]:
        """Return which layers are ill, as places in `layers`, for each ailment that occurs; empty when healthy.

        Parameters
        ----------
        record : int
            Which measurement, -1 for the last.

        Returns
        -------
        dict of str to list of int
            - "not finite": gradient or outputs hold NaN or infinity; nothing else is looked at then
            - "vanishing": gradient_rms below `VANISHING` of the last dense layer's
            - "silent": a hidden layer that is not dead has a spread below `VANISHING` of the inputs' (or of 1,
              where that is less): all samples look alike behind it
            - "exploding": gradient_rms above `EXPLODING` times the last dense layer's, or a hidden layer's spread
              above that many times the inputs' (or 1, where that is more), or a step of SGD above `STEP`
            - "saturated": more than `SATURATED` of a sigmoid or tanh layer's values; in the output layer only where
              its values explain nothing of the targets, as a good classifier's outputs lie at the ends too
            - "dead": at least `DEAD` of the units of a layer with any other activation
            - "alike": all units of a hidden layer, which is neither dead nor silent, have the same outputs, to `ALIKE`

        Raises
        ------
        ValueError
            If nothing was measured yet.
        IndexError
            If there are fewer measurements.
        """
        now = self._numbers(record)
        rms, spread = now["gradient_rms"], now["spread"]
        n_layers = len(self.layers)
        hidden = np.arange(n_layers) < n_layers - 1
        two_sided = np.array([name in _TWO_SIDED for name in self._activations], bool)
        broken = np.array([_broken(now, i) for i in range(n_layers)], bool)
        if broken.any() or not self._finite[record]:
            return {"not finite": np.flatnonzero(broken).tolist()}
        with_weights = np.flatnonzero(np.isfinite(rms))
        last = rms[with_weights[-1]] if len(with_weights) else math.nan
        inputs = self._input_spread[record]
        judged = hidden | (self._output_r2[record] <= 0.0)
        dead = ~two_sided & (now["dead"] >= DEAD)
        silent = hidden & ~dead & (spread < VANISHING * min(1.0, inputs))
        found = {
            "vanishing": rms < VANISHING * last,
            "silent": silent,
            "exploding": ((rms > EXPLODING * last) & (last > 0.0))
            | (hidden & (spread > EXPLODING * max(1.0, inputs)))
            | (now["step"] > STEP),
            "saturated": judged & two_sided & (now["saturated"] > SATURATED),
            "dead": dead,
            "alike": hidden & ~dead & ~silent & np.array(self._alike[record], bool),
        }
        return {name: np.flatnonzero(which).tolist() for name, which in found.items() if which.any()}

    def diagnosis(self, record: int = -1) -> list[str]:
        """Return a sentence for each ailment, with the layers, the worst number and what helps; empty when healthy.

        Parameters
        ----------
        record : int
            Which measurement, -1 for the last.

        Raises
        ------
        ValueError, IndexError
            As `problems`, which lists the thresholds.
        """
        return [self._sentence(kind, layers, record) for kind, layers in self.problems(record).items()]

    def _sentence(self, kind: str, ill: Sequence[int], record: int) -> str:
        now = self._numbers(record)
        where = self._where(ill)
        untrained = self.epoch[record] == 0  # no learning rate did it then
        if kind == "not finite":
            return self._not_finite(ill, now["mean"], record)
        if kind == "vanishing":
            return self._vanishing(ill, where, now["gradient_rms"])
        if kind == "silent":
            worst = min(ill, key=lambda i: float(now["spread"][i]))
            return (
                f"The signal vanishes on its way to {where}: all samples look alike there, their spread is "
                f"{now['spread'][worst]:.2g} against {self._input_spread[record]:.2g} in the inputs; start from "
                "larger weights ('he_uniform' suits ReLU) or use ReLU."
            )
        if kind == "exploding":
            return self._exploding(ill, where, now, record)
        if kind == "alike":
            return (
                f"Alike: {where}; all units there have the same outputs, so that together they do what one unit can; "
                "start from random weights."
            )
        worst = max(ill, key=lambda i: float(now[kind][i]))
        share = "all" if now[kind][worst] == 1.0 else f"{now[kind][worst]:.0%}"
        which = f" of {_number(self.layers[worst])}" if len(ill) > 1 else ""
        if kind == "saturated":
            return (
                f"Saturated: {where}; {share} of the values{which} lie where the slope is below 1% of the largest, "
                "so that hardly any gradient passes; scale the inputs, start from smaller weights"
                f"{'' if untrained else ', lower the learning rate'} or use ReLU."
            )
        if now["weight_norm"][worst] == 0.0:  # nor has a leaky one a slope to pass on through weights that are 0
            helps = "its weights are all 0: start from others, such as kernel_initializer='he_uniform'"
        elif untrained:
            helps = "start from other weights and biases or use 'leaky_relu'"
        else:
            helps = "lower the learning rate, put a Warmup in front of it or use 'leaky_relu'"
        return (
            f"Dead: {where}; {share} of the units{which} have no slope for any of the {self._probe.rows} rows of "
            f"the probe, so that no gradient passes them; {helps}."
        )

    def _not_finite(self, ill: Sequence[int], mean: Numbers, record: int) -> str:
        """Name the first place that it stands in: all behind that has it, too, and so have the gradients before."""
        if self._spoilt[record]:
            return f"NaN or infinity in {self._spoilt[record]}; take out the rows that have it, or fill them in."
        untrained = self.epoch[record] == 0  # no learning rate did it then
        outputs = np.flatnonzero(~np.isfinite(mean))
        if len(outputs):
            where, scaled = f"the output of {self.layers[outputs[0]]}", "the inputs"
        elif self._finite[record]:
            where, scaled = f"the gradient of {self.layers[ill[-1]]}", "the inputs"
        else:
            where, scaled = "the loss", "inputs and targets"
        helps = f"scale {scaled} or start from smaller weights" if untrained else _SLOWER
        return f"NaN or infinity in {where}; {helps}."

    def _vanishing(self, ill: Sequence[int], where: str, rms: Numbers) -> str:
        worst = min(ill, key=lambda i: float(rms[i]))
        share = rms[worst] / rms[np.isfinite(rms)][-1]
        curved = [name for name in _TWO_SIDED if name in self._activations[:-1]]  # every layer lies before the output
        helps = f"ReLU in place of {' and '.join(curved)}" if curved else "larger starting weights ('he_uniform')"
        return (
            f"The gradient vanishes in {where}: {self._there(worst, ill)}it is {share:.2g} times the last layer's, "
            f"below {VANISHING:g}; use {helps} or fewer layers."
        )

    def _exploding(self, ill: Sequence[int], where: str, now: dict[str, Numbers], record: int) -> str:
        """Name the first of the three reasons that holds: the step, the gradient, the signal."""
        rms, step, spread = (np.nan_to_num(now[name]) for name in ("gradient_rms", "step", "spread"))
        last = now["gradient_rms"][np.isfinite(now["gradient_rms"])][-1]
        what = "gradient"
        if step.max() > STEP:
            worst = int(step.argmax())
            how = f"one step changes the weights by {step[worst]:.2g} times their size"
        elif rms.max() > EXPLODING * last:
            worst = int(rms.argmax())
            how = f"it is {rms[worst] / last:.2g} times the last layer's"
        else:
            what, worst = "signal", max(ill, key=lambda i: float(spread[i]))
            how = f"its spread is {spread[worst]:.2g} against {self._input_spread[record]:.2g} in the inputs"
        helps = "" if what == "signal" and self.epoch[record] == 0 else f", {_SLOWER}"
        return f"The {what} explodes in {where}: {self._there(worst, ill)}{how}; start from smaller weights{helps}."

    def _there(self, worst: int, ill: Sequence[int]) -> str:
        return f"in {_number(self.layers[worst])} " if len(ill) > 1 else ""

    def _where(self, ill: Sequence[int]) -> str:
        """Name the layers: "layer 3 (Dense, 32 relu)", "layers 1 to 4, 6"."""
        if len(ill) == 1:
            return self.layers[ill[0]]
        runs: list[list[int]] = []
        for i in ill:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        first_last = [(_number(self.layers[run[0]]), _number(self.layers[run[-1]])) for run in runs]
        numbers = [(a.removeprefix("layer "), b.removeprefix("layer ")) for a, b in first_last]
        return "layers " + ", ".join(a if a == b else f"{a} to {b}" for a, b in numbers)

    def summary(self, record: int = -1) -> str:
        """Return the numbers of one measurement as a table, a line a layer.

        Parameters
        ----------
        record : int
            Which measurement, -1 for the last.

        Raises
        ------
        ValueError, IndexError
            As `problems`.
        """
        now = self._numbers(record)
        width = max((len(name) for name in self.layers), default=0)
        columns = ("gradient_norm", "weight_norm", "ratio", "mean", "std", "saturated", "dead")
        titles = ("|dW|", "|W|", "|dW|/|W|", "mean", "std", "saturated", "dead")
        lines = [f"{f'after epoch {self.epoch[record]}':<{width}}" + "".join(f"{title:>11}" for title in titles)]
        for i, name in enumerate(self.layers):
            values = [now[column][i] for column in columns]
            cells = [f"{v:>11.2e}" if k < 3 or abs(v) >= 1e5 else f"{v:>11.3f}" for k, v in enumerate(values[:5])]
            cells += [f"{value:>11.0%}" for value in values[5:]]
            lines.append(f"{name:<{width}}" + "".join(cells).replace("nan", "  -"))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<GradientFlow: {len(self.epoch)} measurements of {len(self.layers)} layers>"


def _number(name: str) -> str:
    return name.split(" (")[0]


def _probe(data: Data, rows: int) -> Data:
    """Return copies of `rows` rows, spread evenly over those whose weight is not 0."""
    usable = np.flatnonzero(data.weights) if len(data.weights) else np.arange(data.rows)
    if not len(usable):
        usable = np.arange(data.rows)
    chosen = usable[np.linspace(0, len(usable) - 1, min(rows, len(usable))).astype(np.int64)]
    return data.on_host().at(chosen)


def _inputs(data: Data, rescale: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the samples as the first layer gets them, but for an offset."""
    samples = data.x if len(data.x) else data.x_bytes
    return samples * rescale[0] if rescale.size else samples


def _spread(values: npt.NDArray[Any]) -> float:
    """Return the root mean square over columns of the standard deviation over rows."""
    with np.errstate(all="ignore"):
        return float(math.sqrt(values.var(axis=0, dtype=np.float64).mean()))


def _are_alike(outputs: npt.NDArray[Any]) -> bool:
    """Return whether a layer of more than one unit has the same outputs in all of them, to rounding."""
    with np.errstate(all="ignore"):
        apart = outputs.max(axis=1) - outputs.min(axis=1)
        return outputs.shape[1] > 1 and bool(apart.max() <= ALIKE * np.abs(outputs).max())


def _r2(outputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Return 1 - sum (y - t)^2 / sum (t - mean)^2 over all outputs; NaN where there are labels."""
    if not len(targets):
        return math.nan
    with np.errstate(all="ignore"):
        exact = targets.astype(np.float64)
        left = ((outputs - exact) ** 2).sum()
        return float(1.0 - left / ((exact - exact.mean(axis=0)) ** 2).sum())


def _broken(now: dict[str, Numbers], layer: int) -> bool:
    """Whether a layer's outputs are not finite, or its gradient, where it has weights."""
    norm, size = now["gradient_norm"][layer], now["weight_norm"][layer]
    without_weights = math.isnan(norm) and math.isnan(size)
    return not math.isfinite(now["mean"][layer]) or not (without_weights or math.isfinite(norm))
