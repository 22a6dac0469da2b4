"""ForwardingBroker: what brokers share whose server hands messages on, and keeps none for who comes later."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from heron_mqtt.errors import UnsupportedFeature
from heron_mqtt.messaging.base import Delivery, Features
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.mqtt.session import MakeConnection, MqttSession
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from heron_mqtt.messaging.topics import TopicMap

__all__ = ["ForwardingBroker"]


class ForwardingBroker(SessionBroker):
    """A server without retained messages and wills: safety depends on these, so it is reported.

    Args:
        options: Where it is and how to log in.
        topics: Where channels live.
        make_connection: Makes a connection to it.
        max_pending: Messages that may wait to be sent.
        patience_s: How long the first connection is tried for without an answer; 0 = once.
        rng: Jitters the delays of reconnecting.

    Attributes:
        keeps_nothing: Why it takes no ``retain``, for the error.
    """

    features: ClassVar[Features] = Features(wildcards=True, external=True)
    keeps_nothing: ClassVar[str]

    def __init__(
        self,
        options: MqttOptions,
        topics: TopicMap,
        make_connection: MakeConnection,
        *,
        max_pending: int,
        patience_s: float,
        rng: random.Random | None,
    ) -> None:
        super().__init__(f"the {type(self).__name__} of {options.address}", options, topics)
        self._session = MqttSession(
            options,
            self,
            self.stats,
            will=None,
            wanted=self._wanted_filters,
            rng=rng or random.Random(),  # noqa: S311 - spreads reconnections, nothing secret
            max_pending=max_pending,
            patience_s=patience_s,
            make_connection=make_connection,
        )

    def publish(
        self,
        channel: str,
        message: Mapping[str, Any],
        *,
        retain: bool = False,
        not_after: float | None = None,
    ) -> Delivery:
        """Publish a JSON object; see ``MessageBroker.publish``.

        Returns:
            Done when the server has confirmed it.

        Raises:
            UnsupportedFeature: ``retain``.
        """
        if retain:
            raise UnsupportedFeature(f"{type(self).__name__}.publish takes no 'retain': {self.keeps_nothing}")
        return self._publish(channel, message, encode(message), 1, False, not_after)
