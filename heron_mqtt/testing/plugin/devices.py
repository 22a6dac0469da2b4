"""The devices of a test: started at its broker, watched, and ended with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.conformance.serve import serving_command, serving_environment
from heron_mqtt.testing.device_harness import CheckFailed, DeviceHarness
from heron_mqtt.testing.device_process import DeviceProcess, fill_in

LOOK_S = 0.02


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
            ConfigError: An argument is wrong, or the program cannot be started.
            CheckFailed: It was started, and has ended, or is not born in time.
        """
        agent_id, _, name = device.partition("/")
        if not agent_id or not name or "/" in name:
            raise ConfigError(f"device_harness({device!r}): expected AGENT/DEVICE, for example MG1/ess")
        if isinstance(command, str):
            expected = f'expected a list of words, as ["python", "my_device.py"], got the text {command!r}'
            raise ConfigError(f"device_harness({device!r}): command: {expected}")
        if command and class_name is not None:
            raise ConfigError(f"device_harness({device!r}): command and class_name: one or the other")
        if class_name is not None:
            command = serving_command(class_name)
        place = self._place
        harness = self._stack.enter_context(
            DeviceHarness(place.url, env_id=place.env_id, agent_id=agent_id, name=name, within_s=within_s)
        )
        if command:
            words = fill_in(command, url=place.url, env_id=place.env_id, agent_id=agent_id, name=name)
            environment = serving_environment() if class_name is not None else None
            process = self._stack.enter_context(DeviceProcess(words, environment=environment))
            process.start()
            _wait_for_birth(harness, process)
        return harness

    def close(self) -> None:
        """End the devices, and what watches them."""
        self._stack.close()


def _wait_for_birth(harness: DeviceHarness, process: DeviceProcess) -> None:
    """Wait for the birth; of a program that has ended no longer: what it printed last says why."""

    def is_born() -> bool:
        return any(message.json.get("state") == "online" for message in harness.heard("status"))

    end_s = time.monotonic() + harness.within_s
    while not is_born() and not process.ending and time.monotonic() < end_s:
        harness.pause(LOOK_S)
    if process.ending and not is_born():
        raise CheckFailed(f"{harness.label} was not born: {process.ending}")
    if not is_born():
        last = f"; it has printed last: {process.said[-1]}" if process.said else "; it has printed nothing"
        raise CheckFailed(
            f"{harness.label} was not born within {harness.within_s:g} s: its program runs, but no birth "
            f"came on {harness.topic('status')}{last}"
        )
