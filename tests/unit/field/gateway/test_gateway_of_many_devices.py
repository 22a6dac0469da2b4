"""A gateway of many devices: whether all are there is asked at every message, and of few of them."""

from __future__ import annotations

import pytest

from heron_mqtt.field.gateway import FieldGateway
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import DT_S, ESS, LEASE_S, OpenMemoryBroker

NAMES = [f"b{n:02d}" for n in range(40)]


class Fleet:
    """One gateway of forty emulated batteries; counts how often one of them is asked what it lacks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.broker = OpenMemoryBroker()
        self.gateway = FieldGateway(
            "MG1",
            GridAgent("MG1", {name: Battery(ESS) for name in NAMES}, step_s=DT_S),
            {name: DeviceSettings(authority="emulated") for name in NAMES},
            dict.fromkeys(NAMES, ESS.power_range_mw),
            self.broker,
            MessageStamper("MG1", "default"),
            notify=lambda: None,
            lease_s=LEASE_S,
        )
        lack = self.gateway._lack

        def counted(name: str, run: str | None, episode: int) -> str | None:
            self.asked += 1
            return lack(name, run, episode)

        monkeypatch.setattr(self.gateway, "_lack", counted)

    def say(self, name: str, state: str) -> None:
        self.broker.publish(topics.device("MG1", name, "status"), {"state": state, "run": "r", "episode": 1})
        self.broker.publish(topics.device("MG1", name, "telemetry"), {"p_mw": 0.0})

    @property
    def is_complete(self) -> bool:
        return self.gateway.is_complete("r", 1)


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]], ids=["in order", "the last one first"])
async def test_devices_that_come_one_by_one_are_asked_a_few_times_each(
    monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    fleet = Fleet(monkeypatch)
    await fleet.gateway.open()
    for name in order:
        assert not fleet.is_complete
        fleet.say(name, "online")
    assert fleet.is_complete
    assert fleet.asked <= 4 * len(NAMES)
    fleet.gateway.close()


async def test_one_that_is_gone_again_is_missed_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch)
    await fleet.gateway.open()
    for name in NAMES:
        fleet.say(name, "online")
    assert fleet.is_complete
    for name in (NAMES[0], NAMES[17], NAMES[-1]):
        fleet.say(name, "offline")
        assert not fleet.is_complete
        assert list(fleet.gateway.lacks("r", 1)) == [name]
        fleet.say(name, "online")
        assert fleet.is_complete
    fleet.gateway.close()


async def test_what_lacks_is_told_of_all_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch)
    await fleet.gateway.open()
    fleet.say(NAMES[3], "online")
    assert not fleet.is_complete
    assert list(fleet.gateway.lacks("r", 1)) == [name for name in NAMES if name != NAMES[3]]
    fleet.gateway.close()
