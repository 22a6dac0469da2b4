"""mosquitto_sub and mosquitto_pub: clients that share no line of code with ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.heron_command import Program, until


@dataclass(frozen=True, slots=True)
class Seen:
    """One message as an independent subscriber got it."""

    topic: str
    qos: int
    retained: bool
    payload: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.payload)
        assert isinstance(found, dict), self
        return found


def need_clients() -> None:
    """Skip a test where they are not installed."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed (Debian: apt install mosquitto-clients)")


class Watcher(Program):
    """mosquitto_sub on a filter, in force once it is made."""

    def __init__(self, url: str, topic_filter: str = "heron/#") -> None:
        need_clients()
        # a retained message of our own comes back after all others: everything is in force
        mark = f"heron-test/{uuid.uuid4().hex}"
        publish(url, mark, "{}", retain=True)
        filters = ["-t", topic_filter, "-t", mark]
        super().__init__(["mosquitto_sub", *_address(url), "-q", "1", "-F", "%q %r %t %p", *filters])
        until(lambda: any(mark in line for line in self.out), f"the subscription to {topic_filter}")
        publish(url, mark, "", retain=True)
        self._mark = mark

    @property
    def seen(self) -> list[Seen]:
        """Everything so far, in order."""
        return self._seen(list(self.out))

    def _seen(self, lines: Iterable[str]) -> list[Seen]:
        found = []
        for line in lines:
            qos, retained, topic, payload = line.rstrip("\n").split(" ", 3)
            if topic != self._mark:
                found.append(Seen(topic, int(qos), retained == "1", payload))
        return found

    def wait_seen(
        self, topic: str, accept: Callable[[dict[str, Any]], object] = lambda _: True, within_s: float = 30.0
    ) -> dict[str, Any]:
        """Return the first message on a topic that is accepted."""
        found: list[dict[str, Any]] = []
        looked_at = 0

        def look() -> bool:
            nonlocal looked_at
            lines = self.out[looked_at:]
            looked_at += len(lines)
            on_topic = (s.json for s in self._seen(lines) if s.topic == topic and s.payload)
            found.extend(message for message in on_topic if accept(message))
            return bool(found)

        until(
            look, f"a message on {topic} (seen: {[s for s in self.seen if s.topic == topic][-3:]})", within_s
        )
        return found[0]

    def latest(self, topic: str) -> dict[str, Any] | None:
        """Return the newest message on a topic."""
        for line in reversed(list(self.out)):
            for seen in self._seen([line]):
                if seen.topic == topic:
                    return seen.json
        return None


def publish(url: str, topic: str, payload: str | dict[str, Any], *, retain: bool = False) -> None:
    """Publish with mosquitto_pub, at QoS 1."""
    need_clients()
    text = payload if isinstance(payload, str) else json.dumps(payload)
    message = ["-n"] if text == "" else ["-m", text]
    flags = ["-r"] if retain else []
    subprocess.run(
        ["mosquitto_pub", *_address(url), "-q", "1", "-t", topic, *message, *flags], check=True, timeout=20
    )


def retained(url: str, topic_filter: str = "heron/#") -> dict[str, dict[str, Any]]:
    """Return what a late subscriber is told, by topic."""
    with Watcher(url, topic_filter) as watcher:
        return {s.topic: s.json for s in watcher.seen if s.retained and s.payload}


def _address(url: str) -> list[str]:
    parts = urlsplit(url)
    login = ["-u", parts.username, "-P", parts.password or ""] if parts.username else []
    return ["-h", parts.hostname or "", "-p", str(parts.port), *login]
