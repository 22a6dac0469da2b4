"""The newest messages, as they came."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.json_object import Json

MESSAGES = 500
PAYLOAD = 2_000  # characters of a message that are shown


class MessageTail:
    """Keeps the newest messages, numbered; they become text when they are shown, not before."""

    def __init__(self) -> None:
        # when each came, UNIX time, s; what makes a message of the payload; payload, and when by the loop
        self._kept: deque[tuple[float, Callable[[bytes, float], Heard] | Heard, bytes, float]] = deque(
            maxlen=MESSAGES
        )
        self.newest = 0
        """Number of the newest message; 0 = there was none."""

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, heard: Heard) -> None:
        """Keep one message."""
        self.newest += 1
        self._kept.append((time.time(), heard, b"", 0.0))

    def note_payload(
        self, heard: Callable[[bytes, float], Heard], payload: bytes, at_s: float, unix_s: float
    ) -> None:
        """Keep what becomes a message only if it is shown.

        Args:
            heard: Makes a message of the payload and ``at_s``.
            payload: Of the message.
            at_s: When it came, by the loop's clock.
            unix_s: The same as UNIX time.
        """
        self.newest += 1
        self._kept.append((unix_s, heard, payload, at_s))

    def newer(self, than: int, containing: str = "", limit: int = MESSAGES) -> list[Json]:
        """Return the newest messages that came after a number, oldest first, at most ``limit``.

        Args:
            than: A number.
            containing: What environment and channel contain.
            limit: How many at most.
        """
        found: list[Json] = []
        for number, (unix_s, kept, payload, at_s) in zip(
            range(self.newest, than, -1), reversed(self._kept), strict=False
        ):
            if len(found) >= limit:
                break
            heard = kept if isinstance(kept, Heard) else kept(payload, at_s)
            if containing in f"{heard.env_id}/{heard.channel}":
                found.append(_as_json(number, unix_s, heard))
        return found[::-1]


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
