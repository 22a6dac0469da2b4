"""NameOwnership: of a name there is one holder, whatever is killed, paused or asked at once."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from heron_mqtt.errors import Displaced, NameTaken
from heron_mqtt.messaging.base import Features
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import OpenMemoryBroker

CHANNEL = "agents/MG1/owner"


class Participant:
    def __init__(self, broker: OpenMemoryBroker, boot: str, *, take_over: bool = False) -> None:
        self.displaced: list[Displaced] = []
        self.name = NameOwnership(
            broker,
            CHANNEL,
            MessageStamper("MG1", "env", boot=boot),
            what="agent MG1",
            on_displaced=self.displaced.append,
            take_over=take_over,
            answer_s=0.05,
            who=boot,
        )


@pytest.fixture
def broker() -> OpenMemoryBroker:
    return OpenMemoryBroker()


def owner(broker: OpenMemoryBroker, **fields: Any) -> None:
    broker.publish(CHANNEL, {"type": "owner", "sender": "MG1", "env_id": "env", **fields}, retain=True)


async def test_a_second_one_is_refused_and_told_by_whom(broker: OpenMemoryBroker) -> None:
    first, second = Participant(broker, "a"), Participant(broker, "b")
    await first.name.acquire()
    with pytest.raises(NameTaken, match=r"agent MG1 is held by a \(boot a\).*--take-over"):
        await second.name.acquire()
    assert first.name.is_held
    assert not second.name.is_held
    await first.name.release()
    await second.name.acquire()
    assert second.name.is_held


async def test_the_first_one_is_displaced_where_that_is_asked_for(broker: OpenMemoryBroker) -> None:
    first, second = Participant(broker, "a"), Participant(broker, "b", take_over=True)
    await first.name.acquire()
    await second.name.acquire()
    assert (first.name.is_held, second.name.is_held) == (False, True)
    assert [type(error) for error in first.displaced] == [Displaced]
    assert second.displaced == []


async def test_what_a_dead_holder_has_left_keeps_nobody_out(broker: OpenMemoryBroker) -> None:
    owner(broker, state="holds", boot="dead", seq=0)
    await asyncio.wait_for(Participant(broker, "a").name.acquire(), 1.0)


async def test_of_two_that_ask_at_once_one_gets_it(broker: OpenMemoryBroker) -> None:
    both = [Participant(broker, "a"), Participant(broker, "b")]
    results = await asyncio.gather(*(p.name.acquire() for p in both), return_exceptions=True)
    assert sorted(p.name.is_held for p in both) == [False, True]
    assert [type(r) for r in results if r is not None] == [NameTaken]


async def test_a_holder_that_was_paused_gives_way_and_its_successor_goes_on(broker: OpenMemoryBroker) -> None:
    owner(broker, state="holds", boot="paused", seq=0, term=4)
    after = Participant(broker, "b")
    await after.name.acquire()
    said: list[dict[str, Any]] = []
    broker.subscribe(CHANNEL, lambda m: said.append(dict(m)))
    owner(broker, state="holds", boot="paused", seq=1, term=4)  # it wakes and answers the question of then
    assert after.name.is_held
    assert after.displaced == []
    assert any((m["boot"], m["state"], m.get("term")) == ("b", "holds", 5) for m in said), (
        "the successor says again that it holds the name, so that the other hears it"
    )


async def test_a_holder_that_was_away_gives_way_to_who_took_the_name_meanwhile(
    broker: OpenMemoryBroker,
) -> None:
    before = Participant(broker, "a")
    await before.name.acquire()
    owner(broker, state="holds", boot="b", seq=0, term=2)
    assert not before.name.is_held
    assert len(before.displaced) == 1


class SlowBroker(OpenMemoryBroker):
    """Has a ``holds`` at once, and does not acknowledge it."""

    def publish(self, channel: str, message: Any, **options: Any) -> Any:
        delivery = super().publish(channel, message, **options)
        return asyncio.get_running_loop().create_future() if message["state"] == "holds" else delivery


async def test_a_name_that_was_taken_in_the_moment_of_being_ended_is_given_back() -> None:
    broker = SlowBroker()
    states: list[str] = []
    broker.subscribe(CHANNEL, lambda message: states.append(message["state"]))
    name = Participant(broker, "a").name
    taking = asyncio.create_task(name.acquire())
    while "holds" not in states:
        await asyncio.sleep(0.01)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    kept: list[str] = []
    broker.subscribe(CHANNEL, lambda message: kept.append(message["state"]))
    assert (states[-2:], kept, name.is_held) == (["holds", "free"], ["free"], False)


async def test_a_message_of_another_environment_takes_no_name(broker: OpenMemoryBroker) -> None:
    first = Participant(broker, "a")
    await first.name.acquire()
    owner(broker, state="holds", boot="z", seq=0, term=9, env_id="another")
    owner(broker, state="asks", boot="z", seq=1, take_over=True, env_id="another")
    assert first.name.is_held


class ForgetfulBroker(InMemoryBroker):
    """In memory, but as one that other processes can reach and that retains nothing."""

    features: ClassVar[Features] = Features(wildcards=True, external=True)


async def test_a_holder_is_given_time_to_answer_where_nothing_was_retained() -> None:
    broker = ForgetfulBroker()
    second = Participant(broker, "b")

    async def holder() -> None:
        await asyncio.sleep(0.02)
        broker.publish(
            CHANNEL, {"type": "owner", "sender": "MG1", "env_id": "env", "state": "holds", "boot": "a"}
        )

    answers: list[asyncio.Task[None]] = []
    broker.subscribe(
        CHANNEL, lambda m: answers.append(asyncio.create_task(holder())) if m["state"] == "asks" else None
    )
    with pytest.raises(NameTaken, match=r"held by"):
        await second.name.acquire()
    await asyncio.gather(*answers)
    assert not second.name.is_held


async def test_a_name_without_a_holder_is_taken_where_nothing_was_retained() -> None:
    only = Participant(ForgetfulBroker(), "a")
    await only.name.acquire()
    assert only.name.is_held
