"""The same bits: for any number of threads, in another process, and for a training that was interrupted and resumed."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from support import digest, history_of, run_python, training_state, weight_bytes

import fastnn
from fastnn import Activation, Dense, Dropout, Sequential, network, runtime, training
from fastnn.kernels import epoch, layout, partition
from fastnn.kernels.dropout import GROUP
from fastnn.kernels.gemm import product_scratch, product_tasks
from fastnn.network import Network

EVERYTHING = [Dense(9, "gelu"), Dropout(0.3), Dense(7, "sigmoid", l1=0.001), Dropout(0.1), Dense(3)]


def small_data():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(53, 5)).astype(np.float32)
    return x, x[:, :3].argmax(axis=1), rng.uniform(0.1, 2, size=53)


def small_model(optimizer=None, **settings):
    optimizer = fastnn.Adam(0.02) if optimizer is None else optimizer
    return Sequential(EVERYTHING, "cross_entropy", optimizer, **{"seed": 2**63 + 7, "l2": 0.01, **settings})


def fit(model, epochs, callbacks=(), resume=None):
    x, y, w = small_data()
    return model.fit(
        x, y, epochs=epochs, batch_size=10, sample_weight=w, class_weight="balanced",
        validation_split=0.25, callbacks=callbacks, resume=resume,
    )  # fmt: skip


def wide_model(dtype="float32", optimizer="adam", threads=None):
    """A trained network whose every operation is cut into tasks: products, element-wise work, loss, norm, update."""
    rule = {
        "sgd": fastnn.SGD(0.05, momentum=0.9, nesterov=True, clip_norm=0.5),
        "adam": fastnn.Adam(0.01, amsgrad=True, clip_norm=0.5, clip_value=0.1),
    }[optimizer]
    layers = [Dense(257, "relu"), Dropout(0.25), Dense(300, "gelu"), Dropout(0.1), Dense(33)]
    settings = {"dtype": dtype, "seed": 6, "l1": 1e-4, "l2": 1e-4, "n_threads": threads}
    model = Sequential(layers, "cross_entropy", rule, **settings)
    model.fit(*wide_data(dtype), epochs=2, batch_size=300, validation_split=0.2)
    return model


TALL = {
    "at once": lambda: fastnn.RMSprop(0.01, momentum=0.9),
    "behind the norm": lambda: fastnn.Adam(0.01, clip_norm=0.1),
}


def tall_model(dtype="float32", name="at once", threads=None):
    """A small network trained on batches of so many rows that gradients are summed by chunks of them: 8, 2, 4, 1."""
    x, y = tall_data(dtype)
    model = Sequential(
        [Dense(31, "tanh"), Dropout(0.2), Dense(17, "gelu", use_bias=False), Dense(3)], "squared_error", TALL[name](),
        dtype=dtype, seed=6, l1=1e-4, l2=1e-4, n_threads=threads,
    )  # fmt: skip
    for rows in (2303, 131, 301):
        model.fit(x, y, epochs=1, batch_size=rows)  # the last batch is shorter
    return model


def tall_data(dtype):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2500, 7)).astype(dtype)
    return x, np.sin(x[:, :3])


def wide_data(dtype):
    rng = np.random.default_rng(4)
    return rng.normal(size=(700, 131)).astype(dtype), rng.integers(0, 33, size=700)


def same_state(one, other, leave_out=()):
    """Compare name by name, so that a difference says where it is."""
    one, other = training_state(one), training_state(other)
    assert [name for name in one if one[name] != other[name] and name not in leave_out] == []


# --------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_bits_for_any_number_of_threads(optimizer, dtype):
    assert numba.config.NUMBA_NUM_THREADS > 1
    x, y = wide_data(dtype)
    results = []
    for threads in (1, 2, None, 10**6):
        model = wide_model(dtype, optimizer, threads)
        dx, gradients = model.backward(x, np.ones((700, 33)))
        outputs = [model.predict(x), model.predict_proba(x), dx, *gradients]
        results.append((training_state(model), [part.tobytes() for part in outputs], model.evaluate(x, y)))
    assert product_tasks(300, 300, 257, 2) > 1
    assert model.network.params_size > 8 * 8192
    for other in results[1:]:
        assert other == results[0]


@pytest.fixture(params=["chunks at once", "pieces of 40 rows"])
def pieces(request, monkeypatch):
    """How many rows of a chunk go through all stages at once."""
    if request.param != "chunks at once":
        monkeypatch.setattr(network, "LEAST_PIECE", 40)
        monkeypatch.setattr(network, "PIECE_BYTES", 1)


@pytest.mark.parametrize("name", TALL)
def test_the_same_bits_for_chunks_of_rows_and_any_number_of_threads(name, pieces, dtype, monkeypatch):
    """Three threads, that cannot have as many chunks each, sum all gradients when all rows are through."""
    x, y = tall_data(dtype)
    ways, results = set(), []
    for threads in (1, 2, 3):
        monkeypatch.setattr(runtime.Runtime, "threads", threads)
        model = tall_model(dtype, name)
        loss, gradients = model.gradients(x, y)
        dx, _ = model.backward(x, y)
        results.append((training_state(model), loss, [part.tobytes() for part in (dx, *gradients)]))
        plan = model.network.plan(2500, threads)
        ways.add(plan.offsets[layout.PARTS] >= 0)
    chunks = [partition.gradient_chunks.py_func(plan.offsets[layout.CHUNK_FROM], rows) for rows in (2303, 131, 301, 61)]
    assert chunks == [8, 2, 4, 1]
    assert ways == {True, False}
    for other in results[1:]:
        assert other == results[0]


TALL_SHAPES = [(7, 31, 17, 3), (1, 2, 1), (3, 1, 40), (70, 16, 8, 4), (33, 5, 2)]


@pytest.mark.parametrize("samples", ["rows", "sparse"])
@pytest.mark.parametrize("sizes", TALL_SHAPES, ids=str)
def test_a_step_of_many_rows_is_their_gradient(sizes, samples, pieces, dtype):
    """In a step pieces of a chunk share one place of the workspace; for a gradient, of dense rows, each has its own."""
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2500, sizes[0])).astype(dtype), rng.normal(size=(2500, sizes[-1])).astype(dtype)
    rows, error = x, 0.0
    if samples == "sparse":
        x[rng.random(x.shape) < 0.93] = 0
        rows, error = pytest.importorskip("scipy.sparse").csr_matrix(x), 4 * np.finfo(dtype).eps
    weights = rng.uniform(0.1, 2, size=2500)
    for threads in (1, None):
        model = Sequential(
            [Dense(sizes[1], "tanh"), Activation("gelu"), *[Dense(n, "relu") for n in sizes[2:-1]], Dense(sizes[-1])],
            "squared_error", fastnn.SGD(1.0), dtype=dtype, seed=4, n_threads=threads,
        )  # fmt: skip
        _, gradients = model.gradients(x, y, sample_weight=weights)
        plan = model.network.plan(2500, model.runtime.threads)
        assert partition.gradient_chunks.py_func(plan.offsets[layout.CHUNK_FROM], 2500) > 1
        before = model.get_weights()
        model.train_on_batch(rows, y, sample_weight=weights)
        for old, new, gradient in zip(before, model.get_weights(), gradients, strict=True):
            np.testing.assert_allclose(new, old - gradient, rtol=0, atol=error)


def test_the_gradient_of_many_rows_is_that_of_their_parts(pieces):
    """Parts of so few rows that each is one sum; in float64."""
    model, (x, y) = tall_model("float64"), tall_data("float64")
    loss, whole = model.gradients(x, y)
    parts = [(len(x[at : at + 125]), model.gradients(x[at : at + 125], y[at : at + 125])) for at in range(0, 2500, 125)]
    assert len(parts) == 20
    assert loss == pytest.approx(sum(rows * part[0] for rows, part in parts) / 2500, rel=1e-12)
    for number, gradient in enumerate(whole):
        want = sum(rows * part[1][number] for rows, part in parts) / 2500
        np.testing.assert_allclose(gradient, want, rtol=1e-9, atol=1e-13)
        assert np.abs(want).max() > 1e-4


UPDATES = {
    "at once": (lambda: fastnn.RMSprop(0.01, momentum=0.9), {"l1": 1e-3, "l1_mode": "truncate"}),
    "behind the norm": (lambda: fastnn.Adam(0.01, amsgrad=True, clip_norm=0.5), {"l2": 1e-3}),
}


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("name", UPDATES)
def test_the_same_bits_for_weights_that_go_past_the_caches(name, threads, dtype, monkeypatch):
    """Which way they take is found out by trial, so the bits must not depend on it."""
    ways = []

    def train():
        rule, settings = UPDATES[name]
        layers = [Dense(257, "relu"), Dense(300, "tanh"), Dense(33)]
        model = Sequential(layers, "cross_entropy", rule(), dtype=dtype, seed=6, n_threads=threads, **settings)
        return model.fit(*wide_data(dtype), epochs=2, batch_size=300) and model

    put_together = runtime.Runtime._repeated

    def past_the_caches(self, *arguments):
        context = put_together(self, *arguments)
        context.integers[[layout.TRIED, layout.PAST_CACHES]] = epoch.FIRST_TRIAL + 2 * epoch.TRIAL + 1, 1
        return context

    def do_and_look(self, context):
        do(self, context)
        ways.append(int(context.integers[layout.PAST_CACHES]))

    usual = train()
    do = runtime.Runtime._do
    monkeypatch.setattr(runtime.Runtime, "_repeated", past_the_caches)
    monkeypatch.setattr(runtime.Runtime, "_do", do_and_look)
    same_state(train(), usual)
    assert ways
    assert set(ways) == {1}


@pytest.mark.parametrize("faster", [0, 1])
def test_the_faster_way_is_taken_and_tried_again(faster):
    """Of 0, the usual one, and 1, past the caches."""
    c, taken = np.zeros(layout.N_CONTEXT, np.int64), []

    def steps(count):
        for _ in range(count):
            epoch._choose_way.py_func(c)
            taken.append(int(c[layout.PAST_CACHES]))
            first = len(taken) > 1 and taken[-2] != taken[-1]  # which takes long
            epoch._count_step.py_func(c, 100 if first else 9 if taken[-1] == faster else 10)

    each = epoch.TRIAL
    trial, settled = [0] * each + [1] * each, [faster] * each
    steps(epoch.FIRST_TRIAL + 3 * each)
    assert taken == [0] * epoch.FIRST_TRIAL + trial + settled
    while c[layout.TRIED] != epoch.FIRST_TRIAL:
        steps(1)
        assert taken[-1] == faster
    assert len(taken) - epoch.FIRST_TRIAL == epoch.TRIAL_EVERY + 1
    del taken[:]
    steps(3 * each)
    assert taken == trial + settled


@pytest.mark.parametrize("full", [1, 3, 9])
def test_trials_end_however_short_calls_are(full, monkeypatch):
    """A step of a whole batch counts, but for the first of a call: here each epoch is one, its last batch is short."""
    contexts = []
    put_together = runtime.Runtime._repeated

    def remembered(self, *arguments):
        contexts.append(put_together(self, *arguments))
        return contexts[-1]

    monkeypatch.setattr(runtime.Runtime, "_repeated", remembered)
    x, y = (each[: full * 50 + 7] for each in wide_data("float32"))
    model = Sequential([Dense(257, "relu"), Dense(300, "tanh"), Dense(33)], "cross_entropy", fastnn.SGD(0.01), seed=1)
    epochs = 20
    model.fit(x, y, epochs=epochs, batch_size=50, callbacks=[fastnn.Callback()])
    (context,) = contexts
    assert context.integers[layout.MEMBERS] > 1
    counted = context.integers[layout.TRIED]
    assert (epochs - 3) * (full - 1) <= counted <= epochs * (full - 1)  # the first epochs take several calls
    assert counted > epoch.FIRST_TRIAL + 2 * epoch.TRIAL or full == 1


def test_the_number_of_threads_is_put_back():
    before = numba.get_num_threads()
    fit(small_model(n_threads=1), 1)
    fit(small_model(n_threads=2), 1)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_how_many_steps_a_call_takes_does_not_matter(seconds, monkeypatch):
    """The clock decides it: one step a call, or all of them."""
    plain = small_model(fastnn.Adam(fastnn.Warmup(0.02, steps=9)))
    fit(plain, 4)
    monkeypatch.setattr(training, "CALL_SECONDS", seconds)
    model = small_model(fastnn.Adam(fastnn.Warmup(0.02, steps=9)))
    fit(model, 4)
    same_state(model, plain)


# ---------------------------------------------------- calls that are put together once for many epochs


def disturb(model, x, y, epoch):
    """Use and change the model between two epochs, in ways that need larger workspaces than training does."""
    if epoch == 0:
        model.gradients(x, y)
        model.layer_outputs(x)
    elif epoch == 1:
        model.predict(x)
        model.evaluate(x, y)
        model.set_weights([0.5 * w for w in model.get_weights()])
    elif epoch == 2:
        numba.set_num_threads(2)
        model.backward(x, np.ones((len(x), 3)))
    elif epoch == 3:
        model.train_on_batch(x, y)


def arrays_with(callback):
    """Three fits, of other rows and other sizes of batches."""
    x, y, w = small_data()

    def train(model):
        model.fit(x, y, epochs=5, batch_size=10, sample_weight=w, callbacks=[callback(model, x, y)])
        model.fit(x[:31], y[:31], epochs=2, batch_size=4, sample_weight=w[:31])
        model.fit(x, y, epochs=2, batch_size=16, shuffle=False)

    return train


def blocks_with(callback):
    """Buffers of 20 rows of a stream, each with arrays of its own, and the last one shorter."""
    x, y, _ = small_data()

    def train(model):
        source = fastnn.stream(x, y, block_rows=10, buffer_rows=20)
        model.fit(source, epochs=5, batch_size=10, callbacks=[callback(model, x, y)])
        model.fit(x, y, epochs=2, batch_size=10)

    return train


def quiet(model, x, y):
    return fastnn.Callback()


def disturbing(model, x, y):
    return fastnn.LambdaCallback(lambda epoch, logs: disturb(model, x, y, epoch))


def watching(model, x, y):
    return fastnn.GradientFlow()


@pytest.mark.parametrize("callback", [quiet, disturbing, watching])
@pytest.mark.parametrize("source", [arrays_with, blocks_with])
@pytest.mark.parametrize("n_threads", [1, None])
def test_calls_kept_for_many_epochs_do_what_new_ones_do(n_threads, source, callback, threads, monkeypatch):
    kept, new = small_model(n_threads=n_threads), small_model(n_threads=n_threads)
    source(callback)(kept)
    monkeypatch.setattr(
        training.Trainer,
        "_training_calls",
        lambda trainer, data: trainer.model.runtime.training_calls(data, trainer.batch),
    )
    source(callback)(new)
    same_state(kept, new, leave_out=("callbacks",))


def test_calls_are_put_together_once_for_data_in_memory(monkeypatch):
    made = []
    make = runtime.Runtime.training_calls
    monkeypatch.setattr(runtime.Runtime, "training_calls", lambda *arguments: made.append(1) or make(*arguments))
    fit(small_model(), 4)
    assert len(made) == 1


# ----------------------------------------------------------------------------------------------- seeds


def test_other_seeds_differ():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
    start = [weight_bytes(small_model(seed=seed, input_size=5)) for seed in seeds]
    assert len(set(start)) == len(seeds)
    weights = small_model(seed=0, input_size=5).get_weights()
    for what in ("shuffling", "dropout"):
        results = set()
        for seed in seeds:
            layers = EVERYTHING if what == "dropout" else [Dense(9, "gelu"), Dense(7), Dense(3)]
            model = Sequential(layers, "cross_entropy", "sgd", seed=seed, input_size=5)
            model.set_weights(weights)
            x, y, _ = small_data()
            model.fit(x, y, epochs=1, batch_size=10, shuffle=what == "shuffling")
            results.add(weight_bytes(model))
        assert len(results) == len(seeds), what


def test_every_step_and_every_epoch_draws_anew():
    """The same weights and the same rows: only the mask or the order can make a difference."""
    x, y, _ = small_data()
    model = Sequential([Dense(8), Dropout(0.5), Dense(3)], "cross_entropy", "sgd", seed=3, input_size=5)
    weights = model.get_weights()
    losses = set()
    for _ in range(5):
        model.set_weights(weights)
        losses.add(model.train_on_batch(x, y)["loss"])
    assert len(losses) == 5
    plain = Sequential([Dense(8), Dense(3)], "cross_entropy", "sgd", seed=3, input_size=5)
    results = set()
    for _ in range(5):
        plain.set_weights(weights)
        plain.fit(x, y, epochs=1, batch_size=10)
        results.add(weight_bytes(plain))
    assert len(results) == 5


def test_numpy_s_own_random_numbers_are_left_alone():
    np.random.seed(1)  # noqa: NPY002, that state is what must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = small_model()
    fit(one, 2)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    other = small_model()
    fit(other, 2)
    same_state(one, other)


# --------------------------------------------------------------------------------------------- resuming

OPTIMIZERS = {
    "momentum": lambda: fastnn.SGD(0.05, momentum=0.9, nesterov=True),
    "adagrad": lambda: fastnn.AdaGrad(0.05),
    "rmsprop": lambda: fastnn.RMSprop(0.005, momentum=0.5, centered=True),
    "amsgrad, plateau behind a warm-up": lambda: fastnn.Adam(
        fastnn.Warmup(fastnn.ReduceOnPlateau(0.05, factor=0.5, patience=1, min_delta=9.0, cooldown=1), steps=13),
        amsgrad=True,
    ),
    "adamw, halving": lambda: fastnn.AdamW(fastnn.StepDecay(0.02, every=2)),
    "inverse time by steps": lambda: fastnn.Adam(fastnn.InverseTime(0.02, 0.1, unit="step")),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_resumed_from_a_file_is_not_interrupted(case, tmp_path):
    whole, first = small_model(OPTIMIZERS[case]()), small_model(OPTIMIZERS[case]())
    fit(whole, 9)
    fit(first, 4)
    first.save(tmp_path / "m.safetensors")
    resumed = fastnn.load(tmp_path / "m.safetensors")
    same_state(resumed, first)
    assert resumed.step > 0
    fit(resumed, 5)
    same_state(resumed, whole)
    # Nor does the file of a file differ, or a model that was never in one.
    fit(first, 5)
    same_state(first, whole)


def test_the_plateau_has_something_to_remember():
    """The case above is worth something only if the rate falls on both sides of the interruption."""
    model = small_model(OPTIMIZERS["amsgrad, plateau behind a warm-up"]())
    fit(model, 9)
    rates = model.history.history["lr"]
    assert rates[2] > rates[3] == rates[4] == rates[5] > rates[6]


class Break(fastnn.Callback):
    """Ends the process, as it were, right behind the checkpoint of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, epoch):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("order", ["stopping first", "checkpoint first"])
@pytest.mark.parametrize("epoch", [1, 6, 13])
def test_early_stopping_resumes_from_a_checkpoint(order, epoch, tmp_path):
    """Wherever it was interrupted, it stops at the same epoch with the same best weights."""

    def stopping():
        return fastnn.EarlyStopping(patience=3, min_delta=0.02)

    def rule():
        return fastnn.SGD(fastnn.Warmup(fastnn.ReduceOnPlateau(0.5, 0.5, patience=0), steps=9), momentum=0.5)

    whole, watch = small_model(rule()), stopping()
    fit(whole, 40, [watch])
    assert watch.stopped
    assert (whole.epoch, watch.best_epoch) == (15, 11)

    path = tmp_path / "m.safetensors"
    callbacks = [stopping(), fastnn.Checkpoint(path)]
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(rule()), 40, [*(callbacks if order == "stopping first" else callbacks[::-1]), Break(epoch)])
    resumed, again = fastnn.load(path), stopping()
    assert resumed.epoch == epoch
    fit(resumed, 40 - epoch, [again])
    assert (again.best, again.best_epoch, again.waited) == (watch.best, watch.best_epoch, watch.waited)
    assert resumed.epoch == whole.epoch
    same_state(resumed, whole, leave_out=["history", "callbacks"])


def test_a_checkpoint_holds_the_history_up_to_its_epoch(tmp_path):
    model = small_model()
    fit(model, 3, [fastnn.Checkpoint(tmp_path / "m.safetensors")])
    loaded = fastnn.load(tmp_path / "m.safetensors")
    assert loaded.epoch == 3
    assert loaded.history.epoch == [0, 1, 2]
    assert history_of(loaded) == history_of(model)


# ------------------------------------------------------------------------------------- within the arrays

MARGIN = 200_000
"""Elements on either side of a guarded vector: more than the scratch of a task, so that a task too many shows."""

SHAPES = [
    (1, 1, 1, 1), (3, 5, 7, 2), (17, 33, 15, 31), (97, 131, 129, 65), (64, 10, 400, 3), (33, 700, 5, 257),
    (1100, 3, 5, 2),  # whose gradients are summed by chunks of rows
]  # fmt: skip


def guarded_trainings(monkeypatch):
    """Train with vectors full of NaN between margins of NaN: nothing else is written, nothing unwritten is read."""
    buffers = []

    def guarded_empty(size, dtype):
        room = np.frombuffer(bytearray(b"\xff") * ((size + 2 * MARGIN) * dtype.itemsize), dtype).copy()
        start = MARGIN + (-room[MARGIN:].ctypes.data % 64) // dtype.itemsize
        buffers.append((room, start, start + size))
        return room[start : start + size]

    for batch, inputs, hidden, outputs in SHAPES:
        rng = np.random.default_rng(batch)
        x, y = rng.normal(size=(2 * batch + 1, inputs)), rng.normal(size=(2 * batch + 1, outputs))
        layers = [Dense(hidden, "gelu"), Dropout(0.3), Dense(hidden, "sigmoid"), Dropout(0.3), Dense(outputs)]

        def train(x=x, y=y, layers=layers, batch=batch):
            model = Sequential(layers, "squared_error", fastnn.Adam(0.01, clip_norm=0.1), l1=0.01, seed=1)
            model.fit(x, y, epochs=1, batch_size=batch)  # the last batch has one row
            dx, _ = model.backward(x, y)
            return weight_bytes(model), model.predict(x).tobytes(), dx.tobytes(), model.evaluate(x, y)

        want = train()
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "aligned_empty", guarded_empty)
            assert train() == want, "something was read that had not been written"
        assert len(buffers) >= 5
        for room, start, stop in buffers:
            assert (room[:start].view(np.uint8) == 0xFF).all(), "a write before the beginning of a vector"
            assert (room[stop:].view(np.uint8) == 0xFF).all(), "a write past the end of a vector"
        buffers.clear()


def test_compiled_code_stays_within_its_vectors(monkeypatch):
    guarded_trainings(monkeypatch)


def test_a_workspace_has_room_for_every_shorter_batch():
    """A short last batch is cut by its own size: its products never need more scratch than was planned for."""
    rng, dtype = np.random.default_rng(1), np.dtype("float32")
    for _ in range(3000):
        rows, inputs, units = np.exp(rng.uniform(0, np.log(4000), size=3)).round().astype(int).tolist()
        threads, shorter = int(rng.integers(1, 80)), int(rng.integers(1, rows + 1))
        plan = Network([Dense(units)], inputs, fastnn.SquaredError(), dtype).plan(rows, threads)
        shapes = (shorter, units, inputs), (inputs, units, shorter), (shorter, inputs, units)
        scratch = max(product_scratch(*shape, dtype) for shape in shapes)
        assert GROUP + scratch <= plan.offsets[layout.SCRATCH_EACH], (rows, inputs, units, threads, shorter)
        assert 1 <= plan.members <= threads
        last = plan.offsets[layout.SCRATCH] + plan.members * plan.offsets[layout.SCRATCH_EACH]
        assert last <= plan.work_size


# --------------------------------------------------------------------------------------- other processes

SCRIPT = """
import sys
import fastnn
import numba
from support import digest
import pytest
from test_determinism import OPTIMIZERS, fit, guarded_trainings, small_model, tall_model, wide_model
model = small_model(OPTIMIZERS["momentum"]())
fit(model, 5)
model.save(sys.argv[2])
resumed = fastnn.load(sys.argv[1])
fit(resumed, 3)
guarded_trainings(pytest.MonkeyPatch)
wide = {digest(wide_model(threads=n)) for n in (1, 2, 4, 8, None)}
tall = {digest(tall_model(threads=n)) for n in (1, 2, 4, 8, None)}
print(numba.config.NUMBA_NUM_THREADS, digest(model), digest(resumed), *wide, *tall)
"""


@pytest.mark.parametrize("threads", [1, 8])  # 8 is more than the machine may have
def test_the_same_bits_in_another_process(threads, tmp_path):
    """Another number of threads, another hash seed; and a file goes from one process to the other and back."""
    here = small_model(OPTIMIZERS["momentum"]())
    fit(here, 2)
    here.save(tmp_path / "two.safetensors")
    fit(here, 3)
    files = tmp_path / "two.safetensors", tmp_path / "five.safetensors"
    answer = run_python(SCRIPT, *files, NUMBA_NUM_THREADS=str(threads), PYTHONHASHSEED="7")
    assert answer.split() == [str(threads), *map(digest, (here, here, wide_model(), tall_model()))]
    same_state(fastnn.load(tmp_path / "five.safetensors"), here)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_ten_resumed_calls_are_one(case, tmp_path):
    """Each a process of its own, as it were: a new model, and nothing but the folder from before."""

    def callbacks(folder):
        return [fastnn.EarlyStopping(patience=9), fastnn.Checkpoint(tmp_path / folder, keep=2)]

    whole = small_model(OPTIMIZERS[case]())
    fit(whole, 10, callbacks("whole"))
    for epochs in range(1, 11):
        model = small_model(OPTIMIZERS[case](), n_threads=(1, 2, 4, 8)[epochs % 4])
        fit(model, epochs, callbacks("parts"), resume=tmp_path / "parts")
        assert model.epoch == epochs
    same_state(model, whole)
