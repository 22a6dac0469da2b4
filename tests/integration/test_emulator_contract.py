"""A device that requires proof refuses what does not prove its age, whatever it is written in."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from heron_mqtt.testing.embedded_server import EmbeddedServer
from support import examined_devices as devices

PROGRAMS: dict[str, devices.Prepare] = {
    "bare_device.py": devices.bare,
    "c_battery": devices.in_c,
    "esp32 under CPython": functools.partial(devices.esp32, sys.executable),
    "battery": functools.partial(devices.emulator, "battery", "three_microgrids", "ess"),
}


@pytest.mark.slow_but("battery")
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_can_require_proof(program: str, tmp_path: Path) -> None:
    prepare = PROGRAMS[program]
    result = devices.examined(prepare, tmp_path, EmbeddedServer(), proof=True, only=["proof", "by-hand"])
    found = {one.promise.id: one.verdict for one in result.results}
    assert (found["proof"], found["by-hand"]) == ("pass", "not applicable")
