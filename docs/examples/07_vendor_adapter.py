"""The adapter of a vendor's device on MQTT as a program of its own: no run or proxy has to be there.

    python docs/examples/07_vendor_adapter.py --broker mqtt://127.0.0.1:1883 --env-id my_site
    python docs/examples/07_vendor_adapter.py --broker mqtt://127.0.0.1:1883 --device-broker mqtt://192.168.1.60

Replace the mapping, the kind and the nameplate by those of your device (docs/device-mappings.md).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from heron_mqtt.app.vendor_links import claimed_places, power_places
from heron_mqtt.end_signals import AskedToEnd, exit_code, run_until_told
from heron_mqtt.errors import HeronError
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.field.place_claim import PlaceClaim, broker_place
from heron_mqtt.field.vendor import VendorDevice, load_mapping
from heron_mqtt.field.vendor.commands import budget_of
from heron_mqtt.field.vendor.link import MqttLink
from heron_mqtt.messages import Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.stamping import MessageStamper

AGENT, NAME = "MG1", "ess"
MAPPING = {
    "profile": "device_profiles/home_assistant.toml",
    "parameters": {
        "command_topic": "battery/power/set",
        "power_topic": "battery/power/state",
        "soc_topic": "battery/soc/state",
        "availability_topic": "battery/status",
    },
}


async def serve(url: str, device_url: str, env_id: str) -> None:
    """Be MG1/ess until cancelled; then the device is handed back to its own control.

    Args:
        url: Our broker.
        device_url: The broker of the device; may be the same.
        env_id: The environment.
    """
    mapping = load_mapping(MAPPING, agent=AGENT, device=NAME, source="MAPPING")
    stamper = MessageStamper(f"{AGENT}/{NAME}", env_id)
    will = (topics.device(AGENT, NAME, "status"), stamper.will(Status(state="offline")))
    ours = MqttBroker(url, env_id=env_id, will=will)
    options = read_options(device_url, client_id=f"adapter-{AGENT}-{NAME}")
    # another environment or name on this machine must not drive the same device
    claim = PlaceClaim(
        claimed_places(mapping, options, None),
        env_id,
        broker_place(ours.options.hosts),
        own_places=power_places(mapping, options, None),
        own_device=f"{AGENT}/{NAME}",
    )
    with closing(claim):
        async with RawMqtt(options, ours.stats) as connection, leaving_others_alone(ours) as broker:
            device = VendorDevice(
                mapping,
                MqttLink(connection),
                AGENT,
                NAME,
                broker,
                env_id=env_id,
                stamper=stamper,
                kind="battery",
                power_range_mw=(-0.003, 0.003),
                stands_alone=True,  # no gateway tells it its authority when it starts
                budget=budget_of(mapping, env_id, AGENT, NAME),
                claim=claim,
            )
            try:
                await device.run(on_online=lambda: print(f"{device.label} is online at {url}", flush=True))
            finally:
                if device.left_undone is not None:  # exit code 1, whatever has ended the program
                    raise HeronError(f"{device.label}: {device.left_undone}")


def main() -> int:
    """Read the arguments and serve; returns the exit code."""
    parser = argparse.ArgumentParser(description="A vendor's battery on MQTT, as MG1/ess.")
    parser.add_argument("--broker", metavar="URL", required=True, help="our broker, mqtt://host:port")
    parser.add_argument("--device-broker", metavar="URL", help="the device's broker (default: ours)")
    parser.add_argument("--env-id", default="three_microgrids", help="environment on the wire")
    options = parser.parse_args()
    try:
        run_until_told(serve(options.broker, options.device_broker or options.broker, options.env_id))
    except AskedToEnd as asked:  # Ctrl-C or SIGTERM; the device was handed back
        return exit_code(asked)
    except HeronError as exc:  # no broker there, a wrong login, a second device of this name
        print(f"{parser.prog}: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
