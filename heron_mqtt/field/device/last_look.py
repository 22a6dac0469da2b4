"""The last look at hardware whose program ends: whether it shows that it is at rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

from heron_mqtt.end_times import SHOWS_REST_S
from heron_mqtt.field.device.hardware_rest import HardwareRest, PowerSeen

LOOK_AGAIN_S = 0.05
REST_LASTS_S = 0.2  # at least: power that swings is 0 for a moment, too


class LastLook(Enum):
    """What hardware showed in the end."""

    AT_REST = "its power is next to 0"
    FALLS = "it has power, which falls: it is on its way to 0"
    NEITHER = "neither is known"


async def last_look(
    rest: HardwareRest, look: Callable[[], Awaitable[None] | None], within_s: float = SHOWS_REST_S
) -> LastLook:
    """Wait a moment for hardware to show that it follows its last command.

    It is at rest if it stays there, or comes there last and has not risen from a lower power meanwhile. Of
    power that swings the last that was not 0 counts.

    Args:
        rest: What is known of its power.
        look: Has its power looked at once more, and takes note of it.
        within_s: How long it has for that, s.

    Raises:
        Exception: What ``look`` raises.
    """
    loop = asyncio.get_running_loop()
    first_mw: float | None = None
    lowest_mw: float | None = None
    rests_since: float | None = None
    power_mw: float | None = None
    swings = False
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                looking = look()
                if looking is not None:
                    await looking
                swings = swings or rest.rises_from(lowest_mw)
                if rest.p_mw is not None:
                    first_mw = rest.p_mw if first_mw is None else first_mw
                    lowest_mw = rest.p_mw if lowest_mw is None else min(lowest_mw, rest.p_mw, key=abs)
                if rest.has_power:
                    power_mw = rest.p_mw
                if rest.seen is not PowerSeen.AT_REST:
                    rests_since = None
                elif rests_since is None:
                    rests_since = loop.time()
                elif loop.time() >= rests_since + REST_LASTS_S:
                    return LastLook.AT_REST
                await asyncio.sleep(LOOK_AGAIN_S)
    if swings and power_mw is not None:
        rest.see(power_mw)
        return LastLook.NEITHER
    if rest.seen is PowerSeen.AT_REST:
        return LastLook.AT_REST
    return LastLook.FALLS if rest.falls_from(first_mw) else LastLook.NEITHER
