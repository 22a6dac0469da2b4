"""What an earlier program of a device's name left in its hardware: it was killed while it drove it."""

from __future__ import annotations

import abc
from collections.abc import Callable

from heron_mqtt.errors import NameTaken
from heron_mqtt.field.device.lease import Holder
from heron_mqtt.field.device.safe_state import SafeStateDevice
from heron_mqtt.messages import LeaseState, Telemetry
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.units import KW_PER_MW

EARLIER = (
    "an earlier program was killed while it drove the device, and this one ended before it could bring the "
    "device to rest: the device may hold its last setpoint"
)


class SuccessorDevice(SafeStateDevice, abc.ABC):
    """A device that brings its hardware to rest where an earlier program of its name left it driven.

    It knows of that by the lease that the broker has kept, or the file of this machine. Where neither has it,
    power at the start is doubted: nothing is sent, and it is not called safe.

    Arguments as in ``FieldDevice``.
    """

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str,
        require_proof: bool,
        take_over: bool,
        monotonic: Callable[[], float],
        stamper: MessageStamper | None,
    ) -> None:
        super().__init__(
            agent_id,
            name,
            broker,
            env_id=env_id,
            require_proof=require_proof,
            take_over=take_over,
            monotonic=monotonic,
            stamper=stamper,
        )
        self._is_doubt_told = False
        self._is_left_known = self._kept is None  # whether an earlier program left it driven
        self._is_left_heeded = not self._is_hardware  # it is at rest, or left to another program that lives
        self._lease_before: LeaseState | None = None  # what the broker had kept before the name was ours

    @property
    def _is_at_rest(self) -> bool:
        if self._is_doubt_told and not (self._is_left_known or self._rest.is_told):
            return False  # it has power, and whose is not known
        return super()._is_at_rest

    async def _take_name(self) -> None:
        """Take the name, and read beside it what lease the broker has kept: the program may end meanwhile."""
        if self._is_left_heeded:
            return await super()._take_name()
        reading = self._broker.subscribe(self._lease_channel, self._on_lease_before)
        try:
            await super()._take_name()
        except NameTaken:
            self._is_left_heeded = True
            raise
        finally:
            reading()

    def _on_lease_before(self, message: Received) -> None:
        if message.retained:
            self._lease_before = self._broker.parsed(message, LeaseState)

    @property
    def _may_be_left_driven(self) -> bool:
        """Whether what an earlier program left, if it left any, is still in the hardware, and ours to end."""
        return self.is_settable and self._lease.holder is None

    def _on_lease_left(self, message: Received) -> None:
        """Bring hardware to rest that an earlier program of this name left driven: it was killed."""
        if not message.retained or not self._may_be_left_driven:
            return
        state = self._broker.parsed(message, LeaseState)
        if state is None or state.boot == self._stamper.boot:
            return
        self._is_left_known = True
        if state.state == "held":
            self._bring_to_rest(Holder(state.holder, state.holder_boot))

    def _look_at_kept_lease(self) -> None:
        """Do the same where the broker has lost it: this machine knows what its last program left."""
        self._is_left_heeded = True
        if self._kept is None or not self._may_be_left_driven:
            return
        kept = self._kept.load()
        if kept is None:
            return
        self._is_left_known = True
        if kept[0] is not None and not self._notice.is_held:
            self._bring_to_rest(kept[0])

    def left_unheeded(self) -> str | None:
        """Look up what an earlier program left in the hardware, where this one ends before it has looked.

        Returns:
            What it is, for people; None = nothing that is known, or it was looked at, or another program of
            the name lives.
        """
        if self._is_left_heeded or self._taken_by is not None or not self._may_be_left_driven:
            return None
        before = self._lease_before
        is_held = before is not None and before.state == "held"
        if not is_held and self._kept is not None:
            kept = self._kept.load()
            self._kept.close()
            is_held = kept is not None and kept[0] is not None
        return EARLIER if is_held else None

    def _bring_to_rest(self, left_by: Holder) -> None:
        self._notice.take_over(left_by)
        self._rest.is_taken = False  # it is not safe, and held, until the hardware has been told
        self._spawn(self._rest_what_was_left())

    def _may_be_left(self, telemetry: Telemetry) -> bool:
        """Whether power may be what an earlier program left, and may be the hardware's own: not known which.

        Told once to people. What was at rest since, or was told to rest, is another matter.
        """
        if self._is_left_known or self._rest.is_told or self.watches_its_rest or not self.is_settable:
            return False
        if self._rest.is_at_rest(telemetry.p_mw, telemetry.q_mvar):
            self._is_left_known = True
            return False
        if not self._is_doubt_told:
            self._is_doubt_told = True
            self._report(
                f"it has {KW_PER_MW * telemetry.p_mw:g} kW at the start, and it is not known whether an "
                "earlier program left it driven: neither the broker nor this machine has its lease; nothing "
                "is sent to it"
            )
        return True

    async def _rest_what_was_left(self) -> None:
        async with self._busy:
            if self.is_safe:
                await self._make_safe("an earlier program ended while it held the device")
