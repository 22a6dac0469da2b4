"""Stamps what one sender publishes with the metadata of the wire contract."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from heron_mqtt.messages import Message, fields_of
from heron_mqtt.messaging.codec import LAST_STAMPED, Json

NEVER = datetime.min.replace(tzinfo=UTC)
SECOND = timedelta(seconds=1)
TO_THE_SECOND = len("2026-01-01T00:00:00")
NOTHING: Json = {}
MAX_SAID = 8  # messages whose fields are remembered
MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))


utc_now: Callable[[], datetime] = functools.partial(datetime.now, UTC)
"""Return the time, UTC; asked once a message, so without a frame of our own."""


def utc_text(moment: datetime, timespec: str = "auto") -> str:
    """Return a time in UTC as messages carry it: ISO 8601 with a ``Z``.

    Args:
        moment: In UTC; another time zone keeps its offset.
        timespec: To what it is cut, as in ``datetime.isoformat``.
    """
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def new_boot() -> str:
    """Return an identifier for one start of a sender; two starts never share one."""
    return secrets.token_hex(4)


class _SystemTime:
    """The system's time as a stamp says it, for all stampers of a process.

    It is read without making a moment of it, which takes as long as all else of a stamp. Those of one step
    say the same millisecond more often than not.
    """

    def __init__(self) -> None:
        # From and until when it holds, ns since 1970, and the text; in one, as any thread may stamp
        self.last = 0, 0, ""
        self._second = -1, ""

    def text(self) -> str:
        """Return the time, UTC, to the millisecond."""
        now_ns = time.time_ns()
        begins_ns, ends_ns, text = self.last
        if begins_ns <= now_ns < ends_ns:
            return text
        now_ms = now_ns // 1_000_000
        second, ms = divmod(now_ms, 1_000)
        of_second, begins = self._second
        if of_second != second:
            begins = datetime.fromtimestamp(second, UTC).isoformat()[:TO_THE_SECOND]
            self._second = second, begins
        text = begins + MILLISECONDS[ms]
        self.last = now_ms * 1_000_000, (now_ms + 1) * 1_000_000, text
        return text


_system_time = _SystemTime()


@functools.cache
def _is_flat(model: type[Message]) -> bool:
    """Whether all that such a message says itself is texts and numbers: strict models hold nothing else."""
    own = (field.annotation for name, field in model.model_fields.items() if name != "sent_at")
    return model.model_config.get("extra") != "allow" and all(map(_is_plain, own))


def _is_plain(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return {str, int, bool}.issuperset(map(type, get_args(annotation)))
    if get_origin(annotation) is Annotated:
        return _is_plain(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return all(map(_is_plain, get_args(annotation)))
    return annotation in {str, int, float, bool, NoneType}


class MessageStamper:
    """One sender's sequence numbers, one row a channel.

    Args:
        sender: Who publishes.
        env_id: The environment it belongs to.
        boot: Identifies this start of the sender.
        now: The clock, UTC.
    """

    def __init__(
        self,
        sender: str,
        env_id: str,
        *,
        boot: str | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.sender = sender
        self.env_id = env_id
        self.boot = boot or new_boot()
        self._now = now
        self._next: dict[str, int] = {}
        self._reads_system = now is utc_now
        # Of the last stamp, since most have the same second.
        self._second_begins = self._second_ends = NEVER
        self._second_text = ""
        self._said: dict[int, tuple[Message, Json, Json]] = {}  # by id: they are held, so no other has it

    def next_seq(self, channel: str) -> int:
        """Return the number that the next message on a channel will carry."""
        return self._next.get(channel, 0)

    def stamp(
        self,
        channel: str,
        message: Message | Json,
        *,
        episode: int | None = None,
        step: int | None = None,
    ) -> Json:
        """Return the message as the JSON object to publish on ``channel``, and count it.

        Args:
            channel: Where it will be published.
            message: A model, or the fields of one that are known to be right.
            episode: It belongs to.
            step: It belongs to.
        """
        if isinstance(message, dict):
            stamped, unknown = message.copy(), message
        else:
            # what is said to many peers, or in many steps, is dumped once: messages never change
            _, fields, unknown = self._said.get(id(message)) or self._dumped(message)
            stamped = fields.copy()
        seq = self._next.get(channel, 0)
        self._next[channel] = seq + 1
        # metadata of the message's own goes behind what it says, too
        if "episode" in stamped or "step" in stamped:
            own_episode, own_step = stamped.pop("episode", None), stamped.pop("step", None)
            episode = own_episode if episode is None else episode
            step = own_step if step is None else step
        if episode is not None:
            stamped["episode"] = episode
        if step is not None:
            stamped["step"] = step
        stamped["sender"] = self.sender
        stamped["env_id"] = self.env_id
        stamped["seq"] = seq
        stamped["boot"] = self.boot
        if self._reads_system:  # as ``_SystemTime.text``, without its call where it is the same millisecond
            begins_ns, ends_ns, text = _system_time.last
            stamped["sent_at"] = text if begins_ns <= time.time_ns() < ends_ns else _system_time.text()
        else:
            stamped["sent_at"] = self._sent_at()
        LAST_STAMPED.made = stamped, unknown, len(stamped)
        return stamped

    def _dumped(self, message: Message) -> tuple[Message, Json, Json]:
        """Remember a message with its fields, and those of them that may be anything."""
        if len(self._said) >= MAX_SAID:
            self._said.clear()
        fields = fields_of(message)
        said = self._said[id(message)] = message, fields, NOTHING if _is_flat(type(message)) else fields
        return said

    def presence(self, message: Message, *, episode: int | None = None) -> Json:
        """Return the message to be announced: without a number, because it may be repeated."""
        stamped = self._from_us(message)
        if episode is not None:
            stamped["episode"] = episode
        stamped["boot"] = self.boot
        stamped["sent_at"] = self._sent_at()
        return stamped

    def _sent_at(self) -> str:
        if self._reads_system:
            return _system_time.text()
        now = self._now()
        if not self._second_begins <= now < self._second_ends:
            begins = now.astimezone(UTC).replace(microsecond=0)
            self._second_begins, self._second_ends = begins, begins + SECOND
            self._second_text = begins.isoformat()[:TO_THE_SECOND]
        return self._second_text + MILLISECONDS[now.microsecond // 1000]

    def will(self, message: Message) -> Json:
        """Return the message as a last will: without time, as it is published later.

        With its boot: the will of one that is gone must not speak for the one that followed it.
        """
        return {**self._from_us(message), "boot": self.boot}

    def _from_us(self, message: Message) -> Json:
        stamped = message.model_dump(exclude_none=True)
        stamped["sender"] = self.sender
        stamped["env_id"] = self.env_id
        return stamped
