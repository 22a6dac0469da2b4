"""SystemOperator: what it says of a run, whom it waits for, and what it takes and drops of what they say."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.errors import Displaced, NameTaken, NotReady
from heron_mqtt.messages import Clearance, Command, NetworkModel, Observation, StopConfirm
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Features, Received
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual, virtual_now

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AGENTS = ("MG1", "MG2")


class Gathering:
    """An operator of two agents, and everything that is published."""

    def __init__(self, **options: Any) -> None:
        self.broker = OpenMemoryBroker()
        self.operator = SystemOperator(
            "grid",
            AGENTS,
            self.broker,
            env_id="test",
            scenario="day",
            stamper=MessageStamper("grid", "test", boot="o1"),
            **options,
        )
        self.heard: list[Received] = []
        for channel in ("run/state", "estop", "agents/+/+", "operator/grid/price"):
            self.broker.subscribe(channel, self.heard.append)

    def of(self, channel: str) -> list[Received]:
        return [message for message in self.heard if message.channel == channel]

    def say(self, agent: str, leaf: str, **fields: Any) -> None:
        meta = {"type": leaf, "env_id": "test", "sender": agent, "episode": 1, "step": 0}
        self.broker.publish(topics.agent(agent, leaf), {**meta, **fields})

    def ready(self, agent: str, **fields: Any) -> None:
        self.say(agent, "status", **{"state": "online", "run": "o1", **fields})


async def gathering(**options: Any) -> Gathering:
    made = Gathering(**options)
    await made.operator.start()
    return made


async def begun(made: Gathering) -> None:
    """Let the first step of the first episode begin."""
    episode = asyncio.ensure_future(made.operator.begin_episode(1, 7, NOON, 5.0))
    await asyncio.sleep(0)
    for agent in AGENTS:
        made.ready(agent)
    await episode
    made.operator.begin_step(1, 0, 50.0, NOON)


async def test_the_will_of_an_earlier_program_of_an_agent_does_not_end_the_wait_for_the_present_one() -> None:
    made = await gathering()
    await begun(made)
    for agent in AGENTS:
        made.say(agent, "status", state="online", run="o1", boot="b2")
        made.say(agent, "status", state="offline", boot="b1")
    assert made.operator._offline == set()
    made.say(AGENTS[0], "status", state="offline", boot="b2")
    assert made.operator._offline == {AGENTS[0]}


async def test_an_episode_begins_when_all_are_ready_for_it_and_is_told_with_its_seed() -> None:
    made = await gathering()
    episode = asyncio.ensure_future(made.operator.begin_episode(1, 7, NOON, 5.0))
    await asyncio.sleep(0)
    (reset,) = made.of(topics.RUN_STATE)
    assert (reset["state"], reset["scenario"], reset["seed"], reset["episode"]) == ("reset", "day", 7, 1)
    assert (reset["boot"], reset["sender"], reset["env_id"]) == ("o1", "grid", "test")
    made.ready("MG1")
    for not_yet in (
        {"episode": 0},
        {"run": "another"},
        {"run": None},
        {"state": "fault"},
        {"state": "offline"},
    ):
        made.ready("MG2", **not_yet)
        await asyncio.sleep(0)
        assert not episode.done()
    made.ready("MG2")
    await episode
    await made.operator.close()


async def test_who_is_not_ready_in_time_is_named_with_what_is_known_of_it() -> None:
    made = await gathering()
    made.ready("MG2", state="fault", reason="no battery")
    with pytest.raises(NotReady) as refused:
        await made.operator.begin_episode(1, None, NOON, 0.01)
    assert str(refused.value) == (
        "not ready after 0.01 s: agent MG1 (not online for this episode), agent MG2 (fault: no battery)"
    )
    await made.operator.close()


async def test_a_step_is_told_with_where_the_run_stands_and_its_price_both_retained() -> None:
    made = await gathering()
    await begun(made)
    late: list[Received] = []
    for channel in (topics.RUN_STATE, topics.operator_price("grid")):
        made.broker.subscribe(channel, late.append)
    state, price = late
    assert state.retained
    assert price.retained
    assert (state["state"], state["episode"], state["step"], state["scenario"]) == ("running", 1, 0, "day")
    assert (price["value"], price["episode"], price["step"]) == (50.0, 1, 0)
    await made.operator.close()


async def test_what_is_for_an_agent_goes_to_it_alone_with_episode_and_step_and_is_not_kept() -> None:
    made = await gathering()
    await begun(made)
    made.operator.command("MG1", Command.model_validate({"p_ess": 0.01}))
    made.operator.publish_observation("MG1", Observation(dt_s=900.0))
    made.operator.clear("MG1", Clearance())
    for leaf in ("command", "observation", "clearance"):
        (message,) = made.of(topics.agent("MG1", leaf))
        assert (message["episode"], message["step"], message["boot"]) == (1, 0, "o1")
        assert made.of(topics.agent("MG2", leaf)) == []
        late: list[Received] = []
        made.broker.subscribe(topics.agent("MG1", leaf), late.append)
        assert late == []
    await made.operator.close()


@pytest.mark.parametrize(("leaf", "gather"), [("action", "gather"), ("plan", "gather_plans")])
async def test_the_first_word_of_each_agent_in_the_step_counts(leaf: str, gather: str) -> None:
    made = await gathering()
    await begun(made)
    for foreign in ({"env_id": "another"}, {"env_id": None}, {"step": 1}, {"episode": 0}, {"step": None}):
        made.say("MG1", leaf, **foreign)
    made.say("MG9", leaf)
    assert made.operator.dropped == 6
    for agent in AGENTS:
        made.say(agent, leaf)
    made.say("MG1", leaf)
    assert made.operator.dropped == 7
    assert set(await getattr(made.operator, gather)(60.0)) == set(AGENTS)
    made.operator.begin_step(1, 1, 50.0, NOON)
    assert await getattr(made.operator, gather)(0.0) == {}, "of an earlier step"
    await made.operator.close()


@pytest.mark.parametrize(("leaf", "gather"), [("action", "gather"), ("plan", "gather_plans")])
async def test_who_is_silent_is_waited_for_until_the_deadline_and_who_is_offline_is_not(
    leaf: str, gather: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = await gathering()
    await begun(made)
    made.say("MG1", leaf)
    with caplog.at_level(logging.WARNING, "heron_mqtt.operator"):
        assert set(await getattr(made.operator, gather)(0.02)) == {"MG1"}
        made.ready("MG2", state="offline")
        assert set(await getattr(made.operator, gather)(60.0)) == {"MG1"}
    assert [record.getMessage() for record in caplog.records] == [
        f"no {leaf} from MG2 in step 0: none within 0.02 s",
        f"no {leaf} from MG2 in step 0: it is offline",
    ]
    made.ready("MG2")
    waiting = asyncio.ensure_future(getattr(made.operator, gather)(60.0))
    await asyncio.sleep(0)
    assert not waiting.done(), "it is back"
    made.say("MG2", leaf)
    assert set(await waiting) == set(AGENTS)
    await made.operator.close()


async def test_an_agent_that_is_offline_does_not_stand_for_one_that_is_silent() -> None:
    made = await gathering()
    await begun(made)
    made.say("MG1", "action")
    made.ready("MG1", state="offline")
    waiting = asyncio.ensure_future(made.operator.gather(60.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    made.say("MG2", "action")
    assert set(await waiting) == set(AGENTS)
    await made.operator.close()


@pytest.mark.parametrize("fields", [{"env_id": "another"}, {"sender": "MG9"}])
async def test_a_status_of_another_environment_or_of_a_stranger_is_dropped(fields: dict[str, Any]) -> None:
    made = await gathering()
    made.ready(fields.get("sender", "MG1"), stopped=True, **fields)
    assert made.operator.dropped == 1
    assert made.operator.estop is None
    made.ready("MG1", env_id=None, stopped=True)
    assert made.operator.dropped == 1
    assert made.operator.estop is not None, "a stop that it knows of"
    await made.operator.close()


async def test_what_cannot_be_read_is_reported_and_not_counted_as_dropped() -> None:
    made = await gathering()
    await begun(made)
    made.say("MG1", "status", state="asleep")
    made.say("MG1", "action", p_mw="much")
    made.say("MG1", "plan", p_ess="much")
    made.broker.publish(topics.stop_confirm("MG1"), {"type": "stop_confirm", "active": "yes"})
    assert made.operator.dropped == 0
    assert {report.kind for report in made.broker.stats.reports} == {"rejected"}
    assert made.operator.estop is None
    await made.operator.close()


async def test_the_end_is_told_once_and_kept_and_nothing_is_heard_after_it() -> None:
    made = await gathering()
    await begun(made)
    await made.operator.close()
    await made.operator.close()
    finished = [message for message in made.of(topics.RUN_STATE) if message["state"] == "finished"]
    assert [(message["scenario"], message["episode"]) for message in finished] == [("day", 1)]
    late: list[Received] = []
    made.broker.subscribe(topics.RUN_STATE, late.append)
    assert [message["state"] for message in late] == ["finished"]
    made.ready("MG9")
    assert made.operator.dropped == 0
    made.broker.publish(topics.ESTOP, {"type": "estop", "active": True})
    assert made.operator.estop is None


async def test_an_operator_that_began_nothing_says_nothing_at_its_end() -> None:
    made = await gathering()
    made.operator.say_alive()
    await made.operator.close()
    assert made.of(topics.RUN_STATE) == []


async def test_a_stop_that_only_an_agent_knows_of_is_said_again_unless_a_release_came_since() -> None:
    made = await gathering()
    channel = topics.stop_confirm("MG1")
    told = MessageStamper("MG1", "test").stamp(channel, StopConfirm(active=True, safe=True))
    made.broker.publish(channel, told)
    (again,) = made.of(topics.ESTOP)
    assert (again["active"], again["who"]) == (True, "MG1")
    made.broker.publish(topics.ESTOP, {"type": "estop", "active": False, "who": "ann"})
    assert made.operator.estop is None
    made.broker.publish(channel, told)
    assert len(made.of(topics.ESTOP)) == 2, "it may be older than the release"
    await made.operator.close()


async def test_the_network_is_told_once_a_run_and_the_results_of_each_step_both_retained() -> None:
    made = await gathering()
    names = ("bus", "bus_kv", "bus_agent", "bus_x", "bus_y", "line", "line_from", "line_to")
    made.operator.network = NetworkModel.model_validate({name: [] for name in names})
    await begun(made)
    made.operator.publish_results({"type": "grid_results", "vm_pu": [1.01]})
    late: list[Received] = []
    for channel in (topics.RUN_NETWORK, topics.RUN_GRID):
        made.broker.subscribe(channel, late.append)
    network, results = late
    assert network.retained
    assert results.retained
    assert network["episode"] == 1
    assert (results["episode"], results["step"], results["vm_pu"]) == (1, 0, [1.01])
    await made.operator.close()


# -- displaced, connected again, closed ----------------------------------------------------------------


class ReconnectingBroker(OpenMemoryBroker):
    """In memory, but its connection can be away and back."""

    def __init__(self) -> None:
        super().__init__()
        self.reconnected: list[Callable[[], None]] = []

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.reconnected.append(callback)
        return lambda: self.reconnected.remove(callback) if callback in self.reconnected else None


def operator(broker: OpenMemoryBroker, *agents: str, **options: Any) -> SystemOperator:
    return SystemOperator("grid", agents, broker, env_id="test", scenario="day", **options)


def test_an_operator_that_is_displaced_says_nothing_more_and_whoever_waits_is_told() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        first = operator(broker, "MG1")
        await first.start()
        first.begin_step(1, 0, 50.0, NOON)
        with pytest.raises(NameTaken, match="environment 'test'"):
            await operator(broker).start()
        resting = asyncio.create_task(first.rest(3600.0))
        await asyncio.sleep(0)
        second = operator(broker, take_over=True)
        await second.start()
        with pytest.raises(Displaced):
            await resting
        states: list[Received] = []
        broker.subscribe(topics.RUN_STATE, lambda m: None if m.retained else states.append(m))
        first.say_alive()
        first.network = network()
        first._publish_network()
        await first.close()
        assert states == [], "the other one speaks"
        late: list[Received] = []
        broker.subscribe(topics.RUN_NETWORK, late.append)
        assert late == []
        await second.close()

    run_virtual(main())


@pytest.mark.parametrize("speaks_next", ["a sign of life", "a step"])
async def test_an_operator_that_stood_still_reads_that_it_was_displaced_before_it_says_anything(
    speaks_next: str,
) -> None:
    broker = OpenMemoryBroker()
    made = operator(broker, "MG1", alive_every_s=0.2)
    await made.start()
    made.begin_step(1, 0, 50.0, NOON)
    said: list[Received] = []
    for channel in (topics.RUN_STATE, topics.operator_price("grid")):
        broker.subscribe(channel, lambda message: None if message.retained else said.append(message))
    other = MessageStamper("grid", "test")
    holds = other.stamp(topics.RUN_OWNER, {"type": "owner", "state": "holds", "who": "ann", "term": 9})
    loop = asyncio.get_running_loop()
    read, waits = socket.socketpair()
    with read, waits:
        read.setblocking(False)

        def takes_in() -> None:
            read.recv(99)
            loop.call_soon(loop.call_soon, broker.publish, topics.RUN_OWNER, holds)

        async def speak() -> None:
            await made.rest(10.0 if speaks_next == "a sign of life" else 0.25)
            await made.caught_up()
            made.begin_step(1, 1, 50.0, NOON)

        loop.add_reader(read, takes_in)
        speaking = asyncio.create_task(speak(), name="environment")
        await asyncio.sleep(0)
        waits.send(b"its successor")
        time.sleep(0.4)
        with pytest.raises(Displaced):
            await speaking
        loop.remove_reader(read)
    assert said == []
    await made.close()
    broker.publish(topics.RUN_OWNER, other.stamp(topics.RUN_OWNER, {"type": "owner", "state": "free"}))
    await made.start()
    made.begin_step(2, 0, 50.0, NOON)
    assert len(said) == 2, "begun again it speaks again"
    await made.close()


def network() -> NetworkModel:
    names = ("bus", "bus_kv", "bus_agent", "bus_x", "bus_y", "line", "line_from", "line_to")
    return NetworkModel.model_validate({name: [] for name in names})


@pytest.mark.parametrize(("is_told", "is_said_again"), [(True, False), (False, True)])
def test_a_stop_that_the_broker_has_not_told_a_second_after_a_connection_is_said_again(
    is_told: bool, is_said_again: bool
) -> None:
    async def main() -> None:
        broker = ReconnectingBroker()
        made = operator(broker, "MG1")
        await made.start()
        reconnected = broker.reconnected[0]
        stop = {"type": "estop", "active": True, "who": "ann", "why": "fire", "boot": "o", "seq": 3}
        broker.publish(topics.ESTOP, stop)
        stops: list[Received] = []
        broker.subscribe(topics.ESTOP, stops.append)
        for _ in range(2):
            reconnected()
        if is_told:
            broker.publish(topics.ESTOP, stop)
            stops.clear()
        await asyncio.sleep(0.9)
        assert stops == []
        await asyncio.sleep(0.2)
        assert [(m["active"], m["who"], m["why"]) for m in stops] == [(True, "ann", "fire")] * is_said_again
        reconnected()  # each connection anew
        await asyncio.sleep(1.1)
        assert len(stops) == is_said_again + 1
        await made.close()

    run_virtual(main())


@pytest.mark.parametrize(
    ("message", "is_said_again"),
    [
        ({"type": "estop", "active": True, "who": "ben"}, False),
        ({}, True),
        ({"type": "estop", "active": 1}, True),
        ({"type": "estop", "active": False, "boot": "o", "seq": 1}, True),
        ({"type": "estop", "active": False, "boot": "o", "seq": 3}, False),
    ],
    ids=["another stop", "empty", "unreadable", "release of an earlier stop", "release"],
)
async def test_a_stop_that_the_broker_keeps_no_longer_is_said_again(
    message: dict[str, Any], is_said_again: bool
) -> None:
    broker = OpenMemoryBroker()
    made = operator(broker, "MG1")
    await made.start()
    for seq, active in enumerate((True, False, True)):
        told = {"type": "estop", "active": active, "who": "ann", "boot": "o", "seq": seq}
        broker.publish(topics.ESTOP, told, retain=True)
    stops: list[Received] = []
    broker.subscribe(topics.ESTOP, lambda m: None if m.retained else stops.append(m))
    broker.publish(topics.ESTOP, message, retain=True)
    again = [m for m in stops if m.get("active") is True and m.get("sender") == "grid"]
    assert len(again) == is_said_again
    kept: list[Received] = []
    broker.subscribe(topics.ESTOP, kept.append)
    assert [m["active"] for m in kept] == [message.get("seq") != 3]
    await made.close()


def test_after_the_close_no_stop_is_said_again_and_no_connection_is_heard_of() -> None:
    async def main() -> None:
        broker = ReconnectingBroker()
        made = operator(broker, "MG1")
        await made.start()
        broker.publish(topics.ESTOP, {"type": "estop", "active": True, "who": "ann"})
        reconnected = broker.reconnected[0]
        reconnected()
        stops: list[Received] = []
        broker.subscribe(topics.ESTOP, lambda m: None if m.retained else stops.append(m))
        await made.close()
        assert reconnected not in broker.reconnected
        await asyncio.sleep(5.0)
        assert stops == []

    run_virtual(main())


def test_without_a_stop_a_connection_starts_nothing_but_the_network_is_said_again() -> None:
    async def main() -> None:
        broker = ReconnectingBroker()
        made = operator(broker)
        made.network = network()
        said: list[Received] = []
        broker.subscribe(topics.RUN_NETWORK, said.append)
        await made.start()
        await made.begin_episode(1, None, NOON, 5.0)
        await made.begin_episode(2, None, NOON, 5.0)
        assert len(said) == 1, "once a run"
        tasks = asyncio.all_tasks()
        broker.reconnected[0]()
        assert len(said) == 2
        assert asyncio.all_tasks() == tasks
        await made.close()

    run_virtual(main())


def test_where_the_run_stands_is_said_as_often_as_gateways_need_while_actions_are_waited_for() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        made = operator(broker, "MG1", alive_every_s=10.0)
        await made.start()
        states: list[float] = []
        broker.subscribe(topics.RUN_STATE, lambda m: states.append(virtual_now()))
        begun_s = virtual_now()
        made.begin_step(1, 0, 50.0, NOON)
        assert await made.gather(25.0) == {}
        assert [at - begun_s for at in states] == pytest.approx([0.0, 10.0, 20.0])
        assert virtual_now() - begun_s == pytest.approx(25.0)
        await made.rest(4.5)
        assert len(states) == 3
        await made.rest(3.5)
        assert states[-1] - begun_s == pytest.approx(30.0)
        waiting = asyncio.create_task(made.gather(100.0))
        await asyncio.sleep(15.0)
        meta = {"env_id": "test", "sender": "MG1", "episode": 1, "step": 0}
        broker.publish(topics.agent("MG1", "action"), {"type": "action", **meta})
        assert (await waiting).keys() == {"MG1"}
        assert virtual_now() - begun_s == pytest.approx(48.0)
        await made.close()

    run_virtual(main())


def test_a_wait_that_ends_when_the_next_sign_of_life_is_due_says_none() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        made = operator(broker, alive_every_s=10.0)
        await made.start()
        states: list[Received] = []
        broker.subscribe(topics.RUN_STATE, states.append)
        made.begin_step(1, 0, 50.0, NOON)
        await made.rest(10.0)
        assert len(states) == 1
        await made.close()

    run_virtual(main())


async def test_an_action_of_a_step_that_has_not_begun_is_dropped() -> None:
    made = await gathering()
    made.say("MG1", "action", episode=0)
    assert made.operator.dropped == 1
    episode = asyncio.ensure_future(made.operator.begin_episode(1, 7, NOON, 5.0))
    await asyncio.sleep(0)
    for agent in AGENTS:
        made.ready(agent)
    await episode
    made.say("MG1", "action")
    assert made.operator.dropped == 2
    await made.operator.close()


async def test_each_episode_is_told_and_the_name_is_free_after_the_last() -> None:
    made = await gathering()
    await begun(made)
    second = asyncio.ensure_future(made.operator.begin_episode(2, 8, NOON, 5.0))
    await asyncio.sleep(0)
    for agent in AGENTS:
        made.ready(agent, episode=2)
    await second
    resets = [m for m in made.of(topics.RUN_STATE) if m["state"] == "reset"]
    assert [(m["episode"], m["seed"]) for m in resets] == [(1, 7), (2, 8)]
    await made.operator.close()
    owners: list[Received] = []
    made.broker.subscribe(topics.RUN_OWNER, owners.append)
    assert [m["state"] for m in owners] == ["free"]


def test_an_operator_that_may_not_start_hears_nothing() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        first, second = operator(broker, "MG1"), operator(broker, "MG1")
        await first.start()
        with pytest.raises(NameTaken):
            await second.start()
        broker.publish(topics.ESTOP, {"type": "estop", "active": True, "who": "ann"})
        assert first.estop is not None
        assert second.estop is None
        await first.close()

    run_virtual(main())


def test_where_filters_are_not_known_each_agent_is_heard_on_its_own_channel() -> None:
    class Exact(OpenMemoryBroker):
        features: ClassVar[Features] = Features(retain=True, external=True)

    async def main() -> None:
        broker = Exact()
        made = operator(broker, *AGENTS)
        await made.start()
        assert all(topics.agent(agent, "action") in broker._dispatcher.wanted() for agent in AGENTS)
        made.begin_step(1, 0, 50.0, NOON)
        for agent in AGENTS:
            meta = {"env_id": "test", "sender": agent, "episode": 1, "step": 0}
            broker.publish(topics.agent(agent, "action"), {"type": "action", **meta})
        assert (await made.gather(1.0)).keys() == set(AGENTS)
        await made.close()

    run_virtual(main())


def test_a_broker_that_does_not_take_the_last_word_is_waited_for_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hanging(OpenMemoryBroker):
        async def announce(self, channel: str, online: Any, offline: Any) -> Any:
            presence = await super().announce(channel, online, offline)

            async def never(*_: object) -> None:
                await asyncio.sleep(3600.0)

            if channel == topics.RUN_STATE:
                presence.update = never  # type: ignore[method-assign]
            return presence

    async def main() -> None:
        made = operator(Hanging())
        await made.start()
        await made.begin_episode(1, None, NOON, 5.0)
        with pytest.raises(NotReady, match=r"the broker did not take run/state within 5 s"):
            await made.begin_episode(2, None, NOON, 5.0)
        begun_s = virtual_now()
        await made.close()
        assert virtual_now() - begun_s == 1.0

    with caplog.at_level(logging.WARNING, "heron_mqtt.operator"):
        run_virtual(main())
    said = "could not publish that the run is finished: the broker does not answer"
    assert [record.getMessage() for record in caplog.records] == [said]


async def test_who_has_released_a_stop_is_logged_and_a_stop_is_not(caplog: pytest.LogCaptureFixture) -> None:
    made = await gathering()
    with caplog.at_level(logging.WARNING, "heron_mqtt.operator"):
        for who in ("bob", None):
            made.broker.publish(topics.ESTOP, {"type": "estop", "active": True, "who": "ann"})
            made.broker.publish(topics.ESTOP, {"type": "estop", "active": False, "who": who})
    assert [record.getMessage() for record in caplog.records] == [
        "emergency stop released by bob: no reason given",
        "emergency stop released by unknown: no reason given",
    ]
    await made.operator.close()


async def test_who_starts_twice_listens_once() -> None:
    made = await gathering()
    await made.operator.start()
    await begun(made)
    made.say("MG1", "action")
    assert made.operator.dropped == 0
    await made.operator.close()


async def test_what_an_operator_is_without_more_being_said_of_it() -> None:
    broker = OpenMemoryBroker()
    made = SystemOperator("grid", ["MG1"], broker)
    assert (made.dropped, made.network, made.estop) == (0, None, None)
    assert (made._env_id, made._alive_every_s, made.subordinates) == ("default", 10.0, ("MG1",))
    assert not made.say_remembered_stop()
