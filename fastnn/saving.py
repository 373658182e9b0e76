"""The model file: a safetensors file with one named tensor a layer, and the rest as JSON in its header.

Nothing in a file is executed. Tensors are `dense_0.weight`, `dense_0.bias`, ...; `optimizer.<slot>` for the
optimizer's flat state; `callback.<kind>.<name>` for arrays of callbacks. The header's entry "fastnn" holds
format, configuration and counters, and "sha256" the hash of it all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from fastnn import layers, losses, optimizers
from fastnn._errors import check_path
from fastnn.history import History
from fastnn.preparation import Preparation
from fastnn.schedules import as_schedule

if TYPE_CHECKING:
    from fastnn.model import Sequential

FORMAT = 1
"""Version of the file's layout; a file with a higher one is refused."""

_MOST_INPUTS = 1 << 20
"""Inputs of a file's model that has no weights; those of any other are as many as its first weights have rows."""

_KEY = "fastnn"
_HASH = "sha256"
Tensors = dict[str, npt.NDArray[Any]]


class ModelFileError(ValueError):
    """A file that is not a fastnn model, is damaged, or comes from a newer version."""


def config_of(model: Sequential) -> dict[str, Any]:
    """Return the arguments that make the model anew, as plain data, and its preparation where it has one."""
    preparation = {} if model.preparation is None else {"preparation": model.preparation.config()}
    return {
        "layers": [layer.config() for layer in model.layers],
        "loss": model.loss.config(),
        "optimizer": model.optimizer.config(),
        "seed": model.seed,
        "dtype": model.dtype.name,
        "input_size": None if model._runtime is None else model.network.inputs,
        "n_threads": model.n_threads,
        "l1": model.l1,
        "l2": model.l2,
        "l1_mode": model.l1_mode,
        "check_finite": model.check_finite,
        **preparation,
    }


def model_from_config(kind: type[Sequential], config: dict[str, Any], device: str = "cpu") -> Sequential:
    """Return a model for what `config_of` gave, on a device."""
    if "device" in config:
        raise ValueError("config: got a device, expected none: who loads a model chooses it")
    arguments = {**config, "device": device}
    stack = [layers.from_config(layer) for layer in arguments.pop("layers")]
    loss = losses.from_config(arguments.pop("loss"))
    optimizer = optimizers.from_config(arguments.pop("optimizer"))
    preparation = arguments.pop("preparation", None)
    model = kind(stack, loss, optimizer, **arguments)
    model.preparation = None if preparation is None else Preparation.from_config(preparation)
    return model


def parts_of(model: Sequential) -> tuple[dict[str, Any], Tensors]:
    """Return (header, tensors) of a model; the tensors are views where they can be."""
    runtime, network = model.runtime, model.network
    model.collect_callback_states()
    tensors: Tensors = {
        segment.name: view for segment, view in zip(network.segments, network.views(runtime.params), strict=True)
    }
    for index, name in enumerate(runtime.slots):
        tensors[f"optimizer.{name}"] = runtime.slot(index)
    callbacks: dict[str, dict[str, Any]] = {}
    for kind, state in model._callback_states.items():
        callbacks[kind] = {}
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                tensors[f"callback.{kind}.{name}"] = value
            else:
                callbacks[kind][name] = value
    header = {
        "format": FORMAT,
        "config": config_of(model),
        "step": model.step,
        "epoch": model.epoch,
        "schedule": as_schedule(model.optimizer.lr).state(),
        "callbacks": callbacks,
        "history": model.history.to_dict(),
    }
    return header, tensors


def from_parts(kind: type[Sequential], header: dict[str, Any], tensors: Tensors, device: str = "cpu") -> Sequential:
    """Return the model that `parts_of` took apart, on a device.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the parts do not fit.
    """
    inputs = _count(header["config"]["input_size"])
    model = model_from_config(kind, {**header["config"], "input_size": None}, device)
    # What a file speaks of is made only where the file holds as much.
    _check_inputs(model, inputs, tensors)
    for segment in model.network_for_inputs(inputs).segments:
        if segment.name not in tensors or tensors[segment.name].shape != segment.shape:
            raise ValueError(f"tensor {segment.name!r} is missing or not of shape {segment.shape}")
    model.build(inputs)
    network, runtime = model.network, model.runtime
    tensors = dict(tensors)
    targets = [*zip([s.name for s in network.segments], network.views(runtime.params), strict=True)]
    targets += [(f"optimizer.{name}", runtime.slot(index)) for index, name in enumerate(runtime.slots)]
    for name, target in targets:
        if name not in tensors:
            raise ValueError(f"tensor {name!r} is missing")
        tensor = tensors.pop(name)
        if tensor.shape != target.shape or tensor.dtype != target.dtype:
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype} {tensor.shape}, expected {target.dtype} {target.shape}"
            )
        target[:] = tensor
    model.step, model.epoch = _count(header["step"]), _count(header["epoch"])
    as_schedule(model.optimizer.lr).restore(header["schedule"])
    model.history = History.from_dict(header["history"])
    for callback, state in header["callbacks"].items():
        model._callback_states[callback] = dict(state)
    for name, tensor in tensors.items():
        prefix, callback, item = name.split(".", 2)
        if prefix != "callback" or tensor.shape != runtime.params.shape or tensor.dtype != runtime.params.dtype:
            raise ValueError(f"tensor {name!r} does not belong to the model")
        model._callback_states[callback][item] = tensor
    return model


def _check_inputs(model: Sequential, inputs: int, tensors: Tensors) -> None:
    """Raise unless the inputs are those of the first weights, or few where there are no weights to tell."""
    if not any(isinstance(layer, layers.Dense) for layer in model.layers):
        if inputs > _MOST_INPUTS:
            raise ValueError(f"it has {inputs} inputs and no weights, expected at most {_MOST_INPUTS} inputs")
        return
    first = tensors.get("dense_0.weight")
    if first is None or first.shape[:1] != (inputs,):
        raise ValueError(f"tensor 'dense_0.weight' is missing or not of {inputs} rows")


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a counter is {value!r}, expected an integer >= 0 and < 2**63")
    return value


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model; see `Sequential.save`."""
    path = check_path("path", path)
    header, tensors = parts_of(model)
    text = json.dumps(_finite(header), allow_nan=False)
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    content = to_bytes(whole, {_KEY: text, _HASH: checksum(text, whole)})
    write_atomically(Path(path), _in_order(content))


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted, so that the same model gives the same bytes."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, on disk, and move it there: the name never stands for half a file."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def checksum(text: str, tensors: Tensors) -> str:
    """Return the SHA-256 of a header's text and the tensors, by name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def load(kind: type[Sequential], path: str | os.PathLike[str], device: str) -> Sequential:
    """Read a model; see `fastnn.load`."""
    name = check_path("path", path)
    with open(name, "rb"):  # a missing or unreadable file is an OSError of its own
        pass
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ModelFileError(
                    f"{name}: is a safetensors file but no fastnn model, expected a file written by model.save"
                )
            header = _infinite(json.loads(metadata[_KEY]))
            _check_format(name, header)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
        if metadata.get(_HASH) != checksum(metadata[_KEY], tensors):
            raise ValueError("its SHA-256 is not the one written with it")
        return from_parts(kind, header, tensors, device)
    except ModelFileError:
        raise
    except SafetensorError as error:
        raise ModelFileError(
            f"{name}: is no whole safetensors file ({error}), expected a file written by model.save"
        ) from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ModelFileError(
            f"{name}: is damaged ({type(error).__name__}: {error}), expected a file written by model.save"
        ) from None


def _check_format(name: str, header: Any) -> None:
    version = header.get("format") if isinstance(header, dict) else None
    if not isinstance(version, int):
        raise ModelFileError(f"{name}: is damaged (no format number), expected a file written by model.save")
    if version > FORMAT:
        raise ModelFileError(f"{name}: has format {version}, from a newer fastnn; this one reads up to {FORMAT}")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by {"float": "nan"}."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (np.generic,)):
        return _finite(value.item())
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _infinite(value: Any) -> Any:
    """Undo `_finite`."""
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {key: _infinite(item) for key, item in value.items()}
    return [_infinite(item) for item in value] if isinstance(value, list) else value
