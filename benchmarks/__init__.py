"""What fastnn's speed is measured with: pytest-benchmark, asv, and a comparison with its peers.

- ``pytest benchmarks/ --benchmark-only``: each kernel beside NumPy's and, where installed, PyTorch's.
- ``asv run``: the kernels and the training workloads over the project's history (`kernels.py`, `train.py`).
- ``python benchmarks/compare.py``: training, products, updates and transcendentals beside the peers.

One table (`cases.py`) says what is measured; nothing is listed twice. asv imports every module of this package,
in an environment that has fastnn alone: so none imports pytest, PyTorch, JAX, scikit-learn or matplotlib at its
top.
"""

import os

# asv makes an environment for each set of requirements: one cache of compiled kernels in each, whatever the user
# has set, so that neither an earlier run nor another environment decides what is compiled. Numba reads this when
# it is first imported.
if "ASV_ENV_DIR" in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = os.path.join(os.environ["ASV_ENV_DIR"], "numba-cache")
