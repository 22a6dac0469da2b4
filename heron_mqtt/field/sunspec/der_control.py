"""What decides over a DER beside setpoints: local or remote control, heartbeat, entering service, curves."""

from __future__ import annotations

import asyncio

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block
from heron_mqtt.field.sunspec.discovery import Place, read_model
from heron_mqtt.field.sunspec.layouts import layout

LOCAL = 1  # 715 LocRemCtl
DISABLED = 0  # 703 ES
CURVES = range(705, 713)
"""Volt-Var, Volt-Watt, trips by voltage and frequency, frequency droop, Watt-Var."""
MAX_HEARTBEAT = 0x7FFF_FFFF


class DerControl:
    """Model 715: who controls the inverter, and the sign of life that it may want.

    Args:
        registers: Of the inverter.
        place: Where model 715 stands.
    """

    def __init__(self, registers: Registers, place: Place) -> None:
        self._registers = registers
        self._place = place
        self._beats: int | None = None  # told last
        self._first_at: float | None = None

    async def is_local(self) -> bool:
        """Whether it is switched to local control, where it takes nothing from outside."""
        return (await self._read()).raw("LocRemCtl") == LOCAL

    async def beat(self) -> None:
        """Count the controller's heartbeat up, once a second at most: "incremented every second"."""
        now_s = asyncio.get_running_loop().time()
        if self._first_at is None:
            self._first_at = now_s - 1.0
        beats = int(now_s - self._first_at) % MAX_HEARTBEAT
        if beats == self._beats:
            return
        block = await self._read()
        if block.has("ControllerHb"):
            await self._registers.write(block.at("ControllerHb"), block.words("ControllerHb", beats))
        self._beats = beats

    async def _read(self) -> Block:
        return await read_model(self._registers, 715, self._place)


def entry_problem(block: Block) -> str | None:
    """Return why a DER will not come into service (model 703); None if there is no reason against it."""
    if block.raw("ES") == DISABLED:
        return (
            "it may not enter service (model 703 ES is disabled): it follows no setpoint until it is enabled"
        )
    return None


async def active_functions(registers: Registers, models: dict[int, Place]) -> list[str]:
    """Return the curves and droops (models 705 to 712) that are enabled: they move power beside setpoints."""
    found: list[str] = []
    for model in CURVES:
        if model not in models:
            continue
        block = await read_model(registers, model, models[model])
        if block.raw("Ena") == 1:
            defined = layout(model)
            found.append(f"{model} {defined.name.removeprefix('DER') if defined else ''}".strip())
    return found
