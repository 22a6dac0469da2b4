"""Broker URLs: taken apart, and printed without credentials."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from heron_mqtt.errors import ConfigError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
NATS_PORTS = {"nats": 4222, "nats+tls": 4222}
KAFKA_PORTS = {"kafka": 9092, "kafka+tls": 9093}
SECURE = {"mqtts", "wss", "nats+tls", "kafka+tls"}
WEB = {"ws", "wss"}
EXPECTED = "expected mqtt://[user:password@]host[:port][,host[:port]...], mqtts://..., ws://... or wss://..."


LOOPBACK = "127.0.0.1"


def host_key(host: str) -> str:
    """Return one text for every spelling of a host: case, a dot at the end, the ways to write an address.

    This machine is ``LOOPBACK``, whether by name or address. Names are not looked up.
    """
    text = host.strip("[]").rstrip(".").lower()
    if text in {"localhost", "ip6-localhost"}:
        return LOOPBACK
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(text))  # 127.1, 0x7f.1
        except OSError:
            return text
    address = getattr(address, "ipv4_mapped", None) or address
    return LOOPBACK if address == ipaddress.ip_address("::1") else str(address)


@dataclass(frozen=True, slots=True)
class UrlKind:
    """The URLs of one kind of broker.

    Attributes:
        broker: The class that connects to them, for messages.
        protocol: The protocol there, for messages.
        ports: Schemes, and the port of each where the URL names none.
        expected: What such a URL looks like, for messages.
    """

    broker: str
    protocol: str
    ports: Mapping[str, int]
    expected: str


MQTT_URLS = UrlKind("MqttBroker", "MQTT", DEFAULT_PORTS, EXPECTED)
NATS_URLS = UrlKind(
    "NatsBroker",
    "NATS",
    NATS_PORTS,
    "expected nats://[user:password@]host[:port][,host[:port]...] or nats+tls://...",
)
KAFKA_URLS = UrlKind(
    "KafkaBroker",
    "Kafka",
    KAFKA_PORTS,
    "expected kafka://[user:password@]host[:port][,host[:port]...] or kafka+tls://...",
)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker is, or several that stand in for each other."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """Host and port; the first one first."""
    path: str = ""
    """Of a WebSocket."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def without_login(url: str) -> str:
    """Return a URL as it may be printed: without user and password, however badly it is formed."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme = re.match(r"[a-z][a-z0-9+.-]*://", head, re.IGNORECASE)
    return f"{scheme[0] if scheme else ''}***@{tail}"


def lacks_scheme(url: str) -> bool:
    """Whether a text is a host with a port, or with a dot: as people write it who forget the scheme."""
    host = re.fullmatch(r"([^/@\s]*@)?([\w.-]+|\[[0-9a-fA-F:]+\])(:\d+)?/?", url)
    return host is not None and (":" in url or "." in url)


def parse_url(url: str, kind: UrlKind = MQTT_URLS) -> BrokerUrl:
    """Take a broker's URL apart.

    Raises:
        ConfigError: Says what is wrong with it; never shows a password.
    """
    shown = without_login(url)
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in kind.ports or not rest.strip("/"):
        hint = f"; did you mean {next(iter(kind.ports))}://{shown}?" if lacks_scheme(url) else ""
        raise ConfigError(f"{shown!r} is no {kind.protocol} address: {kind.expected}{hint}")
    end = next((i for i, sign in enumerate(rest) if sign in "/?#" and "@" not in rest[i:]), len(rest))
    place, tail = rest[:end], rest[end:]
    login, _, names = place.rpartition("@")
    if scheme not in WEB and tail not in {"", "/"}:
        raise ConfigError(f"{shown!r} has something after host and port: {kind.expected}")
    if "#" in tail:
        raise ConfigError(f"{shown!r} has a fragment: {kind.expected}")
    username, _, password = login.partition(":")
    return BrokerUrl(
        scheme,
        tuple(_host(scheme, name, shown, kind) for name in names.split(",")),
        tail,
        unquote(username) or None,
        unquote(password) or None,
    )


def _host(scheme: str, name: str, shown: str, kind: UrlKind) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{name}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(
            f"{shown!r} has no valid port or host: {kind.expected} (write / : @ in a password as %2F %3A %40)"
        ) from None
    if port == 0:
        raise ConfigError(f"{shown!r}: port 0 cannot be connected to")
    if not _is_host(host) or parts.path or parts.username is not None:
        raise ConfigError(f"{shown!r} names no valid host: {kind.expected}")
    return host or "", port or kind.ports[scheme]


def _is_host(name: str | None) -> bool:
    try:
        return bool(name and name.encode("idna")) and not re.search(r"[\s,;]", name or "")
    except UnicodeError:
        return False
