"""Where the MQTT broker is and how to log in: a URL, keyword arguments and the environment, checked."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from heron_mqtt.errors import ConfigError

log = logging.getLogger("heron_mqtt.messaging")

USERNAME_VARIABLE = "HERON_MQTT_USERNAME"
PASSWORD_VARIABLE = "HERON_MQTT_PASSWORD"  # noqa: S105 - the name of a variable, not a password
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
PROTOCOLS = ("3.1.1", "5")
MAX_KEEPALIVE_S = 65_535  # MQTT 3.1.1, section 3.1.2.10: two bytes


@dataclass(frozen=True, slots=True)
class LastWill:
    """The message that the broker publishes when this connection dies without a DISCONNECT."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """One MQTT connection's settings; the password is in no text that this makes."""

    scheme: str
    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    protocol: str = "3.1.1"
    keepalive_s: int = 15
    connect_timeout_s: float = 5.0

    @property
    def address(self) -> str:
        """The broker's URL without credentials, for messages and logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def login_environment(self) -> dict[str, str]:
        """Return the environment variables that hand these credentials to a child process."""
        login = {USERNAME_VARIABLE: self.username, PASSWORD_VARIABLE: self.password}
        return {name: value for name, value in login.items() if value is not None}


def read_options(
    url: str,
    *,
    client_id: str,
    username: str | None,
    password: str | None,
    ca: str | Path | None,
    cert: str | Path | None,
    key: str | Path | None,
    protocol: str,
    keepalive_s: int,
    connect_timeout_s: float,
) -> MqttOptions:
    """Check everything that a connection needs.

    Keyword arguments win over the URL, the URL wins over the environment.

    Raises:
        ConfigError: Says which value is wrong and what was expected; never shows a password.
    """
    parts, port = _split(url)
    username = username or _decoded(parts.username) or os.environ.get(USERNAME_VARIABLE) or None
    password = password or _decoded(parts.password) or os.environ.get(PASSWORD_VARIABLE) or None
    problems = []
    if password and not username:
        problems.append(f"a password without a username: pass username= or set {USERNAME_VARIABLE}")
    if protocol not in PROTOCOLS:
        problems.append(f"protocol {protocol!r}: expected {' or '.join(map(repr, PROTOCOLS))}")
    if not 1 <= keepalive_s <= MAX_KEEPALIVE_S or int(keepalive_s) != keepalive_s:
        problems.append(f"keepalive_s {keepalive_s!r}: expected whole seconds, 1 to {MAX_KEEPALIVE_S}")
    if not connect_timeout_s > 0:
        problems.append(f"connect_timeout_s {connect_timeout_s!r}: expected seconds > 0")
    if not client_id:
        problems.append("client_id is empty: leave it out to get one made")
    if parts.scheme == "mqtt" and (ca or cert or key):
        problems.append(f"ca, cert and key are for TLS, but {shown(url)!r} is plain TCP: use mqtts://")
    if key and not cert:
        problems.append("key without cert: pass the client certificate too")
    if problems:
        raise ConfigError(*(f"MqttBroker: {problem}" for problem in problems))
    if password and parts.scheme == "mqtt" and not _is_loopback(parts.hostname or ""):
        log.warning(
            "the password for %s travels unencrypted: use mqtts:// on networks you do not trust", shown(url)
        )
    return MqttOptions(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=port,
        client_id=client_id,
        username=username,
        password=password,
        tls=_tls_context(ca, cert, key) if parts.scheme == "mqtts" else None,
        protocol=protocol,
        keepalive_s=int(keepalive_s),
        connect_timeout_s=connect_timeout_s,
    )


def shown(url: str) -> str:
    """Return a URL as it may be printed: without credentials, however badly it is formed."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme = re.match(r"[a-z]+://", head, re.IGNORECASE)
    return f"{scheme[0] if scheme else ''}***@{tail}"


def _split(url: str) -> tuple[SplitResult, int]:
    expected = "expected mqtt://[user:password@]host[:port] or mqtts://..."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(
            f"MqttBroker: {shown(url)!r} has no valid port or host: {expected} "
            f"(write / : @ in a password as %2F %3A %40)"
        ) from None
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
        raise ConfigError(f"MqttBroker: {shown(url)!r} is no MQTT address: {expected}")
    if not _is_host(parts.hostname):
        raise ConfigError(f"MqttBroker: {shown(url)!r} names no valid host: {expected}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"MqttBroker: {shown(url)!r} has something after host and port: {expected}")
    if port == 0:
        raise ConfigError(f"MqttBroker: {shown(url)!r}: port 0 cannot be connected to")
    return parts, port or DEFAULT_PORTS[parts.scheme]


def _is_host(name: str | None) -> bool:
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def _tls_context(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> ssl.SSLContext:
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"MqttBroker: {name} {str(path)!r}: no such file")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"MqttBroker: ca {str(ca)!r} holds no PEM certificate: {exc}") from exc
    if cert:
        try:
            # an encrypted key would otherwise ask at the terminal
            context.load_cert_chain(cert, key, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"MqttBroker: cert {str(cert)!r} and key {str(key or cert)!r} are not a matching, "
                f"unencrypted PEM pair: {exc}"
            ) from exc
    return context
