"""``open_broker(url)``: which class carries messages for which URL. A kind of broker is a class and a line.

=============  ==================================================================
URL            broker
=============  ==================================================================
``mqtt://``    ``MqttBroker``; ``mqtts://`` with TLS, ``ws://``, ``wss://`` over WebSocket
``memory``     ``InMemoryBroker``; nothing can connect from outside
``embedded``   ``HostedBroker``: an embedded broker of its own, and a connection to it
``nats://``    ``NatsBroker``; ``nats+tls://`` with TLS; agents only, no hardware
``kafka://``   ``KafkaBroker``; ``kafka+tls://`` with TLS; agents only, no hardware
=============  ==================================================================

A scheme of your own::

    register_scheme("log", lambda url, **options: LogBroker(connect(url)))
    broker = open_broker("log://localhost")
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.settings import variable_of
from heron_mqtt.messaging.urls import DEFAULT_PORTS, KAFKA_PORTS, NATS_PORTS, lacks_scheme, without_login

__all__ = ["BrokerScheme", "open_broker", "register_scheme", "scheme_names", "scheme_of", "without_login"]

MQTT_ONLY = (
    "outbox", "outbox_max_mb", "outbox_max_age_s", "client_id", "clean_start", "session_expiry_s", "alpn",
    "protocol", "topic_prefix",
)  # fmt: skip
"""Settings that say nothing to a broker of another kind."""

Factory = Callable[..., MessageBroker]
"""Called with the URL and, by name, with ``env_id`` and whatever else ``open_broker`` was given."""


@dataclass(frozen=True, slots=True)
class BrokerScheme:
    """One kind of URL.

    Attributes:
        name: What stands before ``://``, or the whole URL where there is nothing else to say.
        make: Makes the broker, not connected.
        is_external: Whether other processes can take part, as MQTT clients.
        is_address: Whether the URL says where a broker is that others use, too.
        lacks: What safety depends on and is not there, as a sentence; empty = nothing. No hardware, and no
            agent elsewhere, takes part over such a broker.
    """

    name: str
    make: Factory
    is_external: bool = False
    is_address: bool = False
    lacks: str = ""


_SCHEMES: dict[str, BrokerScheme] = {}


def register_scheme(
    name: str, make: Factory, *, is_external: bool = False, is_address: bool = False, lacks: str = ""
) -> BrokerScheme:
    """Let ``open_broker`` make brokers for ``name`` and ``name://...``; one that was there is replaced.

    Args:
        name: Lower-case letters, digits, ``+ - .``
        make: Called with the URL, ``env_id`` and the options; returns a broker that is not connected.
        is_external: Whether other processes can take part, as MQTT clients.
        is_address: Whether the URL says where a broker is that others use, too.
        lacks: What safety depends on and is not there, as a sentence; see ``BrokerScheme``.

    Raises:
        ValueError: The name is not one of a URL.
    """
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", name):
        raise ValueError(f"scheme {name!r}: expected a lower-case name such as 'mqtt'")
    _SCHEMES[name] = BrokerScheme(name, make, is_external, is_address, lacks)
    return _SCHEMES[name]


def scheme_names() -> list[str]:
    """Return the names that ``open_broker`` knows."""
    return sorted(_SCHEMES)


def scheme_of(url: str) -> BrokerScheme:
    """Return the kind of a URL.

    Raises:
        ConfigError: There is no such kind; says which there are.
    """
    name = url.partition("://")[0].lower()
    scheme = _SCHEMES.get(name)
    if scheme is not None:
        return scheme
    if lacks_scheme(url):
        hint = f"; did you mean mqtt://{without_login(url)}?"
    else:
        close = difflib.get_close_matches(name, _SCHEMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"broker {without_login(url)}: expected embedded, memory or mqtt://host:port{hint}")


def open_broker(
    url: str, *, env_id: str = "default", at_address: bool = False, **options: Any
) -> MessageBroker:
    """Return the broker that a URL names, not connected yet: use it as a context manager, or ``connect``.

    Args:
        url: ``mqtt://[user:password@]host[:port]``, ``mqtts://``, ``ws://``, ``wss://``, ``memory``,
            ``embedded``, or one of a registered scheme.
        env_id: The environment; second level of the topics.
        at_address: Refuse a broker that other programs cannot use (``memory``, ``embedded``), and one without
            a function that safety depends on.
        options: What the broker of that kind takes beside, by name (``MqttBroker``: ``ca``, ``will``, ...).

    Raises:
        ConfigError: The URL or an option is wrong.
    """
    scheme = scheme_of(url)
    if at_address and not scheme.is_address:
        raise ConfigError(f"broker {without_login(url)}: it has no other clients; expected mqtt://host:port")
    if at_address and scheme.lacks:
        raise ConfigError(f"broker {without_login(url)}: {scheme.lacks}; use mqtt://host:port")
    return scheme.make(url, env_id=env_id, **options)


def _make_mqtt(url: str, **options: Any) -> MessageBroker:
    from heron_mqtt.messaging.mqtt import MqttBroker  # paho takes its time

    return MqttBroker(url, **{"lasting": True, **options})


def _make_nats(url: str, **options: Any) -> MessageBroker:
    from heron_mqtt.messaging.nats import NatsBroker

    _refuse_settings(url, MQTT_ONLY, options)
    return NatsBroker(url, **options)


def _make_kafka(url: str, **options: Any) -> MessageBroker:
    from heron_mqtt.messaging.kafka import KafkaBroker

    _refuse_settings(url, (*MQTT_ONLY, "server_name"), options)
    return KafkaBroker(url, **options)


def _make_memory(url: str, *, env_id: str, **options: Any) -> MessageBroker:
    from heron_mqtt.messaging.memory import InMemoryBroker

    _nothing_behind(url, "memory")
    _refuse_settings(url, ("outbox",), options)
    if options:
        raise ConfigError(f"broker memory: takes no {', '.join(options)}")
    return InMemoryBroker()


def _make_embedded(url: str, **options: Any) -> MessageBroker:
    from heron_mqtt.messaging.hosted import HostedBroker

    _nothing_behind(url, "embedded")
    return HostedBroker(**{"lasting": True, **options})


def _nothing_behind(url: str, name: str) -> None:
    if url not in {name, f"{name}://"}:
        raise ConfigError(f"broker {without_login(url)}: {name} takes no address; expected just {name}")


def _refuse_settings(url: str, names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse what is set in environment or scenario and that a broker of this kind does nothing about."""
    for name in names:
        value = os.environ.get(variable_of(name)) or (options.get("defaults") or {}).get(name)
        if value:
            raise ConfigError(
                f"{name} {value}: broker {without_login(url)} has none; use mqtt://, or leave it out"
            )


for _name in DEFAULT_PORTS:
    register_scheme(_name, _make_mqtt, is_external=True, is_address=True)
register_scheme("memory", _make_memory)
register_scheme("embedded", _make_embedded, is_external=True)
for _ports, _make, _what in ((NATS_PORTS, _make_nats, "core NATS"), (KAFKA_PORTS, _make_kafka, "Kafka")):
    for _name in _ports:
        register_scheme(
            _name,
            _make,
            is_address=True,
            lacks=f"{_what} keeps no message for clients that connect later and no last will, so an "
            "emergency stop or the end of a run could be missed",
        )
