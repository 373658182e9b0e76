"""The model: the one file that knows the whole route from the user's arrays to trained weights."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn import export, saving
from fastnn._errors import check_flag, check_number, shown, unknown_name
from fastnn._habits import ADVICE, SETTINGS
from fastnn.arrays import as_targets, weighed_by_class
from fastnn.callback_states import CallbackStates
from fastnn.callbacks import Callback, as_callbacks
from fastnn.devices import Place, check_place, check_precision, runtime_on
from fastnn.feeds import Feed
from fastnn.history import History
from fastnn.intake import Intake, inputs_of, is_read_by_blocks
from fastnn.kernels import layout
from fastnn.layers import Layer, Rescale, check_layers
from fastnn.losses import Loss, as_loss
from fastnn.network import L1_MODES, Network
from fastnn.optimizers import Adam, Optimizer, as_optimizer
from fastnn.prediction import outputs_of, outputs_of_feed, probabilities_of, scores_of
from fastnn.preparation import Preparation
from fastnn.runtime import Runtime
from fastnn.schedules import Schedule, is_own
from fastnn.sparse import SparseData
from fastnn.streams import Stream
from fastnn.summary import Summary
from fastnn.training import Trainer, step_logs
from fastnn.weights import add_penalty_gradients, draw_weights, like_weights, penalty_of

Array = npt.NDArray[Any]
ClassWeight = Mapping[Any, float] | Sequence[float] | Array | str

_SETTLED = {"layers", "loss", "seed", "dtype", "device", "matmul_precision", "l1", "l2", "l1_mode"}
"""What holds for good once the weights are drawn."""

_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


class Sequential:
    """A stack of layers, trained by back-propagation.

    Parameters
    ----------
    layers : sequence of Layer
        `Dense`, `Dropout`, `Activation`, and `Rescale` as the first.
    loss : str or Loss
        "squared_error", "cross_entropy", "binary_cross_entropy", "absolute_error" or "huber"; see
        `fastnn.losses`.
    optimizer : str, Optimizer or None
        "sgd", "adagrad", "rmsprop", "adam" or "adamw", or one with its own parameters; see
        `fastnn.optimizers`. None is ``Adam()``.
    seed : int
        0 to 2^64 - 1. The same seed gives the same bits for any number of threads.
    dtype : {"float32", "float64"}
        Of weights and computation.
    input_size : int or None
        Width of a sample; None takes it from the first data.
    n_threads : int or None
        Threads at most; None: all that Numba has. Small networks run on one by themselves.
    device : {"cpu", "cuda", "auto"}
        Where training and prediction run: on this CPU, on an NVIDIA GPU (`fastnn.cuda`; ``pip install
        'fastnn[cuda]'``), or on a GPU where there is one. The same numbers to rounding, the same dropout masks and
        shuffles. It is not saved with the model.
    matmul_precision : {"float32", "tf32", "bf16"}
        To what a GPU may round the factors of large networks' products, which cuBLAS computes on tensor cores, for
        speed: 11 of a factor's 24 bits ("tf32") or 8 ("bf16"). Sums, weights, optimizer state and all else stay
        float32, and so do the products of networks that need no cuBLAS: see the page on GPUs. With ``device="auto"``
        it is "float32" where it cannot be had. It is not saved with the model.
    l1, l2 : float
        Penalties l1 sum|W| + l2/2 sum W^2 of the dense layers that have none of their own; weights only.
    l1_mode : {"gradient", "truncate"}
        L1 as a part of the gradient, or as a soft threshold by lr x l1 after each step, which gives exact zeros. The
        threshold is not scaled as Adam's and its kin's steps are: it shows its worth with SGD.
    check_finite : bool
        Whether NaN and infinity in the data are refused.

    Attributes
    ----------
    preparation : Preparation or None
        What turns a table's rows into samples and outputs into answers, where `fastnn train` learned it from a table:
        ``model.predict_class(model.preparation.transform(frame))``. Saved with the model.

    Raises
    ------
    TypeError, ValueError
        With the argument's name, what came and what was expected.

    Examples
    --------
    >>> import fastnn
    >>> x, y, x_test, y_test = fastnn.load_digits()
    >>> layers = [fastnn.Rescale(1 / 16), fastnn.Dense(64, "relu"), fastnn.Dense(10)]
    >>> model = fastnn.Sequential(layers, loss="cross_entropy")
    >>> history = model.fit(x, y, epochs=20, batch_size=32)
    >>> model.evaluate(x_test, y_test)["accuracy"] > 0.9
    True
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        loss: str | Loss,
        optimizer: str | Optimizer | None = None,
        *,
        seed: int = 0,
        dtype: str | np.dtype[Any] | type = "float32",
        input_size: int | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
        matmul_precision: str = "float32",
        l1: float = 0.0,
        l2: float = 0.0,
        l1_mode: str = "gradient",
        check_finite: bool = True,
    ) -> None:
        self.layers = check_layers(layers)
        self.loss = as_loss(loss)
        self._runtime: Runtime | None = None
        self.dtype = _check_dtype(dtype)
        self.optimizer = Adam() if optimizer is None else optimizer
        self.seed = _check_seed(seed)
        self.n_threads = n_threads
        self.device, self.matmul_precision = check_place(device, matmul_precision)
        check_precision(self.matmul_precision, self.dtype)
        self.l1 = check_number("l1", l1, low=0.0)
        self.l2 = check_number("l2", l2, low=0.0)
        if l1_mode not in L1_MODES:
            raise unknown_name("l1_mode", l1_mode, L1_MODES)
        self.l1_mode = l1_mode
        self.check_finite = check_flag("check_finite", check_finite)
        self.preparation: Preparation | None = None
        self.history = History()
        self.step, self.epoch = 0, 0
        self.initial_epoch = 0
        self.stop_training = self.resumed = False
        self.callback_states = CallbackStates()
        first = self.layers[0]
        if not isinstance(first, Rescale) or not first.per_input:  # else the data's width is needed to check them
            Network(self.layers, 1, self.loss, self.dtype)
        if input_size is not None:
            self.build(input_size)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTLED and self.__dict__.get("_runtime") is not None:
            raise AttributeError(
                f"{name}: got {shown(value)} for a model that has weights, expected no change; another model takes "
                "other settings, and the weights by set_weights(model.get_weights())"
            )
        if name in SETTINGS:  # nothing here reads them
            raise AttributeError(f"{name}: got {shown(value)} for a Sequential, which has no such name; {ADVICE[name]}")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a type checker knows the attributes, and would then take any

        def __getattr__(self, name):
            advice = f"; {ADVICE[name]}" if name in ADVICE else ""
            message = f"{type(self).__name__!r} object has no attribute {name!r}{advice}"
            raise AttributeError(message, name=name, obj=self)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer: a copy, since some schedules keep a state, which is this model's.

        Another one of the same kind may be set at any time: its rate and other numbers hold from the next epoch of
        `fit` on, or the next `train_on_batch`, and the state (moments, velocities) stays. Optimizers do not change:
        ``model.optimizer = dataclasses.replace(model.optimizer, lr=1e-4)`` sets a rate and keeps the rest. Raises
        ValueError for one that keeps another state, once there are weights.
        """
        return self._optimizer

    @optimizer.setter
    def optimizer(self, value: str | Optimizer) -> None:
        new, runtime = copy.deepcopy(as_optimizer(value)), self._runtime
        new.check_range(self.dtype)
        if runtime is not None:
            old = self._optimizer
            if (type(new), new.slots) != (type(old), old.slots):
                raise ValueError(
                    f"optimizer: got {new!r} for a model that was trained with {old!r}, expected another "
                    f"{type(old).__name__} with the same state; another model takes another optimizer, and the weights "
                    "by set_weights(model.get_weights())"
                )
            before, runtime = runtime, self._new_runtime(runtime.network, new)
            runtime.params, runtime.state = before.params, before.state  # whoever has these vectors has the model's
        # Last and at once, since others may predict meanwhile, and Ctrl-C may come.
        self._optimizer: Optimizer = new
        self._runtime = runtime

    @property
    def n_threads(self) -> int | None:
        """Threads at most; None: all that Numba has. May be set at any time."""
        return self._n_threads

    @n_threads.setter
    def n_threads(self, value: int | None) -> None:
        self._n_threads = None if value is None else check_number("n_threads", value, low=1, integer=True)
        if self._runtime is not None:
            self._runtime.n_threads = self._n_threads

    # The route: build, fit, evaluate, predict.

    def build(self, input_size: int) -> Sequential:
        """Fix the width of a sample and draw the weights; `fit` does it by itself.

        Parameters
        ----------
        input_size : int
            >= 1.

        Returns
        -------
        Sequential
            The model.

        Raises
        ------
        ValueError
            If the model has another width already.
        """
        inputs = _check_inputs(input_size)
        if self._runtime is not None:
            if inputs != self.network.inputs:
                raise ValueError(
                    f"input_size: got {inputs}, expected {self.network.inputs}, which the model was built for"
                )
            return self
        runtime = self._new_runtime(self.network_for_inputs(inputs), self.optimizer)
        draw_weights(runtime.network, runtime.params, self.seed)
        self._runtime = runtime
        return self

    def build_undrawn(self, inputs: int) -> None:
        """Do as `build`, for who has weights to put in the place of the first ones, which are 0."""
        if self._runtime is None:
            self._runtime = self._new_runtime(self.network_for_inputs(inputs), self.optimizer)

    def _new_runtime(self, network: Network, optimizer: Optimizer) -> Runtime:
        kind = runtime_on(self._place)
        return kind(network, optimizer, self.l1_mode == "truncate", self.seed, self.n_threads)

    @property
    def _place(self) -> Place:
        return Place(self.device, self.matmul_precision)

    @property
    def _intake(self) -> Intake:
        return self._intake_for(self.network)

    def _intake_for(self, network: Network) -> Intake:
        return Intake(network, self.check_finite, self.device == "cuda")

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        validation_data: tuple[Any, ...] | Stream | None = None,
        validation_split: float = 0.0,
        callbacks: Iterable[Callback] | None = (),
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        shuffle: bool = True,
        verbose: bool | int | str = "auto",
        resume: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train, going on where an earlier `fit` stopped.

        Parameters
        ----------
        x : array-like (rows, inputs) or (rows, ...), or Stream
            Samples; what lies behind the first axis is flattened. Bytes (uint8) are read as they are, without
            a float copy. Arrays, frames of pandas, polars or PyArrow, tensors on the CPU; a scipy.sparse matrix, which
            stays sparse where at most a tenth of its numbers is not zero, the first layer is a `Dense` and the model on
            the CPU, and else is made dense a buffer at a time: the bits are the same. A `numpy.memmap` is read as
            ``fastnn.stream(x, y)`` is, and what does not fit into memory comes as a `fastnn.stream`. With
            ``device="cuda"`` also arrays on the GPU, CuPy's or PyTorch's: those of the model's `dtype` and bytes, in C
            order, are read where they lie, without a copy; others make the way by the host once, as `y` and
            `sample_weight` do.
        y : array-like
            Values (rows, outputs), or (rows,) for one output; class labels 0 .. C-1 (rows,) or rows of
            probabilities (rows, C). None beside a stream, which has its own.
        epochs : int
            Passes over the data, >= 0. With `resume` those that the interrupted `fit` made count: ``epochs=50`` and a
            checkpoint of its epoch 20 make 30 more. (In Keras' terms: the checkpoint says `initial_epoch`.)
        batch_size : int
            Rows a step, >= 1; more than there are means all. A short last batch is trained as well.
        validation_data : (x, y) or (x, y, sample_weight) or Stream, optional
            Evaluated after each epoch.
        validation_split : float
            Share of the rows, taken from the end, that is kept for validation instead; 0 <= share < 1.
        callbacks : iterable of Callback
        sample_weight : array-like (rows,), optional
            >= 0. A batch's loss is sum(w l) / sum(w), and so is an epoch's. A row of weight 0 has no part.
        class_weight : mapping, sequence or "balanced", optional
            Multiplies the sample weights by class: in training, in the loss and the accuracy of an epoch as well, not
            in validation. Rows of several labels have no class: weigh them by `sample_weight`.
        shuffle : bool
            Whether every epoch takes the rows in an order of its own, a function of (seed, epoch). A batch of all rows
            needs none.
        verbose : bool or "auto"
            True: a line an epoch. "auto": a progress bar on a terminal. False: nothing. Keras' 0, 1 and 2 are False,
            True and True.
        resume : path, optional
            A checkpoint, or a folder of them, of which the newest that loads is taken (a damaged one is skipped with a
            warning); see `Checkpoint`. It replaces the model's weights, optimizer state, counters, history and the
            states of callbacks, and this `fit` goes on as the one that wrote it: with the same arguments otherwise,
            it ends with the same bits as one that was never interrupted. Where the folder is empty, or not there yet,
            this is an ordinary `fit`, so that the same script begins and goes on.

        Returns
        -------
        History
            Of all calls so far; also `model.history`.

        Raises
        ------
        TypeError, ValueError
            For bad input, before any weight changes. A stream is checked as it is read: what is wrong behind its
            first rows ends training in its first epoch, with the weights from before that epoch. ValueError also for a
            checkpoint of other layers, or of another loss, optimizer, seed, dtype or penalty.
        FileNotFoundError, ModelFileError
            If `resume` names a file that is missing or no whole model, or a folder of which no checkpoint loads.
        TrainingDiverged
            If the loss becomes NaN or infinite; the weights of the last good epoch are kept.
        KeyboardInterrupt
            On Ctrl-C, between two steps; the model can be used, saved and trained on.
        """
        epochs = check_number("epochs", epochs, low=0, integer=True)
        batch_size = check_number("batch_size", batch_size, low=1, integer=True)
        share = check_number("validation_split", validation_split, low=0.0, high=1.0, high_open=True)
        if verbose not in (True, False, "auto", 2):
            raise unknown_name("verbose", verbose, ("auto", "True", "False"))
        check_flag("shuffle", shuffle)
        callbacks = as_callbacks(callbacks)
        found = None
        if resume is not None:
            own = self.optimizer if is_own(self.optimizer.schedule) else None
            found = saving.load_to_resume(Sequential, resume, self._place, own)
        network = self._network_for(x)
        intake = self._intake_for(network)
        feed = intake.feed(x, y, sample_weight)
        validation = None
        if validation_data is not None:
            validation = intake.validation(validation_data)
        elif share > 0.0:
            feed, validation = feed.split(share)
        if class_weight is not None:
            feed = intake.weighed(feed, class_weight)
        outer = self.resumed, self.initial_epoch, self.stop_training
        self.resumed = found is not None
        if found is None:
            self.build(network.inputs)
            self.initial_epoch = self.epoch
        else:
            saving.take_over(self, network.inputs, *found)
        last = self.initial_epoch + epochs
        try:
            Trainer(self, feed, validation, batch_size, shuffle, callbacks, verbose).run(last)
        finally:
            if self.callback_states.at_work:  # a callback of an outer fit called this one
                self.resumed, self.initial_epoch, self.stop_training = outer
        return self.history

    def evaluate(self, x: Any, y: Any = None, *, sample_weight: Any = None) -> dict[str, float]:
        """Return {"loss": ..., "accuracy": ...} for classes, or {"loss": ..., "r2": ...} for values; dropout is off.

        Parameters
        ----------
        x, y, sample_weight
            As in `fit`.

        Returns
        -------
        dict
            The loss includes the penalty. R2 is 1 - sum (y - t)^2 / sum (t - mean t)^2, the mean over
            outputs.

        Raises
        ------
        TypeError, ValueError
            For bad input, or a model that has no weights yet.
        """
        return self.evaluate_feed(self._intake.feed(x, y, sample_weight))

    def predict(self, x: Any, *, training: bool = False) -> Array:
        """Return the outputs of the last layer: values, logits, or, after a softmax or sigmoid, probabilities.

        Parameters
        ----------
        x : array-like (rows, inputs) or Stream
            As in `fit`; a stream needs no target. The outputs of all rows are in memory.
        training : bool
            Whether dropout works, with the mask of the next step, which differs from row to row: all rows, which no
            stream brings then, are one batch. So a loss of one's own has the outputs that ``backward(training=True)``
            goes back from, and rows that are repeated have outputs whose spread is Monte Carlo dropout's.

        Returns
        -------
        array (rows, outputs)
            Of the model's dtype.

        Raises
        ------
        TypeError, ValueError
            For bad input, or a model that has no weights yet.
        """
        runtime = self.runtime
        if training is not False and check_flag("training", training):  # the first takes a tenth of the time
            return self._outputs_in_training(x)
        out = runtime.few_rows_forward(x)
        if out is not None:
            return out
        if is_read_by_blocks(x):
            return outputs_of_feed(runtime, self._intake.samples_feed(x))
        return outputs_of(runtime, self._intake.samples(x))

    def _outputs_in_training(self, x: Any) -> Array:
        if isinstance(x, Stream):
            raise TypeError("x: got a Stream for training=True, expected rows in memory, which are one batch")
        data = self._intake.samples(x)
        out = np.empty((data.rows, self.network.units), self.dtype)
        self.runtime.forward(data, 0, data.rows, out, step=self.step)
        return out

    def predict_proba(self, x: Any, *, training: bool = False) -> Array:
        """Return the probability of each class; for "binary_cross_entropy" that of each output.

        Parameters
        ----------
        x, training
            As in `predict`.

        Returns
        -------
        array (rows, outputs)
            Of the model's dtype.

        Raises
        ------
        TypeError, ValueError
            As `predict`; ValueError also where the model's loss is not a cross entropy.
        """
        if self.loss.folds is None:
            raise ValueError(
                f"predict_proba: the loss is {self.loss.name!r}, expected a cross entropy; predict gives the values"
            )
        out = self.predict(x, training=training)
        if self.network.output == layout.LOGITS:
            out = probabilities_of(out, self.loss.folds)
        return out

    def predict_class(self, x: Any) -> npt.NDArray[np.int64]:
        """Return the most likely class of each row; for "binary_cross_entropy" 0 or 1 for each output.

        Parameters
        ----------
        x
            As in `predict`.

        Returns
        -------
        array of int64 (rows,)
            Under "binary_cross_entropy" (rows, outputs), where there are several outputs.

        Raises
        ------
        TypeError, ValueError
            As `predict_proba`.
        """
        probabilities = self.predict_proba(x)
        if self.loss.folds == "softmax":
            return probabilities.argmax(axis=1)
        classes = (probabilities > 0.5).astype(np.int64)
        return classes[:, 0] if classes.shape[1] == 1 else classes

    # For loops of one's own.

    def train_on_batch(
        self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: ClassWeight | None = None
    ) -> dict[str, float]:
        """Take one step on all rows as one batch and return its loss (and accuracy) before the step.

        It counts in `step`, not in `epoch`: schedules whose unit is the epoch move on where you add 1 to `epoch`.

        Parameters
        ----------
        x, y, sample_weight, class_weight
            As in `fit`; no stream.

        Returns
        -------
        dict
            "loss", the penalty included, and "accuracy" where the loss is one of classes.

        Raises
        ------
        TypeError, ValueError
            For bad input.
        FloatingPointError
            If the loss is NaN or infinite; no step is taken.
        """
        network = self._network_for(x)
        data = self._intake_for(network).batch(x, y, sample_weight)
        if class_weight is not None:
            data = weighed_by_class(data, class_weight, self.loss, network.units)
        self.build(network.inputs)
        runtime = self.runtime
        rates = self.optimizer.schedule.checked_rates(self.step, self.epoch, 1)
        with runtime.alone:
            report = runtime.train_once(data, self.step, rates)
            if not report[0, layout.REPORT_ROWS]:
                spoilt = None if self.check_finite else data.spoilt()
                where = f"from those in {spoilt}" if spoilt else self.first_bad_layer(data.rows)
                raise FloatingPointError(f"loss: is NaN or infinite, {where}; no step was taken")
            self.step += 1
            return step_logs(report, self.counts_correct)

    def gradients(
        self, x: Any, y: Any, *, sample_weight: Any = None, training: bool = False
    ) -> tuple[float, list[Array]]:
        """Return the loss of all rows as one batch, penalties included, and its gradient [dW0, db0, dW1, ...].

        Parameters
        ----------
        x, y, sample_weight
            As in `fit`.
        training : bool
            Whether dropout works, with the mask of the next step.

        Returns
        -------
        (float, list of arrays)
            Where all sample weights are 0 the loss is NaN, as in `train_on_batch`, and the gradient that of the
            penalties. The arrays have the shapes and dtype of `get_weights`.

        Raises
        ------
        TypeError, ValueError
            For bad input.
        """
        check_flag("training", training)
        network = self._network_for(x)
        data = self._intake_for(network).batch(x, y, sample_weight)
        self.build(network.inputs)
        with self.runtime.alone:
            report = self.runtime.gradient(data, self.step, training)
            total = report[0, layout.REPORT_WEIGHT]
            loss = float(report[0, layout.REPORT_LOSS] / total) if total > 0 else math.nan
            grads = [grad.copy() for grad in self.network.views(self.runtime.grads)]
        if self.network.is_penalised:
            add_penalty_gradients(self.network, self.runtime.params, grads, self.l1_mode == "gradient")
        return loss + self.penalty(), grads

    def apply_gradients(self, gradients: Sequence[Any] | Array) -> None:
        """Take one step of the optimizer with gradients of one's own, such as `backward` gives for any loss.

        Parameters
        ----------
        gradients : sequence of array-like, or array (P,)
            Like the weights of `get_weights`: [dW0, db0, dW1, ...]; or all of them in one array, one behind the other
            or like `parameters_vector`. They are taken as they are: what clips them, decays weights (AdamW) or sets a
            threshold (``l1_mode="truncate"``) works as in `fit`, but the penalties l1 and l2 are not added, since
            `gradients` has them in its result.

        Raises
        ------
        TypeError, ValueError
            For another number of arrays, another shape, or NaN or infinity, or a model that has no weights yet; no step
            is taken.

        Examples
        --------
        A policy gradient: the logits' gradient of -advantage log p(action), averaged over the rows.

        >>> import fastnn, numpy as np
        >>> policy = fastnn.Sequential([fastnn.Dense(16, "tanh"), fastnn.Dense(2)], "cross_entropy", input_size=4)
        >>> states, actions, advantages = np.ones((3, 4)), np.array([0, 1, 0]), np.array([1.0, -0.5, 2.0])
        >>> dlogits = policy.predict_proba(states) - np.eye(2)[actions]
        >>> dx, gradients = policy.backward(states, dlogits * advantages[:, None] / len(states))
        >>> policy.apply_gradients(gradients)
        >>> policy.step
        1
        """
        given = like_weights(self._intake, "gradients", gradients)
        runtime = self.runtime
        with runtime.alone:
            for own, new in zip(self.network.views(runtime.grads), given, strict=True):
                own[:] = new
            runtime.apply(self.step, self.optimizer.schedule.checked_rates(self.step, self.epoch, 1))
            self.step += 1

    def backward(self, x: Any, dy: Any, *, training: bool = False) -> tuple[Array, list[Array]]:
        """Return (dx, [dW0, db0, ...]) for a gradient `dy` with respect to what `predict` returns for `x`.

        Parameters
        ----------
        x : array-like (rows, inputs)
            As in `fit`; of sparse rows `dx` is dense all the same.
        dy : array-like (rows, outputs)
            Gradient of any scalar of one's own.
        training : bool
            Whether dropout works, with the mask of the next step, as in ``predict(x, training=True)``.

        Returns
        -------
        (array (rows, inputs), list of arrays)
            Of the outputs alone, without penalties; in the model's dtype.

        Raises
        ------
        TypeError, ValueError
            For bad input, or a model that has no weights yet.
        """
        check_flag("training", training)
        data = self._intake.samples(x)
        _, targets = as_targets(
            "dy",
            self._intake.on_host("dy", dy),
            data.rows,
            as_loss("squared_error"),
            self.network.units,
            self.dtype,
            self.check_finite,
        )
        dx = np.empty((data.rows, self.network.inputs), self.dtype)
        with self.runtime.alone:
            self.runtime.gradient(data._replace(targets=targets), self.step, training, out=dx, external=True)
            grads = [grad.copy() for grad in self.network.views(self.runtime.grads)]
        if self.network.rescale.size:
            dx *= self.network.rescale[0]
        return dx, grads

    def layer_outputs(self, x: Any, rows: int | None = None) -> dict[str, Array]:
        """Return what each layer makes of samples, dropout off, by the layer's name ("layer 0 (Dense, 32 relu)").

        An activation behind a `Dense` without one is part of it. The last is what `predict` returns.

        Parameters
        ----------
        x : array-like (rows, inputs)
        rows : int, optional
            How many rows to take at most, spread evenly over `x`; None takes all.

        Returns
        -------
        dict of str to array (rows, units)
            Of the model's dtype.

        Raises
        ------
        TypeError, ValueError
            For bad input, or a model that has no weights yet.
        """
        network, runtime = self.network, self.runtime
        data = self._intake.samples(x)
        if rows is not None:
            rows = check_number("rows", rows, low=1, integer=True)
            chosen = np.linspace(0, data.rows - 1, min(rows, data.rows)).astype(np.int64)
            data = data.dense(chosen) if isinstance(data, SparseData) else data.on_host().at(chosen)
        data = data._replace(targets=np.zeros((data.rows, network.units), self.dtype))
        numbered = [(number, stage) for number, stage in enumerate(network.stages) if stage.computes]
        with runtime.alone:
            runtime.gradient(data, self.step, False, external=True)
            return {stage.name: runtime.activations(number, data.rows)[0].copy() for number, stage in numbered}

    def get_weights(self) -> list[Array]:
        """Return copies of the weights [W0, b0, W1, b1, ...] in the model's dtype; W is (inputs, units), b (units,).

        A layer without bias has no b. Raises ValueError if the model has no weights yet.
        """
        return [weight.copy() for weight in self.network.views(self.runtime.params)]

    def set_weights(self, weights: Sequence[Any] | Array) -> None:
        """Set the weights from arrays like those of `get_weights`.

        Parameters
        ----------
        weights : sequence of array-like, or array (P,)
            [W0, b0, W1, b1, ...], or all of them in one array, as in `apply_gradients`.

        Raises
        ------
        TypeError, ValueError
            For another number of arrays, another shape, or NaN or infinity, or a model that has no weights yet; nothing
            is changed.
        """
        taken = like_weights(self._intake, "weights", weights)
        for new, old in zip(taken, self.network.views(self.runtime.params), strict=True):
            old[:] = new

    def clone(self, *, weights: bool = True, seed: int | None = None) -> Sequential:
        """Return an independent model with the same settings.

        Parameters
        ----------
        weights : bool
            Whether it has the weights and the training state, too; else it begins like a new one.
        seed : int, optional
            Another seed: of the dropout masks and shuffles to come and, without `weights`, of the initial weights.
            ``[model.clone(weights=False, seed=s) for s in range(5)]`` is an ensemble.

        Returns
        -------
        Sequential

        Raises
        ------
        TypeError, ValueError
            For a flag that is none, or a seed out of range.
        """
        number = self.seed if seed is None else _check_seed(seed)
        if check_flag("weights", weights) and self._runtime is not None:
            twin = copy.deepcopy(self)
            assert twin._runtime is not None
            twin.__dict__["seed"] = twin._runtime.seed = number
            return twin
        optimizer = self.optimizer
        if isinstance(optimizer.lr, Schedule):
            optimizer = replace(optimizer, lr=optimizer.lr.fresh())
        twin = type(self)(
            self.layers, self.loss, optimizer, seed=number, dtype=self.dtype, n_threads=self.n_threads,
            input_size=None if self._runtime is None else self.network.inputs, **self._place._asdict(), l1=self.l1,
            l2=self.l2, l1_mode=self.l1_mode, check_finite=self.check_finite,
        )  # fmt: skip
        twin.preparation = copy.deepcopy(self.preparation)
        return twin

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model to a safetensors file: network, weights, optimizer state, counters, callbacks' state.

        Training that goes on from the file gives the same bits as training that was not interrupted. The file
        is written beside its place, brought to disk and moved there, so that a half-written one never takes its name.

        Raises
        ------
        ValueError
            If the model has no weights yet, or a preparation for other inputs or outputs than the network's.
        OSError
            If it cannot be written, with the path: an older file is as it was, and nothing half-written is left.
        """
        saving.save(self, path)

    def to_torch(self) -> Any:
        """Return the same network as a torch.nn.Sequential, in evaluation mode, with copies of the weights.

        Its modules are, for each `Dense`, a Linear and its activation (none for the identity), for each `Dropout` a
        Dropout, for each `Activation` its module. `Rescale`, which PyTorch lacks, is worked into the weights of the
        first Linear: the module takes the same inputs as the model.

        Returns
        -------
        torch.nn.Sequential
            Its outputs are those of `predict`, to rounding: probabilities, where a softmax or sigmoid is the last
            activation.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        ValueError
            If the model has no weights yet, or a Rescale with no Dense behind it.
        """
        return export.to_torch(self)

    def to_torch_state_dict(self) -> dict[str, Any]:
        """Return the weights as `to_torch().state_dict()`: "0.weight" (units, inputs), "0.bias", "2.weight", ...

        They load into the same torch.nn.Sequential, written by hand, with ``load_state_dict``.

        Raises
        ------
        ImportError, ValueError
            As `to_torch`.
        """
        return dict(export.to_torch(self).state_dict())

    def to_onnx(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Write the network as an ONNX file, for onnxruntime and whatever else reads the format.

        The graph computes what `predict` does, Rescale included, dropout left out: from "input" (rows, inputs) to
        "output" (rows, outputs), in the model's dtype, for any number of rows. Weights have the names that they have
        in the model's own file. Opset 17. In float64 the erf of "gelu" is taken in float32, where onnxruntime has
        it: an error of 6e-8 |z|.

        Parameters
        ----------
        path : path, optional
            Where to write it.

        Returns
        -------
        onnx.ModelProto
            What was written.

        Raises
        ------
        ImportError
            If onnx is not installed.
        ValueError
            If the model has no weights yet, or 2 GB of them, which an ONNX file does not hold.
        OSError
            If the file cannot be written.
        """
        return export.to_onnx(self, path)

    def summary(self) -> Summary:
        """Return a table of the layers, their parameters, and the memory that training takes.

        It is a str that a terminal shows as it is, and a notebook as an HTML table.
        """
        return Summary(self)

    # What callbacks and the trainer use.

    @property
    def network(self) -> Network:
        """The network as data; there once the input size is known."""
        return self.runtime.network

    @property
    def runtime(self) -> Runtime:
        """The arrays and compiled calls; there once the input size is known."""
        if self._runtime is None:
            raise ValueError("model: has no weights yet, expected a call of fit, build or input_size= first")
        return self._runtime

    @property
    def counts_correct(self) -> bool:
        """Whether accuracy means something for the loss."""
        return self.loss.folds is not None

    def parameters_vector(self) -> Array:
        """Return all parameters as one flat vector: the model's own memory, not a copy.

        Each weight of `get_weights` begins with a cache line; between two of them may lie a few numbers, all 0, that
        belong to none. So ``target.parameters_vector()[:] += 0.01 * (model.parameters_vector() -
        target.parameters_vector())`` moves all weights of one model towards those of another.

        With ``device="cuda"`` it is the host's, which shows what training made of them when `fit` has ended, or at the
        next call of this.
        """
        return self.runtime.params

    def penalty(self) -> float:
        """Return l1 sum|W| + l2/2 sum W^2 over all weights."""
        if not self.network.is_penalised:
            return 0.0  # without a look at the weights, which may be on a device
        return penalty_of(self.network, self.runtime.params)

    def evaluate_feed(self, feed: Feed) -> dict[str, float]:
        """`evaluate` on what has passed the gate, or does so when it is read."""
        scores = scores_of(self.runtime, feed)
        return {**scores, "loss": scores["loss"] + self.penalty()}

    def states_in(self, path: Path) -> dict[str, dict[str, Any]]:
        """Return the states of callbacks, but for arrays, in a file that this training wrote; else nothing."""
        return saving.states_in(path, self.history)

    def first_bad_layer(self, rows: int) -> str:
        """Say where, after a step whose loss was not finite, the first NaN or infinity stands."""
        network, runtime = self.network, self.runtime
        for segment, view in zip(network.segments, network.views(runtime.params), strict=True):
            if not np.isfinite(view).all():
                return f"with NaN or infinity in {segment.name}"
        for number, stage in enumerate(network.stages):
            output, _ = runtime.activations(number, rows)
            if not np.isfinite(output).all():
                return f"first in the output of layer {stage.layer} ({type(self.layers[stage.layer]).__name__})"
        return "in the loss itself, with finite outputs"

    def _network_for(self, x: Any) -> Network:
        """Return the network, or the one that the width of `x` would make: nothing is built before `x` is checked."""
        if self._runtime is not None:
            return self.network
        return self.network_for_inputs(inputs_of(x, self.dtype, self.device == "cuda"))

    def network_for_inputs(self, inputs: int) -> Network:
        """Return the tables for samples of a width, without any array of weights."""
        return Network(self.layers, inputs, self.loss, self.dtype, self.l1, self.l2)

    def _repr_html_(self) -> str:
        return self.summary().html

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        return f"Sequential([{layers}], loss={self.loss.name!r}, optimizer={self.optimizer!r})"


def _check_seed(seed: Any) -> int:
    return check_number("seed", seed, low=0, high=2**64 - 1, integer=True)


def _check_inputs(input_size: Any) -> int:
    return check_number("input_size", input_size, low=1, integer=True)


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        name: str = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _DTYPES:
        raise unknown_name("dtype", name, _DTYPES)
    return _DTYPES[name]
