"""The last look at hardware whose program ends: whether it shows that it is at rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

from heron_mqtt.end_times import SHOWS_REST_S
from heron_mqtt.field.device.hardware_rest import HardwareRest, PowerSeen

LOOK_AGAIN_S = 0.05


class LastLook(Enum):
    """What hardware showed in the end."""

    AT_REST = "its power is next to 0"
    FALLS = "it has power, which falls: it is on its way to 0"
    NEITHER = "neither is known"


async def last_look(rest: HardwareRest, look: Callable[[], Awaitable[None] | None]) -> LastLook:
    """Wait a moment for hardware to show that it does what it was told for the last time.

    Args:
        rest: What is known of its power.
        look: Has its power looked at once more, and takes note of it.

    Raises:
        Exception: What ``look`` raises.
    """
    first_mw: float | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(SHOWS_REST_S):
            while True:
                looking = look()
                if looking is not None:
                    await looking
                if rest.seen is PowerSeen.AT_REST:
                    return LastLook.AT_REST
                first_mw = rest.p_mw if first_mw is None else first_mw
                await asyncio.sleep(LOOK_AGAIN_S)
    return LastLook.FALLS if rest.falls_from(first_mw) else LastLook.NEITHER
