"""scikit-learn's multi-layer perceptrons, trained by fastnn's kernels.

`MLPClassifier` and `MLPRegressor` take scikit-learn's parameters in its order, and have its attributes and methods.
Where fastnn and scikit-learn differ in a detail they do as scikit-learn does: the penalty is divided by the batch's
weight, the squared error is halved, losses are summed over outputs in the gradient, and Adam adds epsilon before it
corrects the bias. The same `random_state` gives the same initial weights, the same order of rows, and so the same fit
but for rounding.
"""

from fastnn.estimators.mlp import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
