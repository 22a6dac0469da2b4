"""What peers say comes into the step that it is of: not before it, and not lost because it came early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.agents.inbox import Inbox
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.messages import Observation
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.protocols.p2p import Bid, P2PSession
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual

MAX_EARLY = 256
REMEMBERED_REFUSALS = 10


def test_an_offer_waits_for_its_step_and_one_of_a_past_step_is_dropped() -> None:
    async def main() -> None:
        broker = InMemoryBroker()
        watch = EnvironmentWatch("MG1", broker, "test", lease_s=60.0, on_end=lambda why: None)
        inbox = Inbox("MG1", "operator", ["MG2"], "test", broker, Wakeup(), watch)
        await inbox.open()
        inbox.begin_episode(1)

        def offer(step: int, price: float) -> None:
            meta = {"type": "offer", "env_id": "test", "sender": "MG2", "episode": 1, "step": step}
            broker.publish(topics.p2p("MG2", "MG1"), {**meta, "quantity": 1.0, "price": price})

        for step, price in ((0, 40.0), (1, 41.0), (3, 43.0)):
            offer(step, price)
        await asyncio.sleep(0.1)  # virtual: delivered

        heard: list[float | None] = []
        for step in range(4):
            inbox.observation = Observation(dt_s=900.0, episode=1, step=step)
            inbox.begin_step()
            session = P2PSession("MG1", ("MG2",), Bid(-1.0, 100.0))
            inbox.open_session(session)
            heard.append(session._offers["MG2"].price if "MG2" in session._offers else None)
            inbox.close_session()
            if step == 1:
                offer(0, 40.0)
                await asyncio.sleep(0.1)
        assert heard == [40.0, 41.0, None, 43.0]
        assert inbox.dropped == 1, "an offer of step 0 came in step 1"
        inbox.close()

    run_virtual(main())


LEASE_S = 3.0


class Hearing:
    """The inbox of MG1, which serves the environment of boot ``e1`` in episode 1."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.broker = OpenMemoryBroker()
        self.watch = EnvironmentWatch(
            "MG1",
            self.broker,
            "test",
            lease_s=LEASE_S,
            on_end=lambda why: None,
            monotonic=lambda: self.now_s,
        )
        self.inbox = Inbox("MG1", "operator", ["MG2"], "test", self.broker, Wakeup(), self.watch)

    async def open(self) -> Hearing:
        await self.watch.open()
        await self.inbox.open()
        return self

    def say(self, channel: str, type_: str, retain: bool = False, **fields: Any) -> None:
        meta = {"type": type_, "env_id": "test", "sender": "operator", "boot": "e1", "episode": 1, "step": 0}
        self.broker.publish(channel, {**meta, **fields}, retain=retain)

    def state(self, state: str = "running", **fields: Any) -> None:
        self.say(topics.RUN_STATE, "run_state", state=state, **fields)

    def price(self, value: float = 50.0, **fields: Any) -> None:
        self.say(topics.operator_price("operator"), "price", value=value, **fields)

    def command(self, **fields: Any) -> None:
        self.say(topics.agent("MG1", "command"), "command", p_ess=0.01, **fields)

    def clearance(self, **fields: Any) -> None:
        self.say(topics.agent("MG1", "clearance"), "clearance", **fields)

    def observation(self, **fields: Any) -> None:
        self.say(topics.agent("MG1", "observation"), "observation", dt_s=900.0, **fields)

    def offer(self, peer: str = "MG2", **fields: Any) -> None:
        self.say(topics.p2p(peer, "MG1"), "offer", sender=peer, quantity=1.0, price=40.0, **fields)

    def close(self) -> None:
        self.inbox.close()
        self.watch.close()


async def hearing() -> Hearing:
    made = await Hearing().open()
    made.state("reset")
    made.inbox.begin_episode(1, "e1")
    assert made.inbox.dropped == 0
    return made


def counted(made: Hearing) -> tuple[Any, ...]:
    inbox = made.inbox
    return (
        inbox.price.value,
        inbox.commands.has(1, 0),
        inbox.clearance_for(1, 0) is not None,
        inbox.observation,
    )


async def test_what_is_of_the_step_loop_counts_when_it_is_of_the_environment_that_is_served() -> None:
    made = await hearing()
    for say in (made.price, made.command, made.clearance, made.observation):
        say()
    price, has_command, is_cleared, observation = counted(made)
    assert (price, has_command, is_cleared, observation is not None) == (50.0, True, True, True)
    assert made.inbox.dropped == 0
    made.close()


@pytest.mark.parametrize("foreign", [{"boot": "e2"}, {"env_id": "another"}])
async def test_what_is_of_another_environment_is_dropped_and_counted(foreign: dict[str, Any]) -> None:
    made = await hearing()
    for say in (made.price, made.command, made.clearance, made.observation):
        say(**foreign)
    assert counted(made) == (None, False, False, None)
    assert made.inbox.dropped == 4
    made.close()


@pytest.mark.parametrize("by_hand", [{"boot": None}, {"env_id": None}])
async def test_what_names_no_environment_counts(by_hand: dict[str, Any]) -> None:
    made = await hearing()
    for say in (made.price, made.command, made.clearance, made.observation):
        say(**by_hand)
    price, has_command, is_cleared, observation = counted(made)
    assert (price, has_command, is_cleared, observation is not None) == (50.0, True, True, True)
    assert made.inbox.dropped == 0
    made.close()


async def test_of_what_the_broker_has_kept_only_a_price_counts() -> None:
    made = await hearing()
    made.inbox.close()
    for say in (made.price, made.command, made.clearance, made.observation):
        say(retain=True)
    await made.inbox.open()
    assert counted(made) == (50.0, False, False, None)
    assert made.inbox.dropped == 3
    made.close()


async def test_what_cannot_be_read_is_reported_and_harms_nothing_else() -> None:
    made = await hearing()
    made.price(value="dear")
    made.say(topics.p2p("MG2", "MG1"), "offer", quantity="much", price=1.0)
    assert [report.kind for report in made.broker.stats.reports] == ["rejected", "rejected"]
    made.price(60.0)
    assert made.inbox.price.value == 60.0
    made.close()


async def test_stale_prices_commands_and_observations_are_counted() -> None:
    made = await hearing()
    made.price(step=2)
    made.price(step=1)
    made.command(step=2)
    made.command(step=2)
    made.observation(step=2)
    made.inbox.begin_step()
    for step in (1, 2):
        made.observation(step=step)
    assert made.inbox.dropped == 4
    assert made.inbox.observation is None
    made.observation(step=3)
    assert made.inbox.observation is not None
    made.close()


async def test_a_step_is_the_one_that_is_observed_and_else_the_next() -> None:
    made = await hearing()
    assert made.inbox.begin_step() == (None, 1, 0)
    made.observation(step=5)
    observation, *at = made.inbox.begin_step()
    assert observation is not None
    assert at == [1, 5]
    assert made.inbox.begin_step() == (None, 1, 6)
    for unknown in ({"step": None}, {"episode": None}):
        made.observation(**unknown)
        observation, *at = made.inbox.begin_step()
        assert observation is not None, "a person's observation"
    assert at == [1, 8]
    made.close()


async def test_a_clearance_is_for_its_step_alone() -> None:
    made = await hearing()
    made.clearance(step=3)
    assert made.inbox.clearance_for(1, 3) is not None
    assert [made.inbox.clearance_for(*at) for at in ((1, 2), (1, 4), (2, 3))] == [None] * 3
    made.close()


async def test_an_observation_is_a_sign_of_life_once() -> None:
    made = await hearing()
    made.now_s += 2.0
    made.observation(step=1, seq=5)
    assert made.watch.left_s == LEASE_S
    made.now_s += 2.0
    made.observation(step=1, seq=5)
    assert made.watch.left_s == pytest.approx(1.0), "a replay"
    made.close()


async def test_an_episode_is_begun_once_and_forgets_what_was_of_another() -> None:
    made = await hearing()
    assert made.inbox.new_episode is None
    made.state(step=3)
    assert made.inbox.new_episode is None, "it goes on"
    made.observation(step=4)
    made.offer(step=9)
    made.state("running", episode=2, step=0)
    assert made.inbox.new_episode is not None
    made.inbox.begin_episode(2, "e1")
    assert (made.inbox.new_episode, made.inbox.observation) == (None, None)
    assert made.inbox.begin_step()[1:] == (2, 0)
    made.inbox.open_session(P2PSession("MG1", ("MG2",), Bid(-1.0, 100.0)))
    assert made.inbox.dropped == 0, "the offer of the other episode is not there any more"
    made.close()


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"state": "finished"}, 0),
        ({"state": "reset", "boot": None}, 1),
        ({"state": "reset", "episode": None}, 1),
        ({"state": "reset", "env_id": "another"}, 1),
    ],
)
async def test_what_begins_no_episode_that_could_be_followed(fields: dict[str, Any], dropped: int) -> None:
    made = await Hearing().open()
    made.state(**fields)
    assert made.inbox.new_episode is None
    assert made.watch.served is None
    assert made.inbox.dropped == dropped
    made.close()


async def test_a_second_environment_is_named_once_and_not_followed() -> None:
    made = await hearing()
    for _ in range(3):
        made.state("reset", boot="e2")
    assert made.watch.served == "e1"
    assert made.inbox.dropped == 3
    said = [report.what for report in made.broker.stats.reports]
    assert said == [
        "a second environment (boot e2) publishes in addition to the one that is served (boot e1): it is "
        "ignored"
    ]
    for number in range(REMEMBERED_REFUSALS):
        made.state("reset", boot=f"x{number}")
    made.state("reset", boot="x0")
    assert len(made.broker.stats.reports) == 1 + REMEMBERED_REFUSALS, "the newest are remembered"
    made.state("reset", boot="e2")
    assert len(made.broker.stats.reports) == 2 + REMEMBERED_REFUSALS
    made.close()


async def test_what_the_broker_has_kept_of_another_environment_is_not_said_to_speak() -> None:
    made = await hearing()
    made.watch.close()
    made.state("reset", boot="e2", retain=True)
    await made.watch.open()
    assert (made.inbox.dropped, list(made.broker.stats.reports)) == (1, [])
    made.close()


async def test_peers_are_heard_in_the_step_that_is_on_and_strangers_never() -> None:
    made = await hearing()
    made.inbox.begin_step()
    session = P2PSession("MG1", ("MG2",), Bid(-1.0, 100.0))
    made.inbox.open_session(session)
    assert session.waiting_for() == {"MG2"}
    made.offer("MG3")
    made.offer(env_id="another")
    made.offer(env_id=None)
    made.offer(step=None)
    made.offer(episode=None)
    assert (made.inbox.dropped, session.waiting_for()) == (5, {"MG2"})
    made.offer()
    assert session.waiting_for() == set()
    made.offer()
    assert made.inbox.dropped == 6, "a repetition"
    made.inbox.close_session()
    made.close()


async def test_as_many_early_messages_of_a_peer_as_may_be_are_kept() -> None:
    made = await hearing()
    for _ in range(MAX_EARLY):
        made.offer(step=7)
    assert made.inbox.dropped == 0
    made.offer(step=7)
    assert made.inbox.dropped == 1
    made.close()


async def test_an_inbox_that_is_closed_hears_nothing() -> None:
    made = await hearing()
    made.inbox.close()
    made.inbox.close()
    for say in (made.price, made.command, made.clearance, made.observation, made.offer):
        say()
    assert counted(made) == (None, False, False, None)
    assert made.inbox.dropped == 0
    made.close()
