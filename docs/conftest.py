"""Every Python block of the pages is run, each page in an empty folder, and prints what is said: ``pytest docs``."""

import contextlib
import io
import os
import tempfile

from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser


def _enter_folder(namespace):
    namespace["__before__"], namespace["__folder__"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["__folder__"].name)


def _leave_folder(namespace):
    os.chdir(namespace["__before__"])
    namespace["__folder__"].cleanup()


_run = PythonEvaluator()


def _run_and_listen(example):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _run(example)
    example.namespace["__printed__"] = printed.getvalue()


def _compare(example):
    """Compare a block with what the one before it printed, where that printed anything."""
    printed = example.namespace.pop("__printed__", "")
    if printed and printed.strip() != example.parsed.strip():
        raise AssertionError(f"the block above printed\n{printed}expected\n{example.parsed}")


_PARSERS = [CodeBlockParser("python", _run_and_listen), CodeBlockParser("text", _compare)]

pytest_collect_file = Sybil(parsers=_PARSERS, patterns=["*.md"], setup=_enter_folder, teardown=_leave_folder).pytest()
