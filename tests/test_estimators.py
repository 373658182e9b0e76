"""The estimators against scikit-learn's own, and what they can do besides against the oracle."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import pickle
import re
import warnings

import naive
import numpy as np
import pytest
from support import run_python

sklearn = pytest.importorskip("sklearn")

from scipy import sparse  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402
from sklearn.utils.fixes import parse_version  # noqa: E402

import fastnn  # noqa: E402
from fastnn.estimators import _engine, _samples  # noqa: E402
from fastnn.estimators._engine import Engine  # noqa: E402
from fastnn.estimators._samples import Samples  # noqa: E402
from fastnn.runtime import Runtime  # noqa: E402
from fastnn.schedules import resolve_mode  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

ROWS, INPUTS, BATCH = 233, 7, 32
OLD = parse_version("1.7") > parse_version(sklearn.__version__)
since_1_7 = pytest.mark.skipif(OLD, reason="scikit-learn's perceptrons have sample_weight and loss since 1.7")
REFUSES_WORDS = parse_version("1.9") > parse_version(sklearn.__version__)
"""Whether its early stopping may end in a TypeError for labels of text (its issue 33760): it gets numbers for them."""
RAISES = parse_version("1.6") > parse_version(sklearn.__version__)
"""Whether its area under the curve of a single class is an error."""
NEW_CALLBACKS = hasattr(fastnn.MLPClassifier, "set_callbacks")


def make_data(kind):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, INPUTS))
    y = {
        "two classes": np.array(["no", "yes"])[(x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)],
        "classes": np.array(["a", "b", "c", "d"])[rng.integers(0, 4, ROWS)],
        "labels": rng.integers(0, 2, size=(ROWS, 3)),
        "values": x[:, 0] * x[:, 1],
        "several values": np.stack([x[:, 0] * x[:, 1], np.sin(x[:, 2]), x[:, 3] ** 2], axis=1),
        "counts": rng.poisson(np.exp(x[:, 0])),
    }[kind]
    return x, y


KINDS = ("two classes", "classes", "labels", "values", "several values")


def kinds_of(kind):
    """Our class and scikit-learn's."""
    name = "MLPRegressor" if kind in ("values", "several values", "counts") else "MLPClassifier"
    return getattr(fastnn, name), getattr(theirs, name)


def both(kind, weights=None, **options):
    """Fit both from the same random state; return (ours, theirs, x, y)."""
    options = {
        "hidden_layer_sizes": (11, 6), "max_iter": 30, "random_state": 3, "batch_size": BATCH, "alpha": 0.5, **options
    }  # fmt: skip
    x, y = make_data(kind)
    if options.get("early_stopping") and y.dtype.kind == "U" and REFUSES_WORDS:
        y = np.unique(y, return_inverse=True)[1]
    ours, reference = (cls(**options).fit(x, y, sample_weight=weights) for cls in kinds_of(kind))
    return ours, reference, x, y


def same_fit(ours, reference, rtol=1e-9):
    for got, want in zip(ours.coefs_ + ours.intercepts_, reference.coefs_ + reference.intercepts_, strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
    assert ours.loss_ == pytest.approx(reference.loss_, rel=rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(reference, name), name
    for name in ("loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_"):
        want = getattr(reference, name, None)
        if want is None:
            assert getattr(ours, name, None) is None, name
        else:
            np.testing.assert_allclose(getattr(ours, name), want, rtol=rtol, err_msg=name)


def sample_weights():
    weights = np.random.default_rng(8).uniform(0.1, 2.0, ROWS)
    weights[:5] = 0.0
    return weights


# ------------------------------------------------------------------------ the same numbers as scikit-learn


@since_1_7
@pytest.mark.parametrize("weights", [None, sample_weights()], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_weights(kind, solver, shuffle, weights):
    """240 steps, a short batch at the end of each epoch, and from the same random state the same start and order."""
    ours, reference, x, _ = both(kind, weights, solver=solver, shuffle=shuffle)
    same_fit(ours, reference)
    np.testing.assert_array_equal(ours.predict(x), reference.predict(x)) if "values" not in kind else None
    assert np.abs(ours.coefs_[0]).max() > 0


@since_1_7
@pytest.mark.parametrize("weights", [None, sample_weights()], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", [*KINDS, "counts"])
def test_the_same_weights_by_lbfgs(kind, weights):
    options = {"loss": "poisson"} if kind == "counts" else {}
    ours, reference, _, _ = both(kind, weights, solver="lbfgs", max_iter=15, **options)
    same_fit(ours, reference, rtol=1e-6)


VARIANTS = {
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 2, "max_iter": 80},
    "inverse scaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.3},
    "no momentum": {"solver": "sgd", "momentum": 0.0},
    "no look-ahead": {"solver": "sgd", "nesterovs_momentum": False},
    "a momentum of 1": {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4, "max_iter": 5},
    "a large epsilon": {"epsilon": 0.1, "beta_1": 0.5, "beta_2": 0.9},
    "logistic": {"activation": "logistic"},
    "tanh": {"activation": "tanh"},
    "identity": {"activation": "identity"},
    "all rows at once": {"batch_size": ROWS},
    "automatic batches": {"batch_size": "auto"},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "converged": {"tol": 0.05, "n_iter_no_change": 3, "max_iter": 200},
    "early stopping": {"early_stopping": True, "max_iter": 60, "n_iter_no_change": 5},
    "no penalty": {"alpha": 0.0},
}


@since_1_7
@pytest.mark.parametrize("kind", ["two classes", "labels", "several values"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_scikit_learn(variant, kind):
    ours, reference, _, _ = both(kind, **VARIANTS[variant])
    same_fit(ours, reference)


@since_1_7
def test_adaptive_rates_fall():
    ours, reference, _, _ = both("values", **VARIANTS["adaptive"])
    assert ours._optimizer.learning_rate == reference._optimizer.learning_rate < 1e-3 / 20


@since_1_7
def test_poisson_loss():
    ours, reference, x, _ = both("counts", loss="poisson")
    same_fit(ours, reference)
    np.testing.assert_allclose(ours.predict(x), reference.predict(x), rtol=1e-9)
    assert ours.predict(x).min() > 0


@since_1_7
def test_early_stopping_with_weights_and_several_classes():
    ours, reference, _, _ = both("classes", sample_weights(), early_stopping=True, learning_rate_init=0.01)
    same_fit(ours, reference)
    assert len(set(ours.validation_scores_)) > 1


def test_early_stopping_with_one_class():
    x, _ = make_data("classes")
    options = {"hidden_layer_sizes": 5, "early_stopping": True, "max_iter": 5, "random_state": 0}
    ours, reference = (cls(**options).fit(x, ["a"] * ROWS) for cls in kinds_of("classes"))
    assert ours.validation_scores_ == reference.validation_scores_ == [1.0] * 5
    same_fit(ours, reference)


def test_float32_follows():
    x, y = make_data("classes")
    options = {"hidden_layer_sizes": 10, "max_iter": 20, "random_state": 0}
    ours, reference = (cls(**options).fit(x.astype(np.float32), y) for cls in kinds_of("classes"))
    for got, want in zip(ours.coefs_, reference.coefs_, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=2e-4)
    assert ours.predict_proba(x.astype(np.float32)).dtype == np.float32


@since_1_7
@pytest.mark.parametrize("kind", KINDS)
def test_predictions(kind):
    ours, reference, x, y = both(kind)
    np.testing.assert_allclose(ours.score(x, y), reference.score(x, y), rtol=1e-9)
    for name in ("predict", "predict_proba", "predict_log_proba"):
        if not hasattr(reference, name):
            assert not hasattr(ours, name)
            continue
        got, want = getattr(ours, name)(x), getattr(reference, name)(x)
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["int64", "int8", "uint16", "str"])
def test_classes_are_known_by_their_values(kind, rng):
    names = np.array([3, 7, 90]).astype(kind)
    x, which = rng.normal(size=(30, 4)), np.arange(30) % 3
    model = fastnn.MLPClassifier((5,), max_iter=3, random_state=0)
    plain = fastnn.MLPClassifier((5,), max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, names[which])
        plain.fit(x, np.array(["a", "b", "c"])[which])
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])
    answers = np.searchsorted(["a", "b", "c"], plain.predict(x))
    np.testing.assert_array_equal(model.predict(x), names[answers])
    for wrong in (1, 8, 99):
        with pytest.raises(ValueError, match=rf"^y: got classes \['?{wrong}'?\], expected those of `classes_`, "):
            model.partial_fit(x[:2], np.array([3, wrong]).astype(kind))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit(kind, solver):
    """Pieces of several sizes; the state of the optimizer goes on."""
    x, y = make_data(kind)
    settings = {"hidden_layer_sizes": 8, "solver": solver, "random_state": 1, "batch_size": 20}
    ours, reference = (cls(**settings) for cls in kinds_of(kind))
    for estimator in (ours, reference):
        options = {"classes": np.unique(y)} if kind in ("two classes", "classes") else {}
        options = {"classes": [0, 1, 2]} if kind == "labels" else options
        for first, last in ((0, 50), (50, 90), (90, 233), (0, 233)):
            estimator.partial_fit(x[first:last], y[first:last], **options)
    same_fit(ours, reference)


def test_warm_start_goes_on():
    x, y = make_data("classes")
    ours, reference = (cls(8, max_iter=5, warm_start=True, random_state=0) for cls in kinds_of("classes"))
    for _ in range(3):
        ours.fit(x, y), reference.fit(x, y)
    same_fit(ours, reference)
    assert len(ours.loss_curve_) == 15


def test_warm_start_after_it_converged():
    """One epoch more each time, as in scikit-learn: what stood still goes on standing still."""
    x, y = make_data("classes")
    options = {"tol": 0.5, "n_iter_no_change": 2, "warm_start": True, "random_state": 0}
    ours, reference = (cls(8, **options) for cls in kinds_of("classes"))
    for _ in range(3):
        ours.fit(x, y), reference.fit(x, y)
        assert ours.n_iter_ == reference.n_iter_
    same_fit(ours, reference)


@since_1_7
@pytest.mark.parametrize("better", [False, True])
def test_warm_start_with_early_stopping(better):
    """Where no epoch of the second fit is better than the best of the first, its last weights stay."""
    x, y = make_data("values")
    options = {"hidden_layer_sizes": 4, "early_stopping": True, "warm_start": True, "random_state": 0, "max_iter": 6}
    ours, reference = (cls(**options).fit(x, y) for cls in kinds_of("values"))
    first = ours.coefs_[0].copy()
    for model in (ours, reference):
        model.fit(x, 3 - 5 * y if better else y)
    same_fit(ours, reference)
    assert np.abs(ours.coefs_[0] - first).max() > 1e-4
    assert (ours.best_validation_score_ in ours.validation_scores_[6:]) == better


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_warm_fit_takes_new_memory(solver, early_stopping):
    """The weights of each fit can be kept, as with scikit-learn's lbfgs."""
    x, y = make_data("values")
    options = {"solver": solver, "early_stopping": early_stopping, "random_state": 0, "tol": 0.0}
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=3, warm_start=True, **options)
    kept = []
    for _ in range(3):
        coef = model.fit(x, y).coefs_[0]
        kept.append((coef, coef.copy()))
    for coef, then in kept:
        np.testing.assert_array_equal(coef, then)
    assert not np.array_equal(kept[0][0], kept[1][0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_new_fit_takes_new_memory(solver):
    """What was handed out stays as it was: an array, and a copy that shares the arrays."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0, solver=solver).fit(x, y)
    first, twin = model.coefs_[0], copy.copy(model)
    kept, predicted = first.copy(), twin.predict(x)
    model.set_params(random_state=1).fit(x, y)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(twin.predict(x), predicted)
    fresh = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=1, solver=solver).fit(x, y)
    np.testing.assert_array_equal(model.coefs_[0], fresh.coefs_[0])


def test_early_stopping_may_be_turned_on_and_off():
    """And another solver taken: the records begin anew, the weights go on."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=8, solver="lbfgs", max_iter=3, warm_start=True, random_state=0)
    losses = [model.fit(x, y).loss_]
    model.set_params(solver="adam", early_stopping=True).fit(x, y)
    assert len(model.validation_scores_) == 3
    losses.append(model.set_params(early_stopping=False).partial_fit(x, y).loss_)
    assert model.validation_scores_ is None
    assert model.loss_curve_ == losses[1:]
    assert abs(losses[1] - losses[0]) < 0.1 * losses[0]


def test_weights_of_ones_own():
    """`coefs_` and `intercepts_` may be replaced, and changed in place."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, activation="tanh", max_iter=2, random_state=0).fit(x, y)
    for arrays in (model.coefs_, model.intercepts_):
        arrays[0] = np.random.default_rng(0).normal(size=arrays[0].shape)
        arrays[1] *= 2.0
    want = np.tanh(x @ model.coefs_[0] + model.intercepts_[0]) @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(model.predict(x), want[:, 0], rtol=1e-12, atol=1e-13)
    before = [coef.copy() for coef in model.coefs_]
    model.partial_fit(x, y)
    assert all(0 < np.abs(new - old).max() < 0.1 for new, old in zip(model.coefs_, before, strict=True))


@pytest.mark.parametrize("use", ["predict", "partial_fit"])
@pytest.mark.parametrize("replaced", ["all", "one", "swapped"])
def test_weights_that_were_replaced_can_be_put_back(use, replaced):
    """The arrays that were fitted stay as they were, whatever is done with others in their place."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=(INPUTS, INPUTS), max_iter=2, random_state=0).fit(x, y)
    want, fitted, biases = model.predict(x), model.coefs_, model.intercepts_
    others = {
        "all": [0.0 * coef for coef in fitted], "one": [fitted[0], 0.0 * fitted[1], fitted[2]],
        "swapped": [fitted[1], fitted[0], fitted[2]],
    }[replaced]  # fmt: skip
    reference = theirs.MLPRegressor(hidden_layer_sizes=(INPUTS, INPUTS), max_iter=2, random_state=0).fit(x, y)
    reference.coefs_ = [other.copy() for other in others]
    model.coefs_ = others
    if use == "predict":
        np.testing.assert_allclose(model.predict(x), reference.predict(x), rtol=1e-9, atol=1e-12)
    else:
        model.partial_fit(x, y)
    model.coefs_, model.intercepts_ = fitted, biases
    np.testing.assert_array_equal(model.predict(x), want)


def test_weights_of_another_width():
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=2, random_state=0).fit(x, y)
    model.coefs_[0] = model.coefs_[0][:3]
    with pytest.raises(ValueError, match=r"coefs_\[0\]: got 3 rows, expected 7, as many as X has columns"):
        model.predict(x)


CHANGED = {
    "hidden_layer_sizes": (4, 4, 4), "activation": "identity", "loss": "poisson", "dropout": [0.1, 0.1, 0.1],
    "alpha": 3.0, "solver": "lbfgs",
}  # fmt: skip


@pytest.mark.parametrize("parameter", CHANGED)
def test_predictions_are_those_of_what_was_fitted(parameter):
    """`set_params` is for the next fit."""
    x, y = make_data("values")
    options = {"hidden_layer_sizes": (8, 5), "activation": ["tanh", "gelu"], "dropout": 0.2, "random_state": 0}
    model = fastnn.MLPRegressor(max_iter=3, **options).fit(x, y)
    want = model.predict(x)
    model.set_params(**{parameter: CHANGED[parameter]})
    for twin in (model, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.predict(x), want)


def test_predictions_of_what_was_put_together():
    """Weights without a fit: the activation is that of the parameters."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=8, activation="tanh", max_iter=2, random_state=0).fit(x, y)
    made = fastnn.MLPRegressor(activation="tanh")
    for name in ("coefs_", "intercepts_", "n_layers_", "n_outputs_", "out_activation_"):
        setattr(made, name, getattr(model, name))
    np.testing.assert_array_equal(made.predict(x), model.predict(x))


@pytest.mark.parametrize("activation", ["sigmoid", ["logistic"], ("sigmoid",)])
def test_logistic_by_other_names_starts_alike(activation):
    x, y = make_data("values")
    models = [
        fastnn.MLPRegressor(hidden_layer_sizes=4, activation=each, max_iter=3, random_state=0).fit(x, y)
        for each in ("logistic", activation)
    ]
    np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])
    assert models[0].loss_curve_ == models[1].loss_curve_


@since_1_7
def test_signatures():
    """Parameters in scikit-learn's order, with its defaults, then ours by keyword alone."""
    for name in ("MLPClassifier", "MLPRegressor"):
        ours, reference = (inspect.signature(getattr(module, name)).parameters for module in (fastnn, theirs))
        missing = [parameter for parameter in reference if parameter not in ours]
        assert not missing
        for got, want in zip(ours.values(), reference.values(), strict=False):
            assert (got.name, got.default, got.kind) == (want.name, want.default, want.kind)
        own = list(ours.values())[len(reference) :]
        assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in own)
        assert len(own) >= 9


TRIED = (-1, -0.5, 0, 0.0, 0.5, 1, 1.0, 1.5, 2, np.inf, None, True, "auto", [], [1])


def taken(model, name):
    """Return which of the values tried a parameter takes."""
    result = []
    for value in TRIED:
        with contextlib.suppress(InvalidParameterError):
            clone(model).set_params(**{name: value})._validate_params()
            result.append(value)
    return result


@since_1_7
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_take_what_scikit_learns_take(name):
    ours, reference = getattr(fastnn, name)(), getattr(theirs, name)()
    for parameter in set(reference.get_params()) - {"activation"}:  # of which each layer may have its own
        assert taken(ours, parameter) == taken(reference, parameter), parameter


def test_the_ranges_of_our_own_parameters():
    numbers = [0.5, 1, 1.0, 1.5, 2]
    for names, values in (
        (("l1", "weight_decay"), [0, 0.0, *numbers, True]),
        (("clip_norm", "clip_value"), [*numbers, None, True]),
        (("rho",), [0, 0.0, 0.5]),
        (("dropout",), [0, 0.0, 0.5, [], [1]]),
        (("n_threads",), [1, 2, None, True]),
        (("scoring",), [None]),
    ):
        for name in names:
            assert taken(fastnn.MLPRegressor(), name) == values, name


@since_1_7
@pytest.mark.parametrize("kind", ["classes", "values"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_every_attribute_and_method(kind, solver):
    ours, reference, _, _ = both(kind, solver=solver)
    public = {name for name in dir(reference) if not name.startswith("_")}
    if solver == "lbfgs":  # scikit-learn's regressor has one by a slip: its classifier and its documentation have none
        public.discard("partial_fit")
    assert {name for name in public if not hasattr(ours, name)} == set()
    fitted = {name for name in vars(ours) if name.endswith("_") and not name.startswith("_")}
    assert fitted == {name for name in vars(reference) if name.endswith("_") and not name.startswith("_")}


# ---------------------------------------------------------------------------------- in scikit-learn's world


@pytest.mark.parametrize("solver", ["adam", "lbfgs", "rmsprop"])
def test_copies_and_pickles(solver):
    x, y = make_data("classes")
    model = fastnn.MLPClassifier(8, solver=solver, max_iter=4, random_state=0, dropout=0.2 * (solver == "rmsprop"))
    model.fit(x, y)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        np.testing.assert_array_equal(twin.predict_proba(x), model.predict_proba(x))
    if solver != "lbfgs":
        twin = pickle.loads(pickle.dumps(model))
        model.partial_fit(x, y)
        twin.partial_fit(x, y)
        for got, want in zip(twin.coefs_, model.coefs_, strict=True):
            np.testing.assert_array_equal(got, want)
    fresh = clone(model)
    assert not hasattr(fresh, "coefs_")
    assert fresh.get_params() == model.get_params()


def test_a_copy_trains_alone():
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=5, max_iter=3, random_state=0).fit(x, y)
    before = model.predict(x)
    copy.deepcopy(model).partial_fit(x, y)
    np.testing.assert_array_equal(model.predict(x), before)


def test_joblib(tmp_path):
    joblib = pytest.importorskip("joblib")
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=5, max_iter=3, random_state=0).fit(x, y)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    np.testing.assert_array_equal(mapped.predict(x), model.predict(x))
    mapped.partial_fit(x, y)


def test_grid_search_in_a_pipeline():
    x, y = make_data("two classes")
    pipeline = make_pipeline(StandardScaler(), fastnn.MLPClassifier(16, max_iter=60, random_state=0))
    grid = {"mlpclassifier__dropout": [0.0, 0.2], "mlpclassifier__solver": ["adam", "rmsprop"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
    assert len(search.cv_results_["mean_test_score"]) == 4
    assert search.best_score_ > 0.7
    assert cross_val_score(search.best_estimator_, x, y, cv=3).mean() > 0.7


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("kind", ["two classes", "values"])
def test_frames_with_names(library, kind):
    frames = pytest.importorskip(library)
    x, y = make_data(kind)
    names = [f"column {j}" for j in range(INPUTS)]
    frame = frames.DataFrame({name: x[:, j] for j, name in enumerate(names)})
    if not hasattr(StandardScaler().fit(frame), "feature_names_in_"):
        pytest.skip(f"scikit-learn {sklearn.__version__} knows no names of {library} {frames.__version__}'s columns")
    ours, _ = kinds_of(kind)
    model = ours(
        hidden_layer_sizes=8,
        max_iter=5,
        early_stopping=True,
        scoring="neg_median_absolute_error" if kind == "values" else None,
    )
    model.fit(frame, frames.Series(y), X_val=frame, y_val=y)
    assert list(model.feature_names_in_) == names
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame[names]))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[names[::-1]])
    with pytest.warns(UserWarning, match="valid feature names"):
        model.predict(x)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["classes", "labels", "several values"])
def test_sparse_rows(kind, solver, monkeypatch):
    """Blocks of 20 rows and more become dense at a time; what comes out is what dense rows give."""
    x, y = make_data(kind)
    x[x < 0.3] = 0.0
    ours, _ = kinds_of(kind)
    options = {"hidden_layer_sizes": 9, "solver": solver, "max_iter": 6, "random_state": 0, "batch_size": 20}
    dense = ours(**options).fit(x, y, sample_weight=sample_weights())
    monkeypatch.setattr(_samples, "BLOCK_ELEMENTS", 50 * INPUTS)
    for made in (sparse.csr_matrix(x), sparse.csc_array(x)):
        model = ours(**options).fit(made, y, sample_weight=sample_weights())
        for got, want in zip(model.coefs_, dense.coefs_, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
        outputs = "predict_proba" if hasattr(model, "predict_proba") else "predict"
        np.testing.assert_allclose(getattr(model, outputs)(made), getattr(dense, outputs)(x), rtol=1e-9)
    stopped = ours(**{**options, "solver": "adam"}, early_stopping=True).fit(sparse.csr_matrix(x), y)
    assert len(stopped.validation_scores_) == 6


@pytest.mark.parametrize("together", [1, 4, 16])
@pytest.mark.parametrize("rows", ["at once", "by blocks"])
def test_sparse_rows_give_the_same_bits(rows, together, monkeypatch):
    """However many epochs share a call."""
    x, y = make_data("values")
    x[x < 0.3] = 0.0
    options = {"hidden_layer_sizes": 9, "max_iter": 37, "random_state": 0, "batch_size": 16, "tol": 0.0}
    dense = fastnn.MLPRegressor(**options).fit(x, y)
    if rows == "by blocks":
        monkeypatch.setattr(_samples, "BLOCK_ELEMENTS", 50 * INPUTS)
    else:
        monkeypatch.setattr(Engine, "epochs_a_call", lambda *of: together)
    model = fastnn.MLPRegressor(**options).fit(sparse.csr_matrix(x), y)
    assert model.loss_curve_ == dense.loss_curve_
    for got, want in zip(model.coefs_, dense.coefs_, strict=True):
        np.testing.assert_array_equal(got, want)


def few_numbers(rows, inputs, dtype):
    """A dense and a sparse matrix of the same numbers: some rows and columns empty, entries out of order and twice."""
    rng = np.random.default_rng(3)
    entries = max(1, rows * inputs // 30)
    row, column = rng.integers(1, rows, entries), rng.integers(0, inputs - 1, entries)
    value = rng.normal(size=entries).astype(dtype)
    twice = np.arange(0, entries, 5)  # halves, whose sum is exact
    row, column = np.concatenate([row, row[twice]]), np.concatenate([column, column[twice]])
    value = np.concatenate([value, value[twice]])
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(rows + 1))
    made = sparse.csr_matrix((value[order], column[order], starts), shape=(rows, inputs))
    assert not made.has_sorted_indices
    summed = made.copy()
    summed.sum_duplicates()
    return summed.toarray(), made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "early_stopping": True, "shuffle": False},
        {"solver": "lbfgs"},
        {"dropout": 0.3, "activation": "gelu", "batch_size": 7},
        {"hidden_layer_sizes": (130, 5), "batch_size": 301},  # weights in several blocks of rows
        {"hidden_layer_sizes": (700,), "batch_size": 60},  # and of columns
        {"hidden_layer_sizes": (), "clip_norm": 0.01},
    ],
)
@pytest.mark.parametrize("inputs", [30, 1100])
def test_rows_with_few_numbers_stay_sparse_and_give_the_same_bits(inputs, options, dtype, monkeypatch):
    x, made = few_numbers(301, inputs, dtype)
    y = np.arange(301) % 3
    before = made.copy()
    options = {"hidden_layer_sizes": 9, "max_iter": 3, "random_state": 0, "n_threads": 1, **options}
    weights = {} if options.get("early_stopping") else {"sample_weight": np.linspace(0, 2, 301)}
    dense = fastnn.MLPClassifier(**options).fit(x, y, **weights)
    toarray = sparse.csr_matrix.toarray

    def labels_alone(matrix, **options):  # which scikit-learn 1.4 makes dense so
        assert matrix.shape[1] < inputs
        return toarray(matrix, **options)

    monkeypatch.setattr(sparse.csr_matrix, "toarray", labels_alone)
    for n_threads in (1, 2):
        model = fastnn.MLPClassifier(**{**options, "n_threads": n_threads}).fit(made, y, **weights)
        for got, want in zip(model.coefs_ + model.intercepts_, dense.coefs_ + dense.intercepts_, strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(model.predict_proba(made), dense.predict_proba(x))
        assert model.loss_ == dense.loss_ or options.get("solver") == "lbfgs"
    assert (made != before).nnz == 0
    assert not made.has_sorted_indices


@pytest.mark.parametrize("density", [0.05, 0.3])
@pytest.mark.parametrize("place", [-1, 40, 1 << 30])
def test_sparse_rows_with_wrong_places_are_refused(place, density):
    x = sparse.random(60, 40, density=density, format="csr", random_state=0)
    model = fastnn.MLPRegressor(hidden_layer_sizes=3, max_iter=1).fit(x, np.arange(60.0))
    x.indices[7] = place
    for call in (lambda: model.fit(x, np.arange(60.0)), lambda: model.predict(x)):
        with pytest.raises(ValueError, match=r"X: got a sparse matrix with wrong places \("):
            call()


def test_sparse_rows_beyond_float32_are_refused():
    x = sparse.csr_matrix(np.eye(50))
    model = fastnn.MLPRegressor(hidden_layer_sizes=3, max_iter=2).fit(x.astype(np.float32), np.arange(50.0))
    with pytest.raises(ValueError, match=r"X: got 1e\+40, expected numbers in the range of float32"):
        model.predict(x * 1e40)


def test_a_large_sparse_matrix_is_never_dense_as_a_whole(monkeypatch):
    x = sparse.random(1000, 300, density=0.3, format="csr", random_state=0)
    monkeypatch.setattr(_samples, "BLOCK_ELEMENTS", 300 * 100)
    largest = []
    dense = _samples._in_range
    monkeypatch.setattr(_samples, "_in_range", lambda x, dtype: largest.append(np.size(x)) or dense(x, dtype))
    model = fastnn.MLPRegressor(hidden_layer_sizes=3, batch_size=50, max_iter=2)
    model.fit(x, np.arange(1000.0) / 1000).predict(x)
    assert max(largest) == 300 * 100 > 1000


# ------------------------------------------------------------------------------------- against the oracle


def oracle(model, x, t, loss, optimizer, epochs, *, scale=1.0, w=None, l1=0.0, l2=0.0, l1_mode="gradient"):
    """Train from the model's initial weights without shuffling; return the oracle's [W0, W1, ...]."""
    start = clone(model).set_params(
        max_iter=1, learning_rate="constant", learning_rate_init=1e-300, early_stopping=False
    )
    start.fit(x, t if loss != "cross_entropy" else np.asarray(t))
    names = [model.activation] if isinstance(model.activation, str) else model.activation
    layers = []
    for place, (coef, intercept) in enumerate(zip(start.coefs_, start.intercepts_, strict=True)):
        activation = [*names, "identity"][place]
        part = {"kind": "dense", "w": coef.copy(), "b": intercept.copy(), "activation": activation, "l1": l1, "l2": l2}
        layers.append(part)
    naive.network_train(
        layers, x, t.reshape(len(t), -1) if loss != "cross_entropy" else t, loss, optimizer, epochs, BATCH, 0, False, w,
        l1_mode=l1_mode, loss_scale=scale, penalty_per_weight=True,
    )  # fmt: skip
    return [layer["w"] for layer in layers]


BEYOND = {
    "adagrad": ({"solver": "adagrad", "epsilon": 1e-6}, {"name": "adagrad", "eps": 1e-6}),
    "rmsprop": ({"solver": "rmsprop", "rho": 0.9}, {"name": "rmsprop", "alpha": 0.9}),
    "clipped by value": ({"solver": "sgd", "momentum": 0.0, "clip_value": 0.02}, {"name": "sgd", "clip_value": 0.02}),
    "clipped by norm": ({"solver": "sgd", "momentum": 0.0, "clip_norm": 0.1}, {"name": "sgd", "clip_norm": 0.1}),
    "l1": ({"solver": "sgd", "momentum": 0.0, "l1": 0.3}, {"name": "sgd"}),
    "truncating l1": ({"solver": "sgd", "momentum": 0.0, "l1": 3.0, "l1_mode": "truncate"}, {"name": "sgd"}),
    "a schedule": (
        {"solver": "sgd", "momentum": 0.0, "learning_rate": fastnn.Cosine(0.1, steps=6)},
        {"name": "sgd", "lr": lambda step, epoch: 0.05 * (1 + math.cos(math.pi * min(epoch, 6) / 6))},
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_scikit_learn_has_not(case):
    options, optimizer = BEYOND[case]
    x, y = make_data("several values")
    options = {"learning_rate_init": 0.03, **options}
    model = fastnn.MLPRegressor(
        hidden_layer_sizes=(8, 5), activation=["gelu", "softplus"], max_iter=5, batch_size=BATCH, shuffle=False,
        random_state=0, alpha=0.7, **options,
    ).fit(x, y, sample_weight=sample_weights())  # fmt: skip
    want = oracle(
        model, x, y, "squared_error", {"lr": 0.03, **optimizer}, 5, scale=1.5, w=sample_weights(),
        l1=options.get("l1", 0.0), l2=0.7, l1_mode=options.get("l1_mode", "gradient"),
    )  # fmt: skip
    for got, weights in zip(model.coefs_, want, strict=True):
        np.testing.assert_allclose(got, weights, rtol=1e-7, atol=1e-10)
    if case == "truncating l1":
        assert sum(int((coef == 0).sum()) for coef in model.coefs_) > 5


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_other_losses(loss):
    x, y = make_data("several values")
    model = fastnn.MLPRegressor(
        loss, 8, "tanh", solver="sgd", momentum=0.0, learning_rate_init=0.05, alpha=0.0, max_iter=5, batch_size=BATCH,
        shuffle=False, random_state=0,
    ).fit(x, y)  # fmt: skip
    want = oracle(model, x, y, loss, {"name": "sgd", "lr": 0.05}, 5, scale=3.0)
    for got, weights in zip(model.coefs_, want, strict=True):
        np.testing.assert_allclose(got, weights, rtol=1e-8, atol=1e-11)


def test_huber_takes_a_delta_and_absolute_error_finds_the_median():
    x, y = make_data("values")
    losses = [
        fastnn.MLPRegressor(loss, 8, max_iter=3, random_state=0).fit(x, 10 * y).loss_
        for loss in (fastnn.Huber(0.1), fastnn.Huber(1.0), "huber")
    ]
    assert losses[0] < losses[1] == losses[2]
    y = np.array([0.0, 0.0, 0.0, 100.0, 0.0] * 20)
    flat = fastnn.MLPRegressor("absolute_error", 4, max_iter=300, learning_rate_init=0.01, tol=0, random_state=0)
    assert abs(flat.fit(np.ones((100, 2)), y).predict(np.ones((1, 2)))[0]) < 0.5


@pytest.mark.parametrize("kind", [*KINDS, "counts"])
def test_gradient_of_lbfgs(kind):
    """Central differences of the objective that SciPy is handed.

    As in scikit-learn, the loss of several values is their mean, and the gradient is that of their sum.
    """
    x, y = make_data(kind)
    ours, _ = kinds_of(kind)
    options = {"alpha": 0.0 if kind == "several values" else 3.0}
    options |= {"loss": "poisson"} if kind == "counts" else {}
    model = ours(hidden_layer_sizes=(5, 4), activation=["silu", "logistic"], max_iter=2, random_state=0, **options)
    model.fit(x, y)
    engine, factor = model._engine, 3 if kind == "several values" else 1
    encoded = model._encode_known("y", y)
    samples = model._samples(x, encoded.reshape(ROWS, -1), sample_weights(), engine)
    _, gradient = engine.gradient(samples, 50)
    h, kept = 1e-5, engine.params.copy()
    used = np.concatenate([np.arange(s.start, s.stop) for s in engine.network.segments])
    for i in np.random.default_rng(0).choice(used, 25, replace=False):
        values = []
        for shift in (h, -h):
            engine.params[:] = kept
            engine.params[i] += shift
            values.append(engine.gradient(samples, ROWS)[0])
        assert gradient[i] == pytest.approx(factor * (values[0] - values[1]) / (2 * h), rel=2e-5, abs=1e-9)


def test_adamw_shrinks_weights_apart_from_the_gradient():
    x, y = np.zeros((4, 2)), np.zeros(4)
    options = {"hidden_layer_sizes": 3, "solver": "adamw", "alpha": 0.0, "max_iter": 1, "random_state": 0}
    plain = fastnn.MLPRegressor(weight_decay=0.0, learning_rate_init=0.1, **options).fit(x, y)
    shrunk = fastnn.MLPRegressor(weight_decay=0.5, learning_rate_init=0.1, **options).fit(x, y)
    np.testing.assert_allclose(shrunk.coefs_[0], plain.coefs_[0] * (1 - 0.05), rtol=1e-12)


@pytest.mark.parametrize("way", ["warm_start", "partial_fit"])
def test_a_loss_that_is_changed_between_fits_changes_the_outputs_too(way):
    """Those of a Poisson loss are rates, e to what the network gives."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = np.exp(0.5 * x[:, 0]) + 0.5
    options = {"hidden_layer_sizes": 8, "learning_rate_init": 0.01, "random_state": 0, "max_iter": 80}
    for first, second, activation in (("squared_error", "poisson", "exp"), ("poisson", "squared_error", "identity")):
        model = fastnn.MLPRegressor(first, warm_start=way == "warm_start", **options)
        for loss in (first, second):
            model.set_params(loss=loss)
            for _ in range(1 if way == "warm_start" else 80):
                getattr(model, way.replace("warm_start", "fit"))(x, y)
        assert model.out_activation_ == activation
        assert model.score(x, y) > 0.8
        assert (model.predict(x) > 0).all() or second != "poisson"


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e8])
def test_lbfgs_on_float32_goes_as_far_as_on_float64(scale):
    """SciPy's search takes a loss that stands still to 1e-9 for the end, which steps in float32 do at once."""
    x = np.random.default_rng(0).normal(size=(200, 5))
    y = scale * (10 + np.sin(x[:, 0]) + x[:, 1])
    models = [
        fastnn.MLPRegressor(solver="lbfgs", hidden_layer_sizes=8, max_iter=60, random_state=0).fit(x.astype(t), y)
        for t in (np.float32, np.float64)
    ]
    with pytest.raises(ValueError, match=r"^y: got 1e\+200"):
        models[0].set_params(warm_start=True).fit(x.astype(np.float32), np.full(200, 1e200))
    assert {array.dtype for array in (*models[0].coefs_, *models[0].intercepts_)} == {np.dtype(np.float32)}
    scores = [model.score(x, y) for model in models]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert scores[0] > 0.8


@pytest.mark.parametrize(("loss", "dtype", "largest"), [
    ("squared_error", "float32", 1e20), ("squared_error", "float64", 1e160), ("huber", "float32", 1e39),
])  # fmt: skip
def test_targets_too_large_for_the_loss_are_named(loss, dtype, largest):
    x, y = np.random.default_rng(0).normal(size=(40, 3)).astype(dtype), np.arange(40.0)
    y[7] = -largest
    with pytest.raises(ValueError, match=rf"^y: got -1e\+{int(np.log10(largest))}, expected numbers up to"):
        fastnn.MLPRegressor(loss, max_iter=2).fit(x, y)


def test_weights_that_are_all_0_are_refused():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    with pytest.raises(ValueError, match=r"^class_weight: got 0 for all rows"):
        fastnn.MLPClassifier(class_weight={0: 0.0, 1: 0.0}).fit(x, y)
    with pytest.raises(ValueError, match=r"^sample_weight: got 0 for all rows held out"):
        fastnn.MLPClassifier(early_stopping=True, random_state=0).fit(
            x, y, sample_weight=np.r_[np.ones(1), np.zeros(39)]
        )


def test_a_batch_without_weight_changes_nothing():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40.0) / 40
    options = {"solver": "sgd", "batch_size": 20, "shuffle": False, "alpha": 0.0, "max_iter": 1, "random_state": 0}
    model = fastnn.MLPRegressor(**options).fit(x, y, np.repeat([0.0, 1.0], 20))
    half = fastnn.MLPRegressor(**options).fit(x[20:], y[20:])
    np.testing.assert_array_equal(model.coefs_[0], half.coefs_[0])
    assert model.loss_ == pytest.approx(half.loss_ / 2, rel=1e-12)


def test_what_does_not_fit_the_network_is_named():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40.0)
    model = fastnn.MLPRegressor(max_iter=2, warm_start=True).fit(x, y)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=r"^y: got 2 outputs, expected 1, as in the fit before"):
            call(x, np.c_[y, y])
    model.coefs_[0] = model.coefs_[0][:, :3]
    with pytest.raises(ValueError, match=r"^coefs_, intercepts_: got shapes .*expected those of layers \(3, 3, 1\)"):
        model.predict(x)


def test_warnings_point_at_the_call():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    model = fastnn.MLPClassifier(max_iter=1, batch_size=100)
    for solver in ("adam", "lbfgs"):
        with pytest.warns(UserWarning, match=r"reached|clipped|converge") as caught:
            model.set_params(solver=solver).fit(x, y)
        assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("rows", ["float32", "float64", "int32", "int8"])
def test_answers_have_scikit_learn_s_type(rows):
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    for name in ("MLPClassifier", "MLPRegressor"):
        kinds = getattr(fastnn, name), getattr(theirs, name)
        models = [kind(max_iter=2, random_state=0).fit(x.astype(np.float32), y) for kind in kinds]
        answers = [getattr(model, "predict_proba", model.predict)(x.astype(rows)) for model in models]
        assert answers[0].dtype == answers[1].dtype
        np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)


def test_options_of_each_layer_as_arrays():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    options = {"hidden_layer_sizes": np.array([5, 4]), "max_iter": 3, "random_state": 0}
    lists = fastnn.MLPClassifier(activation=["relu", "tanh"], dropout=[0.1, 0.2], **options).fit(x, y)
    arrays = fastnn.MLPClassifier(activation=np.array(["relu", "tanh"]), dropout=np.array([0.1, 0.2]), **options)
    np.testing.assert_array_equal(arrays.fit(x, y).coefs_[0], lists.coefs_[0])


def test_rows_too_large_for_the_fitted_type_are_refused():
    """Not answered with NaN: they would be infinite in the network's float32."""
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40.0)
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=2).fit(x.astype(np.float32), y)
    large = np.where(np.arange(3) == 1, 1e39, x)
    for call in (model.predict, lambda rows: model.partial_fit(rows, y)):
        with pytest.raises(ValueError, match=r"^X: got 1e\+39, expected numbers in the range of float32"):
            call(large)
    assert np.isfinite(model.predict(1e30 * x)).all()
    assert np.isfinite(fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=2).fit(x, y).predict(large)).all()


def test_dropout():
    x, y = make_data("classes")
    options = {"hidden_layer_sizes": (32, 16), "max_iter": 15, "random_state": 0}
    runs = [fastnn.MLPClassifier(dropout=rate, **options).fit(x, y) for rate in (0.0, 0.4, 0.4, [0.4, 0.0])]
    np.testing.assert_array_equal(runs[1].coefs_[0], runs[2].coefs_[0])
    assert np.abs(runs[1].coefs_[0] - runs[0].coefs_[0]).max() > 1e-3
    assert np.abs(runs[1].coefs_[1] - runs[3].coefs_[1]).max() > 1e-3
    assert runs[1].loss_ > runs[0].loss_
    np.testing.assert_array_equal(runs[1].predict_proba(x), runs[1].predict_proba(x))


@pytest.mark.parametrize("class_weight", ["balanced", {"no": 3.0, "yes": 0.5}])
def test_class_weight_is_a_weight_of_the_rows(class_weight):
    x, y = make_data("two classes")
    table = {"no": 3.0, "yes": 0.5}
    if class_weight == "balanced":
        table = {name: ROWS / (2 * (y == name).sum()) for name in ("no", "yes")}
    rows = np.array([table[name] for name in y]) * sample_weights()
    options = {"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0, "early_stopping": True}
    by_class = fastnn.MLPClassifier(class_weight=class_weight, **options).fit(x, y, sample_weights())
    by_row = fastnn.MLPClassifier(**options).fit(x, y, rows)
    np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-12)
    assert by_class.validation_scores_ == pytest.approx(by_row.validation_scores_)


def test_weights_of_classes_that_are_not_there():
    """A batch, or the rows held out, may lack a class that has a weight; a class without one has 1."""
    x, y = make_data("classes")
    options = {"hidden_layer_sizes": 6, "max_iter": 3, "random_state": 0}
    table, rows = {"a": 3.0, "c": 0.5}, np.select([y == "a", y == "c"], [3.0, 0.5], 1.0)
    some = y != "c"
    by_class, by_row = fastnn.MLPClassifier(class_weight=table, **options), fastnn.MLPClassifier(**options)
    for part in (slice(None), some):
        by_class.partial_fit(x[part], y[part], classes=list("abcd"))
        by_row.partial_fit(x[part], y[part], rows[part], classes=list("abcd"))
    np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-12)
    for model in (by_class, by_row):
        model.set_params(early_stopping=True)
    by_class.fit(x, y, X_val=x[some], y_val=y[some])
    by_row.fit(x, y, rows, X_val=x[some], y_val=y[some], sample_weight_val=rows[some])
    assert by_class.validation_scores_ == pytest.approx(by_row.validation_scores_)


def test_weights_of_labels():
    x, y = make_data("labels")
    options = {"hidden_layer_sizes": 6, "max_iter": 3, "random_state": 0}
    tables = [{0: 1.0, 1: 2.0}, {1: 3.0}, {0: 0.5}]
    rows = np.array([2.0, 3.0, 1.0]) ** y
    rows[:, 2] = np.where(y[:, 2] == 0, 0.5, 1.0)
    by_class, by_row = fastnn.MLPClassifier(class_weight=tables, **options), fastnn.MLPClassifier(**options)
    for part in (slice(None), y[:, 1] == 0):
        by_class.partial_fit(x[part], y[part], classes=[0, 1, 2])
        by_row.partial_fit(x[part], y[part], rows.prod(axis=1)[part], classes=[0, 1, 2])
    np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-12)


def test_threads_do_not_change_a_bit(threads):
    threads(2)
    x, y = make_data("classes")
    x = np.tile(x, (3, 20))
    options = {"hidden_layer_sizes": (90, 40), "max_iter": 4, "random_state": 0, "dropout": 0.2}
    one, two = (fastnn.MLPClassifier(n_threads=n, **options).fit(x, np.tile(y, 3)) for n in (1, 2))
    assert two._engine.runtime.threads == 2
    for got, want in zip(two.coefs_, one.coefs_, strict=True):
        np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------ early stopping


def test_a_validation_set_of_ones_own():
    x, y = make_data("classes")
    model = fastnn.MLPClassifier(20, early_stopping=True, max_iter=15, random_state=0, learning_rate_init=0.01)
    model.fit(x[:150], y[:150], X_val=x[150:], y_val=y[150:], sample_weight_val=sample_weights()[150:])
    assert model.t_ == 15 * 150
    score = np.average(model.predict(x[150:]) == y[150:], weights=sample_weights()[150:])
    assert model.best_validation_score_ == pytest.approx(score)
    assert model.best_validation_score_ == max(model.validation_scores_)


@pytest.mark.parametrize("kind", ["two classes", "classes", "labels", "values"])
def test_loss_as_the_score(kind):
    x, y = make_data(kind)
    ours, _ = kinds_of(kind)
    model = ours(hidden_layer_sizes=20, early_stopping=True, scoring="loss", max_iter=15, random_state=0, alpha=0.0)
    model.fit(x, y, X_val=x, y_val=y)
    out = model.predict(x) if kind == "values" else model.predict_proba(x)
    if kind == "values":
        want = 0.5 * np.mean((out - y) ** 2)
    elif kind == "labels":
        want = -np.mean(np.where(y == 1, np.log(out), np.log(1 - out)).sum(axis=1))
    else:
        want = -np.mean(np.log(out[np.arange(ROWS), np.searchsorted(model.classes_, y)]))
    assert -model.best_validation_score_ == pytest.approx(want, rel=1e-9)


def test_a_scorer():
    x, y = make_data("classes")
    options = {"hidden_layer_sizes": 20, "early_stopping": True, "max_iter": 8, "random_state": 0}
    seen = []

    def scorer(estimator, x_val, y_val):
        seen.append((estimator.predict(x_val), y_val))
        return float((seen[-1][0] == y_val).mean())

    by_default, by_name, by_function = (
        fastnn.MLPClassifier(scoring=scoring, **options).fit(x, y) for scoring in (None, "accuracy", scorer)
    )
    assert by_default.validation_scores_ == pytest.approx(by_name.validation_scores_)
    assert by_default.validation_scores_ == pytest.approx(by_function.validation_scores_)
    assert len(seen) == 8
    assert set(seen[0][1]) == {"a", "b", "c", "d"}


def test_a_schedule_watches_the_score():
    x, y = make_data("values")
    for monitor, mode in (("val_r2", "auto"), ("val_score", "max"), ("loss", "auto")):
        schedule = fastnn.ReduceOnPlateau(0.01, patience=0, min_delta=1e9, monitor=monitor, mode=mode)
        model = fastnn.MLPRegressor(hidden_layer_sizes=5, learning_rate=schedule, early_stopping=True, max_iter=4).fit(
            x, y
        )
        assert model._optimizer.learning_rate < 0.01 / 99
        assert schedule.rate(0, 0) == 0.01, "the parameter is left as it was given"


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_number_that_no_epoch_has_is_refused_before_training(early_stopping):
    x, y = make_data("values")
    schedule = fastnn.Warmup(fastnn.ReduceOnPlateau(0.01, monitor="val_accuracy"), steps=2)
    model = fastnn.MLPRegressor("huber", 5, learning_rate=schedule, early_stopping=early_stopping)
    with pytest.raises(ValueError, match=r"^monitor: got 'val_accuracy', expected one of 'loss'"):
        model.fit(x, y)
    assert not hasattr(model, "coefs_")


def test_larger_scores_are_better():
    """A score that rises leaves the rate alone, without a mode."""
    assert [resolve_mode(name, "auto") for name in ("val_score", "score", "val_loss")] == ["max", "max", "min"]
    x, y = make_data("values")
    schedule = fastnn.ReduceOnPlateau(0.01, patience=0, monitor="val_score")
    model = fastnn.MLPRegressor("squared_error", 20, learning_rate=schedule, early_stopping=True, random_state=0)
    model.set_params(max_iter=5).fit(x, y, X_val=x, y_val=y)
    assert np.diff(model.validation_scores_).min() > 1e-4
    assert model._optimizer.learning_rate == 0.01


class Spy(fastnn.ReduceOnPlateau):
    """A schedule that takes down what it hears."""

    def epoch_end(self, logs):
        self.__dict__.setdefault("heard", []).append(dict(logs))


HEARD = {
    "val_loss": (None, {"loss", "val_loss", "val_score", "val_accuracy"}),
    "loss": (None, {"loss", "val_score", "val_accuracy"}),
    "val_accuracy": ("accuracy", {"loss", "val_score", "val_accuracy"}),
    "val_score": ("loss", {"loss", "val_score", "val_loss"}),
    "val_score by a scorer": ("f1_macro", {"loss", "val_score"}),
}


@pytest.mark.parametrize("case", HEARD)
def test_what_a_schedule_hears(case):
    """The loss of the rows held out is there where it is watched."""
    scoring, names = HEARD[case]
    x, y = make_data("classes")
    model = fastnn.MLPClassifier(
        20, learning_rate=Spy(0.01, monitor=case.split()[0]), early_stopping=True, scoring=scoring, max_iter=4,
        random_state=0, n_iter_no_change=10,
    ).fit(x, y, X_val=x, y_val=y)  # fmt: skip
    heard = model._optimizer.schedule.heard
    assert set(heard[0]) == names
    assert [logs["val_score"] for logs in heard] == model.validation_scores_
    if case == "val_loss":
        again = fastnn.MLPClassifier(
            20, learning_rate=fastnn.Constant(0.01), early_stopping=True, scoring="loss", max_iter=4, random_state=0
        ).fit(x, y, X_val=x, y_val=y)
        assert [-logs["val_loss"] for logs in heard] == again.validation_scores_


def test_rows_are_int64_where_numpy_counts_in_int32(monkeypatch):
    """As NumPy before 2 does on Windows: compiled code reads the order of the rows at its address."""
    x, y = make_data("two classes")
    arange, part, kinds = np.arange, Samples.part, []

    def narrow(*arguments, dtype=np.int32):
        return arange(*arguments, dtype=dtype)

    def watched(samples, order, first, last):
        kinds.append(order.dtype)
        return part(samples, order.astype(np.int64), first, last)

    monkeypatch.setattr(np, "arange", narrow)
    monkeypatch.setattr(Samples, "part", watched)
    fastnn.MLPClassifier(5, max_iter=2, random_state=0).fit(x, y)
    assert set(kinds) == {np.dtype(np.int64)}


def test_r2_by_its_name_may_be_watched():
    x, y = make_data("values")
    schedule = fastnn.ReduceOnPlateau(0.01, monitor="val_r2")
    options = {"hidden_layer_sizes": 5, "learning_rate": schedule, "early_stopping": True, "max_iter": 2}
    assert len(fastnn.MLPRegressor(scoring="r2", **options).fit(x, y).validation_scores_) == 2


@pytest.mark.parametrize(
    "scoring",
    [
        pytest.param("roc_auc", marks=pytest.mark.skipif(RAISES, reason="scikit-learn raises where it later warns")),
        lambda *of: -math.inf,
    ],
)
def test_no_score_was_finite(scoring):
    """The weights of the last epoch stay, and a warning says so."""
    x, y = make_data("two classes")
    options = {"hidden_layer_sizes": 5, "max_iter": 4, "random_state": 0}
    model = fastnn.MLPClassifier(early_stopping=True, scoring=scoring, **options)
    one_class = {"X_val": x[y == "no"], "y_val": y[y == "no"]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, **one_class)
    told = [str(warning.message) for warning in caught if warning.category is ConvergenceWarning]
    assert any("no validation score was finite" in message for message in told)
    np.testing.assert_array_equal(model.coefs_[0], fastnn.MLPClassifier(**options).fit(x, y).coefs_[0])


@pytest.mark.parametrize("scoring", [None, "r2"])
def test_r2_needs_two_rows(scoring):
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=2, early_stopping=True, scoring=scoring)
    with pytest.raises(ValueError, match="X_val: got 1 row, expected at least 2"):
        model.fit(x, y, X_val=x[:1], y_val=y[:1])
    model.set_params(scoring="loss").fit(x, y, X_val=x[:1], y_val=y[:1])


def test_a_scorer_needs_to_take_weights():
    x, y = make_data("two classes")

    def plain(estimator, x_val, y_val):
        return 1.0

    def weighing(estimator, x_val, y_val, sample_weight=None):
        return float(np.average(estimator.predict(x_val) == y_val, weights=sample_weight))

    options = {"hidden_layer_sizes": 5, "max_iter": 2, "early_stopping": True, "random_state": 0}
    for more, weights in (({}, sample_weights()), ({"class_weight": "balanced"}, None)):
        with pytest.raises(ValueError, match=r"scoring: got .* without a parameter sample_weight, expected one"):
            fastnn.MLPClassifier(scoring=plain, **more, **options).fit(x, y, weights)
        by_function, by_name = (
            fastnn.MLPClassifier(scoring=scoring, **more, **options).fit(x, y, weights)
            for scoring in (weighing, "accuracy")
        )
        assert by_function.validation_scores_ == pytest.approx(by_name.validation_scores_)


# ------------------------------------------------------------------------------------------------ callbacks


class Recorder:
    """A callback of scikit-learn's protocol that takes down what it is told, and stops after some epochs."""

    def __init__(self, stop_after=None):
        self.told, self.scores, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.told.append(f"end {context.task_name}")
        if fitted_estimator is not None:
            self.scores.append((fitted_estimator.score(X, y), "sample_weight" in metadata))
        return self.stop_after is not None and len(self.scores) >= self.stop_after


@pytest.mark.skipif(not NEW_CALLBACKS, reason="callbacks came with scikit-learn 1.9")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks(solver):
    x, y = make_data("classes")
    options = {"hidden_layer_sizes": 8, "max_iter": 6, "random_state": 0, "solver": solver, "learning_rate_init": 0.1}
    quiet = fastnn.MLPClassifier(**options).fit(x, y, sample_weights())
    recorder = Recorder()
    model = fastnn.MLPClassifier(**options).set_callbacks(recorder).fit(x, y, sample_weights())
    for got, want in zip(model.coefs_, quiet.coefs_, strict=True):
        np.testing.assert_array_equal(got, want)
    assert recorder.told == ["setup", "begin fit", *["begin epoch", "end epoch"] * 6, "end fit", "teardown"]
    assert recorder.scores[-1] == (model.score(x, y), True)
    assert recorder.scores[0] != recorder.scores[-1]
    stopped = fastnn.MLPClassifier(**options).set_callbacks(Recorder(3)).fit(x, y)
    assert stopped.n_iter_ == 3


@pytest.mark.skipif(not NEW_CALLBACKS, reason="callbacks came with scikit-learn 1.9")
def test_scoring_monitor_of_scikit_learn():
    from sklearn.callback import ScoringMonitor

    x, y = make_data("values")
    monitor = ScoringMonitor(scoring="r2")
    model = fastnn.MLPRegressor(hidden_layer_sizes=8, max_iter=5, random_state=0).set_callbacks(monitor).fit(x, y)
    data = monitor.get_logs(select="most_recent").data
    scores = [row["r2"] for row in data if row["task_name"] == "epoch"]
    assert len(scores) == 5
    assert scores[-1] == pytest.approx(model.score(x, y))


# --------------------------------------------------------------------------------------------- what is refused

REFUSED = {
    "dropout and lbfgs": ({"solver": "lbfgs", "dropout": 0.1}, {}, "dropout: got 0.1 with solver='lbfgs'"),
    "l1 and lbfgs": ({"solver": "lbfgs", "l1": 0.1}, {}, "l1: got 0.1 with solver='lbfgs'"),
    "clipping and lbfgs": ({"solver": "lbfgs", "clip_norm": 1.0}, {}, "clip_norm: got 1.0 with solver='lbfgs'"),
    "a schedule and lbfgs": (
        {"solver": "lbfgs", "learning_rate": fastnn.Cosine(0.1, steps=3)}, {}, "learning_rate: got Cosine(lr=0.1",
    ),
    "a negative class weight": (
        {"class_weight": {"a": -2.0}}, {}, "class_weight: got -2.0, expected a number >= 0",
    ),
    "a class weight that is none": ({"class_weight": {"a": math.nan}}, {}, "class_weight: got nan, expected a number"),
    "a weight of an unknown class": (
        {"class_weight": {"a": 1.0, "z": 1.0}}, {}, "class_weight: got weights of ['a', 'z'], expected those of the",
    ),
    "weights of labels for classes": ({"class_weight": [{0: 1}]}, {}, "class_weight: got [{0: 1}], expected a dict"),
    "an unknown activation": ({"activation": ["relux"]}, {}, "activation: got 'relux', expected one of 'logistic'"),
    "too many activations": ({"activation": ["relu", "tanh"]}, {}, "activation: got 2 for 1 hidden layers"),
    "too many rates": ({"dropout": [0.1, 0.2]}, {}, "dropout: got 2 for 1 hidden layers"),
    "a rate of 1": ({"dropout": [1.0]}, {}, "dropout: got 1.0"),
    "a rate next to 1": ({"dropout": 1 - 1e-12}, {}, "dropout: got 0.999999999999, expected at most 1 - 2"),
    "no units": ({"hidden_layer_sizes": (3, 0)}, {}, "hidden_layer_sizes: got (3, 0), expected integers >= 1"),
    "a truth value for units": ({"hidden_layer_sizes": (True,)}, {}, "hidden_layer_sizes: got (True,), expected"),
    "half a validation set": ({"early_stopping": True}, {"X_val": np.zeros((3, 7))}, "X_val, y_val: got one without"),
    "a validation set for nothing": (
        {}, {"X_val": np.zeros((3, 7)), "y_val": ["a", "b", "a"]}, "X_val: got rows, but they are looked at only with",
    ),
    "a class that is not there": (
        {"early_stopping": True}, {"X_val": np.zeros((3, 7)), "y_val": ["a", "b", "z"]}, "y_val: got classes ['z']",
    ),
    "a negative weight": ({}, {"sample_weight": -np.ones(ROWS)}, "sample_weight: got -1.0, expected weights >= 0"),
    "one row to validate": (
        {"early_stopping": True, "validation_fraction": 0.001}, {}, "The validation set is too small",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    options, arguments, message = REFUSED[case]
    x, y = make_data("classes")
    with pytest.raises(ValueError, match=re.escape(message)):
        fastnn.MLPClassifier(**{"hidden_layer_sizes": 5, "max_iter": 2, **options}).fit(x, y, **arguments)


def test_refused_of_a_regressor():
    x, y = make_data("values")
    with pytest.raises(ValueError, match=r"y: got -\d.*expected values >= 0 for loss='poisson'"):
        fastnn.MLPRegressor("poisson").fit(x, y)
    with pytest.raises(ValueError, match="'loss' parameter of MLPRegressor"):
        fastnn.MLPRegressor("squared").fit(x, y)
    model = fastnn.MLPRegressor(hidden_layer_sizes=4, warm_start=True, max_iter=1).fit(x, y)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes: got layers of \(7, 5, 1\), but the fitted weights"):
        model.set_params(hidden_layer_sizes=5).fit(x, y)


@pytest.mark.parametrize("words", [["one", "two"], ["1", "2"]])
def test_words_are_no_values(words):
    x, _ = make_data("values")
    with pytest.raises(TypeError, match=r"y: got values of type <U\d, expected numbers"):
        fastnn.MLPRegressor().fit(x, np.resize(words, ROWS))


def test_columns_of_labels():
    """Neither classes for labels, nor labels for classes."""
    x, labels = make_data("labels")
    options = {"hidden_layer_sizes": 5, "max_iter": 2, "early_stopping": True}
    with pytest.raises(ValueError, match="y_val: got 1 columns, expected 3"):
        fastnn.MLPClassifier(**options).fit(x, labels, X_val=x, y_val=labels[:, 0])
    with pytest.raises(ValueError, match="y_val: got 2 columns, expected 3"):
        fastnn.MLPClassifier(**options).fit(x, labels, X_val=x, y_val=labels[:, :2])
    with pytest.raises(ValueError, match="y_val: got 3 columns, expected 1"):
        fastnn.MLPClassifier(**options).fit(x, labels[:, 0], X_val=x, y_val=labels)
    with pytest.raises(ValueError, match=r"class_weight: got \{0: 1.0\}, expected a list of 3"):
        fastnn.MLPClassifier(class_weight={0: 1.0}, hidden_layer_sizes=5).fit(x, labels)


def test_balanced_weights_need_all_rows():
    x, y = make_data("classes")
    with pytest.raises(ValueError, match="class_weight: got 'balanced' in partial_fit"):
        fastnn.MLPClassifier(class_weight="balanced").partial_fit(x, y, classes=np.unique(y))


@pytest.mark.parametrize("early_stopping", [True, False])
def test_divergence(early_stopping):
    """With early stopping the best weights come back; without, what is left is refused, as by scikit-learn."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(
        hidden_layer_sizes=20, activation="identity", solver="sgd", learning_rate_init=50.0,
        early_stopping=early_stopping, random_state=0,
    )  # fmt: skip
    refused = contextlib.nullcontext() if early_stopping else pytest.raises(ValueError, match="non-finite parameter")
    with refused, pytest.warns(ConvergenceWarning, match="the loss became NaN or infinite"):
        model.fit(1e3 * x, y)
    if not early_stopping:
        return
    assert np.isnan(model.validation_scores_[-1])
    assert np.isfinite(model.predict(x)).all()


def epochs_a_call(monkeypatch, most=None):
    """Return a list that grows by the epochs of each call of several; `most` is how many the clock would allow."""
    counts = []
    train = Engine.train_epochs

    def counted(engine, samples, orders, batch, steps):
        counts.append(len(orders))
        return train(engine, samples, orders, batch, steps)

    monkeypatch.setattr(Engine, "train_epochs", counted)
    if most is not None:
        monkeypatch.setattr(Engine, "epochs_a_call", lambda *of: most)
    return counts


TOGETHER = {
    "converges": {"tol": 1e-2, "learning_rate_init": 0.01, "max_iter": 200},
    "ends at max_iter": {"max_iter": 23},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1e-2, "n_iter_no_change": 3, "max_iter": 200},
    "as the rows stand": {"shuffle": False, "batch_size": ROWS, "max_iter": 23},
    "dropout": {"dropout": 0.3, "batch_size": 50, "max_iter": 23},
    "never stands still": {"n_iter_no_change": math.inf, "max_iter": 23},
    "diverges": {"solver": "sgd", "learning_rate_init": 30.0, "activation": "identity", "max_iter": 60},
}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_epochs_in_one_call_are_those_one_by_one(name, monkeypatch):
    x, y = make_data("values")
    states, models, refused = [], [], []
    for most in (1, 8):
        counts = epochs_a_call(monkeypatch, most)
        states.append(np.random.RandomState(3))
        models.append(fastnn.MLPRegressor(hidden_layer_sizes=9, random_state=states[-1], **TOGETHER[name]))
        try:
            models[-1].fit(x, y)
        except ValueError as error:
            refused.append(str(error))
    one, several = models
    np.testing.assert_array_equal(one.loss_curve_, several.loss_curve_)
    assert (one.n_iter_, one.t_, one.best_loss_) == (several.n_iter_, several.t_, several.best_loss_)
    for mine, other in zip(one.coefs_ + one.intercepts_, several.coefs_ + several.intercepts_, strict=True):
        np.testing.assert_array_equal(mine, other)
    if name != "diverges":
        assert repr(states[0].get_state()) == repr(states[1].get_state())
        assert states[0].randint(2**31) == states[1].randint(2**31)
    assert max(counts) > 1
    assert len(refused) == (2 if name == "diverges" else 0)


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"learning_rate": "invscaling", "solver": "sgd"}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_every_epoch_decides_is_done_one_by_one(options, monkeypatch):
    counts = epochs_a_call(monkeypatch)
    fastnn.MLPRegressor(hidden_layer_sizes=4, max_iter=30, batch_size=200, **options).fit(*make_data("values"))
    assert not counts


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_interrupted(together, monkeypatch):
    """What the interrupted call did does not count."""
    x, y = make_data("values")
    settings = {"hidden_layer_sizes": 4, "batch_size": ROWS, "random_state": 1}
    monkeypatch.setattr(Engine, "epochs_a_call", lambda *of: 5 if together else 1)
    made, calls = Runtime.training_calls, []

    def training_calls(runtime, data, batch):
        train = made(runtime, data, batch)

        def interrupted(*arguments):
            train(*arguments)
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt

        return interrupted

    model = fastnn.MLPRegressor(max_iter=50, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "training_calls", training_calls)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            model.fit(x, y)
    assert model.n_iter_ == len(model.loss_curve_) == (15 if together else 3)
    assert len(model.predict(x)) == ROWS
    if together:
        same = fastnn.MLPRegressor(max_iter=15, **settings).fit(x, y)
        for mine, other in zip(model.coefs_, same.coefs_, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_max_iter_warns():
    x, y = make_data("values")
    with pytest.warns(ConvergenceWarning, match=r"MLPRegressor: 2 epochs \(max_iter\)"):
        fastnn.MLPRegressor(max_iter=2).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2 iterations"):
        fastnn.MLPRegressor(max_iter=2, solver="lbfgs", hidden_layer_sizes=5).fit(x, y)


def test_verbose(capsys):
    x, y = make_data("values")
    options = {"max_iter": 3, "early_stopping": True, "tol": 10.0, "n_iter_no_change": 1}
    fastnn.MLPRegressor(**options).fit(x, y)
    fastnn.MLPRegressor(solver="lbfgs", max_iter=3).fit(x, y)
    assert capsys.readouterr().out == ""
    fastnn.MLPRegressor(solver="lbfgs", max_iter=3, verbose=True).fit(x, y)
    assert "Iteration 1, loss = " in capsys.readouterr().out
    fastnn.MLPRegressor(verbose=True, **options).fit(x, y)
    out = capsys.readouterr().out
    assert "Iteration 1, loss = " in out
    assert "Validation score: " in out
    assert "did not improve more than tol=10.000000 for 1 epochs. Stopping." in out


def test_the_data_are_let_go():
    x, y = make_data("values")
    for solver in ("adam", "lbfgs"):
        model = fastnn.MLPRegressor(solver=solver, max_iter=2).fit(x, y)
        assert model._engine._calls is None
        assert model._engine._gradient_calls is None


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_large_workspace_is_let_go(early_stopping, monkeypatch):
    """With the network around it, which predictions and the next step make anew."""
    x, y = make_data("values")
    options = {"hidden_layer_sizes": 5, "max_iter": 3, "random_state": 0, "early_stopping": early_stopping}
    models = []
    for most in (1 << 22, 100):
        monkeypatch.setattr(_engine, "_MOST_KEPT", most)
        models.append(fastnn.MLPRegressor(**options).fit(x, y))
        assert hasattr(models[-1], "_engine") == (most > 100)
    kept, dropped = models
    for _ in range(2):
        np.testing.assert_array_equal(dropped.predict(x), kept.predict(x))
        for model in models:
            model.set_params(early_stopping=False).partial_fit(x, y)


def test_samples_weigh():
    assert Samples(np.zeros((3, 2)), np.dtype(float)).weight == 3.0
    assert Samples(np.zeros((3, 2)), np.dtype(float), weights=np.array([0.5, 0.0, 2.0])).weight == 2.5


# ------------------------------------------------------------------------------------------ without scikit-learn

WITHOUT = """
import sys
for name in ("sklearn", "scipy"):
    sys.modules[name] = None
import fastnn
print(fastnn.Sequential([fastnn.Dense(1)], "squared_error", input_size=2).network.n_params)
print("MLPClassifier" in dir(fastnn), hasattr(fastnn, "MLPPerceptron"))
try:
    fastnn.MLPRegressor
except ImportError as error:
    print(error)
"""


def test_without_scikit_learn():
    lines = run_python(WITHOUT).splitlines()
    assert lines == [
        "3",
        "True False",
        "fastnn.MLPRegressor needs scikit-learn, which is not installed: pip install 'fastnn[sklearn]'",
    ]


def test_no_warning_but_those_that_are_meant():
    """A fit that converges warns of nothing at all."""
    x, y = make_data("values")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (np.float64, np.float32, np.float16, np.longdouble):
            fastnn.MLPRegressor(tol=1.0, n_iter_no_change=2).fit(x, y.astype(kind)).predict(x)


def test_a_sequence_of_fits_in_one_pickle():
    """The file of a pickle holds no data and no engine."""
    x, y = make_data("values")
    model = fastnn.MLPRegressor(hidden_layer_sizes=3, max_iter=2).fit(np.tile(x, (50, 1)), np.tile(y, 50))
    buffer = io.BytesIO()
    pickle.dump(model, buffer)
    assert buffer.tell() < 10_000
