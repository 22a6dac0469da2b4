"""Device physics, once: the simulation, the twin beside a real device and the emulators all use it.

Pure and light: importing this package loads neither numpy nor pandas nor pandapower, so a device
script starts fast. Formulas, units and sources: docs/models.md.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from powergrid.devices.base import Device, DeviceState, Measurement
from powergrid.devices.battery import Battery, BatterySpec, BatteryState
from powergrid.devices.generator import Generator, GeneratorSpec, GeneratorState
from powergrid.devices.load import Load, LoadSpec
from powergrid.devices.pv import Pv, PvSpec

__all__ = [
    "Battery",
    "BatterySpec",
    "BatteryState",
    "Device",
    "DeviceSpec",
    "DeviceState",
    "Generator",
    "GeneratorSpec",
    "GeneratorState",
    "Load",
    "LoadSpec",
    "Measurement",
    "Pv",
    "PvSpec",
    "make_device",
]

DeviceSpec = Annotated[BatterySpec | GeneratorSpec | PvSpec | LoadSpec, Field(discriminator="kind")]


def make_device(spec: BatterySpec | GeneratorSpec | PvSpec | LoadSpec) -> Device:
    """Return a model of the kind that the spec names, in its initial state."""
    match spec:
        case BatterySpec():
            return Battery(spec)
        case GeneratorSpec():
            return Generator(spec)
        case PvSpec():
            return Pv(spec)
        case LoadSpec():
            return Load(spec)
