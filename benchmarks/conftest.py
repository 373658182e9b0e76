"""Turns the table of cases into parameters of the tests in this folder.

pytest is not imported here: asv, too, imports this module, where there is no pytest.
"""

from benchmarks import cases


def pytest_addoption(parser):
    parser.addoption(
        "--dtypes",
        default="float32",
        help="element types of the kernel benchmarks, separated by commas: float32, float64 (default: float32)",
    )


def pytest_generate_tests(metafunc):
    """Give `case`, `library` and `dtype` to a test that asks for them: every library that is installed."""
    names = [name for name in ("case", "library", "dtype") if name in metafunc.fixturenames]
    if "case" not in names:
        return
    wanted = metafunc.config.getoption("--dtypes").split(",")
    peers_only = metafunc.function.__name__ == "test_peers_do_the_same"
    libraries = [name for name in cases.LIBRARIES if cases.installed(name) and not (peers_only and name == "fastnn")]
    rows, ids = [], []
    for case in cases.CASES:
        for dtype in wanted if case.dtypes == cases.FLOATS else case.dtypes:
            for library in libraries if "library" in names else ["fastnn"]:
                if library in case.bind and (case.outputs or not peers_only):
                    values = {"case": case, "library": library, "dtype": dtype}
                    rows.append([values[name] for name in names])
                    ids.append("-".join([case.name, *(values[name] for name in names if name != "case")]))
    metafunc.parametrize(names, rows, ids=ids)
