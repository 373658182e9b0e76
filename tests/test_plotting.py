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
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
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
    nothing = plot_history(history(loss=[3.0, 2.0, 1.0], val_loss=[NAN] * 3, val_accuracy=[0.5, 0.6, 0.7]))
    assert [axes.get_title(loc="right") for axes in nothing.axes] == ["", ""]


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


@pytest.mark.parametrize(
    "gradients",
    [
        [[0.1, 1.0], [0.01, 1.0], [0.0, 1.0]],
        [[0.1, 1.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 5e-324], [0.0, 0.0]],
        [[0.0, 1.0]],
    ],
)
def test_a_gradient_of_zero_is_drawn_at_zero(gradients):
    """Dead layers are what the picture is to show."""
    figure = plot_gradient_flow(flow_of(gradients))
    assert drawn_texts(figure)
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == axes.get_yticks()[0] == 0
    for layer, line in enumerate(lines(axes)):
        np.testing.assert_array_equal(line.get_ydata(), [row[layer] for row in gradients])
    places = {text.get_text(): text.xy[1] for text in axes.texts}
    assert [place == 0 for place in places.values()] == [end == 0 for end in sorted(gradients[-1])], "each has its name"


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
    assert set(plotting.flow._QUANTITIES) == set(GradientFlow().history)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted))
def test_apart(heights):
    gap = 0.06
    places = plotting.flow._apart(heights, gap)
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


def test_a_notebook_shows_the_picture(tmp_path):
    from matplotlib.image import imread

    (tmp_path / "x.png").write_bytes(plot_history(RUN, theme="dark")._repr_png_())
    pixels = imread(tmp_path / "x.png")
    assert pixels.shape[1] > 500
    np.testing.assert_allclose(pixels[0, 0, :3], matplotlib.colors.to_rgb("#0d1117"), atol=1e-6)


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


# ------------------------------------------------------------------------------------ where training stopped


def stopped(best, end, **stop):
    """A history of `end` epochs that early stopping ended, having liked number `best` (from 1) the most."""
    losses = [abs(best - epoch) + 1.0 for epoch in range(1, end + 1)]
    record = history(loss=losses, val_loss=losses, val_accuracy=[0.5] * end)
    record.add_stop(**{"epoch": end - 1, "best_epoch": best - 1, "monitor": "val_loss", "restored": True, **stop})
    return record


def shades(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def test_the_decision_of_early_stopping_is_marked():
    loss, accuracy = plot_history(stopped(3, 6)).axes
    assert loss.get_title(loc="right") == "stopped after 6, back to epoch 3: 1"
    assert accuracy.get_title(loc="right") == "stopped after 6, back to epoch 3: 50.0%"
    assert shades(loss) == shades(accuracy) == [(3, 6)]
    kept = plot_history(stopped(3, 6, restored=False)).axes[0]
    assert kept.get_title(loc="right") == "stopped after 6, best epoch 3: 1"
    assert shades(plot_history(RUN).axes[0]) == []


def test_the_mark_is_where_early_stopping_saw_the_best():
    """With a least change that counts it is not the lowest point."""
    assert "epoch 2:" in plot_history(stopped(3, 6, best_epoch=1)).axes[0].get_title(loc="right")
    watched = stopped(3, 6, monitor="val_accuracy", best_epoch=4)
    assert "stopped after 6, back to epoch 5: " in plot_history(watched).axes[0].get_title(loc="right")
    other = plot_history(watched, monitor="loss").axes[0]
    assert other.get_title(loc="right") == "best epoch 3: 1"
    assert shades(other) == [(5, 6)]
    training = history(loss=[2.0, 1.0, 2.0])
    training.add_stop(2, 1, "val_loss", True)
    assert plot_history(training).axes[0].get_title(loc="right") == "stopped after 3, back to epoch 2: 1"


def test_training_that_goes_on_after_a_stop_is_judged_as_a_whole():
    record = stopped(3, 6)
    record.append(6, {"loss": 0.5, "val_loss": 0.25})
    axes = plot_history(record).axes[0]
    assert axes.get_title(loc="right") == "best epoch 7: 0.25"
    assert shades(axes) == [(3, 6)]


def test_early_stopping_leaves_its_decision_in_the_history(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    model = fastnn.Sequential([fastnn.Dense(2)], "cross_entropy")
    stopping = fastnn.EarlyStopping(monitor="loss", patience=2, min_delta=100.0, restore_best_weights=False)
    record = model.fit(x, y, epochs=9, callbacks=[stopping])
    assert record.stops == [{"epoch": 2, "best_epoch": 0, "monitor": "loss", "restored": False}]
    figure = record.plot(tmp_path / "x.svg", theme="dark", title="mine")
    assert figure.axes[0].get_title(loc="right").startswith("stopped after 3, best epoch 1: ")
    assert (figure.get_suptitle(), (tmp_path / "x.svg").exists()) == ("mine", True)
    assert shades(plot_history(model).axes[0]) == [(1, 3)]
    model.save(tmp_path / "m.safetensors")
    assert fastnn.load(tmp_path / "m.safetensors").history.stops == record.stops
    assert fastnn.History.from_dict({"epoch": [], "history": {}}).stops == []
    record.truncate(2)
    assert record.stops == []


# -------------------------------------------------------------------------------- inside a network, its errors


def network(**settings):
    """A network with a layer of each kind, and weights in known places."""
    layers = [fastnn.Dense(30, "relu"), fastnn.Dropout(0.5), fastnn.Activation("tanh"), fastnn.Dense(2, "softmax")]
    return fastnn.Sequential(layers, "cross_entropy", input_size=4, **settings)


def bars(axes):
    """(share of each bar, edges) of a histogram."""
    (patch,) = axes.patches
    data = patch.get_data()
    return data.values, data.edges


def test_weights_are_the_histogram():
    model = network(dtype="float64")
    w, b, w2, b2 = model.get_weights()
    w.flat[:] = np.linspace(-1, 1, w.size)
    w.flat[:30] = 0.0
    w2[:] = 0.25
    model.set_weights([w, b + 7, w2, b2])
    figure = plotting.plot_weights(model, title="weights")
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer 0 (Dense, 30 relu)", "layer 3 (Dense, 2)"]
    shares, edges = bars(first)
    want, places = np.histogram(w[w != 0], len(shares), (w.min(), w.max()))
    np.testing.assert_allclose(shares, want / w.size)
    np.testing.assert_allclose(edges, places)
    assert shares.sum() == pytest.approx(0.75)
    assert first.get_xlabel() == f"weight: mean {w.mean():.2g}, std {w.std():.2g}, 25% are 0"
    shares, edges = bars(second)
    assert (shares[-1], edges[0], edges[-1]) == (1.0, 0.0, 0.25)
    assert second.get_xlabel() == "weight: mean 0.25, std 0"
    assert figure.get_suptitle() == "weights"


def test_what_is_not_finite_is_said():
    model = network()
    model.parameters_vector()[:3] = NAN, math.inf, 1.0
    assert plotting.plot_weights(model).axes[0].get_xlabel().endswith(", 2% are not finite")
    model.parameters_vector()[:] = NAN
    assert plotting.plot_weights(model).axes[0].get_xlabel() == "weight: 100% are not finite"


def test_activations_are_the_histogram():
    model = network(dtype="float64")
    x = np.random.default_rng(1).normal(size=(500, 4))
    figure = plotting.plot_activations(model, x, rows=500)
    names = ["layer 0 (Dense, 30 relu)", "layer 2 (Activation, 30 tanh)", "layer 3 (Dense, 2)"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == names
    hidden = np.maximum(x @ model.get_weights()[0], 0)
    for axes, values in zip(figure.axes, (hidden, np.tanh(hidden)), strict=False):
        shares, edges = bars(axes)
        want, _ = np.histogram(values[values != 0], edges)
        np.testing.assert_allclose(shares, want / values.size, atol=2 / values.size)
        assert axes.get_xlabel().endswith(f"{(values == 0).mean():.0%} are 0")


def test_layer_outputs_are_what_the_layers_make():
    model = network(dtype="float64")
    x = np.random.default_rng(1).normal(size=(7, 4))
    hidden, tanh, outputs = model.layer_outputs(x).values()
    w, b, _, b2 = model.get_weights()
    np.testing.assert_allclose(hidden, np.maximum(x @ w + b, 0), atol=1e-14)
    np.testing.assert_allclose(tanh, np.tanh(hidden), atol=1e-14)
    np.testing.assert_allclose(outputs, model.predict(x), atol=1e-14)
    logits = fastnn.Sequential([fastnn.Dense(2)], "cross_entropy", input_size=4, dtype="float64")
    logits.set_weights([w[:, :2], b2])
    (outputs,) = logits.layer_outputs(x).values()
    np.testing.assert_allclose(outputs, x @ w[:, :2] + b2, atol=1e-14)
    joined = fastnn.Sequential([fastnn.Dense(2), fastnn.Activation("tanh")], "huber", input_size=4, dtype="float64")
    assert list(joined.layer_outputs(x)) == ["layer 0 (Dense, 2 tanh)"]
    curved = fastnn.Sequential([fastnn.Dense(2, "gelu")], "squared_error", input_size=4)  # keeps z as well
    np.testing.assert_array_equal(*curved.layer_outputs(x).values(), curved.predict(x))
    some = model.layer_outputs(x, rows=3)["layer 0 (Dense, 30 relu)"]
    np.testing.assert_allclose(some, hidden[[0, 3, 6]], atol=1e-14)
    rescaled = fastnn.Sequential([fastnn.Rescale(0.5), fastnn.Dense(2)], "squared_error", input_size=4)
    bytes_ = np.arange(20, dtype=np.uint8).reshape(5, 4)
    (values,) = rescaled.layer_outputs(bytes_, rows=9).values()
    np.testing.assert_array_equal(values, rescaled.predict(bytes_))


def test_confusions_are_counted():
    figure = plotting.plot_confusion_matrix([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 0, 2], title="digits")
    (axes,) = figure.axes
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "2", (0, 1): "1", (1, 1): "1", (2, 0): "1", (2, 2): "1"}
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0.5, 0, 0.5]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_title(loc="right") == "accuracy 66.7%"
    assert figure.get_suptitle() == "digits"


def test_confusions_as_shares_and_of_words():
    def cells(normalize):
        figure = plotting.plot_confusion_matrix(["b", "a", "b", "b"], ["b", "b", "a", "a"], normalize=normalize)
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b"]
        return [text.get_text() for text in figure.axes[0].texts]

    assert cells("true") == ["100%", "67%", "33%"]
    assert cells("pred") == ["50%", "100%", "50%"]
    assert cells("all") == ["25%", "50%", "25%"]
    named = plotting.plot_confusion_matrix([0, 2], [0, 2], labels=["zero", "one", "two", "three"]).axes[0]
    assert [label.get_text() for label in named.get_yticklabels()] == ["zero", "one", "two", "three"]
    np.testing.assert_array_equal(np.diag(named.images[0].get_array()), [1, 0, 1, 0])
    present = plotting.plot_confusion_matrix([5, 9], [9, 9], labels=["five", "nine"]).axes[0]
    assert [label.get_text() for label in present.get_yticklabels()] == ["five", "nine"]


def test_many_classes_are_a_picture_without_numbers():
    axes = plotting.plot_confusion_matrix(np.arange(60), np.arange(60)).axes[0]
    assert not axes.texts
    assert len(axes.get_xticks()) < 15


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_other_pictures_are_readable_too(theme, tmp_path):
    model = network()
    pictures = (
        plotting.plot_weights(model, tmp_path / "w.png", theme=theme, title="title"),
        plotting.plot_activations(model, np.ones((5, 4)), tmp_path / "a.svg", theme=theme, title="title"),
        plotting.plot_confusion_matrix([0, 1], [0, 0], tmp_path / "c.png", theme=theme, title="title"),
        plot_history(stopped(3, 6), theme=theme, title="title"),
    )
    assert len(list(tmp_path.iterdir())) == 3
    for figure in pictures:
        paper = figure.get_facecolor()
        assert (luminance(paper) > 0.5) == (theme == "light")
        beside = [text for text in drawn_texts(figure) if not any(text in axes.texts for axes in figure.axes)]
        assert len(beside) > 5
        for text in beside:
            assert contrast(text.get_color(), paper) >= 4.5, text
        for axes in figure.axes:
            assert axes.get_facecolor() == paper
            for patch in axes.patches:
                if hasattr(patch, "get_data"):
                    assert contrast(patch.get_facecolor(), paper) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_in_cells_are_readable(theme):
    """Cells of every shade from empty to full."""
    true, predicted = [], []
    for row in range(20):
        true += [row] * 19
        predicted += [row] * row + [(row + 1) % 20] * (19 - row)
    axes = plotting.plot_confusion_matrix(true, predicted, theme=theme).axes[0]
    image = axes.images[0]
    shades_seen = set()
    for text in axes.texts:
        column, row = map(int, text.get_position())
        share = image.get_array()[row, column]
        shades_seen.add(round(float(share), 3))
        assert contrast(text.get_color(), image.to_rgba(share)) >= 4.5, share
    assert len(shades_seen) == 19


def test_bad_input_of_the_other_pictures_is_refused():
    model = network()
    for draw in (
        plotting.plot_weights,
        lambda model, **settings: plotting.plot_activations(model, [[1.0] * 4], **settings),
    ):
        with pytest.raises(ValueError, match="model: has no weights yet"):
            draw(fastnn.Sequential([fastnn.Dense(2)], "squared_error"))
        with pytest.raises(ValueError, match=r"model: got no layer with .* of its own"):
            draw(fastnn.Sequential([fastnn.Dropout(0.5)], "squared_error", input_size=4))
        with pytest.raises(ValueError, match="theme: got 'drak'"):
            draw(model, theme="drak")
        with pytest.raises(ValueError, match=r"path: got 'x\.jpg'"):
            draw(model, path="x.jpg")
    with pytest.raises(ValueError, match="rows: got 0, expected an integer >= 1"):
        plotting.plot_activations(model, np.ones((5, 4)), rows=0)
    for arguments, message in (
        (([0], [0, 1]), "y_pred: got 2 rows, expected the 1 of y_true"),
        (([[0, 1]], [0]), r"y_true: got shape \(1, 2\), expected one class a row"),
        (([0], []), r"y_pred: got shape \(0,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.plot_confusion_matrix(*arguments)
    with pytest.raises(ValueError, match="labels: got 1, expected one for each of the 2 classes"):
        plotting.plot_confusion_matrix([0, 1], [0, 1], labels=["one"])
    with pytest.raises(ValueError, match=r"normalize: got 'rows', expected one of 'true', 'pred', 'all'"):
        plotting.plot_confusion_matrix([0, 1], [0, 1], normalize="rows")


def test_a_dollar_sign_is_a_dollar_sign(tmp_path):
    title = "us$_sales_$"
    classes = np.array(["$a_$b", "c$x$"])
    drawn = [
        plot_history(RUN, tmp_path / "h.png", title=title),
        plot_gradient_flow(flow_of([[1.0, 2.0]]), tmp_path / "g.png", title=title),
        plotting.plot_weights(network(), tmp_path / "w.png", title=title),
        plotting.plot_confusion_matrix(classes, classes, tmp_path / "c.png", title=title),
    ]
    assert all(title in texts(figure) for figure in drawn)
    assert set(classes) <= set(texts(drawn[-1]))
