"""The figures of the guide, drawn from what fastnn's own kernels and models compute."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import fastnn
from fastnn import kernels

BLUE, ORANGE, GREEN, RED, GREY = "#3b75af", "#ef8636", "#519e3e", "#c53a32", "#8a8a8a"


def _axes(columns: int = 1, height: float = 2.8) -> tuple[Any, list[Any]]:
    figure, axes = plt.subplots(1, columns, figsize=(7.2, height), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd", linewidth=0.6)
    return figure, list(axes[0])


def activations() -> Any:
    """The activations and their slopes, by `activation_forward` and `activation_backward`."""
    figure, (left, right) = _axes(2)
    z = np.linspace(-5, 5, 400)
    for name, colour in (("sigmoid", BLUE), ("tanh", ORANGE), ("relu", GREEN), ("gelu", RED), ("silu", GREY)):
        a, slope = np.empty_like(z), np.empty_like(z)
        kernels.activation_forward(a, z, name)
        kernels.activation_backward(slope, np.ones_like(z), z, a, name)
        left.plot(z, a, color=colour, label=name)
        right.plot(z, slope, color=colour, label=name)
    left.set(title="f(z)", xlabel="z", ylim=(-1.3, 3))
    right.set(title="f'(z)", xlabel="z")
    left.legend(frameon=False, fontsize=8)
    return figure


def vanishing() -> Any:
    """The gradient of each of eight hidden layers before the first step."""
    figure, (axis,) = _axes()
    x, y, *_ = fastnn.load_digits()
    for activation, start, colour in (
        ("sigmoid", "glorot_uniform", BLUE), ("tanh", "glorot_uniform", ORANGE), ("relu", "he_uniform", GREEN),
    ):  # fmt: skip
        hidden = [fastnn.Dense(64, activation, kernel_initializer=start) for _ in range(8)]
        model = fastnn.Sequential(
            [fastnn.Rescale(1 / 16), *hidden, fastnn.Dense(10)], "cross_entropy", seed=0, n_threads=1
        )
        model.build(64)
        _, gradients = model.gradients(x[:512], y[:512])
        sizes = [float(np.sqrt(np.mean(np.square(gradient)))) for gradient in gradients[::2]]
        axis.semilogy(range(1, 10), sizes, "o-", color=colour, label=f"{activation}, {start}")
    axis.set(title="Size of the gradient by layer, before the first step", xlabel="layer", ylabel="root mean square")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _trained(**settings: Any) -> Any:
    x, y, *_ = fastnn.load_digits()
    layers = [fastnn.Rescale(1 / 16), fastnn.Dense(64, "relu"), fastnn.Dense(10)]
    model = fastnn.Sequential(layers, "cross_entropy", fastnn.SGD(0.1), seed=0, n_threads=1, **settings)
    model.fit(x, y, epochs=30, batch_size=32, verbose=False)
    return model


def regularisation() -> Any:
    """The weights of the first layer after training without and with penalties."""
    figure, axes = _axes(3)
    for axis, title, settings in zip(
        axes,
        ("no penalty", "L2: 5e-3", "L1 truncating: 1e-3"),
        ({}, {"l2": 5e-3}, {"l1": 1e-3, "l1_mode": "truncate"}),
        strict=True,
    ):
        weights = _trained(**settings).get_weights()[0].ravel()
        axis.hist(weights, bins=np.linspace(-0.4, 0.4, 61), color=BLUE)
        axis.set(title=f"{title}\n{np.mean(weights == 0):.0%} exactly 0", xlabel="weight", ylim=(0, 700))
    return figure


def dropout() -> Any:
    """Four masks of one layer: another one in every step, the same again for the same seed."""
    figure, axes = _axes(4, 2.0)
    for step, axis in enumerate(axes):
        mask = np.empty((12, 12))
        kernels.dropout_mask(mask, 0.5, 0, step, 0)
        axis.imshow(mask, cmap="Greys_r", vmin=0, vmax=2)
        axis.set(title=f"step {step}", xticks=[], yticks=[])
        axis.grid(visible=False)
    return figure


def optimizers() -> Any:
    """The way of each optimizer down a valley (x^2 / 20 + y^2), by the update kernels."""
    figure, (axis,) = _axes(height=3.4)
    u, v = np.meshgrid(np.linspace(-10, 2, 200), np.linspace(-3, 3, 200))
    axis.contour(u, v, u**2 / 20 + v**2, levels=12, colors="#cccccc", linewidths=0.7)
    for name, colour, step in _steps():
        w = np.array([-9.0, 2.5])
        path = [w.copy()]
        for t in range(1, 61):
            step(w, np.array([w[0] / 10, 2 * w[1]]), t)
            path.append(w.copy())
        axis.plot(*np.array(path).T, ".-", color=colour, label=name, markersize=3, linewidth=1)
    axis.set(title="60 steps from (-9, 2.5) down $x^2/20 + y^2$", xlabel="x", ylabel="y")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _steps() -> list[tuple[str, str, Callable[[Any, Any, int], None]]]:
    state = {name: np.zeros(2) for name in ("u", "g2", "v", "m", "mv")}
    return [
        ("SGD, 0.1", GREY, lambda w, g, t: kernels.sgd_update(w, None, g, 0.1)),
        ("momentum, 0.1", BLUE, lambda w, g, t: kernels.sgd_update(w, state["u"], g, 0.1, 0.8, False, t)),
        ("AdaGrad, 2", GREEN, lambda w, g, t: kernels.adagrad_update(w, state["g2"], g, 2.0, 1e-10)),
        ("RMSprop, 0.2", ORANGE, lambda w, g, t: kernels.rmsprop_update(w, state["v"], None, None, g, 0.2, 0.9, 1e-8)),
        (
            "Adam, 0.5",
            RED,
            lambda w, g, t: kernels.adam_update(w, state["m"], state["mv"], g, 0.5, 0.9, 0.999, 1e-8, t),
        ),
    ]


def schedules() -> Any:
    """The learning rate over forty epochs, as each schedule has it."""
    figure, (axis,) = _axes()
    steps = np.arange(4000)
    for name, schedule, colour in (
        ("StepDecay(1, 0.5, every=10)", fastnn.StepDecay(1.0, 0.5, every=10), BLUE),
        ("Exponential(1, 0.9)", fastnn.Exponential(1.0, 0.9), ORANGE),
        ("InverseTime(1, 0.2)", fastnn.InverseTime(1.0, 0.2), GREEN),
        ("Warmup(Cosine(1, 40), 500 steps)", fastnn.Warmup(fastnn.Cosine(1.0, 40), steps=500), RED),
    ):
        rates = [schedule.rate(int(step), int(step) // 100) for step in steps]
        axis.plot(steps / 100, rates, color=colour, label=name)
    axis.set(title="Learning rate, 100 steps an epoch", xlabel="epoch", ylabel="rate")
    axis.legend(frameon=False, fontsize=8)
    return figure


FIGURES = (activations, vanishing, regularisation, dropout, optimizers, schedules)


def make(folder: pathlib.Path) -> None:
    """Draw every figure that is not in the folder yet."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        path = folder / f"{draw.__name__}.png"
        if not path.exists():
            figure = draw()
            figure.savefig(path, dpi=150)
            plt.close(figure)
