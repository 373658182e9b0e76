"""The kernels under pytest-benchmark: ``pytest benchmarks/ --benchmark-only``.

Each group sets a kernel beside NumPy and, where it is installed, PyTorch, on the same arrays:
``pytest benchmarks/ --benchmark-only -k adam --dtypes float32,float64``. Without ``--benchmark-only`` it is
also checked that the libraries do the same work, and that no call changes what the next one finds.
"""

import numpy as np

from benchmarks import cases


def test_speed(benchmark, case, library, dtype):
    """One call of a kernel; the first one, which compiles it or loads it from the disk, is not timed."""
    call, _ = cases.bind(case, library, dtype)
    call()
    amount, unit = case.work(dtype)
    benchmark.group = f"{case.name} {dtype}"
    benchmark(call)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info[unit] = round(amount / benchmark.stats.stats.median, 2)


def _results(case, library, dtype, steady, calls=1):
    call, values = cases.bind(case, library, dtype, steady=steady)
    for _ in range(calls):
        result = call()
    return {name: result if name == "result" else values[name] for name in case.outputs}


def test_peers_do_the_same(case, library, dtype):
    """What is compared must be the same work: in float64, so that a wrong formula shows."""
    dtype = "float64" if case.dtypes == cases.FLOATS else dtype
    got = _results(case, library, dtype, steady=False)
    expected = _results(case, "fastnn", dtype, steady=False)
    for name in case.outputs:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-11, err_msg=name)


def test_no_drift(case, dtype):
    """The hundredth call finds what the second one found, so that all samples measure the same."""
    few = _results(case, "fastnn", dtype, steady=True, calls=2)
    many = _results(case, "fastnn", dtype, steady=True, calls=100)
    for name in case.outputs:
        assert np.all(np.isfinite(few[name])), name
        np.testing.assert_allclose(many[name], few[name], rtol=2e-4, atol=1e-6, err_msg=name)


def test_every_kernel_has_a_case():
    from fastnn import kernels

    assert {case.kernel for case in cases.CASES} == set(kernels.__all__)


def test_names_are_unique():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
