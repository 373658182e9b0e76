"""How the package is put together: which way imports point, that importing is cheap, and that networks are data."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import runpy

import numpy as np
import pytest
from numba.core import event
from support import run_python

import fastnn
from fastnn import Activation, Dense, Dropout, Rescale, Sequential, _pyinstaller
from fastnn.kernels import _jit, epoch

ROOT = pathlib.Path(fastnn.__file__).parent

# Who may import whom: only those of a lower rank, or of the same where there is no circle.
RANKS = {
    "kernels": 0,
    "cuda": 1,
    "cuda.intake": 2,
    "cuda.runtime": 2,
    "cuda.check": 7,
    "training": 3,
    "model": 4,
    "loading": 5,
    "estimators": 5,
    "exchange": 5,
    "cli": 5,
    "__main__": 6,
    "__init__": 7,
}
OTHERS = 2  # network, runtime, layers, losses, optimizers, schedules, arrays, callbacks, saving, ...


def modules():
    """Every module: its dotted name below fastnn and its syntax tree."""
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), ast.parse(path.read_text())


def only_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(name, tree):
    """Every module of fastnn that a module imports when it runs, inside functions too."""
    todo, found = [tree], set()
    while todo:
        node = todo.pop()
        if only_for_types(node):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["fastnn", *name.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {target.removeprefix("fastnn.") for target in found if target.split(".")[0] == "fastnn"}


def known(target, names):
    """The module that `a.b.name` lies in."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        for candidate in (".".join(parts[:length]), ".".join([*parts[:length], "__init__"])):
            if candidate in names:
                return candidate
    return "__init__"


def graph():
    trees = dict(modules())
    return {name: {known(target, trees) for target in imports(name, tree)} - {name} for name, tree in trees.items()}


def rank(name):
    return RANKS.get(name, RANKS.get(name.split(".")[0], OTHERS))


def test_the_walk_sees_imports():
    """Or it would find nothing wrong."""
    found = graph()
    assert {"network", "training", "model", "runtime", "kernels.epoch", "kernels.gemm"} <= set(found)
    assert found["training"] >= {"callbacks", "kernels.layout", "schedules", "sparse"}
    assert "model" not in found["training"], "an import for types alone is none"
    assert found["kernels.epoch"] >= {"kernels._stages", "kernels._weights", "kernels.gemm", "kernels.layout"}
    inside = ast.parse("def f():\n    from fastnn.model import Sequential\n    from . import cli")
    assert imports("kernels.epoch", inside) == {"model.Sequential", "kernels.cli"}


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if rank(target) > rank(name)
    ]
    assert wrong == []


def test_imports_run_in_no_circle():
    left = graph()
    while True:
        free = [name for name, targets in left.items() if not targets & set(left)]
        if not free:
            break
        for name in free:
            del left[name]
    assert left == {}, "each of these imports another of them"


def test_kernels_import_nothing_of_fastnn_outside_kernels():
    for name, targets in graph().items():
        if name.startswith("kernels."):
            assert [target for target in targets if not target.startswith("kernels.")] == [], name


def test_kernels_need_numpy_and_numba_alone():
    allowed = {"fastnn", "numba", "numpy", "llvmlite"}
    import sys

    for name, tree in modules():
        if not name.startswith("kernels."):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            foreign = {full.split(".")[0] for full in names} - allowed - set(sys.stdlib_module_names)
            assert foreign == set(), name


def test_jit_options_stand_in_one_place():
    for name, tree in modules():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Attribute, ast.Name)) else ""
            jitted = text in ("njit", "jit", "vectorize", "guvectorize") or text.endswith((".njit", ".jit"))
            assert not jitted or name == "kernels._jit" or name.startswith("cuda"), f"{name}: {text}"


IMPORT = """
import pkgutil, sys
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    import fastnn
    before = set(sys.modules)
    for module in pkgutil.walk_packages(fastnn.__path__, "fastnn."):
        if module.name.rpartition(".")[2] not in ("__main__", "plotting", "estimators"):
            __import__(module.name)
print(len(recorder.buffer))
BIG = ("torch", "sklearn", "matplotlib", "onnx", "tensorboardX", "pandas", "jax", "narwhals", "pyarrow")
print([name for name in BIG if name in before])
import numba
with event.install_recorder("numba:compile") as recorder:
    numba.njit(lambda: 1)()
print(len(recorder.buffer) > 0)
"""


def test_importing_compiles_nothing_and_loads_nothing_big():
    compiled, loaded, seen = run_python(IMPORT).splitlines()
    assert compiled == "0"
    assert loaded == "[]"
    assert seen == "True", "the recorder does see a compilation"


# ------------------------------------------------------------------------------------ frozen programs


def test_pyinstaller_is_told_what_to_take_along():
    """The data, and every module that is imported by its name alone."""
    assert 'hook-dirs = "fastnn._pyinstaller:hook_folders"' in (ROOT.parent / "pyproject.toml").read_text()
    (folder,) = _pyinstaller.hook_folders()
    hook = runpy.run_path(str(pathlib.Path(folder, "hook-fastnn.py")))
    taken = {f"{into}/{file.name}" for source, into in hook["datas"] for file in pathlib.Path(source).iterdir()}
    assert taken == {"fastnn/data/ATTRIBUTION.md", "fastnn/data/digits.npz"}
    assert {f"fastnn.cuda.{name}" for name in fastnn.cuda._MODULE_OF.values()} <= set(hook["hiddenimports"])
    for name in hook["hiddenimports"]:
        assert importlib.util.find_spec(name) is not None, name


# ------------------------------------------------------------------------------------ networks are data


def tasks():
    """Every block of compiled code that is called by its address, in any module of the kernels."""
    import importlib
    import pkgutil

    found = {}
    for module in pkgutil.iter_modules(fastnn.kernels.__path__, "fastnn.kernels."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, _jit.Task):
                found[id(value)] = value
    return list(found.values())


ENTRIES = (epoch._execute_alone, epoch._execute_together)


def signatures():
    compiled = [len(entry.signatures) for entry in ENTRIES]
    return compiled + sorted(len(task._dispatcher.signatures) for task in tasks())


def use(model, x, y, batch):
    """Everything a model does."""
    model.fit(x, y, epochs=2, batch_size=batch, validation_split=0.2, sample_weight=np.ones(len(x)))
    model.evaluate(x, y)
    model.predict(x)
    if model.loss.folds:
        model.predict_class(x)
    model.gradients(x, y, training=True)
    model.backward(x, np.ones((len(x), model.network.units)))
    model.train_on_batch(x, y)
    model.penalty()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_another_network_compiles_nothing(name):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(40, 6)).astype(name), rng.integers(0, 3, size=40)
    use(Sequential([Dense(4), Dense(3)], "cross_entropy", dtype=name, l2=0.1), x, labels, 8)
    use(Sequential([Dense(4), Dense(1)], "binary_cross_entropy", dtype=name, l2=0.1), x, labels > 0, 8)
    for kind in ("sgd", "adagrad", "rmsprop"):  # the kinds of losses and of optimizers are compiled when first used
        use(Sequential([Dense(1)], "squared_error", kind, dtype=name), x, labels > 0, 8)
    before = signatures()
    assert len(tasks()) >= 5
    with event.install_recorder("numba:compile") as recorder:
        wide, many = rng.normal(size=(300, 130)), rng.integers(0, 17, size=300)
        deep = [Rescale(0.1), Activation("tanh"), Dropout(0.3), Dense(257, "gelu", l1=0.1), Dropout(0.5)]
        deep += [Dense(n, activation) for n, activation in ((33, "elu"), (1, "silu"), (64, "sigmoid"), (7, None))]
        use(Sequential([*deep, Dense(17, "softmax")], "cross_entropy", "sgd", dtype=name), wide, many, 100)
        images = rng.integers(0, 256, size=(50, 3, 4)).astype(np.uint8)
        values = rng.normal(size=(50, 2))
        for loss in ("squared_error", "absolute_error", fastnn.Huber(0.3)):
            model = Sequential([Dense(9, "relu", use_bias=False), Dense(2, "softplus")], loss, dtype=name)
            use(model, images, values, 50)
        for optimizer in (
            fastnn.SGD(0.01, momentum=0.9, nesterov=True, clip_norm=1.0),
            fastnn.AdaGrad(clip_value=1.0),
            fastnn.RMSprop(momentum=0.5, centered=True),
            fastnn.Adam(amsgrad=True),
            fastnn.AdamW(fastnn.Warmup(fastnn.Cosine(0.01, 10), steps=5)),
        ):
            model = Sequential([Dense(5), Dense(3)], "cross_entropy", optimizer, dtype=name, n_threads=1, l1=0.1)
            use(model, x.tolist(), np.eye(3)[labels], 1)
            model = Sequential([Dense(2)], "squared_error", optimizer, dtype=name, l1=0.1, l1_mode="truncate")
            use(model, np.asfortranarray(x).astype(">f8"), x[::-1, :2], 10**6)
    assert [str(item) for item in recorder.buffer] == []
    assert signatures() == before


WARMUP = """
import fastnn
from fastnn.kernels import _jit
fastnn.warmup()
from test_architecture import tasks, use
from numba.core import event
import numpy as np
left = [entry.py_func.__name__ for entry in _jit.entries if not entry.signatures]
left += [task._dispatcher.py_func.__name__ for task in tasks() if len(task._dispatcher.signatures) < 2]
print(left, len(_jit.entries), len(tasks()))
with event.install_recorder("numba:compile") as recorder:
    for name in ("float32", "float64"):
        x = np.ones((40, 6), name)
        use(fastnn.Sequential([fastnn.Dense(4), fastnn.Dense(3)], "cross_entropy", dtype=name), x, np.ones(40, int), 8)
        x, w, b, g = (np.ones(shape, name) for shape in ((3, 7), (7, 5), 5, 9))
        for array in (x, w, b, g):
            array.flags.writeable = False  # read-only inputs are no other kind of input
        z, state = np.empty((3, 5), name), np.zeros((2, 9), name)
        fastnn.kernels.matmul(z, x, w)
        assert (z == 7).all()
        fastnn.kernels.dense_forward(np.empty((3, 5), name), z, x, w, b)
        assert (z == 8).all()
        fastnn.kernels.dense_backward(None, np.empty((7, 5), name), None, z, x, w)
        fastnn.kernels.activation_statistics(np.zeros(4), x, x, "tanh")
        fastnn.kernels.adam_update(np.ones(9, name), state[0], state[1], g, 0.1, 0.9, 0.99, 1e-8, 1)
        fastnn.kernels.huber(np.empty((2, 2), name), np.ones((2, 2), name), np.ones((2, 2), name), delta=0.5)
print(len(recorder.buffer))
"""


def test_warmup_leaves_no_kernel_to_compile():
    covered, compiled = run_python(WARMUP).splitlines()
    assert covered == f"[] {len(_jit.entries)} {len(tasks())}"
    assert len(_jit.entries) >= 10
    assert len(tasks()) >= 20
    assert compiled == "0"


@pytest.mark.parametrize("names", ["float16", ["float32", "double"]])
def test_warmup_refuses_other_types(names):
    with pytest.raises(ValueError, match=r"dtypes: got .*, expected 'float32' or 'float64'"):
        fastnn.warmup(names)


def test_a_float_type_is_one_signature():
    """Behind the gate all data look alike: float32 and float64, and no third."""
    assert all(len(entry.signatures) <= 2 for entry in ENTRIES)
    assert all(len(task._dispatcher.signatures) <= 2 for task in tasks())
    x = np.zeros((4, 2), np.float32)
    Sequential([Dense(1)], "squared_error").fit(x, x[:, 0], epochs=1)
    assert all(len(entry.signatures) >= 1 for entry in ENTRIES)
