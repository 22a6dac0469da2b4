"""Where the MQTT broker is and how to log in: a URL, keyword arguments and the environment, checked.

``settings`` has the names of what can be set.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file, why_no_file
from heron_mqtt.messaging.settings import topic_prefix_of, variable_of
from heron_mqtt.messaging.topics import NO_USER, user_problem
from heron_mqtt.messaging.urls import MQTT_URLS, SECURE, WEB, UrlKind, parse_url
from heron_mqtt.messaging.urls import without_login as shown

log = logging.getLogger("heron_mqtt.messaging")

USERNAME_VARIABLE = "HERON_MQTT_USERNAME"
PASSWORD_VARIABLE = "HERON_MQTT_PASSWORD"  # noqa: S105 - the name of a variable, not a password
DEFAULT_PROTOCOL, DEFAULT_KEEPALIVE_S = "3.1.1", 15
PROTOCOLS = (DEFAULT_PROTOCOL, "5")
MAX_KEEPALIVE_S = 65_535  # MQTT 3.1.1, section 3.1.2.10: two bytes
MAX_PASSWORD_FILE_BYTES = 1 << 16


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
    others: tuple[tuple[str, int], ...] = ()
    """Further hosts and ports that stand in for the first."""
    path: str = ""
    """Of a WebSocket."""
    server_name: str | None = None
    session_expiry_s: int | None = None
    """How long the broker shall keep the session of a lost connection; None = not at all (clean)."""
    topic_prefix: str = ""
    """Stands before every topic of ours at this broker: levels, with a ``/`` behind each; empty = none."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The settings, as environment variables for a child process; without user and password."""

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """Every host and its port, the first one first."""
        return ((self.host, self.port), *self.others)

    @property
    def address(self) -> str:
        """The broker's URL without credentials, for messages and logs."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{hosts}{self.path}"

    def places(self) -> list[MqttOptions]:
        """Return the same settings for each host alone."""
        return [replace(self, host=host, port=port, others=()) for host, port in self.hosts]

    def login_environment(self) -> dict[str, str]:
        """Return the environment variables that hand these credentials and settings to a child process."""
        login = {USERNAME_VARIABLE: self.username, PASSWORD_VARIABLE: self.password}
        return {**self.environment, **{name: value for name, value in login.items() if value is not None}}


def read_options(
    url: str,
    *,
    client_id: str,
    username: str | None = None,
    password: str | None = None,
    password_file: str | Path | None = None,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
    server_name: str | None = None,
    alpn: str | None = None,
    protocol: str | None = None,
    topic_prefix: str | None = None,
    keepalive_s: float | None = None,
    connect_timeout_s: float = 5.0,
    defaults: Mapping[str, str] | None = None,
    use_environment: bool = True,
    kind: UrlKind = MQTT_URLS,
) -> MqttOptions:
    """Check everything that a connection needs.

    Keyword arguments win over the URL, the URL wins over the environment, that over ``defaults`` (by the
    names of ``settings``). The environment is that of the run's broker: it is not for others
    (``use_environment = False``).

    Raises:
        ConfigError: Says which value is wrong and what was expected; never shows a password.
    """
    try:
        parts = parse_url(url, kind)
    except ConfigError as exc:
        raise ConfigError(*(f"{kind.broker}: {problem}" for problem in exc.problems)) from None
    environ = os.environ if use_environment else {}
    is_tls = parts.scheme in SECURE
    problems: list[str] = []

    def setting(name: str, given: str | Path | None) -> str | None:
        if given is not None:
            return str(given)
        return environ.get(variable_of(name)) or (defaults or {}).get(name)

    username = username or parts.username or setting("username", None)
    if not password and not parts.password and password_file is None:
        password = environ.get(PASSWORD_VARIABLE) or None
    password = password or parts.password or _from_file(setting("password_file", password_file), problems)
    files = {name: setting(name, given) for name, given in (("ca", ca), ("cert", cert), ("key", key))}
    if not is_tls and (ca or cert or key):
        problems.append(
            f"ca, cert and key are for TLS, but {shown(url)!r} is plain TCP: "
            f"use {' or '.join(f'{s}://' for s in kind.ports if s in SECURE)}"
        )
    if not is_tls:
        files = dict.fromkeys(files)  # those of the environment may be meant for another URL
    server_name, alpn = setting("server_name", server_name), setting("alpn", alpn)
    protocol = setting("protocol", protocol) or DEFAULT_PROTOCOL
    if password and not username:
        problems.append(f"a password without a username: pass username= or set {USERNAME_VARIABLE}")
    if username == NO_USER:  # any other name is the broker's affair
        problems.append(f"username {username!r}: {user_problem(username)}")
    if protocol not in PROTOCOLS:
        problems.append(f"protocol {protocol!r}: expected {' or '.join(map(repr, PROTOCOLS))}")
    begin = ""
    try:
        begin = topic_prefix_of(setting("topic_prefix", topic_prefix))
    except ConfigError as exc:
        problems += exc.problems
    keepalive = _keepalive_s(keepalive_s, setting("keepalive_s", None), problems)
    if not connect_timeout_s > 0:
        problems.append(f"connect_timeout_s {connect_timeout_s!r}: expected seconds > 0")
    if not client_id:
        problems.append("client_id is empty: leave it out to get one made")
    if files["key"] and not files["cert"]:
        problems.append("key without cert: pass the client certificate too")
    if problems:
        raise ConfigError(*(f"{kind.broker}: {problem}" for problem in problems))
    if password and not is_tls and not all(is_loopback(host) for host, _ in parts.hosts):
        log.warning(
            "the password for %s travels unencrypted: use TLS on networks you do not trust", shown(url)
        )
    settings = {**files, "server_name": server_name, "alpn": alpn, "protocol": protocol}
    settings["topic_prefix"] = begin.removesuffix("/") or None
    settings["keepalive_s"] = str(keepalive)
    (host, port), *others = parts.hosts
    return MqttOptions(
        scheme=parts.scheme,
        host=host,
        port=port,
        client_id=client_id,
        username=username,
        password=password,
        tls=_tls_context(files["ca"], files["cert"], files["key"], alpn, kind.broker) if is_tls else None,
        protocol=protocol,
        keepalive_s=keepalive,
        connect_timeout_s=connect_timeout_s,
        others=tuple(others),
        path=(parts.path or "/mqtt") if parts.scheme in WEB else "",
        server_name=server_name,
        topic_prefix=begin,
        environment={variable_of(name): value for name, value in settings.items() if value is not None},
    )


def _keepalive_s(given: float | None, text: str | None, problems: list[str]) -> int:
    """Return the keepalive, s, as it was given, or else as the text of a setting has it."""
    wanted: object = given
    if given is None:
        try:
            wanted = float(text) if text else DEFAULT_KEEPALIVE_S
        except ValueError:
            wanted = text
    if isinstance(wanted, int | float) and 1 <= wanted <= MAX_KEEPALIVE_S and int(wanted) == wanted:
        return int(wanted)
    problems.append(f"keepalive_s {wanted!r}: expected whole seconds, 1 to {MAX_KEEPALIVE_S}")
    return DEFAULT_KEEPALIVE_S


def _from_file(path: str | None, problems: list[str]) -> str | None:
    """Return the first line of a password file."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_PASSWORD_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        problems.append(f"password_file {path!r}: cannot be read: {why}")
        return None
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        problems.append(f"password_file {path!r}: its first line is empty, expected the password")
    return password or None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls_context(
    ca: str | None, cert: str | None, key: str | None, alpn: str | None, who: str
) -> ssl.SSLContext:
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        if path and not is_file(Path(path)):
            raise ConfigError(f"{who}: {name} {str(path)!r}: {why_no_file(Path(path))}")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"{who}: ca {str(ca)!r} holds no PEM certificate: {exc}") from exc
    if cert:
        try:
            # an encrypted key would otherwise ask at the terminal
            context.load_cert_chain(cert, key, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"{who}: cert {str(cert)!r} and key {str(key or cert)!r} are not a matching, "
                f"unencrypted PEM pair: {exc}"
            ) from exc
    if alpn:
        try:
            context.set_alpn_protocols([name.strip() for name in alpn.split(",")])
        except (ssl.SSLError, ValueError, UnicodeError) as exc:
            raise ConfigError(f"{who}: alpn {alpn!r}: expected names such as mqtt ({exc})") from exc
    return context
