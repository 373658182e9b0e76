"""Why deep networks would not learn, and what each remedy does: eight hidden layers on real handwritten digits.

Sigmoid against ReLU, starting weights that are too small, right and too large, with and without warm-up and clipping.
Each row of the table is trained from several seeds; `GradientFlow` says in words what is wrong before the first step.

    python examples/vanishing_gradients.py [folder for the picture]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import fastnn
from fastnn.diagnostics import GradientFlow

DEPTH, WIDTH, EPOCHS = 8, 64, 20
RATE, WARMUP_STEPS, CLIP_NORM = 0.02, 500, 1.0


@dataclass
class Trial:
    """One way to set up the network, and what came of it."""

    name: str
    activation: str
    start: str
    gain: float = 1.0
    warmup: bool = False
    clip: bool = False
    accuracies: list[float] = field(default_factory=list)
    diverged: int = 0
    flow: GradientFlow = field(default_factory=GradientFlow)

    def run(self, seed: int) -> None:
        """Train on the digits; a run that diverges counts with the weights of its last good epoch."""
        x, y, x_test, y_test = fastnn.load_digits()
        start = fastnn.Initializer(self.start, self.gain)
        hidden = [fastnn.Dense(WIDTH, self.activation, kernel_initializer=start) for _ in range(DEPTH)]
        rate = fastnn.Warmup(RATE, steps=WARMUP_STEPS) if self.warmup else RATE
        model = fastnn.Sequential(
            [fastnn.Rescale(1 / 16), *hidden, fastnn.Dense(10)],
            "cross_entropy",
            fastnn.SGD(rate, momentum=0.9, clip_norm=CLIP_NORM if self.clip else None),
            seed=seed,
            n_threads=1,  # layers as small as these gain nothing from a second one
        )
        flow = GradientFlow()
        try:
            model.fit(x, y, epochs=EPOCHS, callbacks=[flow])
        except fastnn.TrainingDiverged:
            self.diverged += 1
        self.accuracies.append(model.evaluate(x_test, y_test)["accuracy"])
        if seed == 0:
            self.flow = flow

    @property
    def gradients(self) -> np.ndarray:
        """Root mean square of the gradient, layer by layer, before the first step."""
        return np.array(self.flow.history["gradient_rms"][0])

    @property
    def worst(self) -> float:
        """Accuracy of the worst seed."""
        return min(self.accuracies)

    @property
    def median(self) -> float:
        """Accuracy of the median seed."""
        return float(np.median(self.accuracies))


def trials() -> dict[str, Trial]:
    """All set-ups, by name."""
    glorot, he = "glorot_uniform", "he_uniform"
    return {
        trial.name: trial
        for trial in (
            Trial("sigmoid", "sigmoid", glorot),
            Trial("sigmoid, warm-up", "sigmoid", glorot, warmup=True),
            Trial("sigmoid, clipping", "sigmoid", glorot, clip=True),
            Trial("sigmoid, 4 x Glorot", "sigmoid", glorot, gain=4.0),  # 4, as sigmoid's slope is 1/4 at most
            Trial("tanh", "tanh", glorot),
            Trial("ReLU", "relu", he),
            Trial("ReLU, weights of 0.01", "relu", "normal"),
            Trial("ReLU, 1.7 x He", "relu", he, gain=1.7),
            Trial("ReLU, 1.7 x He, warm-up", "relu", he, gain=1.7, warmup=True),
            Trial("ReLU, 2 x He", "relu", he, gain=2.0),
            Trial("ReLU, 2 x He, clipping", "relu", he, gain=2.0, clip=True),
        )
    }


def claims(t: dict[str, Trial], seeds: int) -> dict[str, bool]:
    """What the table is to show, and whether it does."""
    sigmoid = [t[name] for name in ("sigmoid", "sigmoid, warm-up", "sigmoid, clipping")]
    plain, warmed = t["ReLU, 1.7 x He"], t["ReLU, 1.7 x He, warm-up"]
    wild, clipped = t["ReLU, 2 x He"], t["ReLU, 2 x He, clipping"]
    return {
        "through eight sigmoid layers the gradient vanishes, and nothing is learned": all(
            0 in trial.flow.problems(0).get("vanishing", []) and max(trial.accuracies) < 0.3 for trial in sigmoid
        ),
        "neither warm-up nor clipping helps there; four times Glorot's weights do": (
            "vanishing" not in t["sigmoid, 4 x Glorot"].flow.problems(0) and t["sigmoid, 4 x Glorot"].worst > 0.6
        ),
        "ReLU with He's weights, and tanh with Glorot's, are healthy and learn": all(
            not t[name].flow.problems(0) and t[name].median > 0.9 for name in ("ReLU", "tanh")
        ),
        "from weights that are too small no signal arrives, with ReLU either": (
            "silent" in t["ReLU, weights of 0.01"].flow.problems(0) and t["ReLU, weights of 0.01"].worst < 0.3
        ),
        "from weights 1.7 times too large most runs fail, and with warm-up most succeed": (
            plain.median < 0.5 and warmed.median > 0.6
        ),
        "from weights 2 times too large, it explodes at the first steps, and clipping stops that": (
            "exploding" in wild.flow.problems(0) and 2 * wild.diverged > seeds and clipped.worst > 0.75
        ),
    }


def draw(t: dict[str, Trial], path: Path) -> str:
    """Draw the gradients before the first step, and the accuracies."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError:
        return 'matplotlib is not installed, so there is no picture: pip install "fastnn[plot]"'
    ink, soft, grid = "#1f2328", "#656d76", "#e4e7eb"
    colours = {"sigmoid": "#c2410c", "tanh": "#6f42c1", "relu": "#1d5fa8"}
    styles = {"sigmoid, 4 x Glorot": "--", "ReLU, weights of 0.01": "--", "ReLU, 2 x He": ":"}
    figure = Figure(figsize=(10.5, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))

    labels = []
    for name, style in {"sigmoid": "-", "tanh": "-", "ReLU": "-", **styles}.items():
        trial = t[name]
        layers = np.arange(1, DEPTH + 2)
        colour = colours[trial.activation]
        left.plot(layers, trial.gradients, style, color=colour, linewidth=1.8, marker="o", markersize=3.5)
        labels.append([float(np.log10(trial.gradients[0])), name, colour, trial.gradients[0]])
    labels.sort()
    for i in range(1, len(labels)):  # names that would overlap are moved up
        labels[i][0] = max(labels[i][0], labels[i - 1][0] + 0.55)
    for height, name, colour, first in labels:
        left.annotate(
            name,
            (1, first),
            xytext=(0.55, 10**height),
            ha="right",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (1, 0.5), "shrinkA": 0},
        )
    left.set_yscale("log")
    left.yaxis.tick_right()
    left.set_xlim(0.7, DEPTH + 1.3)
    left.set_xticks(range(1, DEPTH + 2), [*map(str, range(1, DEPTH + 1)), "out"])
    left.set_xlabel("layer", color=soft)
    left.set_title("gradient before the first step (root mean square)", loc="left", fontsize=11, color=ink)

    rows = list(t.values())[::-1]
    for place, trial in enumerate(rows):
        colour = colours[trial.activation]
        right.plot([trial.worst, max(trial.accuracies)], [place, place], color=colour, linewidth=1.2, alpha=0.5)
        right.plot(trial.accuracies, [place] * len(trial.accuracies), "o", color=colour, markersize=4, alpha=0.6)
        right.plot([trial.median], [place], "|", color=colour, markersize=14, markeredgewidth=2.2)
    right.set_yticks(range(len(rows)), [trial.name for trial in rows])
    right.set_xlim(0.0, 1.02)
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_title(f"test accuracy after {EPOCHS} epochs, each seed", loc="left", fontsize=11, color=ink)
    for axes in (left, right):
        axes.grid(axis="both" if axes is right else "y", color=grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=soft, length=0)
        axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=160)
    return f"wrote {path}"


def main(folder: Path = Path(), seeds: int = 5) -> int:
    """Train, print and draw; returns 1 if a claim does not hold."""
    print(
        f"{DEPTH} hidden layers of {WIDTH} units, digits, {EPOCHS} epochs of SGD with rate {RATE:g} and momentum 0.9;"
    )
    print(f"{seeds} seeds each; |g| is the root mean square of a layer's gradient before the first step\n")
    print(f"{'':<26}{'|g| first / |g| last':>21}{'worst':>9}{'median':>9}{'diverged':>10}")
    table = trials()
    for trial in table.values():
        for seed in range(seeds):
            trial.run(seed)
        ratio = trial.gradients[0] / trial.gradients[-1]
        print(f"{trial.name:<26}{ratio:>21.1e}{trial.worst:>9.1%}{trial.median:>9.1%}{trial.diverged:>10}", flush=True)
    print("\nthe diagnosis before the first step:")
    for name in ("sigmoid", "ReLU", "ReLU, weights of 0.01", "ReLU, 2 x He"):
        sentences = table[name].flow.diagnosis(0) or ["Healthy."]
        print(f"  {name}")
        print("\n".join(f"    {sentence}" for sentence in sentences))
    print("\nwhat this shows:")
    results = claims(table, seeds)
    for claim, holds in results.items():
        print(f"  {'yes' if holds else 'NO '}  {claim}")
    print(draw(table, folder / "vanishing_gradients.png"))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path()))
