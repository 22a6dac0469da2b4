"""Whether the broker keeps a session for a client that is away, and how much of what others publish."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker

CHECK = "kept session"
CHANNEL = topics.device("doctor-agent", "doctor-device", "telemetry")
MISSED = 1_500
"""More than mosquitto keeps with its defaults: a device that publishes once a second, away for 25 minutes."""
EXPIRY_S = 60
ANSWER_S = 10.0
CHANGE = (
    "for --clean-start false give the broker persistent sessions, and queues that do not drop "
    "(mosquitto: max_queued_messages 0); without it nothing needs this"
)


async def examine_kept_session(connect: Callable[..., MqttBroker]) -> BrokerFinding:
    """Be away while messages are published, come back, and count them.

    Args:
        connect: Makes a connection, with the settings that it is given by name.
    """
    client_id = f"doctor-{secrets.token_hex(4)}"
    got: list[int] = []

    def away() -> MqttBroker:
        return connect(client_id=client_id, clean_start=False, session_expiry_s=EXPIRY_S)

    try:
        async with away() as broker:
            await broker.subscribe(CHANNEL, lambda _: None)
        async with connect() as publisher:
            sent = [publisher.publish(CHANNEL, {"type": "telemetry", "n": n}) for n in range(MISSED)]
            for delivery in sent:
                await delivery
        async with away() as broker:
            await broker.subscribe(CHANNEL, lambda message: got.append(message["n"]))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await _until_quiet(got)
    finally:
        async with connect(client_id=f"{client_id}-kept"):
            pass  # a clean start with its name ends the session
    return _finding(got)


async def _until_quiet(got: list[int]) -> None:
    """Wait until all have come, or until no more come for a while."""
    before = -1
    while len(got) < MISSED and len(got) != before:
        before = len(got)
        await asyncio.sleep(1.0)


def _finding(got: list[int]) -> BrokerFinding:
    figures = {"sent": MISSED, "kept": len(got)}
    if got == list(range(MISSED)):
        return BrokerFinding(
            CHECK,
            "go",
            f"all {MISSED:,} messages published meanwhile arrived later, in order",
            figures=figures,
        )
    if sorted(got) == list(range(MISSED)):
        return BrokerFinding(
            CHECK, "note", "messages published meanwhile arrived out of order", CHANGE, figures
        )
    what = f"of {MISSED:,} messages published meanwhile {len(got):,} came later"
    return BrokerFinding(CHECK, "note", what, CHANGE, figures)
