"""Topics as NATS subjects, and which of several subscriptions brings a message.

A topic becomes the subject that the MQTT server inside NATS makes of it, so that MQTT clients of the same
server see the same topics. Levels become tokens, a ``.`` becomes ``//``, an empty level ``/``. What a subject
cannot hold (white space, and ``*`` and ``>``, which are wildcards there) is written ``%!`` and two
hexadecimal digits.
"""

from __future__ import annotations

import functools
import re

MAX_SUBJECT_BYTES = 2_000  # the server ends a connection that sends a control line of more than 4,096
MAX_ROUTES = 10_000

_TO_ESCAPE = re.compile(r"[ \t\r\n\f\v*>]|%(?=!)")
_ESCAPED = re.compile(r"%!([0-9A-F]{2})")


@functools.lru_cache(maxsize=10_000)
def subject_of(topic: str) -> str:
    """Return the subject of a topic."""
    return ".".join(_token(level) for level in topic.split("/"))


@functools.lru_cache(maxsize=10_000)
def topic_of(subject: str) -> str:
    """Return the topic that ``subject_of`` turned into ``subject``."""
    return "/".join(_level(token) for token in subject.split("."))


def subjects_of(topic_filter: str) -> tuple[str, ...]:
    """Return the subjects to subscribe to for everything under a topic filter.

    Two where the filter ends in ``#``: that takes in the level above, which ``>`` does not.
    """
    levels = topic_filter.split("/")
    tokens = ["*" if level == "+" else ">" if level == "#" else _token(level) for level in levels]
    if levels[-1] != "#" or len(levels) == 1:
        return (".".join(tokens),)
    return (".".join(tokens[:-1]), ".".join(tokens))


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject lies under a pattern with wildcards, by the rules of NATS."""
    want, have = pattern.split("."), subject.split(".")
    for i, level in enumerate(want):
        if level == ">":
            return i < len(have)
        if i >= len(have) or level not in {"*", have[i]}:
            return False
    return len(want) == len(have)


class SubscriptionTable:
    """The subscriptions of one connection, by number, and which one brings a message.

    A server sends a message once for each subscription that matches it. The copy of the oldest one counts:
    a message that was on its way when a newer subscription was made has only that copy. While a subscription
    ends, until the server has confirmed it, it is not known which copies there are: all of them count then
    (at least once).
    """

    def __init__(self) -> None:
        self._exact: dict[str, list[int]] = {}  # by subject, the oldest first
        self._wide: dict[int, str] = {}  # by number, which rises
        self._ending: dict[int, str] = {}
        self._routes: dict[str, int | None] = {}

    def add(self, number: int, pattern: str) -> None:
        """A subscription was asked for."""
        if _is_wide(pattern):
            self._wide[number] = pattern
        else:
            self._exact.setdefault(pattern, []).append(number)
        self._routes.clear()

    def end(self, number: int, pattern: str) -> None:
        """A subscription is about to end."""
        self._ending[number] = pattern
        if _is_wide(pattern):
            self._wide.pop(number, None)
        else:
            held = self._exact[pattern]
            held.remove(number)
            if not held:
                del self._exact[pattern]
        self._routes.clear()

    def remove(self, number: int) -> None:
        """A subscription has ended, and nothing of it is on its way any more."""
        self._ending.pop(number, None)

    def brings(self, number: int, subject: str) -> bool:
        """Whether the copy that came for a subscription counts."""
        if number in self._ending:
            return True
        if subject not in self._routes:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[subject] = self._oldest(subject)
        return self._routes[subject] == number

    def _oldest(self, subject: str) -> int | None:
        exact = self._exact.get(subject, [None])[0]
        for number, pattern in self._wide.items():
            if exact is not None and number > exact:
                break
            if matches(pattern, subject):
                return number
        return exact


def _is_wide(pattern: str) -> bool:
    return any(level in {"*", ">"} for level in pattern.split("."))


def _token(level: str) -> str:
    if not level:
        return "/"
    escaped = _TO_ESCAPE.sub(lambda m: f"%!{ord(m[0]):02X}", level)
    return escaped.replace(".", "//")


def _level(name: str) -> str:
    if name == "/":
        return ""
    return _ESCAPED.sub(lambda m: chr(int(m[1], 16)), name.replace("//", "."))
