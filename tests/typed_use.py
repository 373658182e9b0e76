"""A program that uses fastnn, with types: ``mypy --strict`` finds nothing wrong in it where fastnn is installed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type  # comes with mypy

import fastnn


class Stop(fastnn.Callback):
    """A callback of one's own."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Stop after the first epoch."""
        self.model.stop_training = True


def learn(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> fastnn.Sequential:
    """Train a model and use it in every way."""
    model = fastnn.Sequential(
        [fastnn.Dense(8, activation="tanh"), fastnn.Dropout(0.1), fastnn.Dense(1)],
        loss="squared_error",
        optimizer=fastnn.Adam(fastnn.Warmup(fastnn.Cosine(1e-3, steps=5), steps=10), clip_norm=1.0),
        seed=0,
    )
    history = model.fit(x, y, epochs=3, validation_split=0.25, callbacks=[Stop()], verbose=False)
    fastnn.SGD(fastnn.Warmup(0.1, steps=10))
    model.fit(x, y, epochs=0, callbacks=None, class_weight=None, verbose=0)
    model.set_weights(model.parameters_vector().copy())
    model.apply_gradients(np.zeros(model.parameters_vector().shape))
    assert_type(history, fastnn.History)
    assert_type(history.history["val_loss"], list[float])
    assert_type(model.evaluate(x, y), dict[str, float])
    assert_type(model.predict(x), npt.NDArray[Any])
    assert_type(model.get_weights(), list[npt.NDArray[Any]])
    assert_type(model.clone(), fastnn.Sequential)
    return model


def keep(model: fastnn.Sequential, folder: Path) -> fastnn.Sequential:
    """Write a model to a folder and read it."""
    model.save(folder / "model.safetensors")
    assert_type(fastnn.latest_checkpoint(folder), Path | None)
    return fastnn.load(folder / "model.safetensors")


def estimate(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Use the estimators, which are imported when they are asked for; their types are known all the same."""
    classifier = fastnn.MLPClassifier((8, 4), solver="rmsprop", dropout=0.1)
    assert_type(classifier.fit(x, y), fastnn.MLPClassifier)
    assert_type(classifier.partial_fit(x, y), fastnn.MLPClassifier)
    assert_type(classifier.predict_proba(x), npt.NDArray[Any])
    fastnn.MLPClassifier(learning_rate=fastnn.Cosine(1e-3, steps=5), class_weight={0: 2.0}, random_state=0)
    fastnn.MLPClassifier([8], ["relu"], dropout=[0.1], scoring="f1", random_state=np.random.RandomState(0))
    fastnn.MLPRegressor(learning_rate=0.01)  # type: ignore[arg-type]
    regressor = fastnn.MLPRegressor(hidden_layer_sizes=8).fit(x, y)
    assert_type(regressor.partial_fit(x, y).coefs_, list[npt.NDArray[Any]])
    assert_type(regressor.momentum, float)
    return regressor.predict(x)


def misspell() -> None:
    """Ask for what is not there: a type checker says so."""
    fastnn.Sequental  # type: ignore[attr-defined]  # noqa: B018


def main() -> None:
    """Run it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    model = learn(x, x[:, :1])
    assert len(model.history.history["loss"]) == 1


if __name__ == "__main__":
    main()
