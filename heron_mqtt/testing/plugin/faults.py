"""Disturbs what runs at a broker: faults of emulated devices, garbage, the emergency stop."""

from __future__ import annotations

import asyncio
import json
import uuid
from types import TracebackType
from typing import Any, Self

from heron_mqtt.config import validate
from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.messages import EmergencyStop, Fault, FaultKind, Message
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.topics import ESTOP, TopicMap, check_channel
from heron_mqtt.messaging.topics import device as device_channel

ONLINE_S = 2.0  # a broker sends what it has kept at once


class FaultInjector:
    """Publishes disturbances; a stop that it has pressed is released on leaving.

    Each call returns when the broker has taken the message.

    Args:
        url: Of the broker.
        env_id: The environment.
    """

    def __init__(self, url: str, env_id: str) -> None:
        self._topics = TopicMap(env_id)
        self._stamper = MessageStamper("test", env_id)
        options = read_options(url, client_id=f"inject-{uuid.uuid4().hex[:8]}")
        self._mqtt = RawMqtt(options, MessageStats(), ours=True)
        self._has_stopped = False

    def __enter__(self) -> Self:
        run_sync(self._mqtt.connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._has_stopped:
                self.release()
        finally:
            run_sync(self._mqtt.close())

    def fault(self, device: str, kind: FaultKind, *, steps: int = 1, value: float = 0.0) -> None:
        """Let an emulated device misbehave from the next step on.

        Args:
            device: ``AGENT/DEVICE``.
            kind: silence, stuck, frozen, offset, ignore_setpoints, reject_setpoints, garbage or reboot.
            steps: For how many steps.
            value: Size of an offset, MW.

        Raises:
            ConfigError: There is no such fault, or ``device`` is no AGENT/DEVICE.
            NotReady: No device of this name is online at the broker: nothing would misbehave.
        """
        agent_id, _, name = device.partition("/")
        if not agent_id or not name or "/" in name:
            raise ConfigError(f"inject.fault({device!r}): expected AGENT/DEVICE, for example MG1/ess")
        fault = validate(Fault, {"kind": kind, "steps": steps, "value": value}, f"inject.fault({device!r})")
        run_sync(self._require_online(device, device_channel(agent_id, name, "status")))
        self._say(device_channel(agent_id, name, "fault"), fault)

    async def _require_online(self, device: str, channel: str) -> None:
        """See that a device is there to misbehave: the broker has kept its status."""
        online = asyncio.Event()

        def take(_topic: str, payload: bytes, _retained: bool) -> None:
            if b'"online"' in payload:
                online.set()

        forget = self._mqtt.subscribe_raw(self._topics.topic(channel), take)
        try:
            async with asyncio.timeout(ONLINE_S):
                await online.wait()
        except TimeoutError:
            raise NotReady(
                f"inject.fault({device!r}): no such device is online at the test's broker; faults are for "
                "emulated devices that run there, as device_harness starts them"
            ) from None
        finally:
            forget()

    def stop(self, why: str = "a test") -> None:
        """Press the emergency stop of the environment; kept by the broker."""
        self._has_stopped = True
        self._say(ESTOP, EmergencyStop(active=True, who="test", why=why), retain=True)

    def release(self) -> None:
        """Release it."""
        self._has_stopped = False
        self._say(ESTOP, EmergencyStop(active=False, who="test"), retain=True)

    def garbage(self, channel: str, payload: bytes = b"\xff{not json") -> None:
        """Publish bytes that cannot be decoded on a channel, for example ``agents/MG1/action``.

        Raises:
            ValueError: The channel holds a wildcard.
        """
        self._publish(self._topics.topic(check_channel(channel)), payload)

    def _say(self, channel: str, message: Message, *, retain: bool = False) -> None:
        stamped: dict[str, Any] = self._stamper.stamp(channel, message)
        self._publish(self._topics.topic(channel), json.dumps(stamped).encode(), retain=retain)

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        async def publish() -> None:
            await self._mqtt.publish_raw(topic, payload, retain=retain)

        run_sync(publish())
