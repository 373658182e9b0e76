"""The examples: they run, print their report, draw their picture, and fail where their claim fails."""

from __future__ import annotations

import importlib.util
import math
import pathlib
import sys
import sysconfig

import numpy as np
import pytest

import fastnn

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture
def example(monkeypatch):
    """Return a function that loads an example as a module, without running its main."""

    def load(name):
        specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        specification.loader.exec_module(module)
        return module

    return load


def test_these_are_all():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "larger_than_memory.py",
        "network_2_3_2.py",
        "regularisation.py",
        "vanishing_gradients.py",
    ]


def without_matplotlib(monkeypatch):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)


# ------------------------------------------------------------------------------------------- the 2-3-2 network


def test_network_by_hand(example, capsys):
    module = example("network_2_3_2")
    assert module.main() == 0
    out = capsys.readouterr().out
    assert "they agree within 1e-12" in out
    for slip in ("columns", "2x3, 3x3 and 3x2", "The weights are missing", "factor 2"):
        assert slip in out, slip
    assert out.count("\n") > 50


def test_network_by_hand_is_right(example):
    """Central differences of its own loss, so that the two columns do not agree on a common mistake."""
    module = example("network_2_3_2")
    gradient = module.by_hand()

    def loss():
        return module.by_hand()["loss"][0]

    for name, key in (("W1", "dL/dW1 = x x delta"), ("W2", "dL/dW2 = a1 x delta")):
        matrix = getattr(module, name)
        for row, line in enumerate(matrix):
            for column, value in enumerate(line):
                matrix[row][column] = value + 1e-6
                above = loss()
                matrix[row][column] = value - 1e-6
                below = loss()
                matrix[row][column] = value
                assert gradient[key][row][column] == pytest.approx((above - below) / 2e-6, rel=1e-7)


def test_network_by_hand_fails_where_it_should(example, capsys, monkeypatch):
    """The slip that forgets W in the back-propagated sum, and a program that returns NaN."""
    module = example("network_2_3_2")
    right = module.by_hand()
    monkeypatch.setattr(module, "by_hand", lambda: {**right, "hidden delta = dL/db1": [0.0073, 0.007, 0.007]})
    monkeypatch.setattr(module, "by_fastnn", lambda: {name: np.array(value) for name, value in right.items()})
    assert module.main() == 1
    assert "THEY DIFFER" in capsys.readouterr().out
    monkeypatch.setattr(module, "by_hand", lambda: right)
    monkeypatch.setattr(
        module, "by_fastnn", lambda: {name: np.full_like(np.array(value), math.nan) for name, value in right.items()}
    )
    assert module.main() == 1


# ---------------------------------------------------------------------------------------- vanishing gradients


def test_vanishing_gradients(example, capsys, tmp_path):
    module = example("vanishing_gradients")
    assert module.main(tmp_path, seeds=2) == 0
    out = capsys.readouterr().out
    assert out.count("  yes  ") == 6
    assert "The gradient vanishes in layers 1 to " in out
    assert "The gradient explodes in layer" in out
    for name in module.trials():
        assert f"\n{name:<26}" in out
    if HAS_MATPLOTLIB:
        assert (tmp_path / "vanishing_gradients.png").read_bytes().startswith(b"\x89PNG")


def test_vanishing_gradients_fails_where_it_should(example, capsys, tmp_path, monkeypatch):
    """Without training nothing learns, so that claims about learning cannot hold."""
    module = example("vanishing_gradients")
    without_matplotlib(monkeypatch)
    monkeypatch.setattr(module, "EPOCHS", 0)
    assert module.main(tmp_path, seeds=1) == 1
    out = capsys.readouterr().out
    assert "  NO   ReLU with He's weights" in out
    assert out.endswith('matplotlib is not installed, so there is no picture: pip install "fastnn[plot]"\n')
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- regularisation


def test_regularisation(example, capsys, tmp_path):
    module = example("regularisation")
    assert module.main(tmp_path, seeds=1) == 0
    out = capsys.readouterr().out
    assert out.count("  yes  ") == 5
    if HAS_MATPLOTLIB:
        assert (tmp_path / "regularisation.png").read_bytes().startswith(b"\x89PNG")


def test_regularisation_fails_where_it_should(example, capsys, tmp_path, monkeypatch):
    """A truncating L1 that does not truncate."""
    module = example("regularisation")
    without_matplotlib(monkeypatch)
    monkeypatch.setattr(module, "EPOCHS", 4)
    right = fastnn.Sequential
    monkeypatch.setattr(fastnn, "Sequential", lambda *a, l1_mode, **k: right(*a, l1_mode="gradient", **k))
    assert module.main(tmp_path, seeds=1) == 1
    assert "  NO   truncating L1 sets most weights to exactly 0" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ larger than memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cap is Linux's RLIMIT_DATA")
@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED"), reason="free-threaded Python reserves 1 GB by itself")
def test_larger_than_memory(example, capsys, tmp_path, monkeypatch):
    """Files of 2 GB, one after the other, under 512 MiB for everything."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    assert example("larger_than_memory").main(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("  yes  ") == 3
    assert "Unable to allocate 2.00 GiB" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is Linux's RLIMIT_DATA")
@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED"), reason="free-threaded Python reserves 1 GB by itself")
def test_larger_than_memory_fails_where_it_should(example):
    module = example("larger_than_memory")
    assert module.rows_of(module.CAP) * module.COLUMNS * 4 == 4 * module.CAP
    good = {"rows": 1, "seconds": 1.0, "peak": 99, "accuracy": 0.99}
    results = {
        "load": "numpy._core._exceptions._ArrayMemoryError: Unable",
        "npy": good,
        "memmap": good,
        "parquet": good,
    }
    assert list(module.claims(results, 100).values()) == [True, True, True]
    for way, result, wrong in (
        ("load", good, [0]),
        ("npy", "MemoryError", [1, 2]),
        ("memmap", {**good, "peak": 100}, [2]),
        ("parquet", {**good, "accuracy": 0.5}, [1]),
    ):
        holds = list(module.claims({**results, way: result}, 100).values())
        assert [place for place, ok in enumerate(holds) if not ok] == wrong
