"""Whole trainings, 100 steps from the same weights: against the oracle's network, and against PyTorch in float64."""

from __future__ import annotations

import inspect
import math

import naive
import numpy as np
import pytest
from support import naive_layers, naive_weights

import fastnn
from fastnn import Dense, Dropout, Rescale, Sequential

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, BATCH, EPOCHS = 23, 5, 20  # 5 steps an epoch, the last of 3 rows; 100 steps
INPUTS, OUTPUTS = 4, 3

# Name of a case: the optimizer, and the same for the oracle.
OPTIMIZERS = {
    "sgd": (fastnn.SGD(0.1), {"name": "sgd", "lr": 0.1}),
    "sgd momentum": (fastnn.SGD(0.05, momentum=0.9), {"name": "sgd", "lr": 0.05, "momentum": 0.9}),
    "sgd nesterov": (
        fastnn.SGD(0.05, momentum=0.7, nesterov=True),
        {"name": "sgd", "lr": 0.05, "momentum": 0.7, "nesterov": True},
    ),
    "adagrad": (fastnn.AdaGrad(0.05), {"name": "adagrad", "lr": 0.05}),
    "adagrad eps inside": (
        fastnn.AdaGrad(0.05, eps=0.1, eps_inside_sqrt=True),
        {"name": "adagrad", "lr": 0.05, "eps": 0.1, "eps_inside_sqrt": True},
    ),
    "rmsprop": (fastnn.RMSprop(0.01), {"name": "rmsprop", "lr": 0.01}),
    "rmsprop momentum": (
        fastnn.RMSprop(0.005, alpha=0.9, eps=1e-3, momentum=0.8),
        {"name": "rmsprop", "lr": 0.005, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8},
    ),
    "rmsprop centered": (
        fastnn.RMSprop(0.005, alpha=0.9, eps=1e-2, centered=True),
        {"name": "rmsprop", "lr": 0.005, "alpha": 0.9, "eps": 1e-2, "centered": True},
    ),
    "rmsprop centered momentum": (
        fastnn.RMSprop(0.005, alpha=0.9, eps=1e-2, centered=True, momentum=0.7),
        {"name": "rmsprop", "lr": 0.005, "alpha": 0.9, "eps": 1e-2, "centered": True, "momentum": 0.7},
    ),
    "rmsprop eps inside": (
        fastnn.RMSprop(0.01, eps=0.1, eps_inside_sqrt=True),
        {"name": "rmsprop", "lr": 0.01, "eps": 0.1, "eps_inside_sqrt": True},
    ),
    "adam": (fastnn.Adam(0.01), {"name": "adam", "lr": 0.01}),
    "adam of other betas": (
        fastnn.Adam(0.01, betas=(0.8, 0.95), eps=1e-4),
        {"name": "adam", "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4},
    ),
    "amsgrad": (
        fastnn.Adam(0.01, betas=(0.9, 0.9), amsgrad=True),
        {"name": "adam", "lr": 0.01, "betas": (0.9, 0.9), "amsgrad": True},
    ),
    "clipped by value": (fastnn.SGD(0.1, clip_value=0.05), {"name": "sgd", "lr": 0.1, "clip_value": 0.05}),
    "clipped by norm": (fastnn.SGD(0.1, clip_norm=0.3), {"name": "sgd", "lr": 0.1, "clip_norm": 0.3}),
    "clipped by both": (
        fastnn.Adam(0.01, clip_value=0.2, clip_norm=0.3),
        {"name": "adam", "lr": 0.01, "clip_value": 0.2, "clip_norm": 0.3},
    ),
}

# Name of a case: the schedule, and the rate as a function of step and epoch.
SCHEDULES = {
    "constant": (fastnn.Constant(0.1), lambda step, epoch: 0.1),
    "the survey's halving": (fastnn.StepDecay(0.1, 0.5, every=4), lambda step, epoch: 0.1 * 0.5 ** (epoch // 4)),
    "step decay by steps": (
        fastnn.StepDecay(0.1, 0.9, every=3, unit="step"),
        lambda step, epoch: 0.1 * 0.9 ** (step // 3),
    ),
    "exponential": (fastnn.Exponential(0.1, 0.9), lambda step, epoch: 0.1 * 0.9**epoch),
    "inverse time by steps": (
        fastnn.InverseTime(0.1, 0.05, unit="step"),
        lambda step, epoch: 0.1 / (1 + 0.05 * step),
    ),
    "cosine": (
        fastnn.Cosine(0.1, steps=15, final=0.01),
        lambda step, epoch: 0.01 + 0.045 * (1 + math.cos(math.pi * min(epoch, 15) / 15)),
    ),
    "warm-up": (fastnn.Warmup(0.1, steps=30), lambda step, epoch: 0.1 * min(1.0, (step + 1) / 30)),
}


def data(loss, rng, rows=ROWS):
    x = rng.normal(size=(rows, INPUTS))
    if loss == "cross_entropy":
        return x, rng.integers(0, OUTPUTS, size=rows)
    if loss == "binary_cross_entropy":
        return x, rng.integers(0, 2, size=(rows, OUTPUTS)).astype(float)
    return x, rng.normal(size=(rows, OUTPUTS))


def build(loss, optimizer, layers=None, **settings):
    layers = layers or [Dense(6, "tanh"), Dropout(0.3), Dense(5, "gelu"), Dense(OUTPUTS)]
    return Sequential(layers, loss, optimizer, input_size=INPUTS, **{"dtype": "float64", "seed": 11, **settings})


def same_as_the_oracle(model, optimizer, x, y, epochs=EPOCHS, rtol=1e-6, w=None, shuffle=True):
    """Train both and compare the weights; returns (the model's losses, the oracle's losses)."""
    layers = naive_layers(model)
    start = model.get_weights()
    history = model.fit(x, y, epochs=epochs, batch_size=BATCH, sample_weight=w, shuffle=shuffle)
    losses = naive.network_train(
        layers, x, y, model.loss.name, optimizer, epochs, BATCH, model.seed, shuffle, w, l1_mode=model.l1_mode
    )
    for got, want, old in zip(model.get_weights(), naive_weights(layers), start, strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * 1e-3)
        assert np.abs(got - old).max() > 0.01, "nothing was learnt"
    assert model.step == epochs * -(-len(x) // BATCH)
    return history.history["loss"], losses


# --------------------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_every_optimizer(case, rng):
    """With dropout, both penalties, shuffling and a short last batch."""
    optimizer, settings = OPTIMIZERS[case]
    model = build("cross_entropy", optimizer, l1=0.002, l2=0.01)
    got, want = same_as_the_oracle(model, settings, *data("cross_entropy", rng))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_adamw_decays_weights_and_not_biases(rng):
    """The oracle's network decays biases too: without biases they agree, and a bias without gradient stays."""
    layers = [Dense(6, "tanh", use_bias=False), Dropout(0.3), Dense(OUTPUTS, use_bias=False)]
    model = build("squared_error", fastnn.AdamW(0.01, weight_decay=0.3), layers)
    same_as_the_oracle(model, {"name": "adamw", "lr": 0.01, "weight_decay": 0.3}, *data("squared_error", rng))
    model = build("squared_error", fastnn.AdamW(0.1, weight_decay=0.3), [Dense(OUTPUTS)])
    model.set_weights([np.ones((INPUTS, OUTPUTS)), np.full(OUTPUTS, 0.5)])
    model.fit(np.zeros((1, INPUTS)), np.full((1, OUTPUTS), 0.5), epochs=1)
    w, b = model.get_weights()
    np.testing.assert_allclose(w, np.full((INPUTS, OUTPUTS), 1 - 0.1 * 0.3), rtol=1e-14)
    np.testing.assert_array_equal(b, np.full(OUTPUTS, 0.5))


@pytest.mark.parametrize(
    ("loss", "ending"),
    # A cross entropy takes its own last activation or none.
    [(loss, None) for loss in naive.LOSSES]
    + [(loss, end) for loss in naive.LOSSES if "entropy" not in loss for end in ("softmax", "sigmoid")]
    + sorted(naive.FOLDED),
)
def test_every_loss(loss, ending, rng):
    layers = [Dense(6, "silu"), Dropout(0.3), Dense(OUTPUTS, ending)]
    model = build(loss, fastnn.SGD(0.02, momentum=0.8), layers, l2=0.01)
    settings = {"name": "sgd", "lr": 0.02, "momentum": 0.8}
    got, want = same_as_the_oracle(model, settings, *data(loss, rng))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("case", SCHEDULES)
def test_every_schedule(case, rng):
    schedule, rate = SCHEDULES[case]
    model = build("squared_error", fastnn.SGD(schedule, momentum=0.5))
    same_as_the_oracle(model, {"name": "sgd", "lr": rate, "momentum": 0.5}, *data("squared_error", rng))


@pytest.mark.parametrize("l1_mode", ["gradient", "truncate"])
def test_penalties_divided_by_the_weight_of_the_batch_and_a_scaled_loss(l1_mode, rng):
    """As scikit-learn has them; one batch weighs nothing, and the short last one little."""
    x, y = data("squared_error", rng)
    w = rng.uniform(0.2, 3.0, size=ROWS)
    w[5:10] = 0.0
    model = build("squared_error", fastnn.SGD(0.02, momentum=0.5, clip_norm=5.0), l1=0.1, l2=0.3, l1_mode=l1_mode)
    model.runtime.loss_scale, model.runtime.penalty_per_weight = 1.7, True
    layers = naive_layers(model)
    losses = model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, sample_weight=w, shuffle=False).history["loss"]
    settings = {"name": "sgd", "lr": 0.02, "momentum": 0.5, "clip_norm": 5.0}
    naive.network_train(
        layers, x, y, "squared_error", settings, EPOCHS, BATCH, model.seed, False, w,
        l1_mode=l1_mode, loss_scale=1.7, penalty_per_weight=True,
    )  # fmt: skip
    for got, want in zip(model.get_weights(), naive_weights(layers), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["sgd momentum", "adam", "clipped by norm"])
def test_truncating_l1(optimizer, rng):
    ours, theirs = OPTIMIZERS[optimizer]
    model = build("squared_error", ours, l1=0.1, l2=0.01, l1_mode="truncate")
    same_as_the_oracle(model, theirs, *data("squared_error", rng))
    zeros = sum(int((w == 0).sum()) for w in model.get_weights()[::2])
    assert zeros > 5, "truncating gives exact zeros"


def test_rescaled_bytes(rng):
    layers = [Rescale(1 / 255, -0.5), Dense(6, "relu"), Dropout(0.2), Dense(OUTPUTS)]
    model = build("cross_entropy", fastnn.Adam(0.02), layers)
    x = rng.integers(0, 256, size=(ROWS, INPUTS)).astype(np.uint8)
    y = rng.integers(0, OUTPUTS, size=ROWS)
    same_as_the_oracle(model, {"name": "adam", "lr": 0.02}, x, y)


@pytest.mark.parametrize("loss", ["cross_entropy", "huber"])
def test_weights_of_rows(loss, rng):
    """Some are 0, and one batch of them is nothing but zeros: it takes a step all the same, of penalties alone."""
    x, y = data(loss, rng)
    w = rng.uniform(0.2, 3.0, size=ROWS)
    w[5:10] = 0.0
    model = build(loss, fastnn.Adam(0.01), l2=0.05)
    same_as_the_oracle(model, {"name": "adam", "lr": 0.01}, x, y, w=w, shuffle=False)


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(rng):
    """A rate of almost nothing: every batch sees the same weights, so that the mean is the loss of all rows."""
    x, y = data("squared_error", rng)
    layers = [Dense(6, "tanh"), Dense(OUTPUTS)]
    model = build("squared_error", fastnn.SGD(1e-12), layers, l1=0.01)
    want = model.evaluate(x, y)["loss"]
    got = model.fit(x, y, epochs=1, batch_size=BATCH, shuffle=False).history["loss"][0]
    assert got == pytest.approx(want, rel=1e-9)
    per_batch = [model.evaluate(x[i : i + BATCH], y[i : i + BATCH])["loss"] for i in range(0, ROWS, BATCH)]
    assert abs(np.mean(per_batch) - want) > 1e-3, "the short batch would show"


def test_a_second_fit_goes_on_with_weights_state_and_counters(rng):
    x, y = data("cross_entropy", rng)
    schedule = fastnn.Warmup(fastnn.StepDecay(0.02, 0.8, every=3), steps=40)
    model = build("cross_entropy", fastnn.Adam(schedule))
    layers = naive_layers(model)
    for epochs in (7, 1, 12):
        model.fit(x, y, epochs=epochs, batch_size=BATCH)

    def rate(step, epoch):
        return 0.02 * 0.8 ** (epoch // 3) * min(1.0, (step + 1) / 40)

    naive.network_train(layers, x, y, "cross_entropy", {"name": "adam", "lr": rate}, EPOCHS, BATCH, model.seed)
    for got, want in zip(model.get_weights(), naive_weights(layers), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert model.history.epoch == list(range(EPOCHS))


def test_float32_follows_the_oracle(rng):
    x, y = data("cross_entropy", rng)
    model = build("cross_entropy", fastnn.SGD(0.1, momentum=0.5), dtype="float32", l2=0.01)
    layers = naive_layers(model)
    start = naive_layers(model)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH)
    settings = {"name": "sgd", "lr": 0.1, "momentum": 0.5}
    naive.network_train(layers, x, y, "cross_entropy", settings, EPOCHS, BATCH, model.seed)
    for got, want, old in zip(model.get_weights(), naive_weights(layers), naive_weights(start), strict=True):
        assert got.dtype == np.float32
        moved = np.abs(want - old).max()
        assert moved > 0.1
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * moved)


def test_a_wide_network_of_many_tasks(rng):
    """Two steps of a network whose every operation is cut up, all biases and weights in several update blocks."""
    layers = [Dense(257, "relu"), Dropout(0.3), Dense(130, "sigmoid"), Dense(OUTPUTS)]
    model = Sequential(layers, "cross_entropy", fastnn.Adam(0.01), input_size=67, dtype="float64", l2=0.01)
    x, y = rng.normal(size=(150, 67)), rng.integers(0, OUTPUTS, size=150)
    twin = naive_layers(model)
    start = model.get_weights()
    model.fit(x, y, epochs=1, batch_size=80)
    naive.network_train(twin, x, y, "cross_entropy", {"name": "adam", "lr": 0.01}, 1, 80, model.seed)
    for got, want, old in zip(model.get_weights(), naive_weights(twin), start, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)
        assert np.abs(got - old).max() > 1e-3


# ------------------------------------------------------------------------------------- against PyTorch

TORCH_OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd nesterov": ("SGD", {"lr": 0.05, "momentum": 0.7, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.05}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop momentum": ("RMSprop", {"lr": 0.005, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8}),
    "rmsprop centered": ("RMSprop", {"lr": 0.005, "alpha": 0.9, "eps": 1e-2, "centered": True}),
    "rmsprop centered momentum": (
        "RMSprop",
        {"lr": 0.005, "alpha": 0.9, "eps": 1e-2, "centered": True, "momentum": 0.7},
    ),
    "adam": ("Adam", {"lr": 0.01}),
    "adam of other betas": ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4}),
    "amsgrad": ("Adam", {"lr": 0.01, "betas": (0.9, 0.9), "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw amsgrad": ("AdamW", {"lr": 0.01, "betas": (0.9, 0.9), "amsgrad": True}),
    "clipped by value": ("SGD", {"lr": 0.1}),
    "clipped by norm": ("SGD", {"lr": 0.1}),
}
ADAMW = {
    "adamw": fastnn.AdamW(0.01, weight_decay=0.3),
    "adamw amsgrad": fastnn.AdamW(0.01, betas=(0.9, 0.9), amsgrad=True, weight_decay=0.3),
}


def torch_twin(torch, model):
    """The same network in PyTorch, float64, with the model's weights: (module, its weight matrices)."""
    activations = {
        "identity": torch.nn.Identity,
        "relu": torch.nn.ReLU,
        "leaky_relu": torch.nn.LeakyReLU,
        "elu": torch.nn.ELU,
        "sigmoid": torch.nn.Sigmoid,
        "tanh": torch.nn.Tanh,
        "softplus": torch.nn.Softplus,
        "gelu": torch.nn.GELU,
        "silu": torch.nn.SiLU,
    }
    parts, weights, width = [], iter(model.get_weights()), model.network.inputs
    for layer in model.layers:
        dense = torch.nn.Linear(width, layer.units, dtype=torch.float64)
        with torch.no_grad():
            dense.weight[:] = torch.tensor(next(weights).T)
            dense.bias[:] = torch.tensor(next(weights))
        parts += [dense, activations[layer.activation]()]
        width = layer.units
    twin = torch.nn.Sequential(*parts)
    return twin, [part for part in twin.parameters() if part.ndim == 2]


def train_twin(torch, twin, optimizer, criterion, x, y, w=None, penalty=None, clip_value=None, clip_norm=None):
    """100 steps over the batches in order; the batch's mean is weighted by `w`, which the criterion leaves open."""
    for _ in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            rows = slice(start, start + BATCH)
            losses = criterion(twin(torch.tensor(x[rows])), torch.tensor(y[rows]))
            losses = losses.reshape(len(losses), -1).mean(dim=1)
            weights = torch.ones(len(losses), dtype=torch.float64) if w is None else torch.tensor(w[rows])
            loss = (losses * weights).sum() / weights.sum() + (0.0 if penalty is None else penalty())
            optimizer.zero_grad()
            loss.backward()
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(twin.parameters(), clip_value)
            if clip_norm is not None:  # clip_grad_norm_ adds 1e-6 to the norm
                norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
                for parameter in twin.parameters():
                    parameter.grad *= min(1.0, clip_norm / float(norm))
            optimizer.step()
    return [p.detach().numpy().T if p.ndim == 2 else p.detach().numpy() for p in twin.parameters()]


def compare(model, want, start, tolerance=1e-6):
    for got, expected, old in zip(model.get_weights(), want, start, strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * 1e-3)
        assert np.abs(got - old).max() > 0.01, "nothing was learnt"


@pytest.mark.torch
@pytest.mark.parametrize("case", TORCH_OPTIMIZERS)
def test_every_optimizer_against_torch(case, torch, rng):
    """l2 as PyTorch's weight decay of the weights alone, l1 in the loss; AdamW's decay of the weights alone."""
    optimizer = ADAMW[case] if case in ADAMW else OPTIMIZERS[case][0]
    l1, l2 = 0.002, 0.0 if case in ADAMW else 0.02
    model = build("squared_error", optimizer, [Dense(6, "tanh"), Dense(5, "gelu"), Dense(OUTPUTS)], l1=l1, l2=l2)
    twin, kernels = torch_twin(torch, model)
    name, settings = TORCH_OPTIMIZERS[case]
    clipping = {"clipped by value": {"clip_value": 0.05}, "clipped by norm": {"clip_norm": 0.3}}.get(case, {})
    # PyTorch adds its weight decay behind the clipping: there l2 stands in the loss.
    decay = 0.3 if case in ADAMW else (0.0 if clipping else l2)
    biases = [part for part in twin.parameters() if part.ndim == 1]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
    theirs = getattr(torch.optim, name)(groups, **settings)

    def penalty():
        total = l1 * sum(w.abs().sum() for w in kernels)
        return total + (l2 / 2 * sum((w**2).sum() for w in kernels) if clipping else 0.0)

    x, y = data("squared_error", rng)
    start = model.get_weights()
    criterion = torch.nn.MSELoss(reduction="none")
    want = train_twin(torch, twin, theirs, criterion, x, y, penalty=penalty, **clipping)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, shuffle=False)
    compare(model, want, start)


@pytest.mark.torch
def test_defaults_are_those_of_torch(torch):
    pairs = [
        (fastnn.SGD, torch.optim.SGD, "momentum nesterov"),
        (fastnn.AdaGrad, torch.optim.Adagrad, "lr eps"),
        (fastnn.RMSprop, torch.optim.RMSprop, "lr alpha eps momentum centered"),
        (fastnn.Adam, torch.optim.Adam, "lr betas eps amsgrad"),
        (fastnn.AdamW, torch.optim.AdamW, "lr betas eps amsgrad weight_decay"),
        (fastnn.ReduceOnPlateau, torch.optim.lr_scheduler.ReduceLROnPlateau, "factor patience cooldown min_lr"),
        (fastnn.losses.Huber, torch.nn.HuberLoss, "delta"),
    ]
    for ours, theirs, names in pairs:
        own, want = (inspect.signature(each.__init__).parameters for each in (ours, theirs))
        assert {name: own[name].default for name in names.split()} == {n: want[n].default for n in names.split()}
    assert not fastnn.AdaGrad().eps_inside_sqrt
    assert not fastnn.RMSprop().eps_inside_sqrt


@pytest.mark.torch
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", [*naive.LOSSES, "soft cross_entropy"])
def test_every_loss_against_torch(loss, weighted, torch, rng):
    criterion = {
        "squared_error": torch.nn.MSELoss,
        "absolute_error": torch.nn.L1Loss,
        "huber": torch.nn.HuberLoss,
        "cross_entropy": torch.nn.CrossEntropyLoss,
        "soft cross_entropy": torch.nn.CrossEntropyLoss,
        "binary_cross_entropy": torch.nn.BCEWithLogitsLoss,
    }[loss](reduction="none")
    x, y = data(loss, rng)
    if loss.startswith("soft"):
        y = rng.dirichlet(np.ones(OUTPUTS), size=ROWS)
    w = rng.uniform(0.2, 3.0, size=ROWS) if weighted else None
    model = build(loss.split()[-1], fastnn.SGD(0.05, momentum=0.5), [Dense(6, "silu"), Dense(OUTPUTS)])
    twin, _ = torch_twin(torch, model)
    start = model.get_weights()
    theirs = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.5)
    want = train_twin(torch, twin, theirs, criterion, x, y, w)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, shuffle=False, sample_weight=w)
    compare(model, want, start)


@pytest.mark.torch
@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_every_activation_against_torch(activation, torch, rng):
    x, y = data("cross_entropy", rng)
    layers = [Dense(6, activation), Dense(5, activation), Dense(OUTPUTS)]
    model = build("cross_entropy", fastnn.Adam(0.01), layers)
    twin, _ = torch_twin(torch, model)
    start = model.get_weights()
    theirs = torch.optim.Adam(twin.parameters(), lr=0.01)
    want = train_twin(torch, twin, theirs, torch.nn.CrossEntropyLoss(reduction="none"), x, y)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, shuffle=False)
    compare(model, want, start)


def test_training_allocates_nothing_in_its_loop(dtype):
    """As many allocations of compiled code for one epoch of 3 steps as for one of 300: those of the call, if any."""
    from numba.core.runtime import _nrt_python as nrt
    from numba.core.runtime import rtsys

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 12)).astype(dtype), rng.integers(0, 5, 3000)
    layers = [fastnn.Dense(40, "gelu", l1=1e-4), fastnn.Dropout(0.2), fastnn.Dense(130, "tanh"), fastnn.Dense(5)]
    model = fastnn.Sequential(layers, "cross_entropy", fastnn.Adam(clip_norm=1.0), seed=0, dtype=dtype)
    model.fit(x, y, epochs=1, batch_size=1000)
    data = model._intake.batch(x, y, None)
    counts = []
    enabled = nrt.memsys_stats_enabled()
    nrt.memsys_enable_stats()
    try:
        for batch, repeats in ((1000, 1), (10, 1), (10, 1)):
            steps = 3000 // batch
            report = np.zeros((steps, 6))
            before = rtsys.get_allocation_stats().alloc
            for _ in range(repeats):
                calls = model.runtime.training_calls(data, batch)
                calls(np.arange(3000), 0, 3000, 0, np.full(steps, 1e-3), report)
            counts.append(rtsys.get_allocation_stats().alloc - before)
            assert (report[:, 5] > 0).all()
    finally:
        if not enabled:
            nrt.memsys_disable_stats()
    assert counts[0] == counts[1] == counts[2]
