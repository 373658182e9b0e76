"""`fastnn info`: what is in a model's file."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from typing import Any

import numpy as np

from fastnn import saving
from fastnn.cli.options import add_command, add_json, add_model
from fastnn.cli.shared import load_model, plain, print_json
from fastnn.model import Sequential
from fastnn.optimizers import Optimizer
from fastnn.preparation import Classes, Numeric, Preparation

_CLOCK = ("seconds", "samples_per_second")
_SHOWN = 8
"""Names shown in a line; the rest are counted."""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "say what is in a model's file"
    more = ": its layers, settings, counters, last epoch, and the columns that it was trained on"
    parser = add_command(commands, "info", run, summary, more)
    add_model(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what the file says."""
    model = load_model(options.model)
    last = {name: column[-1] for name, column in model.history.history.items() if column}
    if options.json:
        inputs = list(model.preparation.inputs) if model.preparation else []
        facts = {"parameters": model.network.n_params, "step": model.step, "epoch": model.epoch, "last_epoch": last}
        print_json({**saving.config_of(model), **facts, "inputs": inputs})
        return 0
    print(model.summary())
    print()
    print(f"loss        {model.loss.name}")
    print(f"optimizer   {_settings(model.optimizer)}")
    print(f"numbers     {model.dtype.name}, seed {model.seed}")
    print(f"trained     {model.epoch:,} epochs, {model.step:,} steps")
    if model.preparation is not None:
        for line in _prepared(model.preparation):
            print(plain(line))
    _print_last(model, last)
    return 0


def _print_last(model: Sequential, last: dict[str, float]) -> None:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name not in _CLOCK)
    if model.history.epoch:
        print(f"last epoch  {model.history.epoch[-1] + 1}: {numbers}")


def _settings(optimizer: Optimizer) -> str:
    """Return an optimizer's name with its rate and what differs from its defaults."""
    usual = type(optimizer)()
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}
    told = [f"{k}={v!r}" for k, v in values.items() if k == "lr" or v != getattr(usual, k)]
    return f"{type(optimizer).__name__}({', '.join(told)})"


def _prepared(preparation: Preparation) -> list[str]:
    """Return a line for the target and one for each column."""
    target = preparation.target
    if isinstance(target, Classes):
        lines = [f"target      {target.name}: {_few(list(map(str, target.classes)))}"]
    else:
        parts = zip(target.names, target.means, target.spreads, strict=True)
        lines = [f"target      {name}: mean {mean:.4g}, spread {spread:.4g}" for name, mean, spread in parts]
    for column in preparation.columns:
        if isinstance(column, Numeric):
            mean = _moment(column.mean) if column.dates else f"{column.mean:.4g}"
            what = f"mean {mean}, spread {column.spread:.4g}" + " days" * column.dates
        else:
            what = _few(list(column.categories))
        lines.append(f"column      {column.name}: {what}" + ", or missing" * column.indicator)
    return lines


def _moment(days: float) -> str:
    """Return days since 1970-01-01 as a date, a share of one day as the time of the day."""
    if 0 <= days < 1:
        hours, minutes = divmod(round(days * 1440), 60)
        return f"{hours:02}:{minutes:02}"
    try:
        return str(np.datetime64(math.floor(days), "D"))
    except (OverflowError, ValueError):
        return f"{days:.4g} days"


def _few(names: list[str]) -> str:
    names = [f"'{name}'" if "," in name else name for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
