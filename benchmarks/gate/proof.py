"""Does the gate tell the truth here? ``python -m benchmarks.gate.proof``, an hour or two on two cores.

Compares the tree with itself, plants slow-downs of a tenth in five kernels, one of a quarter while another program
keeps a core busy, and what cannot be measured; prints, as a table, what the gate said each time. Ends with 0 if it was
right every time, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import shell
from benchmarks.gate import planted, trees

QUICK = "clip_by"
"""What is selected where only failing matters."""

Row = tuple[str, str, str, bool]
"""What was planted, what the gate had to say, what it said, whether it was right."""


def gate(work: pathlib.Path, base: str, head: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run the gate in a process of its own; returns its exit code, what it measured and what it printed."""
    found = work / "found.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gate", base, head, "--work", str(work), "--json", str(found), *options]
    done = subprocess.run(command, cwd=trees.ROOT, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(found.read_text()) if found.is_file() else {}, done.stdout + done.stderr


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _slower(found: dict[str, Any]) -> dict[str, Any]:
    results = found.get("results", {})
    return {name: result["verdict"] for name, result in results.items() if result["state"] == "slower"}


def itself(work: pathlib.Path, number: int) -> Row:
    """Compare the tree with itself."""
    code, found, text = gate(work, "HEAD", "HEAD")
    again = sum(result["confirm"] is not None for result in found.get("results", {}).values())
    said = f"exit {code}; {len(_slower(found))} of {len(found.get('results', {}))} slower, {again} looked at again"
    if code != 0:
        print(text, file=sys.stderr)
    return f"nothing, run {number}", "exit 0", f"{said}; {found.get('seconds', 0):.0f} s", code == 0


def slow_down(work: pathlib.Path, name: str, one: planted.Plant, what: str) -> Row:
    """Compare the tree with one that has a slow kernel."""
    with tempfile.TemporaryDirectory() as folder:
        tree = planted.plant(one, pathlib.Path(folder) / "planted")
        code, found, text = gate(work, "HEAD", str(tree))
    slower = _slower(found)
    said = f"exit {code}; {len(slower)} slower"
    if one.benchmark in slower:
        verdict = slower[one.benchmark]
        said += (
            f", {one.benchmark} by {verdict['slowdown']:.1%}"
            f" ({verdict['low']:.1%} to {verdict['high']:.1%}, {verdict['pairs']} pairs)"
        )
    right = code == 1 and one.benchmark in slower
    if not right:
        print(text, file=sys.stderr)
    return f"{what} in the {name}", "exit 1", f"{said}; {found.get('seconds', 0):.0f} s", right


def failure(work: pathlib.Path, name: str, one: planted.Plant | None, pattern: str, head: str = "HEAD") -> Row:
    """Compare the tree with one that cannot be measured."""
    with tempfile.TemporaryDirectory() as folder:
        if one is not None:
            head = str(planted.plant(one, pathlib.Path(folder) / "planted"))
        code, _, text = gate(work, "HEAD", head, "--bench", pattern)
    lines = [line for line in text.splitlines() if "FAILED" in line or "not measured" in line]
    return name, "exit 2", f"exit {code}; {lines[0][:100] if lines else text[-100:]}", code == 2


def rows(work: pathlib.Path, repeats: int, only: str) -> Iterator[Row]:
    """Do one check after the other."""
    if only in ("", "failures"):
        yield failure(work, "a benchmark that raises", planted.FAILS, QUICK)
        yield failure(work, "a benchmark that crashes", planted.CRASHES, QUICK)
        yield failure(work, "an empty selection", None, "no such benchmark")
        yield failure(work, "a failed build", planted.NO_BUILD, QUICK)
        yield failure(work, "a revision that does not exist", None, QUICK, "no-such-revision")
    if only in ("", "planted"):
        for name, one in planted.TENTH.items():
            yield slow_down(work, name, one, "a tenth")
    if only in ("", "busy"):
        with busy_core():
            yield slow_down(work, "product", planted.QUARTER, "a quarter, with a core kept busy,")
    if only in ("", "itself"):
        for number in range(1, repeats + 1):
            yield itself(work, number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate.proof", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="comparisons of the tree with itself (20)")
    parser.add_argument("--only", choices=("failures", "planted", "busy", "itself"), default="", help="one part")
    parser.add_argument(
        "--work", type=pathlib.Path, default=trees.ROOT / ".asv" / "proof", help="for environments (.asv/proof)"
    )
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    wrong = 0
    print("| planted | expected | the gate said | |\n|---|---|---|---|", flush=True)
    for what, expected, said, right in rows(options.work, options.repeats, options.only):
        print(f"| {what} | {expected} | {said} | {'right' if right else 'WRONG'} |", flush=True)
        wrong += not right
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
