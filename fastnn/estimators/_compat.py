"""What is spelt differently in scikit-learn 1.4 and in later releases, and lies between a user's call and ours."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import sklearn
from sklearn.base import _fit_context
from sklearn.utils.fixes import parse_version
from sklearn.utils.metaestimators import available_if

VERSION = parse_version(sklearn.__version__)
Method = TypeVar("Method", bound=Callable[..., Any])

if parse_version("1.6") <= VERSION:
    from sklearn.utils.validation import validate_data
else:

    def validate_data(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
        """Check input by the method that later became a function."""
        return estimator._validate_data(X, y, **options)


if parse_version("1.9") <= VERSION:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
else:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: callbacks came with scikit-learn 1.9."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is: callbacks came with scikit-learn 1.9."""
        return method


def fits(method: Method) -> Method:
    """Make a method scikit-learn's `fit`; type checkers go on seeing what it takes and returns."""
    made: Method = with_callbacks(_fit_context(prefer_skip_nested_validation=True)(method))
    return made


def fits_on(method: Method) -> Method:
    """Make a method scikit-learn's `partial_fit`, which some solvers lack, as `fits` does."""
    made: Method = available_if(lambda estimator: estimator._check_solver())(
        _fit_context(prefer_skip_nested_validation=True)(method)
    )
    return made


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called an estimator, however many wrappers this release of scikit-learn has between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("fastnn", "sklearn"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


class OldTags:
    """Tags as scikit-learn read them before 1.6; later releases read `__sklearn_tags__`."""

    if parse_version("1.6") > VERSION:

        def _more_tags(self) -> dict[str, Any]:
            return {"multilabel": hasattr(self, "predict_proba")}


__all__ = ["CallbackSupportMixin", "OldTags", "fits", "fits_on", "validate_data", "warn"]
