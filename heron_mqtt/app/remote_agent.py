"""One agent with its proxy and devices in a process of its own, for an environment that runs elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.app.infrastructure import SoleName, mqtt_infrastructure
from heron_mqtt.app.recording import open_record, run_facts
from heron_mqtt.app.run_plan import Devices
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from powergrid.agents.proxies import make_proxy

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario


async def serve_proxy(
    loaded: LoadedScenario,
    agent: str,
    url: str,
    devices: Devices,
    note: Callable[[str], None],
    *,
    take_over: bool = False,
    accept_broker_limits: bool = False,
    record: str | None = None,
) -> None:
    """Serve one run after another until cancelled.

    Args:
        loaded: The scenario that the environment runs too.
        agent: Marked ``remote`` in it.
        url: The MQTT broker that both reach.
        devices: For devices whose authority the scenario leaves open; emulated ones are started here.
        note: Takes a line for the user.
        take_over: Displace another proxy of this agent.
        accept_broker_limits: Go on with a broker that does not do what safety depends on.
        record: The file that this side is recorded in; ``auto`` = a new one in the default directory.

    Raises:
        ConfigError: The scenario has no such agent, or it is not remote.
        NameTaken: Another proxy of this agent lives, or has taken over.
        BrokerError: The broker is not there, or refuses.
    """
    scenario = loaded.scenario
    if agent not in scenario.microgrids:
        raise ConfigError(f"--agent {agent}: not in {loaded.source}; it has {', '.join(scenario.microgrids)}")
    if not scenario.microgrids[agent].remote:
        raise ConfigError(
            f"{loaded.source}: microgrids.{agent}.remote = false: the environment runs this agent itself; "
            "set remote = true to run it here"
        )
    async with mqtt_infrastructure(
        url,
        loaded,
        [agent],
        devices,
        note,
        name=SoleName(topics.agent(agent, "owner").removesuffix("/owner"), f"agent {agent}"),
        take_over=take_over,
        accept_broker_limits=accept_broker_limits,
    ) as infrastructure:
        assert infrastructure.broker is not None
        proxy = make_proxy(
            scenario,
            agent,
            infrastructure.broker,
            env_id=scenario.topic_env_id,
            devices=devices,
            take_over=take_over,
        )
        recorder = None
        if record is not None:
            facts = run_facts(loaded, role=agent, broker="mqtt", devices=devices)
            recorder = open_record(record, facts, note, keeps_messages=True)
        if recorder is not None:
            recorder.attach(infrastructure.broker, [proxy])
        try:
            await proxy.start()
            note(f"agent {agent} online")
            with frozen_gc():
                await proxy.run()
        finally:
            await proxy.close()
            if recorder is not None:
                told = recorder.close()
                note(f"record: {told['file']}  head {told['head']}")
