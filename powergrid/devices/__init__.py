"""Device physics, once: the simulation, the twin beside a real device and the emulators all use it.

Pure and light: importing this package loads neither numpy nor pandas nor pandapower, so a device
script starts fast. Formulas, units and sources: docs/models.md. What a kind is: ``Device`` and
``DeviceSpecBase``; how to add one: ``powergrid.devices.registry``.
"""

from __future__ import annotations

from powergrid.devices.base import Device, DeviceSpecBase, DeviceState, Measurement
from powergrid.devices.battery import Battery, BatterySpec, BatteryState
from powergrid.devices.ev_charger import EvCharger, EvChargerSpec
from powergrid.devices.flexible_load import FlexibleLoad, FlexibleLoadSpec
from powergrid.devices.fmu import Fmu, FmuSpec
from powergrid.devices.generator import Generator, GeneratorSpec, GeneratorState
from powergrid.devices.heat_pump import HeatPump, HeatPumpSpec
from powergrid.devices.load import Load, LoadSpec
from powergrid.devices.pv import Pv, PvSpec
from powergrid.devices.registry import DEVICES, DeviceSpec, make_device

__all__ = [
    "DEVICES",
    "Battery",
    "BatterySpec",
    "BatteryState",
    "Device",
    "DeviceSpec",
    "DeviceSpecBase",
    "DeviceState",
    "EvCharger",
    "EvChargerSpec",
    "FlexibleLoad",
    "FlexibleLoadSpec",
    "Fmu",
    "FmuSpec",
    "Generator",
    "GeneratorSpec",
    "GeneratorState",
    "HeatPump",
    "HeatPumpSpec",
    "Load",
    "LoadSpec",
    "Measurement",
    "Pv",
    "PvSpec",
    "make_device",
]

DEVICES.add(Battery)
DEVICES.add(Generator)
DEVICES.add(Pv)
DEVICES.add(Load)
DEVICES.add(EvCharger)
DEVICES.add(HeatPump)
DEVICES.add(FlexibleLoad)
DEVICES.add(Fmu)
