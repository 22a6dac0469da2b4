"""What messages may hold of themselves: ``{now}``, ``{counter}``, ``{uid}``, or ``{now:unix_ms}``."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from heron_mqtt.messaging.stamping import utc_text

BUILT_INS = re.compile(r"\{(now|counter|uid)(?::([^{}]*))?\}")
NAMES = frozenset({"now", "counter", "uid"})
MAX_COUNTER = 1 << 31


class BuiltIns:
    """Gives each message its time, number and identifier.

    Args:
        utc_s: The time of day, s since 1970, UTC.
        new_id: Returns a text that is used once.
        start: The counter before the first message.
    """

    def __init__(
        self,
        utc_s: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        start: int = 0,
    ) -> None:
        self._utc_s = utc_s
        self._new_id = new_id
        self._counter = start
        self._uid = ""

    def begin_message(self) -> None:
        """Count on, and take a new identifier: all that follow are of one message."""
        self._counter = (self._counter + 1) % MAX_COUNTER
        self._uid = self._new_id()

    def new_uid(self) -> str:
        """Return a text that is used once."""
        return self._new_id()

    def value(self, name: str, form: str | None) -> int | float | str:
        """Return one of ``NAMES``, in a format that ``problem`` has nothing against."""
        if name == "counter":
            return self._counter % int(form) if form else self._counter
        if name == "uid":
            return self._uid[: int(form)] if form else self._uid
        now = self._utc_s()
        match form:
            case None | "" | "unix_s":
                return int(now)
            case "unix_ms":
                return int(now * 1000.0)
            case "iso8601":
                return utc_text(datetime.fromtimestamp(now, UTC), "seconds")
        return datetime.fromtimestamp(now, UTC).strftime(form)


def problem(name: str, form: str | None) -> str | None:
    """Return what is wrong with the format of a built-in name; None = nothing."""
    if not form:
        return None
    if name in {"counter", "uid"}:
        highest = 32 if name == "uid" else MAX_COUNTER
        if form.isascii() and form.isdigit() and 1 <= int(form) <= highest:
            return None
        what = "how many characters, 1 to 32" if name == "uid" else "where to begin again, as {counter:256}"
        return f"{{{name}:{form}}}: expected {what}"
    if form in {"unix_s", "unix_ms", "iso8601"} or "%" in form:
        return None
    return (
        f"{{now:{form}}}: expected unix_s, unix_ms, iso8601 or a format of strftime such as %Y-%m-%d %H:%M:%S"
    )
