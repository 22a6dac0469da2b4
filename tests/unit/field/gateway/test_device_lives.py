"""DeviceLives: which messages are of the present life of a device, and when another one begins."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from heron_mqtt.field.gateway.device_lives import DeviceLives
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Status
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from support.field_rig import OpenMemoryBroker

OWNER = "devices/MG1/ess/owner"


class Observed:
    """The lives of a device, by a clock that stands still, and what was told of them."""

    def __init__(self, kind: str | None = None) -> None:
        self.told: list[str] = []
        self.begun: list[tuple[str | None, Status | None]] = []
        self.changes = 0
        self.broker = OpenMemoryBroker()
        self.lives = DeviceLives(
            "MG1",
            "ess",
            self.broker,
            env_id="default",
            kind=kind,
            subscriptions=SubscriptionGroup(self.broker),
            plausible=Plausibility(
                "MG1/ess",
                GatewayTable(),
                nameplate_mw=None,
                s_max_mva=None,
                tell=self.told.append,
                monotonic=lambda: 10.0,
                now=lambda: datetime.now(UTC),
            ),
            on_new_life=lambda: self.begun.append((self.lives.boot, self.lives.status)),
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        self.changes += 1

    def say(self, state: Any = "online", *, retained: bool = False, **fields: Any) -> bool:
        return self.lives.take_status(Status(state=state, **fields), retained=retained)


def test_a_first_boot_begins_no_other_life_and_each_further_one_does() -> None:
    seen = Observed()
    for boot, seq, begun in (("b1", 7, 0), ("b1", 8, 0), ("b2", 1, 1), ("b3", 1, 2)):
        assert seen.lives.take_telemetry(boot, seq)
        assert (seen.lives.reborn, len(seen.begun), seen.lives.echo) == (begun, begun, (boot, seq))
    assert [boot for boot, _ in seen.begun] == ["b2", "b3"]


def test_a_birth_after_a_goodbye_begins_a_life_with_nothing_to_echo() -> None:
    seen = Observed()
    for state in ("online", "fault", "online", "offline"):
        assert seen.say(state, boot="b1")
        assert seen.begun == []
    assert seen.lives.take_telemetry("b1", 9)
    birth = Status(state="online", boot="b1")
    assert seen.lives.take_status(birth, retained=False)
    assert (seen.begun, seen.lives.echo) == ([("b1", birth)], None)
    assert not seen.lives.take_telemetry("b1", 9), "its numbers go on"


def test_what_the_broker_has_kept_counts_until_the_device_has_spoken_and_again_after_a_reconnection() -> None:
    seen = Observed()
    assert seen.say("online", retained=True)
    assert not seen.lives.has_live_status
    assert seen.say("online")
    assert not seen.say("offline", retained=True)
    assert (seen.lives.status, seen.lives.has_live_status) == (Status(state="online"), True)
    seen.lives.on_reconnect()
    assert seen.say("offline", retained=True)
    assert seen.lives.status == Status(state="offline")


def test_a_birth_of_another_kind_is_named_until_one_says_the_right_one() -> None:
    seen = Observed(kind="battery")
    seen.say(kind="pv")
    assert seen.lives.wrong_kind == "its birth says that it is a pv, the scenario says a battery"
    assert seen.told == [f"{seen.lives.wrong_kind}: nothing is sent to it"]
    seen.say("fault", kind="battery")
    assert seen.lives.wrong_kind is not None
    seen.say(kind="battery")
    assert seen.lives.wrong_kind is None


async def test_of_two_that_speak_the_one_that_holds_the_name_is_the_device() -> None:
    seen = Observed()
    first = Status(state="online", boot="b1")
    seen.lives.take_status(first, retained=False)
    seen.say(boot="b2")
    assert not any(seen.lives.take_telemetry("b1", seq) for seq in range(3))
    told = {"type": "owner", "state": "holds", "boot": "b1", "env_id": "other"}
    await seen.broker.publish(OWNER, told, retain=True)
    await asyncio.sleep(0)  # it asks in a task of its own
    await asyncio.sleep(0)
    assert (seen.lives.boot, seen.changes) == ("b2", 0), "of another environment"
    await seen.broker.publish(OWNER, {**told, "env_id": "default"})
    assert (seen.lives.boot, seen.lives.status, seen.changes) == ("b1", first, 1)
    assert seen.begun[-1] == ("b1", first)
    seen.lives.close()
