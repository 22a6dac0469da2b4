"""What a device says, retained, of whose setpoints it follows: a stop and its next program rely on it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from heron_mqtt.errors import HeronError
from heron_mqtt.field.device.kept_lease import KeptLease
from heron_mqtt.field.device.lease import Holder
from heron_mqtt.messages import LeaseState
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.device")


class LeaseNotice:
    """Publishes ``lease``, where what it says has changed.

    Args:
        agent_id: The agent that owns the device.
        name: Its name.
        broker: Carries the messages.
        stamper: Stamps them.
        kept: Takes the same for the next program on this machine; None = the broker alone has it.
        is_name_doubted: Whether another program may have the device's name: then nothing is published, as it
            would stand there in that one's place. ``tell`` has to be called when that is known.
    """

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        stamper: MessageStamper,
        kept: KeptLease | None = None,
        is_name_doubted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._label = f"{agent_id}/{name}"
        self._channel = topics.device(agent_id, name, "lease")
        self._broker, self._stamper, self._kept = broker, stamper, kept
        self._is_name_doubted = is_name_doubted
        self.is_told = False
        """Whether anything was said that the broker is known to have."""
        self._holder: Holder | None = None

    @property
    def is_held(self) -> bool:
        """Whether the hardware has the power of a setpoint, as was said last or found at the start."""
        return self._holder is not None

    @property
    def holder_of_power(self) -> Holder:
        """Whose power the hardware has after a lease: of whom it was said last, else the device's own."""
        return self._holder or Holder(self._label, self._stamper.boot)

    def doubt(self) -> None:
        """Say it again next time: the broker may have lost it."""
        self.is_told = False

    def take_over(self, holder: Holder) -> None:
        """Continue from what an earlier program has said."""
        if self._kept is not None:
            self._kept.save(holder)
        self._holder, self.is_told = holder, False

    def tell(self, holder: Holder | None, lease_s: float | None) -> None:
        """Say whose setpoints are followed; None = no one's.

        Args:
            holder: Who.
            lease_s: Of the newest setpoint, s; None = no lease runs.
        """
        if self.is_told and holder == self._holder:
            return
        if self._kept is not None and holder != self._holder:
            self._kept.save(holder)
        self._holder, self.is_told = holder, not self._is_name_doubted()
        if not self.is_told:
            return
        if holder is None:
            state = LeaseState(state="free")
        else:
            state = LeaseState(state="held", holder=holder.sender, holder_boot=holder.boot, lease_s=lease_s)
        retain = {"retain": True} if self._broker.features.retain else {}
        self._broker.publish(self._channel, self._stamper.stamp(self._channel, state), **retain)

    def tell_at_the_end(self, holder: Holder | None, lease_s: float | None) -> None:
        """As ``tell``, if anything was published; if it fails, ``offline`` must still be published."""
        if not self.is_told:
            return
        try:
            self.tell(holder, lease_s)
        except Exception as exc:
            is_bug = not isinstance(exc, HeronError)
            log.error(
                "%s: could not publish its lease at the end: %s",
                *(self._label, exc),
                exc_info=exc if is_bug else None,
            )
