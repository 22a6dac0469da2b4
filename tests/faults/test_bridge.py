"""Two mosquittos, joined by config/mosquitto/bridge.conf: the edge works on while the centre is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.heron_command import until
from support.leases import assert_within_lease
from support.mosquitto_server import Mosquitto
from support.mosquitto_templates import template
from support.observer import Observer, PlainDevice
from support.safety_runs import LEASE_S, run, until_driven, write

pytestmark = pytest.mark.slow

OPEN = "allow_anonymous true"
STORED = ("ess/telemetry", "MG1/action", "MG2/action")


def test_a_run_at_the_edge_works_on_without_its_centre_and_nothing_is_missing_there_afterwards(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    centre = own_mosquitto(OPEN, "persistence true", f"persistence_location {tmp_path}/")
    bridge = [
        line.replace("broker.example:1883", f"127.0.0.1:{centre.port}")
        for line in template("bridge.conf", tmp_path)
        if not line.startswith(("remote_username", "remote_password"))
    ]
    edge = own_mosquitto(OPEN, *bridge)
    device = PlainDevice(edge.url, "small")
    with Observer(edge.url) as here, run(write(tmp_path, steps=120), edge.url) as program:
        until_driven(here, device)
        there = Observer(centre.url)
        until(lambda: there.on("ess/telemetry"), "the bridge is up")
        for topic, payload in (
            ("devices/MG1/ess/setpoint", {"p_mw": 0.001, "lease_s": 60.0}),
            ("devices/MG1/ess/authority", {"level": "shadow", "who": "far away"}),
            ("estop", {"active": False, "boot": "x", "seq": 1}),
        ):
            there.publish(f"heron/small/{topic}", payload)
        centre.kill()
        there.close()
        seen_at_kill = len(here.on("MG1/action"))
        until(lambda: len(here.on("MG1/action")) > seen_at_kill + 20, "the run goes on", 60.0)
        centre.start()
        with Observer(centre.url) as late:
            done = program.wait(90.0)
            last = {end: here.on(end)[-1].payload for end in STORED}
            until(lambda: all(last[e] in _payloads(late, e) for e in STORED), "the last messages", 60.0)
            arrived = {end: _payloads(there, end) + _payloads(late, end) for end in STORED}
        driven = [m for m in here.on("ess/setpoint") if m.json.get("lease_s") == 60.0]
    device.close()
    assert done.code == 0, done.err
    assert done.result["fallbacks"] == done.result["deadline_misses"] == done.result["messages"]["lost"] == 0
    assert driven == [], "what is said at the centre moves nothing at the edge"
    assert_within_lease(device, LEASE_S)
    for end in STORED:
        once, at_edge = (  # the device goes on talking after the run has ended
            messages[: messages.index(last[end]) + 1]
            for messages in (list(dict.fromkeys(arrived[end])), _payloads(here, end))
        )
        assert once == at_edge[at_edge.index(once[0]) :], f"{end}: all of it, in order"


def _payloads(observer: Observer, topic_end: str) -> list[bytes]:
    return [message.payload for message in observer.on(topic_end)]
