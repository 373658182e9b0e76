"""The whole route from the shell: `fastnn train`, `evaluate`, `predict`, `info`, `export`, `warmup` and `bench`.

One file a command, each with `add`, which declares its options, and `run`. What they share:

```
shared.py     errors as one sentence, exit codes, files that can be written, printing
options.py    the parser, and converters from text to numbers and names
files.py      rows from files: tables, at once or in batches, arrays, images
scores.py     how well a model does on rows
```

`train.py` has its options in `train_options.py`, and what it learns from, set apart and prepared, in `sources.py`,
or in `large.py` for tables too large for memory.

An error is one sentence on stderr. Exit codes: 0; 1 where training or writing failed; 2 for bad arguments and files;
130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastnn._version import __version__
from fastnn.cli import bench, evaluate, export, info, predict, train, warmup
from fastnn.cli.options import Parser
from fastnn.cli.shared import BAD_INPUT, FAILED, INTERRUPTED, CommandError, complain, drop_stdout, lenient_stdout

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "main"]

EXAMPLES = """\
examples:
  fastnn train                                        train on the handwritten digits inside the package
  fastnn train people.csv --target income             train on a table
  fastnn info fastnn-model.safetensors                what is in the file that it wrote
  fastnn predict fastnn-model.safetensors new.csv     the answers for new rows

fastnn train --help and fastnn predict --help have more.
"""

COMMANDS = (train, evaluate, predict, info, export, warmup, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; None takes those of the process.

    Returns
    -------
    int
        0, 1, 2 or 130; the module says which is which.
    """
    try:
        with lenient_stdout():
            parser = make_parser()
            options = parser.parse_args(arguments)
            if options.run is None:
                names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
                parser.error(f"got no command, expected {', '.join(names[:-1])} or {names[-1]}")
            return _flushed(options.run(options))
    except SystemExit as stop:  # --help, --version, and what argparse refuses
        return stop.code if isinstance(stop.code, int) else 0
    except CommandError as error:
        return complain(str(error), error.code)
    except MemoryError as error:
        return complain(f"out of memory: {error}", FAILED)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # who read our output, such as `head`, has enough of it
        drop_stdout()
        return FAILED
    except OSError as error:  # those of other files are sentences already
        drop_stdout()
        return complain(f"{error.filename or 'stdout'}: cannot be written: {error.strerror or error}", FAILED)


def _flushed(code: int) -> int:
    """Print what is left; the code of a command that has done its work stays though nobody reads of it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
    return code


def make_parser() -> Parser:
    """Return the parser of all commands."""
    description = "Dense neural networks, trained fast on the CPU."
    parser = Parser(prog="fastnn", description=description, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
