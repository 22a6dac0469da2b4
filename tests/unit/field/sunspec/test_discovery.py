"""Finding the models: how long a busy device is waited for, and where a list without an end ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.modbus.registers import BUSY, ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ModbusFault
from heron_mqtt.field.sunspec import discovery
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.discovery import END_MODEL, MARKER, Place, find_models, read_model


class Device:
    """Registers that are read, of a device that is busy at first.

    Args:
        words: By address.
        busy: How many requests it answers with "busy".
        faults: Modbus exception with which it answers at an address; None = not at all.
    """

    address = "device"

    def __init__(
        self, words: dict[int, int], busy: int = 0, faults: dict[int, int | None] | None = None
    ) -> None:
        self._words = words
        self._busy = busy
        self._faults = faults or {}
        self.asked: list[tuple[int, int]] = []

    async def read(self, address: int, count: int) -> list[int]:
        if self._busy > 0:
            self._busy -= 1
            raise ModbusFault("busy", BUSY)
        self.asked.append((address, count))
        if address in self._faults:
            raise ModbusFault("fault", self._faults[address])
        return [self._words.get(address + k, 0) for k in range(count)]


def device(
    models: list[int], busy: int = 0, base: int = 40_000, faults: dict[int, int | None] | None = None
) -> Any:
    return Device({base + k: word for k, word in enumerate([*MARKER, *models])}, busy, faults)


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


@pytest.mark.parametrize(
    ("models", "faults", "found"),
    [
        ([1, 66, *[0] * 66, END_MODEL, 0], {}, {1: Place(40_002, 68)}),
        ([1, 2, 0, 0, 103, 1, 0, END_MODEL], {}, {1: Place(40_002, 4), 103: Place(40_006, 3)}),
        ([1, 2, 0, 0, 0, 7, END_MODEL], {}, {1: Place(40_002, 4)}),  # nothing stands behind it
        ([1, 2, 0, 0], {40_006: ILLEGAL_ADDRESS}, {1: Place(40_002, 4)}),
        ([END_MODEL], {}, {}),
    ],
)
async def test_the_list_ends_with_its_end_with_nothing_or_with_the_registers(
    models: list[int], faults: dict[int, int | None], found: dict[int, Place]
) -> None:
    assert await find_models(device(models, faults=faults)) == found


@pytest.mark.parametrize(("models", "faults"), [([], {}), ([], {40_002: ILLEGAL_ADDRESS})])
async def test_a_marker_with_nothing_behind_it_is_no_device(
    models: list[int], faults: dict[int, int | None]
) -> None:
    with pytest.raises(SunSpecError, match=r"^device: there is no model behind the SunSpec marker$"):
        await find_models(device(models, faults=faults))


@pytest.mark.parametrize("code", [None, ILLEGAL_FUNCTION, 3, 4])
async def test_a_list_that_cannot_be_read_on_is_a_fault(code: int | None) -> None:
    with pytest.raises(ModbusFault, match="fault"):
        await find_models(device([1, 0], faults={40_004: code}))


async def test_a_list_of_a_hundred_models_has_no_end() -> None:
    words = [word for model in range(1, 100) for word in (model, 0)]
    assert len(await find_models(device([*words, END_MODEL, 0]))) == 99
    with pytest.raises(SunSpecError) as caught:
        await find_models(device([*words, 100, 0, END_MODEL, 0]))
    assert str(caught.value) == (
        "device: the list of SunSpec models does not end after 100 models; found "
        + ", ".join(map(str, range(1, 101)))
    )


@pytest.mark.parametrize("code", [ILLEGAL_FUNCTION, ILLEGAL_ADDRESS])
async def test_the_marker_is_looked_for_where_it_may_stand_and_nothing_there_is_no_fault(code: int) -> None:
    for base, before in ((40_000, []), (0, [40_000]), (50_000, [40_000, 0])):
        found = device([1, 0, END_MODEL, 0], base=base, faults=dict.fromkeys(before, code))
        assert await find_models(found) == {1: Place(base + 2, 2)}
        assert found.asked == [*((at, 2) for at in before), (base, 2), (base + 2, 2), (base + 4, 2)]
    with pytest.raises(SunSpecError) as caught:
        await find_models(device([], base=60_000, faults={50_000: code}))
    assert str(caught.value) == (
        "device: no SunSpec marker at 40000, 0, 50000: is the unit id right, and is SunSpec "
        "switched on there?"
    )


@pytest.mark.parametrize("code", [None, 3, 4])
async def test_a_device_that_does_not_answer_for_its_marker_is_a_fault(code: int | None) -> None:
    with pytest.raises(ModbusFault, match="fault"):
        await find_models(device([], faults={40_000: code}))


async def test_a_model_is_read_whole_or_its_beginning_and_another_one_there_is_noticed() -> None:
    found = device([103, 4, 7, 8, 9, 10])
    place = Place(40_002, 6)
    for most, count in ((None, 6), (7, 6), (6, 6), (3, 3)):
        found.asked.clear()
        block = await read_model(found, 103, place, most=most)
        assert (block.model, block.address, found.asked) == (103, 40_002, [(40_002, count)])
    with pytest.raises(SunSpecError) as caught:
        await read_model(found, 101, place)
    assert str(caught.value) == "device: model 103 stands at 40002, where 101 was found"
