"""fastnn beside its peers on this machine: ``python benchmarks/compare.py``.

Runs fastnn and whichever of PyTorch (eager, compiled), JAX and scikit-learn are installed on the workloads of
`cases.py`, and prints, for each, the median time of a step, its spread, the ratio to fastnn, GFLOP/s and the
share of this machine's own peak of multiply-adds on registers, measured in the same run. Other comparisons:
``--products`` (the three matrix products of a dense layer), ``--updates`` (optimizer steps, beside a plain loop
over the same memory) and ``--transcendentals``.

How it is kept fair: every library has a process of its own, and one works at a time; a round runs all of them,
each round begins with another one; compiling is not timed; all start from the same weights, and what they have
learned is judged by one NumPy program. A run in which a library ends with another loss or accuracy than fastnn,
beyond the spread that other seeds make, is called not valid, and the exit code is 1: what computes something else
cannot be compared.

Another program that uses the CPU makes the figures worthless. Close it first.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

if __package__ in (None, ""):  # run as a script: its folder is no place to import from
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from benchmarks import cases, peers, shell
from benchmarks.peers import Unsupported, Worker

TRAINERS = ("fastnn", "fastnn-1", "torch", "torch-1", "torch-compile", "jax", "sklearn")
PRODUCERS = ("fastnn", "numpy", "torch", "jax")
UPDATERS = ("fastnn", "torch")
FUNCTIONS = ("fastnn-1", "numpy-1", "torch-1")
GPU_WORKLOADS = ("tiny", "small", "mnist", "tabular", "deep", "wide", "mlp64", "wide4096")

JUDGED_ROWS = 10_000
LOSS_FLOOR = 0.01
"""Share of the loss that is never held against a library: sums in another order, another tanh and other random
numbers move a loss by less, a missing penalty, dropout or step by more."""

ACCURACY_FLOOR = 0.005

PAUSE = 0.3
"""Seconds before each turn, in which the threads of the library before may stop looking for work."""

QUICK_ROUNDS, QUICK_ROWS = 5, 5_000

_T_9995 = {1: 636.6, 2: 31.60, 3: 12.92, 4: 8.61, 5: 6.87, 6: 5.96, 7: 5.41, 8: 5.04, 9: 4.78, 10: 4.59, 12: 4.32,
           15: 4.07, 20: 3.85, 30: 3.65, 60: 3.46}  # fmt: skip
"""Quantile 0.9995 of Student's t by degrees of freedom: a difference beyond it happens once in 1000 by chance."""

_DTYPES = ("float32", "float64")
_SHAPES = (
    *((size, size, size) for size in (16, 64, 128, 256, 512, 1024, 2048)),
    (1, 784, 128), (1, 4096, 4096), (8, 64, 64), (32, 8, 32), (32, 32, 1), (64, 64, 64), (128, 784, 256),
    (128, 256, 128), (128, 128, 10), (256, 784, 1024), (256, 1024, 1024), (512, 54, 256), (512, 256, 256),
    (512, 256, 7), (4096, 256, 256), (4096, 4, 32), (4096, 1024, 1), (7, 13, 17), (127, 129, 131), (1009, 997, 31),
)  # fmt: skip
"""Layers: batch rows, inputs, units."""

_QUICK_SHAPES = ((512, 512, 512), (128, 784, 256), (32, 8, 32), (127, 129, 131), (1, 784, 128))
_SIZES = (100_000, 1_000_000, 25_000_000)


def quantile_9995(freedom: int) -> float:
    """Return the tabulated t quantile at the nearest number of degrees of freedom that is not above `freedom`."""
    return _T_9995[max(known for known in _T_9995 if known <= max(1, freedom))]


def spread(values: Sequence[float]) -> float:
    """Return the distance of the quartiles as a share of the median."""
    if len(values) < 2:
        return math.nan
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)


def disagreements(
    measure: str, reached: dict[str, list[float]], floor: float, relative: bool, reference: str = "fastnn"
) -> list[str]:
    """Return a sentence for each library whose mean differs from the reference's beyond noise.

    In a round all libraries train from the same first weights; shuffles and dropout masks are everybody's own.
    What is left of a result after the mean of its round and the mean of its library are taken away is therefore
    chance. With s its standard deviation, two libraries' means over R rounds may differ by t s sqrt(2 / R), t
    Student's for a chance of 1 in 1000, besides `floor`. Where chance alone could hide a difference of a quarter of
    the mean, the rounds are too few to tell, and that is said instead.

    Parameters
    ----------
    measure : str
        What is compared.
    reached : dict
        Library -> one value a round.
    floor : float
        Difference that is always allowed.
    relative : bool
        Whether the floor is a share of the reference's mean.
    reference : str
        The library that the others are held against.
    """
    bad = [f"{name}: {measure} {values}" for name, values in reached.items() if not all(map(math.isfinite, values))]
    if bad or len(reached) < 2:
        return bad
    table = list(reached.values())
    libraries, rounds = len(table), len(table[0])
    by_round = [statistics.mean(values) for values in zip(*table, strict=True)]
    everything = statistics.mean(by_round)
    left = sum(
        (value - statistics.mean(values) - of_round + everything) ** 2
        for values in table
        for value, of_round in zip(values, by_round, strict=True)
    )
    freedom = (libraries - 1) * (rounds - 1)
    chance = quantile_9995(freedom) * math.sqrt(left / freedom * 2.0 / rounds)
    own = statistics.mean(reached[reference])
    if chance > 0.25 * abs(own):
        return [f"{measure} varies so much that {rounds} rounds cannot tell ({own:.4g}, by chance +-{chance:.2g})"]
    allowed = chance + (floor * abs(own) if relative else floor)
    return [
        f"{name}: {measure} {statistics.mean(values):.5g}, fastnn {own:.5g}, allowed difference {allowed:.2g}"
        for name, values in reached.items()
        if abs(statistics.mean(values) - own) > allowed
    ]


class Team:
    """The workers of one comparison; those that fail leave it, and it is said why."""

    def __init__(self, names: Iterable[str], threads: int, device: str = "cpu") -> None:
        self.workers: dict[str, Worker] = {}
        self.versions: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        for name in names:
            worker = Worker(name, threads, device)
            try:
                self.versions[name] = worker.ask("version")
                self.workers[name] = worker
            except RuntimeError as error:
                self._leave(name, worker, error)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def _leave(self, name: str, worker: Worker, error: Exception) -> None:
        self.failures[name] = str(error)
        print(f"{name} failed and is left out:\n{error}", file=sys.stderr)
        worker.close()
        self.workers.pop(name, None)

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Ask one worker; None where it cannot do that, or failed."""
        if name not in self.workers:
            return None
        try:
            return self.workers[name].ask(method, *arguments)
        except Unsupported:
            return None
        except RuntimeError as error:
            self._leave(name, self.workers[name], error)
            return None

    def rounds(
        self, count: int, names: Sequence[str], method: str, arguments: Callable[[str, int], tuple[Any, ...]]
    ) -> dict[str, list[Any]]:
        """Ask everybody `count` times, round by round, each round beginning with another one.

        `arguments` takes a name and the round's number. Returns name -> answers; who failed on the way is left out.
        """
        answers: dict[str, list[Any]] = {name: [] for name in names}
        for number in range(count):
            shift = number % max(1, len(names))
            for name in (*names[shift:], *names[:shift]):
                time.sleep(PAUSE)
                answer = self.ask(name, method, *arguments(name, number))
                if answer is not None:
                    answers[name].append(answer)
        return {name: got for name, got in answers.items() if len(got) == count}


class Peaks:
    """The machine's peak of multiply-adds on registers, in GFLOP/s: the best measurement of the run counts."""

    def __init__(self, team: Team, threads: int, device: str = "cpu") -> None:
        self.team, self.device = team, device
        self.threads = threads if device == "cpu" else 1
        self.best: dict[str, float] = {}

    def measure(self) -> None:
        """Measure once more."""
        for dtype in _DTYPES:
            for threads in sorted({1, self.threads}):
                value = self.team.ask("fastnn", "peak", dtype, threads)
                if value is not None:
                    key = self._key(dtype, threads)
                    self.best[key] = max(self.best.get(key, 0.0), value)

    def of(self, name: str, dtype: str = "float32") -> float:
        """Return what a peer could reach at most."""
        return self.best.get(self._key(dtype, self.threads if peers.on(self.device)[name][1] else 1), math.nan)

    @staticmethod
    def _key(dtype: str, threads: int) -> str:
        return f"{dtype}, {threads} thread{'s' if threads > 1 else ''}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first flush left."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f}%"


# Training.


def compare_workload(name: str, team: Team, peaks: Peaks, rounds: int, rows: int | None, epochs: int | None) -> Any:
    """Run one workload on everybody, print its table, and return what was measured."""
    workload = cases.ALL_WORKLOADS[name]
    rows = workload.rows if rows is None else min(rows, workload.rows)
    batch = min(workload.batch, rows)
    epochs = workload.epochs if epochs is None else min(epochs, workload.epochs)
    steps = epochs * -(-rows // batch)
    fewer = f" (here {rows} rows, {epochs} epochs)" if rows < workload.rows else ""
    print(f"\n{name}: {workload.describe()}{fewer}")
    loading = {}
    for peer in tuple(team.workers):
        seconds = team.ask(peer, "load", name, rows, epochs)
        if seconds is not None:
            loading[peer] = seconds
    answers = team.rounds(rounds, tuple(loading), "train", lambda peer, number: (number, _seed(peer, number), epochs))
    peaks.measure()
    if "fastnn" not in answers:
        return {"workload": name, "problems": ["fastnn failed"]}
    x, y = cases.training_data(name, rows)
    x, y = x[:JUDGED_ROWS], y[:JUDGED_ROWS]
    start = [cases.judge(workload, cases.first_weights(workload, number), x, y) for number in range(rounds)]
    judged = {peer: [cases.judge(workload, weights, x, y) for _, weights in got] for peer, got in answers.items()}
    seconds = {peer: [each for each, _ in got] for peer, got in answers.items()}
    problems = []
    for measure in start[0]:
        values = {peer: [each[measure] for each in got] for peer, got in judged.items()}
        floor = LOSS_FLOOR if measure == "loss" else ACCURACY_FLOOR
        problems += disagreements(measure, values, floor, relative=measure == "loss")
    first = statistics.mean(each["loss"] for each in start)
    last = statistics.mean(each["loss"] for each in judged["fastnn"])
    if not last < 0.95 * first:
        problems.append(f"fastnn learned nothing: loss {first:.4g} before, {last:.4g} after")
    result: dict[str, Any] = {
        "workload": name, "description": workload.describe(), "rows": rows, "epochs": epochs, "steps": steps,
        "loss_before": first, "problems": problems, "peers": {},
    }  # fmt: skip
    passes = epochs * rows / workload.rows
    nominal, executed = workload.nominal_flops * passes, workload.executed_flops * passes
    for peer, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(times, seconds["fastnn"], strict=True))
        result["peers"][peer] = {
            "seconds": times, "us_per_step": 1e6 * median / steps, "spread": spread(times), "ratio": ratio,
            "gflops": nominal / median / 1e9, "share_of_peak": executed / median / 1e9 / peaks.of(peer),
            "load_seconds": loading[peer],
            **{measure: [each[measure] for each in judged[peer]] for measure in start[0]},
        }  # fmt: skip
    _print_workload(result, list(start[0]))
    return result


def _seed(peer: str, number: int) -> int:
    """Return a seed that no other library has in any round."""
    return 1000 * (1 + [*peers.PEERS, "torch-graph"].index(peer)) + number


def _print_workload(result: dict[str, Any], measures: Sequence[str]) -> None:
    rows = []
    for name, got in sorted(result["peers"].items(), key=lambda item: item[1]["us_per_step"]):
        row = [name, f"{got['us_per_step']:.1f}", _percent(got["spread"]), f"{got['ratio']:.2f}"]
        row += [f"{got['gflops']:.1f}", _percent(got["share_of_peak"])]
        rows.append(row + [f"{statistics.mean(got[measure]):.4f}" for measure in measures])
    print_table(["", "us/step", "spread", "x fastnn", "GFLOP/s", "of peak", *measures], rows)
    others = {name: got["ratio"] for name, got in result["peers"].items() if not name.startswith("fastnn")}
    if others:
        best = min(others, key=lambda name: others[name])
        print(f"  fastnn is {others[best]:.2f} times as fast as the best peer, {best}")
    for problem in result["problems"]:
        print(f"  NOT VALID: {problem}")


def compare_training(options: argparse.Namespace) -> dict[str, Any]:
    """Compare whole epochs of training."""
    with Team(options.peers, options.threads, options.device) as team:
        peaks = Peaks(team, options.threads, options.device)
        peaks.measure()
        rows, epochs = (QUICK_ROWS, 20) if options.quick else (None, None)
        results = [
            compare_workload(name, team, peaks, options.rounds, rows, epochs) for name in options.workloads
        ]  # fmt: skip
        return _finished(team, peaks, training=results)


def _finished(team: Team, peaks: Peaks, **results: Any) -> dict[str, Any]:
    for key, value in peaks.best.items():
        print(f"\npeak of multiply-adds on registers, {key}: {value:.0f} GFLOP/s", end="")
    print()
    return {"versions": team.versions, "failed": team.failures, "peak_gflops": peaks.best, **results}


# Products, updates, functions.


def compare_products(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the three products of dense layers; those below 1 MFLOP inside compiled loops."""
    shapes = options.shapes or (_QUICK_SHAPES if options.quick else _SHAPES)
    results = []
    for dtype in ("float32",) if options.quick else _DTYPES:
        with Team(options.peers, options.threads) as team:
            peaks = Peaks(team, options.threads)
            lines = []
            for shape in shapes:
                for kind in ("forward", "dX", "dW"):
                    answers = team.rounds(options.rounds, tuple(team.workers), "product", _constant(shape, kind, dtype))
                    if "fastnn" not in answers:
                        return {"problems": [f"fastnn failed on {kind} of {shape}"], "failed": team.failures}
                    described = {"shape": shape, "kind": kind, "dtype": dtype}
                    lines.append(_piece(described, answers, 2 * math.prod(shape)))
                for worker in tuple(team.workers):
                    team.ask(worker, "forget")
                peaks.measure()
            print(f"\nmatrix products, {dtype}: us of fastnn, its share of peak, times as long the others take")
            rows = [
                [
                    "x".join(map(str, got["shape"])), got["kind"], f"{1e6 * got['seconds']['fastnn']:.2f}",
                    _percent(got["spread"]["fastnn"]), _percent(got["gflops"]["fastnn"] / peaks.of("fastnn", dtype)),
                    *_ratios(got, options),
                ]
                for got in lines
            ]  # fmt: skip
            print_table(["rows x inputs x units", "product", "us", "spread", "of peak", *_others(options)], rows)
            results += lines
            summary = _finished(team, peaks)
    print("  Products below 1 MFLOP run in a compiled loop; PyTorch's, which has none, from Python.")
    return summary | {"products": results}


def _constant(*arguments: Any) -> Callable[[str, int], tuple[Any, ...]]:
    return lambda peer, number: arguments


def _others(options: argparse.Namespace) -> list[str]:
    return [name for name in options.peers if name != "fastnn"]


def _ratios(got: dict[str, Any], options: argparse.Namespace) -> list[str]:
    return [f"{got['ratio'][name]:.2f}" if name in got["ratio"] else "" for name in _others(options)]


def _piece(described: dict[str, Any], answers: dict[str, list[float]], amount: float) -> dict[str, Any]:
    """Return medians, spreads, rates and the ratios to fastnn of one small comparison."""
    own = answers["fastnn"] if "fastnn" in answers else answers["fastnn-1"]
    medians = {name: statistics.median(values) for name, values in answers.items()}
    return described | {
        "seconds": medians,
        "spread": {name: spread(values) for name, values in answers.items()},
        "gflops": {name: amount / median / 1e9 for name, median in medians.items()},
        "ratio": {
            name: statistics.median(theirs / ours for theirs, ours in zip(values, own, strict=True))
            for name, values in answers.items()
        },
    }


def compare_updates(options: argparse.Namespace) -> dict[str, Any]:
    """Compare optimizer steps on flat float32 vectors, beside a plain loop over the same memory."""
    results, rows = [], []
    with Team(options.peers, options.threads) as team:
        for size in _SIZES[:2] if options.quick else _SIZES:
            for name in cases.UPDATE_NAMES:
                moved = 4.0 * cases.update_case(name, size).moved
                answers: dict[str, list[float]] = {peer: [] for peer in (*team.workers, "plain")}
                for number in range(options.rounds):
                    asked = [(peer, "update", (name, size)) for peer in team.workers]
                    asked.append(("plain", "plain", (cases.streams(name), size)))
                    shift = number % len(asked)
                    for peer, method, arguments in (*asked[shift:], *asked[:shift]):
                        answer = team.ask("fastnn" if peer == "plain" else peer, method, *arguments)
                        if answer is not None:
                            answers[peer].append(answer)
                answers = {peer: got for peer, got in answers.items() if len(got) == options.rounds}
                if "fastnn" not in answers:
                    return {"problems": [f"fastnn failed on {name}"], "failed": team.failures}
                got = _piece({"update": name, "size": size}, answers, moved)
                got["bandwidth"] = got.pop("gflops")
                results.append(got)
                rows.append([
                    name, f"{size:.1e}", f"{1e6 * got['seconds']['fastnn']:.1f}", _percent(got["spread"]["fastnn"]),
                    f"{got['bandwidth']['fastnn']:.1f}", _percent(got["ratio"].get("plain", math.nan)),
                    *_ratios(got, options),
                ])  # fmt: skip
            for worker in tuple(team.workers):
                team.ask(worker, "forget")
        print(
            "\noptimizer steps, float32: us of fastnn; GB/s; its share of the speed of a plain read-modify-write of the"
        )
        print("same bytes; times as long the others take")
        print_table(["", "size", "us", "spread", "GB/s", "of plain", *_others(options)], rows)
        return _finished(team, Peaks(team, options.threads), updates=results)


def compare_functions(options: argparse.Namespace) -> dict[str, Any]:
    """Compare transcendentals on one thread, on a block that stays in cache."""
    elements = peers.FUNCTION_ROWS * peers.FUNCTION_COLUMNS
    results, rows, problems = [], [], []
    with Team(options.peers, options.threads) as team:
        for name in peers.FUNCTIONS:
            answers = team.rounds(options.rounds, tuple(team.workers), "function", _constant(name))
            if "fastnn-1" not in answers:
                return {"problems": [f"fastnn failed on {name}"], "failed": team.failures}
            error = team.ask("fastnn-1", "function_error", name)
            got = _piece({"function": name, "error_ulp": error}, answers, 1.0)
            got["ns_per_element"] = {peer: 1e9 * value / elements for peer, value in got["seconds"].items()}
            del got["gflops"]
            results.append(got)
            if not error <= 8.0:
                problems.append(f"fastnn's {name} is off by {error:.0f} ulp")
            cells = [f"{got['ns_per_element'][peer]:.3f}" if peer in answers else "" for peer in options.peers]
            rows.append([name, *cells, _percent(got["spread"]["fastnn-1"]), f"{error:.1f}"])
        print(
            f"\ntranscendentals, float32, one thread, {elements} elements: ns an element; fastnn's largest error, ulp"
        )
        print_table(["", *options.peers, "spread", "error"], rows)
        print("  fastnn runs in a compiled loop; the others are called from Python, about 1 us a call.")
        return _finished(team, Peaks(team, options.threads), functions=results, problems=problems)


# The command.


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the libraries."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    import llvmlite.binding

    return {
        "cpu": cpu, "llvm_cpu": llvmlite.binding.get_host_cpu_name(), "cores": cases.available_cores(),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "numpy": importlib.metadata.version("numpy"), "numba": importlib.metadata.version("numba"),
    }  # fmt: skip


def plot(results: Sequence[dict[str, Any]], path: str, title: str) -> None:
    """Draw how many times as long as fastnn every library takes for each workload."""
    from matplotlib.figure import Figure

    shown = [result for result in results if result.get("peers")]
    names = [name for name in TRAINERS if any(name in result["peers"] for result in shown) and name != "fastnn"]
    figure = Figure(figsize=(1.5 + 0.85 * len(shown), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(names))
    for position, name in enumerate(names):
        places = [i + (position - (len(names) - 1) / 2) * width for i, r in enumerate(shown) if name in r["peers"]]
        heights = [result["peers"][name]["ratio"] for result in shown if name in result["peers"]]
        bars = axes.bar(places, heights, width, label=name)
        axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=6, rotation=90, padding=2)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(shown)), [result["workload"] for result in shown])
    axes.set_ylabel("time, fastnn = 1")
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, ncols=max(1, len(names)))
    axes.margins(y=0.2)
    figure.savefig(path, dpi=150)


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"got {name!r}, expected one of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


def _shape(text: str) -> list[tuple[int, ...]]:
    shapes = [tuple(map(_count, part.split("x"))) for part in text.split(",")]
    if any(len(shape) != 3 for shape in shapes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected ROWSxINPUTSxUNITS, several separated by commas")
    return shapes


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__.partition("\n\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--products", action="store_true", help="compare matrix products of dense layers")
    mode.add_argument("--updates", action="store_true", help="compare optimizer steps")
    mode.add_argument("--transcendentals", action="store_true", help=f"compare {', '.join(peers.FUNCTIONS)}")
    parser.add_argument(
        "--workloads", metavar="A,B", type=lambda text: _names(text, tuple(cases.ALL_WORKLOADS)),
        help=f"which to train: {', '.join(cases.ALL_WORKLOADS)} (default: all that the device is for)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", metavar="A,B", type=lambda text: _names(text, (*peers.PEERS, "torch-graph")),
        help=f"which to compare, of {', '.join(peers.PEERS)}; fastnn always takes part (default: all installed)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=_count, help="how often each of them runs, at least 2 (default: 7)")
    cores = cases.available_cores()
    parser.add_argument("--threads", type=_count, default=cores, help="threads for each of them (default: all CPUs)")
    parser.add_argument("--shapes", type=_shape, metavar="BxKxN,...", help="layers of --products: rows, inputs, units")
    parser.add_argument("--json", metavar="FILE", help="write all measurements there")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios of the training workloads there")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: shows that it runs, not how fast")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: cpu)")
    parser.add_argument(
        "--matmul-precision", choices=("float32", "tf32", "bf16"), default="float32",
        help="with --device cuda, of everybody's products; fastnn's own kernels stay float32 (default: float32)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    modes = {"products": PRODUCERS, "updates": UPDATERS, "transcendentals": FUNCTIONS, "training": TRAINERS}
    options.mode = next((name for name in modes if getattr(options, name, False)), "training")
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else 7
    if options.rounds < 2:
        parser.error("--rounds: got 1, expected at least 2: one run has no spread, and a loss could not be judged")
    if options.threads > cores:
        parser.error(f"--threads: got {options.threads}, expected at most {cores}")
    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path and not pathlib.Path(path).absolute().parent.is_dir():
            parser.error(f"{name}: got {path}, but there is no folder {pathlib.Path(path).parent}")
    if options.plot and options.mode != "training":
        parser.error("--plot: draws training workloads only")
    if options.matmul_precision != "float32" and options.device == "cpu":
        parser.error(f"--matmul-precision: {options.matmul_precision} takes --device cuda")
    os.environ["FASTNN_BENCHMARK_MATMUL_PRECISION"] = options.matmul_precision  # for the workers
    if options.device == "cuda" and options.mode != "training":
        parser.error("--device: cuda is for training workloads; python -m benchmarks.cuda has products and updates")
    if options.workloads is None:
        options.workloads = list(cases.WORKLOADS) if options.device == "cpu" else list(GPU_WORKLOADS)
    own = "fastnn-1" if options.mode == "transcendentals" else "fastnn"
    if options.peers is None:
        names = modes[options.mode] if options.device == "cpu" else tuple(peers.on("cuda"))
        options.peers = [name for name in names if peers.is_installed(name, options.device)]
    else:
        for name in options.peers:
            if name not in peers.on(options.device):
                parser.error(f"--peers: {name} is not there on {options.device}")
            if not peers.is_installed(name, options.device):
                parser.error(f"--peers: {name} is not installed")
        options.peers = [own, *(name for name in options.peers if name != own)]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return 0, or 1 where the comparison is not valid."""
    options = parse(arguments)
    about = machine()
    cpus = f"{options.threads} of {about['cores']} CPUs"
    print(f"{about['cpu']} ({about['llvm_cpu']}), {cpus}, {about['system']}, {about['date']}")
    if options.quick:
        print("--quick: to see that it runs; its figures mean little")
    compare = {
        "training": compare_training, "products": compare_products, "updates": compare_updates,
        "transcendentals": compare_functions,
    }[options.mode]  # fmt: skip
    begin = time.perf_counter()
    result = {"machine": about, "threads": options.threads, "rounds": options.rounds, "quick": options.quick}
    result["matmul_precision"] = options.matmul_precision
    result |= compare(options)
    result["seconds"] = time.perf_counter() - begin
    problems = list(result.get("problems", ()))
    for workload in result.get("training", ()):
        problems += [f"{workload['workload']}: {problem}" for problem in workload["problems"]]
    result["valid"] = not problems
    versions = ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items() if "-" not in name)
    print(f"{versions}; {result['seconds']:.0f} s")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1, default=float) + "\n")
    if options.plot and not problems:
        plot(result["training"], options.plot, f"{about['cpu']}, {options.threads} threads, {about['date'][:10]}")
    if problems:
        print("\nThis run is NOT VALID:", *problems, sep="\n  ")
        return 1
    print("\nvalid: all libraries learned the same, beyond noise" if options.mode == "training" else "")
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
