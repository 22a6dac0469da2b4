"""The presence of a device: born with its nameplate, faulty while something fails, gone with a will."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from heron_mqtt.errors import HeronError
from heron_mqtt.messages import NO_RUN, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.device")


class PresentDevice:
    """A device with a name and a presence; see ``FieldDevice`` for its arguments."""

    kind: ClassVar[str] = "device"
    follows_episodes: ClassVar[bool] = False
    """Whether it starts afresh with every episode, as emulators do; the gateway then waits for it."""

    def __init__(
        self, agent_id: str, name: str, broker: MessageBroker, *, env_id: str, stamper: MessageStamper | None
    ) -> None:
        self.agent_id = agent_id
        self.name = name
        self.label = f"{agent_id}/{name}"
        self._broker = broker
        self._env_id = env_id
        self._stamper = stamper or MessageStamper(self.label, env_id)
        self._run: tuple[str | None, int | None] | None = None
        self._presence: Announcement | None = None
        self._fault: str | None = None

    def nameplate(self) -> dict[str, Any]:
        """Return the fields of ``Status`` that describe the device: p_min_mw, p_max_mw, max_e_mwh, soc."""
        return {}

    async def _appear(self) -> None:
        """Be born, and leave a will."""
        will = self._stamper.will(Status(state="offline"))
        self._presence = await self._broker.announce(self._status_channel(), self._birth(), will)

    async def _leave(self) -> None:
        """Say that it is gone."""
        if self._presence is not None:
            await self._presence.withdraw()

    async def _failed(self, what: str, exc: Exception) -> None:
        """Say that the device is faulty; the log has the traceback, unless it is an error with a name."""
        reason = f"{what} failed: {type(exc).__name__}: {exc}"[:500]
        if reason != self._fault:
            self._fault = reason
            log.error("%s: %s", self.label, reason, exc_info=None if isinstance(exc, HeronError) else exc)
            await self._say(self._stamped(Status(state="fault", reason=reason, kind=self.kind)))

    async def _recovered(self) -> None:
        if self._fault is not None:
            self._fault = None
            await self._say(self._birth())

    async def _say(self, word: dict[str, Any]) -> None:
        if self._presence is not None:
            await self._presence.update(word)

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
