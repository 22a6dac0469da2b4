"""What the embedded broker takes from amqtt: its life cycle, and the expiry of sessions. Imported here alone.

amqtt keeps a table of clients; every second it removes those that have been away for too long. Whatever a
message passes through is ours (``BrokerServer``), because amqtt's own loses messages, waits without limit or
costs a task each. Private methods of amqtt are overridden here: it is pinned to the exact version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from amqtt.broker import Broker, ExternalServer
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.plugins import manager

_NAMESPACE = "heron_mqtt.embedded"


class _Client:
    """As much of amqtt's session as its table looks at."""

    is_anonymous = False

    def __init__(self, clean_session: bool) -> None:
        self.clean_session = clean_session
        self.transitions = self
        self.state = "connected"
        self.last_disconnect_time: int | None = None


class AmqttCore(Broker):  # type: ignore[misc]  # amqtt ships no type information
    """amqtt's broker without listeners, messages and plugins.

    Args:
        session_expiry_s: A client that is away for longer is forgotten.
        serve: Begins to listen; called by ``start``.
        expire: Called with the client identifier of each session that is to be forgotten.
    """

    def __init__(
        self, session_expiry_s: float, serve: Callable[[], Awaitable[None]], expire: Callable[[str], None]
    ) -> None:
        config = BrokerConfig(
            listeners={"default": ListenerConfig(type=ListenerType.EXTERNAL, bind="owned by Listeners")},
            session_expiry_interval=max(1, round(session_expiry_s)),
            plugins={},
        )
        super().__init__(config, asyncio.get_running_loop(), _NAMESPACE)
        self._serve = serve
        self._expire = expire

    def connected(self, client_id: str, *, clean_session: bool) -> None:
        """Note that a client has a session, and is connected."""
        self._sessions[client_id] = (_Client(clean_session), None)

    def left(self, client_id: str) -> None:
        """Note that a client's connection has ended."""
        client = self._sessions.get(client_id, (None, None))[0]
        if client is not None:
            client.state = "disconnected"
            client.last_disconnect_time = int(time.time())  # amqtt compares wall-clock seconds

    def forget(self, client_id: str) -> None:
        """Note that a client has no session any more."""
        self._sessions.pop(client_id, None)

    async def shutdown(self) -> None:
        """Stop amqtt's tasks."""
        await super().shutdown()
        manager.plugins_manager.pop(_NAMESPACE, None)

    # -- what amqtt calls ----------------------------------------------------------------------------

    async def _start_listeners(self) -> None:
        self._servers["default"] = ExternalServer()
        await self._serve()

    async def _cleanup_session(self, client_id: str) -> None:
        if self._sessions.pop(client_id, None) is not None:
            self._expire(client_id)

    async def _broadcast_message(self, *_: Any, **__: Any) -> None:
        """Nothing of amqtt publishes."""
