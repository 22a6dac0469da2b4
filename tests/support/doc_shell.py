"""Runs a page's shell lines as a reader would type them, on a free port in place of 1883."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.cli.command_line import run_command_line
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.testing.loopback_server import free_port
from support.doc_pages import ROOT, Block

WITHIN_S = 60.0  # a program starts in 3 s, on a machine that does nothing else


class Terminals:
    """The terminals of one reader: one for lines that end, one more for each line that keeps running.

    Args:
        folder: To work in; the repository's directories are seen in it.
        monkeypatch: Puts the process's arguments and directory back.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("config", "devices", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self.port = free_port()
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._online: dict[str, bool] = {}
        self._watching: MqttBroker | None = None
        monkeypatch.chdir(folder)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        monkeypatch.setenv("PATH", path)

    def run(self, block: Block) -> None:
        """Run the lines of a block; fails the test if one does not end well."""
        text = self._with_port(block.text.strip())
        if "background" in block.words:
            self._start(text)
        else:
            for line in text.splitlines():
                self._run_line(line, block.name)

    def close(self) -> None:
        """End what keeps running, as Ctrl-C would."""
        if self._watching is not None:
            run_sync(self._watching.close())
        for line in reversed(list(self._running)):
            self._end(line)

    def output(self, line: str) -> str:
        """Return what a line that keeps running has printed."""
        return self._log(line).read_text(errors="replace")

    # -- lines ---------------------------------------------------------------------------------------

    def _run_line(self, line: str, where: str) -> None:
        program, *arguments = shlex.split(line)
        if program == "heron-mqtt":
            self._run_here(line, where, [program, *arguments])
        elif program == "python" and arguments[0].startswith("docs/examples/"):
            self._run_here(line, where, arguments)
        else:
            done = subprocess.run(line, shell=True, capture_output=True, timeout=WITHIN_S, check=False)
            assert done.returncode == 0, f"{where}: {line}: {done.stdout.decode()}{done.stderr.decode()}"

    def _run_here(self, line: str, where: str, argv: list[str]) -> None:
        """Run a program of ours in this process, which has imported already what it needs."""
        if argv[:2] == ["heron-mqtt", "run"] and "--broker" in argv and argv[2].startswith("--"):
            self._end_devices()  # the page tells the reader so: the run starts its own of that name
        self._monkeypatch.setattr(sys, "argv", argv)
        code: object = 0
        try:
            if argv[0] == "heron-mqtt":
                code = run_command_line()
            else:
                runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code, f"{where}: {line}: exit code {code}"

    # -- lines that keep running -----------------------------------------------------------------------

    def _start(self, line: str) -> None:
        if line.startswith("python"):  # the same device again: a reader ends the one before
            self._end_devices()
        with self._log(line).open("wb") as log:
            self._running[line] = subprocess.Popen(
                shlex.split(line), stdout=log, stderr=log, start_new_session=True
            )
        if line.startswith("heron-mqtt broker"):
            self._until(lambda: "listening" in self.output(line), line)
            self._watch()
        elif line.startswith("heron-mqtt proxy"):
            self._until(lambda: "online" in self.output(line), line)
        elif line.startswith("python"):
            self._online.clear()
            self._until(lambda: self._online.get("MG1/ess"), line)

    def _end_devices(self) -> None:
        for earlier in [earlier for earlier in self._running if earlier.startswith("python")]:
            self._end(earlier)

    def _watch(self) -> None:
        self._watching = MqttBroker(f"mqtt://127.0.0.1:{self.port}", env_id="three_microgrids")
        self._watching.subscribe("devices/+/+/status", self._on_status)

    def _on_status(self, message: dict[str, object]) -> None:
        self._online["/".join(message.channel.split("/")[1:3])] = message["state"] == "online"  # type: ignore[attr-defined]

    def _end(self, line: str) -> None:
        process = self._running.pop(line)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        printed = self.output(line)
        assert "Traceback" not in printed, f"{line}: {printed}"

    def _until(self, condition: Callable[[], object], line: str) -> None:
        end = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < end, f"{line} is not ready: {self.output(line)}"
            assert self._running[line].poll() is None, f"{line} has ended: {self.output(line)}"
            time.sleep(0.01)

    def _log(self, line: str) -> Path:
        return self._folder / (re.sub(r"\W+", "_", line)[:100] + ".log")

    def _with_port(self, text: str) -> str:
        text = text.replace("127.0.0.1:1883", f"127.0.0.1:{self.port}")
        text = re.sub(r"^heron-mqtt broker$", rf"\g<0> --port {self.port}", text, flags=re.MULTILINE)
        return re.sub(r"^mosquitto_(sub|pub) ", rf"\g<0>-p {self.port} ", text, flags=re.MULTILINE)


def write_site_csv(path: Path) -> None:
    """Write a reader's own file, as pages name it: one day of a hospital, and a column of ones."""
    rows = ["time,hospital_kw,hospital_kvar,roof_pu,always_pu"]
    for i in range(96):
        at, p_kw = f"2024-03-01T{i // 4:02}:{i % 4 * 15:02}:00+01:00", 400 + i
        rows += [f"{at},{p_kw},95.5,0.{i:02},1.0"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
