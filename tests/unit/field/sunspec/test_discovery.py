"""Finding the models: how long a busy device is waited for, and where a list without an end ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.modbus.registers import BUSY, ModbusFault
from heron_mqtt.field.sunspec import discovery
from heron_mqtt.field.sunspec.discovery import END_MODEL, MARKER, Place, find_models


class Device:
    """Registers that are read, of a device that is busy at first.

    Args:
        words: By address.
        busy: How many requests it answers with "busy".
    """

    address = "device"

    def __init__(self, words: dict[int, int], busy: int = 0) -> None:
        self._words = words
        self._busy = busy

    async def read(self, address: int, count: int) -> list[int]:
        if self._busy > 0:
            self._busy -= 1
            raise ModbusFault("busy", BUSY)
        return [self._words.get(address + k, 0) for k in range(count)]


def device(models: list[int], busy: int = 0) -> Any:
    return Device({40_000 + k: word for k, word in enumerate([*MARKER, *models])}, busy)


async def test_a_busy_device_is_asked_again_after_twice_as_long_up_to_2_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    monkeypatch.setattr(discovery, "asyncio", SimpleNamespace(sleep=sleep))
    assert await find_models(device([103, 50], busy=7)) == {103: Place(40_002, 52)}
    assert slept == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]
    with pytest.raises(ModbusFault, match="busy"):
        await find_models(device([], busy=8))


async def test_of_several_models_of_one_kind_the_first_counts() -> None:
    models = [1, 0, 1, 0, END_MODEL, 0]
    assert await find_models(device(models)) == {1: Place(40_002, 2)}
