"""The command ``heron-mqtt``: its beginning and its end; ``run_commands`` has what lies between.

Importing the commands takes a moment, and Ctrl-C must end the program without a traceback also during this
time. So this module imports almost nothing, and imports the rest under its guard.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from heron_mqtt.cli.end_codes import end_code
from heron_mqtt.cli.streams import guard_streams
from heron_mqtt.end_signals import OF_THIS_PROGRAM
from heron_mqtt.importing import importing
from heron_mqtt.program_folders import remove_program_folders

EXIT_FAILED = 1


def main() -> NoReturn:
    """Run the command line, and end the process.

    Exit codes: 0 done, 1 the run failed, 2 the scenario or the arguments are wrong, 3 displaced by another
    process with ``--take-over``, 130 interrupted.
    SIGTERM (a service manager) and SIGHUP (the terminal is gone) do what Ctrl-C does; of a device and the
    broker SIGTERM is the regular end, 0.
    """
    out, err = guard_streams()
    with OF_THIS_PROGRAM:
        try:
            with importing():
                from heron_mqtt.cli.command_line import run_command_line

            code = run_command_line()
        except KeyboardInterrupt as asked:
            code = end_code(asked, sys.argv[1:])
        except BaseException:  # a bug: what was printed stands before its traceback
            out.flush()
            raise
        out.flush()
        if out.lost is not None:
            err.write(f"heron-mqtt: standard output cannot be written: {out.lost}\n")
        _end(code or (EXIT_FAILED if out.lost is not None else 0))


def _end(code: int) -> NoReturn:
    """End here and now: everything of ours is closed.

    Python's normal end would remove pandas and scipy piece by piece. This takes half a second and more, in
    which Ctrl-C seems to do nothing. It would also wait for a thread that may still be importing them.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a pipe without a reader
            stream.flush()
    remove_program_folders()
    os._exit(code)


if __name__ == "__main__":
    main()
