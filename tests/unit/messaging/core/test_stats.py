"""MessageStats: a broker that has done nothing has counted nothing."""

from __future__ import annotations

from dataclasses import asdict

from heron_mqtt.messaging.core.stats import MessageStats


def test_a_new_broker_has_counted_nothing() -> None:
    counts = {name: value for name, value in asdict(MessageStats()).items() if isinstance(value, int)}
    assert counts == dict.fromkeys(counts, 0)
    assert {
        "published",
        "received",
        "lost",
        "duplicated",
        "rejected",
        "undelivered",
        "expired",
    } <= counts.keys()
