"""The live page of a run: a process of its own, so that the run is not slowed; it ends with the run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from heron_mqtt.errors import ConfigError

END_S = 5.0


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
    started: list[subprocess.Popen[bytes]] = []

    def begin(url: str) -> None:
        command = ["-m", "heron_mqtt", "dashboard", "--broker", url, "--port", str(port), "--ends-with-input"]
        started.append(
            subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, *command], stdin=subprocess.PIPE, stdout=sys.__stderr__
            )
        )

    try:
        yield begin
    finally:
        for page in started:
            if page.stdin is not None:
                page.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                page.wait(END_S)
            if page.poll() is None:
                page.kill()
                page.wait()
