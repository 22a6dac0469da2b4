"""Finding the SunSpec models of a device: the marker, then one model after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from heron_mqtt.field.modbus.registers import BUSY, ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ModbusFault, Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError

BASES = (40_000, 0, 50_000)  # where the marker may stand; SunSpec Device Information Model
MARKER = [0x5375, 0x6E53]  # "SunS"
END_MODEL = 0xFFFF
MAX_MODELS = 100
BUSY_TRIES = 8
BUSY_PAUSE_S = 0.25  # doubled up to 2 s: a device that starts up is busy for some seconds


class ModelMoved(SunSpecError):
    """A model is not where it was found: the device was changed, and is to be checked again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model stands: address of its id register, and its length with id and length."""

    address: int
    size: int


async def find_models(registers: Registers) -> dict[int, Place]:
    """Return model id -> place; of several of one kind the first.

    The list ends with model 0xFFFF. Where a device has left that out, it ends where there are no more
    registers, or nothing in them. A device that is busy is asked again, for some seconds.

    Raises:
        SunSpecError: No marker at any of the base addresses, or the list of models does not end.
        ModbusFault: No answer.
    """
    base = await _find_marker(registers)
    found: dict[int, Place] = {}
    address = base + len(MARKER)
    for _ in range(MAX_MODELS):
        try:
            model, length = await _patiently(registers, address, 2)
        except ModbusFault as exc:
            if exc.code == ILLEGAL_ADDRESS:
                return _ended(registers, found)
            raise
        if model == END_MODEL:
            return found
        if model == 0:
            return _ended(registers, found)
        found.setdefault(model, Place(address, length + 2))
        address += length + 2
    raise SunSpecError(
        f"{registers.address}: the list of SunSpec models does not end after {MAX_MODELS} models; "
        f"found {_listed(found)}"
    )


async def read_model(registers: Registers, model: int, place: Place, *, most: int | None = None) -> Block:
    """Return a model as it is now.

    Args:
        registers: Of the device.
        model: Its id.
        place: Where it stands.
        most: Read no more registers than these, of the beginning; None = all.

    Raises:
        ModelMoved: There is another model at that place.
        ModbusFault: No answer, or an exception.
    """
    try:
        words = await registers.read(place.address, place.size if most is None else min(place.size, most))
    except ModbusFault as exc:
        if exc.code == ILLEGAL_ADDRESS:
            raise ModelMoved(f"{exc}, where model {model} was found") from exc
        raise
    if words[0] != model:
        raise ModelMoved(
            f"{registers.address}: model {words[0]} stands at {place.address}, where {model} was found"
        )
    return Block(model, place.address, words)


async def _find_marker(registers: Registers) -> int:
    for base in BASES:
        try:
            words = await _patiently(registers, base, len(MARKER))
        except ModbusFault as exc:
            if exc.code in {ILLEGAL_FUNCTION, ILLEGAL_ADDRESS}:
                continue  # there is nothing at this address
            raise
        if words == MARKER:
            return base
    raise SunSpecError(
        f"{registers.address}: no SunSpec marker at {', '.join(map(str, BASES))}: is the unit id right, and "
        f"is SunSpec switched on there?"
    )


async def _patiently(registers: Registers, address: int, count: int) -> list[int]:
    """Read registers of a device that may be busy at first."""
    pause_s = BUSY_PAUSE_S
    for _ in range(BUSY_TRIES - 1):
        try:
            return await registers.read(address, count)
        except ModbusFault as exc:
            if exc.code != BUSY:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2.0 * pause_s, 2.0)
    return await registers.read(address, count)


def _ended(registers: Registers, found: dict[int, Place]) -> dict[int, Place]:
    """Return what was found before the registers ended; a marker with nothing behind it is no device."""
    if not found:
        raise SunSpecError(f"{registers.address}: there is no model behind the SunSpec marker")
    return found


def _listed(models: dict[int, Place]) -> str:
    return ", ".join(map(str, models)) or "none"
