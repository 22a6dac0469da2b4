"""Clocks: MQTT does not give the broker's time; only how far the senders' clocks are ahead can be known.

Nothing that moves a device compares clocks of two machines; times stand in records, for people.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker

LISTEN_S = 2.0
TOLERATED_S = 1.0


async def examine_clocks(broker: MqttBroker) -> BrokerFinding:
    """Listen to the environment and compare the times in live messages with this machine's clock.

    The difference contains the sender's clock error and the time on the way. So if messages seem to come from
    the future, the sender's clock is ahead by at least that much.

    Args:
        broker: Connected, of the environment that is in use; nothing is published.
    """
    least_s: dict[str, float] = {}

    def on_message(message: Received) -> None:
        sender, sent_at = message.get("sender"), message.get("sent_at")
        if message.retained or not isinstance(sender, str) or not isinstance(sent_at, str):
            return
        try:
            sent = datetime.fromisoformat(sent_at)
        except ValueError:
            return
        if sent.tzinfo is not None:
            late_s = (datetime.now(UTC) - sent).total_seconds()
            if sender in least_s or len(least_s) < 1_000:
                least_s[sender] = min(late_s, least_s.get(sender, late_s))

    subscription = broker.subscribe("#", on_message)
    try:
        await subscription
        await asyncio.sleep(LISTEN_S)
    finally:
        subscription()
    unknown = "MQTT does not give the time of the broker"
    if not least_s:
        return BrokerFinding(
            "clocks",
            "not tried",
            f"{unknown}, and no message came in environment {broker.topic_map.env_id!r} for {LISTEN_S:g} s",
        )
    figures = {"least_delay_s": {name: round(value, 3) for name, value in sorted(least_s.items())}}
    wrong = {name: value for name, value in least_s.items() if not -TOLERATED_S < value < TOLERATED_S}
    if not wrong:
        what = f"{unknown}; the clocks of {len(least_s)} senders agree with this one to {TOLERATED_S:g} s"
        return BrokerFinding("clocks", "go", what, figures=figures)
    name, value = max(wrong.items(), key=lambda item: abs(item[1]))
    how = (
        f"ahead of this one by at least {-value:.1f} s" if value < 0 else f"behind, or late, by {value:.1f} s"
    )
    return BrokerFinding(
        "clocks",
        "note",
        f"{unknown}; the clock of {name} is {how}"
        + (f", and {len(wrong) - 1} more differ" if wrong and len(wrong) > 1 else "")
        + "; times in records are not reliable; devices are not affected",
        "keep the machines' clocks together (chrony, systemd-timesyncd)",
        figures,
    )
