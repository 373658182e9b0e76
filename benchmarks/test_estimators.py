"""`benchmarks/estimators.py`: that both libraries take every case, and what is printed."""

import contextlib
import sys

import fastnn
from benchmarks import estimators


def test_both_take_every_case():
    from sklearn import neural_network

    for name, fits in (*estimators.examples(), *estimators.workloads()):
        for each in fits:
            assert len(each.x) == len(each.y) > 0, name
            for module in (fastnn, neural_network):
                model = getattr(module, each.estimator)(**each.parameters)
                assert each.parameters.items() <= model.get_params().items()


def test_a_line_a_case(capsys, monkeypatch):
    for name in ("classifier comparison", "varying alpha"):
        monkeypatch.setattr(sys, "argv", ["estimators", "--rounds", "1", "--only", name])
        estimators.main()
        _, line = capsys.readouterr().out.splitlines()
        assert line.startswith(name)
        assert all(float(number) > 0 for number in line.replace(" ms ", "  ").replace(" us ", "  ").split()[-3:])


def test_what_measures_nothing_is_refused(capsys, monkeypatch):
    for arguments, message in (
        (["--only", "regressor"], "--only: got 'regressor', expected a part of one of learning curves: iris, "),
        (["--rounds", "0"], "--rounds: got 0, expected an integer >= 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["estimators", *arguments])
        with contextlib.suppress(SystemExit):
            raise AssertionError(estimators.main())
        assert message in capsys.readouterr().err
