"""Programs in processes of their own, as a user starts them: what they print, their end, their children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from heron_mqtt.own_program import module_command, module_environment

START_S = 60.0  # a run starts in 3 s; a machine that builds and tests several things at once is slower


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        (line,) = self.out.splitlines()
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    @property
    def errors(self) -> list[str]:
        """The errors of the program itself, without its log."""
        return [line for line in self.err.splitlines() if line.startswith("heron-mqtt")]


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the system; the time of its start tells it from a later one of the same number."""

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether it runs; one that has ended and was not waited for does not."""
        found = _stat(self.pid)
        return found is not None and found[19] == self.started and found[0] not in {"Z", "X"}

    def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)


class Started(Protocol):
    """A process that was started, as ``subprocess.Popen`` has it."""

    pid: int
    returncode: int | None

    @property
    def stdin(self) -> Any:
        """Its standard input, to be written to."""

    @property
    def stdout(self) -> Any:
        """What it prints."""

    @property
    def stderr(self) -> Any:
        """What it complains of."""

    def poll(self) -> int | None:
        """Return its exit code, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns its exit code."""

    def kill(self) -> None:
        """End it as a power cut would."""

    def terminate(self) -> None:
        """Ask it to end."""


class Program:
    """A program in a session of its own, as a terminal's foreground job; use it as a context manager.

    Args:
        arguments: The whole command line.
        cwd: Where.
        environment: Beside ours.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = self._started(list(arguments), cwd, {**os.environ, **(environment or {})})
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, text: str, within_s: float = START_S) -> str:
        """Return the first line with ``text``, on either stream."""
        found: list[str] = []

        def seen() -> bool:
            found.extend(line for line in [*self.out, *self.err] if text in line)
            return bool(found) or self.process.poll() is not None

        with self._changed:
            self._changed.wait_for(seen, within_s)
        assert found, f"no {text!r}; it said {''.join(self.out)!r} and {''.join(self.err)!r}"
        return found[0].rstrip("\n")

    def signal(self, number: int) -> None:
        """Send a signal to its process group, as a terminal does."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            raise ProcessLookupError(
                f"no process to signal: it ended with {self.process.poll()}; it said {self.err[-3:]}"
            ) from None

    def wait(self, within_s: float = START_S) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {within_s:g} s; it said {self.err[-20:]}") from None
        for reader in self._readers:
            reader.join(10.0)  # every process that inherited the pipe has closed it, too
        return Ended(code, "".join(self.out), "".join(self.err))

    def descendants(self) -> list[Process]:
        """Return its children and theirs."""
        return descendants(self.pid)

    def _started(self, arguments: list[str], cwd: Path | None, environment: dict[str, str]) -> Started:
        return subprocess.Popen(  # noqa: S603 - the command line of the caller
            arguments,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def heron_program(*arguments: str, environment: Mapping[str, str] | None = None) -> Program:
    """Start ``heron-mqtt`` of this very package."""
    return python_program("heron_mqtt", *arguments, environment=environment)


def python_program(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Program:
    """Start a module of this very package."""
    given = module_environment({**os.environ, **(environment or {})})
    return Program(module_command(module, *arguments), environment=given)


def descendants(pid: int) -> list[Process]:
    """Return the children of a process and theirs, ended ones left out."""
    parents: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))) is not None:
            parents.setdefault(int(found[1]), []).append(Process(int(entry.name), found[19]))
    wanted, below = [pid], []
    while wanted:
        children = parents.get(wanted.pop(), [])
        below += children
        wanted += [child.pid for child in children]
    return [process for process in below if process.is_alive]


def until(condition: Callable[[], object], what: str, within_s: float = 10.0) -> None:
    """Return as soon as ``condition()`` is true; fail the test if it is not in time."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {within_s:g} s"
        time.sleep(0.01)


def write_toml(path: Path, data: Mapping[str, Any]) -> Path:
    """Write a scenario file."""
    lines: list[str] = []
    _tables(lines, data, ())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _tables(lines: list[str], table: Mapping[str, Any], at: tuple[str, ...]) -> None:
    if at:
        lines.append(f"[{'.'.join(json.dumps(key) for key in at)}]")
    lines += [f"{json.dumps(k)} = {_inline(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            _tables(lines, value, (*at, key))


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on: state, parent, ..., time of start (20th)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
