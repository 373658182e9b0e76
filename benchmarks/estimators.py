"""fastnn's estimators beside scikit-learn's own: ``python -m benchmarks.estimators``.

On the examples of scikit-learn's documentation and on the workloads of `cases.py`. Both get the same arrays and
parameters, and do the same iterations from the same `random_state`; they take turns, with a pause in front of each fit,
in which the other's threads fall asleep. What is compared is the whole of `fit`. Of lbfgs, whose search is SciPy's in
both, an evaluation of the loss and its gradient is compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks import shell
from benchmarks.cases import WORKLOADS, Workload, training_data

PAUSE = 0.15
"""Seconds: OpenBLAS's threads look for work for some 30 ms after a product."""

_SGD = {"solver": "sgd", "learning_rate_init": 0.2}
_CURVES: tuple[dict[str, Any], ...] = (
    {**_SGD, "momentum": 0.0},
    {**_SGD, "momentum": 0.9, "nesterovs_momentum": False},
    {**_SGD, "momentum": 0.9},
    {**_SGD, "learning_rate": "invscaling", "momentum": 0.0},
    {**_SGD, "learning_rate": "invscaling", "momentum": 0.9},
    {**_SGD, "learning_rate": "invscaling", "momentum": 0.9, "nesterovs_momentum": False},
    {"solver": "adam", "learning_rate_init": 0.01},
)
"""What the example "compare stochastic learning strategies" sets beside each other."""


class Fit(NamedTuple):
    """One call of `fit`: which estimator, its parameters, and the rows."""

    estimator: str
    x: Any
    y: Any
    parameters: dict[str, Any]


def _shapes() -> dict[str, Any]:
    """Return the three data sets of two columns that several examples are about."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    line = datasets.make_classification(
        n_features=2, n_redundant=0, n_informative=2, random_state=0, n_clusters_per_class=1
    )
    circles = datasets.make_circles(noise=0.2, factor=0.5, random_state=1)
    moons = datasets.make_moons(noise=0.3, random_state=0)
    named = {"line": line, "circles": circles, "moons": moons}
    return {name: (StandardScaler().fit_transform(x), y) for name, (x, y) in named.items()}


def examples() -> Iterator[tuple[str, list[Fit]]]:
    """Yield the examples of scikit-learn's documentation that train perceptrons, by name."""
    from sklearn import datasets
    from sklearn.preprocessing import MinMaxScaler

    shapes = _shapes()
    iris, digits = datasets.load_iris(return_X_y=True), datasets.load_digits(return_X_y=True)
    for name, (x, y) in {
        "iris": iris,
        "digits": digits,
        "circles": shapes["circles"],
        "moons": shapes["moons"],
    }.items():
        scaled, iterations = MinMaxScaler().fit_transform(x), 15 if name == "digits" else 400
        settings = [{"random_state": 0, "max_iter": iterations, **each} for each in _CURVES]
        yield f"learning curves: {name}", [Fit("MLPClassifier", scaled, y, each) for each in settings]
    lbfgs = {"solver": "lbfgs", "random_state": 1, "max_iter": 2000, "hidden_layer_sizes": [10, 10]}
    alphas = np.logspace(-1, 1, 5)
    yield (
        "varying alpha (lbfgs)",
        [Fit("MLPClassifier", *data, {**lbfgs, "alpha": alpha}) for data in shapes.values() for alpha in alphas],
    )
    comparison = {"alpha": 1, "max_iter": 1000, "random_state": 42}
    yield "classifier comparison", [Fit("MLPClassifier", *data, comparison) for data in shapes.values()]
    x, y = training_data("mnist")
    filters = {"hidden_layer_sizes": (40,), "max_iter": 8, "alpha": 1e-4, "random_state": 1, **_SGD}
    yield "MNIST filters (20,000 rows)", [Fit("MLPClassifier", np.asarray(x[:20_000], np.float64), y[:20_000], filters)]
    x = np.random.default_rng(0).normal(size=(13_903, 20))  # as many rows as the example's, which would be downloaded
    hidden = {"hidden_layer_sizes": (30, 15), "learning_rate_init": 0.01, "early_stopping": True, "random_state": 0}
    yield "partial dependence", [Fit("MLPRegressor", x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2], hidden)]


def workloads() -> Iterator[tuple[str, list[Fit]]]:
    """Yield the workloads that scikit-learn can train."""
    for workload in WORKLOADS.values():
        if not workload.dropout and workload.optimizer in ("adam", "sgd"):
            yield f"workload {workload.name}", [_of_workload(workload)]


def _of_workload(workload: Workload) -> Fit:
    x, y = training_data(workload.name, min(workload.rows, 20_000))
    parameters = {
        "hidden_layer_sizes": workload.sizes[1:-1], "activation": workload.activation, "solver": workload.optimizer,
        "alpha": workload.l2, "batch_size": workload.batch, "learning_rate_init": workload.lr, "random_state": 0,
        "momentum": workload.momentum, "max_iter": 20 if workload.full_batch else 1,
    }  # fmt: skip
    name = "MLPClassifier" if workload.loss == "cross_entropy" else "MLPRegressor"
    return Fit(name, x, y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y, parameters)


def seconds(module: Any, fits: list[Fit]) -> float:
    """Return how long a library takes for some fits."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in fits:
            getattr(module, each.estimator)(**each.parameters).fit(each.x, each.y)
    return time.perf_counter() - start


def seconds_an_evaluation(module: Any, fits: list[Fit]) -> float:
    """Return how long a library takes for the loss and its gradient, which it hands to SciPy."""
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

    from fastnn.estimators._engine import Engine

    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            spent.append(time.perf_counter() - start)
            return result

        return call

    theirs = BaseMultilayerPerceptron._loss_grad_lbfgs
    with (
        mock.patch.object(BaseMultilayerPerceptron, "_loss_grad_lbfgs", timed(theirs)),
        mock.patch.object(Engine, "gradient", timed(Engine.gradient)),
    ):
        seconds(module, fits)
    return sum(spent) / len(spent)


def main() -> None:
    """Measure, and print a line a case."""
    from sklearn import neural_network

    import fastnn

    parser = argparse.ArgumentParser(description="fastnn's estimators beside scikit-learn's, on the same data.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs (default: 5)")
    parser.add_argument("--only", metavar="TEXT", default="", help="the cases that have this in their name")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds: got {options.rounds}, expected an integer >= 1")
    cases = {name: fits for name, fits in (*examples(), *workloads()) if options.only in name}
    if not cases:
        names = ", ".join(name for name, _ in (*examples(), *workloads()))
        parser.error(f"--only: got {options.only!r}, expected a part of one of {names}")
    print(f"{'':32}  fastnn  scikit-learn  times as fast")
    for name, fits in cases.items():
        lbfgs = fits[0].parameters["solver"] == "lbfgs" if "solver" in fits[0].parameters else False
        measure, unit, scale = (seconds_an_evaluation, "us", 1e6) if lbfgs else (seconds, "ms", 1e3)
        measure(fastnn, fits)
        rounds = [(measure(fastnn, fits), measure(neural_network, fits)) for _ in range(options.rounds)]
        ours, theirs = (statistics.median(times) * scale for times in zip(*rounds, strict=True))
        ratio = statistics.median(their / our for our, their in rounds)
        print(f"{name:32} {ours:7.1f} {theirs:8.1f} {unit}  {ratio:9.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(shell.run(main))
