"""`MLPClassifier` and `MLPRegressor`: scikit-learn's parameters, attributes and methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from fastnn._errors import check_number, shown
from fastnn.estimators._base import BaseMLP, Held
from fastnn.estimators._compat import fits, fits_on
from fastnn.estimators._engine import CLASSES, LABELS, VALUES, Objective, value_objective
from fastnn.losses import Huber
from fastnn.schedules import Schedule

Array = npt.NDArray[Any]


def _keep(estimator: Any, parameters: dict[str, Any]) -> None:
    """Store the constructor's parameters as they are: scikit-learn checks them in `fit`."""
    for name, value in parameters.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


def _weights_of(classes: Any, table: dict[Any, float]) -> Array:
    """Return the weights of the classes in the order of `classes`: 1 for one that `table` has not."""
    for weight in table.values():
        check_number("class_weight", weight, low=0)
    missing = [c for c in classes if c not in table]
    strange = len(table) > len(classes) - len(missing)
    if missing and strange:  # scikit-learn's rule: a fold may lack a class
        raise ValueError(f"class_weight: got weights of {shown(list(table))}, expected those of the classes {classes}")
    return np.array([table.get(c, 1.0) for c in classes], np.float64)


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer perceptron classifier with scikit-learn's interface.

    Binary, multi-class and multi-label targets. The weights are float32 where `X` is, else float64.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer.
    activation : str or sequence of str, default="relu"
        Of the hidden layers, or of each: "identity", "logistic", "tanh", "relu" and the others of
        `fastnn.activations`.
    solver : {"adam", "sgd", "lbfgs", "adagrad", "rmsprop", "adamw"}, default="adam"
        "lbfgs" is SciPy's and takes all rows at once.
    alpha : float, default=1e-4
        L2 penalty alpha/2 sum W^2, divided by the weight of the batch.
    batch_size : int or "auto", default="auto"
        Rows a step; "auto": min(200, rows).
    learning_rate : {"constant", "invscaling", "adaptive"} or Schedule, default="constant"
        "invscaling": learning_rate_init / (rows seen + 1)^power_t; "adaptive": divided by 5 where nothing improves;
        these two for "sgd" alone. A schedule of `fastnn.schedules` goes with every solver but "lbfgs" and has its own
        rate; `ReduceOnPlateau` may watch "loss" and, with early stopping, "val_score", "val_loss" (worked out where it
        is watched) and the score by its name, "val_accuracy" or "val_r2"; without, "val_loss" is "loss".
    learning_rate_init : float, default=1e-3
    power_t : float, default=0.5
    max_iter : int, default=200
        Epochs at most; iterations of "lbfgs".
    shuffle : bool, default=True
        Whether each epoch takes the rows in an order of its own.
    random_state : int, RandomState or None, default=None
        Of the initial weights, the order of rows, the rows held out and the dropout masks. The same one gives what it
        gives in scikit-learn.
    tol : float, default=1e-4
        What counts as an improvement; for "lbfgs" the largest gradient at which it ends.
    verbose : bool, default=False
        Print the loss of every epoch.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights there are.
    momentum : float, default=0.9
        Of "sgd", 0 to 1.
    nesterovs_momentum : bool, default=True
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the rows, or take those given to `fit`; stop where their score has not
        improved by `tol` for `n_iter_no_change` epochs, and go back to the best weights.
    validation_fraction : float, default=0.1
    beta_1, beta_2 : float, default=0.9, 0.999
        Of "adam" and "adamw".
    epsilon : float, default=1e-8
        Of "adam" (in scikit-learn's form: before the bias is corrected), "adamw", "adagrad" and "rmsprop".
    n_iter_no_change : int or inf, default=10
    max_fun : int, default=15000
        Evaluations of "lbfgs" at most.
    dropout : float or sequence of float, default=0.0
        Share of each hidden layer, or of one each, that is dropped in training.
    l1 : float, default=0.0
        L1 penalty l1 sum|W|, divided by the weight of the batch.
    l1_mode : {"gradient", "truncate"}, default="gradient"
        L1 as a part of the gradient, or as a soft threshold after each step, which gives exact zeros.
    weight_decay : float, default=0.01
        Of "adamw", decoupled from the gradient.
    rho : float, default=0.99
        Decay of the mean square of "rmsprop".
    clip_norm, clip_value : float or None, default=None
        Largest Euclidean norm of the gradient, penalties included, and largest element of it.
    class_weight : dict, list of dict, "balanced" or None, default=None
        Multiplies the sample weights by class, in the score of early stopping as well; one dict for each of several
        labels. A class that is not in a dict has weight 1.
    scoring : str, callable or None, default=None
        What early stopping looks at: a scorer of scikit-learn, "loss" (without penalties, its sign turned), or the
        accuracy. A function (estimator, X, y) needs a parameter `sample_weight` too where rows are weighted.
    n_threads : int or None, default=None
        Threads at most; the result does not depend on it.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where the network is trained and predicts; as for `Sequential`. The rows of a batch are shuffled on the CPU.
    matmul_precision : {"float32", "tf32", "bf16"}, default="float32"
        To what a GPU may round the factors of large networks' products, as for `Sequential`; others than "float32"
        take data of float32.

    Attributes
    ----------
    classes_ : array or list of array
    loss_, best_loss_ : float
        Of the last and of the best epoch, penalties included; `best_loss_` is None with early stopping.
    loss_curve_ : list of float
    validation_scores_ : list of float or None
    best_validation_score_ : float or None
    t_ : int
        Rows trained on.
    coefs_ : list of array (inputs, units)
    intercepts_ : list of array (units,)
    n_features_in_, n_iter_, n_layers_, n_outputs_ : int
    feature_names_in_ : array of str
        Where `X` has names.
    out_activation_ : str

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import fastnn
    >>> x, y = load_iris(return_X_y=True)
    >>> classifier = fastnn.MLPClassifier(max_iter=1000, random_state=0, dropout=0.1).fit(x, y)
    >>> bool(classifier.score(x, y) > 0.9)
    True
    """

    loss = "log_loss"
    class_weight: dict[Any, float] | list[dict[Any, float]] | str | None
    _default_score = "accuracy"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] | npt.NDArray[Any] = (100,),
        activation: str | Sequence[str] | npt.NDArray[Any] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] | npt.NDArray[Any] = 0.0,
        l1: float = 0.0,
        l1_mode: str = "gradient",
        weight_decay: float = 0.01,
        rho: float = 0.99,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        class_weight: dict[Any, float] | list[dict[Any, float]] | str | None = None,
        scoring: str | Callable[..., float] | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
        matmul_precision: str = "float32",
    ) -> None:
        _keep(self, locals())

    @fits
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPClassifier:
        """Train.

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        y : array-like (rows,) or (rows, labels)
            Classes, or one column of 0 and 1 for each label.
        sample_weight : array-like (rows,), optional
            >= 0.
        X_val, y_val, sample_weight_val : optional
            Rows for early stopping instead of a part of `X`.

        Returns
        -------
        MLPClassifier
            The estimator itself.

        Raises
        ------
        ValueError
            For a bad parameter or bad input, and where the weights become NaN or infinite.
        """
        return self._fit(X, y, sample_weight, validation=(X_val, y_val, sample_weight_val))

    @fits_on
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """Train for one epoch, going on from where the estimator is; not with "lbfgs" or early stopping.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array-like, optional
            All classes there will be; needed in the first call.

        Returns
        -------
        MLPClassifier
            The estimator itself.
        """
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the most likely class of each row, shape (rows,), or 0 and 1 for each label, (rows, labels).

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        """
        check_is_fitted(self)
        return self._decode(self._forward(X))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, or of each label, shape (rows, classes), in the order of `classes_`.

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        """
        check_is_fitted(self)
        out = self._forward(X)
        return np.hstack([1 - out, out]) if self.n_outputs_ == 1 else out

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        """
        return np.log(self.predict_proba(X))

    def _objective(self) -> Objective:
        return CLASSES if self._label_binarizer.y_type_ == "multiclass" else LABELS

    @property
    def _multilabel(self) -> bool:
        return bool(self._label_binarizer.y_type_.startswith("multilabel"))

    def _encode(self, y: Any, incremental: bool) -> Array:
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_: Any = self._label_binarizer.classes_
        elif self.warm_start and set(unique_labels(y)) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {unique_labels(y)}"
            )
        return self._encode_known("y", y)

    def _encode_known(self, name: str, y: Any) -> Array:
        columns = y.shape[1] if y.ndim == 2 else 1
        expected = len(self._label_binarizer.classes_) if self._multilabel else 1
        if columns != expected:
            raise ValueError(f"{name}: got {columns} columns, expected {expected}, as in the first fit")
        whole = {y.dtype.kind, np.asarray(self.classes_).dtype.kind} <= {"i", "u"}
        if whole and y.ndim == 1 and len(self.classes_) > 2:  # what follows takes several times as long
            labels = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
            if (self.classes_[labels] == y).all():
                return np.arange(len(self.classes_)) == labels[:, None]
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"{name}: got classes {unknown}, expected those of `classes_`, {self.classes_}")
        encoded: Array = self._label_binarizer.transform(y).astype(bool)
        return encoded

    def _decode(self, y: Array) -> Array:
        decoded: Array = self._label_binarizer.inverse_transform(y.ravel() if self.n_outputs_ == 1 else y)
        return decoded

    def _row_weights(self, X: Any, y: Array, sample_weight: Any, incremental: bool) -> Array | None:
        weights = super()._row_weights(X, y, sample_weight, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight: got 'balanced' in partial_fit, which sees a part of the rows; expected a dict of weights"
            )
        by_class = self._weights_by_class(y)
        product = by_class if weights is None else weights * by_class
        if not product.any():
            raise ValueError("class_weight: got 0 for all rows, expected one that is not")
        return product

    def _weights_by_class(self, y: Array) -> Array:
        """Return the weight of each row by its class, or the product of those by its labels."""
        classes = y if self._multilabel or y.shape[1] == 1 else y.argmax(axis=1, keepdims=True)
        if self.class_weight == "balanced":
            return np.asarray(compute_sample_weight("balanced", classes))
        known = (0, 1) if self._multilabel else self.classes_
        weights = [_weights_of(known, table) for table in self._class_tables(classes.shape[1])]
        return np.prod([of[column] for of, column in zip(weights, classes.T.astype(np.int64), strict=True)], axis=0)

    def _class_tables(self, columns: int) -> list[dict[Any, float]]:
        """Return `class_weight` as a dict for each column of classes."""
        tables: Any = self.class_weight if self._multilabel else [self.class_weight]
        if not isinstance(tables, list) or [isinstance(table, dict) for table in tables] != [True] * columns:
            expected = f"a list of {columns} dicts" if self._multilabel else "a dict"
            raise ValueError(f"class_weight: got {shown(self.class_weight)}, expected {expected} or 'balanced'")
        return tables

    def _held_score(self, held: Held) -> float:
        out = held.engine.forward(held.samples)
        if not np.isfinite(out).all():
            return float("nan")
        if self.out_activation_ == "softmax":
            right = out.argmax(axis=1) == held.y.argmax(axis=1)
        elif len(self.classes_) == 1:  # the only one is predicted, whatever the output
            right = np.ones(len(out), bool)
        else:
            right = ((out > 0.5) == held.y).all(axis=1)
        return float(np.average(right, weights=held.weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer perceptron regressor with scikit-learn's interface.

    One output or several. The weights are float32 where `X` is, else float64.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber"} or Huber, default="squared_error"
        The squared error is halved. "poisson" has the exponential for its last activation and takes `y` >= 0.
        ``fastnn.Huber(delta)`` is Huber's loss with another delta than 1.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter
        As in `MLPClassifier`, and so are all others.
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction
        As in `MLPClassifier`.
    beta_1, beta_2, epsilon, n_iter_no_change, max_fun, dropout, l1, l1_mode, weight_decay, rho, clip_norm, clip_value
        As in `MLPClassifier`.
    scoring : str, callable or None, default=None
        As in `MLPClassifier`; None is R2.
    n_threads : int or None, default=None
        As in `MLPClassifier`.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        As in `MLPClassifier`.
    matmul_precision : {"float32", "tf32", "bf16"}, default="float32"
        As in `MLPClassifier`.

    Attributes
    ----------
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, coefs_, intercepts_
        As in `MLPClassifier`.
    n_features_in_, n_iter_, n_layers_, n_outputs_, feature_names_in_, out_activation_
        As in `MLPClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> import fastnn
    >>> x, y = load_diabetes(return_X_y=True)
    >>> regressor = fastnn.MLPRegressor("huber", learning_rate_init=0.01, max_iter=2000, random_state=0).fit(x, y)
    >>> bool(regressor.score(x, y) > 0.4)
    True
    """

    _default_score = "r2"
    _y_numeric = True
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(VALUES)), Huber],
    }

    def __init__(
        self,
        loss: str | Huber = "squared_error",
        hidden_layer_sizes: int | Sequence[int] | npt.NDArray[Any] = (100,),
        activation: str | Sequence[str] | npt.NDArray[Any] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] | npt.NDArray[Any] = 0.0,
        l1: float = 0.0,
        l1_mode: str = "gradient",
        weight_decay: float = 0.01,
        rho: float = 0.99,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scoring: str | Callable[..., float] | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
        matmul_precision: str = "float32",
    ) -> None:
        _keep(self, locals())

    @fits
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPRegressor:
        """Train.

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        y : array-like (rows,) or (rows, outputs)
        sample_weight : array-like (rows,), optional
            >= 0.
        X_val, y_val, sample_weight_val : optional
            Rows for early stopping instead of a part of `X`.

        Returns
        -------
        MLPRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            For a bad parameter or bad input, and where the weights become NaN or infinite.
        """
        return self._fit(X, y, sample_weight, validation=(X_val, y_val, sample_weight_val))

    @fits_on
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Train for one epoch, going on from where the estimator is; not with "lbfgs" or early stopping.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        MLPRegressor
            The estimator itself.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the values, shape (rows,), or (rows, outputs) where there are several.

        Parameters
        ----------
        X : array-like, sparse matrix or frame (rows, inputs)
        """
        check_is_fitted(self)
        return self._decode(self._forward(X))

    def _objective(self) -> Objective:
        return value_objective(self.loss)

    def _encode(self, y: Any, incremental: bool) -> Array:
        return self._encode_known("y", y)

    def _encode_known(self, name: str, y: Any) -> Array:
        values: Array = np.asarray(y)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{name}: got values of type {values.dtype}, expected numbers")
        if self.loss == "poisson" and (values < 0).any():
            raise ValueError(f"{name}: got {shown(values.min())}, expected values >= 0 for loss='poisson'")
        return values

    def _decode(self, y: Array) -> Array:
        return y.ravel() if y.shape[1] == 1 else y

    def _held_score(self, held: Held) -> float:
        out = held.engine.forward(held.samples)
        if not np.isfinite(out).all():
            return float("nan")
        return float(r2_score(held.y, out, sample_weight=held.weights))
