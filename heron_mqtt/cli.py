"""The command ``heron-mqtt``: its beginning and its end; ``heron_mqtt.commands`` has what lies between.

Importing the commands takes a moment, in which Ctrl-C must end the program as quietly as ever after:
so this module imports next to nothing, and the rest only under its guard.
"""

from __future__ import annotations

import signal
from types import FrameType

EXIT_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended: 128 + SIGINT


def main() -> None:
    """Run the command line; ends with SystemExit.

    Exit codes: 0 done, 1 the run failed, 2 the scenario or the arguments are wrong, 130 interrupted.
    """
    try:
        signal.signal(signal.SIGTERM, _as_ctrl_c)
        from heron_mqtt.commands import run_command_line

        raise SystemExit(run_command_line())
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _as_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    """Let a service manager's SIGTERM do what Ctrl-C does: clean up, and tell what ran."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
