"""Networks that others trained, from PyTorch and scikit-learn; the way out is `export`, and the model's own methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastnn._errors import needed, shown
from fastnn.export import TORCH_ACTIVATIONS, to_onnx, to_torch
from fastnn.layers import Activation, Dense, Dropout, Layer, activation_of
from fastnn.losses import Loss
from fastnn.model import Sequential

__all__ = ["from_sklearn", "from_torch", "to_onnx", "to_torch"]


def from_torch(module: Any, loss: str | Loss | None = None, **settings: Any) -> Sequential:
    """Return a model with the layers and weights of a PyTorch network.

    Parameters
    ----------
    module : torch.nn.Sequential or torch.nn.Linear
        Of Linear, Dropout, Identity, Flatten, further Sequential, and the activations that fastnn has, with
        PyTorch's own constants: ReLU, LeakyReLU, ELU, Sigmoid, Tanh, Softplus, GELU, SiLU, and Softmax at the
        end. Flatten is left out, since fastnn flattens what lies behind the first axis of its samples. A module that
        is used twice becomes two layers, which training no longer keeps the same.
    loss : str or Loss, optional
        A module does not know its loss. None: "cross_entropy" behind a Softmax, "binary_cross_entropy" behind a
        Sigmoid at the end, else "squared_error". Name it where the outputs are logits.
    **settings
        Further arguments of `Sequential`, such as ``optimizer`` or ``seed``. ``dtype`` is float64 for weights of
        float64, else float32.

    Returns
    -------
    Sequential
        Built, with copies of the weights; an activation becomes part of the Dense before it.

    Raises
    ------
    TypeError, ValueError
        For a module, or a constant of one, that fastnn has no layer for, a Sequential with a `forward` of its own, or
        a module with forward hooks, or weights that are no dense floats, with the module's place.

    Examples
    --------
    >>> import fastnn
    >>> import torch.nn as nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> fastnn.from_torch(net, loss="cross_entropy").layers  # doctest: +ELLIPSIS
    (Dense(units=8, activation='relu', ...), Dense(units=3, activation='identity', ...))
    """
    torch = needed("torch", "PyTorch modules", "see https://pytorch.org")
    layers: list[Layer] = []
    linears: list[Any] = []
    for place, part in _torch_parts(torch, module):
        kind = type(part)
        if kind is torch.nn.Linear:
            if linears and part.in_features != linears[-1].out_features:
                raise ValueError(
                    f"{place}: takes {part.in_features} inputs, expected the {linears[-1].out_features} "
                    "outputs of the Linear before it"
                )
            _check_torch_weights(torch, place, part)
            linears.append(part)
            layers.append(Dense(part.out_features, use_bias=part.bias is not None))
        elif kind is torch.nn.Dropout:
            layers.append(Dropout(_torch_rate(place, part.p)))
        elif kind is not torch.nn.Identity and not (kind is torch.nn.Flatten and part.start_dim == 1):
            _append_activation(layers, _torch_activation(torch, place, part))
    if not linears:
        raise ValueError("module: got no Linear in it, expected one at least, which gives the number of inputs")
    weights = [array for linear in linears for array in (linear.weight.T, linear.bias) if array is not None]
    wide = any(array.dtype == torch.float64 for array in weights)
    settings = {"dtype": "float64" if wide else "float32", **settings}
    model = Sequential(
        layers, _loss_behind(layers) if loss is None else loss, input_size=linears[0].in_features, **settings
    )
    model.set_weights([array.detach().to("cpu", torch.float64).numpy() for array in weights])
    return model


def _torch_parts(torch: Any, module: Any, place: str = "module") -> Iterator[tuple[str, Any]]:
    """Walk through a Sequential and those within it; each module comes with where it stands."""
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"{place}: got {shown(module)} without weights, expected a module that has seen a batch")
    if isinstance(module, torch.nn.Module) and (module._forward_hooks or module._forward_pre_hooks):
        raise ValueError(
            f"{place}: got {type(module).__name__} with forward hooks, expected none: remove() takes one off"
        )
    of_its_own = isinstance(module, torch.nn.Module) and "forward" in vars(module)
    if isinstance(module, torch.nn.Sequential):
        if type(module).forward is not torch.nn.Sequential.forward or of_its_own:
            raise TypeError(
                f"{place}: got {type(module).__name__} with a forward of its own, expected torch.nn.Sequential"
            )
        for name, child in module._modules.items():  # named_children leaves out what comes a second time
            yield from _torch_parts(torch, child, f"{place}.{name}" if place != "module" else f"module {name}")
    elif isinstance(module, torch.nn.Module):
        if of_its_own:
            raise TypeError(f"{place}: got {type(module).__name__} with a forward of its own, expected torch.nn's")
        yield place, module
    else:
        advice = "; net.load_state_dict(...) brings a state dict into one" if isinstance(module, Mapping) else ""
        raise TypeError(
            f"{place}: got {shown(module)} ({type(module).__name__}), expected a torch.nn.Sequential{advice}"
        )


def _check_torch_weights(torch: Any, place: str, linear: Any) -> None:
    """Refuse weights that are no array of numbers: those of other kinds, and those that are nowhere yet."""
    for name, array in linear._parameters.items():
        if array is None:
            continue
        if array.is_meta or array.layout != torch.strided or not array.is_floating_point():
            what = "on the meta device" if array.is_meta else f"of {array.dtype}, {array.layout}"
            raise ValueError(f"{place}: got a {name} {what}, expected a dense array of floating point numbers")


def _torch_rate(place: str, rate: float) -> float:
    if rate >= 1.0:
        raise ValueError(f"{place}: got Dropout of p={rate:g}, expected p < 1")
    return rate


def _torch_activation(torch: Any, place: str, part: Any) -> str:
    """Return fastnn's name of an activation module of PyTorch."""
    names = {getattr(torch.nn, kind): (name, constants) for name, (kind, constants) in TORCH_ACTIVATIONS.items()}
    if type(part) not in names:
        kinds = [*TORCH_ACTIVATIONS.values(), ("Linear", {}), ("Dropout", {}), ("Flatten", {}), ("Sequential", {})]
        raise TypeError(
            f"{place}: got {shown(part)}, expected one of torch.nn's " + ", ".join(sorted(kind for kind, _ in kinds))
        )
    name, constants = names[type(part)]
    if name == "softmax" and part.dim == 1:  # the last axis of rows
        return name
    for constant, expected in constants.items():
        if getattr(part, constant) != expected:
            raise ValueError(
                f"{place}: got {shown(part)} with {constant}={getattr(part, constant)!r}, expected {expected!r}, "
                f"which fastnn's {name!r} has"
            )
    return name


def _append_activation(layers: list[Layer], name: str) -> None:
    """Give an activation to the dense layer at the end, where that has none."""
    last = layers[-1] if layers else None
    if isinstance(last, Dense) and last.activation == "identity":
        layers[-1] = replace(last, activation=name)
    else:
        layers.append(Activation(name))


def _loss_behind(layers: list[Layer]) -> str:
    """Return the loss that the last activation speaks for."""
    by_activation = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}
    return by_activation.get(str(activation_of(layers[-1])), "squared_error")


_SKLEARN_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
_SKLEARN_OUTPUTS = {"identity": "identity", "logistic": "sigmoid", "softmax": "softmax"}


def from_sklearn(mlp: Any, loss: str | Loss | None = None, **settings: Any) -> Sequential:
    """Return a model with the layers and weights of a fitted MLPClassifier or MLPRegressor, scikit-learn's or fastnn's.

    Parameters
    ----------
    mlp : sklearn.neural_network.MLPClassifier or MLPRegressor, fastnn.MLPClassifier or MLPRegressor
        Fitted. Its penalty and what its solver knows are not taken over. Of fastnn's the layers are those that were
        fitted, whatever was set since.
    loss : str or Loss, optional
        None: the one it was fitted with, "cross_entropy", "binary_cross_entropy" (two classes, or several labels
        a sample), "squared_error", or what fastnn's estimator was told.
    **settings
        Further arguments of `Sequential`, such as ``optimizer`` or ``l2``. ``dtype`` is that of the weights.

    Returns
    -------
    Sequential
        Built, with copies of the weights. `predict` gives what `predict_proba` of the classifier or `predict` of
        the regressor gives, with a column for each output (one where there are two classes). Class number i is
        ``mlp.classes_[i]``: ``mlp.classes_[model.predict_class(x)]`` is what ``mlp.predict(x)`` returns.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        If it is not fitted, or with the loss "poisson", whose exponential output fastnn has not.
    """
    networks = needed("sklearn.neural_network", "scikit-learn networks", 'pip install "fastnn[sklearn]"')
    from fastnn import estimators  # they need scikit-learn

    own = isinstance(mlp, (estimators.MLPClassifier, estimators.MLPRegressor))
    if not own and not isinstance(mlp, (networks.MLPClassifier, networks.MLPRegressor)):
        raise TypeError(f"mlp: got {type(mlp).__name__}, expected an MLPClassifier or MLPRegressor")
    if not hasattr(mlp, "coefs_"):
        raise ValueError(f"mlp: got {type(mlp).__name__} without weights, expected one that is fitted")
    if mlp.out_activation_ not in _SKLEARN_OUTPUTS:
        raise ValueError(
            f"mlp: got an output of {mlp.out_activation_!r}, expected one of {', '.join(map(repr, _SKLEARN_OUTPUTS))}"
        )
    layers = _own_hidden(mlp) if own else _sklearn_hidden(mlp)
    layers.append(Dense(mlp.coefs_[-1].shape[1], _SKLEARN_OUTPUTS[mlp.out_activation_]))
    if loss is None:
        loss = mlp._fitted_loss() if own else _loss_behind(layers)
    settings = {"dtype": np.dtype(mlp.coefs_[0].dtype).name, **settings}
    model = Sequential(layers, loss, input_size=len(mlp.coefs_[0]), **settings)
    model.set_weights([array for pair in zip(mlp.coefs_, mlp.intercepts_, strict=True) for array in pair])
    return model


def _sklearn_hidden(mlp: Any) -> list[Layer]:
    return [Dense(weight.shape[1], _SKLEARN_ACTIVATIONS[mlp.activation]) for weight in mlp.coefs_[:-1]]


def _own_hidden(mlp: Any) -> list[Layer]:
    """Return the hidden layers of fastnn's estimator: each has its activation and dropout."""
    layers: list[Layer] = []
    widths = [weight.shape[1] for weight in mlp.coefs_[:-1]]
    for units, activation, rate in zip(widths, *mlp._fitted_hidden(), strict=True):
        layers.append(Dense(units, activation))
        if rate:
            layers.append(Dropout(rate))
    return layers
