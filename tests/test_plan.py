"""How a step is shared out: every row, block of the loss and weight has one task, and all routes give one result."""

import numba
import numpy as np
import pytest

import fastnn
from fastnn import Activation, Dense, Dropout, Sequential, runtime
from fastnn.kernels import _shares, _team, layout, partition
from fastnn.network import Network

DRAWS = 300


def drawn_network(rng):
    sizes = np.exp(rng.uniform(0, np.log(3000), size=rng.integers(2, 5))).round().astype(int).tolist()
    layers = []
    for units in sizes[1:]:
        layers.append(Dense(units, "relu", use_bias=bool(rng.integers(2))))
        layers += [Dropout(0.1)] if rng.integers(2) else []
        layers += [Activation("tanh")] if rng.integers(3) == 0 else []
    return Network(layers, sizes[0], fastnn.SquaredError(), np.dtype("float32"), l2=0.01)


def test_every_weight_is_in_one_task():
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        network = drawn_network(rng)
        rows, threads = int(rng.integers(1, 3000)), int(rng.integers(1, 40))
        plan = network.plan(rows, threads)
        _, numbers, _ = network.update_blocks(0.5, truncate=False)
        room = plan.offsets[layout.SCRATCH_EACH] - plan.offsets[layout.GRADIENT_BLOCK]
        weights = {number: np.zeros((row[layout.N_IN], row[layout.N_OUT]), int)
                   for number, row in enumerate(plan.stages) if row[layout.KIND] == layout.DENSE}  # fmt: skip
        biases = {
            number: np.zeros(row[layout.N_OUT], int) for number, row in enumerate(plan.stages) if row[layout.BIAS] >= 0
        }
        for number, i0, i1, j0, j1, weight_block, bias_block in plan.weight_tasks:
            weights[number][i0:i1, j0:j1] += 1
            assert (i1 - i0 + 1) * (j1 - j0) <= room, "no room for the block's gradient and the bias's"
            assert numbers[weight_block].tolist() == [0.0, 0.01, 0.5, 0.0], "the penalties of a weight"
            if i0 == 0 and number in biases:
                biases[number][j0:j1] += 1
                assert numbers[bias_block].tolist() == [0.0, 0.0, 0.0, 0.0], "a bias has none"
        for counts in (*weights.values(), *biases.values()):
            assert (counts == 1).all(), (plan.weight_tasks, rows, threads)


@numba.njit
def blocks_of(rows):
    return partition.loss_blocks(rows)


@numba.njit
def block_of(rows, index):
    return partition.loss_block(rows, index)


@numba.njit
def rows_of(rows, first, last):
    return partition.rows_of_blocks(rows, first, last)


@numba.njit
def chunk_of(rows, chunks, t):
    return partition.rows_of_chunk(rows, chunks, t)


def test_every_row_is_in_one_chunk_of_whole_blocks():
    for rows in (*range(1, 200), 1023, 1024, 10_000):
        blocks = blocks_of(rows)
        ends = [block_of(rows, index) for index in range(blocks)]
        assert [0, *(stop for _, stop in ends)] == [*(start for start, _ in ends), rows]
        for first in range(blocks):
            for last in range(first + 1, blocks + 1):
                assert rows_of(rows, first, last) == (ends[first][0], ends[last - 1][1])
        for chunks in range(1, blocks + 1):
            parts = [chunk_of(rows, chunks, t) for t in range(chunks)]
            assert [0, *(stop for _, stop in parts)] == [*(start for start, _ in parts), rows]
            for start, stop in parts:
                assert start in [a for a, _ in ends]
                assert stop > start


def test_the_middle_of_batches_can_be_cut_finely():
    """For threads of other speeds to get other parts of them."""
    for rows in (64, 100, 128, 512, 10_000):
        assert blocks_of(rows) >= 8


@numba.njit
def share_out(team, blocks, members):
    _shares.share_out(team, blocks, members)


@numba.njit
def note_pace(team, seat, rows, nanoseconds):
    _shares.note_pace(team, seat, rows, nanoseconds)


def words_of(team, which):
    return team[_team.CLAIMS + which :: _team.LINE]


@pytest.mark.parametrize(
    ("paces", "blocks", "ends"),
    [
        ([0, 0], 8, [4, 8]),
        ([0, 500], 8, [4, 8]),
        ([500, 500], 8, [4, 8]),
        ([100, 300], 8, [6, 8]),
        ([300, 100], 8, [2, 8]),
        ([1, 10**9], 8, [7, 8]),
        ([10**9, 1], 8, [1, 8]),
        ([100, 100, 200, 200], 12, [4, 8, 10, 12]),
        ([10**9, 1, 10**9, 10**9], 4, [1, 2, 3, 4]),
        ([0, 0, 0], 64, [21, 42, 64]),
    ],
)
def test_who_is_faster_gets_more_rows(paces, blocks, ends):
    team = _team.team_words(len(paces))
    words_of(team, _shares.PACE)[:] = paces
    share_out(team, blocks, len(paces))
    assert words_of(team, _shares.LAST).tolist() == ends
    assert words_of(team, _shares.FIRST).tolist() == [0, *ends[:-1]]


def test_a_pace_follows_what_rows_take_but_no_single_mishap():
    team = _team.team_words(2)
    pace = words_of(team, _shares.PACE)
    note_pace(team, 1, 10, 1000)
    assert pace.tolist() == [0, 25_600]
    note_pace(team, 1, 20, 1000)
    assert pace[1] == (3 * 25_600 + 12_800) // 4
    before = int(pace[1])
    note_pace(team, 1, 10, 10**7)
    assert pace[1] == (3 * before + 2 * before) // 4


@pytest.mark.parametrize("paces", [(100, 10**6), (10**6, 100)])
def test_how_rows_are_shared_out_changes_no_bit(paces, monkeypatch):
    def of_other_speeds(members):
        team = _team.team_words(members)
        words_of(team, _shares.PACE)[:] = paces if members == 2 else 0
        return team

    x, y = np.random.default_rng(0).normal(size=(2, 250, 300))
    results = []
    for threads in (1, 2, 2):
        layers = [Dense(300, "tanh"), Dropout(0.2), Dense(300)]
        model = Sequential(layers, "squared_error", input_size=300, seed=0, n_threads=threads)
        losses = model.fit(x, y, epochs=2, batch_size=96, verbose=False).history["loss"]
        assert model.network.plan(96, threads).offsets[layout.ROW_TASKS] == threads
        results.append([losses, model.predict(x).tobytes(), *(w.tobytes() for w in model.get_weights())])
        monkeypatch.setattr(runtime, "team_words", of_other_speeds)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("clock", [True, False])
def test_rows_are_shared_out_alike_where_there_is_no_clock(clock, monkeypatch):
    """As on Windows: then no pace is ever known."""
    teams = []

    def team_of(members):
        teams.append(_team.team_words(members))
        if not clock:
            teams[-1][_team.CLOCK] = 0
        return teams[-1]

    monkeypatch.setattr(runtime, "team_words", team_of)
    x, y = np.random.default_rng(0).normal(size=(2, 192, 300))
    model = Sequential([Dense(300, "tanh"), Dense(300)], "squared_error", input_size=300, seed=0, n_threads=2)
    model.fit(x, y, epochs=2, batch_size=96, verbose=False)
    (team,) = [team for team in teams if words_of(team, _shares.LAST).any()]
    assert words_of(team, _shares.PACE).any() == (team[_team.CLOCK] != 0)
    if not clock:
        blocks = blocks_of(96)
        assert words_of(team, _shares.LAST).tolist() == [blocks // 2, blocks]


ROUTES = {"rows": (96, [(300, 300), (300, 64)]), "stages": (40, [(300, 300), (300, 64)]),
          "columns": (400, [(3, 2000), (2000, 5)])}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("settings", [{}, {"optimizer": fastnn.Adam(0.01, clip_norm=0.1)}, {"l1": 0.01}])
def test_all_routes_give_the_same_bits(route, settings, dtype):
    """Each thread some rows, all threads each stage, weights cut by columns: what comes out is one thread's."""
    batch, shapes = ROUTES[route]
    rng = np.random.default_rng(0)
    inputs = shapes[0][0]
    x, y = rng.normal(size=(2 * batch + 7, inputs)), rng.normal(size=(2 * batch + 7, shapes[-1][1]))
    weights = rng.uniform(0.5, 2, size=len(x))
    results = []
    for threads in (1, 2):
        layers = [Dense(shapes[0][1], "gelu"), Dropout(0.3), Activation("tanh"), Dense(shapes[1][1])]
        options = {"optimizer": fastnn.AdamW(0.01), **settings}
        options |= {"seed": 3, "n_threads": threads, "dtype": dtype, "input_size": inputs}
        model = Sequential(layers, "squared_error", **options)
        model.fit(x, y, epochs=2, batch_size=batch, sample_weight=weights, verbose=False)
        plan = model.network.plan(batch, threads)
        if threads == 2:
            assert plan.members == 2
            assert plan.offsets[layout.ROW_TASKS] == (0 if route == "stages" else 2)
        dx, gradients = model.backward(x[:batch], y[:batch])
        results.append([model.evaluate(x, y)["loss"], *(part.tobytes() for part in
                        (*model.get_weights(), model.runtime.state, dx, *gradients, model.predict(x)))])  # fmt: skip
    assert results[0] == results[1]


def test_a_wide_first_layer_is_cut_by_columns():
    plan = Network([Dense(2000), Dense(5)], 3, fastnn.SquaredError(), np.dtype("float32")).plan(400, 2)
    first = plan.weight_tasks[plan.weight_tasks[:, 0] == 0]
    assert len(first) > 1
    assert (first[:, 1:3] == [0, 3]).all()


def test_a_few_threads_get_as_many_rows_each():
    for rows in (*range(64, 300), 1023, 1024, 10_000):
        for tasks in (2, 4):
            sizes = [stop - start for start, stop in (chunk_of(rows, tasks, t) for t in range(tasks))]
            assert max(sizes) - min(sizes) <= 3, (rows, sizes)
