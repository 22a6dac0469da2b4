"""The environments of a test, each closed at its end; what they do counts for the test's budget."""

from __future__ import annotations

import time
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.testing.plugin.budgets import Measured
from powergrid.envs import MultiAgentMicrogrids


def impair(
    broker: MessageBroker, network: str | ImpairmentTable = "lte_poor", *, seed: int = 0
) -> ImpairedBroker:
    """Return a broker behind an impaired network.

    Args:
        broker: Carries what comes through; connected and closed with the result.
        network: A file of ``config/networks``, its name, or a table.
        seed: Of all that is drawn.

    Raises:
        ConfigError: There is no such network, or ``broker`` is none.
    """
    if not isinstance(broker, MessageBroker):
        raise ConfigError(
            f"impaired({broker!r}): expected a broker, as mqtt_broker.connect() or InMemoryBroker() makes one"
        )
    table = load_impairment(network) if isinstance(network, str) else network
    return ImpairedBroker(broker, table, seed=seed)


class MeasuredMicrogrids(MultiAgentMicrogrids):
    """An environment whose steps count for a budget."""

    measured: Measured | None = None

    def step(self, actions: Any) -> Any:
        """Take a step, as the environment does."""
        if self._direct is None:
            return super().step(actions)  # which takes it by ``step_async``
        begun_s = time.perf_counter()
        return self._counted(super().step(actions), begun_s)

    async def step_async(self, actions: Any) -> Any:
        """Take a step, as the environment does."""
        begun_s = time.perf_counter()
        return self._counted(await super().step_async(actions), begun_s)

    def _counted(self, result: Any, begun_s: float) -> Any:
        if self.measured is not None:
            self.measured.add_step(result[4], 1e3 * (time.perf_counter() - begun_s))
        return result


class EnvironmentMaker:
    """Makes environments for one test.

    Args:
        request: Of the fixture; the test's broker is asked for when it is needed.
        measured: What counts for the test's budget, where it has one.
    """

    def __init__(self, request: pytest.FixtureRequest, measured: Measured | None) -> None:
        self._request = request
        self._measured = measured
        self._envs: list[MeasuredMicrogrids] = []
        self._brokers: list[MessageBroker] = []

    def make(
        self, scenario: Any = "three_microgrids", *, over: str | MessageBroker = "centralized", **config: Any
    ) -> MultiAgentMicrogrids:
        """Return an environment; see the fixture.

        Raises:
            ConfigError: A key or the scenario is wrong.
        """
        if over == "centralized":
            chosen: dict[str, Any] = {"centralized": True}
        else:
            broker, env_id = self._broker(over)
            chosen = {"centralized": False, "message_broker": broker}
            if env_id is not None:
                chosen["env_id"] = env_id
        env = MeasuredMicrogrids({"scenario": scenario, **chosen, **config})
        env.measured = self._measured
        self._envs.append(env)
        return env

    def close(self) -> None:
        """Close the environments, then the brokers that were made for them."""
        for env in self._envs:
            env.close()
        for broker in self._brokers:
            run_sync(broker.close())

    def _broker(self, over: str | MessageBroker) -> tuple[MessageBroker, str | None]:
        if isinstance(over, MessageBroker):
            return self._counted(over), None
        if over == "memory":
            return self._counted(InMemoryBroker()), None
        if over == "mqtt":
            place = self._request.getfixturevalue("mqtt_broker")
            return self._counted(place.connect()), place.env_id
        raise pytest.UsageError(f"microgrids(over={over!r}): expected centralized, memory, mqtt or a broker")

    def _counted(self, broker: MessageBroker) -> MessageBroker:
        self._brokers.append(broker)
        if self._measured is not None:
            self._measured.brokers.append(broker)
        return broker
