"""The README's Python does what it says, and its links and those of the pages lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "guide").glob("*.md"))


def _links(page: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return the files that a page has links to, each with the anchor in it or ""."""
    links = [link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in links]


def _anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    missing = []
    for block in blocks:
        try:
            exec(compile(block, str(README), "exec"), names)
        except ImportError as error:  # PyTorch, onnx, ...; where they are installed there is none
            missing.append(error.name)
    assert len(missing) < len(blocks) // 2, missing
    assert "fastnn" not in missing
    assert names["model"].evaluate(names["x_test"], names["y_test"])["accuracy"] > 0.9
    assert min(names["model"].history.history["lr"]) > 0, "a fit after the schedule's end changed nothing"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for path, anchor in _links(page):
        drawn = path.parent.name == "figures"  # when the site is built
        assert drawn or path.exists(), path
        assert not anchor or anchor in _anchors(path), (path.name, anchor)


def test_every_page_is_found_from_the_readme():
    there = {path for path, _ in _links(README)}
    assert [page.name for page in PAGES if page not in there and page.name != "index.md"] == []
