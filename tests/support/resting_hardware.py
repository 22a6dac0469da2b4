"""Hardware that takes its safe state, or does not, by a virtual clock; and what brings it there."""

from __future__ import annotations

import asyncio
from typing import Any

from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Telemetry
from support.clocked_device import Clocked, ClockedSite

POWER = Telemetry(p_mw=0.5)
REST = Telemetry(p_mw=0.0)


class Hardware(Clocked):
    """Gives the power that it was told last, unless the test sets another; it can refuse to rest."""

    owes_safe_state = FieldDevice.owes_safe_state
    stays = False

    async def _do(self, what: str, value: Any) -> None:
        await super()._do(what, value)
        if what == "apply":
            self.measured = Telemetry(p_mw=value)
        elif what == "safe" and not self.stays:
            self.measured = REST

    @property
    def rests(self) -> int:
        """How often it was told to rest."""
        return sum(what == "safe" for what, _ in self.done)


async def ended(site: ClockedSite, how: str) -> None:
    """Have a device with a setpoint go to its safe state."""
    site.send(0.5, 2.0)
    await asyncio.sleep(0.1)
    if how == "stop":
        site.stop()
    elif how == "release":
        site.send(0.0, 2.0, release=True)
    await asyncio.sleep(0.1 if how in {"stop", "release"} else 2.0)
