"""What a frozen program needs of fastnn besides the modules that are imported by a statement.

PyInstaller reads `datas`, pairs of a path and the folder for it in the program, and `hiddenimports`, modules.
"""

from __future__ import annotations

import pathlib

_FASTNN = pathlib.Path(__file__).parents[1]

datas = [(str(_FASTNN / "data"), "fastnn/data")]
hiddenimports = [f"fastnn.cuda.{file.stem}" for file in sorted((_FASTNN / "cuda").glob("[!_]*.py"))]
