"""MessageStats: a broker that has done nothing has counted nothing."""

from __future__ import annotations

import logging
from dataclasses import asdict

import pytest

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


@pytest.mark.parametrize("is_trial", [False, True])
def test_what_goes_wrong_in_a_trial_is_reported_and_no_warning(
    is_trial: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stats = MessageStats(is_trial=is_trial)
    caplog.set_level(logging.INFO, "heron_mqtt.messaging")
    stats.report("connection", "mqtt://127.0.0.1:1", "connection lost")
    assert len(stats.reports) == 1
    assert [record.levelname for record in caplog.records] == ["INFO" if is_trial else "WARNING"]
    assert "is_trial" not in stats.counts()
