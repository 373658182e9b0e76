"""`fastnn warmup`: compile ahead."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fastnn.cli.options import add_command, add_json, one_of
from fastnn.cli.shared import FAILED, CommandError, print_json
from fastnn.kernels._warmup import kept, warmup


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "compile every kernel for this CPU ahead of the first use"
    parser = add_command(commands, "warmup", run, summary, ", for images and CI; NUMBA_CACHE_DIR says where to")
    parser.add_argument(
        "--dtype", type=one_of(("float32", "float64")), action="append", metavar="TYPE",
        help="float32 or float64; may be given twice (default: both)",
    )  # fmt: skip
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compile, and say how long it took."""
    names = list(dict.fromkeys(options.dtype or ["float32", "float64"]))
    start = time.perf_counter()
    if not options.json:
        print("compiling every kernel for this CPU, some twenty seconds for each type", file=sys.stderr)
    warmup(names)
    seconds = time.perf_counter() - start
    if not kept(names):
        raise CommandError("the compiled code could not be kept: set NUMBA_CACHE_DIR to a writable directory", FAILED)
    if options.json:
        print_json({"dtypes": names, "seconds": seconds})
    else:
        print(f"compiled for {' and '.join(names)} in {seconds:.1f} s")
    return 0
