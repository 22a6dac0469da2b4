"""The stall test: a reader is stopped, and it is counted what the broker has kept for it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.app.doctor.traffic import CHANNEL
from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.own_program import module_command, module_environment

MESSAGES = 3_000
"""A minute of ten agents with five devices each, which publish once a second."""
FILLING = "x" * 400
START_S, SENT_S, COLLECT_S = 20.0, 20.0, 20.0
CHANGE = (
    "give the broker queues that do not drop (mosquitto: max_queued_messages 0, max_inflight_messages 0, "
    "config/mosquitto)"
)


async def examine_stall(broker: MqttBroker) -> BrokerFinding:
    """Stop a reader, publish, let it continue, and count what arrives.

    Args:
        broker: Connected; its settings and login are handed to the reader.
    """
    token = secrets.token_hex(6)
    reader = await asyncio.create_subprocess_exec(
        *module_command(
            "heron_mqtt.app.doctor.stalled_reader",
            *(broker.options.address, broker.topic_map.env_id, CHANNEL, token),
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=module_environment({**os.environ, **broker.options.login_environment()}),
    )
    try:
        return await _examine(broker, reader, token)
    except (TimeoutError, BrokerError, ConnectionError) as exc:
        return BrokerFinding(
            "stalled reader", "no-go", f"the test did not finish: {exc or 'it took too long'}"
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            reader.kill()  # ends a stopped process, too
        await reader.wait()


async def _examine(broker: MqttBroker, reader: asyncio.subprocess.Process, token: str) -> BrokerFinding:
    assert reader.stdout is not None
    async with asyncio.timeout(START_S):
        if await reader.stdout.readline() != b"ready\n":
            return BrokerFinding("stalled reader", "no-go", "the reader could not subscribe")
    reader.send_signal(signal.SIGSTOP)
    sent = [
        broker.publish(CHANNEL, {"type": "probe", "boot": token, "n": n, "filling": FILLING})
        for n in range(MESSAGES)
    ]
    async with asyncio.timeout(SENT_S):
        await asyncio.gather(*sent)
    reader.send_signal(signal.SIGCONT)
    got, reconnects = await _collected(reader)
    figures = {"sent": MESSAGES, "received": got, "lost": MESSAGES - got, "reader_reconnects": reconnects}
    what = f"of {MESSAGES} messages that the broker acknowledged while a reader was stopped, {got} arrived"
    if got == MESSAGES:
        return BrokerFinding("stalled reader", "go", what, figures=figures)
    if reconnects:
        what += "; the broker has ended the reader's connection"
    return BrokerFinding("stalled reader", "no-go", what, CHANGE, figures)


async def _collected(reader: asyncio.subprocess.Process) -> tuple[int, int]:
    """Ask the reader until it has everything, or nothing has come for 2 s."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    loop = asyncio.get_running_loop()
    got, reconnects, since_s = -1, 0, loop.time()
    async with asyncio.timeout(COLLECT_S):
        while got < MESSAGES and loop.time() - since_s < 2.0:
            reader.stdin.write(b"\n")
            now, reconnects = map(int, (await reader.stdout.readline()).split())
            if now != got:
                got, since_s = now, loop.time()
            await asyncio.sleep(0.05)
    return got, reconnects
