"""The gate's command line: ``python -m benchmarks.gate BASE HEAD``.

Installs both revisions, each in an environment of its own with a cache of compiled code of its own, measures every
kernel, training and prediction of `cases.py` in pairs of processes that take turns, looks again, in fresh pairs, at
what is suspicious, and ends with

0   nothing is slower,
1   something is slower: which, by how much, with what confidence,
2   it could not measure: a revision cannot be built, a benchmark fails, nothing is selected, or the machine is too
    noisy to tell.

BASE and HEAD are what git knows (`main`, `HEAD~3`, a hash) or folders: ``python -m benchmarks.gate main .`` compares
the files as they are, committed or not.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import cases
from benchmarks.gate import pairs, samples, trees, verdict

NOT_SLOWER, SLOWER, NOT_MEASURED = 0, 1, 2

SCREEN_PAIRS = 3
CONFIRM_PAIRS = 12
CONFIRMATIONS = 3
"""Twelve pairs at first; where they cannot tell, twelve more, twice."""


class _Progress:
    """One line on a terminal that is written over; silent elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("base", metavar="BASE", help="the revision, or folder, to compare with")
    result.add_argument("head", metavar="HEAD", help="the revision, or folder, that may be slower")
    result.add_argument("--bench", action="append", metavar="REGEX", help="only what matches; may be repeated (all)")
    result.add_argument("--dtypes", default="float32", help="float32, float64 or both, with a comma (float32)")
    result.add_argument("--threads", choices=("1", "all"), default="1", help="threads that kernels may use (1)")
    result.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help="report from here on (5)")
    result.add_argument(
        "--work", type=pathlib.Path, default=trees.ROOT / ".asv" / "gate", help="for environments (.asv/gate)"
    )
    result.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all that was measured")
    result.add_argument("--list", action="store_true", help="print what would be measured, and measure nothing")
    return result


def selected(patterns: Sequence[str] | None, dtypes: str) -> list[str]:
    """Return the names of the samples that match one of the patterns.

    Raises
    ------
    ValueError
        An unknown element type, a broken pattern, or nothing matches.
    """
    wanted = dtypes.split(",")
    if unknown := [dtype for dtype in wanted if dtype not in cases.FLOATS]:
        raise ValueError(f"--dtypes: got {unknown[0]!r}, expected float32 or float64, or both with a comma")
    try:
        expressions = [re.compile(pattern) for pattern in patterns or [""]]
    except re.error as error:
        raise ValueError(f"--bench: got {error.pattern!r}, expected a regular expression: {error}") from None
    names = [name for name in samples.names(wanted) if any(one.search(name) for one in expressions)]
    if not names:
        raise ValueError(f"--bench: nothing matches {' or '.join(patterns or [])}; --list shows what there is")
    return names


def decide(base: Any, head: Any, names: Sequence[str], threads: str, threshold: float) -> dict[str, dict[str, Any]]:
    """Measure, look again at what is suspicious, and return for each name its findings and verdict."""
    say = _Progress()
    screened = pairs.collect(base, head, names, SCREEN_PAIRS, threads, say=say)
    results: dict[str, dict[str, Any]] = {}
    for name, found in screened.items():
        results[name] = {"screen": found, "confirm": None, "verdict": None}
        if found.differences and not found.errors:
            results[name]["verdict"] = verdict.judge(found.differences, threshold)
    open_names = [
        name
        for name, found in screened.items()
        if found.differences and not found.errors and verdict.suspicious(found.differences, threshold)
    ]
    for turn in range(CONFIRMATIONS):
        first = SCREEN_PAIRS + turn * CONFIRM_PAIRS
        for name, found in pairs.collect(base, head, open_names, CONFIRM_PAIRS, threads, first, say).items():
            result = results[name]
            if result["confirm"] is None:
                result["confirm"] = found
            else:
                for part in ("differences", "seconds", "errors", "missing"):
                    getattr(result["confirm"], part).extend(getattr(found, part))
            if result["confirm"].errors:
                result["verdict"] = None
            else:
                result["verdict"] = verdict.judge(result["confirm"].differences, threshold)
        open_names = [
            name
            for name in open_names
            if results[name]["verdict"] and results[name]["verdict"].state == verdict.UNCLEAR
        ]
        if not open_names:
            break
    say("")
    return results


def _errors(result: dict[str, Any]) -> list[str]:
    return [*result["screen"].errors, *(result["confirm"].errors if result["confirm"] else [])]


def _state(result: dict[str, Any]) -> str:
    """Return what is known of one sample: failed, missing, slower, unclear or unchanged."""
    if _errors(result):
        return "failed"
    if result["verdict"] is None:
        return "missing"
    if result["confirm"] is None:  # a few pairs cannot prove, but nothing about them was suspicious
        return verdict.UNCHANGED
    return result["verdict"].state


def report(results: dict[str, dict[str, Any]], threshold: float) -> int:
    """Print what was found and return the exit code."""
    states: dict[str, list[str]] = {}
    for name, result in results.items():
        states.setdefault(_state(result), []).append(name)
    slower = sorted(states.get(verdict.SLOWER, []), key=lambda name: -results[name]["verdict"].slowdown)
    for name in slower:
        base = statistics.median(results[name]["confirm"].seconds)
        print(f"SLOWER   {name}: {results[name]['verdict']}, {base * 1e6:.3g} us before")
    for name in states.get("failed", []):
        print(f"FAILED   {name}: {_errors(results[name])[0]}")
    for name in states.get(verdict.UNCLEAR, []):
        print(f"UNCLEAR  {name}: {results[name]['verdict']}")
    for name in states.get("missing", []):
        print(f"skipped  {name}: {results[name]['screen'].missing[0]}")
    looked = sum(result["confirm"] is not None for result in results.values())
    measured = [name for name in results if _state(results[name]) in (verdict.SLOWER, verdict.UNCHANGED)]
    middle = statistics.median([results[name]["verdict"].slowdown for name in measured]) if measured else math.nan
    print(
        f"{len(results)} benchmarks, {len(measured)} measured, {looked} looked at again, {len(slower)} slower by"
        f" {threshold:.0%} or more at {verdict.CONFIDENCE:.0%} confidence; median change {middle:+.2%}"
    )
    if not measured or "failed" in states or verdict.UNCLEAR in states:
        print("not measured: what is FAILED or UNCLEAR above" if measured else "nothing could be measured")
        return NOT_MEASURED
    return SLOWER if slower else NOT_SLOWER


def _plain(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the results as JSON takes them."""
    return {
        name: {
            "state": _state(result),
            "verdict": vars(result["verdict"]) if result["verdict"] else None,
            **{part: vars(result[part]) if result[part] else None for part in ("screen", "confirm")},
        }
        for name, result in results.items()
    }


def _compare(options: argparse.Namespace, names: Sequence[str]) -> int:
    threshold = options.threshold / 100.0
    start = time.perf_counter()
    base, head = (
        trees.install(spec, side, options.work) for spec, side in ((options.base, "base"), (options.head, "head"))
    )
    of_base, of_head = pairs.versions(base, head)
    print(f"BASE {base.label}, HEAD {head.label}; {', '.join(f'{name} {number}' for name, number in of_base.items())}")
    for name, number in of_head.items():
        if number != of_base[name]:
            print(f"note: {name} is {of_base[name]} below BASE and {number} below HEAD")
    results = decide(base, head, names, options.threads, threshold)
    code = report(results, threshold)
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s")
    if options.json:
        document = {
            "base": base.label, "head": head.label, "versions": [of_base, of_head], "threads": options.threads,
            "threshold": threshold, "exit": code, "seconds": seconds, "results": _plain(results),
        }  # fmt: skip
        options.json.write_text(json.dumps(document, indent=1))
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        if not options.threshold > 0.0:
            raise ValueError(f"--threshold: got {options.threshold:g}, expected a number above 0")
        if options.json and not options.json.resolve().parent.is_dir():
            raise ValueError(f"--json: got {options.json}, but there is no folder {options.json.parent}")
        names = selected(options.bench, options.dtypes)
        if options.list:
            print("\n".join(names))
            return NOT_SLOWER
        return _compare(options, names)
    except (ValueError, OSError, trees.CannotBuild, pairs.Failed) as error:
        print(f"not measured: {error}")
        return NOT_MEASURED
