"""The model file: a safetensors file with one named tensor a layer, and the rest as JSON in its header.

Nothing in a file is executed. Tensors are `dense_0.weight`, `dense_0.bias`, ...; `optimizer.<slot>` for the
optimizer's flat state; `callback.<kind>.<name>` for arrays of callbacks. The header's entry "fastnn" holds
format, configuration and counters, and "sha256" the hash of it all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from fastnn import layers, losses, optimizers
from fastnn._errors import check_path, shown
from fastnn.devices import HERE, Place, PlaceError
from fastnn.history import History
from fastnn.optimizers import Optimizer
from fastnn.preparation import Preparation
from fastnn.schedules import UnknownScheduleError, is_own

if TYPE_CHECKING:
    from fastnn.model import Sequential

FORMAT = 1
"""Version of the file's layout; a file with a higher one is refused."""

_MOST_INPUTS = 1 << 20
"""Inputs of a file's model that has no weights; those of any other are as many as its first weights have rows."""

_NUMBERED = re.compile(r"([0-9]+)\.safetensors$")
_KEY = "fastnn"
_HASH = "sha256"
_CHUNK = 1 << 23
"""Bytes that are hashed or written at once: an interrupt is served between two."""

_SYNCED = 1 << 25
"""Bytes that are brought to disk at once."""
Tensors = dict[str, npt.NDArray[Any]]


class OptimizerError(ValueError):
    """An optimizer for a file that has the state of another one."""


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


def model_from_config(
    kind: type[Sequential], config: dict[str, Any], place: Place = HERE, optimizer: Optimizer | None = None
) -> Sequential:
    """Return a model for what `config_of` gave, at a place, with another optimizer of that kind where one is given."""
    for name in Place._fields:
        if name in config:
            raise ValueError(f"config: got a {name}, expected none: who loads a model chooses it")
    arguments = dict(config)
    stack = [layers.from_config(layer) for layer in arguments.pop("layers")]
    loss = losses.from_config(arguments.pop("loss"))
    saved = arguments.pop("optimizer")
    optimizer = optimizers.from_config(saved) if optimizer is None else optimizer
    preparation = arguments.pop("preparation", None)
    model = kind(stack, loss, optimizer, **place._asdict(), **arguments)
    model.preparation = None if preparation is None else Preparation.from_config(preparation)
    return model


def parts_of(model: Sequential) -> tuple[dict[str, Any], Tensors]:
    """Return (header, tensors) of a model; the tensors are views where they can be."""
    runtime, network = model.runtime, model.network
    if model.preparation is not None:
        model.preparation.check_fit(network.inputs, network.units)
    model.callback_states.collect()
    tensors: Tensors = {
        segment.name: view for segment, view in zip(network.segments, network.views(runtime.params), strict=True)
    }
    for index, name in enumerate(runtime.slots):
        tensors[f"optimizer.{name}"] = runtime.slot(index)
    callbacks: dict[str, dict[str, Any]] = {}
    shapes: dict[str, list[Any]] = {}
    for kind, state in list(model.callback_states.kept.items()):  # another thread's `fit` may add to it
        callbacks[kind] = {}
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                array = tensors[f"callback.{kind}.{name}"] = np.asarray(value, order="C")
                if array.shape != runtime.params.shape or array.dtype != runtime.params.dtype:
                    shapes[f"{kind}.{name}"] = [array.dtype.name, *array.shape]
            else:
                callbacks[kind][name] = _plain(f"{kind}.state()[{name!r}]", value)
    header = {
        "format": FORMAT,
        "config": config_of(model),
        "step": model.step,
        "epoch": model.epoch,
        "initial_epoch": model.initial_epoch,
        "schedule": model.optimizer.schedule.state(),
        "callbacks": callbacks,
        "history": model.history.to_dict(),
    }
    if shapes:  # of arrays that are not like the weights
        header["shapes"] = shapes
    return header, tensors


def from_parts(
    kind: type[Sequential],
    header: dict[str, Any],
    tensors: Tensors,
    place: Place = HERE,
    optimizer: Optimizer | None = None,
) -> Sequential:
    """Return the model that `parts_of` took apart, at a place.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the parts do not fit.
    """
    inputs = _count(header["config"]["input_size"])
    model = model_from_config(kind, {**header["config"], "input_size": None}, place, optimizer)
    # What a file speaks of is made only where the file holds as much.
    _check_inputs(model, inputs, tensors)
    for segment in model.network_for_inputs(inputs).segments:
        if segment.name not in tensors or tensors[segment.name].shape != segment.shape:
            raise ValueError(f"tensor {segment.name!r} is missing or not of shape {segment.shape}")
    model.build_undrawn(inputs)
    network, runtime = model.network, model.runtime
    if model.preparation is not None:
        model.preparation.check_fit(inputs, network.units)
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
    model.initial_epoch = _count(header.get("initial_epoch", 0))  # which files of early versions lack
    shapes, like_weights = header.get("shapes", {}), [runtime.params.dtype.name, *runtime.params.shape]
    if optimizer is None or _has_schedule(optimizer, header["config"]["optimizer"]["lr"]):
        model.optimizer.schedule.restore(header["schedule"])
    model.history = History.from_dict(header["history"])
    for callback, state in header["callbacks"].items():
        model.callback_states.kept[callback] = dict(state)
    for name, tensor in tensors.items():
        prefix, callback, item = name.split(".", 2)
        expected = shapes.get(f"{callback}.{item}", like_weights)
        if prefix != "callback" or [tensor.dtype.name, *tensor.shape] != expected:
            raise ValueError(f"tensor {name!r} does not belong to the model")
        model.callback_states.kept[callback][item] = tensor
    return model


def _has_schedule(optimizer: Optimizer, saved: Any) -> bool:
    """Return whether an optimizer has the schedule of a file, where one of its user's own has a name alone."""
    own = optimizer.config()["lr"]
    if is_own(optimizer.schedule):
        return isinstance(saved, dict) and bool(saved["name"] == own["name"])
    return bool(saved == own)


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
    # Copies: another thread may be training this model, and the SHA-256 is one of what is written.
    whole = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    write_atomically(Path(path), *_safetensors(whole, {_HASH: checksum(text, whole), _KEY: text}))


def _safetensors(tensors: Tensors, metadata: dict[str, str]) -> list[Any]:
    """Return a safetensors file in parts: nothing is copied, and the same tensors give the same bytes."""
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # each lies at a multiple of its size
    entries: dict[str, Any] = {"__metadata__": metadata}
    parts, at = [], 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype.kind not in "biuf":
            raise TypeError(f"{name}: got an array of {tensor.dtype}, expected numbers")
        kind = "BOOL" if tensor.dtype.kind == "b" else f"{tensor.dtype.kind.upper()}{8 * tensor.itemsize}"
        entries[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [at, at + tensor.nbytes]}
        parts.append(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False))
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *parts]


def write_atomically(path: Path, *contents: Any) -> None:
    """Write a file beside its place, on disk, and move it there: the name never stands for half a file.

    Raises
    ------
    OSError
        With the path, where that cannot be done; what the name stood for is as it was, and nothing else is left.
    """
    with replacing(path) as file:
        written = 0
        for content in contents:
            for part in _chunks(content):
                file.write(part)
                written += len(part)
                if written >= _SYNCED:  # one synchronisation of it all could not be interrupted
                    _bring_to_disk(file)
                    written = 0


def _bring_to_disk(file: BinaryIO) -> None:
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a pipe or a device answers
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of another when all is written; see `write_atomically`.

    A file's permissions stay; of a symbolic link it is the file behind it that is replaced. What is no file, a device
    or a pipe, is written to as it is.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    mode = _mode_of(path)
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        with open(path, "wb") as file:  # what is behind a link such as /dev/stdout may have no name
            yield file
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    # The name is known before there is a file: an interrupt may come while it is made.
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            _bring_to_disk(file)
        if mode is not None and stat.S_ISREG(mode):
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may have been moved, or be gone with its folder
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_folder(target.parent)


def _mode_of(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def sync_folder(path: Path) -> None:
    """Bring a folder's names to disk, where the system can: without that a power failure may undo a renaming."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(content: Any) -> Iterator[memoryview]:
    """Yield the bytes of an array in C order, or of a bytes object, some of them at once."""
    flat: Any = content.reshape(-1).view(np.uint8) if isinstance(content, np.ndarray) else content
    view = memoryview(flat)
    for first in range(0, len(view), _CHUNK):
        yield view[first : first + _CHUNK]


def checksum(text: str, tensors: Tensors) -> str:
    """Return the SHA-256 of a header's text and the tensors, by name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        for part in _chunks(np.ascontiguousarray(tensor)):
            digest.update(part)
    return digest.hexdigest()


def load(
    kind: type[Sequential], path: str | os.PathLike[str], place: Place, optimizer: Optimizer | None = None
) -> Sequential:
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
            header = json.loads(metadata[_KEY], object_hook=_infinite)
            _check_format(name, header)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
        if metadata.get(_HASH) != checksum(metadata[_KEY], tensors):
            raise ValueError("its SHA-256 is not the one written with it")
        if optimizer is not None:
            _check_optimizer(optimizer, header, tensors)
        return from_parts(kind, header, tensors, place, optimizer)
    except (ModelFileError, PlaceError, OptimizerError):
        raise
    except UnknownScheduleError as error:
        raise ModelFileError(
            f"{name}: has a schedule that is none of fastnn's, {error.name!r}, of which a file holds the name alone; "
            "load(path, optimizer=...) takes the optimizer with its schedule"
        ) from None
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


def states_in(path: Path, history: History) -> dict[str, dict[str, Any]]:
    """Return the callbacks' states, but for arrays, of a file that a training of this history wrote; else nothing."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY], object_hook=_infinite)
        states = {str(kind): dict(state) for kind, state in header["callbacks"].items()}
        return states if _one_training(History.from_dict(header["history"]), history) else {}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _one_training(first: History, second: History) -> bool:
    """Whether one of two histories goes on from the other: by the losses of the epochs that both have."""
    losses = [history.history.get("loss", []) for history in (first, second)]
    both = min(map(len, losses))
    return both > 0 and np.array_equal(losses[0][:both], losses[1][:both], equal_nan=True)


def _check_optimizer(optimizer: Optimizer, header: dict[str, Any], tensors: Tensors) -> None:
    """Raise unless an optimizer is of the kind whose state a file has."""
    saved = header["config"]["optimizer"]["name"]
    state = {name for name in tensors if name.startswith("optimizer.")}
    wanted = {f"optimizer.{slot}" for slot in optimizer.slots if slot is not None}
    if type(optimizer).__name__ != saved or state != wanted:
        kept = ", ".join(sorted(name.partition(".")[2] for name in state)) or "no state"
        raise OptimizerError(f"optimizer: got {optimizer!r}, expected the file's, {saved} with {kept}")


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first: files whose names end in a number and ".safetensors"."""
    if not folder.exists():
        return []
    names = [(_NUMBERED.search(path.name), path) for path in folder.iterdir() if not path.name.startswith(".")]
    found = [(int(match[1]), path) for match, path in names if match and not path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def load_latest(
    kind: type[Sequential], folder: str | os.PathLike[str], place: Place, optimizer: Optimizer | None = None
) -> tuple[Path, Sequential] | None:
    """Return the newest checkpoint of a folder that loads, and its model; None where there is no checkpoint."""
    root = Path(check_path("folder", folder))
    left, refused = numbered(root), []
    while left:
        path = left.pop(0)
        try:
            model = load(kind, path, place, optimizer)
        except (ModelFileError, FileNotFoundError) as error:
            refused.append(str(error))
            if not os.path.lexists(path):  # the training that writes here removed it for a newer one
                left, refused = numbered(root), []
            continue
        if refused:
            warnings.warn(f"{'; '.join(refused)}; took {path} instead", stacklevel=4)
        return path, model
    if refused:
        raise ModelFileError(f"{root}: got no checkpoint that loads, expected one at least: {'; '.join(refused)}")
    return None


def load_to_resume(
    kind: type[Sequential], path: str | os.PathLike[str], place: Place, optimizer: Optimizer | None
) -> tuple[Path, Sequential] | None:
    """Return what `Sequential.fit` shall go on from; None where a folder is empty or not there yet.

    `optimizer` is the one that goes on where no file can hold it.
    """
    name = check_path("resume", path)
    if os.path.isfile(name):
        return Path(name), load(kind, name, place, optimizer)
    names_a_file = Path(name).suffix and not name.endswith(("/", os.sep))
    if names_a_file and not os.path.lexists(name):
        raise FileNotFoundError(
            f"resume: got {name!r}, which does not exist, expected a checkpoint, or a folder of them; "
            "one that is not there yet is named without a suffix, or with a slash at its end"
        )
    return load_latest(kind, name, place, optimizer)


def take_over(model: Sequential, inputs: int, path: Path, other: Sequential) -> None:
    """Put a model, for data of so many inputs, where another one stands that has the same settings.

    Raises
    ------
    ValueError
        For other settings; nothing is changed.
    """
    own, got = {**config_of(model), "input_size": inputs}, config_of(other)
    for name in own:
        if name not in ("n_threads", "check_finite") and own[name] != got.get(name):
            raise ValueError(
                f"resume: got {path} with {name}={got.get(name)!r}, expected {own[name]!r}, as the model has"
            )
    model.build_undrawn(inputs)
    model.runtime.params[:], model.runtime.state[:] = other.runtime.params, other.runtime.state
    model.step, model.epoch, model.initial_epoch = other.step, other.epoch, other.initial_epoch
    model.optimizer.schedule.restore(other.optimizer.schedule.state())
    model.history = other.history
    model.callback_states.take_over(other.callback_states)


def _check_format(name: str, header: Any) -> None:
    version = header.get("format") if isinstance(header, dict) else None
    if not isinstance(version, int):
        raise ModelFileError(f"{name}: is damaged (no format number), expected a file written by model.save")
    if version > FORMAT:
        raise ModelFileError(f"{name}: has format {version}, from a newer fastnn; this one reads up to {FORMAT}")


def _plain(name: str, value: Any) -> Any:
    """Return a part of a callback's state, or say that no file can hold it."""
    try:
        json.dumps(_finite(value))
    except TypeError:
        raise TypeError(
            f"{name}: got {shown(value)}, expected numbers, strings, lists and mappings of them, or an array"
        ) from None
    return value


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by {"float": "nan"}."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _infinite(value: dict[str, Any]) -> Any:
    """Undo `_finite` of a mapping."""
    return float(value["float"]) if set(value) == {"float"} else value
