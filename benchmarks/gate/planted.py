"""Faults that the gate has to find: a copy of the tree with a kernel that does some of its work twice.

The second time changes no result, so that nothing but time tells. How much is done twice is such that the benchmark
named takes about a tenth (or a quarter) longer, the checks in front of a kernel included, which are not planted in.
"""

from __future__ import annotations

import pathlib
import subprocess
from dataclasses import dataclass

from benchmarks.gate import trees


@dataclass(frozen=True)
class Plant:
    """An edit, and the benchmark that must be reported for it: `old` occurs once in `file`, `new` replaces it."""

    benchmark: str
    file: str
    old: str
    new: str


_PRODUCT_OLD = """                for j in range(0, nc, nr):
                    columns = min(nr, nc - j)
"""
_PRODUCT_NEW = """                twice = nc // {part} // nr * nr if k0 == 0 and 4 * i0 < 3 * m else 0
                for turn in range(0, nc + twice, nr):
                    j = turn % nc
                    columns = min(nr, nc - j)
"""
_DROPOUT_OLD = """        _mask_group(mask, group, threshold, scale, step, layer, seed)
"""
_ACTIVATION_OLD = """    copy(a, chunk_at(p, B, element, task))
    call_activate(counts[0], counts[1], a)
"""
_UPDATE_OLD = """    if numbers[_TRUNCATE] > 0.0:
"""
_EPOCH_OLD = """            _carry_rows(c, params, learning)
        if of_rows and c[MODE] != FORWARD:
"""

TENTH = {
    "product": Plant(
        "matmul 256x256x256 float32", "fastnn/kernels/gemm.py", _PRODUCT_OLD, _PRODUCT_NEW.format(part=8)
    ),
    "activation": Plant(
        "activation_forward tanh 32768 float32", "fastnn/kernels/activation.py", _ACTIVATION_OLD,
        _ACTIVATION_OLD + """    again = a[: a.size // 5]
    copy(again, chunk_at(p, B, element, task))
    call_activate(counts[0], counts[1], again)
""",
    ),
    "dropout": Plant(
        "dropout_forward 1048576 float32", "fastnn/kernels/dropout.py", _DROPOUT_OLD,
        """        if group % 8 == 0:
            _mask_group(mask, group, threshold, scale, step + 1, layer, seed)
""" + _DROPOUT_OLD,
    ),
    "update": Plant(
        "adam 1000000 float32", "fastnn/kernels/update.py", _UPDATE_OLD,
        """    if task % 10 == 0:
        call_update(
            rule, w, chunk_at(p, C, element, task), chunk_at(p, D, element, task), chunk_at(p, E, element, task), d,
            numbers, numbers[_L1], numbers[_L2], numbers[_DECAY], numbers[_SCALE],
        )
""" + _UPDATE_OLD,
    ),
    "epoch loop": Plant(
        "train mnist", "fastnn/kernels/epoch.py", _EPOCH_OLD,
        """            if learning and i % 5 == 0:
                _carry_rows(c, params, False)
""" + _EPOCH_OLD,
    ),
}  # fmt: skip
"""Name -> what makes a kernel about 10% slower."""

QUARTER = Plant("matmul 256x256x256 float32", "fastnn/kernels/gemm.py", _PRODUCT_OLD, _PRODUCT_NEW.format(part=3))

FAILS = Plant(
    "clip_by_value 1048576 float32", "fastnn/kernels/update.py",
    '''    """Clip `grad` in place to [-limit''',
    '''    raise ZeroDivisionError("planted")
    """Clip `grad` in place to [-limit''',
)  # fmt: skip
CRASHES = Plant(
    FAILS.benchmark,
    FAILS.file,
    FAILS.old,
    FAILS.new.replace('raise ZeroDivisionError("planted")', "__import__('os').abort()"),
)
NO_BUILD = Plant("", "pyproject.toml", "[build-system]", "[build-system")


def plant(one: Plant, folder: pathlib.Path, revision: str = "HEAD") -> pathlib.Path:
    """Write the tree of a revision with the fault in it into `folder`, and return it.

    Raises
    ------
    ValueError
        The text to replace does not occur exactly once.
    """
    trees.export(revision, folder)
    file = folder / one.file
    text = file.read_text()
    if text.count(one.old) != 1:
        raise ValueError(f"{one.file}: got {text.count(one.old)} places for the fault, expected one:\n{one.old}")
    file.write_text(text.replace(one.old, one.new))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # a folder is taken as git lists it
    return folder
