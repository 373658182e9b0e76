"""Run the gate. Python's own exit code for an uncaught exception is 1, which here means that something is slower."""

import sys
import traceback

try:
    from benchmarks.gate.command import main

    code = main()
except KeyboardInterrupt:
    code = 130
except Exception:  # whatever it is, it is neither "slower" nor "not slower"
    traceback.print_exc()
    code = 2
sys.exit(code)
