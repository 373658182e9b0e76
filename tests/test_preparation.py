"""What a table's columns become, beside scikit-learn; what is learned of them, kept, and given back."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastnn
from fastnn.preparation import MAX_CATEGORIES, Classes, Moments, Numeric, Preparation, Values, mean_and_spread
from fastnn.tables import Categories, Table, read_table

NAN = np.nan


def categories(*cells):
    names = tuple(dict.fromkeys(cell for cell in cells if cell is not None))
    return Categories(np.array([-1 if cell is None else names.index(cell) for cell in cells], np.int64), names)


def table(**columns):
    return Table(columns, len(categories_or_numbers(next(iter(columns.values())))))


def categories_or_numbers(column):
    return column.codes if isinstance(column, Categories) else column


TARGET = Classes("y", ("no", "yes"))


def fit(*names, target=TARGET, **columns):
    return Preparation.fit(table(**columns), names or tuple(columns), target)


def test_numbers_are_standardised_as_scikit_learn_does():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(1e6, 3, 50), "b": rng.integers(0, 5, 50) * 1e-4, "c": np.full(50, 7.3)}
    new = {"a": rng.normal(1e6, 9, 20), "b": rng.normal(size=20), "c": rng.normal(size=20)}
    prepared = fit(**columns)
    scaler = preprocessing.StandardScaler().fit(np.column_stack(list(columns.values())))
    for part in (columns, new):
        got = prepared.transform(table(**part), np.float64)
        np.testing.assert_allclose(got, scaler.transform(np.column_stack(list(part.values()))), rtol=1e-9, atol=1e-9)
    assert prepared.transform(table(**new)).dtype == np.float32


def test_a_column_of_dates_stays_one():
    days = Table({"a": np.array([1.0, 3.0])}, 2, frozenset("a"))
    prepared = Preparation.fit(days, ["a"], TARGET)
    assert prepared.transform(days).tolist() == [[-1.0], [1.0]]
    assert Preparation.from_config(json.loads(json.dumps(prepared.config()))) == prepared
    assert prepared.transform(table(a=np.array([NAN]))).tolist() == [[0.0]], "no value, no kind"
    with pytest.raises(ValueError, match="column 'a': got numbers, expected dates, as in training"):
        prepared.transform(table(a=np.array([1.0])))
    with pytest.raises(ValueError, match="column 'a': got dates, expected numbers, as in training"):
        fit(a=np.array([1.0, 3.0])).transform(days)
    old = {"columns": [{"kind": "numeric", "name": "a", "mean": 1.0, "spread": 2.0, "indicator": False}]}
    assert not Preparation.from_config({**old, "target": prepared.config()["target"]}).columns[0].dates


def test_categories_without_an_input_are_counted():
    prepared = fit(w=categories("a", "b", "a"), n=np.ones(3))
    assert prepared.unseen(table(w=categories("z", "a", None, "z", "y"), n=np.ones(5))) == {"w": (3, ("z", "y"))}
    assert prepared.unseen(table(w=categories("a", None), n=np.ones(2))) == {}
    assert prepared.unseen(table(w=np.array([1.0, NAN]), n=np.ones(2))) == {"w": (1, ("1",))}


def test_categories_are_one_hot_as_scikit_learn_does():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    cells = ["b", "a", None, "c", "a"]
    new = ["c", "z", None, "a"]
    prepared = fit(w=categories(*cells))
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit(np.array(cells, object)[:, None])
    got = prepared.transform(table(w=categories(*new)), warn=False)
    np.testing.assert_array_equal(got, encoder.transform(np.array(new, object)[:, None]))
    assert prepared.inputs == ("w = a", "w = b", "w = c", "w is missing")


def test_missing_numbers_count_as_the_mean_and_are_marked():
    prepared = fit(a=np.array([1.0, NAN, 3.0]), b=np.array([4.0, 5.0, 6.0]))
    assert prepared.inputs == ("a", "a is missing", "b")
    got = prepared.transform(table(a=np.array([NAN, 2.0, 3.0]), b=np.array([NAN, 5.0, 5.0])), np.float64)
    np.testing.assert_allclose(got, [[0, 1, 0], [0, 0, 0], [1, 0, 0]], err_msg="training never lacked a b: no mark")


def test_missing_categories_that_training_never_lacked_are_zeros():
    prepared = fit(w=categories("a", "b"))
    assert prepared.inputs == ("w = a", "w = b")
    assert prepared.transform(table(w=categories(None, "b"))).tolist() == [[0, 0], [0, 1]]


def test_the_most_frequent_categories_are_kept():
    often = [f"w{i:03}" for i in range(MAX_CATEGORIES)]
    prepared = fit(w=categories("rare", *often, *often))
    assert prepared.columns[0].categories == tuple(often)
    assert not prepared.transform(table(w=categories("rare")), warn=False).any()


def test_only_categories_that_occur_count():
    """A dictionary, or the rows set apart, may hold more."""
    column = Categories(np.array([2, 0, 2]), ("c", "b", "a"))
    assert fit(w=column).columns[0].categories == ("a", "c")
    assert Classes.fit("w", column).classes == ("a", "c")


def test_columns_are_found_by_name():
    prepared = fit("w", "a", a=np.array([0.0, 2.0]), w=categories("u", "v"), extra=np.zeros(2))
    new = table(other=categories("x", "y"), w=categories("v", "u"), a=np.array([2.0, 0.0]))
    assert prepared.transform(new).tolist() == [[0, 1, 1], [1, 0, -1]]
    with pytest.raises(
        ValueError, match=r"^got no column 'w', 'a', expected all columns that the model was trained on$"
    ):
        prepared.transform(table(b=np.zeros(1)))


def test_columns_without_any_value_are_left_out():
    prepared = fit(a=np.array([1.0, 2.0]), empty=np.array([NAN, NAN]), none=categories(None, None))
    assert prepared.inputs == ("a",)


def test_a_column_of_another_kind():
    prepared = fit(a=np.array([1.0, 2.0]), w=categories("1", "2"))
    with pytest.raises(ValueError, match=r"^column 'a': got 'x' in row 1, expected numbers, as in training$"):
        prepared.transform(table(a=categories(None, "x"), w=categories("1", "1")))
    got = prepared.transform(table(a=categories(None, None), w=np.array([2.0, 3.0])), np.float64, warn=False)
    np.testing.assert_allclose(got, [[0, 0, 1], [0, 0, 0]], err_msg="numbers are looked up as words")


TRUTH = [("false", "true"), ("False", "True"), ("FALSE", "TRUE")]


@pytest.mark.parametrize("known", TRUTH)
@pytest.mark.parametrize("new", TRUTH)
def test_truth_values_are_found_however_they_are_written(known, new):
    prepared = fit(w=categories(*known, "maybe"), target=Classes("y", known))
    rows = table(w=categories(*new, "maybe"), y=categories(*new, new[0]))
    places = [prepared.inputs.index(f"w = {word}") for word in (*known, "maybe")]
    assert prepared.transform(rows).argmax(axis=1).tolist() == places
    assert prepared.unseen(rows) == {}
    assert prepared.target.encode(rows).tolist() == [0, 1, 0]
    assert prepared.unseen(table(w=categories("tRUE", "0"))) == {"w": (2, ("tRUE", "0"))}


def test_truth_values_of_a_frame_are_the_words_of_a_file():
    pytest.importorskip("pyarrow")
    prepared = fit(w=categories("false", "true"))
    assert prepared.transform({"w": [True, False]}).tolist() == [[0, 1], [1, 0]]


def test_a_category_written_in_several_ways_is_one():
    column = categories("1", "1.0", "2.0", "+1", "-0", "0", "01", "1.5", "true", "TRUE", "False", None)
    prepared = fit(w=column)
    assert prepared.columns[0].categories == ("0", "01", "1", "1.5", "2.0", "False", "true")
    assert prepared.transform(table(w=column)).sum(axis=1).tolist() == [1] * 12
    assert prepared.transform(table(w=np.array([1.0, 2.0]))).argmax(axis=1).tolist() == [2, 4]
    target = Classes.fit("y", column)
    assert target.classes == ("0", "01", "1", "1.5", "2.0", "False", "true")
    assert target.encode(table(y=categories("1.0", "2", "+1"))).tolist() == [2, 4, 2]
    both = Preparation.from_config({  # a model that is older than this
        "columns": [{"kind": "categorical", "name": "w", "categories": ["1", "1.0"], "indicator": False}],
        "target": prepared.config()["target"],
    })  # fmt: skip
    assert both.transform(table(w=categories("1.0", "1", "1."))).argmax(axis=1).tolist() == [1, 0, 0]


def test_categories_without_an_input_are_warned_of():
    prepared = fit(w=categories("a", "b"), v=categories("u", "u"))
    new = table(w=categories("c", "a", "d", "e", "f"), v=categories("u", None, "z", "u", "u"))
    message = (
        "^column 'w': 4 of 5 rows hold a category that training gave no input: 'c', 'd', 'e', ...; "
        "column 'v': 1 of 5 rows hold a category that training gave no input: 'z'$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        got = prepared.transform(new)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(got, prepared.transform(new, warn=False))


def moments_of(values):
    """Mean and spread of values that come three at a time."""
    moments = Moments()
    for first in range(0, len(values), 3):
        moments.add(values[first : first + 3])
    return moments.mean_and_spread()


@pytest.mark.parametrize("measure", [mean_and_spread, moments_of])
def test_the_spread_is_1_only_where_all_values_are_equal(measure):
    ids = 2024110100000000.0 + np.arange(3000)
    assert measure(ids) == pytest.approx((2024110100001499.5, np.arange(3000).std()), rel=1e-12)
    for equal in (0.1, -7e15, 0.0, 1e-300):
        assert measure(np.full(1000, equal)) == (equal, 1.0)
    close = np.array([1.0, np.nextafter(1.0, 2.0)] * 10)
    assert 0 < measure(close)[1] < 1e-15
    tiny = np.array([1e-200, 3e-200])
    assert measure(tiny) == pytest.approx((2e-200, 2e-200), abs=0.0), "the squares of the differences are 0"


def test_numbers_that_are_large_and_close_together_are_standardised():
    ids = 2024110100000000.0 + np.arange(3000)
    got = fit(a=ids).transform(table(a=ids), np.float64)
    assert (got.mean(), got.std()) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_infinity_is_refused():
    with pytest.raises(ValueError, match=r"^column 'a': got inf, expected finite numbers$"):
        fit(a=np.array([1.0, np.inf]))


def test_classes():
    target = Classes.fit("y", categories("yes", "no", None, "yes"))
    assert target.classes == ("no", "yes")
    labels = target.encode(table(y=categories("yes", "no")))
    assert labels.tolist() == [1, 0]
    assert target.decode(labels).tolist() == ["yes", "no"]
    with pytest.raises(ValueError, match=r"^column 'y': got 'maybe' in row 1, expected one of the classes no, yes$"):
        target.encode(table(y=categories("no", "maybe")))
    with pytest.raises(ValueError, match=r"^column 'y': got no value in row 0, expected one of"):
        target.encode(table(y=categories(None)))
    with pytest.raises(ValueError, match=r"^got no column 'y', expected it among 'x'$"):
        target.encode(table(x=categories("no")))


def test_classes_that_are_numbers_stay_numbers():
    target = Classes.fit("y", np.array([10.0, -1.0, 2.0, NAN, 2.0]))
    assert target.classes == (-1, 2, 10)
    assert target.encode(table(y=np.array([10.0, 2.0]))).tolist() == [2, 1]
    assert target.encode(table(y=categories("10", "2"))).tolist() == [2, 1], "however another file spells them"
    decoded = target.decode(np.array([0, 2]))
    assert (decoded.tolist(), decoded.dtype.kind) == ([-1, 10], "i")
    with pytest.raises(ValueError, match=r"^column 'y': got 0.5, expected words or whole numbers as classes$"):
        Classes.fit("y", np.array([0.5, 1.0]))


def test_values_come_back_in_their_own_units():
    rng = np.random.default_rng(1)
    columns = {"a": rng.normal(1e5, 7.0, 30), "b": rng.normal(-3, 1e-3, 30), "c": np.full(30, 5.0)}
    target = Values.fit(tuple(columns), table(**columns))
    encoded = target.encode(table(**columns))
    np.testing.assert_allclose(encoded.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(encoded.std(axis=0), [1, 1, 0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(target.decode(encoded), np.column_stack(list(columns.values())), rtol=1e-12)
    assert target.decode(encoded.astype(np.float32)).dtype == np.float64
    with pytest.raises(ValueError, match=r"^column 'a': got no value in row 1, expected finite numbers$"):
        target.encode(table(**{**columns, "a": np.where(np.arange(30) == 1, NAN, 1.0)}))
    with pytest.raises(ValueError, match=r"^column 'a': got 'x' in row 0, expected numbers$"):
        Values.fit(("a",), table(a=categories("x")))


PREPARATIONS = {
    "classes": fit(a=np.array([1.0, NAN, 3.5]), w=categories("é", None, "b")),
    "numbers as classes": Preparation((), Classes("y", (0, 1, 7)), ","),
    "values": Preparation((), Values(("u", "v"), (0.1, 1e300), (1 / 3, 2.0))),
}


@pytest.mark.parametrize("name", PREPARATIONS)
def test_as_plain_data(name):
    prepared = PREPARATIONS[name]
    assert Preparation.from_config(json.loads(json.dumps(prepared.config()))) == prepared


def model_with(preparation):
    target = preparation.target
    units = len(target.classes if isinstance(target, Classes) else target.names)
    inputs = len(preparation.inputs) or 3
    model = fastnn.Sequential([fastnn.Dense(units)], "squared_error", input_size=inputs)
    model.preparation = preparation
    return model


@pytest.mark.parametrize("name", PREPARATIONS)
def test_in_a_model_s_file(name, tmp_path):
    model = model_with(PREPARATIONS[name])
    model.save(tmp_path / "m")
    assert fastnn.load(tmp_path / "m").preparation == PREPARATIONS[name]
    assert model.clone().preparation == PREPARATIONS[name]
    assert model.clone(weights=False).preparation == PREPARATIONS[name]
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole.replace(b"preparation", b"prepar4tion"))
    with pytest.raises(fastnn.ModelFileError, match=r"SHA-256"):
        fastnn.load(tmp_path / "m")


def test_a_model_without_one(tmp_path):
    model = fastnn.Sequential([fastnn.Dense(2)], "squared_error", input_size=3)
    model.save(tmp_path / "m")
    assert b"preparation" not in (tmp_path / "m").read_bytes(), "as files were before there were preparations"
    assert fastnn.load(tmp_path / "m").preparation is None


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("target"),
        lambda config: config["target"].update(kind="poem"),
        lambda config: config["columns"][0].update(colour="red"),
        lambda config: config.update(columns=3),
    ],
)
def test_a_file_whose_preparation_makes_no_sense_is_damaged(change, tmp_path, monkeypatch):
    model = model_with(PREPARATIONS["classes"])
    config = model.preparation.config()
    change(config)
    monkeypatch.setattr(Preparation, "config", lambda self: config)
    model.save(tmp_path / "m")
    with pytest.raises(fastnn.ModelFileError, match=r"is damaged"):
        fastnn.load(tmp_path / "m")


def test_the_first_wrong_cell_of_the_file_is_named():
    prepared = fit(a=np.array([1.0, 2.0]))
    mixed = table(a=categories("1", None, "x", "y"))
    with pytest.raises(ValueError, match=r"^column 'a': got 'x' in row 2, expected numbers, as in training$"):
        prepared.transform(mixed[np.array([3, 0, 2])])
    with pytest.raises(ValueError, match=r"^column 'a': got 'x' in row 2, expected numbers$"):
        Values(("a",), (0.0,), (1.0,)).encode(mixed[np.array([3, 2, 0])])
    numbers = prepared.transform(table(a=categories("1", None)), np.float64)
    np.testing.assert_array_equal(numbers, [[-1], [0]], err_msg="a batch of a file that has words elsewhere")
    days = Preparation((Numeric("a", 0.0, 1.0, False, dates=True),), TARGET)
    for word in ("May", "20260102", "2026-01-32", "10", "2026"):
        with pytest.raises(ValueError, match=rf"^column 'a': got '{word}' in row 2, expected dates, as in training$"):
            days.transform(table(a=categories("2026-01-02", "10:30", word)))


def test_dates_as_text_are_the_days_that_they_are_in_csv(tmp_path):
    pytest.importorskip("pyarrow")
    days = Preparation((Numeric("a", 0.0, 1.0, False, dates=True),), TARGET)
    for number, cells in enumerate([
        ("2026-01-02", "1969-12-31"),
        ("2026-01-02 10:30:07", "2026-01-02T10:30", "2026-01-02"),
        ("2026-01-02T10:30:00Z", "2026-01-02T10:30:00+02:00"),
        ("2026-01-02 10:30:00.5", "2026-01-02 10:30:00.123456789"),
        ("10:30", "23:59:59"),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.csv"
        path.write_text("\n".join(["a,b", *(f"{cell},1" for cell in cells)]) + "\n")
        as_days = read_table(path)
        assert as_days.dates == {"a"}
        got = days.transform({"a": [*cells, None]}, np.float64)[:, 0]
        np.testing.assert_allclose(got, [*as_days.columns["a"], 0.0], rtol=1e-15)


def test_numbers_beyond_what_can_be_scaled_are_refused():
    huge = np.array([1e200, -1e200, 3e200])
    message = r"^column 'a': got numbers too large for their standard deviation, expected some below 1e150$"
    with np.errstate(all="raise"):
        with pytest.raises(ValueError, match=message):
            fit(a=huge)
        with pytest.raises(ValueError, match=message):
            Values.fit(("a",), table(a=huge))
        moments = Moments()
        for part in (huge[:2], huge[2:]):
            moments.add(part)
        with pytest.raises(ValueError, match=r"^got numbers too large"):
            moments.mean_and_spread()
        with pytest.raises(ValueError, match=r"^column 'a': got 1e\+300 in row 1, expected numbers that float32 holds"):
            fit(a=np.array([1.0, 2.0])).transform(table(a=np.array([0.0, 1e300])))


@pytest.mark.parametrize("large", [2.0**53, -(2.0**60)])
def test_classes_that_float64_merges_are_refused(large):
    with pytest.raises(ValueError, match=r"^column 'y': got -?\d+, expected words, or whole numbers below 2\*\*53, as"):
        Classes.fit("y", np.array([1.0, large]))


def test_large_whole_numbers_are_looked_up_exactly():
    pytest.importorskip("pyarrow")
    prepared = fit(w=categories(str(2**53), str(2**53 + 1)))
    np.testing.assert_array_equal(prepared.transform({"w": [2**53 + 1, 2**53]}), [[0, 1], [1, 0]])
    assert prepared.unseen({"w": [2**53 + 1, 2**53 + 2]}) == {"w": (1, (str(2**53 + 2),))}


BROKEN = [
    ("columns", 0, "mean", None),
    ("columns", 0, "mean", "a"),
    ("columns", 0, "spread", 0),
    ("columns", 0, "name", 5),
    ("columns", 0, "indicator", "no"),
    ("columns", 1, "categories", "ab"),
    ("columns", 1, "categories", ["a", "a"]),
    ("target", None, "classes", []),
    ("target", None, "classes", "np"),
    ("target", None, "classes", ["n", 3]),
]


@pytest.mark.parametrize(("part", "place", "name", "value"), BROKEN)
def test_plain_data_is_checked(part, place, name, value):
    config = PREPARATIONS["classes"].config()
    (config[part] if place is None else config[part][place])[name] = value
    with pytest.raises((TypeError, ValueError), match=rf"^({name}|categorical|classes): got "):
        Preparation.from_config(config)


def test_the_point_is_checked_and_models_without_one_are_read():
    config = PREPARATIONS["classes"].config()
    with pytest.raises(ValueError, match=r"^point: got ';', expected one of '.', ',', '.,'"):
        Preparation.from_config({**config, "point": ";"})
    assert Preparation.from_config({name: config[name] for name in ("columns", "target")}) == PREPARATIONS["classes"]


def test_values_have_a_mean_and_a_spread_each():
    config = Preparation((), Values(("a", "b"), (0.0, 1.0), (1.0, 2.0))).config()
    assert Preparation.from_config(config).config() == config
    config["target"]["means"] = [0.0]
    with pytest.raises(ValueError, match=r"^means: got 1 and 2 spreads, expected 2$"):
        Preparation.from_config(config)


def test_pieces_are_the_rows_of_the_whole_and_names_are_looked_up_once(monkeypatch):
    """A batch of 10,000 different words was looked up anew for every 700 of its rows."""
    cells = ("a", None, "b", "new", "c") * 8
    data = table(x=np.arange(40.0), city=categories(*cells))
    preparation = Preparation.fit(
        table(x=np.array([1.0, NAN, 5.0]), city=categories("a", None, "b")), data.columns, TARGET
    )
    looked_up = []
    codes_of = fastnn.preparation.codes_of
    monkeypatch.setattr(fastnn.preparation, "codes_of", lambda *names: looked_up.append(names) or codes_of(*names))
    whole = preparation.transform(data, np.float64, warn=False)
    assert whole.sum() > 0
    monkeypatch.setattr(fastnn.preparation, "PIECE_NUMBERS", 3 * whole.shape[1])
    looked_up.clear()
    parts = list(preparation.pieces(data, np.float64))
    assert len(looked_up) == 1
    assert [rows.stop - rows.start for rows, _ in parts] == [3] * 13 + [1]
    np.testing.assert_array_equal(np.concatenate([x for _, x in parts]), whole)


def test_a_number_that_the_network_s_type_lacks_is_named_wherever_it_is(monkeypatch):
    monkeypatch.setattr(fastnn.preparation, "PIECE_NUMBERS", 2)
    preparation = Preparation((Numeric("x", 0.0, 1.0, False),), TARGET)
    for value in (-1e39, 1e39):
        data = table(x=np.array([0.0, NAN, 1.0, value, value / 2]))
        with pytest.raises(
            ValueError,
            match=rf"^column 'x': got {value:g}.* in row 3, expected numbers that float32".replace("+", r"\+"),
        ):
            preparation.transform(data)
        with pytest.raises(ValueError, match=r"in row 3, expected"):
            next(preparation.pieces(data, np.float32))
        assert preparation.transform(data, np.float64)[3] == value
