"""`compare.py`: its command line, that it refuses what it must, and that what the judge computes is right."""

import json
import math

import numpy as np

from benchmarks import cases, compare, peers

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


# The command, from its arguments to the JSON file.


def _refusal(capsys, line):
    """What is said of a command line that is refused."""
    error = _raised(SystemExit, compare.parse, line.split())
    assert error.code == 2
    return capsys.readouterr().err.rpartition("error: ")[2].strip()


def _raised(kind, call, *arguments):
    """The exception that a call ends with; pytest is not imported here, since asv imports this module."""
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"{arguments} raised nothing")


def test_command_lines_that_are_refused(capsys, tmp_path):
    cores = cases.available_cores()
    refused = {
        "--rounds 1": "--rounds: got 1, expected at least 2: one run has no spread, and a loss could not be judged",
        "--rounds 0": "argument --rounds: got '0', expected a whole number from 1",
        f"--threads {cores + 1}": f"--threads: got {cores + 1}, expected at most {cores}",
        "--workloads tiny,huge": f"argument --workloads: got 'huge', expected one of {', '.join(cases.ALL_WORKLOADS)}",
        "--shapes 8x8": "argument --shapes: got '8x8', expected ROWSxINPUTSxUNITS, several separated by commas",
        "--updates --plot a.png": "--plot: draws training workloads only",
        "--matmul-precision tf32": "--matmul-precision: tf32 takes --device cuda",
        "--products --updates": "argument --updates: not allowed with argument --products",
        f"--json {tmp_path}/no/a": f"--json: got {tmp_path}/no/a, but there is no folder {tmp_path}/no",
        f"--plot {tmp_path}/no/a": f"--plot: got {tmp_path}/no/a, but there is no folder {tmp_path}/no",
    }  # fmt: skip
    for line, message in refused.items():
        assert _refusal(capsys, line) == message


def test_what_is_not_said_is_chosen(monkeypatch):
    monkeypatch.setattr(peers, "is_installed", lambda name, device="cpu": name != "jax")
    options = compare.parse([])
    assert (options.mode, options.rounds, options.threads) == ("training", 7, cases.available_cores())
    assert options.peers == [name for name in compare.TRAINERS if name != "jax"]
    assert options.workloads == list(cases.WORKLOADS)
    assert compare.parse(["--quick"]).rounds == compare.QUICK_ROUNDS
    assert compare.parse(["--peers", "torch, torch"]).peers == ["fastnn", "torch"]
    assert compare.parse(["--peers", "torch,fastnn"]).peers == ["fastnn", "torch"]
    assert compare.parse(["--transcendentals", "--peers", "numpy-1"]).peers == ["fastnn-1", "numpy-1"]
    assert compare.parse(["--products", "--shapes", "1x2x3,4x5x6"]).shapes == [(1, 2, 3), (4, 5, 6)]


def test_peers_that_are_not_installed_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(peers, "is_installed", lambda name, device="cpu": name != "jax")
    assert _refusal(capsys, "--peers jax") == "--peers: jax is not installed"


ROWS, TINY_ROUNDS = 960, 4


def _run(monkeypatch, tmp_path, other, **workers):
    """Compare fastnn with another peer on a few rows; return the exit code and what the JSON file says."""
    monkeypatch.setattr(compare, "QUICK_ROWS", ROWS)
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    for name, value in workers.items():
        monkeypatch.setattr(compare, name, value)
    line = f"--quick --workloads tiny --peers {other} --rounds {TINY_ROUNDS} --threads 1 --json"
    code = compare.main([*line.split(), str(tmp_path / "all.json")])
    return code, json.loads((tmp_path / "all.json").read_text())


def test_workers_in_processes_of_their_own_learn_the_same(monkeypatch, tmp_path, capsys):
    other = "sklearn" if peers.is_installed("sklearn") else "fastnn-1"
    code, result = _run(monkeypatch, tmp_path, other)
    assert (code, result["valid"], result["failed"]) == (0, True, {})
    assert "valid: all libraries learned the same, beyond noise" in capsys.readouterr().out
    assert set(result["versions"]) == {"fastnn", other}
    (workload,) = result["training"]
    assert (workload["workload"], workload["rows"], workload["steps"]) == ("tiny", ROWS, 4 * ROWS // 32)
    for peer in ("fastnn", other):
        got = workload["peers"][peer]
        assert len(got["seconds"]) == len(got["loss"]) == TINY_ROUNDS
        assert max(got["loss"]) < workload["loss_before"]
        assert got["us_per_step"] > 0.0
    assert workload["peers"]["fastnn"]["ratio"] == 1.0
    assert result["peak_gflops"]["float32, 1 thread"] > 0.0


class _Here:
    """In place of a worker: fastnn in this process, under any name."""

    def __init__(self, name, threads, device):
        self.name, self.peer = name, peers.FastNN(threads)

    def ask(self, method, *arguments):
        return 1.0 if method == "peak" else getattr(self.peer, method)(*arguments)

    def close(self):
        pass


class _Wrong(_Here):
    """A peer that learns something else."""

    def ask(self, method, *arguments):
        answer = super().ask(method, *arguments)
        if method == "train" and self.name != "fastnn":
            return answer[0], [0.8 * weight for weight in answer[1]]
        return answer


class _Dying(_Here):
    """A peer that fails in its second round."""

    def ask(self, method, *arguments):
        if method == "train" and self.name != "fastnn" and arguments[0] == 1:
            raise RuntimeError("its process ended with exit code -9")
        return super().ask(method, *arguments)


def test_a_run_whose_losses_differ_is_refused(monkeypatch, tmp_path, capsys):
    code, result = _run(monkeypatch, tmp_path, "fastnn-1", Worker=_Wrong)
    assert (code, result["valid"]) == (1, False)
    (problem,) = result["training"][0]["problems"]
    assert problem.startswith("fastnn-1: loss ")
    out = capsys.readouterr().out
    assert f"This run is NOT VALID:\n  tiny: {problem}\n" in out
    assert "valid: all" not in out


def test_who_fails_is_left_out_and_named(monkeypatch, tmp_path, capsys):
    code, result = _run(monkeypatch, tmp_path, "fastnn-1", Worker=_Dying)
    assert (code, result["failed"]) == (0, {"fastnn-1": "its process ended with exit code -9"})
    assert set(result["training"][0]["peers"]) == {"fastnn"}
    assert "fastnn-1 failed and is left out" in capsys.readouterr().err


def test_a_worker_says_what_it_cannot_do_and_what_went_wrong():
    worker = peers.Worker("numpy", 1)
    try:
        assert str(_raised(peers.Unsupported, worker.ask, "load", "tiny", 32, 1)) == "no training"
        assert "has no attribute 'no_such'" in str(_raised(RuntimeError, worker.ask, "no_such"))
        worker._process.kill()
        ended = "numpy: its process ended with exit code -9"
        assert str(_raised(RuntimeError, worker.ask, "version")) == ended
    finally:
        worker.close()
