"""MqttSession: attempts to reconnect come ever later, bounded, and not from all clients at one moment."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import session as session_module
from heron_mqtt.messaging.mqtt.broker import MqttBroker
from heron_mqtt.messaging.mqtt.session import FIRST_DELAY_S, MAX_DELAY_S, STABLE_S, MqttSession
from support.virtual import run_virtual, virtual_now


class Owner:
    """Listens to nothing."""

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None: ...

    def on_bad_topic(self, topic: str) -> None: ...

    def on_oversized(self, topic: str, size: int) -> None: ...

    def on_connected(self, again: bool) -> None: ...


class Network:
    """Answers attempts to connect as the test says, and notes when they come."""

    def __init__(self) -> None:
        self.attempts_at_s: list[float] = []
        self.refusals = 0  # attempts that fail from now on
        self.newest: Connection | None = None
        self.connected = asyncio.Event()

    def connection(self, *args: Any) -> Connection:
        return Connection(self)

    async def come_back(self, after_refusals: int) -> list[float]:
        """Lose the connection; return the pauses before each attempt until there is one again, s."""
        assert self.newest is not None
        before, lost = len(self.attempts_at_s), self.newest
        self.refusals = after_refusals
        lost_at_s = virtual_now()
        self.connected = asyncio.Event()  # of the loop that runs now
        lost.lost.set_result("the test pulled the plug")
        await self.connected.wait()
        times = [lost_at_s, *self.attempts_at_s[before:]]
        return [later - sooner for sooner, later in pairwise(times)]


class Connection:
    """One attempt."""

    has_limits, receive_maximum = False, 10

    def __init__(self, network: Network) -> None:
        self.network = network
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        self.network.attempts_at_s.append(virtual_now())
        if self.network.refusals > 0:
            self.network.refusals -= 1
            raise BrokerUnavailable("no answer")
        self.network.newest = self
        self.network.connected.set()

    def abort(self) -> None: ...

    def disconnect(self) -> None: ...


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(session_module, "Connection", made.connection)
    return made


def new_session(seed: int) -> MqttSession:
    return MqttSession(
        MqttBroker("mqtt://127.0.0.1:1").options,
        Owner(),
        MessageStats(),
        will=None,
        wanted=list,
        rng=random.Random(seed),
        max_pending=10,
    )


def pauses_of(network: Network, seed: int, refusals: int = 12) -> list[float]:
    async def main() -> list[float]:
        session = new_session(seed)
        await session.started()
        pauses = await network.come_back(refusals)
        await session.abort()
        return pauses

    return run_virtual(main())


def test_the_delays_double_up_to_a_bound_each_shortened_by_up_to_a_half(network: Network) -> None:
    pauses = pauses_of(network, seed=1)
    assert len(pauses) == 13
    for k, pause_s in enumerate(pauses):
        most_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**k)
        assert 0.5 * most_s - 1e-6 <= pause_s <= most_s + 1e-6, f"attempt {k}"
    assert max(pauses) > 0.5 * MAX_DELAY_S


def test_the_delays_of_a_seed_repeat_and_those_of_another_differ(network: Network) -> None:
    first, again, other = (pauses_of(network, seed) for seed in (1, 1, 2))
    assert first == again
    assert all(a != pytest.approx(b, rel=1e-6) for a, b in zip(first, other, strict=True))


def test_a_connection_that_does_not_last_goes_on_with_longer_delays_and_one_that_does_begins_afresh(
    network: Network,
) -> None:
    async def main() -> None:
        session = new_session(1)
        await session.started()
        await asyncio.sleep(STABLE_S)
        await network.come_back(5)
        await asyncio.sleep(STABLE_S / 2)
        (pause_s,) = await network.come_back(0)
        assert pause_s >= 0.5 * FIRST_DELAY_S * 2**6 - 1e-6
        await asyncio.sleep(STABLE_S)
        (pause_s,) = await network.come_back(0)
        assert pause_s <= FIRST_DELAY_S + 1e-6
        await session.abort()

    run_virtual(main())


def test_the_first_connection_is_tried_again_with_growing_delays_while_there_is_patience(
    network: Network,
) -> None:
    async def main() -> None:
        session = new_session(1)
        session._patience_s = 60.0
        network.refusals = 6
        await session.started()
        pauses = [later - sooner for sooner, later in pairwise(network.attempts_at_s)]
        for k, pause_s in enumerate(pauses):
            assert 0.5 <= pause_s / (FIRST_DELAY_S * 2**k) <= 1.0
        assert len(pauses) == 6
        await session.abort()

    run_virtual(main())
