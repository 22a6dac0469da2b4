"""`EmbeddedBroker`: a private MQTT broker, for as long as it is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.errors import BrokerClosed
from heron_mqtt.messaging.embedded.options import BrokerOptions, Limits
from heron_mqtt.messaging.embedded.process.supervisor import Supervisor
from heron_mqtt.messaging.embedded.stats import BrokerStats
from heron_mqtt.messaging.settings import topic_prefix_of, topics_begin

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from heron_mqtt.forked_program import ForkedProgram
    from heron_mqtt.messaging.embedded.server.server import BrokerServer


class EmbeddedBroker:
    """An MQTT 3.1.1 broker that starts in under a second and ends when it is closed.

    It runs as a child process, which ends with this process, even if this process is killed. With
    ``in_process=True`` it runs in the caller's event loop and starts in under 50 ms. Code that blocks the
    loop then blocks the broker, so this is meant for tests. By default it listens on loopback, on a port that
    the system chooses, and accepts every client on this machine. Sessions and retained messages are kept in
    memory and end with the broker.

    Args:
        host: Address to listen on. One that other machines reach needs ``users_file`` or ``client_ca``.
        port: TCP port; 0 takes a free one, see `url`.
        in_process: Run in the caller's event loop instead of a child process.
        websocket_port: Also listen for WebSocket connections here; 0 takes a free port, None means not.
        websocket_origins: Web pages that may connect, as ``https://host``; others are refused.
        tls_cert: Server certificate chain, PEM. With ``tls_key``, every listener uses TLS 1.2 or later.
        tls_key: Its unencrypted private key, PEM.
        client_ca: Only clients with a valid certificate from this authority (PEM) may connect.
        identity_from_certificate: Take the user name from the certificate's common name. Default: true
            if ``client_ca`` is given and ``users_file`` is not.
        users_file: User names and argon2 hashes, made by ``heron-mqtt credentials add``. Re-read on change.
        acl_file: Who may publish and subscribe what; without it, every accepted client may do everything.
            Re-read on change.
        allow_anonymous: Accept clients on this machine without a login although there is a users file.
        allow_remote_anonymous: Accept clients without a login from every machine. Only on a network that you
            trust entirely.
        denied: What happens if a client publishes without the right: ``acknowledge`` (acknowledge and drop
            the message; MQTT 3.1.1 has no other answer) or ``disconnect`` (end its connection).
        topic_prefix: Topic levels before ``heron/`` here: the broker must know births, stops and owners, and
            who may stop everything. None = the value of ``HERON_MQTT_TOPIC_PREFIX``.
        limits: Bounds on packets, connections, queues and time.
        on_exit: Called in the event loop with one line if the child process ends unexpectedly.
        child: The child process, if it was forked already (`forked_child`).

    Attributes:
        host: As given.
        port: The bound port once started, before that as given.
        url: ``mqtt://host:port`` (``mqtts://`` with TLS) once started.
        websocket_url: ``ws://host:port`` or ``wss://host:port`` once started, or None.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        in_process: bool = False,
        websocket_port: int | None = None,
        websocket_origins: tuple[str, ...] = (),
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        client_ca: str | Path | None = None,
        identity_from_certificate: bool | None = None,
        users_file: str | Path | None = None,
        acl_file: str | Path | None = None,
        allow_anonymous: bool = False,
        allow_remote_anonymous: bool = False,
        denied: str = "acknowledge",
        topic_prefix: str | None = None,
        limits: Limits | None = None,
        on_exit: Callable[[str], None] | None = None,
        child: ForkedProgram | None = None,
    ) -> None:
        if identity_from_certificate is None:
            identity_from_certificate = client_ca is not None and users_file is None
        self.options = BrokerOptions(
            host=host,
            port=port,
            websocket_port=websocket_port,
            websocket_origins=tuple(websocket_origins),
            tls_cert=_absolute(tls_cert),
            tls_key=_absolute(tls_key),
            client_ca=_absolute(client_ca),
            identity_from_certificate=identity_from_certificate,
            users_file=_absolute(users_file),
            acl_file=_absolute(acl_file),
            allow_anonymous=allow_anonymous,
            allow_remote_anonymous=allow_remote_anonymous,
            denied=denied,
            topics_begin=topics_begin(None) if topic_prefix is None else topic_prefix_of(topic_prefix),
            limits=limits or Limits(),
        )
        self.host = host
        self.port = port
        self.url = ""
        self.websocket_url: str | None = None
        self._in_process = in_process
        self._on_exit = on_exit
        self._child = child
        self._server: BrokerServer | None = None
        self._supervisor: Supervisor | None = None
        self._final_stats = BrokerStats()
        self._started = False
        self._closed = asyncio.Event()
        if in_process:
            # 130 ms of imports, at a moment when no event loop is waiting for `start`.
            import heron_mqtt.messaging.embedded.server.server  # noqa: F401

    async def start(self) -> None:
        """Start; when this returns, clients can connect to `url`.

        Raises:
            ConfigError: An option is wrong; DataError if it is a row of the users or ACL file.
            AddressInUse: The port is taken.
            BrokerUnavailable: The child process did not come up.
            BrokerClosed: This object was started before; make a new one.
        """
        if self._started:
            raise BrokerClosed("an EmbeddedBroker starts once; make a new one to start again")
        self._started = True
        self.options.check()
        if self._in_process:
            from heron_mqtt.messaging.embedded.server.server import BrokerServer

            server = BrokerServer(self.options)
            await server.open()
            self._server = server
            self.url, self.websocket_url = server.listeners.url, server.listeners.websocket_url
        else:
            self._supervisor = Supervisor(self.options, self._on_child_exit, self._child)
            self.url, self.websocket_url = await self._supervisor.start()
        self.port = int(self.url.rpartition(":")[2])

    async def close(self) -> None:
        """Disconnect every client and stop; always within 2 s, and any number of times."""
        server, self._server = self._server, None
        if server is not None:
            await server.shutdown()
            self._final_stats = server.refresh_stats()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            await supervisor.close()
            self._final_stats = supervisor.stats
        self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until the broker has ended: by `close`, or because its process died."""
        await self._closed.wait()

    @property
    def stats(self) -> BrokerStats:
        """The counts: current ones in process; of a child, those of the last `read_stats` or of its end."""
        if self._server is not None:
            return self._server.refresh_stats()
        return self._supervisor.stats if self._supervisor is not None else self._final_stats

    async def read_stats(self) -> BrokerStats:
        """Return the current counts, asking the child process for them if there is one."""
        if self._supervisor is not None:
            return await self._supervisor.read_stats()
        return self.stats

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None in process."""
        return self._supervisor.pid if self._supervisor is not None else None

    def _on_child_exit(self, line: str) -> None:
        self._closed.set()
        if self._on_exit is not None:
            self._on_exit(line)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
