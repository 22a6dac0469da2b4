"""Emulated field devices, one short script each, runnable alone."""

import importlib

SCRIPTS = {"battery": "battery", "generator": "genset", "pv": "pv_inverter"}
"""Which script emulates a kind of device."""


def run_script(name: str, argv: list[str]) -> int:
    """Run one of the scripts; returns its exit code."""
    module = importlib.import_module(f"devices.{name}")
    return int(module.run(argv))
