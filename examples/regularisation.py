"""L1, L2 and both on real handwritten digits: what they do to the weights, and what that costs in accuracy.

The penalty, alpha sum |W| + beta/2 sum W^2 over the weights (biases are free), is added to the mean loss. As a part of
the gradient, L1 pulls weights towards 0 but never onto it; truncating L1 cuts each weight by rate x alpha after the
step and stops at 0, which leaves exact zeros: the "truncation" that the survey speaks of.

    python examples/regularisation.py [folder for the picture]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import fastnn

EPOCHS, RATE = 100, 0.2
TINY = 1e-3
FLOOR = 1e-10  # of the picture


@dataclass
class Trial:
    """One penalty, and what came of it; each number is the mean over the seeds."""

    name: str
    l1: float = 0.0
    l2: float = 0.0
    mode: str = "gradient"
    test: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)

    def run(self, seed: int) -> None:
        """Train a 64-128-64-10 network on the digits."""
        x, y, x_test, y_test = fastnn.load_digits()
        model = fastnn.Sequential(
            [fastnn.Rescale(1 / 16), fastnn.Dense(128, "relu"), fastnn.Dense(64, "relu"), fastnn.Dense(10)],
            "cross_entropy",
            fastnn.SGD(fastnn.Cosine(RATE, steps=EPOCHS)),
            l1=self.l1,
            l2=self.l2,
            l1_mode=self.mode,
            seed=seed,
            n_threads=1,  # layers as small as these gain nothing from a second one
        )
        model.fit(x, y, epochs=EPOCHS)
        self.test.append(model.evaluate(x_test, y_test)["accuracy"])
        self.train.append(model.evaluate(x, y)["accuracy"])
        matrices = [array for array in model.get_weights() if array.ndim == 2]
        self.weights.append(np.abs(np.concatenate([matrix.ravel() for matrix in matrices])))

    @property
    def accuracy(self) -> float:
        """On the held-out rows."""
        return float(np.mean(self.test))

    @property
    def zeros(self) -> float:
        """Share of weights that are exactly 0."""
        return float(np.mean([(weights == 0).mean() for weights in self.weights]))

    @property
    def tiny(self) -> float:
        """Share of weights below `TINY`."""
        return float(np.mean([(weights < TINY).mean() for weights in self.weights]))

    @property
    def sum_abs(self) -> float:
        """sum |W|."""
        return float(np.mean([weights.sum() for weights in self.weights]))

    @property
    def sum_squares(self) -> float:
        """sum W^2."""
        return float(np.mean([(weights.astype(np.float64) ** 2).sum() for weights in self.weights]))


def trials() -> list[Trial]:
    """No penalty, each alone, both, and both ways of L1."""
    return [
        Trial("none"),
        Trial("L2", l2=3e-3),
        Trial("L1", l1=1e-3),
        Trial("L1 and L2", l1=1e-3, l2=1e-3),
        Trial("L1, truncating", l1=1e-3, mode="truncate"),
        Trial("L1, truncating, and L2", l1=1e-3, l2=1e-3, mode="truncate"),
    ]


def claims(table: list[Trial]) -> dict[str, bool]:
    """What the table is to show, and whether it does."""
    none, l2, l1, both, cut, cut_both = table
    return {
        "L2 makes the weights small, less than half of the squares are left, but none 0": (
            l2.sum_squares < 0.5 * none.sum_squares and l2.zeros < 0.001
        ),
        f"L1 in the gradient brings most weights below {TINY:g}, but none to 0": l1.tiny > 0.5 and l1.zeros < 0.001,
        "truncating L1 sets most weights to exactly 0, at the same sum |W|": (
            min(cut.zeros, cut_both.zeros) > 0.5 and abs(cut.sum_abs / l1.sum_abs - 1) < 0.1
        ),
        "both together give smaller weights than either alone": (
            both.sum_abs < min(l1.sum_abs, l2.sum_abs) and both.sum_squares < min(l1.sum_squares, l2.sum_squares)
        ),
        "none of it costs more than two points of test accuracy here": all(
            trial.accuracy > none.accuracy - 0.02 for trial in table
        ),
    }


def draw(table: list[Trial], path: Path) -> str:
    """Draw the weights of the first seed by size."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError:
        return 'matplotlib is not installed, so there is no picture: pip install "fastnn[plot]"'
    ink, soft, grid = "#1f2328", "#656d76", "#e4e7eb"
    shown = {"none": soft, "L2": "#6f42c1", "L1": "#1d5fa8", "L1, truncating": "#c2410c"}
    figure = Figure(figsize=(7.6, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for trial in table:
        if trial.name not in shown:
            continue
        colour = shown[trial.name]
        ordered = np.sort(trial.weights[0])[::-1].astype(np.float64)
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        there = ordered > 0
        axes.plot(share[there], ordered[there], color=colour, linewidth=1.8)
        end = share[there][-1]
        if end > 0.99:
            place, height, text = 0.5, (0.1 if trial.l2 else 1.7) * ordered[len(ordered) // 2], trial.name
        else:
            axes.plot([end, end], [ordered[there][-1], FLOOR], color=colour, linewidth=1.0, linestyle=(0, (2, 3)))
            place, height, text = end + 0.02, 4 * FLOOR, f"{trial.name}: the other {1 - end:.0%} are exactly 0"
        axes.annotate(text, (place, height), color=colour, va="bottom")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 3)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("weights, largest first", color=soft)
    axes.set_title("size of the weights after training, |W|", loc="left", fontsize=11, color=ink)
    axes.grid(axis="y", color=grid, linewidth=0.8)
    axes.tick_params(which="both", colors=soft, length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=160)
    return f"wrote {path}"


def main(folder: Path = Path(), seeds: int = 3) -> int:
    """Train, print and draw; returns 1 if a claim does not hold."""
    print(f"64-128-64-10 on the digits, {EPOCHS} epochs of SGD from rate {RATE:g}; means of {seeds} seeds\n")
    print(
        f"{'penalty':<24}{'L1':>8}{'L2':>8}{'test':>9}{'training':>10}{'zeros':>9}"
        f"{f'below {TINY:g}':>14}{'sum |W|':>10}{'sum W^2':>10}"
    )
    table = trials()
    for trial in table:
        for seed in range(seeds):
            trial.run(seed)
        print(
            f"{trial.name:<24}{trial.l1:>8g}{trial.l2:>8g}{trial.accuracy:>9.1%}{np.mean(trial.train):>10.1%}"
            f"{trial.zeros:>9.1%}{trial.tiny:>14.1%}{trial.sum_abs:>10.0f}{trial.sum_squares:>10.0f}",
            flush=True,
        )
    print("\nwhat this shows:")
    results = claims(table)
    for claim, holds in results.items():
        print(f"  {'yes' if holds else 'NO '}  {claim}")
    print(draw(table, folder / "regularisation.png"))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path()))
