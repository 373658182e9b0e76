"""The judgement of `compare.py`: that it refuses what it must, and what the judge computes is right."""

import math

import numpy as np

from benchmarks import cases, compare

ROUNDS = 7


def _reached(shift=0.0, noise=0.004, rounds=ROUNDS, level=0.8, names=("fastnn", "torch", "jax")):
    """Losses as libraries reach them: rounds differ much, since the first weights do, libraries little."""
    rng = np.random.default_rng(5)
    of_round = 0.2 * rng.random(rounds)
    reached = {name: list(level + of_round + noise * rng.standard_normal(rounds)) for name in names}
    reached[names[-1]] = [value + shift for value in reached[names[-1]]]
    return reached


def test_noise_is_no_difference():
    assert compare.disagreements("loss", _reached(), 0.01, relative=True) == []


def test_another_loss_is_found():
    for shift in (0.05, -0.05):
        (problem,) = compare.disagreements("loss", _reached(shift), 0.01, relative=True)
        assert problem.startswith("jax: loss")


def test_equal_runs_are_equal():
    reached = {"fastnn": [0.5, 0.6, 0.7], "torch": [0.5, 0.6, 0.7]}
    assert compare.disagreements("loss", reached, 0.01, relative=True) == []
    reached["torch"] = [0.52, 0.62, 0.72]
    assert len(compare.disagreements("loss", reached, 0.01, relative=True)) == 1


def test_too_much_noise_is_said():
    (problem,) = compare.disagreements("loss", _reached(noise=0.5), 0.01, relative=True)
    assert "cannot tell" in problem


def test_a_loss_that_is_not_finite_is_said():
    reached = _reached()
    reached["torch"][2] = math.nan
    (problem,) = compare.disagreements("loss", reached, 0.01, relative=True)
    assert problem.startswith("torch")


def test_quantiles_are_never_too_small():
    assert compare.quantile_9995(1) == 636.6
    assert compare.quantile_9995(11) == 4.59  # tabulated at 10 and 12
    assert compare.quantile_9995(1000) == 3.46


def test_judge_agrees_with_evaluate():
    for name in ("tiny", "mnist_do"):
        workload = cases.WORKLOADS[name]
        x, y = cases.training_data(name, 300)
        model = cases.fastnn_model(workload)
        got = cases.judge(workload, model.get_weights(), x, y)
        expected = model.evaluate(x, y)
        expected["loss"] -= model.penalty()
        for measure, value in got.items():
            np.testing.assert_allclose(value, expected[measure], rtol=1e-5, err_msg=f"{name} {measure}")


def test_flops_are_those_of_the_layers():
    workload = cases.WORKLOADS["mnist"]
    weights = 784 * 128 + 128 * 64 + 64 * 10
    assert workload.weights == weights
    assert workload.nominal_flops == 6 * 60_000 * weights
    assert workload.executed_flops == 60_000 * (6 * weights - 2 * 784 * 128)


def test_exponential_of_matrices():
    x, y = cases.training_data("simplechains", 5)
    for matrix, expected in zip(x.reshape(-1, 2, 2).astype(float), y.reshape(-1, 2, 2), strict=True):
        values, vectors = np.linalg.eig(matrix)
        np.testing.assert_allclose((vectors * np.exp(values)) @ np.linalg.inv(vectors), expected, rtol=1e-4, atol=1e-5)
