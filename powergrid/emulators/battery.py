"""A battery inverter, emulated: python devices/battery.py --agent MG1 --name NAME --broker mqtt://127.0.0.1:1883."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class Battery(Emulator):
    """A battery inverter, emulated."""

    kind = "battery"


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(Battery, "battery", argv)


if __name__ == "__main__":
    sys.exit(run())
