"""The progress bar, and lines that are printed above it."""

from __future__ import annotations

import os
import threading
from typing import Any

from tqdm import tqdm


class ProgressBar(tqdm):
    """tqdm's bar of samples, for what takes longer than a second, with a lock of this process's own, and no thread.

    tqdm's own lock is shared with forked processes: where one of them is killed while it holds the lock, all others
    would wait for ever.
    """

    monitor_interval = 0

    def __init__(self, total: int, silent: bool) -> None:
        super().__init__(
            total=total, unit=" samples", unit_scale=True, delay=1.0, miniters=1, disable=silent, leave=False
        )

    def refresh(self, *arguments: Any, **settings: Any) -> Any:
        """Draw it, from the end of the delay on, which tqdm keeps in `update` alone, and so that `close` clears it."""
        if self.disable or self._time() < self.start_t + self.delay:
            return False
        drawn = super().refresh(*arguments, **settings)
        self.last_print_t = self._time()
        return drawn


def _own_lock(*_: Any) -> None:
    ProgressBar.set_lock(threading.RLock())


_own_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_lock)
