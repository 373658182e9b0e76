"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
import pathlib

import pytest

import fastnn

ROOT = pathlib.Path(fastnn.__file__).parent
MODULES = sorted(
    ".".join(("fastnn", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples():
    assert {"fastnn.model", "fastnn.preparation", "fastnn.streams", "fastnn.estimators.mlp"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "fastnn.exchange":
        pytest.importorskip("torch")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0, "see the output"
