"""What peers say comes into the step that it is of: not before it, and not lost because it came early."""

from __future__ import annotations

import asyncio

from heron_mqtt.agents.inbox import Inbox
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.messages import Observation
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.protocols.p2p import Bid, P2PSession
from support.virtual import run_virtual


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
