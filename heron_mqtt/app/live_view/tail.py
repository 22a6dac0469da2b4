"""The newest messages, as they came."""

from __future__ import annotations

import json
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from heron_mqtt.app.operator_client.observer import Heard

Json = dict[str, Any]

MESSAGES = 500
PAYLOAD = 2_000  # characters of a message that are shown


class MessageTail:
    """Keeps the newest messages, numbered; they become text when somebody looks, not before."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, float, Heard]] = deque(maxlen=MESSAGES)
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, heard: Heard) -> None:
        """Keep one message."""
        self._number += 1
        self._kept.append((self._number, time.time(), heard))

    def newer(self, than: int, containing: str = "", limit: int = MESSAGES) -> list[Json]:
        """Return the newest messages that came after a number, oldest first, at most ``limit``.

        Args:
            than: A number.
            containing: What environment and channel contain.
            limit: How many at most.
        """
        found: list[Json] = []
        for number, at, heard in reversed(self._kept):
            if number <= than or len(found) >= limit:
                break
            if containing in f"{heard.env_id}/{heard.channel}":
                found.append(_as_json(number, at, heard))
        return found[::-1]

    @property
    def newest(self) -> int:
        """Number of the newest message; 0 = there was none."""
        return self._number


def _as_json(number: int, at_s: float, heard: Heard) -> Json:
    text = heard.malformed if heard.fields is None else json.dumps(heard.fields, ensure_ascii=False)
    return {
        "n": number,
        "at": datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds"),
        "env_id": heard.env_id,
        "channel": heard.channel,
        "retained": heard.retained,
        "readable": heard.malformed is None,
        "text": (text or "")[:PAYLOAD],
    }
