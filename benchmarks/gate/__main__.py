"""Run the gate. Python's own exit code for an uncaught exception is 1, which here means that something is slower."""

import sys
import traceback


def _main() -> int:
    try:
        from benchmarks import shell
        from benchmarks.gate.command import NOT_MEASURED, main

        return shell.run(main, unread=NOT_MEASURED)
    except KeyboardInterrupt:
        return 130
    except Exception:  # whatever it is, it is neither "slower" nor "not slower"
        traceback.print_exc()
        return 2


if __name__ == "__main__":  # asv imports this module, too
    sys.exit(_main())
