"""`fastnn export`: the network in a format that other programs read."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fastnn import saving
from fastnn.cli.options import add_command, add_json, add_model, one_of
from fastnn.cli.shared import CommandError, blame, check_outputs, check_place, load_model, print_json, writing
from fastnn.export import torch_arrays
from fastnn.kernels import layout
from fastnn.model import Sequential

FORMATS = ("npz", "onnx", "torch")

ENDINGS = {"npz": ".npz", "onnx": ".onnx", "torch": ".torch.safetensors"}

EXAMPLES = """\
npz    NumPy arrays dense_0.weight, dense_0.bias, ..., and config: the layers and the preparation as JSON
onnx   the network's graph; needs pip install "fastnn[onnx]"
torch  a safetensors file with PyTorch's names and shapes, 0.weight (units, inputs), 0.bias, ...: with net the printed
       torch.nn.Sequential, net.load_state_dict(safetensors.torch.load_file(FILE)). No pickle; needs no PyTorch.

The preparation of a table's columns is no part of an ONNX graph or a state dict: they take the prepared inputs, which
fastnn info --json names.

examples:
  fastnn export fastnn-model.safetensors --to npz
  fastnn export fastnn-model.safetensors --to onnx --output net.onnx
  fastnn export fastnn-model.safetensors --to torch
"""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "write the network in another format"
    parser = add_command(commands, "export", run, summary, ", for programs without fastnn", EXAMPLES)
    add_model(parser)
    text = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]} (default: by the name of --output)"
    parser.add_argument("--to", metavar="FORMAT", type=one_of(FORMATS), help=text)
    text = "the file to write (default: MODEL's name with the format's ending, where there is no such file yet)"
    parser.add_argument("--output", metavar="FILE", help=text)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file, and say what the network takes and gives."""
    kind = options.to or next((k for k in FORMATS if (options.output or "").lower().endswith(ENDINGS[k])), None)
    if kind is None:
        ending = Path(options.output or "").suffix.removeprefix(".")
        raise CommandError(f"--to: got {ending or 'none'}, expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    path = Path(Path(options.model).stem + ENDINGS[kind] if options.output is None else options.output)
    check_place("--output", path)
    if options.output is None and path.exists():
        raise CommandError(f"--output: got none, and there is a file {path} already, expected the name to write to")
    check_outputs({"--output": path}, [options.model])
    model = load_model(options.model)
    module = ""
    with blame(f"--to {kind}"), writing(str(path)):
        if kind == "npz":
            saving.write_atomically(path, _npz(model))
        elif kind == "torch":
            arrays, module = torch_arrays(model)
            saving.write_atomically(path, safetensors.numpy.save(arrays, {"torch.nn": module}))
        else:
            model.to_onnx(path)
    inputs, outputs = _signature(model)
    if options.json:
        facts = {"inputs": model.network.inputs, "outputs": model.network.units, "output_kind": outputs}
        if module:
            facts["module"] = f"torch.nn.{module}"
        print_json({"file": str(path), "format": kind, "bytes": path.stat().st_size, **facts})
    else:
        print(f"wrote {path}: {inputs} in, {model.network.units} {outputs} out")
        if module:
            print(f"torch.nn.{module}")
    return 0


def _npz(model: Sequential) -> bytes:
    """Return the weights as an .npz file has them, with what the network is as JSON."""
    names = [segment.name for segment in model.network.segments]
    arrays = dict(zip(names, model.get_weights(), strict=True))
    content = io.BytesIO()
    np.savez(content, config=np.array(json.dumps(saving.config_of(model))), **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _signature(model: Sequential) -> tuple[str, str]:
    """Say what the network takes, and what its outputs are."""
    columns = model.preparation.columns if model.preparation else ()
    inputs = f"{model.network.inputs} {'prepared inputs' if columns else 'inputs'}"
    if model.counts_correct:
        return inputs, "logits" if model.network.output == layout.LOGITS else "probabilities"
    return inputs, "values" if model.preparation is None else "standardised values"
