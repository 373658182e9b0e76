"""Compiled CUDA kernels on disk: found again by another process, and never stale. No device: the code is a string."""

from __future__ import annotations

import numpy as np
import pytest
from support import run_python

SCRIPT = """
import sys, types
import numpy as np
from fastnn.cuda import _cache

action, sources = sys.argv[1:]
if sources != "same":
    _cache.stamp = lambda: sources
from fastnn.cuda import _numba, dense, launches, tile, update

codegen = types.SimpleNamespace(magic_tuple=lambda: ((13, 0), (9, 0)))
context = types.SimpleNamespace(refresh=lambda: None, codegen=lambda: codegen)
kernels = {
    "clip": update._clip,
    "square": dense.make_matmul(np.dtype("float32"), tile.SQUARE),
    "large": dense.make_matmul(np.dtype("float32"), tile.LARGE),
    "double": dense.make_matmul(np.dtype("float64"), tile.SQUARE),
    "gather": launches.gather_rows,
    "norm": launches.norm_of,
}
for name, kernel in kernels.items():
    cache = kernel._cache
    cache._impl.reduce, cache._impl.rebuild = (lambda code: code.text), (lambda context, text: text)
    if action == "save" and name != "double":
        code = type("Code", (), {"text": f"code of {name}", "codegen": codegen})()
        cache.save_overload(("signature",), code)
    print(name, cache.load_overload(("signature",), context))

print("unnamed", type(_numba.kernel(kernels["square"].py_func)._cache).__name__)  # it encloses a tile
"""
FOUND = [f"{name} code of {name}" for name in ("clip", "square", "large")]


@pytest.fixture
def kernels(tmp_path):
    """Run a process with a cache of its own; returns its lines."""

    def run(action, sources="same"):
        text = run_python(SCRIPT, action, sources, NUMBA_ENABLE_CUDASIM="0", NUMBA_CACHE_DIR=str(tmp_path))
        return text.strip().splitlines()

    return run


def test_each_kernel_finds_its_own_code_in_another_process(kernels):
    want = [*FOUND, "double None", "gather code of gather", "norm code of norm", "unnamed NullCache"]
    assert kernels("save") == want
    assert kernels("load") == want


def test_code_of_other_sources_is_not_used(kernels):
    kernels("save")
    assert kernels("load", "others")[:3] == ["clip None", "square None", "large None"]


def test_code_of_a_file_outside_of_the_package_is_not_stale(tmp_path):
    script = """
import sys, types
from pathlib import Path
from fastnn.cuda import _numba

path, text = Path(sys.argv[1]), "def double(x):\\n    x[0] *= 2\\n"
codegen = types.SimpleNamespace(magic_tuple=lambda: ((13, 0), (9, 0)))
context = types.SimpleNamespace(refresh=lambda: None, codegen=lambda: codegen)
for source in (text, text, text + "# other"):
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    cache = _numba.kernel(names["double"])._cache
    cache._impl.reduce, cache._impl.rebuild = (lambda code: code.text), (lambda context, text: text)
    print(cache.load_overload(("signature",), context))
    cache.save_overload(("signature",), type("Code", (), {"text": "code", "codegen": codegen})())
"""
    environment = {"NUMBA_ENABLE_CUDASIM": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_python(script, tmp_path / "kernels.py", **environment).split() == ["None", "code", "None"]


def test_a_damaged_file_means_compiling(kernels, tmp_path):
    kernels("save")
    for path in tmp_path.rglob("*.nb*"):
        path.write_bytes(b"nonsense")
    assert kernels("load")[:3] == ["clip None", "square None", "large None"]


def test_the_stamp_sees_every_source(tmp_path, monkeypatch):
    import shutil
    from pathlib import Path

    from fastnn.cuda import _cache
    from fastnn.kernels import _jit

    package = Path(_cache.__file__).parent.parent
    for folder in ("kernels", "cuda"):
        shutil.copytree(package / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_jit.resources, "files", lambda package: tmp_path / package.removeprefix("fastnn."))
    before = _cache.stamp.__wrapped__()
    assert before == _cache.stamp.__wrapped__() == _cache.stamp()
    for name in ("kernels/formulas.py", "cuda/step.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        after = _cache.stamp.__wrapped__()
        assert after != before
        before = after
    monkeypatch.setattr(_cache, "COMPILERS", ())
    assert _cache.stamp.__wrapped__() != before


def test_numpy_has_the_name_that_it_dropped_while_the_target_is_loaded(monkeypatch):
    """numba-cuda 0.30.4 asks NumPy for it, and NumPy 2.5 has it no more: no kernel could be compiled, or read."""
    from fastnn.cuda import _numba

    assert _numba.DROPPED == "row_stack"
    monkeypatch.delattr(np, _numba.DROPPED, raising=False)
    asked = []
    monkeypatch.setattr(_numba.importlib, "import_module", lambda name: asked.append((name, np.row_stack)))  # noqa: NPY201
    _numba._load_target()
    assert asked == [("numba.cuda.cudaimpl", np.vstack)]
    assert not hasattr(np, _numba.DROPPED)


LOADS = """
import sys
import fastnn, numpy
numpy.__dict__.pop("row_stack", None)
lacks = not hasattr(numpy, "row_stack")
from fastnn.cuda import _numba
loaded = "numba.cuda.cudaimpl" in sys.modules
print(loaded == (lacks and _numba.driver is not None), lacks != hasattr(numpy, "row_stack"))
"""


def test_the_target_is_there_before_any_kernel_is():
    assert run_python(LOADS, NUMBA_ENABLE_CUDASIM="0").split() == ["True", "True"]
