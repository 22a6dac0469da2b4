"""The live page of a run: a process of its own, so that the run is not slowed; it ends with the run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from heron_mqtt.errors import ConfigError
from heron_mqtt.own_program import module_command, module_environment

END_S = 5.0
NICENESS = 5
"""Where there is not enough of the machine for both, the run comes first."""


@contextmanager
def live_page(port: int | None) -> Iterator[Callable[[str], None] | None]:
    """Yield what begins the page of a broker at ``port``; None = no page is wanted.

    The page's process has the login of the run in its environment, never on its command line. It ends when
    its standard input does, so it outlives no run that was killed.
    """
    if port is None:
        yield None
        return
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--dashboard {port}: expected a port, 0 to 65535")
    started: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def begin(url: str) -> None:
        arguments = ["dashboard", "--broker", url, "--port", str(port), "--ends-with-input"]
        page = subprocess.Popen(  # noqa: S603 - our own program
            module_command("heron_mqtt", *arguments),
            env=module_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
        )
        assert page.stdout is not None
        saying = threading.Thread(
            target=_pass_on, args=(page.stdout,), name="what the page says", daemon=True
        )
        saying.start()
        started.append((page, saying))

    try:
        yield begin
    finally:
        for page, saying in started:
            if page.stdin is not None:
                page.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                page.wait(END_S)
            if page.poll() is None:
                page.kill()
                page.wait()
            saying.join(END_S)


def _pass_on(said: TextIO) -> None:
    """Say what the page says: written by itself, its address would be lost under a live table."""
    for line in said:
        sys.stderr.write(line)
        sys.stderr.flush()
