"""A trained network in the formats of others: PyTorch modules and state dicts, and ONNX files.

What comes the other way is in `fastnn.exchange`. PyTorch and onnx are imported when they are needed, not before.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_path, needed
from fastnn._version import __version__
from fastnn.layers import Activation, Dense, Dropout, Rescale
from fastnn.saving import write_atomically

if TYPE_CHECKING:
    from fastnn.model import Sequential

Array = npt.NDArray[Any]

_LEAKY_SLOPE = 0.01
"""The kernels' (`kernels/formulas.py`)."""

TORCH_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": _LEAKY_SLOPE}),
    "elu": ("ELU", {"alpha": 1.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softplus": ("Softplus", {"beta": 1.0, "threshold": 20.0}),
    "gelu": ("GELU", {"approximate": "none"}),
    "silu": ("SiLU", {}),
    "softmax": ("Softmax", {"dim": -1}),
}
"""The class in torch.nn of each activation, and the parameters with which it is the same function."""

ONNX_OPSET, ONNX_IR = 17, 8
"""Of 2022: what newer runtimes read, and older ones too."""

MOST_ONNX_BYTES = 2**31 - 2**20
"""Of weights: a file of protocol buffers is below 2 GB, with room for all else in it."""


def steps(model: Sequential) -> list[tuple[str, Any]]:
    """Return what a prediction does, one step after the other, as (kind, value).

    ("rescale", (scale, offset)), ("dense", (weight (inputs, units), bias or None)), ("activation", its name),
    ("dropout", its rate). An activation that is the identity is no step.
    """
    weights = iter(model.get_weights())
    result: list[tuple[str, Any]] = []
    for layer in model.layers:
        activation = "identity"
        if isinstance(layer, Rescale):
            result.append(("rescale", tuple(model.network.rescale)))
        elif isinstance(layer, Dropout):
            result.append(("dropout", layer.rate))
        elif isinstance(layer, Dense):
            result.append(("dense", (next(weights), next(weights) if layer.use_bias else None)))
            activation = str(layer.activation)
        elif isinstance(layer, Activation):
            activation = layer.name
        if activation != "identity":
            result.append(("activation", activation))
    return result


# PyTorch.


def to_torch(model: Sequential) -> Any:
    """Return a torch.nn.Sequential with copies of the weights; see `Sequential.to_torch`."""
    torch = needed("torch", "PyTorch modules", "see https://pytorch.org")
    modules = []
    for kind, value in _without_rescale(steps(model)):
        if kind == "dense":
            modules.append(_torch_linear(torch, *value))
        elif kind == "dropout":
            modules.append(torch.nn.Dropout(value))
        else:
            name, parameters = TORCH_ACTIVATIONS[value]
            modules.append(getattr(torch.nn, name)(**parameters))
    return torch.nn.Sequential(*modules).eval()


def torch_arrays(model: Sequential) -> tuple[dict[str, Array], str]:
    """Return the arrays that `to_torch().state_dict()` holds, by their names, and what to write for the module.

    PyTorch is not needed.
    """
    arrays: dict[str, Array] = {}
    modules = []
    for place, (kind, value) in enumerate(_without_rescale(steps(model))):
        if kind == "dense":
            weight, bias = value
            arrays[f"{place}.weight"] = np.ascontiguousarray(weight.T)
            if bias is not None:
                arrays[f"{place}.bias"] = np.ascontiguousarray(bias)
            modules.append(f"Linear({weight.shape[0]}, {weight.shape[1]}{'' if bias is not None else ', bias=False'})")
        elif kind == "dropout":
            modules.append(f"Dropout({value:g})")
        else:
            name, parameters = TORCH_ACTIVATIONS[value]
            modules.append(f"{name}({', '.join(f'{key}={setting!r}' for key, setting in parameters.items())})")
    return arrays, f"Sequential({', '.join(modules)})"


def _torch_linear(torch: Any, weight: Array, bias: Array | None) -> Any:
    inputs, units = weight.shape
    linear = torch.nn.utils.skip_init(torch.nn.Linear, inputs, units, bias is not None)  # draws no random numbers
    linear.weight = torch.nn.Parameter(torch.tensor(weight.T.copy()))
    if bias is not None:
        linear.bias = torch.nn.Parameter(torch.tensor(bias))
    return linear


def _without_rescale(todo: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Work a Rescale into the first dense layer, since PyTorch has no such module."""
    if not todo or todo[0][0] != "rescale":
        return todo
    (_, (scale, offset)), *rest = todo
    place = next((place for place, (kind, _) in enumerate(rest) if kind != "dropout"), None)
    if place is None or rest[place][0] != "dense":
        raise ValueError(
            "layers: got a Rescale with no Dense behind it, expected one, into whose weights it can be worked: "
            "PyTorch has no module that rescales"
        )
    weight, bias = rest[place][1]
    if offset.any():
        bias = offset @ weight + (0 if bias is None else bias)
    rest[place] = ("dense", (scale[:, None] * weight, bias))
    return rest


# ONNX.


def to_onnx(model: Sequential, path: str | os.PathLike[str] | None = None) -> Any:
    """Return the network as an onnx.ModelProto, and write it where `path` says; see `Sequential.to_onnx`."""
    target = None if path is None else Path(check_path("path", path))
    size = model.network.params_size * model.dtype.itemsize
    if size > MOST_ONNX_BYTES:
        raise ValueError(f"model: got {size / 1e9:.2f} GB of weights, expected less than 2^31 bytes, ONNX's limit")
    onnx = needed("onnx", "ONNX files", 'pip install "fastnn[onnx]"')
    graph = _OnnxGraph(onnx, model.dtype)
    place, dense = "input", 0
    for kind, value in steps(model):
        if kind == "rescale":
            scale, offset = value
            place = graph.add("Mul", place, graph.constant("rescale.scale", scale))
            place = graph.add("Add", place, graph.constant("rescale.offset", offset))
        elif kind == "dense":
            arrays = zip((f"dense_{dense}.weight", f"dense_{dense}.bias"), value, strict=True)
            place = graph.add("Gemm", place, *(graph.constant(*pair) for pair in arrays if pair[1] is not None))
            dense += 1
        elif kind == "activation":
            place = graph.activation(value, place)
    result = graph.model(place, model.network.inputs, model.network.units)
    if target is not None:
        write_atomically(target, result.SerializeToString(deterministic=True))
    return result


class _OnnxGraph:
    """An ONNX graph that grows node by node; every node's output is named by its number and operator."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self._onnx, self._dtype = onnx, dtype
        self._type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, value: Array) -> str:
        """Add an array under a name, and return the name."""
        self._constants[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value, self._dtype), name)
        return name

    def _number(self, value: float) -> str:
        return self.constant(f"{value:.6g}", np.array(value))

    def activation(self, name: str, z: str) -> str:
        """Add an activation.

        For float64 onnxruntime lacks Elu, Softplus and Erf, and LeakyRelu's slope is a float32: put together there.
        """
        single = self._dtype == np.float32
        if name == "gelu":
            return self._gelu(z)
        if name == "silu":
            return self.add("Mul", z, self.add("Sigmoid", z))
        if name == "leaky_relu" and not single:
            return self.add("Max", z, self.add("Mul", z, self._number(_LEAKY_SLOPE)))
        if name == "elu" and not single:
            zero, one = self._number(0.0), self._number(1.0)
            below = self.add("Sub", self.add("Exp", self.add("Min", z, zero)), one)
            return self.add("Add", self.add("Max", z, zero), below)
        if name == "softplus" and not single:
            small = self.add("Exp", self.add("Neg", self.add("Abs", z)))
            log = self.add("Log", self.add("Add", small, self._number(1.0)))
            return self.add("Add", self.add("Max", z, self._number(0.0)), log)
        operator, attributes = _ONNX_ACTIVATIONS[name]
        return self.add(operator, z, **attributes)

    def _gelu(self, z: str) -> str:
        """Add z (1 + erf(z / sqrt 2)) / 2; its own operator is of a later opset."""
        inner = self.add("Mul", z, self._number(math.sqrt(0.5)))
        if self._dtype == np.float32:
            erf = self.add("Erf", inner)
        else:
            narrow = self.add("Cast", inner, to=self._onnx.TensorProto.FLOAT)
            erf = self.add("Cast", self.add("Erf", narrow), to=self._type)
        return self.add("Mul", self.add("Mul", z, self._number(0.5)), self.add("Add", erf, self._number(1.0)))

    def model(self, last: str, inputs: int, units: int) -> Any:
        """Return the checked model whose output is that of the node `last`."""
        helper = self._onnx.helper
        self._nodes.append(helper.make_node("Identity", [last], ["output"], "output"))
        graph = helper.make_graph(
            self._nodes,
            "fastnn",
            [helper.make_tensor_value_info("input", self._type, ["rows", inputs])],
            [helper.make_tensor_value_info("output", self._type, ["rows", units])],
            list(self._constants.values()),
        )
        result = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
            ir_version=ONNX_IR,
            producer_name="fastnn",
            producer_version=__version__,
        )
        self._onnx.checker.check_model(result, full_check=True)
        return result


_ONNX_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": _LEAKY_SLOPE}),
    "elu": ("Elu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softplus": ("Softplus", {}),
    "softmax": ("Softmax", {"axis": -1}),
}
