"""The exit code of a command that a signal ends before it could answer for itself, while it is imported."""

from __future__ import annotations

from collections.abc import Sequence

from heron_mqtt.end_signals import EXIT_INTERRUPTED, AskedToEnd, exit_code

SERVING = ("broker", "device")  # to be ended by SIGTERM is their regular end: a service manager counts it


def end_code(asked: KeyboardInterrupt, words: Sequence[str]) -> int:
    """Return the exit code that the command also has later, when it runs.

    Args:
        asked: The signal, or Ctrl-C.
        words: The command line, without the program's name.
    """
    command = next((word for word in words if not word.startswith("-")), "")
    return exit_code(asked) if command in SERVING and isinstance(asked, AskedToEnd) else EXIT_INTERRUPTED
