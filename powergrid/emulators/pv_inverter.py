"""A curtailable PV inverter, emulated."""

from __future__ import annotations

from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class PvInverterEmulator(Emulator):
    """A curtailable PV inverter, emulated."""

    kind = "pv"


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(PvInverterEmulator, "pv_inverter", argv)
