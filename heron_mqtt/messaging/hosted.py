"""HostedBroker: an embedded broker of one's own, and a connection to it, in one object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker


class HostedBroker(MqttBroker):
    """An ``MqttBroker`` that starts the MQTT broker it connects to, and ends it when it is closed.

    Others connect to ``url``, once it is connected. Connect it: it cannot start by itself.

    Args:
        on_exit: Called in the event loop with one line if the broker's process ends unexpectedly.
        options: As of ``MqttBroker``.
    """

    def __init__(self, *, on_exit: Callable[[str], None] | None = None, **options: Any) -> None:
        super().__init__("mqtt://127.0.0.1", **options)
        self._owner_loop.starts_by_itself = False
        self.url = ""
        """``mqtt://host:port`` once connected."""
        # Told what this connection says: the environment alone does not know of an option, or a scenario's.
        self._server = EmbeddedBroker(topic_prefix=self.options.topic_prefix, on_exit=on_exit)

    async def _open(self) -> None:
        if not self.url:
            await self._server.start()
            self.url = self._server.url
            self._session.move(self._server.host, self._server.port)
            self.options = self._session.options
        await super()._open()

    async def _abort_open(self) -> None:
        await super()._abort_open()
        await self._server.close()

    async def _shut(self, *exc: object) -> None:
        await super()._shut(*exc)
        await self._server.close()
