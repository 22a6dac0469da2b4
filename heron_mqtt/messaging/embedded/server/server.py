"""The broker: amqtt's, with every path that a message takes replaced.

`BrokerServer` keeps amqtt's life cycle, session objects, session registry and expiry. Listening,
authentication, subscriptions, routing, retained messages and everything about a connection are its own,
because amqtt's lose messages, wait without limit or cost a task each. amqtt is pinned to the exact
version whose private methods are overridden here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from amqtt.broker import Broker, ExternalServer
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.plugins import manager as amqtt_plugins

from heron_mqtt.messaging.embedded.auth.authenticator import Authenticator
from heron_mqtt.messaging.embedded.event_log import EventLog
from heron_mqtt.messaging.embedded.net.listeners import Listeners
from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.server.connection import ClientConnection
from heron_mqtt.messaging.embedded.server.router import Router
from heron_mqtt.messaging.embedded.server.session import BrokerMessage, ClientSession
from heron_mqtt.messaging.embedded.stats import SYS_TOPICS, BrokerStats

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.auth.authenticator import Admitted
    from heron_mqtt.messaging.embedded.net.transports import Transport
    from heron_mqtt.messaging.embedded.options import BrokerOptions
    from heron_mqtt.messaging.embedded.server.write_buffer import WriteBuffer

_NAMESPACE = "heron_mqtt.embedded"
_GRACE_S = 0.3  # for last bytes to leave when the broker closes
_ABORT_S = 0.5  # for aborted connections to be reported as gone
_AMQTT_SHUTDOWN_S = 0.7


class BrokerServer(Broker):  # type: ignore[misc]  # amqtt ships no type information
    """An MQTT 3.1.1 broker in the running event loop. Use `EmbeddedBroker`, which wraps it.

    Args:
        options: Already checked.

    Raises:
        DataError: The users or ACL file is wrong.
    """

    def __init__(self, options: BrokerOptions) -> None:
        loop = asyncio.get_running_loop()
        config = BrokerConfig(
            listeners={"default": ListenerConfig(type=ListenerType.EXTERNAL, bind="owned by Listeners")},
            session_expiry_interval=max(1, round(options.limits.session_expiry_s)),
            plugins={},
        )
        super().__init__(config, loop, _NAMESPACE)
        self.options = options
        self.stats = BrokerStats()
        self.events = EventLog(options.limits.max_log_lines_per_s, loop.time)
        self.authenticator = Authenticator(options, self.events, loop.time)
        self.listeners = Listeners(options, self._accept_transport, self._has_room, self._turned_away)
        self.router = Router(options.limits, self.stats, self.events)
        self.topics: dict[bytes, str] = {}
        self._connections: set[ClientConnection] = set()
        self._unflushed: list[WriteBuffer] = []
        self._all_gone = asyncio.Event()
        self._sys_task: asyncio.Task[None] | None = None
        self._started_s = loop.time()
        self._closing = False

    # --- life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bind, and serve.

        Raises:
            AddressInUse: A port is taken.
            ConfigError: An address or certificate cannot be used.
        """
        self.listeners.bind()
        try:
            await self.start()
        except BaseException:
            self.listeners.stop()
            self.authenticator.close()
            raise
        if self.options.limits.sys_interval_s:
            self._sys_task = asyncio.create_task(self._publish_sys(), name="broker $SYS")
        self.events.info("started", url=self.listeners.url, anonymous=self.options.admits_anonymous)

    async def _start_listeners(self) -> None:
        self._servers["default"] = ExternalServer()
        await self.listeners.serve()

    async def shutdown(self) -> None:
        """Stop listening, end every connection, forget everything; within 2 s, whatever clients do."""
        if self._closing:
            return
        self._closing = True
        if self._sys_task is not None:
            self._sys_task.cancel()
            await asyncio.gather(self._sys_task, return_exceptions=True)
        self.listeners.stop()
        for connection in list(self._connections):
            connection.end("shutdown", will=False)
        if not await self._wait_gone(_GRACE_S):
            for connection in list(self._connections):
                connection.transport.abort()
            await self._wait_gone(_ABORT_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().shutdown(), _AMQTT_SHUTDOWN_S)
        await self.listeners.closed()
        self.authenticator.close()
        amqtt_plugins.plugins_manager.pop(_NAMESPACE, None)
        self.events.info("stopped", received=self.stats.received, delivered=self.stats.delivered)

    async def _wait_gone(self, timeout_s: float) -> bool:
        self._all_gone.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), timeout_s)
        return not self._connections

    # --- connections --------------------------------------------------------------------------------

    def _accept_transport(self, transport: Transport) -> ClientConnection | None:
        if not self._has_room(0):
            self._turned_away(transport.peer, "too many connections")
            return None
        connection = ClientConnection(self, transport)
        self._connections.add(connection)
        return connection

    def _has_room(self, in_handshake: int) -> bool:
        present = len(self._connections) + in_handshake
        return not self._closing and present < self.options.limits.max_connections

    def _turned_away(self, peer: str, reason: str) -> None:
        self.stats.refusals += 1
        self.events.warning("refused", peer=peer, reason=reason)

    def admit(self, connection: ClientConnection, connect: packets.Connect, who: Admitted) -> bool:
        """Give an authenticated client its session and answer its CONNECT; return whether it is in."""
        client_id = connect.client_id
        if not client_id:
            if not connect.clean_session:  # MQTT-3.1.3-8
                connection.refuse(
                    packets.IDENTIFIER_REJECTED, "an empty client identifier needs a clean session"
                )
                return False
            client_id = f"auto-{secrets.token_hex(8)}"
        session: ClientSession | None = self._sessions.get(client_id, (None, None))[0]
        if session is not None and session.owner != who.user:
            connection.refuse(
                packets.IDENTIFIER_REJECTED, f"client identifier {client_id!r} belongs to another user"
            )
            return False
        if session is not None and isinstance(session.outlet, ClientConnection):
            self.stats.takeovers += 1
            session.outlet.end("taken_over", will=True, detail=f"by {connection.transport.peer}")
            session = self._sessions.get(client_id, (None, None))[0]
        if session is not None and connect.clean_session:
            self._drop_session(session)
            session = None
        present = session is not None
        if session is None:
            if len(self._sessions) >= self.options.limits.max_sessions:
                connection.refuse(packets.SERVER_UNAVAILABLE, "too many sessions")
                return False
            limits = self.options.limits
            session = ClientSession(client_id, clean=connect.clean_session, limits=limits, stats=self.stats)
        session.owner = session.username = who.user
        session.will = connect.will
        session.remote_address = connection.transport.peer
        session.keep_alive = connect.keep_alive_s
        session.grant = self.authenticator.grant(who.user, client_id)
        session.transitions.connect()
        session.last_connect_time, session.last_disconnect_time = _now(), None
        self._sessions[client_id] = (session, connection)
        self.router.rights_changed()
        connection.session = session
        self.stats.connects += 1
        self.stats.clients += 1
        self.stats.max_clients = max(self.stats.max_clients, self.stats.clients)
        self.events.info("connected", client=client_id, user=who.user or "", peer=connection.transport.peer)
        connection.send(packets.connack(packets.ACCEPTED, session_present=present))
        session.resume(connection)
        return True

    def connection_ended(
        self,
        connection: ClientConnection,
        session: ClientSession | None,
        reason: str,
        detail: str,
        *,
        will: bool,
    ) -> None:
        """Put the session of an ended connection away; called once for each connection."""
        client_id = session.client_id if session is not None else ""
        log = self.events.info if reason in _EXPECTED_ENDS else self.events.warning
        log("disconnected", client=client_id, peer=connection.transport.peer, reason=reason, detail=detail)
        if session is None:
            return
        session.outlet = None
        session.transitions.disconnect()
        session.last_disconnect_time = _now()
        self.stats.clients -= 1
        self.stats.disconnects += 1
        message, session.will = session.will, None
        if session.clean_session:
            self._drop_session(session)
        if will and message is not None:
            self.stats.wills += 1
            last_word = BrokerMessage.of(message.topic, message.payload, message.qos)
            self.router.accept(session, last_word, retain=message.retain)

    def connection_gone(self, connection: ClientConnection) -> None:
        """Forget a connection whose link is closed."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def flush_soon(self, outlet: WriteBuffer) -> None:
        """Have `WriteBuffer.flush` called at the end of this turn of the event loop."""
        if not self._unflushed:
            self._loop.call_soon(self._flush)
        self._unflushed.append(outlet)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for outlet in unflushed:
            outlet.flush()

    def refresh_rights(self) -> None:
        """If the users or ACL file changed: give everyone the new rights, end those no longer known."""
        if not self.authenticator.reload_if_changed():
            return
        for session, connection in list(self._sessions.values()):
            session.grant = self.authenticator.grant(session.owner, session.client_id)
            if not self.authenticator.knows(session.owner):
                connection.end("revoked", will=True)
                self._drop_session(session)
        self.router.rights_changed()

    # --- what amqtt's own parts call ----------------------------------------------------------------

    async def _cleanup_session(self, client_id: str) -> None:
        session, connection = self._sessions.get(client_id, (None, None))
        if session is not None:
            if session.outlet is not None:
                connection.end("shutdown", will=False)
            else:
                self.events.info("session_expired", client=client_id)
            self._drop_session(session)

    def _drop_session(self, session: ClientSession) -> None:
        self._sessions.pop(session.client_id, None)
        self.router.forget(session)

    async def _broadcast_message(
        self,
        session: Any,
        topic: str | None,
        data: bytes | bytearray | None,
        force_qos: int | None = None,
    ) -> None:
        if topic:
            self.router.route(BrokerMessage.of(topic, bytes(data or b""), force_qos or 0))

    # --- $SYS ---------------------------------------------------------------------------------------

    def refresh_stats(self) -> BrokerStats:
        """Bring the levels among the counts up to date, and return them all."""
        stats = self.stats
        stats.sessions = len(self._sessions)
        stats.uptime_s = round(self._loop.time() - self._started_s, 3)
        stats.longest_queue = max((len(entry[0].queue) for entry in self._sessions.values()), default=0)
        return stats

    async def _publish_sys(self) -> None:
        from heron_mqtt import __version__

        self.router.announce("$SYS/broker/version", f"heron-mqtt {__version__}".encode())
        while True:
            self.refresh_rights()
            stats = self.refresh_stats()
            for name, topic in SYS_TOPICS.items():
                self.router.announce(f"$SYS/broker/{topic}", f"{getattr(stats, name):.12g}".encode())
            await asyncio.sleep(self.options.limits.sys_interval_s)


def _now() -> int:
    return int(time.time())  # amqtt's session expiry compares wall-clock seconds


_EXPECTED_ENDS = frozenset({"disconnect", "shutdown", "connection_lost"})
