"""What goes wrong by a user's mistake or outside of us: one line a problem, and the exit code."""

from __future__ import annotations

import re
import sys

from heron_mqtt.errors import HeronError, told_at_the_end
from heron_mqtt.messaging.settings import EVERYWHERE, option_of

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def report(exc: HeronError) -> int:
    """Print each problem as one line; returns the exit code."""
    problems, code = told_at_the_end(exc)
    for problem in problems:
        complain(_as_option(problem))
    return code


def complain(problem: str) -> None:
    """Print one problem to standard error, without what a terminal would obey: it may repeat an argument."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in problem)
    sys.stderr.write(f"heron-mqtt: {shown}\n")
    sys.stderr.flush()


def _as_option(problem: str) -> str:
    """Name the option that a problem with the broker comes from, not the class that found it."""
    names = "|".join(EVERYWHERE)
    problem = re.sub(
        rf"\b({names})=('?)([\w.]*)\2", lambda m: f"{option_of(m[1])} {m[3]}".rstrip(), problem
    ).replace("password=", "--password-file")
    named = re.match(rf"(?:MqttBroker: )?({names}) ", problem)
    if named is not None:  # a setting with its value
        return (
            problem[: named.start(1)].removeprefix("MqttBroker: ")
            + option_of(named[1])
            + problem[named.end(1) :]
        )
    if problem.startswith("MqttBroker: "):
        return problem.replace("MqttBroker: ", "--broker: ", 1)
    return f"--{problem}" if problem.startswith("broker ") else problem
