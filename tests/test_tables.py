"""Tables from files and data frames: what is a number, what a category, what is missing, what is refused."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fastnn import parquet, tables
from fastnn.batches import BatchedTable
from fastnn.cli import tasks
from fastnn.cli.sources import describe
from fastnn.preparation import Classes, Numeric, Preparation
from fastnn.tables import (
    _NO_TEXT,
    Categories,
    Table,
    TableFile,
    as_categories,
    as_table,
    is_missing,
    read_table,
    table_file,
)

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
needs_pyarrow = pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed")


@pytest.fixture
def without_pyarrow(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))


@pytest.fixture
def write(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def words(column):
    """The cells of a column of categories, None where there is none."""
    assert isinstance(column, Categories)
    return [None if code < 0 else column.names[code] for code in column.codes]


MIXED = "a,b,c,d\n1,x,true,10\n2.5, y,false,\n,NA,true,0x\n-1e3,x ,?,7\n"


@needs_pyarrow
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "no-ending"])
def test_kinds_of_columns(write, name):
    table = read_table(write(MIXED, name))
    assert list(table.columns) == ["a", "b", "c", "d"]
    assert len(table) == 4
    np.testing.assert_array_equal(table.columns["a"], [1, 2.5, np.nan, -1000])
    assert words(table.columns["b"]) == ["x", "y", None, "x"], "blanks around a word are none of it"
    assert words(table.columns["c"]) == ["true", "false", "true", None]
    assert words(table.columns["d"]) == ["10", None, "0x", "7"], "one word makes it a column of words"


@needs_pyarrow
@pytest.mark.parametrize("cell", [cell for cell in tables.MISSING if cell])
def test_cells_without_a_value(write, cell):
    table = read_table(write(f"n,w\n1,a\n{cell},{cell}\n"))
    assert is_missing(table.columns["n"]).tolist() == [False, True]
    assert is_missing(table.columns["w"]).tolist() == [False, True]


@needs_pyarrow
@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_delimiters_quotes_and_a_byte_order_mark(write, delimiter):
    path = write(f'\ufeff"first name"{delimiter}b\n"x{delimiter} ""y""\nz"{delimiter}1\n')
    table = read_table(path)
    assert table_file(path).names == ("first name", "b")
    assert words(table.columns["first name"]) == [f'x{delimiter} "y"\nz']
    assert table.columns["b"].tolist() == [1.0]


@needs_pyarrow
def test_columns_by_choice(write):
    path = write("zip,when,n\n01234,2020-01-01,1\n00001,2020-01-02,2\n")
    table = read_table(path, ["n", "zip"], words=["zip"])
    assert list(table.columns) == ["n", "zip"]
    assert words(table.columns["zip"]) == ["01234", "00001"], "as they stand in the file"
    assert read_table(path, ["zip"]).columns["zip"].tolist() == [1234, 1]
    table = read_table(path)
    assert table.columns["when"].tolist() == [18262.0, 18263.0]
    assert table.dates == {"when"}
    assert table[np.array([1])].dates == table.only(["when", "n"]).dates == {"when"}
    assert table.only(["n"]).dates == frozenset()
    table = read_table(path, words=["when"])
    assert words(table.columns["when"]) == ["2020-01-01", "2020-01-02"]
    assert table.dates == frozenset()
    with pytest.raises(ValueError, match=r"^column: got 'zap', expected one of 'zip', 'when', 'n'. Did you mean 'zip'"):
        read_table(path, ["zap"])


@needs_pyarrow
def test_dates_and_times_are_days(tmp_path):
    import datetime as dt

    import pyarrow as pa
    import pyarrow.parquet

    noon = dt.datetime(2020, 1, 2, 12)
    zone = dt.timezone(dt.timedelta(hours=-6))
    columns = {
        "date32": (pa.array([dt.date(1969, 12, 31), None], pa.date32()), -1.0),
        "date64": (pa.array([dt.date(2020, 1, 2), None], pa.date64()), 18263.0),
        **{unit: (pa.array([noon, None], pa.timestamp(unit)), 18263.5) for unit in ("s", "ms", "us", "ns")},
        "zone": (pa.array([noon.replace(tzinfo=zone), None], pa.timestamp("us", "America/Chicago")), 18263.75),
        "time32": (pa.array([dt.time(6), None], pa.time32("s")), 0.25),
        "time64": (pa.array([dt.time(18), None], pa.time64("us")), 0.75),
        "duration": (pa.array([dt.timedelta(days=3, hours=12), None], pa.duration("ms")), 3.5),
    }
    whole = pa.table({name: column for name, (column, _) in columns.items()})
    pa.parquet.write_table(whole, tmp_path / "t.parquet")
    for table in (as_table(whole), read_table(tmp_path / "t.parquet")):
        assert table.dates == set(columns)
        for name, (_, want) in columns.items():
            assert table.columns[name][0] == want, name
            assert np.isnan(table.columns[name][1]), name
    table = read_table(tmp_path / "t.parquet", words=["date32"])
    assert words(table.columns["date32"])[0] == "1969-12-31"
    assert table.dates == set(columns) - {"date32"}
    with pytest.raises(ValueError, match=r"column 'l': got list<item: int64>, expected numbers, dates, words"):
        as_table({"l": [[1], [2]]})
    message = r"^columns 'l', 's': got list<item: int64>, struct<a: int64>, expected .*; leave them out$"
    with pytest.raises(ValueError, match=message):
        as_table({"l": [[1], [2]], "x": [1, 2], "s": [{"a": 1}, {"a": 2}]})


@needs_pyarrow
def test_parquet_keeps_its_types(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    columns = {
        "i": pa.array([1, None, 3], pa.int16()),
        "f": pa.array([1.5, float("nan"), None], pa.float32()),
        "s": ["u", None, "v"],
        "l": pa.array(["u", "v", "u"], pa.large_string()),
        "t": [True, False, None],
        "d": pa.array(["b", "a", None]).dictionary_encode(),
        "n": pa.nulls(3),
        "m": pa.array([1, 2, 3], pa.decimal128(5, 2)),
    }
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table(columns), path, row_group_size=2)
    table = read_table(path)
    np.testing.assert_array_equal(table.columns["i"], [1, np.nan, 3])
    np.testing.assert_array_equal(table.columns["f"], [1.5, np.nan, np.nan])
    assert words(table.columns["s"]) == ["u", None, "v"]
    assert words(table.columns["l"]) == ["u", "v", "u"]
    assert words(table.columns["t"]) == ["True", "False", None]
    assert words(table.columns["d"]) == ["b", "a", None]
    assert is_missing(table.columns["n"]).all()
    assert table.columns["m"].tolist() == [1.0, 2.0, 3.0]
    assert list(read_table(path, ["m", "i"]).columns) == ["m", "i"]
    assert words(read_table(path, ["i"], words=["i"]).columns["i"]) == ["1", None, "3"]


@needs_pyarrow
def test_data_frames_and_dictionaries():
    table = as_table({"n": [1.0, None], "w": ["a", "b"], "t": np.array([True, False])})
    np.testing.assert_array_equal(table.columns["n"], [1.0, np.nan])
    assert words(table.columns["t"]) == ["True", "False"]
    assert as_table(table) is table
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2, None], "w": ["a", None, "b"], "c": pandas.Categorical(["u", "v", None])})
    table = as_table(frame)
    np.testing.assert_array_equal(table.columns["n"], [1, 2, np.nan])
    assert words(table.columns["w"]) == ["a", None, "b"]
    assert words(table.columns["c"]) == ["u", "v", None]
    with pytest.raises(ValueError, match=r"^data: cannot be read as a table: "):
        as_table({"a": [1, 2], "b": [1]})


def test_rows_of_a_table():
    table = Table({"n": np.array([1.0, 2.0, 3.0]), "w": Categories(np.array([0, -1, 1]), ("a", "b"))}, 3)
    for rows in (np.array([2, 0]), np.array([True, False, True])):
        part = table[rows]
        assert len(part) == 2
        assert sorted(part.columns["n"]) == [1.0, 3.0]
        assert sorted(words(part.columns["w"])) == ["a", "b"]
    with pytest.raises(ValueError, match=r"^got no column 'x', expected it among 'n', 'w'$"):
        table.column("x")


def test_numbers_as_categories():
    column = as_categories(np.array([10.0, 2.0, np.nan, 2.5, 10.0]))
    assert words(column) == ["10", "2", None, "2.5", "10"]
    assert as_categories(column) is column


BAD = {
    "empty": ("", "got no line, expected one with the columns' names"),
    "twice": ("a,b,a\n1,2,3\n", "got more than one column named 'a', expected a name for each"),
    "infinite": ("a\n1\ninf\n", r"column 'a': got inf in row 1, expected finite numbers"),
    "ragged": ("a,b\n1,2\n3\n", "got 1 cells in line 3, '3', expected 2, one for each column"),
}


@needs_pyarrow
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(write, name):
    text, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_table(write(text))


@needs_pyarrow
def test_bytes_that_are_no_table(tmp_path):
    (tmp_path / "noise").write_bytes(b"\xff\xfe\xfd" * 9)
    with pytest.raises(ValueError, match=r"^got bytes that are no text, expected CSV in UTF-8, or Parquet$"):
        read_table(tmp_path / "noise")
    (tmp_path / "cut").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"(?i)parquet"):
        read_table(tmp_path / "cut")
    packed = gzip.compress(b"a,b\n" + np.random.default_rng(0).integers(48, 58, 10_000, np.uint8).tobytes())
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-3000])
    with pytest.raises(ValueError, match=r"(?i)zlib|gzip|truncated|compressed"):
        read_table(tmp_path / "cut.csv.gz")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "nothing")


@needs_pyarrow
def test_a_file_without_rows(write):
    table = read_table(write("a,b\n"))
    assert (len(table), list(table.columns)) == (0, ["a", "b"])


@pytest.mark.usefixtures("without_pyarrow")
def test_without_pyarrow_cells_are_text_to_any_numpy(write, monkeypatch):
    monkeypatch.setattr(np, "loadtxt", functools.partial(np.loadtxt, encoding="bytes"))  # what NumPy 1 does by itself
    np.testing.assert_array_equal(read_table(write("a;b\n1,5;\n-2;3\n")).columns["a"], [1.5, -2])


@pytest.mark.usefixtures("without_pyarrow")
def test_without_pyarrow_numbers_are_read(write):
    table = read_table(write("a;b\n1;2.5\n;-3\n"), ["b", "a"])
    np.testing.assert_array_equal(table.columns["a"], [1, np.nan])
    np.testing.assert_array_equal(table.columns["b"], [2.5, -3])
    assert words(read_table(write("a\n2\n1\n"), words=["a"]).columns["a"]) == ["2", "1"]
    assert len(read_table(write("a,b\n"))) == 0
    with pytest.raises(ValueError, match=r"^column 'a': got inf in row 0"):
        read_table(write("a\ninf\n"))


@pytest.mark.usefixtures("without_pyarrow")
def test_without_pyarrow_one_sentence_says_how_to_get_it(write):
    hint = r'pyarrow is not installed: pip install "fastnn\[table\]" brings it'
    with pytest.raises(ValueError, match=f"'red'.*; {hint}, which reads columns of words$"):
        read_table(write("a,b\n1,red\n"))
    for read in (read_table, table_file):
        with pytest.raises(ImportError, match=f"^{hint}$"):
            read(write("PAR1", "t.parquet"))
    with pytest.raises(ImportError, match=f"^{hint}$"):
        as_table({"a": [1]})


SEPARATED = {
    "blank lines first": "\n \na;b\n1;2\n",
    "a line that says it": "sep=;\na;b\n1;2\n",
}


@needs_pyarrow
@pytest.mark.parametrize("name", SEPARATED)
def test_separators_that_are_hard_to_guess(write, name):
    table = read_table(write(SEPARATED[name]))
    assert {name: column.tolist() for name, column in table.columns.items()} == {"a": [1], "b": [2]}


@needs_pyarrow
def test_separators_within_names(write):
    assert table_file(write('"Last, first, middle";y\n"a";2\n')).names == ("Last, first, middle", "y")
    assert table_file(write("amount,net;price,gross;y\n1;2;3\n")).names == ("amount,net", "price,gross", "y")
    assert table_file(write('"a,\n,b";c\n1;2\n')).names == ("a,\n,b", "c")


@needs_pyarrow
def test_blanks_around_a_missing_cell(write):
    table = read_table(write("a,b,c\n1,2,3\n , NA ,  ?\n"))
    for column in table.columns.values():
        assert is_missing(column).tolist() == [False, True]
        assert not isinstance(column, Categories)


@needs_pyarrow
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_blanks_are_looked_for_in_cells_that_have_some(write, name):
    """All of their spellings cost 10,000 columns two seconds and a GB of memory."""
    names = ",".join(f"column {number}" for number in range(600))
    row = ",".join(["1", "NA", "", "?", *["2"] * 596])
    for last, spellings in ((row, tables.MISSING), (row.replace("NA", " NA "), tables._NULLS)):
        file = table_file(write("\n".join([names, *[row] * 3, last]) + "\n", name))
        assert tables.csv_options(file.layout, ["column 0"], {})[2].null_values == [*spellings]
        columns = [*read_table(file).columns.values()]
        assert [int(is_missing(column).sum()) for column in columns] == [0, 4, 4, 4, *[0] * 596]
        assert not any(isinstance(column, Categories) for column in columns)


@needs_pyarrow
def test_what_a_csv_file_lacks_is_said(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"a,b\n" + b"x,1\n" * 50_000 + "é,1\n".encode("latin-1"))
    for named, message in (((), "column 'a': got binary, expected .* words in UTF-8"), (("a",), _NO_TEXT)):
        with pytest.raises(ValueError, match=f"^{message}"):
            read_table(tmp_path / "latin.csv", words=named)
    (tmp_path / "names.csv").write_bytes(b"a,b")
    with pytest.raises(ValueError, match=r"^got no row below the columns' names, expected some$"):
        read_table(tmp_path / "names.csv")


@needs_pyarrow
def test_whole_numbers_as_words_are_exact():
    import pyarrow

    large = [2**53, 2**53 + 1, None]
    table = as_table(pyarrow.table({"a": large}), ["a"])
    assert words(table.columns["a"]) == ["9007199254740992", "9007199254740993", None]


@needs_pyarrow
def test_string_views(tmp_path):
    import pyarrow
    import pyarrow.parquet

    cells = pyarrow.table({"w": pyarrow.array(["x", None, "y", "x"], pyarrow.string_view())})
    assert words(as_table(cells).columns["w"]) == ["x", None, "y", "x"]
    try:
        pyarrow.parquet.write_table(cells, tmp_path / "t.parquet")
    except pyarrow.ArrowNotImplementedError:
        pytest.skip("PyArrow 18 writes none to a file")
    assert words(read_table(tmp_path / "t.parquet").columns["w"]) == ["x", None, "y", "x"]


@needs_pyarrow
def test_frames_of_polars():
    polars = pytest.importorskip("polars")
    kinds = (polars.String, polars.Categorical, polars.Enum(["x", "y"]))
    frame = polars.DataFrame({str(i): polars.Series(["x", None, "y"], dtype=kind) for i, kind in enumerate(kinds)})
    for column in as_table(frame).columns.values():
        assert words(column) == ["x", None, "y"]


def test_rows_keep_their_numbers():
    table = Table({"n": np.arange(5.0)}, 5, first=10)
    part = table[np.array([3, 1, 4])][np.array([True, True, False])]
    assert [part.number(row) for row in range(2)] == [13, 11]
    assert part.only(["n"]).earliest(np.array([True, True])) == 1


GERMAN = "a;b;c;d;e\n1,5;1;x;1,5;2026-01-02\n -2,25;;1,5;,5;\n1e3;3;y;1,5E-3;2026-01-03\n"


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@needs_pyarrow
def test_decimal_commas(write, delimiter):
    table = read_table(write(GERMAN.replace(";", delimiter)), words=["d"])
    np.testing.assert_array_equal(table.columns["a"], [1.5, -2.25, 1000])
    np.testing.assert_array_equal(table.columns["b"], [1, np.nan, 3])
    assert words(table.columns["c"]) == ["x", "1,5", "y"]
    assert words(table.columns["d"]) == ["1,5", ",5", "1,5E-3"]
    assert table.dates == {"e"}
    assert words(read_table(write("a;b\n1,5;1.5\n2;2\n")).columns["a"]) == ["1,5", "2"], "a file of decimal points"
    assert words(read_table(write("a;b\n1,234;1\n2,500;2\n")).columns["a"]) == ["1,234", "2,500"], "thousands?"
    np.testing.assert_array_equal(read_table(write("a;b\n0,234;1\n2,500;2\n")).columns["a"], [0.234, 2.5])


THOUSANDS = "a;b;c;d\n1.851,88;1.234;3;1.234\n 518,9;-20;+1.000.000;x\n;2.500;;1,5\n+1.234.567,5;0;2;1.2\n"


@needs_pyarrow
def test_points_between_thousands(write):
    path = write(THOUSANDS.replace("1.2\n", "y\n"))
    batched = BatchedTable(path)
    batched.visit(Nobody)
    for table in (read_table(path), next(batched.batches())):
        np.testing.assert_array_equal(table.columns["a"], [1851.88, 518.9, np.nan, 1234567.5])
        np.testing.assert_array_equal(table.columns["b"], [1234, -20, 2500, 0])
        np.testing.assert_array_equal(table.columns["c"], [3, 1_000_000, np.nan, 2])
        assert words(table.columns["d"]) == ["1.234", "x", "1,5", "y"]
    assert words(read_table(path, words=["b"]).columns["b"]) == ["1.234", "-20", "2.500", "0"]
    table = read_table(write(THOUSANDS))
    assert words(table.columns["a"])[0] == "1.851,88", "1.2 is a number with a decimal point"
    np.testing.assert_array_equal(table.columns["b"], [1.234, -20, 2.5, 0])
    np.testing.assert_array_equal(read_table(write("a;b\n1.234;1\n2.500;2\n")).columns["a"], [1.234, 2.5])


FAR = {
    ".": ("a;b\n" + "1,5;y\n" * 200_000, "{};y\n", ("1.234,5", "x", "1.5")),
    ",": ('a,b\n"1,000",y\n' + "1,y\n" * 400_000, '"{}",y\n', ("1,234.5", "x", "1,5")),
}
"""Marks between thousands -> the lines of a file, one more, and what that may hold: a number, and two words."""


@needs_pyarrow
@pytest.mark.parametrize("mark", FAR)
def test_thousands_far_into_a_file(mark, write):
    lines, more, cells = FAR[mark]
    for last, expected in zip(cells, (1234.5, *cells[1:]), strict=True):
        path = write(lines + more.format(last))
        table = BatchedTable(path)
        table.visit(Nobody)
        got, whole = [batch.columns["a"] for batch in table.batches()], read_table(path).columns["a"]
        assert len(got) > 1
        if isinstance(expected, str):
            assert [word for column in got for word in words(column)] == words(whole)
            assert words(whole)[-1] == expected
        else:
            np.testing.assert_array_equal(np.concatenate(got), whole)
            assert whole[-1] == expected


class Nobody:
    """A visitor that keeps nothing."""

    def add(self, batch):
        pass


@needs_pyarrow
def test_decimal_commas_in_batches(write):
    path = write("a;b\n" + "1;x\n" * 700 + "1,5;y\n" * 200_000)
    table = BatchedTable(path)
    table.visit(Nobody)
    got = np.concatenate([batch.columns["a"] for batch in table.batches()])
    np.testing.assert_array_equal(got, read_table(path).columns["a"])
    assert set(got) == {1, 1.5}


@pytest.mark.usefixtures("without_pyarrow")
def test_decimal_commas_without_pyarrow(write):
    np.testing.assert_array_equal(read_table(write("a;b\n1,5;1\n-2;3\n")).columns["a"], [1.5, -2])
    table = read_table(write("a;b\n1.234,5;1.000\n-2;?\n"))
    np.testing.assert_array_equal(table.columns["a"], [1234.5, -2])
    np.testing.assert_array_equal(table.columns["b"], [1000, np.nan])


COMMAS = {
    "quoted": ('a,b\n"1,234",x\n12,y\n', ".", [1234, 12]),
    "Excel's blanks": ('a,b\n" -1,234.50 ",x\n?,y\n"+1,000,000",z\n', ".", [-1234.5, np.nan, 1_000_000]),
    "a decimal comma": ('a,b\n"1,234","1,5"\n12,y\n', ".", ["1,234", "12"]),
    "0.750, and no thousands": ('a,b\n"1,234",x\n"0,750",y\n', ".", ["1,234", "0,750"]),
    "a point after a comma outweighs it": ('a,b\n"1,234","1,5"\n"1,234.5",y\n', ".", [1234, 1234.5]),
    "a list": ('a,b\n"1,234",x\n"1,2345",y\n', ".", ["1,234", "1,2345"]),
    "a model of decimal commas": ('a,b\n"1,234",x\n', ",", ["1,234"]),
    "a model of thousands": ('a,b\n"1,234","1,5"\n', ".,", [1234]),
    "two groups": ("a;b\n1,234;x\n1,234,567;y\n", ".", [1234, 1_234_567]),
    "a point after a comma": ("a\tb\n1,234\tx\n2,500.75\ty\n", ".", [1234, 2500.75]),
    "two groups beside a decimal comma": ("a;b\n1,234;1,5\n2,500;1,234,567\n", ".", [1.234, 2.5]),
    "two groups and a model of decimal commas": ("a;b\n1,234;x\n2,500;1,234,567\n", ",", [1.234, 2.5]),
    "nothing that says": ("a;b\n1,234;x\n2,500;y\n", ".", ["1,234", "2,500"]),
    "a point elsewhere": ("a;b\n1,234;1.5\n2,500;y\n", ".", ["1,234", "2,500"]),
    "nothing, and a model of thousands": ("a;b\n1,234;x\n1.234;1.5\n", ".,", [1234, 1.234]),
    "a decimal comma and a model of thousands": ("a;b\n1,234;x\n2,5;y\n", ".,", [1.234, 2.5]),
}


@needs_pyarrow
@pytest.mark.parametrize("name", COMMAS)
def test_commas_between_thousands(write, name):
    text, known, expected = COMMAS[name]
    file = table_file(write(text), known)
    batched = BatchedTable(file)
    batched.visit(Nobody)
    for table in (read_table(file), next(batched.batches())):
        column = table.columns["a"]
        np.testing.assert_array_equal(words(column) if isinstance(expected[0], str) else column, expected)
    assert isinstance(read_table(file, words=["a"]).columns["a"], Categories)


@pytest.mark.usefixtures("without_pyarrow")
def test_commas_between_thousands_without_pyarrow(write):
    table = read_table(write('a,b\n"1,234.5","2,000"\n-2,?\n'))
    np.testing.assert_array_equal(table.columns["a"], [1234.5, -2])
    np.testing.assert_array_equal(table.columns["b"], [2000, np.nan])
    np.testing.assert_array_equal(read_table(write("a;b\n1,234,567;1\n1,000;2\n")).columns["a"], [1_234_567, 1000])
    for text in ('a,b\n"1,234","1,5"\n', "a;b\n1,234;1\n2,500;1.5\n"):
        with pytest.raises(ValueError, match=r"'1,234'.*, which reads columns of words$"):
            read_table(write(text))


@needs_pyarrow
@pytest.mark.parametrize("text", ["a,b\n\n1,2\n3\n", "\na,b\n1,2\n3\n", 'a,b\n"1","\n"\n3\n'])
def test_the_line_of_a_short_row_is_named(write, text):
    with pytest.raises(ValueError, match=r"^got 1 cells in line 4, '3', expected 2, one for each column$"):
        read_table(write(text))


@needs_pyarrow
def test_the_line_of_a_short_row_is_named_beside_bytes_that_are_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n" + b"1,2\n" * 60_000 + b"3\n\xfc,1\n")
    for read in (read_table, lambda path: BatchedTable(path).visit(Nobody)):
        with pytest.raises(ValueError, match=r"^got 1 cells in line 60002, '3', expected 2"):
            read(tmp_path / "t.csv")


@pytest.mark.usefixtures("without_pyarrow")
def test_a_gzip_file_that_breaks_off_without_pyarrow(tmp_path):
    packed = gzip.compress("\n".join(["a,b", *(f"{i},{i * i}" for i in range(50_000))]).encode())
    for damaged in (packed[:-1000], packed[:-8] + bytes(8)):
        (tmp_path / "t.csv").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^got a damaged gzip file \(.*\), expected a whole one$"):
            read_table(tmp_path / "t.csv")


@pytest.mark.usefixtures("without_pyarrow")
def test_the_line_of_a_short_row_is_named_without_pyarrow(write):
    with pytest.raises(ValueError, match=r"^got 1 cells in line 4, '3', expected 2, one for each column$"):
        read_table(write("a,b\n\n1,2\n3\n"))
    with pytest.raises(ValueError, match=r"^got 3 cells in line 3, '3,4,5', expected 2, one for each column$"):
        read_table(write("a,b\n1,2\n3,4,5\n"), ["a"])


@pytest.mark.usefixtures("without_pyarrow")
def test_numbers_in_quotes_without_pyarrow(write):
    table = read_table(write('a;b\n"1,5";"2"\n"";3\n'))
    np.testing.assert_array_equal(table.columns["a"], [1.5, np.nan])
    np.testing.assert_array_equal(table.columns["b"], [2, 3])


@needs_pyarrow
def test_what_a_file_holds_says_whether_it_is_packed(tmp_path):
    text = b"a;b\n1,5;x\n2;y\n"
    for name, content in (("t.csv.gz", text), ("t.csv", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        table = BatchedTable(tmp_path / name)
        table.visit(Nobody)
        for read in (read_table(tmp_path / name), next(table.batches())):
            np.testing.assert_array_equal(read.columns["a"], [1.5, 2])


@needs_pyarrow
def test_a_column_of_parquet_whose_name_is_a_path(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"v.a": [1, 2], "v": [{"a": 1}] * 2}), tmp_path / "t.parquet")
    table = BatchedTable(tmp_path / "t.parquet", ["v.a"])
    for read in (read_table(tmp_path / "t.parquet", ["v.a"]), next(table.batches())):
        assert {name: column.tolist() for name, column in read.columns.items()} == {"v.a": [1, 2]}


@needs_pyarrow
def test_a_csv_file_is_looked_at_once(write, monkeypatch):
    looked = []
    monkeypatch.setattr(tables, "_point", lambda rows, *_: looked.append(rows) or ".")
    file = table_file(write("a;b\n1;2\n"))
    read_table(file)
    BatchedTable(file).visit(Nobody)
    assert len(looked) == 1


class Counted(str):
    """A name that counts with how many others it is compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_of_many_columns_are_not_compared_with_each_other():
    """Tables of 10,000 columns spent ten seconds on that."""
    names = [Counted(f"n{number}") for number in range(500)]
    again = [Counted(name) for name in names]
    kept = tuple(Numeric(name, 0.0, 1.0, False) for name in names[:-1])
    Counted.compared = 0
    assert tables._named_once(names) == tuple(names)
    assert TableFile(Path("m.csv"), tuple(names), None).wanted(again) == again
    assert describe(Preparation(kept, Classes("y", (0, 1))), again, {}).endswith("left out: 'n499'")
    tasks._check_names("columns", again, names)
    assert Counted.compared < 20 * len(names)


def test_the_names_of_parquet_are_asked_for_once(tmp_path, monkeypatch):
    """PyArrow makes a list of all at each time: 8 s for 10,000 columns."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path, asked = str(tmp_path / "m.parquet"), []

    class Schema:
        def __init__(self, schema):
            self.schema = schema

        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.schema, name)

        def equals(self, other):
            return self.schema.equals(other.schema)

    class Metadata:
        def __init__(self, metadata):
            self.num_row_groups, self.row_group = metadata.num_row_groups, metadata.row_group
            self.schema = self
            self.to_arrow_schema = lambda: Schema(metadata.schema.to_arrow_schema())

    pyarrow.parquet.write_table(pa.table({f"n{i}": [1.0] for i in range(20)}), path)
    monkeypatch.setattr(parquet, "_metadata", lambda path: Metadata(pyarrow.parquet.read_metadata(path)))
    assert len(parquet.ParquetGroups([path], None, "n3", None).columns.features) == 19
    assert asked.count("names") == 1
