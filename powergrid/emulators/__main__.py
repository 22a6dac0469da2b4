"""Many emulated devices from one start: a program that forks a process for each.

Most of a device's start is importing; here that is done once for all of them, and they share its memory.
A run forks this program in its turn; where it cannot, it starts ``python -m powergrid.emulators``.
Standard input says in one line which devices::

    {"environment": {...}, "devices": [{"name": "MG1/ess", "script": "battery", "arguments": [...]}, ...]}

and then stays open: when it ends, every device ends (each is told ``--supervised``). Standard output
tells what became of them, one object a line: ``{"name": "MG1/ess", "pid": 4711}`` when it has started,
``{"name": "MG1/ess", "exit_code": 0}`` when it has ended.
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
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from heron_mqtt.end_signals import END_SIGNALS
from heron_mqtt.forked_program import be_a_program, name_process
from powergrid.emulators import run_script

NEEDED = ("powergrid.emulators.script", "heron_mqtt.messaging.mqtt", "encodings.idna")
"""What every device imports, now or when it connects; what is missing here, each would import by itself."""
SCENARIO = "--scenario="
"""How a device's arguments begin the one that names its scenario, which is loaded once for all of them."""


def main() -> int:
    """Fork the devices, and wait until all of them have ended; returns the exit code.

    Signals end the devices, not this: the run closes its input, and hears of it how each of them ended.
    """
    name_process("emulators")
    heeded = {number: signal.signal(number, signal.SIG_IGN) for number in END_SIGNALS}
    for module in NEEDED:
        importlib.import_module(module)
    from powergrid.emulators.script import know_scenario

    line = sys.stdin.readline()
    if not line:
        return 0  # whoever started this has gone
    request = json.loads(line)
    os.environ.update(request["environment"])
    for name in _scenarios(request["devices"]):
        know_scenario(name)
    gc.freeze()  # what is loaded stays: no collection shall touch, and so copy, the shared pages
    names: dict[int, str] = {}
    for device in request["devices"]:
        pid = os.fork()
        if pid == 0:
            _become(device, heeded)
        names[pid] = device["name"]
        _say({"name": device["name"], "pid": pid})
    while names:
        pid, status = os.wait()
        _say({"name": names.pop(pid), "exit_code": os.waitstatus_to_exitcode(status)})
    return 0


def _scenarios(devices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the scenarios that devices ask for, each once."""
    arguments = [argument for device in devices for argument in device["arguments"]]
    asked = (argument.removeprefix(SCENARIO) for argument in arguments if argument.startswith(SCENARIO))
    return list(dict.fromkeys(asked))


def _become(device: dict[str, Any], heeded: Mapping[int, Any]) -> NoReturn:
    """Be one device, which takes signals as ``heeded`` says, until it ends; in a process of its own."""
    os.dup2(2, 1)  # standard output is for what became of the devices
    name_process(device["name"])

    def run() -> int:
        try:
            for number, handler in heeded.items():
                signal.signal(number, handler)
            return run_script(device["script"], device["arguments"])
        finally:
            logging.shutdown()
            sys.stderr.flush()

    be_a_program(run)


def _say(event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
