"""A battery inverter, emulated."""

from __future__ import annotations

from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class BatteryEmulator(Emulator):
    """A battery inverter, emulated."""

    kind = "battery"


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(BatteryEmulator, "battery", argv)
