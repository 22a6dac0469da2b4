"""Emulated field devices and bridges to real ones, one short script each, runnable alone."""

import importlib

EMULATORS = {"battery": "battery", "generator": "genset", "pv": "pv_inverter", "load": "load_meter"}
"""Which script emulates a kind of device."""

SCRIPTS = {**EMULATORS, "sunspec_bridge": "sunspec_bridge"}
"""Every script, by the kind of device or by its own name."""


def run_script(name: str, argv: list[str]) -> int:
    """Run one of the scripts; returns its exit code."""
    module = importlib.import_module(f"powergrid.emulators.{name}")
    return int(module.run(argv))
