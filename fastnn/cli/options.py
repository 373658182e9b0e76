"""The parser of the command line, and converters from text to numbers and names."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from fastnn._errors import check_number, unknown_name
from fastnn.cli.files import STREAM_FROM
from fastnn.cli.shared import BAD_INPUT


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage in front of it."""

    def __init__(self, **options: Any) -> None:
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here: a command would hand it to the parser above, which has other options."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            given = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(given, self._option_string_actions, n=1) if given.startswith("-") else []
            advice = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        message = " ".join(message.removeprefix("argument ").split())
        self.exit(BAD_INPUT, f"{self.prog}: {message} ({self.prog} --help says more)\n")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = "", epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command whose help begins with a summary, which its own page ends with a sentence `more`."""
    description = f"{summary[0].upper()}{summary[1:]}{more}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL."""
    parser.add_argument("model", metavar="MODEL", help="file that fastnn train or model.save wrote")


def add_json(parser: Any) -> None:
    """Add the option --json."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and nothing else")


def add_stream_from(add: Any) -> None:
    """Add the option --stream-from."""
    text = "read tables of so many MB or more in batches, those of a Parquet file counted unpacked"
    add("--stream-from", metavar="MB", type=integer(0), help=f"{text} (default {STREAM_FROM})")


def number(
    low: float, high: float | None = None, *, low_open: bool = False, high_open: bool = False
) -> Callable[[str], float]:
    """Return a converter from text to a number within limits."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        with _refusal(text):
            return check_number("", value, low=low, high=high, low_open=low_open, high_open=high_open)

    return convert


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a converter from text to an integer within limits."""

    def convert(text: str) -> int:
        try:
            value: object = int(text)
        except ValueError:
            value = text
        with _refusal(text):
            return check_number("", value, low=low, high=high, integer=True)

    return convert


def share_or_file(text: str) -> float | str:
    """Return a share of the rows, 0 to 1, for a number, and any other text as it is: the name of a file."""
    try:
        value = float(text)
    except ValueError:
        return text
    with _refusal(text):
        return check_number("", value, low=0.0, high=1.0, high_open=True)


@contextmanager
def _refusal(text: str) -> Iterator[None]:
    """Turn `check_number`'s error into one that argparse prints, about the text as it was typed."""
    try:
        yield
    except (TypeError, ValueError) as error:
        expected = str(error).rpartition("expected ")[2]
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}") from None


def one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    """Return a converter that takes these names, in any case, with - for _."""

    def convert(text: str) -> str:
        name = text.lower().replace("-", "_")
        if name not in names:
            raise argparse.ArgumentTypeError(str(unknown_name("", text, names)).removeprefix(": "))
        return name

    return convert


def layers(text: str) -> tuple[int, ...]:
    """Return (256, 128) for "256,128", and () for "0"."""
    try:
        units = tuple(int(part) for part in text.split(","))
    except ValueError:
        units = ()
    if units == (0,):
        return ()
    if not units or min(units) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected units such as 256,128, or 0 for no hidden layer")
    return units
