"""The documentation: ``python -m sphinx -W docs docs/_build``. fastnn itself makes those figures that are missing."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))  # for figures.py

import figures  # noqa: E402
from docutils import nodes  # noqa: E402
from latex2mathml import converter  # noqa: E402

import fastnn  # noqa: E402

project = "fastnn"
author = "The fastnn authors"
copyright = "The fastnn authors, BSD-3-Clause"
release = fastnn.__version__

extensions = [
    "myst_parser",  # the pages are Markdown
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
default_role = "py:obj"  # `Dense` in a docstring is a link
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fastnn {release}"
html_static_path = ["_static"]
html_css_files = ["fastnn.css"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, shapes and dtypes
numpydoc_show_class_members = False
html_math_renderer = "mathml"


_CODE = re.compile(r"(^ *(?:>>>|\.\.\.) [^\n]*|``.*?``|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def _formulas_are_plain(app, what, name, obj, options, lines):
    """Let * and | of the docstrings' formulas mean themselves; in code they do anyway."""
    parts = _CODE.split("\n".join(lines))
    parts[::2] = [text.replace("|", "\\|").replace("*", "\\*") for text in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def _mathml(formula, display="inline"):
    # A bar of \lvert is no fence to latex2mathml: before an operator it would get an operator's spaces.
    return converter.convert(formula.replace(r"\lvert", r"\left|").replace(r"\rvert", r"\right|"), display=display)


def _inline(writer, node):
    writer.body.append(_mathml(node.astext()))
    raise nodes.SkipNode


def _displayed(writer, node):
    writer.body.append(f"<div>{_mathml(node.astext(), 'block')}</div>")
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    # Formulas as MathML, which browsers draw by themselves: no script from elsewhere.
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_displayed, None))
    app.connect(
        "autodoc-process-docstring", _formulas_are_plain, priority=100
    )  # before numpydoc adds markup of its own


figures.make(HERE / "guide" / "figures")
