"""Learning rates: hand values, the same bits however they are asked for, saved and restored, PyTorch's."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnn import schedules
from fastnn.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    Warmup,
    as_schedule,
    from_config,
    metric_to_watch,
    resolve_mode,
)

EXAMPLES = [
    Constant(0.3),
    StepDecay(0.1, factor=0.7, every=3, unit="step"),
    StepDecay(0.1, 0.5, 1),
    Exponential(0.1, decay=0.9, every=7, unit="step"),
    Exponential(0.1),
    InverseTime(0.1, decay=0.3, every=5, unit="step"),
    InverseTime(0.1, 0.5),
    Cosine(0.1, steps=37, final=0.01, unit="step"),
    Cosine(0.1, 4),
    ReduceOnPlateau(0.1, patience=2, cooldown=1, min_lr=1e-3, monitor="accuracy", mode="max"),
    Warmup(0.1, steps=20),
    Warmup(Cosine(0.1, 50, unit="step"), steps=13),
    Warmup(ReduceOnPlateau(0.1), steps=5),
]
EACH = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def over_epochs(schedule, n):
    return [schedule.rate(step=10 * epoch, epoch=epoch) for epoch in range(n)]


# hand values


def test_constant():
    np.testing.assert_array_equal(Constant(0.25).rates(7, 3, 4), [0.25] * 4)


def test_step_decay_halves_after_every_epoch():
    assert over_epochs(StepDecay(0.8), 5) == [0.8, 0.4, 0.2, 0.1, 0.05]


def test_step_decay_counts_steps_across_epochs():
    schedule = StepDecay(1.0, factor=0.1, every=3, unit="step")
    np.testing.assert_allclose(schedule.rates(1, 0, 7), [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-15)
    np.testing.assert_array_equal(schedule.rates(3, 9, 2), schedule.rates(3, 0, 2))


def test_exponential_is_smooth():
    schedule = Exponential(0.5, decay=0.25, every=2)
    np.testing.assert_allclose(over_epochs(schedule, 5), [0.5, 0.25, 0.125, 0.0625, 0.03125], rtol=1e-15)


def test_inverse_time():
    schedule = InverseTime(0.6, decay=0.5, every=2, unit="step")
    np.testing.assert_allclose(schedule.rates(0, 0, 5), [0.6, 0.48, 0.4, 0.6 / 1.75, 0.3], rtol=1e-15)


def test_cosine_falls_to_final_and_stays():
    schedule = Cosine(1.0, steps=4, final=0.2)
    c = math.cos(math.pi / 4)
    expected = [1.0, 0.6 + 0.4 * c, 0.6, 0.6 - 0.4 * c, 0.2, 0.2, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(over_epochs(schedule, 9), expected, rtol=1e-15)
    assert schedule.rate(0, 10**9) == 0.2


def test_warmup_is_linear_and_ends_in_full():
    np.testing.assert_allclose(Warmup(0.8, steps=4).rates(0, 0, 6), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-15)
    assert Warmup(0.8, steps=1).rate(0, 0) == 0.8


def test_warmup_scales_the_schedule_behind_at_its_own_counters():
    behind = StepDecay(0.8, factor=0.5, every=1)
    schedule = Warmup(behind, steps=4)
    np.testing.assert_allclose(schedule.rates(2, 1, 3), [0.3, 0.4, 0.4], rtol=1e-15)
    np.testing.assert_array_equal(schedule.rates(4, 2, 2), behind.rates(4, 2, 2))


def test_growing_rates_overflow_to_infinity_without_an_error():
    assert StepDecay(1.0, factor=10.0).rate(0, 10_000) == math.inf
    assert Exponential(1.0, decay=1.5, unit="step").rate(10**6, 0) == math.inf


# reduce on plateau

PLATEAU = [1.0, 0.9, 0.95, 0.91, 0.92, 0.8, 0.81, 0.82, 0.83, 0.84]


def run_plateau(schedule, values, key="val_loss"):
    rates = []
    for epoch, value in enumerate(values):
        rates.append(schedule.rate(step=epoch, epoch=epoch))
        schedule.epoch_end({key: value, "loss": 0.0} if key != "loss" else {key: value})
    return [*rates, schedule.rate(0, 0)]


def test_plateau_reduces_after_more_than_patience_epochs():
    rates = run_plateau(ReduceOnPlateau(1.0, factor=0.5, patience=1, min_delta=0.0), PLATEAU)
    # bad epochs are 2, 3 (reduced), 4, 6, 7 (reduced), 8, 9 (reduced)
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_plateau_cooldown_epochs_do_not_count():
    rates = run_plateau(ReduceOnPlateau(1.0, factor=0.5, patience=0, min_delta=0.0, cooldown=2), [1.0] * 8)
    # reduced after epoch 1, epochs 2 and 3 do not count; after 4, and 5 and 6 do not; after 7
    assert rates == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_plateau_min_delta_is_absolute_and_strict():
    values = [1.0, 0.75, 0.625, 0.49]
    rates = run_plateau(ReduceOnPlateau(1.0, factor=0.5, patience=0, min_delta=0.25), values)
    # 0.75 is not more than 0.25 better than 1.0, 0.625 is, and 0.49 is not again
    assert rates == [1, 1, 0.5, 0.5, 0.25]


def test_plateau_never_falls_below_min_lr():
    rates = run_plateau(ReduceOnPlateau(1.0, factor=0.5, patience=0, min_lr=0.3), [1.0] * 6)
    assert rates == [1, 1, 0.5, 0.3, 0.3, 0.3, 0.3]


def test_plateau_counts_nan_as_no_improvement():
    rates = run_plateau(ReduceOnPlateau(1.0, factor=0.5, patience=1), [math.nan, math.nan, 1.0, math.nan])
    assert rates == [1, 1, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy", "val_r2"])
def test_plateau_takes_more_accuracy_for_better(monitor):
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, monitor=monitor)
    assert run_plateau(schedule, [0.1, 0.2, 0.15, 0.3], key=monitor) == [1, 1, 1, 0.5, 0.5]


def test_plateau_is_known_by_its_parameters_wherever_it_stands():
    plateau = ReduceOnPlateau(1.0, patience=0, cooldown=3)
    new, shown = plateau.fresh(), repr(plateau)
    run_plateau(plateau, [1.0, 2.0, 3.0])
    assert plateau.state() != new.state()
    assert (plateau, repr(plateau)) == (new, shown)


def test_plateau_watches_the_training_loss_where_there_is_no_validation():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    assert run_plateau(schedule, [1.0, 1.0, 0.5], key="loss") == [1, 1, 0.5, 0.5]


def test_plateau_names_the_metrics_there_are():
    schedule = ReduceOnPlateau(1.0, monitor="val_acuracy")
    with pytest.raises(ValueError, match=r"monitor: got 'val_acuracy', expected one of 'loss', 'val_accuracy'"):
        schedule.epoch_end({"loss": 1.0, "val_accuracy": 0.5})
    with pytest.raises(ValueError, match=r"monitor: got 'val_accuracy', expected one of 'loss', 'accuracy'"):
        metric_to_watch({"loss": 1.0, "accuracy": 0.5}, "val_accuracy")
    with pytest.raises(ValueError, match=r"monitor: got 'val_loss', expected one of 'accuracy'"):
        ReduceOnPlateau(1.0).epoch_end({"accuracy": 0.5})


def test_plateau_reaches_through_a_warmup():
    schedule = Warmup(ReduceOnPlateau(1.0, factor=0.5, patience=0), steps=2)
    schedule.epoch_end({"loss": 1.0})
    schedule.epoch_end({"loss": 1.0})
    np.testing.assert_array_equal(schedule.rates(0, 2, 3), [0.25, 0.5, 0.5])


def test_resolve_mode():
    for name in ("val_accuracy", "acc", "r2", "val_roc_auc", "F1", "f1_macro", "precision", "recall", "my_score"):
        assert resolve_mode(name, "auto") == "max", name
    for name in ("loss", "val_loss", "mae", "val_rmse", "accuracy_loss", "f1_error", "lr", "inaccuracy"):
        assert resolve_mode(name, "auto") == "min", name
    assert resolve_mode("loss", "max") == "max"
    assert resolve_mode("accuracy", "min") == "min"


# the same bits however many are asked for


@EACH
@given(cuts=st.lists(st.integers(0, 80), max_size=6), start=st.integers(0, 60), epoch=st.integers(0, 9))
def test_rates_do_not_depend_on_how_they_are_cut(schedule, cuts, start, epoch):
    whole = schedule.rates(start, epoch, 80)
    assert whole.dtype == np.float64
    assert whole.shape == (80,)
    ends = [0, *sorted(cuts), 80]
    parts = [schedule.rates(start + a, epoch, b - a) for a, b in itertools.pairwise(ends)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert schedule.rate(start + 41, epoch) == whole[41]


@EACH
def test_rates_are_positive_and_ours_to_change(schedule):
    first = schedule.rates(0, 0, 5)
    assert (first > 0).all()
    first[:] = -1
    assert (schedule.rates(0, 0, 5) > 0).all()


# config and state


@EACH
def test_config_goes_through_json_and_back(schedule):
    back = from_config(json.loads(json.dumps(schedule.config(), allow_nan=False)))
    assert back == schedule
    assert type(back) is type(schedule)
    np.testing.assert_array_equal(back.rates(3, 2, 60), schedule.rates(3, 2, 60))


@EACH
def test_schedules_that_do_not_listen_have_no_state(schedule):
    behind = schedule.schedule if isinstance(schedule, Warmup) else schedule
    if isinstance(behind, ReduceOnPlateau):
        assert schedule.state() == {"now": 0.1, "best": None, "bad_epochs": 0, "cooling": 0}
    else:
        assert schedule.state() == {}
        schedule.restore({})
        with pytest.raises(ValueError, match=r"state: got now, expected none"):
            schedule.restore({"now": 0.1})


@pytest.mark.parametrize("cut", range(len(PLATEAU)))
@pytest.mark.parametrize("warm", [False, True])
def test_restored_plateau_goes_on_as_if_uninterrupted(cut, warm):
    def build():
        plateau = ReduceOnPlateau(1.0, factor=0.7, patience=1, cooldown=1)
        return Warmup(plateau, steps=4) if warm else plateau

    whole = run_plateau(build(), PLATEAU)
    first = build()
    before = run_plateau(first, PLATEAU[:cut])[:-1]
    second = from_config(first.config())
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    after = [second.rate(cut, cut)]
    for epoch, value in enumerate(PLATEAU[cut:], start=cut):
        second.epoch_end({"val_loss": value})
        after.append(second.rate(epoch + 1, epoch + 1) if epoch + 1 < len(PLATEAU) else second.rate(0, 0))
    assert before + after == whole


@pytest.mark.parametrize("best", [math.inf, -math.inf])
def test_a_best_value_may_be_infinite(best):
    """As a ratio of signal to noise is where there is no noise."""
    first, second = (ReduceOnPlateau(0.1, monitor="ratio", mode="max" if best > 0 else "min") for _ in range(2))
    first.epoch_end({"ratio": best})
    second.restore(first.state())
    assert second.state() == first.state()
    assert second.state()["best"] == best


GOOD_STATE = {"now": 0.05, "best": 1.0, "bad_epochs": 1, "cooling": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"now": -1.0}, ValueError, r"state\['now'\]: got -1.0"),
        ({"now": 2.0}, ValueError, r"state\['now'\]: got 2.0, expected a number in \[0, 0.1\]"),
        ({"now": "0.1"}, TypeError, r"state\['now'\]: got '0.1'"),
        ({"best": math.nan}, ValueError, r"state\['best'\]"),
        ({"bad_epochs": 1.5}, TypeError, r"state\['bad_epochs'\]"),
        ({"cooling": -1}, ValueError, r"state\['cooling'\]"),
        ({"more": 1}, ValueError, r"state: got now, best, bad_epochs, cooling, more, expected now, best"),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, error, message):
    schedule = ReduceOnPlateau(0.1)
    schedule.restore(GOOD_STATE)
    assert schedule.state() == GOOD_STATE
    with pytest.raises(error, match=message):
        schedule.restore(GOOD_STATE | {"now": 0.01, "best": 9.0, "bad_epochs": 7} | change)
    assert schedule.state() == GOOD_STATE


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"name": "Cosin", "lr": 0.1}, ValueError, r"schedule: got 'Cosin', .* Did you mean 'Cosine'\?"),
        ({"lr": 0.1}, ValueError, r"schedule: got None, expected one of 'Constant'"),
        ({"name": ["Constant"]}, ValueError, r"schedule: got \['Constant'\]"),
        ({"name": "Constant"}, ValueError, r"Constant: got no parameters, expected lr"),
        ({"name": "Constant", "lr": 0.1, "x": 1}, ValueError, r"Constant: got lr, x, expected lr"),
        ({"name": "Constant", "lr": "0.1"}, TypeError, r"lr: got '0.1'"),
        ({"name": "Constant", "lr": -1}, ValueError, r"lr: got -1, expected a number > 0"),
        ([("name", "Constant")], TypeError, r"schedule: got .*, expected a mapping"),
        (
            {"name": "Warmup", "steps": 3, "schedule": {"name": "Warmup"}},
            ValueError,
            r"a Warmup behind a Warmup",
        ),
        (
            {"name": "Warmup", "steps": 3, "schedule": 0.1},
            TypeError,
            r"schedule: got 0.1, expected a mapping",
        ),
    ],
)
def test_a_wrong_config_is_refused(config, error, message):
    with pytest.raises(error, match=message):
        from_config(config)


# arguments


def test_as_schedule():
    assert as_schedule(0.5) == Constant(0.5)
    assert as_schedule(np.float32(0.5)) == Constant(0.5)
    schedule = Cosine(0.1, 5)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: as_schedule(-0.1), ValueError, r"lr: got -0.1, expected a number > 0"),
        (lambda: as_schedule("fast"), TypeError, r"lr: got 'fast' \(str\), expected a number > 0"),
        (lambda: as_schedule(Cosine), TypeError, r"lr: got the class Cosine, expected an instance"),
        (lambda: Constant(0), ValueError, r"lr: got 0, expected a number > 0"),
        (lambda: Constant(math.inf), ValueError, r"lr: got inf, expected a finite number > 0"),
        (lambda: StepDecay(0.1, factor=0), ValueError, r"factor: got 0, expected a number > 0"),
        (lambda: StepDecay(0.1, every=0), ValueError, r"every: got 0, expected an integer >= 1"),
        (lambda: StepDecay(0.1, every=1.5), TypeError, r"every: got 1.5 \(float\), expected an integer >= 1"),
        (lambda: StepDecay(0.1, unit="epochs"), ValueError, r"unit: got 'epochs', .* Did you mean 'epoch'\?"),
        (lambda: Exponential(0.1, decay=-1), ValueError, r"decay: got -1, expected a number > 0"),
        (lambda: Exponential(0.1, every=True), TypeError, r"every: got True"),
        (lambda: InverseTime(0.1, decay=math.nan), ValueError, r"decay: got nan"),
        (lambda: InverseTime(-0.1, decay=1), ValueError, r"lr: got -0.1"),
        (lambda: Cosine(0.1, steps=0), ValueError, r"steps: got 0, expected an integer >= 1"),
        (lambda: Cosine(0.1, steps=3, final=-1e-9), ValueError, r"final: got -1e-09, expected a number >= 0"),
        (
            lambda: Cosine(0.1, steps=3, unit=None),
            ValueError,
            r"unit: got None, expected one of 'epoch', 'step'",
        ),
        (lambda: Warmup(0.1, steps=-1), ValueError, r"steps: got -1, expected an integer >= 1"),
        (lambda: Warmup("x", steps=3), TypeError, r"lr: got 'x'"),
        (
            lambda: Warmup(Warmup(0.1, 3), 3),
            ValueError,
            r"schedule: got Warmup.*, expected a schedule without",
        ),
        (lambda: ReduceOnPlateau(0.1, factor=1), ValueError, r"factor: got 1, expected a number in \(0, 1\)"),
        (
            lambda: ReduceOnPlateau(0.1, patience=-1),
            ValueError,
            r"patience: got -1, expected an integer >= 0",
        ),
        (lambda: ReduceOnPlateau(0.1, min_delta=-1), ValueError, r"min_delta: got -1"),
        (lambda: ReduceOnPlateau(0.1, cooldown=0.5), TypeError, r"cooldown: got 0.5"),
        (
            lambda: ReduceOnPlateau(0.1, min_lr=0.2),
            ValueError,
            r"min_lr: got 0.2, expected a number in \[0, 0.1\]",
        ),
        (
            lambda: ReduceOnPlateau(0.1, mode="most"),
            ValueError,
            r"mode: got 'most', expected one of 'auto', 'min'",
        ),
        (
            lambda: ReduceOnPlateau(0.1, monitor=3),
            TypeError,
            r"monitor: got 3 \(int\), expected a metric's name",
        ),
    ],
)
def test_wrong_arguments_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_every_public_schedule_can_be_saved():
    public = {getattr(schedules, name) for name in schedules.__all__ if name[0].isupper()} - {Schedule}
    assert len(public) == 7
    assert set(schedules._SCHEDULES.values()) == public
    assert {type(schedule) for schedule in EXAMPLES} == public


# PyTorch


def torch_rates(torch, build, n, metrics=None):
    """The rates that a PyTorch scheduler gives for `n` calls of step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = build(torch.optim.lr_scheduler, optimizer)
    rates = []
    for i in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if metrics is None else [metrics[i]]))
    return rates


@pytest.mark.torch
@pytest.mark.parametrize(
    ("schedule", "build"),
    [
        (StepDecay(0.1, 0.5, 3, "step"), lambda s, o: s.StepLR(o, step_size=3, gamma=0.5)),
        (Exponential(0.1, 0.93, unit="step"), lambda s, o: s.ExponentialLR(o, gamma=0.93)),
        (InverseTime(0.1, 0.2, unit="step"), lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + 0.2 * t))),
        (Cosine(0.1, 40, 0.01, "step"), lambda s, o: s.CosineAnnealingLR(o, T_max=40, eta_min=0.01)),
        (Warmup(0.1, 9), lambda s, o: s.LinearLR(o, start_factor=1 / 9, total_iters=8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rates_are_those_of_pytorch(torch, schedule, build):
    np.testing.assert_allclose(schedule.rates(0, 0, 40), torch_rates(torch, build, 40), rtol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown", "min_delta"), [(0, 0, 0.0), (2, 0, 0.02), (1, 3, 0.1)])
def test_plateau_is_that_of_pytorch(torch, rng, mode, patience, cooldown, min_delta):
    metrics = (np.exp(-np.arange(120) / 25) + 0.1 * rng.standard_normal(120)).tolist()
    if mode == "max":
        metrics = [-value for value in metrics]
    metrics[17] = math.nan
    parameters = {"factor": 0.6, "patience": patience, "cooldown": cooldown, "min_lr": 1e-3}
    expected = torch_rates(
        torch,
        lambda s, o: s.ReduceLROnPlateau(o, mode=mode, threshold=min_delta, threshold_mode="abs", eps=0, **parameters),
        120,
        metrics,
    )
    got = run_plateau(ReduceOnPlateau(0.1, mode=mode, min_delta=min_delta, **parameters), metrics)[:-1]
    assert len(set(expected)) > 3
    np.testing.assert_allclose(got, expected, rtol=1e-12)


class _OneRateForAll(schedules.Schedule):
    def rates(self, step, epoch, n_steps):
        return np.array([0.1])


def test_a_warm_up_checks_the_schedule_behind_it():
    with pytest.raises(ValueError, match=r"^_OneRateForAll.rates: got array\(\[0.1\]\), expected an array of 5 rates"):
        schedules.Warmup(_OneRateForAll(), steps=3).checked_rates(0, 0, 5)
