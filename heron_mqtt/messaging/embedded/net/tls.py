"""TLS: the context, and the acceptor in which a connection waits until its handshake is done."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

from heron_mqtt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heron_mqtt.messaging.embedded.net.transports import StreamTransport
    from heron_mqtt.messaging.embedded.options import BrokerOptions

_SHUTDOWN_TIMEOUT_S = 1.0


def tls_context(options: BrokerOptions) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or later, client certificates demanded if there is a client_ca.

    Raises:
        ConfigError: A file is not what it should be.
    """
    context = server_context(options.tls_cert or "", options.tls_key, "tls_cert, tls_key")
    if options.client_ca is not None:
        try:
            context.load_verify_locations(options.client_ca)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"client_ca: {options.client_ca} holds no certificate in PEM form ({exc})"
            ) from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_context(cert: str | Path, key: str | Path | None, named: str) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or later.

    Args:
        cert: Certificate chain, PEM.
        key: Its key, PEM, not encrypted; None = it stands in the file of the certificate.
        named: What the two are called where they were given.

    Raises:
        ConfigError: A file is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password, so that OpenSSL does not ask for one at the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as exc:
        what = f"{cert} and {key} are" if key is not None else f"{cert} is"
        raise ConfigError(
            f"{named}: {what} not a certificate and its unencrypted key in PEM form ({exc})"
        ) from exc
    return context


class TlsAcceptor:
    """Lets TCP connections through to their links when TLS is up.

    asyncio's own TLS server says nothing about a failed handshake and counts no client that is still in
    one; here both are known.

    Args:
        context: From `tls_context`.
        make_transport: Makes the link of a new connection.
        may_enter: Returns whether there is room, given how many wait.
        turned_away: Told who did not get in, and why.
        timeout_s: For a handshake.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        make_transport: Callable[[], StreamTransport],
        may_enter: Callable[[int], bool],
        turned_away: Callable[[str, str], None],
        timeout_s: float,
    ) -> None:
        self._context = context
        self._make_transport = make_transport
        self._may_enter = may_enter
        self._turned_away = turned_away
        self._timeout_s = timeout_s
        self._waiting: dict[asyncio.Task[None], asyncio.Transport] = {}

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        return _HandshakeProtocol(self)

    def enter(self, transport: asyncio.Transport) -> None:
        """Begin the handshake of a new connection."""
        transport.pause_reading()
        peer = transport.get_extra_info("peername")
        name = f"{peer[0]}:{peer[1]}" if peer else "unknown"
        if not self._may_enter(len(self._waiting)):
            transport.abort()
            self._turned_away(name, "too many connections")
            return
        task = asyncio.get_running_loop().create_task(self._handshake(transport, name), name=f"TLS {name}")
        self._waiting[task] = transport
        task.add_done_callback(lambda done: self._waiting.pop(done, None))

    def close(self) -> None:
        """Abort every handshake in progress."""
        for task, transport in list(self._waiting.items()):
            task.cancel()
            transport.abort()

    async def _handshake(self, transport: asyncio.Transport, name: str) -> None:
        link = self._make_transport()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                cast("asyncio.BaseProtocol", link),
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            )
        except (OSError, TimeoutError) as exc:  # includes ssl.SSLError
            transport.abort()
            reason = exc.reason if isinstance(exc, ssl.SSLError) and exc.reason else type(exc).__name__
            self._turned_away(name, f"TLS handshake: {reason}")
            return
        if secured is not None:
            link.connection_made(secured)


class _HandshakeProtocol(asyncio.Protocol):
    def __init__(self, acceptor: TlsAcceptor) -> None:
        self._acceptor = acceptor

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._acceptor.enter(cast("asyncio.Transport", transport))
