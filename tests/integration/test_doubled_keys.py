"""A key that comes twice: the devices of the examples refuse the message; on ``estop`` it is a stop."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import examined_devices as devices
from support.mosquitto_server import Mosquitto
from support.paho_site import Site, until

TELEMETRY, CONFIRM = "devices/MG1/ess/telemetry", "estop/confirm/MG1/ess"
TWICE = [
    b'{"type":"estop","active":true,"active":false}',
    b'{"type":"estop","active":false,"seq":1,"seq":2,"boot":"b"}',
    b'{"type":"estop","active":false,"env_id":"another","env_id":"bench"}',
]


def confirmed(site: Site, payload: bytes) -> Any:
    """Return whether a stop is in force, by the confirmation of a message on ``estop``."""
    before = len(site.messages(CONFIRM))
    site.say("estop", payload)
    assert until(lambda: len(site.messages(CONFIRM)) > before, 20.0)
    return site.messages(CONFIRM)[-1]["active"]


def acknowledged(site: Site) -> set[Any]:
    return {told.get("ack_seq") for told in site.messages(TELEMETRY)}


@pytest.mark.slow_but("bare_device")
@pytest.mark.parametrize("prepare", [devices.bare, devices.in_c], ids=["bare_device", "c_battery"])
def test_a_doubled_key_is_a_stop_and_no_setpoint(
    mosquitto: Mosquitto, tmp_path: Path, prepare: devices.Prepare
) -> None:
    program = prepare(mosquitto.url.removeprefix("mqtt://"), tmp_path, False)
    with Site(mosquitto.url, devices.ENV) as site, subprocess.Popen(program.command) as process:
        try:
            assert until(lambda: site.messages(TELEMETRY), 20.0)
            for payload in TWICE:
                assert confirmed(site, payload) is True, payload
                assert confirmed(site, b'{"type":"estop","active":false}') is False
            site.say("devices/MG1/ess/setpoint", b'{"p_mw":0.01,"p_mw":0.01,"lease_s":30,"seq":1}')
            site.say("devices/MG1/ess/setpoint", b'{"p_mw":0.01,"lease_s":30,"seq":2}')
            assert until(lambda: 2 in acknowledged(site), 20.0)
            assert 1 not in acknowledged(site)
        finally:
            process.terminate()
