"""What callbacks at work in a model leave there, so that it is saved with it and training goes on from the file."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from fastnn.callbacks import Callback


class CallbackStates:
    """The states of a model's callbacks, and those that are at work now.

    Attributes
    ----------
    kept : dict of str to dict
        By the callback's kind, the second and later ones of a kind by their number as well: plain numbers and arrays.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        # Whose these are, where they do not come from a file; a callback has hold of its model and the data.
        self._owners: dict[str, weakref.ref[Callback]] = {}
        self._at_work: tuple[Callback, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles are in no `fit`, and have the states as they are now."""
        self.collect()
        return {**self.__dict__, "_at_work": (), "_owners": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> CallbackStates:
        """Copies are as pickles, but a state is still of the callback that left it."""
        self.collect()
        twin = CallbackStates()
        twin.kept, twin._owners = copy.deepcopy(self.kept, memo), dict(self._owners)
        return twin

    def attach(self, callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
        """Give each callback the state that is kept for it, or a fresh one; return those that were at work.

        Raises whatever a callback raises that is given its state; then those that were at work still are.
        """
        self.collect()
        before = self._at_work
        for name, callback in _named(callbacks):
            state, owner = self.kept.get(name), self._owners.get(name)
            another = callback.begins_anew and owner is not None and owner() is not callback
            if state is None or another:
                callback.reset()
            else:
                callback.restore(state)
        self._at_work = tuple(callbacks)
        return before

    def collect(self) -> None:
        """Take the states of the callbacks at work."""
        for name, callback in _named(self._at_work):
            state = callback.state()
            if state:
                self.kept[name], self._owners[name] = state, weakref.ref(callback)

    @property
    def at_work(self) -> bool:
        """Whether some callback is in a `fit`."""
        return bool(self._at_work)

    def detach(self, before: tuple[Callback, ...]) -> None:
        """Keep the callbacks' states and go back to those that were at work before."""
        self.collect()
        self._at_work = before

    def take_over(self, other: CallbackStates) -> None:
        """Keep what those of a model from a file keep, instead."""
        self.kept, self._owners = other.kept, {}


def _named(callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
    """Name callbacks by kind, the second and later ones of a kind by their number as well."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] = seen.get(kind, 0) + 1
        yield kind if seen[kind] == 1 else f"{kind}-{seen[kind]}", callback
