"""A device's program: started, cut off as by a power cut, told to end, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.urls import parse_url

KEPT_LINES = 40
END_S = 5.0


class DeviceProcess:
    """A command line that serves one device; it does not run before ``start``.

    Use it as a context manager: on leaving, the program and what it has started are gone.

    Args:
        command: The words of the command line.
        cwd: Where it runs.
        environment: Beside ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.said: deque[str] = deque(maxlen=KEPT_LINES)
        """The last lines that it has printed, on either stream."""
        self._cwd = cwd
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def is_running(self) -> bool:
        """Whether it is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def ending(self) -> str:
        """How it has ended, and its last output; empty while it runs."""
        if self._process is None or (code := self._process.poll()) is None:
            return ""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the program has ended {how}" + (f": {self.said[-1]}" if self.said else "")

    def start(self) -> None:
        """Start it.

        Raises:
            ConfigError: It cannot be started.
        """
        self.said.clear()
        try:
            process = subprocess.Popen(  # noqa: S603 - the command line that the user gave
                self.command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C at the terminal is for us; we end it
            )
        except OSError as exc:
            raise ConfigError(f"{self.command[0]}: cannot be started: {exc.strerror or exc}") from None
        self._process = process
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end(self) -> None:
        """Ask the program to end, and kill it if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self.kill()

    def _read(self, stream: IO[str]) -> None:
        """Keep the pipe empty; a thread, because a program that fills it would stand still."""
        with stream:
            for line in stream:
                self.said.append(line.rstrip("\n"))


def fill_in(command: Sequence[str], *, url: str, env_id: str, agent_id: str, name: str) -> list[str]:
    """Return a command line with its placeholders filled in.

    ``{broker}`` is the URL, ``{host}`` and ``{port}`` where that is (of several hosts the first one),
    ``{env}``, ``{agent}`` and ``{device}`` the names on the wire, ``{python}`` our interpreter.
    """
    host, port = parse_url(url).hosts[0]
    known = {"broker": url, "host": host, "port": str(port)}
    known |= {"env": env_id, "agent": agent_id, "device": name}
    known["python"] = sys.executable
    filled = []
    for word in command:
        for key, value in known.items():
            word = word.replace(f"{{{key}}}", value)  # noqa: PLW2901 - the word, with one more filled in
        filled.append(word)
    return filled
