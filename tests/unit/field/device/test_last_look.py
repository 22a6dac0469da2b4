"""The last look at hardware whose program ends: at rest, on its way there, or neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from heron_mqtt.field.device import last_look as module
from heron_mqtt.field.device.hardware_rest import HardwareRest, PowerSeen
from heron_mqtt.field.device.last_look import LastLook, last_look
from support.rows import each_row


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value_s in (("SHOWS_REST_S", 0.2), ("REST_LASTS_S", 0.06), ("LOOK_AGAIN_S", 0.001)):
        monkeypatch.setattr(module, name, value_s)


def rest() -> HardwareRest:
    return HardwareRest((-1.0, 1.0), lambda _: None, lambda: 0.0)


async def looked(powers_mw: Iterator[float | None]) -> tuple[LastLook, HardwareRest]:
    """Return what is made of these measurements; None = it could not be measured."""
    seen = rest()

    async def look() -> None:
        p_mw = next(powers_mw)
        if p_mw is None:
            seen.see_failure()
        else:
            seen.see(p_mw)

    return await last_look(seen, look), seen


@each_row(
    "powers_mw, shown, last_mw",
    [
        ([0.0], LastLook.AT_REST, 0.0),
        ([0.5, 0.3, 0.0], LastLook.AT_REST, 0.0),
        ([0.5], LastLook.NEITHER, 0.5),
        ([0.5, 0.4], LastLook.FALLS, 0.4),
        ([None], LastLook.NEITHER, None),
        ([0.5, None], LastLook.NEITHER, None),
        ([0.0, 0.5, 0.0, 0.5, 0.0, 0.5, -0.2], LastLook.NEITHER, -0.2),
        ([0.5, 0.1, 0.4], LastLook.NEITHER, 0.4),
    ],
)
def test_what_it_shows(powers_mw: list[float | None], shown: LastLook, last_mw: float | None) -> None:
    found, seen = asyncio.run(looked(chain(powers_mw, repeat(powers_mw[-1]))))
    assert (found, seen.p_mw) == (shown, last_mw)


async def test_of_power_that_swings_the_last_that_was_not_0_counts_also_where_it_is_0_in_the_end() -> None:
    found, seen = await looked(chain([0.0, 0.5], repeat(0.0)))
    assert (found, seen.seen) == (LastLook.AT_REST, PowerSeen.AT_REST), "it stays there"
    found, seen = await looked(chain.from_iterable(repeat([0.5, 0.0, 0.0])))
    assert (found, seen.p_mw, seen.has_power) == (LastLook.NEITHER, 0.5, True)


async def test_what_looks_for_too_long_is_broken_off_and_the_last_that_was_seen_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHOWS_REST_S", 0.05)
    seen = rest()
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            await asyncio.Event().wait()
        seen.see(0.0)

    assert await last_look(seen, look) is LastLook.AT_REST


async def test_an_error_of_what_looks_is_told_to_who_asked() -> None:
    def look() -> None:
        raise OSError("the bus is busy")

    with pytest.raises(OSError, match="the bus is busy"):
        await last_look(rest(), look)
