"""What the tests of whole models share: a model as the oracle's layers, its bits, scripts in their own process."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np

import fastnn
from fastnn.cli import main
from fastnn.schedules import as_schedule

TIMES = ("seconds", "samples_per_second")
"""The columns of a history that the clock writes."""


def naive_layers(model):
    """Return the layers of a built model as `naive` takes them, with float64 copies of its weights."""
    weights = iter(model.get_weights())
    layers = []
    for place, layer in enumerate(model.layers):
        if isinstance(layer, fastnn.Dense):
            layers.append(
                {
                    "kind": "dense",
                    "w": next(weights).astype(np.float64),
                    "b": next(weights).astype(np.float64) if layer.use_bias else None,
                    "activation": layer.activation,
                    "l1": model.l1 if layer.l1 is None else layer.l1,
                    "l2": model.l2 if layer.l2 is None else layer.l2,
                }
            )
        elif isinstance(layer, fastnn.Dropout):
            layers.append({"kind": "dropout", "rate": layer.rate, "layer": place})
        elif isinstance(layer, fastnn.Activation):
            layers.append({"kind": "activation", "activation": layer.name})
        else:
            scale, offset = np.array(layer.scale), np.array(layer.offset)
            layers.append({"kind": "rescale", "scale": scale, "offset": offset})
    assert next(weights, None) is None
    return layers


def naive_weights(layers):
    """Return [W0, b0, W1, ...] of the oracle's layers: the very arrays."""
    dense = (layer for layer in layers if layer["kind"] == "dense")
    return [part for layer in dense for part in (layer["w"], layer["b"]) if part is not None]


def weight_bytes(model):
    """Return the bits of all weights."""
    return b"".join(weight.tobytes() for weight in model.get_weights())


def history_of(model):
    """Return the history without what the clock wrote, as text: NaN equals NaN there."""
    columns = {name: column for name, column in model.history.history.items() if name not in TIMES}
    return repr((model.history.epoch, columns))


def training_state(model):
    """Return the bits of everything that training goes on from, by name, so that a difference has one."""
    return {
        "weights": weight_bytes(model),
        "optimizer": model.runtime.state.tobytes(),
        "step": model.step,
        "epoch": model.epoch,
        "schedule": as_schedule(model.optimizer.lr).state(),
        "history": history_of(model),
        "callbacks": {name: _plain(state) for name, state in model.callback_states.kept.items()},
    }


def _plain(state):
    return repr({key: value.tobytes() if isinstance(value, np.ndarray) else value for key, value in state.items()})


def digest(model):
    """Return a hash over `training_state`, to be compared between processes."""
    state = training_state(model)
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()


def run_python(script, *arguments, **environment):
    """Run a script in a process of its own and return what it printed; its errors fail the test."""
    paths = [str(pathlib.Path(fastnn.__file__).parents[1]), str(pathlib.Path(__file__).parent)]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def without_notice(text):
    """Standard error without the line that says that kernels are compiled or, on a busy machine, loaded."""
    return "".join(line for line in text.splitlines(keepends=True) if "compiling kernels" not in line)


def run(capsys, *arguments):
    """Run a command line; return exit code, stdout and stderr without what the first use of a kernel may print."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, without_notice(printed.err)


def through(runtime, wrapper):
    """Have every training call go through ``wrapper(train, *arguments)``; returns what takes that away again."""
    training_calls = runtime.training_calls

    def wrapped_calls(*of):
        train = training_calls(*of)
        return lambda *arguments: wrapper(train, *arguments)

    runtime.training_calls = wrapped_calls
    return lambda: delattr(runtime, "training_calls")
