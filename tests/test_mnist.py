"""The main job on MNIST: 784-256-128-10 reaches 98% test accuracy within 10 epochs."""

from __future__ import annotations

import os
import pathlib

import pytest

import fastnn
from fastnn import Dense, Dropout, Rescale, Sequential

DIRECTORY = pathlib.Path(
    os.environ.get("FASTNN_MNIST_DIR") or pathlib.Path(__file__).parents[2] / "shared" / "data" / "mnist"
)


@pytest.fixture(scope="module")
def mnist():
    if not any(DIRECTORY.glob("train-images*")):
        pytest.skip(f"MNIST is not in {DIRECTORY}; set FASTNN_MNIST_DIR to where its four IDX files lie")
    return fastnn.load_idx_dir(DIRECTORY)


@pytest.mark.slow
def test_98_percent_within_10_epochs(mnist):
    """Bytes as they are in the files; the test rows are looked at once, in the end."""
    x, y, x_test, y_test = mnist
    assert (x.shape[0], x_test.shape[0]) == (60_000, 10_000)
    layers = [Rescale(1 / 255), Dense(256, "relu"), Dropout(0.2), Dense(128, "relu"), Dropout(0.1), Dense(10)]
    model = Sequential(layers, loss="cross_entropy", optimizer=fastnn.Adam(1e-3), seed=0)
    history = model.fit(x, y, epochs=10, batch_size=128, verbose=False)
    assert model.evaluate(x_test, y_test)["accuracy"] >= 0.98
    assert (model.predict_class(x_test) == y_test).mean() >= 0.98
    assert history.history["loss"][-1] < history.history["loss"][0] / 5
