"""Many emulated devices from one start: a program that forks the processes that they share, or have alone.

Most of a device's start is importing; here that is done once for all of them, and they share its memory.
A run forks this program in its turn; where it cannot, it starts ``python -m powergrid.emulators``.
Standard input says in one line which devices::

    {"environment": {...}, "devices": [
        {"name": "MG1/ess", "script": "battery", "process": "devices", "arguments": [...]}, ...]}

and then stays open: when it ends, every device ends (each has the option ``--supervised``). Standard output
tells what became of them, one object a line: ``{"name": "MG1/ess", "pid": 4711}`` when it has started,
``{"name": "MG1/ess", "exit_code": 0, "why": ""}`` when it has ended (``why``: where it could not continue).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from heron_mqtt.end_signals import END_SIGNALS
from heron_mqtt.forked_program import be_a_program, name_process
from powergrid.emulators import emulated_by

MAX_WHY = 1_000  # characters; several processes write to one pipe, whole up to 4 kB

NEEDED = ("powergrid.emulators.script", "heron_mqtt.messaging.mqtt", "encodings.idna")
"""What every device imports, now or when it connects; what is missing here, each would import by itself."""


def main() -> int:
    """Fork the devices, and wait until all of them have ended; returns the exit code.

    Signals end the devices, not this: the run closes its input, and hears of it how each of them ended.
    """
    name_process("emulators")
    heeded = {number: signal.signal(number, signal.SIG_IGN) for number in END_SIGNALS}
    for module in NEEDED:
        importlib.import_module(module)
    line = sys.stdin.readline()
    if not line:
        return 0  # the program that started this has ended
    request = json.loads(line)
    os.environ.update(request["environment"])
    gc.freeze()  # what is loaded stays: no collection shall touch, and so copy, the shared pages
    processes: dict[str, list[dict[str, Any]]] = {}
    for device in request["devices"]:
        processes.setdefault(device["process"], []).append(device)
    names: dict[int, list[str]] = {}
    # Devices tell of their ends through us: the end of our output says that we are gone.
    told, tell = os.pipe()
    for process, devices in processes.items():
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _become(process, devices, heeded, tell)
        names[pid] = [device["name"] for device in devices]
        for name in names[pid]:
            _say({"name": name, "pid": pid})
    os.close(tell)
    # A thread, since this one waits for processes to end.
    passing_on = threading.Thread(target=_pass_on, args=(told,), name="what devices tell")
    passing_on.start()
    while names:
        pid, status = os.wait()
        code, its = os.waitstatus_to_exitcode(status), names.pop(pid)
        if code != 0:  # killed or crashed: its devices could not say it themselves
            for name in its:
                _say({"name": name, "exit_code": code})
    passing_on.join()
    return 0


def _pass_on(told: int) -> None:
    """Say what devices tell of their ends, until the last of them has ended."""
    with os.fdopen(told, "rb") as lines:
        for line in lines:
            _say(json.loads(line))


def _become(process: str, devices: list[dict[str, Any]], heeded: Mapping[int, Any], tell: int) -> NoReturn:
    """Be the devices of one process, which take signals as ``heeded`` says and tell of their ends."""
    os.dup2(2, 1)  # standard output is for what became of the devices
    name_process(process)

    def run() -> int:
        try:
            for number, handler in heeded.items():
                signal.signal(number, handler)
            from powergrid.emulators.script import Emulated, main_of_several

            emulated = [
                Emulated(d["name"], emulated_by(d["script"]), d["script"], d["arguments"]) for d in devices
            ]

            def ended(name: str, code: int, why: str) -> None:
                _say({"name": name, "exit_code": code, "why": why[:MAX_WHY]}, tell)

            return main_of_several(emulated, ended)
        finally:
            logging.shutdown()
            sys.stderr.flush()

    be_a_program(run)


def _say(event: dict[str, Any], to: int = 1) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(to, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
