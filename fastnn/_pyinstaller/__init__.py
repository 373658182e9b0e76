"""What PyInstaller has to know of fastnn; it finds this folder by the entry point in `pyproject.toml`."""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders with hooks for PyInstaller."""
    return [os.path.dirname(__file__)]
