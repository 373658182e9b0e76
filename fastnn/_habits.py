"""What Keras, PyTorch and scikit-learn call what a `Sequential` has under another name, or has no need of."""

from __future__ import annotations

_RATE = "model.optimizer = dataclasses.replace(model.optimizer, lr=...) sets a rate"
_FROZEN = "layers that stay are a model of their own, whose outputs the others are trained on (docs/quickstart.md)"
_EXCHANGE = "get_weights, set_weights, save and fastnn.load; to_torch_state_dict and fastnn.from_torch for PyTorch"
_DEVICE = "device='cuda', dtype='float64' and n_threads=1 are arguments of Sequential"
_MODE = "fit trains and predict does not; predict(x, training=True) leaves dropout at work"

ADVICE = {
    "add": "Sequential([layer, layer, ...], loss) takes all layers at once",
    "coefs_": "get_weights gives [W0, b0, W1, b1, ...]",
    "compile": "Sequential(layers, loss, optimizer) takes loss and optimizer",
    "cpu": _DEVICE,
    "cuda": _DEVICE,
    "double": _DEVICE,
    "eval": _MODE,
    "forward": "predict gives the outputs",
    "get_layer": "model.layers and layer_outputs have the layers and what comes out of them",
    "intercepts_": "get_weights gives [W0, b0, W1, b1, ...]",
    "learning_rate": _RATE,
    "load_state_dict": _EXCHANGE,
    "load_weights": _EXCHANGE,
    "lr": _RATE,
    "parameters": "get_weights gives them as arrays, parameters_vector as one vector; the optimizer is the model's",
    "partial_fit": "train_on_batch takes one step",
    "predict_classes": "predict_class gives the classes",
    "predict_on_batch": "predict gives the outputs",
    "requires_grad_": _FROZEN,
    "save_weights": _EXCHANGE,
    "score": "evaluate gives loss and accuracy or R2; MLPClassifier and MLPRegressor are scikit-learn's estimators",
    "state_dict": _EXCHANGE,
    "test_on_batch": "evaluate gives loss and metrics",
    "to": _DEVICE,
    "train": _MODE,
    "trainable": _FROZEN,
    "trainable_weights": "get_weights gives all of them",
    "weights": "get_weights gives [W0, b0, W1, b1, ...]",
    "zero_grad": "train_on_batch, gradients and backward start from 0 each time",
}
"""Name -> what does it here."""

SETTINGS = ("learning_rate", "lr", "trainable", "weights")
"""Those of them that users set, and would wait for an effect."""
