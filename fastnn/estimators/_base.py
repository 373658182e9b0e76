"""What the classifier and the regressor share: from checked input to fitted attributes."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer, get_scorer_names
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight

from fastnn._errors import shown
from fastnn.activations import ELEMENTWISE
from fastnn.devices import DEVICES, PRECISIONS, check_place
from fastnn.estimators._compat import CallbackSupportMixin, OldTags, validate_data, warn
from fastnn.estimators._engine import OUTPUTS, Engine, Objective, Shape
from fastnn.estimators._lbfgs import minimize_loss
from fastnn.estimators._optimizer import STOCHASTIC, Steps
from fastnn.estimators._samples import Samples
from fastnn.layers import check_dropout_rate
from fastnn.losses import Huber, Loss
from fastnn.network import L1_MODES
from fastnn.schedules import Schedule, metric_name

Array = npt.NDArray[Any]

ACTIVATIONS = ("logistic", *ELEMENTWISE)
DTYPES = (np.float64, np.float32)


@dataclass
class Held:
    """Rows kept out of training for early stopping, and the weights to go back to.

    Parameters
    ----------
    x, y, weights
        The rows as a scorer takes them.
    samples : Samples
        The rows as the network takes them.
    engine : Engine
        The network.
    best : array
        Its parameters after the best epoch of this fit, before one was better than any: at its beginning.
    improved : bool
        Whether there is such an epoch.
    """

    x: Any
    y: Array
    weights: Array | None
    samples: Samples
    engine: Engine
    best: Array
    improved: bool = False

    def keep_best(self) -> None:
        """Remember the parameters as they are."""
        self.best, self.improved = self.engine.params.copy(), True

    def loss(self) -> float:
        """Return the loss of the rows, without penalties."""
        return self.engine.loss(self.samples)


class BaseMLP(OldTags, CallbackSupportMixin, BaseEstimator, ABC):
    """Base of `MLPClassifier` and `MLPRegressor`."""

    loss: str | Huber
    hidden_layer_sizes: int | Sequence[int] | npt.NDArray[Any]
    activation: str | Sequence[str] | npt.NDArray[Any]
    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str | Schedule
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: int | np.random.RandomState | None
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    dropout: float | Sequence[float] | npt.NDArray[Any]
    l1: float
    l1_mode: str
    weight_decay: float
    rho: float
    clip_norm: float | None
    clip_value: float | None
    scoring: str | Callable[..., float] | None
    n_threads: int | None
    device: str
    matmul_precision: str
    n_features_in_: int
    feature_names_in_: Array

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), list, tuple, np.ndarray],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple, np.ndarray],
        "l1": [Interval(Real, 0, None, closed="left")],
        "l1_mode": [StrOptions(set(L1_MODES))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "clip_value": [None, Interval(Real, 0, None, closed="neither")],
        "scoring": [None, StrOptions({"loss", *get_scorer_names()}), callable],
        "n_threads": [None, Interval(Integral, 1, None, closed="left")],
        "device": [StrOptions(set(DEVICES))],
        "matmul_precision": [StrOptions(set(PRECISIONS))],
    }

    # What the two kinds answer differently.

    @abstractmethod
    def _objective(self) -> Objective:
        """Return the loss in scikit-learn's measure, from what is known of the targets."""

    @abstractmethod
    def _encode(self, y: Any, incremental: bool) -> Array:
        """Return checked targets as the network's, shape (rows, outputs), and remember what decodes them."""

    @abstractmethod
    def _encode_known(self, name: str, y: Any) -> Array:
        """Do as `_encode`, with what is remembered; `name` is the argument, for messages."""

    @abstractmethod
    def _decode(self, y: Array) -> Array:
        """Return encoded targets, or outputs of the network, as the user's."""

    @abstractmethod
    def _held_score(self, held: Held) -> float:
        """Return the default score of early stopping."""

    _y_numeric = False
    _default_score = ""

    # The route of a fit.

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        incremental: bool = False,
        validation: tuple[Any, Any, Any] = (None, None, None),
    ) -> Any:
        given = (X, y, sample_weight)
        hidden, activations, dropout = self._hidden_layers()
        self._check_solver_options(incremental, validation)
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._check_rows(X, y, reset=first_pass)
        y = self._encode(y, incremental)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        weights = self._row_weights(X, y, sample_weight, incremental)
        self.n_outputs_ = y.shape[1]
        sizes = (X.shape[1], *hidden, y.shape[1])
        self._random_state = check_random_state(self.random_state)
        if first_pass:
            self._initialize(sizes, X.dtype)
        elif y.shape[1] != self.coefs_[-1].shape[1]:
            raise ValueError(f"y: got {y.shape[1]} outputs, expected {self.coefs_[-1].shape[1]}, as in the fit before")
        dtype = self._weights_dtype()
        engine = self._training_engine(sizes, activations, dropout, incremental)
        context = None if incremental else self._begin_callbacks(given)
        if self.solver == "lbfgs":
            self._search(engine, X, y, weights, dtype, context, given)
        else:
            X, y, weights, held = self._hold_out(X, y, weights, validation, engine)
            self._train(engine, self._samples(X, y, weights, engine), held, incremental, context, given)
        if not np.isfinite(engine.params).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be"
                " preprocessed."
            )
        if context is not None:
            context.call_on_fit_task_end(estimator=self, **_hook_data(given))
        return self

    def _hidden_layers(self) -> tuple[tuple[int, ...], tuple[str, ...], tuple[float, ...]]:
        """Return units, activation and dropout rate of each hidden layer."""
        sizes = self.hidden_layer_sizes
        hidden = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
        for units in hidden:
            if isinstance(units, bool) or not isinstance(units, Integral) or units < 1:
                raise ValueError(f"hidden_layer_sizes: got {shown(sizes)}, expected integers >= 1")
        activations = self._activation_names(len(hidden))
        rates = self._per_layer("dropout", self.dropout, len(hidden))
        rates = [check_dropout_rate("dropout", rate) for rate in rates]
        return tuple(int(units) for units in hidden), activations, tuple(rates)

    def _activation_names(self, layers: int) -> tuple[str, ...]:
        """Return the parameter `activation` as fastnn's names, one for each hidden layer."""
        names = self._per_layer("activation", self.activation, layers)
        for name in names:
            if name not in ACTIVATIONS:
                raise ValueError(f"activation: got {shown(name)}, expected one of {', '.join(map(repr, ACTIVATIONS))}")
        return tuple("sigmoid" if name == "logistic" else name for name in names)

    def _per_layer(self, name: str, value: Any, layers: int) -> list[Any]:
        if not isinstance(value, (list, tuple, np.ndarray)):
            return [value] * layers
        if len(value) != layers:
            raise ValueError(f"{name}: got {len(value)} for {layers} hidden layers, expected one or one a layer")
        return list(value)

    def _check_solver_options(self, incremental: bool, validation: tuple[Any, Any, Any]) -> None:
        """Refuse what the solver, or the call, cannot do, instead of leaving it undone."""
        if self.solver == "lbfgs":
            for name, used in (
                ("dropout", np.any(self.dropout)), ("l1", self.l1 > 0), ("clip_norm", self.clip_norm is not None),
                ("clip_value", self.clip_value is not None),
                ("learning_rate", isinstance(self.learning_rate, Schedule)),
            ):  # fmt: skip
                if used:
                    raise ValueError(
                        f"{name}: got {shown(getattr(self, name))} with solver='lbfgs', expected one of {STOCHASTIC}"
                    )
        elif self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        elif isinstance(self.learning_rate, Schedule) and (watched := self.learning_rate.watched()) is not None:
            metric_name(self._watchable(), watched)
        if any(part is not None for part in validation):
            if validation[0] is None or validation[1] is None:
                raise ValueError("X_val, y_val: got one without the other, expected both")
            if not self.early_stopping or self.solver == "lbfgs":
                raise ValueError(
                    "X_val: got rows, but they are looked at only with early_stopping=True and not by lbfgs"
                )

    def _check_rows(self, X: Any, y: Any, reset: bool) -> tuple[Any, Array]:
        options = {"y_numeric": True} if self._y_numeric else {}
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=DTYPES, reset=reset, **options
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _row_weights(self, X: Any, y: Array, sample_weight: Any, incremental: bool) -> Array | None:
        """Return the weights of the rows as float64, or None where all are 1; `y` is encoded."""
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError(f"sample_weight: got {weights.min()}, expected weights >= 0")
        return weights

    def _initialize(self, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Draw the weights as scikit-learn does, from the same generator in the same order, and begin all records."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self.coefs_: list[Array] = []
        self.intercepts_: list[Array] = []
        names = [self.activation] if isinstance(self.activation, str) else self.activation
        factor = 2.0 if set(names) and set(names) <= {"logistic", "sigmoid"} else 6.0
        for inputs, units in pairwise(sizes):
            bound = math.sqrt(factor / (inputs + units))
            for arrays, size in ((self.coefs_, (inputs, units)), (self.intercepts_, (units,))):
                arrays.append(self._random_state.uniform(-bound, bound, size).astype(dtype, copy=False))
        self.__dict__.pop("_optimizer", None)
        if self.solver in STOCHASTIC:
            self._begin_records()

    def _records_fit(self) -> bool:
        """Whether there are records of the kind that is needed.

        There are none after lbfgs, and others where early stopping was turned on or off, or the loss is another one.
        """
        scores = getattr(self, "validation_scores_", self)
        fit = scores is not self and (scores is not None) == bool(self.early_stopping)
        return fit and getattr(self, "_loss_of_records", self.loss) == self.loss

    def _begin_records(self) -> None:
        """Begin what is taken down from epoch to epoch."""
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self._loss_of_records = copy.copy(self.loss)
        self.best_loss_: Any = None if self.early_stopping else math.inf
        self.validation_scores_: Any = [] if self.early_stopping else None
        self.best_validation_score_: Any = -math.inf if self.early_stopping else None

    def _weights_dtype(self) -> np.dtype[Any]:
        dtype = np.dtype(self.coefs_[0].dtype)
        return dtype if dtype in DTYPES else np.dtype(np.float64)

    def _training_engine(
        self,
        sizes: tuple[int, ...],
        activations: tuple[str, ...],
        dropout: tuple[float, ...],
        incremental: bool,
    ) -> Engine:
        """Return the network with the estimator's weights in it; from now on `coefs_` are views of its parameters.

        A fit gets new memory, since the arrays of the one before have been handed out; `partial_fit` writes into them.
        """
        dtype = self._weights_dtype()
        if self.solver == "lbfgs" and self.matmul_precision == "float32":
            dtype = np.dtype(np.float64)  # as the search is, which would take float32's steps for a standstill
        shape = Shape(
            sizes, activations, dropout, self._objective(), dtype, self.l1, self.alpha, self.l1_mode == "truncate",
            self.n_threads, check_place(self.device, self.matmul_precision),
        )  # fmt: skip
        self._fitted, self.out_activation_ = shape, shape.objective.name
        steps = getattr(self, "_optimizer", None) if incremental else None
        if self.solver in STOCHASTIC and not self._records_fit():
            self._begin_records()
        if self.solver in STOCHASTIC and steps is None:
            seed = int(self._random_state.randint(2**31 - 1)) if any(dropout) else 0
            steps = Steps(self, shape.network().params_size, shape.dtype, seed)
        rule, seed = (None, 0) if steps is None else (steps.rule, steps.seed)
        engine = self.__dict__.get("_engine")
        if engine is None or (engine.shape, engine.rule, engine.seed) != (shape, rule, seed):
            engine = Engine(shape, rule, seed)
        engine.load(self.coefs_, self.intercepts_, anew=not incremental)
        self._engine = engine
        if steps is not None:
            steps.own_state(shape.dtype)
            self._optimizer = steps
        self.coefs_, self.intercepts_ = engine.hand_out()
        return engine

    def _samples(self, X: Any, y: Array, weights: Array | None, engine: Engine) -> Samples:
        dtype = engine.shape.dtype
        if engine.shape.objective.name == "softmax":
            return Samples(X, dtype, labels=y.argmax(axis=1), weights=weights, stay_sparse=engine.runtime.takes_sparse)
        most = float(np.finfo(dtype).max)
        if self.loss == "squared_error":
            most = math.sqrt(most) / 4
        if y.dtype.kind == "f" and float(np.abs(y).max(initial=0.0)) > most:  # as floats: y's type may not hold `most`
            raise ValueError(
                f"y: got {y.flat[np.abs(y).argmax()]}, expected numbers up to {most:.1e}, of which {dtype} holds the "
                "loss; smaller units help" + ("" if dtype == np.float64 else ", and so does X in float64")
            )
        return Samples(X, dtype, targets=y, weights=weights, stay_sparse=engine.runtime.takes_sparse)

    def _search(
        self, engine: Engine, X: Any, y: Array, weights: Array | None, dtype: np.dtype[Any], context: Any, given: Any
    ) -> None:
        """Train by L-BFGS; the weights are of their own type in the end, whatever is raised."""
        try:
            samples = self._samples(X, y, weights, engine)
            self.loss_, self.n_iter_ = minimize_loss(
                engine, samples, max_iter=self.max_iter, max_fun=self.max_fun, tol=self.tol,
                after_iteration=lambda n, loss: self._after_iteration(n, loss, context, given),
            )  # fmt: skip
        finally:
            if dtype != engine.shape.dtype:
                self.coefs_ = [coef.astype(dtype) for coef in self.coefs_]
                self.intercepts_ = [intercept.astype(dtype) for intercept in self.intercepts_]

    # Early stopping.

    def _hold_out(
        self, X: Any, y: Array, weights: Array | None, validation: tuple[Any, Any, Any], engine: Engine
    ) -> tuple[Any, Array, Array | None, Held | None]:
        """Split off the rows for early stopping, or take the user's."""
        if not self.early_stopping:
            return X, y, weights, None
        if validation[0] is not None:
            x_held, y_held, w_held = self._given_validation(*validation)
        else:
            arrays = (X, y) if weights is None else (X, y, weights)
            parts = train_test_split(
                *arrays,
                random_state=self._random_state,
                test_size=self.validation_fraction,
                stratify=y if is_classifier(self) and self.n_outputs_ == 1 else None,
            )
            (X, x_held, y, y_held), (weights, w_held) = parts[:4], parts[4:] or (None, None)
            if x_held.shape[0] < 2:
                raise ValueError(
                    f"The validation set is too small: validation_fraction={self.validation_fraction} leaves "
                    f"{x_held.shape[0]} rows, expected at least 2"
                )
        if w_held is not None:
            self._check_scorer()
            if not w_held.any():
                raise ValueError("sample_weight: got 0 for all rows held out, expected one that is not")
        samples = self._samples(x_held, y_held, w_held, engine)
        return X, y, weights, Held(x_held, y_held, w_held, samples, engine, engine.params.copy())

    @property
    def _score_name(self) -> str | None:
        """What is known of the score of early stopping: "accuracy", "r2", "loss", or None."""
        if self.scoring is None:
            return self._default_score
        return self.scoring if isinstance(self.scoring, str) and self.scoring in ("accuracy", "r2", "loss") else None

    def _check_scorer(self) -> None:
        """Refuse a scorer that cannot take weights."""
        if self.scoring in (None, "loss"):
            return
        scorer = get_scorer(self.scoring)
        function = getattr(scorer, "_score_func", scorer)  # behind a scorer that hands on all options
        parameters = inspect.signature(function).parameters.values()
        if not any(each.name == "sample_weight" or each.kind is each.VAR_KEYWORD for each in parameters):
            raise ValueError(
                f"scoring: got {shown(self.scoring)} without a parameter sample_weight, expected one: the rows are "
                "weighted, by sample_weight or class_weight"
            )

    def _given_validation(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> tuple[Any, Array, Array | None]:
        X, y = self._check_rows(X_val, y_val, reset=False)
        if X.shape[0] < 2 and self._score_name == "r2":
            raise ValueError("X_val: got 1 row, expected at least 2, since R2 of one row is not defined")
        y = self._encode_known("y_val", y)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        if y.shape[1] != self.n_outputs_:
            raise ValueError(f"y_val: got {y.shape[1]} outputs, expected {self.n_outputs_}")
        return X, y, self._row_weights(X, y, sample_weight_val, False)

    def _score_held(self, held: Held) -> float:
        """Return the score of early stopping; larger is better, NaN where the outputs are not finite."""
        if self.scoring is None:
            return self._held_score(held)
        if self.scoring == "loss":
            return -held.loss()
        probe = copy.copy(self)  # the rows have been checked: they have no names any more
        probe.__dict__.pop("feature_names_in_", None)
        scorer = check_scoring(probe, self.scoring)
        options = {} if held.weights is None else {"sample_weight": held.weights}
        return float(scorer(probe, held.x, self._decode(held.y), **options))

    def _update_no_improvement_count(self, held: Held | None) -> None:
        """Compare the epoch with the best so far, by score or by loss."""
        if held is None:
            self._no_improvement_count = self._no_improvement_count + 1 if self._loss_stands_still() else 0
            self.best_loss_ = min(self.best_loss_, self.loss_) if self.loss_ == self.loss_ else self.best_loss_
            return
        score = self._score_held(held)
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        self._no_improvement_count = (
            self._no_improvement_count + 1 if score < self.best_validation_score_ + self.tol else 0
        )
        if score > self.best_validation_score_:
            self.best_validation_score_ = score
            held.keep_best()

    def _loss_stands_still(self) -> bool:
        return bool(self.loss_ > self.best_loss_ - self.tol)

    def _go_back(self, held: Held) -> None:
        """Take the best weights of this fit.

        As in scikit-learn the last ones stay where no epoch was better than the best of an earlier fit, or had a score;
        unless they are not finite.
        """
        if held.improved or not np.isfinite(held.engine.params).all():
            held.engine.params[:] = held.best
        elif self.n_iter_ and not np.isfinite(self.validation_scores_[-self.n_iter_ :]).any():
            self._warn("no validation score was finite, so the weights are those of the last epoch and not of the best")

    # Training by steps.

    def _train(
        self, engine: Engine, samples: Samples, held: Held | None, incremental: bool, context: Any, given: Any
    ) -> None:
        batch = self._rows_a_step(samples.rows)
        order = np.arange(samples.rows, dtype=np.int64) if self.shuffle else np.empty(0, np.int64)
        alone = incremental or held is not None or context is not None
        self.n_iter_ = 0
        try:
            while self.n_iter_ < self.max_iter:
                epochs = 1 if alone else self._epochs_a_call(engine, samples, batch)
                orders = []
                for _ in range(epochs):
                    order = self._next_order(order)
                    orders.append(order)
                task = None if context is None else self._begin_epoch(context, given)
                diverged = False
                if epochs == 1 or not self._several(engine, samples, orders, batch):
                    diverged = not all(self._epoch(engine, samples, order, batch, held) for order in orders)
                stop = self._end_epoch(task, given) or diverged or self._converged()
                if stop or incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    self._warn(f"{self.max_iter} epochs (max_iter) were reached before the optimization converged")
        except KeyboardInterrupt:
            warn("Training interrupted by user.")
        finally:
            engine.forget_data()
            if engine.large:
                self.__dict__.pop("_engine", None)
        if held is not None:
            self._go_back(held)

    def _rows_a_step(self, rows: int) -> int:
        if isinstance(self.batch_size, str):
            return min(200, rows)
        if self.batch_size > rows:
            warn(f"Got `batch_size` {self.batch_size} larger than the {rows} rows; it is clipped")
        return min(int(self.batch_size), rows)

    def _next_order(self, order: Array) -> Array:
        """Return the rows of an order in another one, as scikit-learn draws it; (0,) without shuffling."""
        permutation = np.arange(len(order))
        if self.shuffle:
            self._random_state.shuffle(permutation)
        return order[permutation]

    def _epochs_a_call(self, engine: Engine, samples: Samples, batch: int) -> int:
        """Return how many epochs the next call may take: nothing is decided within so many."""
        undecided = self.n_iter_no_change + 1 - self._no_improvement_count
        allowed = engine.epochs_a_call(samples, batch, self._optimizer)
        return int(max(1, min(self.max_iter - self.n_iter_, undecided, allowed)))

    def _several(self, engine: Engine, samples: Samples, orders: list[Array], batch: int) -> bool:
        """Train for an epoch in each of the orders; False, with nothing done, where the numbers broke in one."""
        losses = engine.train_epochs(samples, orders, batch, self._optimizer)
        for loss in losses:
            self._count(loss, samples.rows, None)
        return bool(losses)

    def _epoch(self, engine: Engine, samples: Samples, order: Array, batch: int, held: Held | None) -> bool:
        """Train for one epoch; False where the numbers broke."""
        loss = engine.train(samples, order, batch, self._optimizer)
        finite = math.isfinite(loss)
        if not finite:
            for array in (*engine.coefs, *engine.intercepts):
                array[:] = np.nan  # what more steps would make of them
            self._warn("the loss became NaN or infinite; a smaller learning_rate_init or clip_norm may help")
        self._count(loss, samples.rows, held)
        return finite

    def _count(self, loss: float, rows: int, held: Held | None) -> None:
        """Take down what an epoch gave."""
        self.loss_ = loss
        self.n_iter_ += 1
        self.t_ += rows
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        self._update_no_improvement_count(held)
        self._optimizer.end_epoch(self.t_, self._logs(held))

    def _watchable(self) -> list[str]:
        """Return the names of what `_logs` may hold."""
        if not self.early_stopping:
            return ["loss"]
        return list(dict.fromkeys(["loss", "val_score", "val_loss", f"val_{self._score_name or 'score'}"]))

    def _logs(self, held: Held | None) -> dict[str, float]:
        """Return what a schedule may watch; the loss of the rows held out only where it does, since it takes time."""
        logs = {"loss": self.loss_}
        if held is None:
            return logs
        score, name = self.validation_scores_[-1], self._score_name
        logs["val_score"] = score
        if name is not None:
            logs[f"val_{name}"] = -score if name == "loss" else score
        if self._optimizer.watched == "val_loss" and name != "loss":
            logs["val_loss"] = held.loss()
        return logs

    def _converged(self) -> bool:
        """Whether nothing has improved for too long, and the learning rate is not to be lowered instead."""
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        verdict = self._optimizer.give_up()
        if self.verbose:
            then = verdict or f"Setting learning rate to {self._optimizer.learning_rate:f}"
            print(f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} epochs. {then}")
        if verdict is None:
            self._no_improvement_count = 0
        return verdict is not None

    def _warn(self, text: str) -> None:
        warn(f"{type(self).__name__}: {text}", ConvergenceWarning)

    # Callbacks of scikit-learn 1.9.

    def _begin_callbacks(self, given: Any) -> Any:
        """Tell the callbacks that a fit begins; None where there are none."""
        if not hasattr(self, "_init_callback_context"):
            return None
        context = self._init_callback_context(max_subtasks=self.max_iter)
        context.call_on_fit_task_begin(estimator=self, **_hook_data(given))
        return context if hasattr(self, "_skl_callbacks") else None

    def _begin_epoch(self, context: Any, given: Any) -> Any:
        return context.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=self, **_hook_data(given))

    def _end_epoch(self, task: Any, given: Any) -> bool:
        """Tell the callbacks that an epoch is over; True where one of them wants to stop."""
        if task is None:
            return False
        return bool(
            task.call_on_fit_task_end(estimator=self, **_hook_data(given), reconstruction_attributes=self._weights_now)
        )

    def _weights_now(self) -> dict[str, Any]:
        return {
            "coefs_": [coef.copy() for coef in self.coefs_],
            "intercepts_": [intercept.copy() for intercept in self.intercepts_],
        }

    def _after_iteration(self, iterations: int, loss: float, context: Any, given: Any) -> bool:
        """Report an iteration of L-BFGS; True where a callback wants to stop."""
        self.n_iter_, self.loss_ = iterations, loss
        if self.verbose:
            print(f"Iteration {iterations}, loss = {loss:.8f}")
        return context is not None and self._end_epoch(self._begin_epoch(context, given), given)

    # Prediction.

    def _forward(self, X: Any) -> Array:
        """Return the outputs of the network for the user's rows."""
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if len(self.coefs_[0]) != X.shape[1]:
            raise ValueError(
                f"coefs_[0]: got {len(self.coefs_[0])} rows, expected {X.shape[1]}, as many as X has columns"
            )
        engine = self._prediction_engine()
        out = engine.forward(Samples(X, engine.shape.dtype, stay_sparse=engine.runtime.takes_sparse))
        return out.astype(np.result_type(out, X.dtype), copy=False)

    def _fitted_hidden(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Return activation and dropout rate of each hidden layer as they were fitted, whatever was set since.

        The parameters say it where nothing was fitted, but put together from weights.
        """
        hidden, fitted = len(self.coefs_) - 1, self.__dict__.get("_fitted")
        if fitted is not None and len(fitted.activations) == hidden:
            return fitted.activations, fitted.dropout
        return self._activation_names(hidden), tuple(self._per_layer("dropout", self.dropout, hidden))

    def _fitted_loss(self) -> Loss:
        """Return the loss that the weights were fitted with, as `_fitted_hidden` does."""
        fitted = self.__dict__.get("_fitted")
        return self._objective().loss if fitted is None else fitted.objective.loss

    def _prediction_engine(self) -> Engine:
        """Return the network that was fitted, with `coefs_` and `intercepts_` in it, whoever set them."""
        sizes = (len(self.coefs_[0]), *(np.shape(coef)[1] for coef in self.coefs_))
        shapes = [np.shape(array) for array in (*self.coefs_, *self.intercepts_)]
        if shapes != [*pairwise(sizes), *((units,) for units in sizes[1:])]:
            raise ValueError(f"coefs_, intercepts_: got shapes {shown(shapes)}, expected those of layers {sizes}")
        activations, _ = self._fitted_hidden()
        no_dropout = (0.0,) * len(activations)
        shape = Shape(
            sizes, activations, no_dropout, OUTPUTS[self.out_activation_], self._weights_dtype(), 0.0, 0.0, False,
            self.n_threads, check_place(self.device, self.matmul_precision),
        )  # fmt: skip
        engine = self.__dict__.get("_engine")
        if engine is None or engine.shape.outputs != shape.outputs:
            engine = self._engine = Engine(shape)
        engine.load(self.coefs_, self.intercepts_)
        return engine

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make a network of their own: this one's arrays are views of one another."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_engine"}

    def _check_solver(self) -> bool:
        if self.solver not in STOCHASTIC:
            raise AttributeError(f"partial_fit: got solver={self.solver!r}, expected one of {STOCHASTIC}")
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _hook_data(given: Any) -> dict[str, Any]:
    """Return what callbacks are told of the data: as the user gave it, so that names and classes are there."""
    X, y, sample_weight = given
    return {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
