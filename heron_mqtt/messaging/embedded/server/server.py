"""The broker: who is connected, which sessions there are, and how everything begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from importlib.metadata import version
from operator import attrgetter
from typing import TYPE_CHECKING

from heron_mqtt.cancellation import unless_cancelled
from heron_mqtt.messaging.embedded.auth.authenticator import Authenticator
from heron_mqtt.messaging.embedded.event_log import EventLog
from heron_mqtt.messaging.embedded.net.listeners import Listeners
from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.server.accounts import Account, Accounts
from heron_mqtt.messaging.embedded.server.amqtt_core import AmqttCore
from heron_mqtt.messaging.embedded.server.connection import ClientConnection
from heron_mqtt.messaging.embedded.server.router import Router
from heron_mqtt.messaging.embedded.server.session import BrokerMessage, ClientSession
from heron_mqtt.messaging.embedded.stats import SYS_TOPICS, BrokerStats
from heron_mqtt.messaging.topics import escape, is_vital

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.auth.authenticator import Admitted
    from heron_mqtt.messaging.embedded.net.transports import Transport
    from heron_mqtt.messaging.embedded.options import BrokerOptions
    from heron_mqtt.messaging.embedded.server.write_buffer import WriteBuffer

_GRACE_S = 0.3  # for last bytes to leave when the broker closes
_ABORT_S = 0.5  # for aborted connections to be reported as gone
_AMQTT_SHUTDOWN_S = 0.7


class BrokerServer:
    """An MQTT 3.1.1 broker in the running event loop. Use `EmbeddedBroker`, which wraps it.

    Args:
        options: Already checked.

    Raises:
        DataError: The users or ACL file is wrong.
    """

    def __init__(self, options: BrokerOptions) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.options = options
        self.stats = BrokerStats()
        self.events = EventLog(options.limits.max_log_lines_per_s, loop.time)
        self.authenticator = Authenticator(options, self.events, loop.time)
        self.listeners = Listeners(options, self._accept_transport, self._has_room, self._turned_away)
        self.accounts = Accounts(options.limits)
        before = options.topics_begin
        self.router = Router(
            options.limits,
            self.stats,
            self.events,
            lambda topic: topic.startswith(before) and is_vital(topic.removeprefix(before)),
            self.accounts.all,
            before,
        )
        self._core = AmqttCore(
            options.limits.session_expiry_s, self.listeners.serve, self._on_session_expired
        )
        self.topics: dict[bytes, str] = {}
        self._sessions: dict[str, tuple[ClientSession, ClientConnection]] = {}
        self._connections: dict[ClientConnection, None] = {}  # the oldest first
        self._unflushed: list[WriteBuffer] = []
        self._all_gone = asyncio.Event()
        self._sys_task: asyncio.Task[None] | None = None
        self._started_s = loop.time()
        self._closing = False
        self._denied_told: dict[str, int] = {}

    # --- life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bind, and serve.

        Raises:
            AddressInUse: A port is taken.
            ConfigError: An address or certificate cannot be used.
        """
        self.listeners.bind()
        try:
            await self._core.start()
        except BaseException:
            self.listeners.stop()
            self.authenticator.close()
            raise
        if self.options.limits.sys_interval_s:
            self._sys_task = asyncio.create_task(self._publish_sys(), name="broker $SYS")
        self.events.info("started", url=self.listeners.url, anonymous=self.options.admits_anonymous)

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
        for session, _ in list(self._sessions.values()):
            self._drop_session(session)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AMQTT_SHUTDOWN_S):
                await unless_cancelled(self._core.shutdown())
        await self.listeners.closed()
        self.authenticator.close()
        self.events.info("stopped", received=self.stats.received, delivered=self.stats.delivered)

    async def _wait_gone(self, timeout_s: float) -> bool:
        self._all_gone.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
        return not self._connections

    # --- connections --------------------------------------------------------------------------------

    def _accept_transport(self, transport: Transport) -> ClientConnection | None:
        if not self._has_room(0) and not self._end_half_open():
            self._turned_away(transport.peer, "too many connections")
            return None
        connection = ClientConnection(self, transport)
        self._connections[connection] = None
        return connection

    def _has_room(self, in_handshake: int) -> bool:
        present = len(self._connections) + in_handshake
        return not self._closing and present < self.options.limits.max_connections

    def _end_half_open(self) -> bool:
        """Make room: end the oldest connection that has not logged in; return whether there was one.

        A client with a message sends it at once, and is accepted before it is the oldest.
        """
        strangers = [c for c in self._connections if c.session is None and not c.ended]
        if self._closing or not strangers:
            return False
        oldest = next((c for c in strangers if not c.is_logging_in), strangers[0])
        oldest.end("no_connect", will=False, abort=True, detail="others need the room")
        self._connections.pop(oldest, None)  # its link is closed in a moment
        return True

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
        session = self._session_of(client_id)
        if session is not None and session.owner != who.user:
            connection.refuse(
                packets.IDENTIFIER_REJECTED, f"client identifier {client_id!r} belongs to another user"
            )
            return False
        if session is not None and isinstance(session.connection, ClientConnection):
            self.stats.takeovers += 1
            session.connection.end("taken_over", will=True, detail=f"by {connection.transport.peer}")
            session = self._session_of(client_id)
        if session is not None and connect.clean_session:
            self._drop_session(session)
            session = None
        present = session is not None
        account = self._account(who.user)
        if session is None or session.connection is None:
            problem = self._make_room(account, is_new=session is None)
            if problem is not None:
                self.accounts.settle(account)
                connection.refuse(packets.SERVER_UNAVAILABLE, problem)
                return False
        if session is None:
            limits = self.options.limits
            session = ClientSession(client_id, clean=connect.clean_session, limits=limits, stats=self.stats)
        session.owner = who.user
        session.belong_to(account)
        session.will = connect.will
        session.grant = self.authenticator.grant(who.user, client_id)
        self._core.connected(client_id, clean_session=session.clean_session)
        self._sessions[client_id] = (session, connection)
        account.touch(session)
        self.router.rights_changed()
        connection.session = session
        self.stats.connects += 1
        self.stats.clients += 1
        self.stats.max_clients = max(self.stats.max_clients, self.stats.clients)
        self.events.info("connected", client=client_id, user=who.user or "", peer=connection.transport.peer)
        connection.send(packets.connack(packets.ACCEPTED, session_present=present))
        session.resume(connection)
        return True

    def _account(self, user: str | None) -> Account:
        in_charge = user is not None and self.authenticator.is_in_charge(user)
        return self.accounts.of(user, in_charge=in_charge, is_paced=self.authenticator.has_rights)

    def _make_room(self, account: Account, *, is_new: bool) -> str | None:
        """Make room for one more connected session of a user; return why there is none, or None."""
        limits = self.options.limits
        if account.is_limited and account.connected() >= limits.max_user_connections:
            return f"more than {limits.max_user_connections} connections of one user"
        if not is_new:
            return None
        if account.is_limited and len(account.sessions) >= limits.max_user_sessions:
            if (oldest := account.oldest_away()) is None:
                return f"more than {limits.max_user_sessions} sessions of one user"
            self._evict(oldest.client_id)
        if len(self._sessions) >= limits.max_sessions:
            most = account if account.oldest_away() is not None else self.accounts.most_sessions()
            if most is None or (oldest := most.oldest_away()) is None:
                return "too many sessions"
            self._evict(oldest.client_id)
        return None

    def _evict(self, client_id: str) -> None:
        session = self._sessions[client_id][0]
        self.stats.evicted += 1
        self.events.warning(
            "session_evicted",
            client=session.client_id,
            user=session.owner or "",
            waiting=len(session.queue) + len(session.inflight),
        )
        self._drop_session(session)

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
        session.connection = None
        self._core.left(client_id)
        self.stats.clients -= 1
        self.stats.disconnects += 1
        message, session.will = session.will, None
        if session.account is not None:
            session.account.touch(session)
        if will and message is not None:
            self.stats.wills += 1
            last_word = BrokerMessage.of(message.topic, message.payload, message.qos)
            self.router.accept(session, last_word, retain=message.retain)
        if session.clean_session:
            self._drop_session(session)

    def connection_gone(self, connection: ClientConnection) -> None:
        """Forget a connection whose link is closed."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._all_gone.set()

    def flush_soon(self, buffer: WriteBuffer) -> None:
        """Have `WriteBuffer.flush` called at the end of this turn of the event loop."""
        if not self._unflushed:
            self._loop.call_soon(self._flush)
        self._unflushed.append(buffer)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        if len(unflushed) > 1:
            # Who has most to read begins first, while the others are written to: a step waits for it.
            unflushed.sort(key=attrgetter("collected_bytes"), reverse=True)
        for buffer in unflushed:
            buffer.flush()

    def refresh_rights(self) -> None:
        """If the users or ACL file changed: give everyone the new rights, end those no longer known."""
        if not self.authenticator.reload_if_changed():
            return
        for session, connection in list(self._sessions.values()):
            session.grant = self.authenticator.grant(session.owner, session.client_id)
            self._account(session.owner)
            if not self.authenticator.knows(session.owner):
                connection.end("revoked", will=True)
                self._drop_session(session)
        self.router.rights_changed()

    # --- sessions -----------------------------------------------------------------------------------

    def _session_of(self, client_id: str) -> ClientSession | None:
        entry = self._sessions.get(client_id)
        return None if entry is None else entry[0]

    def _on_session_expired(self, client_id: str) -> None:
        session = self._session_of(client_id)
        if session is not None and session.connection is None:
            self.events.info("session_expired", client=client_id)
            self._drop_session(session)

    def _drop_session(self, session: ClientSession) -> None:
        self._sessions.pop(session.client_id, None)
        self._core.forget(session.client_id)
        self.router.forget(session)
        account = session.account
        if account is not None:
            account.sessions.pop(session.client_id, None)
            self.accounts.settle(account)

    # --- $SYS ---------------------------------------------------------------------------------------

    def refresh_stats(self) -> BrokerStats:
        """Bring the levels among the counts up to date, and return them all."""
        stats = self.stats
        stats.sessions = len(self._sessions)
        stats.uptime_s = round(self._loop.time() - self._started_s, 3)
        stats.longest_queue = max((len(entry[0].queue) for entry in self._sessions.values()), default=0)
        return stats

    async def _publish_sys(self) -> None:
        self.router.announce("$SYS/broker/version", f"heron-mqtt {version('heron-mqtt')}".encode())
        while True:
            self.refresh_rights()
            stats = self.refresh_stats()
            for name, topic in SYS_TOPICS.items():
                self.router.announce(f"$SYS/broker/{topic}", f"{getattr(stats, name):.12g}".encode())
            self._publish_denied()
            await asyncio.sleep(self.options.limits.sys_interval_s)

    def _publish_denied(self) -> None:
        """Say by client whose messages were not taken."""
        told = dict(self.router.denied)
        for client_id in self._denied_told.keys() - told.keys():
            self.router.announce(_denied_topic(client_id), b"")
        for client_id, count in told.items():
            if self._denied_told.get(client_id) != count:
                self.router.announce(_denied_topic(client_id), str(count).encode())
        self._denied_told = told


def _denied_topic(client_id: str) -> str:
    return f"$SYS/broker/publish/messages/denied/{escape(client_id)}"


_EXPECTED_ENDS = frozenset({"disconnect", "shutdown", "connection_lost"})
