"""One agent of ``peers.py`` as a program of its own: it answers each observation with the same report.

python benchmarks/peer_agent.py {heron,paho,aiomqtt,mosaik,helics} ADDRESS NAME
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

ACTION: dict[str, Any] = {
    "p_gen": 0.0125,
    "p_ess": -0.0031,
    "p_pv": 0.0217,
    "soc_ess": 0.4987,
    "cost_gen": 0.8125,
}
PREFIX = "peers"


def answer(payload: str | bytes | bytearray, name: str) -> str:
    """Return what an agent says to what it is told: read, and written, as an application would."""
    told = json.loads(payload)
    return json.dumps(
        {"type": "action", **ACTION, "step": told["step"], "sender": name, "sent_at": told["sent_at"]}
    )


async def heron(url: str, name: str) -> None:
    """Be a proxy of ours, with an agent that costs nothing."""
    from heron_mqtt.agents import Proxy
    from heron_mqtt.bench.agent_exchange import ConstantAgent
    from heron_mqtt.messaging.mqtt import MqttBroker

    async with MqttBroker(url, env_id=PREFIX) as broker:
        proxy = Proxy(f"{name}_proxy", ConstantAgent(name), broker, env_id=PREFIX)
        await proxy.start()
        await proxy.run()


def paho(port: int, name: str) -> Client:
    """Return a client of paho with its thread and its defaults; it answers until it is ended."""
    client = Client(CallbackAPIVersion.VERSION2)

    def take(_client: object, _data: object, message: MQTTMessage) -> None:
        if message.topic.endswith("/observation"):
            client.publish(f"{PREFIX}/{name}/action", answer(message.payload, name), 1)

    def connected(*_: object) -> None:
        client.subscribe([(f"{PREFIX}/{name}/observation", 1), (f"{PREFIX}/all/#", 1)])

    client.on_message = take
    client.on_connect = connected
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


async def aiomqtt(port: int, name: str) -> None:
    """Answer over a client of aiomqtt with its defaults."""
    import aiomqtt as library

    async with library.Client("127.0.0.1", port) as client:
        await client.subscribe([(f"{PREFIX}/{name}/observation", 1), (f"{PREFIX}/all/#", 1)])
        async for message in client.messages:
            if str(message.topic).endswith("/observation"):
                await client.publish(f"{PREFIX}/{name}/action", answer(message.payload, name), 1)


def mosaik_simulator() -> type:
    """Return the class of a mosaik simulator whose entities answer what they are told."""
    import mosaik_api_v3

    class Agents(mosaik_api_v3.Simulator):  # type: ignore[misc] # mosaik has no types
        def __init__(self) -> None:
            model = {"public": True, "params": [], "attrs": ["observation", "action"]}
            super().__init__({"type": "time-based", "models": {"Agent": model}})
            self._said: dict[str, str] = {}

        def create(self, num: int, model: str) -> list[dict[str, Any]]:
            names = [f"MG{len(self._said) + i}" for i in range(num)]
            self._said.update(dict.fromkeys(names, ""))
            return [{"eid": name, "type": model} for name in names]

        def step(self, time: int, inputs: dict[str, Any], max_advance: int) -> int:
            del max_advance
            for name, attributes in inputs.items():
                (told,) = attributes["observation"].values()
                self._said[name] = answer(told, name)
            return time + 1

        def get_data(self, outputs: dict[str, Any]) -> dict[str, Any]:
            return {name: {"action": self._said[name]} for name in outputs}

    return Agents


def helics(port: str, name: str) -> None:
    """Be a federate with one endpoint, that answers what comes."""
    import helics as h

    info = h.helicsCreateFederateInfo()
    h.helicsFederateInfoSetCoreTypeFromString(info, "zmq")
    h.helicsFederateInfoSetCoreInitString(info, f"--federates=1 --brokerport={port}")
    h.helicsFederateInfoSetTimeProperty(info, h.HELICS_PROPERTY_TIME_DELTA, 0.01)
    federate = h.helicsCreateMessageFederate(name, info)
    endpoint = h.helicsFederateRegisterGlobalEndpoint(federate, name, "")
    h.helicsFederateEnterExecutingMode(federate)
    now = 0.0
    while now < h.HELICS_TIME_MAXTIME - 1.0:
        now = h.helicsFederateRequestTime(federate, h.HELICS_TIME_MAXTIME)
        while h.helicsEndpointHasMessage(endpoint):
            told = h.helicsMessageGetString(h.helicsEndpointGetMessage(endpoint))
            if told == "end":
                h.helicsFederateDisconnect(federate)
                return
            h.helicsEndpointSendBytesTo(endpoint, answer(told, name).encode(), "environment")


def main() -> None:
    """Be the agent that the command line names, until it is ended."""
    what, address, name = sys.argv[1:]
    if what == "heron":
        asyncio.run(heron(address, name))
    elif what == "helics":
        helics(address, name)
    elif what == "mosaik":
        import mosaik_api_v3

        sys.argv = [sys.argv[0], address]
        mosaik_api_v3.start_simulation(mosaik_simulator()())
    else:
        raise SystemExit(f"{what}: expected heron, helics or mosaik")


if __name__ == "__main__":
    main()
