"""The gate's decisions on made-up times, and that what it plants still fits the kernels."""

import importlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cases
from benchmarks.gate import command, pairs, planted, samples, trees, verdict

THRESHOLD = 0.05


def _differences(slowdown, noise, count, seed):
    """Return d of some pairs, with the heavy tails that a shared machine has."""
    rng = np.random.default_rng(seed)
    return list(math.log1p(slowdown) + noise * rng.standard_t(3, count))


def test_bounds_of_the_median():
    assert [verdict.rank(pairs) for pairs in (1, 6, 7, 11, 12, 16)] == [0, 0, 1, 2, 2, 3]
    # 12 values: the 2nd smallest is above the median with probability (1 + 12) / 4096.
    rng = np.random.default_rng(0)
    samples_of_12 = np.sort(rng.standard_normal((200_000, 12)), axis=1)
    assert np.mean(samples_of_12[:, verdict.rank(12) - 1] > 0.0) == pytest.approx(13 / 4096, rel=0.15)
    assert np.mean(samples_of_12[:, verdict.rank(12)] > 0.0) > 0.01


def test_a_tenth_is_slower():
    states = [verdict.judge(_differences(0.10, 0.02, 12, seed), THRESHOLD).state for seed in range(500)]
    assert states.count(verdict.SLOWER) > 490
    assert verdict.UNCHANGED not in states


def test_nothing_is_not_slower():
    states = [verdict.judge(_differences(0.0, 0.02, 12, seed), THRESHOLD).state for seed in range(2000)]
    assert verdict.SLOWER not in states
    assert states.count(verdict.UNCHANGED) > 1900


def test_faster_is_not_slower():
    assert verdict.judge(_differences(-0.3, 0.02, 12, 1), THRESHOLD).state == verdict.UNCHANGED


def test_noise_is_unclear():
    """Where the pairs differ by more than what is looked for, the answer is neither yes nor no."""
    states = [verdict.judge(_differences(0.08, 0.3, 12, seed), THRESHOLD).state for seed in range(200)]
    assert states.count(verdict.UNCLEAR) > 190


def test_too_few_pairs_prove_nothing():
    assert verdict.judge([0.5] * 6, THRESHOLD).state == verdict.UNCLEAR
    assert verdict.judge([0.5] * 7, THRESHOLD).state == verdict.SLOWER


def test_a_significant_trifle_is_unchanged():
    assert verdict.judge([0.01] * 12, THRESHOLD).state == verdict.UNCHANGED


def test_what_is_suspicious():
    assert verdict.suspicious([0.10, 0.09, 0.11, 0.08], THRESHOLD)
    assert verdict.suspicious([0.0, 0.0, 0.0, 0.2], THRESHOLD)  # cannot tell
    assert not verdict.suspicious([0.01, -0.01, 0.0, 0.02], THRESHOLD)


class _Sides:
    """Stands in for `pairs.collect`: a table of slow-downs instead of processes."""

    def __init__(self, slowdowns, noise=0.01, errors=None, missing=None):
        self._slowdowns, self._noise = slowdowns, noise
        self._errors, self._missing = errors or {}, missing or {}
        self.asked = []

    def __call__(self, base, head, names, count, threads, first=0, say=None):
        self.asked.append((sorted(names), count))
        result = {}
        for name in names:
            found = pairs.Found(seconds=[1e-3] * count)
            if name in self._errors:
                found.errors.append(self._errors[name])
            elif name in self._missing:
                found.missing.append(self._missing[name])
            else:
                noise = self._noise if name != "steady" else 0.01
                found.differences = _differences(self._slowdowns[name], noise, count, first + len(name))
            result[name] = found
        return result


@pytest.fixture
def gate(monkeypatch, capsys):
    """Return a function that runs the decision on a table and returns (exit code, what it printed, what it asked)."""

    def run(**table):
        sides = _Sides(**table)
        monkeypatch.setattr(pairs, "collect", sides)
        names = [*sides._slowdowns, *sides._errors, *sides._missing]
        code = command.report(command.decide(None, None, names, "1", THRESHOLD), THRESHOLD)
        return code, capsys.readouterr().out, sides.asked

    return run


def test_exit_0_where_nothing_is_slower(gate):
    code, text, asked = gate(slowdowns={"a": 0.0, "b": 0.01, "c": -0.2})
    assert code == 0
    assert "SLOWER" not in text
    assert asked[0] == (["a", "b", "c"], command.SCREEN_PAIRS)


def test_exit_1_names_what_is_slower_and_repeats_only_that(gate):
    code, text, asked = gate(slowdowns={"a": 0.0, "b": 0.10})
    assert code == 1
    assert "SLOWER   b: +" in text
    assert "SLOWER   a" not in text
    assert asked[1] == (["b"], command.CONFIRM_PAIRS)


def test_exit_2_where_a_benchmark_fails_even_if_another_is_slower(gate):
    code, text, _ = gate(slowdowns={"a": 0.10}, errors={"b": "HEAD: ended with -6"})
    assert code == 2
    assert "SLOWER   a" in text
    assert "FAILED   b: HEAD: ended with -6" in text


def test_exit_2_where_the_machine_is_too_noisy(gate):
    code, text, asked = gate(slowdowns={"a": 0.09, "steady": 0.0}, noise=0.4)
    assert code == 2
    assert "UNCLEAR  a" in text
    assert len(asked) == 1 + command.CONFIRMATIONS
    assert f", {command.CONFIRMATIONS * command.CONFIRM_PAIRS} pairs)" in text


def test_what_one_revision_lacks_is_skipped(gate):
    code, text, _ = gate(slowdowns={"a": 0.0}, missing={"b": "BASE: no kernel b"})
    assert code == 0
    assert "skipped  b: BASE: no kernel b" in text
    code, text, _ = gate(slowdowns={}, missing={"b": "BASE: no kernel b"})
    assert code == 2
    assert "nothing could be measured" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["HEAD", "HEAD", "--bench", "nothing is called so"], "nothing matches"),
        (["HEAD", "HEAD", "--bench", "("], "expected a regular expression"),
        (["HEAD", "HEAD", "--dtypes", "float16"], "'float16'"),
        (["HEAD", "HEAD", "--threshold", "0"], "expected a number above 0"),
        (["no-such-revision", "HEAD"], "neither a revision that git knows nor a folder"),
        (["HEAD", "HEAD", "--json", "no-such-folder/found.json"], "there is no folder no-such-folder"),
    ],
)
def test_exit_2_for_what_cannot_be_asked(arguments, message, tmp_path, capsys):
    assert command.main([*arguments, "--work", str(tmp_path)]) == 2
    assert message in capsys.readouterr().out


def test_a_folder_that_git_does_not_know(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "pyproject.toml").touch()
    assert command.main([str(tmp_path / "tree"), "HEAD", "--work", str(tmp_path / "work")]) == 2
    assert "tree: got a folder whose files git does not list, expected one in a repository" in capsys.readouterr().out


def test_the_history_knows_every_benchmark():
    """asv writes this list when it looks for benchmarks (`asv check`), and makes pages by it."""
    listed = json.loads((trees.ROOT / "benchmarks" / "history" / "benchmarks.json").read_text())
    defined = {
        f"{name}.{kind.__name__}.{method}"
        for name in ("cuda", "kernels", "startup", "train")
        for kind in vars(importlib.import_module(f"benchmarks.{name}")).values()
        if isinstance(kind, type) and not kind.__name__.startswith("_") and kind.__module__ == f"benchmarks.{name}"
        for method in dir(kind)
        if method.startswith(("time_", "timeraw_", "track_", "peakmem_"))
    }
    assert defined == {name for name in listed if name != "version"}


def test_exit_2_for_an_error_of_its_own():
    """Python's own exit code for one is 1, which would say that something is slower."""
    program = "import runpy, benchmarks.gate.command as command; command.main = None; "
    program += "runpy.run_module('benchmarks.gate', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=trees.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "TypeError" in done.stderr


def test_every_case_is_a_sample():
    names = samples.names(("float32", "float64"))
    assert len(set(names)) == len(names)
    for case in cases.CASES:
        assert any(name.startswith(case.name + " ") for name in names), case.name
    assert {name.removeprefix("train ") for name in names if name.startswith("train ")} == set(cases.WORKLOADS)


def test_samples_are_short_and_many():
    for seconds in (1e-6, 1e-4, 4e-3, 2e-2, 0.1):
        rounds, sample = pairs.rounds_of(seconds)
        assert rounds >= 7
        assert seconds * sample["calls"] * sample["bursts"] <= max(0.04, seconds)


@pytest.mark.parametrize("name", [*planted.TENTH, "a quarter", "raises", "crashes", "no build"])
def test_planted_faults_fit_the_kernels(name, tmp_path):
    """The text that a fault replaces is there, once, and what comes of it is Python."""
    others = {
        "a quarter": planted.QUARTER, "raises": planted.FAILS, "crashes": planted.CRASHES, "no build": planted.NO_BUILD,
    }  # fmt: skip
    one = {**planted.TENTH, **others}[name]
    text = (trees.ROOT / one.file).read_text()
    assert text.count(one.old) == 1
    if one.file.endswith(".py"):
        compile(text.replace(one.old, one.new), one.file, "exec")
        assert one.benchmark in samples.names()


def test_a_folder_is_taken_as_it_is(tmp_path):
    source = tmp_path / "source"
    for name, text in {"pyproject.toml": "[project]\n", "fastnn/a.py": "1\n", ".gitignore": "*.nbc\n"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "fastnn" / "compiled.nbc").write_text("ignored")
    subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    trees.export(str(source), tmp_path / "copy")
    assert (tmp_path / "copy" / "fastnn" / "a.py").read_text() == "1\n"
    assert not (tmp_path / "copy" / "fastnn" / "compiled.nbc").exists()


TOOLS = {
    "gate a b --list": command.NOT_MEASURED,
    "compare --workloads tiny": 1,
    "gate.proof --only failures --work proof": 1,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_reader_that_has_enough_is_no_error(tool, tmp_path):
    """Of any tool in the folder: no traceback, and no code that means something else."""
    reading, writing = os.pipe()
    os.close(reading)
    name, *arguments = tool.split()
    done = subprocess.run(
        [sys.executable, "-u", "-m", f"benchmarks.{name}", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(trees.ROOT)}, stdout=writing, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", TOOLS[tool])


@pytest.mark.parametrize("code", [0, 3])
def test_the_code_of_a_tool_that_is_done_stays_where_nobody_reads(code):
    reading, writing = os.pipe()
    os.close(reading)
    program = f"import sys\nfrom benchmarks import shell\nsys.exit(shell.run(lambda: print('x') or {code}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=trees.ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", code)
