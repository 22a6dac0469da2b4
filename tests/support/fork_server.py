"""``heron-mqtt``, or a script, started by a fork of a process that has imported it: in 20 ms, not 2 s.

The program is a process of its own all the same, with its own session, streams, signals, working directory
and environment, and it ends as ever. What differs: its modules are imported already, and stay to its end.
``HERON_FRESH_PROCESSES=1`` starts the installed command, or Python, instead, as ``.ci/slow`` does.

One server serves all the processes of a test run, at a socket in their folder (``HERON_TEST_FOLDER``): the
first that needs it starts it. Run as a program, this file is the server: its standard input is the socket
that listens. It forks for each request, and ends when the last of its clients is gone.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import gc
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

MODULES = (
    *("heron_mqtt.cli.main", "heron_mqtt.cli.command_line", "heron_mqtt.cli.console"),
    *("heron_mqtt.app.operator_client", "heron_mqtt.app.remote_agent", "heron_mqtt.app.run_plan"),
    *("heron_mqtt.app.run_time", "heron_mqtt.app.runner", "heron_mqtt.app.scenario_check"),
    *("heron_mqtt.app.vendor_adapters", "heron_mqtt.app.verify", "heron_mqtt.field.device"),
    *("heron_mqtt.dashboard.server", "heron_mqtt.messaging.hosted", "heron_mqtt.messaging.memory"),
    *("heron_mqtt.messaging.embedded.process.child", "heron_mqtt.messaging.embedded.server.server"),
    *("heron_mqtt.messaging.schemes", "pandapower", "powergrid.emulators.emulator"),
    *("powergrid.emulators.__main__", "powergrid.emulators.script", "powergrid.emulators.sunspec_bridge"),
    *("powergrid.envs.microgrid_environment", "powergrid.networks.builders"),
    *("powergrid.powerflow.adapter", "powergrid.simulation.build", "scipy.signal"),
    *("stringprep", "typer.rich_utils"),
)
PACKAGES = (
    *("heron_mqtt.app", "heron_mqtt.cli", "heron_mqtt.dashboard", "heron_mqtt.field"),
    *("heron_mqtt.messaging", "heron_mqtt.record", "heron_mqtt.testing.conformance"),
    *("heron_mqtt.testing.faults", "heron_mqtt.testing.suite", "powergrid.batched"),
    *("powergrid.emulators", "powergrid.policies", "powergrid.powerflow"),
)
"""Of all their modules some command imports when it is called; where lines are measured that takes longer."""
_LENGTH = 4
_MOST_BYTES = 1 << 20


def is_forked(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command line may be forked: ``heron-mqtt``, or this Python with a script.

    A script with modules of its own, by ``PYTHONPATH``, is not: others are imported already.
    """
    if environment.get("HERON_FRESH_PROCESSES"):
        return False
    if words[0] != sys.executable:
        return words[0] == str(Path(sys.executable).with_name("heron-mqtt"))
    is_script = len(words) > 1 and words[1].endswith(".py")
    return is_script and environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH")


class ForkedProcess:
    """A program that was forked; has what tests use of ``subprocess.Popen``."""

    def __init__(self, answers: socket.socket, streams: Sequence[IO[Any]]) -> None:
        self._answers = answers
        self.stdin, self.stdout, self.stderr = streams
        self.returncode: int | None = None
        self.pid = self._read_number()

    def poll(self) -> int | None:
        """Return the exit code, -N for signal N, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It has not ended.
        """
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                status = self._read_number()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("heron-mqtt", timeout or 0.0) from None
            self._answers.close()
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def _read_number(self) -> int:
        data = self._answers.recv(_LENGTH)
        if len(data) < _LENGTH:
            raise RuntimeError("the fork server has ended")
        return int.from_bytes(data, "big")


class ForkServer:
    """The client's side; connects at the first request, and starts the server if there is none.

    Args:
        program: The file that is the server, run with the listening socket as its standard input.
        name: Of its socket in ``HERON_TEST_FOLDER``.
    """

    def __init__(self, program: str = __file__, name: str = "fork-server") -> None:
        self._program, self._name = program, name
        self._requests: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None  # kept: it ends after this process

    def begin(self) -> None:
        """Start the server if there is none; it is there as long as this is."""
        self._connected()

    def start(
        self,
        words: Sequence[str],
        cwd: Path | None,
        environment: Mapping[str, str],
        ignored: Sequence[int] = (),
    ) -> ForkedProcess:
        """Start ``heron-mqtt``, or a script, in a session of its own, its streams pipes.

        Args:
            words: The whole command line: ``heron-mqtt``, or Python and a script, is its beginning.
            cwd: Where.
            environment: All of it.
            ignored: Signals that it ignores from its first moment on.
        """
        pipes = [os.pipe() for _ in range(3)]
        given = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            answers = self.ask(words, cwd, environment, given, ignored)
        finally:
            for number in given:
                os.close(number)
        streams = [open(pipes[0][1], "w"), open(pipes[1][0]), open(pipes[2][0])]  # noqa: PTH123, SIM115
        return ForkedProcess(answers, streams)

    def ask(
        self,
        words: Sequence[str],
        cwd: Path | None,
        environment: Mapping[str, str],
        streams: Sequence[int],
        ignored: Sequence[int] = (),
    ) -> socket.socket:
        """Have a program forked with these descriptors as its streams; return where its number comes from."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "words": list(words),
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(environment),
            "ignored": list(ignored),
        }
        with theirs:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [*streams, theirs.fileno()]))]
            self._connected().sendmsg([json.dumps(request).encode()], rights)
        return ours

    def _connected(self) -> socket.socket:
        if self._requests is None:
            address = Path(os.environ["HERON_TEST_FOLDER"]) / self._name
            requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
            with _locked(address):
                try:
                    requests.connect(str(address))
                except OSError:  # there is none yet, or no longer
                    self._start(address)
                    requests.connect(str(address))
            self._requests = requests
        return self._requests

    def _start(self, address: Path) -> None:
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(address))
            listening.listen()
            command = [sys.executable, self._program]
            self._server = subprocess.Popen(
                command, stdin=listening, stdout=subprocess.DEVNULL, start_new_session=True
            )


@contextlib.contextmanager
def _locked(address: Path) -> Iterator[None]:
    """While this holds, no other process connects to the server, starts one, or is the one that ends."""
    with address.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- the server ----------------------------------------------------------------------------------------


def serve(listening: socket.socket) -> list[str] | None:
    """Fork for each request; tell each one's client its process id, and how it has ended.

    Returns:
        In the child, the words that it is to be the program of: its streams, folder and environment are
        those of the request, and nothing of the server is open. None in the server, at its end.
    """
    asked = _forked_for(listening)
    listening.close()
    return None if asked is None else _taken_on(*asked)


def _forked_for(listening: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Serve; return what was asked for in each child."""
    waiting: dict[int, tuple[int, socket.socket]] = {}
    clients: set[socket.socket] = set()
    listening.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    client, _ = listening.accept()
                    clients.add(client)
                    selector.register(client, selectors.EVENT_READ)
                elif key.fileobj in clients:
                    client = key.fileobj
                    data, given, _, _ = socket.recv_fds(client, _MOST_BYTES, 4)
                    if not data:
                        selector.unregister(client)
                        clients.remove(client)
                        client.close()
                        continue
                    pid = os.fork()
                    if pid == 0:
                        return json.loads(data), given
                    answers = socket.socket(fileno=given.pop())
                    for number in given:
                        os.close(number)
                    watched = os.pidfd_open(pid)
                    waiting[watched] = (pid, answers)
                    selector.register(watched, selectors.EVENT_READ)
                    _tell(answers, pid)
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    pid, answers = waiting.pop(key.fd)
                    _tell(answers, os.waitpid(pid, 0)[1])
                    answers.close()
            if not clients and _is_over(listening):
                return None


def _is_over(listening: socket.socket) -> bool:
    """Whether no further client is about to be served; there will be none then."""
    address = Path(listening.getsockname())
    try:
        with _locked(address):
            if select.select([listening], [], [], 0.0)[0]:
                return False
            address.unlink(missing_ok=True)
    except FileNotFoundError:  # the folder is gone: so is the test run
        return True
    return True


def end(code: int = 0) -> NoReturn:
    """End as the interpreter does, but leave what is imported as it is: to take it apart takes 0.1 s."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does in a fork
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def _import_packages() -> None:
    """Import all modules of ``PACKAGES`` for which what they need is installed."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(__import__(package, fromlist=["_"]).__path__, f"{package}."):
            if not module.name.endswith(".__main__"):
                with contextlib.suppress(ImportError):
                    __import__(module.name)


def _tell(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the caller is gone
        client.send(number.to_bytes(_LENGTH, "big"))


def _taken_on(request: dict[str, Any], given: list[int]) -> list[str]:
    """Take on what a request gives, in the child; return its words."""
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    for number, wanted in zip(given[:3], range(3), strict=True):
        os.dup2(number, wanted)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # of the server, and of its other programs
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    words: list[str] = request["words"]
    return words


def _exit_code_of(file: str) -> int:
    """Run a script; return its exit code. What else it raises ends the process as ever."""
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as exc:
        if exc.code is None or isinstance(exc.code, int):
            return exc.code or 0
        sys.stderr.write(f"{exc.code}\n")
        return 1
    return 0


def _program(words: list[str]) -> NoReturn:
    if words[0] == sys.executable:
        sys.argv = words[1:]
        sys.path.insert(0, str(Path(words[1]).resolve().parent))
        end(_exit_code_of(words[1]))
    gc.unfreeze()  # as in any program: a run asks, and to count what is frozen takes 30 ms
    sys.argv = ["heron-mqtt", *words[1:]]
    from heron_mqtt.cli.main import main

    main()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    from support.line_coverage import measure_from_here

    measure_from_here()
    from support import (
        built_models,
        forked_modules,
        quick_grids,
        quick_hashes,
        quick_lookups,
        quick_networks,
    )

    sys.path.pop(0)  # a module of the tests is not to stand in for another
    for _module in [name for name in sys.modules if name.partition(".")[0] == "support"]:
        del sys.modules[_module]
    gc.disable()  # what is made now is kept
    for _module in MODULES:
        __import__(_module)
    _import_packages()
    forked_modules.import_programs()
    forked_modules.fork_modules()  # what the programs start in their turn
    built_models.build_models()
    quick_networks.copy_empty_tables()
    quick_grids.find_grids()
    quick_hashes.hash_quickly()
    load_grid = sys.modules["powergrid.networks.loader"].load_grid
    for _network in ("cigre_mv_lv", "create_kerber_landnetz_freileitung_1"):
        load_grid(_network)  # of most scenarios; it takes a second, and once built, is built for all
    quick_lookups.look_up_once()
    gc.collect()
    quick_lookups.freeze()
    gc.enable()
    _words = serve(socket.socket(fileno=os.dup(0)))
    if _words is not None:
        _program(_words)
    end()
