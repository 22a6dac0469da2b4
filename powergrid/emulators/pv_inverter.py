"""A curtailable PV inverter, emulated: python devices/pv_inverter.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class PvInverter(Emulator):
    """A curtailable PV inverter, emulated."""

    kind = "pv"


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(PvInverter, "pv_inverter", argv)


if __name__ == "__main__":
    sys.exit(run())
