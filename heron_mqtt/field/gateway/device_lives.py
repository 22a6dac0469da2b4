"""The lives of one device: births, wills, starts under other boots, and a second device of its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from heron_mqtt.errors import BrokerError
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.telemetry_order import REMEMBERED_BOOTS, TelemetryOrder
from heron_mqtt.messages import UNNAMED_KIND, Owner, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.subscription_group import SubscriptionGroup


class DeviceLives:
    """Tells which messages are of the present life of a device, and when another one begins.

    Args:
        agent_id: The agent that owns the device.
        device: The device's name.
        broker: Carries the messages.
        env_id: What names another environment is ignored.
        kind: What the scenario says it is; None = not known.
        subscriptions: Takes the subscription to who holds the device's name, which is only needed if two
            devices speak under it.
        plausible: Takes note of boots, and names what is odd.
        on_new_life: Called when another life begins, or an earlier one goes on: what the device did, and what
            it was told, is past.
        on_change: Called when something has changed that was not read from its telemetry or status.
    """

    __slots__ = (
        "_agent_id",
        "_asking",
        "_broker",
        "_device",
        "_env_id",
        "_kind",
        "_on_change",
        "_on_new_life",
        "_order",
        "_owner",
        "_plausible",
        "_statuses",
        "_subscriptions",
        "echo",
        "has_live_status",
        "reborn",
        "status",
        "wrong_kind",
    )

    def __init__(
        self,
        agent_id: str,
        device: str,
        broker: MessageBroker,
        *,
        env_id: str,
        kind: str | None,
        subscriptions: SubscriptionGroup,
        plausible: Plausibility,
        on_new_life: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self._agent_id, self._device = agent_id, device
        self._broker = broker
        self._env_id = env_id
        self._kind = kind
        self._subscriptions = subscriptions
        self._plausible = plausible
        self._on_new_life = on_new_life
        self._on_change = on_change
        self._order = TelemetryOrder()
        self._statuses: dict[str, Status] = {}  # the newest of each boot
        self._owner: str | None = None  # boot of who holds its name; None = not known, or not said
        self._asking: asyncio.Task[None] | None = None
        self.status: Status | None = None
        """What the present life has said of itself last."""
        self.has_live_status = False
        """Whether it has said that since the broker was connected; else the broker has kept it."""
        self.echo: tuple[str, int] | None = None
        """boot and seq of the newest telemetry since it was born (again); None = none has both."""
        self.reborn = 0
        """How often it was born again."""
        self.wrong_kind: str | None = None
        """Why it is not the device of the scenario; None = it may be."""

    @property
    def boot(self) -> str | None:
        """Of the present life; None = no message has named one."""
        return self._order.boot

    def on_reconnect(self) -> None:
        """What the broker tells of the device now is news again: its will may have been sent meanwhile."""
        self.has_live_status = False

    def close(self) -> None:
        """Look up no longer who holds the name."""
        if self._asking is not None:
            self._asking.cancel()

    # -- messages ----------------------------------------------------------------------------------

    def take_telemetry(self, boot: str | None, seq: int | None) -> bool:
        """Take the number of telemetry, to be echoed; whether it can be newer than the newest.

        A boot that was never heard of is a restart, or a second device of this name, also without its birth:
        who looks on (``DeviceSeen``) goes by the birth, a gateway has to notice both.
        """
        order = self._order
        if boot != order.boot:
            if self._is_past(boot):
                return False  # of an earlier life of the device, late; or of a second one
            self._note_boot(boot)
        if not order.take(boot, seq):
            self._plausible.once("repeated", "telemetry that is not newer than the newest does not count")
            return False
        self.echo = order.newest
        return True

    def take_status(self, status: Status, *, retained: bool) -> bool:
        """Take a birth, a fault or a goodbye; whether it is of the present life, and news.

        Args:
            status: Checked.
            retained: The broker has kept it.
        """
        if retained and self.has_live_status:
            return False  # what it says now counts for more than what the broker kept
        if status.state == "offline" and self._order.is_other(status.boot):
            return False  # the will of an earlier life comes late: its connection was lost without its end
        self._remember_status(status)
        if self._is_past(status.boot):
            return False  # of an earlier life of the device, late, whatever it says; or of a second one
        self.has_live_status |= not retained
        before, self.status = self.status, status
        if status.state == "online":
            self._note_kind(status.kind)
            self._note_boot(status.boot)
            if before is not None and before.state == "offline":
                self._begin_life()
        return True

    def _remember_status(self, status: Status) -> None:
        if status.boot is not None:
            self._statuses.pop(status.boot, None)
            self._statuses[status.boot] = status
            while len(self._statuses) > REMEMBERED_BOOTS:
                del self._statuses[next(iter(self._statuses))]

    def _note_kind(self, kind: str | None) -> None:
        self.wrong_kind = None
        if kind not in {None, UNNAMED_KIND, self._kind} and self._kind is not None:
            self.wrong_kind = f"its birth says that it is a {kind}, the scenario says a {self._kind}"
            self._plausible.once("kind", f"{self.wrong_kind}: nothing is sent to it")

    # -- which life --------------------------------------------------------------------------------

    def _note_boot(self, boot: str | None) -> None:
        """Notice that the device has started again: what it did and what it was told is past."""
        was_known = self._order.boot is not None
        if not self._order.begin(boot):
            return
        self._plausible.begin_boot()
        if was_known:
            self._begin_life()

    def _begin_life(self) -> None:
        self.reborn += 1
        self.echo = None
        self._on_new_life()

    def _is_past(self, boot: str | None) -> bool:
        """Whether a message is of an earlier life of the device, or of a second one; takes note of it.

        Where two speak, and not one of them late, the one that holds the device's name is the device: that is
        looked up from the first time on.
        """
        if boot is None or not self._order.is_past(boot):
            return False
        self._plausible.note_past()
        if not self._plausible.is_contested:
            return True
        if boot == self._owner:
            return not self._goes_back(boot)
        if self._asking is None and (loop := running_loop()) is not None:
            name = f"owner of {self._agent_id}/{self._device}"
            self._asking = loop.create_task(self._hear_owner(), name=name)
        return True

    def _goes_back(self, boot: str) -> bool:
        """Take an earlier life for the present one again, if it was one; it begins from what it measures."""
        if not self._order.go_back(boot):
            return False
        self._plausible.begin_boot()
        self.status = self._statuses.get(boot)  # what the other one said is not of it
        self._begin_life()
        return True

    async def _hear_owner(self) -> None:
        """Listen to who holds the device's name; devices of other makers may not say it."""
        with contextlib.suppress(BrokerError):
            channel = topics.device(self._agent_id, self._device, "owner")
            await self._subscriptions.open([(channel, self._on_owner)])

    def _on_owner(self, message: Received) -> None:
        owner = self._broker.parsed(message, Owner)
        if owner is None or owner.env_id not in {None, self._env_id} or owner.state != "holds":
            return
        self._owner = owner.boot
        if owner.boot is not None and self._goes_back(owner.boot):
            self._on_change()
