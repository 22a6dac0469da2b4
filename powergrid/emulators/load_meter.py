"""A metered load, emulated."""

from __future__ import annotations

from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class LoadMeterEmulator(Emulator):
    """A metered load, emulated; it sheds as far as its nameplate allows."""

    kind = "load"

    def go_safe(self, reason: str) -> None:
        """Shed nothing: whoever consumes goes on without us, as the meter last showed."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(LoadMeterEmulator, "load_meter", argv)
