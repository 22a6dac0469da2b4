"""What an embedded broker can be told, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file

__all__ = ["BrokerOptions", "Limits", "is_loopback"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that comes from the network.

    Attributes:
        max_packet_bytes: Largest packet taken from a client; a larger one ends its connection.
        connect_timeout_s: From accepting a connection to its complete CONNECT, TLS handshake included.
        max_connections: Open connections, those not yet authenticated included.
        max_sessions: Sessions remembered, connected or not.
        session_expiry_s: How long a persistent session outlives its connection.
        max_inflight: Messages at QoS 1 and 2 sent to one client and not yet acknowledged by it.
        max_queued_messages: Messages that wait for one client, connected or away.
        max_queued_bytes: Memory of what waits for, or is in flight to, one client.
        max_total_queued_bytes: The same, over all clients; when it is reached, a client still gets what makes
            up 16 KiB of its own, so that a stop comes through.
        max_retained_messages: Topics with a retained message.
        max_retained_bytes: Memory of the retained messages.
        max_subscriptions: Topic filters of one client.
        max_user_connections: Open connections of one user. This and the following bounds a user are for
            users that logged in; those whose rights let them stop everything (operators) have only the
            bounds above.
        max_user_sessions: Sessions of one user, connected or not; the oldest that is away gives way.
        max_user_subscriptions: Topic filters of one user, over all of its clients.
        max_user_retained_messages: Topics with a retained message of one user.
        max_user_retained_bytes: Memory of the retained messages of one user.
        max_user_queued_bytes: Memory of what waits for, or is in flight to, all clients of one user.
        max_user_environments: Environments (second topic level) in which one user has retained messages.
        max_user_messages_per_s: Messages that one user may publish in a second, over all of its clients, in
            the long run. Beyond it the broker reads more slowly; nothing is lost. Only where there is an
            access file; 0 turns it off.
        stall_timeout_s: A client that takes no byte for so long while bytes wait for it is dropped.
        login_delay_s: Delay of the answer to the first failed login from an address; doubles with each
            further failure.
        max_login_delay_s: Upper end of that delay.
        max_log_lines_per_s: Log lines of one kind in one second; what is left out is counted.
        sys_interval_s: Period of the ``$SYS/broker/...`` messages; 0 turns them off.
    """

    max_packet_bytes: int = 1 << 20
    connect_timeout_s: float = 5.0
    max_connections: int = 2_000
    max_sessions: int = 4_000
    session_expiry_s: float = 86_400.0
    max_inflight: int = 100
    max_queued_messages: int = 10_000
    max_queued_bytes: int = 16 << 20
    max_total_queued_bytes: int = 256 << 20
    max_retained_messages: int = 10_000
    max_retained_bytes: int = 64 << 20
    max_subscriptions: int = 10_000
    max_user_connections: int = 500
    max_user_sessions: int = 1_000
    max_user_subscriptions: int = 10_000
    max_user_retained_messages: int = 1_000
    max_user_retained_bytes: int = 8 << 20
    max_user_queued_bytes: int = 32 << 20
    max_user_environments: int = 16
    max_user_messages_per_s: int = 2_000
    stall_timeout_s: float = 10.0
    login_delay_s: float = 0.5
    max_login_delay_s: float = 8.0
    max_log_lines_per_s: int = 50
    sys_interval_s: float = 10.0

    def problems(self) -> list[str]:
        """Return one line for each value that cannot work."""
        found: list[str] = []
        for item in fields(self):
            value = getattr(self, item.name)
            whole = isinstance(item.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                found.append(
                    f"limits.{item.name}: {value!r}, expected {'an integer' if whole else 'a number'}"
                )
                continue
            minimum: float = 0 if item.name in _MAY_BE_ZERO else (1 if whole else 0.001)
            if not minimum <= value < float("inf"):
                found.append(f"limits.{item.name}: {value!r}, expected a finite value of at least {minimum}")
        if not found and self.max_inflight > 65_535:
            found.append(
                f"limits.max_inflight: {self.max_inflight}, expected at most 65535 (packet identifiers)"
            )
        if not found and self.max_packet_bytes > 268_435_455:
            found.append(f"limits.max_packet_bytes: {self.max_packet_bytes}, MQTT ends at 268435455")
        return found


_MAY_BE_ZERO = {
    "login_delay_s",
    "max_login_delay_s",
    "sys_interval_s",
    "max_log_lines_per_s",
    "max_user_messages_per_s",
}
DENIED = ("acknowledge", "disconnect")


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Everything an embedded broker is started with; see `EmbeddedBroker` for each field."""

    host: str = "127.0.0.1"
    port: int = 0
    websocket_port: int | None = None
    websocket_origins: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    identity_from_certificate: bool = False
    users_file: str | None = None
    acl_file: str | None = None
    allow_anonymous: bool = False
    allow_remote_anonymous: bool = False
    denied: str = "acknowledge"
    topics_begin: str = ""
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Raise `ConfigError` with one line for each option that is wrong."""
        found = self.limits.problems()
        for name in ("port", "websocket_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65_535:
                found.append(f"{name}: {port}, expected 0 (any free port) to 65535")
        if self.denied not in DENIED:
            found.append(f"denied: {self.denied!r}, expected {' or '.join(map(repr, DENIED))}")
        if self.port and self.port == self.websocket_port:
            found.append(f"websocket_port: {self.port} is also the MQTT port, expected another one")
        if (self.tls_cert is None) != (self.tls_key is None):
            found.append("tls_cert and tls_key: only one is given, expected both or none")
        if self.client_ca is not None and self.tls_cert is None:
            found.append("client_ca: client certificates need TLS, give tls_cert and tls_key as well")
        if self.identity_from_certificate and self.client_ca is None:
            found.append(
                "identity_from_certificate: needs client_ca, the authority that signs client certificates"
            )
        for name in ("tls_cert", "tls_key", "client_ca", "users_file", "acl_file"):
            path = getattr(self, name)
            if path is not None and not is_file(Path(path)):
                found.append(f"{name}: {path} is not a file, expected the path of a readable file")
        if not is_loopback(self.host) and not self.identifies_clients and not self.allow_remote_anonymous:
            found.append(
                f"host: {self.host} is reachable from other machines and no login is required; give a users "
                "file (heron-mqtt credentials add ...) or a client_ca, or listen on 127.0.0.1, "
                "or set allow_remote_anonymous if that is what you want"
            )
        if found:
            raise ConfigError(*found)

    @property
    def identifies_clients(self) -> bool:
        """Whether clients must prove who they are, by password or certificate."""
        return self.users_file is not None or self.client_ca is not None

    @property
    def admits_anonymous(self) -> bool:
        """Whether a client on this machine may connect without saying who it is."""
        return self.allow_anonymous or not self.identifies_clients

    def to_json(self) -> str:
        """Encode for a child process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BrokerOptions:
        """Decode what `to_json` encoded."""
        raw: dict[str, Any] = json.loads(text)
        raw["limits"] = Limits(**raw["limits"])
        raw["websocket_origins"] = tuple(raw["websocket_origins"])
        return cls(**raw)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a socket bound to ``host``."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
