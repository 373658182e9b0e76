"""What the site's reference shows is what stands in the docstrings."""

import inspect

import conf
import pytest

import fastnn


def _shown(lines):
    conf._formulas_are_plain(None, "method", "", None, None, lines)
    return lines


def test_a_star_in_a_formula_is_no_markup():
    assert _shown(["r * (i + 1), |W|, `dx * y`"]) == ["r \\* (i + 1), \\|W\\|, `dx * y`"]


def test_bars_are_fences():
    shown = conf._mathml(r"\lvert a \rvert \le 1")
    assert [shown.count(f'fence="true" form="{form}"') for form in ("prefix", "postfix")] == [1, 1]


@pytest.mark.parametrize("thing", [fastnn.GradientFlow, fastnn.Sequential.apply_gradients])
def test_examples_can_be_copied(thing):
    lines = [line for line in inspect.getdoc(thing).split("\n") if line.startswith(">>> ")]
    assert any("*" in line for line in lines)
    assert _shown(list(lines)) == lines


def test_code_over_two_lines_is_as_it_stands():
    lines = ["So ``a[:] += 0.01 *", "(b - a)`` moves a."]
    assert _shown(list(lines)) == lines
