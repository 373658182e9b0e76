"""The summary: the same table as text and as HTML."""

from __future__ import annotations

import xml.etree.ElementTree

import fastnn
from fastnn import Activation, Dense, Dropout, Rescale, Sequential


def model(**settings):
    layers = [Rescale(1 / 255), Dense(30, "relu", l1=0.5), Dropout(0.2), Activation("tanh"), Dense(10, use_bias=False)]
    return Sequential(layers, "cross_entropy", l2=0.25, **settings)


def test_a_terminal_shows_the_table_as_it_is():
    summary = model(input_size=100).summary()
    assert repr(summary) == str(summary)
    lines = summary.splitlines()
    cells = [line.split() for line in lines]
    assert cells[0] == ["layer", "output", "parameters", "penalty"]
    assert cells[1:7] == [
        ["input", "100"],
        ["Rescale", "100", "0"],
        ["Dense", "relu", "30", "3,030", "l1", "0.5,", "l2", "0.25"],
        ["Dropout", "0.2", "30", "0"],
        ["Activation", "tanh", "30", "0"],
        ["Dense", "identity", "10", "300", "l2", "0.25"],
    ]
    assert lines[7].startswith("3,330 parameters, 0.01 MB; training keeps 4 such vectors, and 6 to go back to")
    assert lines[8].startswith("workspace for batches of 32: ")


def test_a_notebook_shows_the_same_as_html():
    for built in (model(input_size=100), model()):
        summary = built.summary()
        html = built._repr_html_()
        assert html == summary._repr_html_()
        table, note = xml.etree.ElementTree.fromstring(f"<div>{html.replace('<br>', ' ')}</div>")
        rows = [[cell.text or "" for cell in row] for row in table.iter("tr")]
        lines = summary.splitlines()
        assert len(rows) >= 6
        for cells, line in zip(rows, lines, strict=False):
            assert " ".join(cells).split() == line.split()
        assert note.text == " ".join(lines[len(rows) :])
        assert "color" not in html, "light or dark is the notebook's"


def test_what_a_summary_names_is_no_html():
    class Odd(fastnn.layers.Layer):
        """A layer kind with a name that HTML would take for a tag."""

    Odd.__name__ = "<b>&"
    odd = Sequential([Dense(1)], "squared_error")
    odd.layers = (Odd(),)
    assert '<td style="text-align: left">&lt;b&gt;&amp;</td>' in odd._repr_html_()
