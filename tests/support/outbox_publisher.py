"""A program that publishes telemetry, stops and requests through an outbox, to be killed: ``URL FILE COUNT``.

Prints the number of each message once it is published, and ``away`` once it has no connection.
"""

from __future__ import annotations

import asyncio
import sys

from heron_mqtt.messaging.mqtt import MqttBroker


async def main(url: str, outbox: str, count: int) -> None:
    async with MqttBroker(url, env_id="site", outbox=outbox) as broker:
        said_away = False
        n = 0
        while n < count:
            number = {"sender": "MG1/ess", "boot": "first", "seq": n}
            broker.publish("devices/MG1/ess/telemetry", {"type": "telemetry", "p_mw": 0.001, **number})
            if not broker.connected:
                for leaf in ("setpoint", "authority", "take"):
                    broker.publish(f"devices/MG1/ess/{leaf}", {"type": leaf, "p_mw": 0.002, **number})
                if not said_away:
                    said_away = True
                    print("away", flush=True)
            print(n, flush=True)
            n += 1
            await asyncio.sleep(0.005)
        await asyncio.sleep(600.0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
