"""The presence of a device: born with its nameplate, faulty while something fails, gone with a will."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from heron_mqtt.errors import BrokerError, Displaced, HeronError, NameTaken
from heron_mqtt.messages import NO_RUN, UNNAMED_KIND, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, MessageBroker
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.presence_guard import PresenceGuard
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.device")

MOST_UNSAID = 16  # statuses that wait for the broker; of more the oldest is dropped, and counted


@asynccontextmanager
async def leaving_others_alone(broker: MessageBroker) -> AsyncIterator[MessageBroker]:
    """Connect a broker whose will is a device's; disconnect without the will if the name is another's.

    A connection that ends without a DISCONNECT leaves its will. The will of a device that was refused, or
    displaced, would report the other device of this name as offline. A device that is cancelled has said so
    itself.
    """
    ended: BaseException | None = None
    async with broker:
        try:
            yield broker
        except (NameTaken, asyncio.CancelledError) as exc:
            ended = exc
    if ended is not None:
        raise ended


class PresentDevice:
    """A device with a name and a presence; see ``FieldDevice`` for its arguments."""

    kind: ClassVar[str] = UNNAMED_KIND
    follows_episodes: ClassVar[bool] = False
    """Whether it starts afresh with every episode, as emulators do; the gateway then waits for it."""

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str,
        stamper: MessageStamper | None,
        take_over: bool = False,
    ) -> None:
        self.agent_id = agent_id
        self.name = name
        self.label = f"{agent_id}/{name}"
        self._broker = broker
        self._env_id = env_id
        self._stamper = stamper or MessageStamper(self.label, env_id)
        self._run: tuple[str | None, int | None] | None = None
        self._presence: Announcement | None = None
        self._guard = PresenceGuard(broker, self._status_channel(), self._stamper.boot)
        self._unsaid: deque[dict[str, Any]] = deque()
        self._saying: asyncio.Task[None] | None = None
        self._fault: str | None = None
        self._has_name = False  # the name was ours in this run: what its hardware holds is ours to end
        self._name_taken = asyncio.Event()
        self._taken_by: Displaced | None = None
        self._ownership = NameOwnership(
            broker,
            topics.device(agent_id, name, "owner"),
            self._stamper,
            what=f"device {self.label} in environment {env_id!r}",
            on_displaced=self._on_displaced,
            on_confirmed=self._on_confirmed,
            take_over=take_over,
        )

    def nameplate(self) -> dict[str, Any]:
        """Return the fields of ``Status`` that describe the device: p_min_mw, p_max_mw, max_e_mwh, soc."""
        return {}

    async def _take_name(self) -> None:
        """Make sure that this is the only device of its name.

        Raises:
            NameTaken: Another one lives.
        """
        await self._ownership.acquire()
        self._has_name = True

    def _on_displaced(self, error: Displaced) -> None:
        """Leave the status channel to the other device at once: the will would also count as its status."""
        self._taken_by = error
        self._guard.close()
        if self._presence is not None:
            self._presence.disown()
        self._name_taken.set()

    def _on_confirmed(self) -> None:
        """Hear, after a reconnection, that the name is still ours."""

    async def _displaced(self) -> None:
        """Return never, unless another device has taken the name.

        Raises:
            Displaced: Says which.
        """
        await self._name_taken.wait()
        assert self._taken_by is not None
        raise self._taken_by

    async def _appear(self) -> None:
        """Be born, and leave a will."""
        will = self._stamper.will(Status(state="offline"))
        self._unsaid.clear()
        presence = self._presence = await self._broker.announce(self._status_channel(), self._birth(), will)
        if self._taken_by is not None:
            presence.disown()
            return
        await self._guard.watch(presence)
        await self._say_unsaid()  # an episode began, or something failed, while that connected

    async def _leave(self) -> None:
        """Say that it is gone, unless another device has its name."""
        self._guard.close()
        if self._saying is not None:
            self._saying.cancel()
        if self._presence is not None:
            await self._presence.withdraw()
        await self._ownership.release()

    def _failed(self, what: str, exc: Exception) -> None:
        """Say that the device is faulty; the log has the traceback, unless it is an error with a name."""
        reason = f"{what} failed: {type(exc).__name__}: {exc}"[:500]
        if reason != self._fault:
            self._fault = reason
            log.error("%s: %s", self.label, reason, exc_info=None if isinstance(exc, HeronError) else exc)
            self._say(self._stamped(Status(state="fault", reason=reason, kind=self.kind)))

    def _recovered(self) -> None:
        if self._fault is not None:
            self._fault = None
            self._say(self._birth())

    def _say(self, message: dict[str, Any]) -> None:
        """Say something of itself, after what was not said yet; of much of that the newest counts.

        It is not waited for: without a connection that lasts, and a lease ends meanwhile.
        """
        if len(self._unsaid) >= MOST_UNSAID:
            left_out = self._unsaid.popleft()
            self._broker.stats.overflowed += 1
            self._broker.stats.report(
                "overflow",
                self._status_channel(),
                f"{MOST_UNSAID} statuses of {self.label} wait; the oldest ({left_out['state']}) was dropped",
            )
        self._unsaid.append(message)
        if self._presence is not None and (self._saying is None or self._saying.done()):
            self._saying = asyncio.get_running_loop().create_task(
                self._say_unsaid(), name=f"status {self.label}"
            )

    async def _say_unsaid(self) -> None:
        while self._presence is not None and self._unsaid:
            try:
                await self._presence.update(self._unsaid.popleft())
            except BrokerError as exc:
                self._broker.stats.report("device", self.label, f"its status could not be published: {exc}")

    def _status_channel(self) -> str:
        return topics.device(self.agent_id, self.name, "status")

    def _birth(self) -> dict[str, Any]:
        run, _ = self._run or (NO_RUN if self.follows_episodes else None, None)
        return self._stamped(
            Status.model_validate({"state": "online", "kind": self.kind, "run": run, **self.nameplate()})
        )

    def _stamped(self, status: Status) -> dict[str, Any]:
        episode = self._run[1] if self._run is not None else None
        return self._stamper.presence(status, episode=episode)
