"""The devices of a test: started at its broker, watched, and ended with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import pytest

from heron_mqtt.testing.device_harness import DeviceHarness
from heron_mqtt.testing.device_process import DeviceProcess, fill_in


class HarnessMaker:
    """Makes harnesses for one test.

    Args:
        request: Of the fixture.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._place = request.getfixturevalue("mqtt_broker")
        self._stack = contextlib.ExitStack()

    def make(
        self,
        device: str = "MG1/ess",
        *,
        command: Sequence[str] = (),
        class_name: str | None = None,
        within_s: float = 20.0,
    ) -> DeviceHarness:
        """Return a harness that is connected; see the fixture.

        Args:
            device: ``AGENT/DEVICE``.
            command: Its command line, with placeholders.
            class_name: ``MODULE:CLASS`` of a ``FieldDevice``, in place of a command line.
            within_s: How long the device may take for anything, s.

        Raises:
            ConfigError: The program cannot be started.
            CheckFailed: It was started and is not born in time.
        """
        agent_id, _, name = device.partition("/")
        if class_name is not None:
            serve = "heron_mqtt.testing.conformance.serve"
            command = [sys.executable, "-m", serve, class_name, "{broker}", "{env}", "{agent}", "{device}"]
        place = self._place
        harness = self._stack.enter_context(
            DeviceHarness(place.url, env_id=place.env_id, agent_id=agent_id, name=name, within_s=within_s)
        )
        if command:
            words = fill_in(command, url=place.url, env_id=place.env_id, agent_id=agent_id, name=name)
            self._stack.enter_context(DeviceProcess(words)).start()
            harness.birth()
        return harness

    def close(self) -> None:
        """End the devices, and what watches them."""
        self._stack.close()
