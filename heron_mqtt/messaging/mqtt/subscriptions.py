"""Which topic filters to hold at the MQTT broker: as few as cover everything that is wanted.

A broker may deliver a message once for each filter that matches it. Foreign messages carry nothing to
recognise such copies by, so a filter that another one covers is not subscribed to beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from heron_mqtt.messaging.topics import is_filter


@dataclass(slots=True)
class SubscriptionChange:
    """What to tell the broker, in this order."""

    subscribe: list[str] = field(default_factory=list)
    unsubscribe: list[str] = field(default_factory=list)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic under the filter ``narrow`` is also under ``wide``."""
    want, have = _levels(wide), _levels(narrow)
    if have[0].startswith("$") and want[0] in {"+", "#"}:
        return False
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i == 0 and have == ("#",) and want == ("+", "#"):
            return True  # the same topics: every one has a first level
        if i >= len(have) or have[i] == "#" or level not in {"+", have[i]}:
            return False
    return len(want) == len(have)


@functools.lru_cache(maxsize=10_000)
def _levels(topic_filter: str) -> tuple[str, ...]:
    return tuple(topic_filter.split("/"))


class BrokerSubscriptions:
    """The filters held at the broker.

    Args:
        wanted: Returns every topic filter with a subscription here.
    """

    def __init__(self, wanted: Callable[[], Iterable[str]]) -> None:
        self._wanted = wanted
        self._held: set[str] = set()
        self._wide: set[str] = set()  # those of them with wildcards
        self._refused: set[str] = set()

    def add(self, topic_filter: str) -> str:
        """Return the filter to subscribe to, so that ``topic_filter`` is covered.

        It may be one that is held already: subscribing again brings its retained messages again.
        """
        cover = self._cover(topic_filter)
        if cover is None:
            self._hold(topic_filter)
            return topic_filter
        return cover

    def accepted(self, topic_filter: str) -> SubscriptionChange:
        """The broker granted a filter: filters that it covers are no longer needed."""
        if not is_filter(topic_filter) or topic_filter not in self._held:
            return SubscriptionChange()
        covered = [f for f in self._held if f != topic_filter and covers(topic_filter, f)]
        for f in covered:
            self._drop(f)
        return SubscriptionChange(unsubscribe=covered)

    def refused(self, topic_filter: str) -> SubscriptionChange:
        """The broker refused a filter: what it would have covered must be held by itself."""
        self._drop(topic_filter)
        self._refused.add(topic_filter)
        return SubscriptionChange(subscribe=self._missing())

    def removed(self, topic_filter: str) -> SubscriptionChange:
        """A filter has no subscription any more."""
        self._refused.discard(topic_filter)
        if topic_filter not in self._held:
            return SubscriptionChange()
        self._drop(topic_filter)
        missing = self._missing() if is_filter(topic_filter) else []
        return SubscriptionChange(subscribe=missing, unsubscribe=[topic_filter])

    def restart(self) -> SubscriptionChange:
        """A new connection holds nothing: subscribe to everything that is wanted."""
        self._held.clear()
        self._wide.clear()
        self._refused.clear()
        return SubscriptionChange(subscribe=self._missing())

    def _missing(self) -> list[str]:
        fresh = []
        missing = [f for f in set(self._wanted()) if f not in self._held and f not in self._refused]
        # wide ones first, so that they cover the others
        for f in sorted(missing, key=lambda f: (not is_filter(f), f.count("/"), not f.endswith("#"), f)):
            if self._cover(f) is None:
                self._hold(f)
                fresh.append(f)
        return fresh

    def _cover(self, topic_filter: str) -> str | None:
        if topic_filter in self._held:
            return topic_filter
        return next((f for f in self._wide if covers(f, topic_filter)), None)

    def _hold(self, topic_filter: str) -> None:
        self._refused.discard(topic_filter)
        self._held.add(topic_filter)
        if is_filter(topic_filter):
            self._wide.add(topic_filter)

    def _drop(self, topic_filter: str) -> None:
        self._held.discard(topic_filter)
        self._wide.discard(topic_filter)
