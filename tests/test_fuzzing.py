"""Damaged files are read or refused, whatever is wrong with them; see `fuzzing.py`.

A few hundred mutations by default; with FASTNN_LONG_TESTS=1 in the environment 100,000 model files and 3,000 of each
kind of data file.
"""

import json

import pytest
from support import run_python
from test_guarded import LONG

import fastnn
from fastnn import saving

pytest.importorskip("resource", reason="limits of memory are those of Unix")

FUZZ = "import runpy, sys; sys.argv[1:] = {!r}; runpy.run_module('fuzzing', run_name='__main__')"


def outcomes(kinds, count):
    lines = run_python(FUZZ.format([kinds, "0", str(count)])).splitlines()
    found = {line.split()[0]: json.loads(line.partition(" ")[2]) for line in lines}
    assert set(found) == set(kinds.split(","))
    return found


def test_damaged_model_files_load_or_are_refused():
    count = 100_000 if LONG else 500
    counts = outcomes("model", count)["model"]
    counts.pop("most bytes taken by one")
    assert sum(counts.values()) == count
    for outcome in ("loaded: a model", "refused: its hash", "refused: what its header says"):
        assert counts[outcome] > 0, counts


def test_damaged_data_files_are_read_or_refused():
    pytest.importorskip("pyarrow")
    count = 3000 if LONG else 100
    kinds = "csv,csv.gz,parquet,parquet.table,npz,npy,idx,idx.gz"
    for kind, counts in outcomes(kinds, count).items():
        assert sum(counts.values()) == count, kind
        assert counts["refused"] > 0, kind


# What mutations and bad calls have found, each a case of its own.


def edited(tmp_path, change):
    import fuzzing

    source = fuzzing.Models()
    change(source.inner)
    path = tmp_path / "edited"
    path.write_bytes(fuzzing.packed(source.signed(source.outer, json.dumps(source.inner)), source.data))
    return path


def test_a_rescaling_of_a_billion_inputs_is_refused_before_it_is_made(tmp_path, monkeypatch):
    def change(header):
        header["config"]["input_size"] = 10**9
        header["config"]["layers"][0]["scale"] = 1.0

    path = edited(tmp_path, change)
    make = fastnn.Rescale.table

    def watched(self, inputs, dtype):
        assert inputs <= 3, f"made a table of {inputs} inputs"
        return make(self, inputs, dtype)

    monkeypatch.setattr(fastnn.Rescale, "table", watched)
    with pytest.raises(fastnn.ModelFileError, match="not of 1000000000 rows"):
        fastnn.load(path)


def test_a_huge_model_without_weights_is_refused(tmp_path):
    def change(header):
        header["config"]["input_size"] = 10**9
        del header["config"]["layers"][1:]

    with pytest.raises(fastnn.ModelFileError, match=f"expected at most {saving._MOST_INPUTS} inputs"):
        fastnn.load(edited(tmp_path, change))


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_a_flag_that_is_none_is_refused(value, tmp_path):
    """`centered: null` once made a kernel write into a state that was never allocated."""

    def change(header):
        header["config"]["optimizer"] = {"name": "RMSprop", "lr": 0.1, "centered": value}

    with pytest.raises(fastnn.ModelFileError, match=r"centered: got .*, expected True or False"):
        fastnn.load(edited(tmp_path, change))


def test_a_step_beyond_an_integer_of_64_bits_is_refused(tmp_path):
    with pytest.raises(fastnn.ModelFileError, match="a counter is 9223372036854775808"):
        fastnn.load(edited(tmp_path, lambda header: header.update(step=2**63)))
