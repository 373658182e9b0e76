"""The README's Python does what it says."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


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
