"""What training gave, epoch by epoch."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from fastnn._errors import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class History:
    """Numbers of every epoch, over all calls of `fit`.

    Attributes
    ----------
    history : dict of str to list of float
        "loss", "val_loss", "accuracy", "val_accuracy", "val_r2", "lr", "seconds", "samples_per_second", as in
        Keras a list each.
    epoch : list of int
        The epochs' numbers, from 0.
    stops : list of dict
        Where `EarlyStopping` ended a `fit`: "epoch", the last one trained; "best_epoch"; "monitor", what it watched;
        "restored", whether the weights went back to those of the best epoch.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.stops: list[dict[str, Any]] = []

    def append(self, epoch: int, logs: dict[str, float]) -> None:
        """Add an epoch; a number that other epochs lack is NaN there.

        Raises
        ------
        TypeError
            For what is no number, which some callback added; the others are in.
        """
        self.settle()
        row, wrong = {}, {}
        for name, value in logs.items():
            try:
                row[name] = float(value)
            except (TypeError, ValueError):
                wrong[name] = value
        for name in dict.fromkeys([*self.history, *row]):
            if name not in self.history:
                self.history[name] = [float("nan")] * len(self.epoch)
            self.history[name].append(row.get(name, float("nan")))
        self.epoch.append(epoch)
        for name, value in wrong.items():
            raise TypeError(f"logs[{name!r}]: got {shown(value)} from a callback, expected a number")

    def move_last_to(self, place: int) -> None:
        """Put the last epoch in front of those that a `fit` within it added."""
        if place < len(self.epoch) - 1:
            columns: list[list[Any]] = [self.epoch, *self.history.values()]
            for column in columns:
                column.insert(place, column.pop())

    def settle(self) -> None:
        """Drop what an interrupted `append` added: an epoch counts when its number is there, which comes last."""
        for column in self.history.values():
            del column[len(self.epoch) :]

    def add_stop(self, epoch: int, best_epoch: int, monitor: str, restored: bool) -> None:
        """Note that early stopping ended a `fit` after an epoch."""
        self.stops.append({"epoch": epoch, "best_epoch": best_epoch, "monitor": monitor, "restored": restored})

    def plot(self, path: str | os.PathLike[str] | None = None, **settings: Any) -> Figure:
        """Draw the learning curves; see `fastnn.plotting.plot_history`, which takes the same arguments."""
        from fastnn.plotting import plot_history

        return plot_history(self, path, **settings)

    def truncate(self, epoch: int) -> None:
        """Drop the epochs from number `epoch` on."""
        keep = sum(number < epoch for number in self.epoch)
        self.epoch = self.epoch[:keep]
        self.history = {name: column[:keep] for name, column in self.history.items()}
        self.stops = [stop for stop in self.stops if stop["epoch"] < epoch]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (JSON), a copy; of an epoch that another thread is adding, nothing."""
        epoch, columns = list(self.epoch), {name: list(column) for name, column in list(self.history.items())}
        whole = min([len(epoch), *map(len, columns.values())])
        return {
            "epoch": epoch[:whole],
            "history": {name: column[:whole] for name, column in columns.items()},
            "stops": list(self.stops),
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.to_dict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> History:
        """Return what `to_dict` described."""
        result = cls()
        result.epoch = [int(number) for number in data["epoch"]]
        result.history = {str(name): [float(number) for number in column] for name, column in data["history"].items()}
        for stop in data.get("stops", []):  # which files of early versions lack
            result.add_stop(int(stop["epoch"]), int(stop["best_epoch"]), str(stop["monitor"]), bool(stop["restored"]))
        if any(len(column) != len(result.epoch) for column in result.history.values()):
            raise ValueError("history: got columns of other lengths than the epochs")
        return result

    def __repr__(self) -> str:
        row = {name: column[-1] for name, column in self.history.items() if column}
        last = ", ".join(f"{name} {number:.4g}" for name, number in row.items() if not math.isnan(number))
        return f"<History: {len(self.epoch)} epochs; {last}>"
