"""StopSignals: a gateway hears stops, confirms them, and says them again to a broker that forgot."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from heron_mqtt.field.gateway.stop_signals import StopSignals
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import OpenMemoryBroker

STOP: dict[str, Any] = {"type": "estop", "active": True, "who": "ann", "why": "fire", "boot": "o1", "seq": 4}


class Listening:
    def __init__(self) -> None:
        self.broker = OpenMemoryBroker()
        self.changes: list[bool] = []
        self.confirmed: list[dict[str, Any]] = []
        self.signals = StopSignals(
            "MG1",
            self.broker,
            MessageStamper("MG1", "env"),
            "env",
            lambda: self.changes.append(self.signals.estop is not None),
        )
        self.broker.subscribe(topics.stop_confirm("MG1"), self.confirmed.append)

    def say(self, **fields: Any) -> None:
        self.broker.publish(topics.ESTOP, {**STOP, **fields})

    @property
    def newest(self) -> tuple[Any, ...]:
        said = self.confirmed[-1]
        return said["active"], said["safe"], said.get("stop_boot"), said.get("stop_seq")


async def listening() -> Listening:
    made = Listening()
    await made.signals.open()
    return made


async def test_each_stop_and_release_is_confirmed_by_its_number_and_changes_once() -> None:
    made = await listening()
    made.say()
    assert made.signals.estop is not None
    assert made.newest == (True, True, "o1", 4)
    made.say(seq=5)
    assert made.newest == (True, True, "o1", 5), "each is answered"
    made.say(active=False, seq=6)
    assert made.newest == (False, True, "o1", 6)
    assert made.changes == [True, False]
    assert len(made.confirmed) == 3
    assert all(said["sender"] == "MG1" for said in made.confirmed)


async def test_a_stop_that_is_in_force_is_said_again_after_a_connection_and_nothing_else() -> None:
    made = await listening()
    made.signals.on_reconnect()
    assert made.confirmed == []
    made.say()
    made.signals.on_reconnect()
    assert len(made.confirmed) == 2
    assert made.newest == (True, True, "o1", 4)


async def test_a_stop_that_only_a_device_knows_of_is_taken_from_it_where_the_broker_says_nothing() -> None:
    made = await listening()
    made.signals.hear_from("MG1/ess")
    assert made.changes == [True]
    made.signals.hear_from("MG1/pv")
    assert made.changes == [True]
    assert made.newest == (True, True, None, None)
    made.say(active=False, seq=9)
    made.signals.hear_from("MG1/ess")
    assert made.signals.estop is None, "it may be older than the release"
    made.signals.on_reconnect()
    made.signals.hear_from("MG1/ess")
    assert made.signals.estop is not None


async def test_who_listens_no_more_hears_nothing() -> None:
    made = await listening()
    made.signals.close()
    made.signals.close()
    made.say()
    assert (made.changes, made.confirmed) == ([], [])


async def test_who_stops_and_who_releases_is_said(caplog: pytest.LogCaptureFixture) -> None:
    made = await listening()
    with caplog.at_level(logging.WARNING, "heron_mqtt.gateway"):
        made.say()
        made.say(active=False, who="bob", why="out", seq=5)
        made.say(who=None, why=None)
        made.say(active=False, who=None, why=None, seq=6)
    assert [record.getMessage() for record in caplog.records] == [
        "MG1: emergency stop pressed by ann: fire",
        "MG1: emergency stop released by bob: out",
        "MG1: emergency stop pressed by unknown: no reason given",
        "MG1: emergency stop released by unknown: no reason given",
    ]
