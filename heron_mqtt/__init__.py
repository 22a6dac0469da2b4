"""MQTT hardware-in-the-loop gateway for multi-agent microgrid control.

It has the names that most programs need. Each is imported when it is first used, so that a device script
can import this package at no cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heron_mqtt.agents import Agent, Proxy, SystemOperator
    from heron_mqtt.errors import HeronError
    from heron_mqtt.field.device import FieldDevice
    from heron_mqtt.messaging.base import MessageBroker
    from heron_mqtt.messaging.embedded import EmbeddedBroker
    from heron_mqtt.messaging.impaired import ImpairedBroker
    from heron_mqtt.messaging.memory import InMemoryBroker
    from heron_mqtt.messaging.mqtt import MqttBroker

    __version__: str

__all__ = [
    "Agent",
    "EmbeddedBroker",
    "FieldDevice",
    "HeronError",
    "ImpairedBroker",
    "InMemoryBroker",
    "MessageBroker",
    "MqttBroker",
    "Proxy",
    "SystemOperator",
    "__version__",
]

_MODULES = {
    "Agent": "heron_mqtt.agents",
    "EmbeddedBroker": "heron_mqtt.messaging.embedded",
    "FieldDevice": "heron_mqtt.field.device",
    "HeronError": "heron_mqtt.errors",
    "ImpairedBroker": "heron_mqtt.messaging.impaired",
    "InMemoryBroker": "heron_mqtt.messaging.memory",
    "MessageBroker": "heron_mqtt.messaging.base",
    "MqttBroker": "heron_mqtt.messaging.mqtt",
    "Proxy": "heron_mqtt.agents",
    "SystemOperator": "heron_mqtt.agents",
}


def __getattr__(name: str) -> Any:
    """Import a name, or look the version up, when it is first used."""
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("heron-mqtt")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0+unknown"
