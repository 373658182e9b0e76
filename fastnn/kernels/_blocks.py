"""Copy and fill of 1-D blocks as plain loops:

Numba's slice assignment compiles its error messages along, 7 s of them.
"""

from __future__ import annotations

from fastnn.kernels._jit import inlined


@inlined
def copy(target, source):
    """Write target[i] = source[i] for every i of `target`."""
    for i in range(target.size):
        target[i] = source[i]


@inlined
def fill(target, value):
    """Write target[i] = value."""
    for i in range(target.size):
        target[i] = value
