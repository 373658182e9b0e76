"""The README's Python does what it says."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_every_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["model"].evaluate(names["x_test"], names["y_test"])["accuracy"] > 0.9
