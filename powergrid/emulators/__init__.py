"""Emulated field devices and bridges to real ones, each runnable alone: ``heron-mqtt device KIND``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from heron_mqtt.importing import importing

with importing():  # also in a script that a user has copied, which begins with this package
    from powergrid.devices import DEVICES, Device

BRIDGES = ("modbus_bridge", "sunspec_bridge")
"""Programs that stand for a real device; each a module of this package."""


def emulators() -> dict[str, str]:
    """Return the emulators' names on the command line by kind of device."""
    return {kind: DEVICES[kind].script or kind for kind in DEVICES}


def scripts() -> dict[str, str]:
    """Return every program's name, by kind of device or by its own name."""
    return {**emulators(), **{name: name for name in BRIDGES}}


def script_of(name: str) -> str | None:
    """Return a program's name, given that or the kind of device that it emulates; None = no such program."""
    if name in BRIDGES or name in emulators().values():
        return name
    device = DEVICES.get(name)
    return None if device is None else device.script or name


def run_script(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one of the programs by its name; returns its exit code."""
    if name in BRIDGES:
        with importing():
            bridge = importlib.import_module(f"powergrid.emulators.{name}")
        return int(bridge.run(argv))
    with importing():
        from powergrid.emulators.script import main
    return main(emulated_by(name), name, argv)


def emulated_by(script: str) -> type[Device]:
    """Return the kind of device that a program emulates, given its name or that of the kind."""
    return DEVICES[next((kind for kind, its in emulators().items() if its == script), script)]
