"""The network of one environment and the newest results of its power flow, as they were published."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.json_object import Json
from heron_mqtt.messages import GridResults, Message, NetworkModel, parse

MAX_BUSES = 3_000
_METADATA = {*Message.model_fields, "type"}


class GridLive:
    """What is known of the grid."""

    def __init__(self) -> None:
        self.network: Json | None = None
        self.number = 0
        """Of the network; another one has another number."""
        self.results: Json | None = None

    def note(self, levels: list[str], fields: Mapping[str, Any]) -> None:
        """Take one message; what cannot be read, or is too large, is left out."""
        with contextlib.suppress(MessageError):
            if levels == ["run", "network"]:
                network = parse(NetworkModel, fields).model_dump(mode="json", exclude=_METADATA)
                if len(network["bus"]) <= MAX_BUSES and network != self.network:
                    self.network, self.number = network, self.number + 1
            elif levels == ["run", "grid"]:
                results = parse(GridResults, fields)
                if len(results.vm_pu) <= MAX_BUSES:
                    self.results = {
                        **results.model_dump(mode="json", exclude=_METADATA),
                        "step": results.step,
                        "episode": results.episode,
                    }
