"""Finding the SunSpec models of a device: the marker, then one model after the other."""

from __future__ import annotations

from dataclasses import dataclass

from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.layouts import LAYOUTS
from heron_mqtt.field.sunspec.registers import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ModbusFault, Registers

BASES = (40_000, 0, 50_000)  # where the marker may stand; SunSpec Device Information Model
MARKER = [0x5375, 0x6E53]  # "SunS"
END_MODEL = 0xFFFF
MAX_MODELS = 100
LAST_REGISTER = 65_535


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model stands: address of its id register, and its length with id and length."""

    address: int
    size: int


async def find_models(registers: Registers) -> dict[int, Place]:
    """Return model id -> place; of several of one kind the first.

    Raises:
        SunSpecError: No marker at any of the base addresses, or the list of models does not end.
        ModbusFault: No answer.
    """
    base = await _find_marker(registers)
    found: dict[int, Place] = {}
    address = base + len(MARKER)
    for _ in range(MAX_MODELS):
        if address + 1 > LAST_REGISTER:
            break
        model, length = await registers.read(address, 2)
        if model == END_MODEL:
            return found
        found.setdefault(model, Place(address, length + 2))
        address += length + 2
    raise SunSpecError(
        f"{registers.address}: the list of SunSpec models does not end after {MAX_MODELS} models or at "
        f"register {LAST_REGISTER}; found {_listed(found)}"
    )


async def read_model(registers: Registers, model: int, place: Place) -> Block:
    """Return a model as it is now.

    Raises:
        SunSpecError: There is another model at that place.
        ModbusFault: No answer, or an exception.
    """
    last = max(point.offset + point.size for point in LAYOUTS[model].values())
    words = await registers.read(place.address, min(place.size, last))
    if words[0] != model:
        raise SunSpecError(
            f"{registers.address}: model {words[0]} stands at {place.address}, where {model} was found"
        )
    return Block(model, place.address, words)


async def _find_marker(registers: Registers) -> int:
    for base in BASES:
        try:
            words = await registers.read(base, len(MARKER))
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


def _listed(models: dict[int, Place]) -> str:
    return ", ".join(map(str, models)) or "none"
