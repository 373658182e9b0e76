"""How the tools of this folder end where who read their output, such as ``head``, has enough of it: without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def run(main: Callable[[], int | None], unread: int = 1) -> int:
    """Run a tool and return its exit code: `unread` where it had more to print, its own where it was done."""
    try:
        code = main() or 0
    except BrokenPipeError:
        _drop_stdout()
        return unread
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    return code


def _drop_stdout() -> None:
    """Throw away what could not be printed, which Python would try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
