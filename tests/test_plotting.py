"""Pictures: what is drawn is what was recorded, readable on light and dark paper, and no picture without matplotlib."""

from __future__ import annotations

import itertools
import math
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_python

import fastnn
from fastnn import History, plotting
from fastnn.diagnostics import GradientFlow
from fastnn.plotting import plot_gradient_flow, plot_history

matplotlib = pytest.importorskip("matplotlib")

NAN = math.nan


def history(**columns):
    result = History()
    for epoch in range(len(columns["loss"])):
        result.append(epoch, {name: column[epoch] for name, column in columns.items()})
    return result


RUN = history(
    loss=[2.0, 1.0, 0.6, 0.4],
    accuracy=[0.3, 0.6, 0.8, 0.9],
    val_loss=[1.8, 1.1, 0.9, 1.0],
    val_accuracy=[0.35, 0.5, 0.7, 0.72],
)


def flow_of(gradients, names=None, **others):
    """A GradientFlow that holds these gradient norms, a row a measurement, without training."""
    flow = GradientFlow()
    layers = len(gradients[0])
    flow.layers = names or [f"layer {i + 1} (Dense, 8 relu)" for i in range(layers)]
    flow.epoch = list(range(len(gradients)))
    flow.history["gradient_norm"] = [list(row) for row in gradients]
    flow.history |= others
    return flow


def lines(axes):
    """The curves with more than two points, or markers: what was measured, not what decorates."""
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def drawn_texts(figure):
    """Every text of a figure, those beside the axes too, which are only there once it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def texts(figure):
    return [text.get_text() for text in drawn_texts(figure)]


# ---------------------------------------------------------------------------------------- learning curves


def test_curves_are_the_history():
    figure = plot_history(RUN)
    loss, accuracy = figure.axes
    for axes, names in ((loss, ("loss", "val_loss")), (accuracy, ("accuracy", "val_accuracy"))):
        drawn = lines(axes)
        assert len(drawn) == 2
        for line, name, label in zip(drawn, names, ("training", "validation"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_array_equal(line.get_ydata(), RUN.history[name])
            assert line.get_label() == label
    assert loss.get_title(loc="left") == "loss"
    assert "80%" in texts(figure)


def test_best_epoch_is_marked():
    loss, accuracy = plot_history(RUN).axes
    assert loss.get_title(loc="right") == "best epoch 3: 0.9"
    assert accuracy.get_title(loc="right") == "best epoch 3: 70.0%"
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for axes in (loss, accuracy) for line in axes.lines[-1:]]
    assert dots == [(3, 0.9), (3, 0.7)]
    other = plot_history(RUN, monitor="val_accuracy").axes[0]
    assert other.get_title(loc="right") == "best epoch 4: 1"


def test_without_validation_the_training_loss_decides():
    (axes,) = plot_history(history(loss=[3.0, 1.0, 2.0])).axes
    assert axes.get_title(loc="right") == "best epoch 2: 1"
    assert axes.get_legend() is None
    assert len(lines(axes)) == 1


def test_r2_has_a_panel_of_its_own():
    _, r2 = plot_history(history(loss=[3.0, 2.0, 1.0], val_loss=[3.0, 1.0, 2.0], val_r2=[0.1, 0.7, 0.6])).axes
    assert r2.get_title(loc="left") == "R²"
    assert r2.get_title(loc="right") == "best epoch 2: 0.7"


def test_nan_is_a_gap_and_never_the_best():
    figure = plot_history(history(loss=[3.0, 2.0, 1.0], val_loss=[NAN, 2.0, 3.0]))
    assert figure.axes[0].get_title(loc="right") == "best epoch 2: 2"
    nothing = plot_history(history(loss=[3.0, 2.0, 1.0], val_loss=[NAN, NAN, NAN]))
    assert nothing.axes[0].get_title(loc="right") == ""


def test_wide_ranges_are_logarithmic():
    assert plot_history(RUN).axes[0].get_yscale() == "linear"
    assert plot_history(history(loss=[30.0, 1.0, 0.5])).axes[0].get_yscale() == "log"
    assert plot_history(history(loss=[30.0, 1.0, 0.0])).axes[0].get_yscale() == "linear"


def test_numbers_beside_a_short_logarithmic_scale_are_plain():
    shown = texts(plot_history(history(loss=[2.0, 0.5, 0.05])))
    assert {"0.1", "0.2", "1"} <= set(shown)


def test_epochs_are_whole_numbers():
    for epochs in (1, 2, 3, 100):
        figure = plot_history(history(loss=np.linspace(2, 1, epochs).tolist()))
        ticks = figure.axes[0].get_xticks()
        assert (ticks == np.round(ticks)).all(), epochs


def test_takes_a_model_a_history_or_columns():
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    model = fastnn.Sequential([fastnn.Dense(2)], "cross_entropy")
    record = model.fit(x, y, epochs=3)
    model.fit(x, y, epochs=1)
    for source in (model, record, record.history):
        drawn = lines(plot_history(source).axes[0])[0]
        np.testing.assert_array_equal(drawn.get_ydata(), record.history["loss"])
        np.testing.assert_array_equal(drawn.get_xdata(), [1, 2, 3, 4])


def test_draws_in_a_figure_that_is_given():
    from matplotlib.figure import Figure

    mine = Figure()
    assert plot_history(RUN, figure=mine, title="mine") is mine
    assert mine.get_suptitle() == "mine"


# -------------------------------------------------------------------------------------------- gradient flow


def test_lines_are_the_recorded_gradients():
    gradients = [[1e-5, 1e-3, 0.1], [2e-5, 3e-3, 0.2], [1e-4, 1e-2, 0.3]]
    names = ["layer 1 (Dense, 8 sigmoid)", "layer 2 (Dense, 8 sigmoid)", "layer 4 (Dense, 3)"]
    figure = plot_gradient_flow(flow_of(gradients, names), title="flow")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    for layer, line in enumerate(lines(axes)):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
        np.testing.assert_array_equal(line.get_ydata(), [row[layer] for row in gradients])
    colours = [line.get_color() for line in lines(axes)]
    assert len(set(colours)) == 3
    labels = {text.get_text(): text.get_color() for text in axes.texts}
    assert labels == dict(zip(names, colours, strict=True))
    assert axes.get_title(loc="left") == "flow"


def test_names_stand_in_the_order_of_the_ends_and_apart():
    axes = plot_gradient_flow(flow_of([[1, 1, 1, 1], [0.5, 0.5001, 0.4999, 1e-4]])).axes[0]
    places = {text.get_text(): text.get_position()[1] for text in axes.texts}
    order = sorted(places, key=places.get)
    assert order == [f"layer {i} (Dense, 8 relu)" for i in (4, 3, 1, 2)]
    assert min(np.diff(sorted(places.values()))) >= 0.06


def test_a_zero_gradient_ends_the_line():
    axes = plot_gradient_flow(flow_of([[0.1, 1.0], [0.01, 1.0], [0.0, 1.0]])).axes[0]
    np.testing.assert_array_equal(lines(axes)[0].get_ydata(), [0.1, 0.01, NAN])
    assert len(axes.texts) == 2, "it keeps its name"
    assert drawn_texts(plot_gradient_flow(flow_of([[0.0, 0.0], [0.0, 0.0]])))


def test_layers_without_weights_are_left_out():
    axes = plot_gradient_flow(flow_of([[1.0, NAN, 2.0]] * 3)).axes[0]
    assert [text.get_text()[:7] for text in axes.texts] == ["layer 1", "layer 3"]


def test_many_layers_get_a_bar_instead_of_names():
    figure = plot_gradient_flow(flow_of([list(range(1, 18))] * 3))
    axes, bar = figure.axes
    assert not axes.texts
    assert len(lines(axes)) == 17
    assert bar.get_ylabel() == "layer"
    assert bar.get_ylim() == (0.5, 17.5)


def test_other_quantities():
    flow = flow_of([[1.0, 2.0]] * 3, dead=[[0.0, 0.5]] * 3, spread=[[1e-6, 1.0]] * 3)
    assert plot_gradient_flow(flow, quantity="spread").axes[0].get_yscale() == "log"
    shares = plot_gradient_flow(flow, quantity="dead")
    assert shares.axes[0].get_yscale() == "linear"
    assert "50%" in texts(shares)
    assert set(plotting._QUANTITIES) == set(GradientFlow().history)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted))
def test_apart(heights):
    gap = 0.06
    places = plotting._apart(heights, gap)
    assert len(places) == len(heights)
    assert all(b - a >= gap - 1e-12 for a, b in itertools.pairwise(places))
    assert min(places) >= -1e-12
    assert max(places) <= 1 + 1e-12
    if all(b - a >= gap for a, b in itertools.pairwise(heights)):
        np.testing.assert_allclose(places, heights, atol=1e-12)


# ------------------------------------------------------------------------------------------ files and papers


@pytest.mark.parametrize("name", ["curve.png", "curve.svg", "curve.pdf", "CURVE.PNG"])
def test_writes_files(tmp_path, name):
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[name[-3:].lower()]
    for draw, record in ((plot_history, RUN), (plot_gradient_flow, flow_of([[1.0, 2.0]] * 3))):
        draw(record, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert content.startswith(magic)
        if magic == b"\x89PNG":
            width, height = struct.unpack(">II", content[16:24])
            assert width > 1000 > height > 400


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_file_has_the_papers_colour(tmp_path, theme):
    from matplotlib.image import imread

    figure = plot_history(RUN, tmp_path / "x.png", theme=theme)
    np.testing.assert_allclose(imread(tmp_path / "x.png")[0, 0], figure.get_facecolor(), atol=1e-6)


def luminance(colour):
    """Relative luminance as WCAG 2.1 has it."""
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_readable_on_the_paper(theme):
    """WCAG: 4.5:1 for text, 3:1 for what must be told apart."""
    assert contrast("white", "black") == pytest.approx(21)
    figure = plot_history(RUN, theme=theme, title="title")
    paper = figure.get_facecolor()
    assert (luminance(paper) > 0.5) == (theme == "light")
    assert len(drawn_texts(figure)) > 15
    for text in drawn_texts(figure):
        assert contrast(text.get_color(), paper) >= 4.5, text
    for axes in figure.axes:
        assert axes.get_facecolor() == paper
        for line in lines(axes):
            assert contrast(line.get_color(), paper) >= 3, line
        train, validation = lines(axes)
        assert contrast(train.get_color(), validation.get_color()) > 1.2
    flow = plot_gradient_flow(flow_of([[1.0, 2.0, 3.0, 4.0]] * 3), theme=theme)
    for text in flow.axes[0].texts:
        assert contrast(text.get_color(), paper) >= 3, text


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(TypeError, match="history: got int, expected what fit returned"):
        plot_history(3)
    with pytest.raises(ValueError, match="history: holds no epoch"):
        plot_history(History())
    with pytest.raises(ValueError, match=r"monitor: got 'val_los', expected one of .* Did you mean 'val_loss'"):
        plot_history(RUN, monitor="val_los")
    with pytest.raises(ValueError, match=r"theme: got 'drak'.*Did you mean 'dark'"):
        plot_history(RUN, theme="drak")
    with pytest.raises(ValueError, match=r"path: got 'x\.jpg', expected a name that ends in \.png, \.svg, \.pdf"):
        plot_history(RUN, "x.jpg")
    with pytest.raises(OSError, match="missing"):
        plot_history(RUN, tmp_path / "missing" / "x.png")
    with pytest.raises(TypeError, match="flow: got History, expected the GradientFlow"):
        plot_gradient_flow(RUN)
    with pytest.raises(ValueError, match="flow: has measured nothing yet"):
        plot_gradient_flow(GradientFlow())
    with pytest.raises(ValueError, match="quantity: got 'gradient', expected one of 'gradient_norm'"):
        plot_gradient_flow(flow_of([[1.0]]), quantity="gradient")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'matplotlib is not installed .*: pip install "fastnn\[plot\]"'):
        plot_history(RUN)


def test_matplotlib_is_loaded_for_a_picture_only_and_pyplot_never():
    script = """
import sys
from fastnn.plotting import plot_history
print("matplotlib" in sys.modules)
plot_history({"loss": [1.0, 0.5]})
print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    assert run_python(script).split() == ["False", "True", "False"]
