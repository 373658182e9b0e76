"""What every command does alike: errors as one sentence, exit codes, files that can be written, printing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastnn.loading import load
from fastnn.model import Sequential
from fastnn.progress import ProgressBar
from fastnn.saving import ModelFileError
from fastnn.tables import NEEDS_PYARROW

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

MODEL_FILE = "fastnn-model.safetensors"


class CommandError(Exception):
    """What stops a command: the sentence to print, and the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def complain(message: str, code: int) -> int:
    """Print a sentence on stderr and return the code."""
    print(f"fastnn: {' '.join(message.split())}", file=sys.stderr)
    return code


def say(text: str) -> None:
    """Print without tearing a progress bar; training goes on where nobody reads, which `main` finds out in the end."""
    with contextlib.suppress(OSError):
        ProgressBar.write(text, file=sys.stdout)


def print_json(facts: dict[str, Any]) -> None:
    """Print facts as one JSON object; null for numbers that are not finite."""
    text = json.dumps(_finite(facts), indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(facts), indent=2)
    print(text)


@contextmanager
def lenient_stdout() -> Iterator[None]:
    """Have characters that the encoding of stdout has not be printed as \\u6771."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is None:
        yield
        return
    before = sys.stdout.errors
    reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        try:
            reconfigure(errors=before)
        except OSError:  # it prints what is left first
            drop_stdout()


def drop_stdout() -> None:
    """Throw away what could not be printed, which Python would try again at its end."""
    with contextlib.suppress(OSError, ValueError):  # in tests stdout is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size_name(number: int) -> str:
    """Return a number of bytes as text: 12.3 GB, 312.0 MB, 4.1 kB."""
    unit, divisor = ("GB", 1e9) if number >= 1e9 else ("MB", 1e6) if number >= 1e6 else ("kB", 1e3)
    return f"{number / divisor:,.1f} {unit}"


def columns_of(rows: list[list[str]]) -> list[str]:
    """Return lines of cells under each other: the first column to the left, the others to the right."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(_width(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        blanks = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0] + blanks[0], *map(str.__add__, blanks[1:], row[1:])]))
    return lines


def plain(text: str) -> str:
    """Return a text with line ends and control characters as `repr` writes them, which a terminal obeys."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def _width(text: str) -> int:
    """Return how many places of a terminal a text takes: two a wide character, none an accent of its own."""
    wide = sum(unicodedata.east_asian_width(character) in "FW" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn an error about a value or file into a sentence that begins with the option or file it came from."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise CommandError(f"{error.filename or what}: {error.strerror}") from None
        # The library names its own argument first: "x: got 3 inputs, expected 64".
        message = str(error).partition(" (check_finite=")[0]
        name, colon, rest = message.partition(": ")
        raise CommandError(f"{what}: {rest if colon and name.isidentifier() else message}") from None


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an error of reading a file into a sentence that begins with its name."""
    with blame(path):
        try:
            yield
        except UnicodeDecodeError:
            expected = "a table, IDX, .npy, .npz or numbers, all text in UTF-8"
            raise ValueError(f"got bytes of no known kind, expected {expected}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"got a damaged file ({error}), expected a whole one") from None


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an error of writing a file into a sentence with exit code 1."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror or error}", FAILED) from None


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str | None]) -> None:
    """Refuse files, by the options that name them, that would be written over one that is read, or over each other."""
    others = [Path(path) for path in inputs if path is not None]
    others += [file for folder in others if folder.is_dir() for file in folder.glob("*ubyte*")]
    taken = dict.fromkeys(others, "a file that is read")
    for option, path in outputs.items():
        if path is None:
            continue
        for other, what in taken.items():
            if _same_file(path, other):
                raise CommandError(f"{option}: got {path}, {what}, expected another name")
        taken[path] = f"the file of {option}"


def _same_file(one: Path, other: Path) -> bool:
    """Whether two names stand for one file, which need not be there yet."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.normcase(one.resolve()) == os.path.normcase(other.resolve())


def check_place(option: str, path: Path) -> None:
    """Refuse a file that could not be written in the end."""
    if path.is_dir():
        raise CommandError(f"{option}: got {path}, a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise CommandError(f"{option}: got {path}, but there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{option}: got {path}, but the folder {path.parent} cannot be written to")


def check_folder(option: str, path: Path) -> None:
    """Refuse a folder in which no file could be written."""
    if not path.is_dir():
        raise CommandError(f"{option}: got {path}, expected a folder")
    if not os.access(path, os.W_OK):
        raise CommandError(f"{option}: got the folder {path}, which cannot be written to, expected another one")


def check_pyarrow(option: str) -> None:
    """Refuse what needs pyarrow where it is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise CommandError(f"{option}: {NEEDS_PYARROW}")


def load_model(path: str) -> Sequential:
    """Read a model, or say why not."""
    with blame(path):
        try:
            return load(path)
        except ModelFileError as error:
            raise ValueError(str(error).removeprefix(f"{path}: ")) from None
