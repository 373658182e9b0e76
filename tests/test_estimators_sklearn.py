"""scikit-learn's own checks and its own tests of its multi-layer perceptrons, run against ours."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402
from sklearn.utils.fixes import parse_version  # noqa: E402

from fastnn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

EXCEPTIONS = {
    "test_gradient": "calls the private _loss_grad_lbfgs of scikit-learn's class with lists for its layers; "
    "test_estimators.py::test_gradient_of_lbfgs takes central differences of ours",
}
"""Tests of scikit-learn's file that cannot pass, and why."""

if parse_version("1.7") > parse_version(sklearn.__version__):
    EXCEPTIONS["test_mlp_regressor_dtypes_casting"] = (
        "old files want 150 epochs in float32 within 1e-4 of float64, newer ones within 5e-4: rounding of its own kind "
        "may differ by more than the first"
    )


@parametrize_with_checks(
    [
        MLPClassifier(),
        MLPRegressor(),
        MLPClassifier(solver="lbfgs", max_iter=50),
        MLPRegressor("huber", solver="adamw", activation=["gelu"], l1=1e-3, learning_rate_init=0.01, clip_norm=5.0),
    ]
)
def test_every_check_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def global_random_seed():
    """scikit-learn's fixture of this name."""
    return 42


def load_their_tests():
    """Return the test functions of scikit-learn's file, made from its source with our classes in it."""
    package = importlib.util.find_spec("sklearn.neural_network")
    path = pathlib.Path(package.origin).parent / "tests" / "test_mlp.py"
    theirs = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
    source = path.read_text()
    assert source.count(theirs) == 1
    names: dict = {"__name__": "test_mlp", "__file__": str(path)}
    exec(compile(source.replace(theirs, "from fastnn import MLPClassifier, MLPRegressor\n"), str(path), "exec"), names)
    assert names["MLPClassifier"] is MLPClassifier
    return {name: value for name, value in names.items() if name.startswith("test_")}


found = load_their_tests()
globals().update({name: test for name, test in found.items() if name not in EXCEPTIONS})


def test_the_exceptions_are_there_and_few():
    assert set(EXCEPTIONS) <= set(found)
    assert len(found) - len(EXCEPTIONS) > 30
