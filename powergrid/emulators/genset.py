"""A dispatchable generator set, emulated."""

from __future__ import annotations

from collections.abc import Sequence

from powergrid.emulators.emulator import Emulator
from powergrid.emulators.script import main


class GensetEmulator(Emulator):
    """A dispatchable generator set, emulated."""

    kind = "generator"


def run(argv: Sequence[str] | None = None) -> int:
    """Run it as a program; returns the exit code."""
    return main(GensetEmulator, "genset", argv)
