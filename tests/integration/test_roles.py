"""A day's work as the roles that the access rights are made for: not one message is denied.

On the embedded broker and on mosquitto, each with the rows that ``heron-mqtt credentials add`` writes. The
run is the operator; MG1 is remote, with its emulated devices, as an agent; a device of its own is a device.
"""

from __future__ import annotations

import inspect
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.cli.run_commands import app
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from support.heron_command import Ended, Program, heron, until, write_toml
from support.mosquitto_clients import Watcher
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario as small

ENV = "small"
USERS = {"so": "operator", "MG1": "agent", "MG1/ess": "device"}


def login(user: str) -> dict[str, str]:
    return {"HERON_MQTT_USERNAME": user, "HERON_MQTT_PASSWORD": "pw"}


@dataclass(frozen=True)
class Site:
    """A broker with the roles' rights, and what it denied."""

    url: str
    denied: Callable[[], list[str]]

    def start(self, user: str, command: str, *arguments: str) -> Program:
        return heron(command, *arguments, "--broker", self.url, environment=login(user))

    def call(self, user: str, command: str, *arguments: str) -> Ended:
        with self.start(user, command, *arguments) as program:
            return program.wait()


@pytest.fixture(params=["embedded", "mosquitto"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]
) -> Iterator[Site]:
    users, acl = tmp_path / "users", tmp_path / "acl"
    for name, role in USERS.items():
        add_credentials(name, role, b"pw", users_file=users, acl_file=acl)
    add_credentials("test", "observer", b"pw", users_file=users, acl_file=acl)
    with_test = f"{acl.read_text()}topic readwrite heron-test/#\n"
    # as the page on Home Assistant says
    acl.write_text(with_test.replace("user so\n", "user so\ntopic readwrite homeassistant/#\n"))
    if request.param == "embedded":
        with heron("broker", "--port", "0", "--users", str(users), "--acl", str(acl)) as program:
            url = program.wait_for("listening").split()[1]
            words = ("publish_denied", "subscription_refused")
            yield Site(url, lambda: [line for line in program.err if any(word in line for word in words)])
        return
    server = own_mosquitto("allow_anonymous true", f"acl_file {acl}", "log_type all")
    log = server.folder / "mosquitto.log"
    yield Site(server.url, lambda: [line for line in log.read_text().splitlines() if "Denied" in line])


@pytest.mark.slow
def test_a_run_its_remote_agent_and_every_command_are_denied_nothing(site: Site, tmp_path: Path) -> None:
    """Quicker: what each role may publish and read, topic by topic (tests/embedded/test_rights_table.py)."""
    changes = {
        "realtime_s": 0.3,
        "lease_s": 2.0,
        "steps": 200,
        "profiles.repeat": True,
        "microgrids.MG1.remote": True,
        "envelope": {"grid_check": True},  # plans and clearances
        "microgrids.MG1.devices.ess.authority": "shadow",  # a device of its own, not of the proxy
        "microgrids.MG2.devices.gen.authority": "simulated",
        "microgrids.MG2.devices.pv.authority": "simulated",
        "microgrids.MG3.devices.gen.authority": "simulated",
        "microgrids.MG3.devices.pv.authority": "simulated",
        "microgrids.MG3.devices.ess.authority": "simulated",
    }
    path = write_toml(tmp_path / "small.toml", small(changes))
    own = ["--agent", "MG1", "--name", "ess", "--scenario", str(path)]
    with (
        site.start("MG1/ess", "device", "battery", *own) as device,
        site.start("MG1", "proxy", str(path), "--agent", "MG1") as proxy,
        site.start("so", "run", str(path), "--json") as run,
        Watcher(site.url.replace("://", "://test:pw@"), f"heron/{ENV}/#") as watcher,
    ):
        watcher.wait_seen(f"heron/{ENV}/agents/MG1/action", lambda m: m["step"] >= 2, within_s=60.0)
        control = ("--env-id", ENV)
        taken = site.call("so", "take", "MG2/ess", "--p-kw", "1", "--for", "2s", *control)
        assert (taken.code, taken.err) == (0, "")
        assert site.call("so", "status", *control).code in {0, 1}
        seen = site.call("so", "top", "--once", *control)
        assert (seen.code, seen.err) == (0, "")
        granted = site.call("so", "authority", "MG2/ess", "shadow", *control)
        assert (granted.code, granted.err) == (0, "")
        remote = site.call("so", "authority", "MG1/pv", "shadow", *control)
        assert (remote.code, remote.err) == (0, "")
        for state in ("on", "off"):
            stop = site.call("so", "estop", state, *control)
            assert (stop.code, stop.err) == (0, "")
        count = len(watcher.seen)
        until(lambda: _has_step(watcher, count), "a step after all that")
        run.signal(2)
        result = run.wait().result
        assert proxy.process.poll() is None
        assert device.process.poll() is None
    assert site.denied() == []
    assert result["deadline_misses"] == 0
    leaves = {s.topic.rpartition("/")[2] for s in watcher.seen}
    assert {"plan", "clearance", "action", "authority", "authority_state", "setpoint", "telemetry"} <= leaves


def _has_step(watcher: Watcher, count: int) -> bool:
    return any(s.topic.endswith("/MG1/action") for s in watcher.seen[count:])


@pytest.mark.slow
def test_what_watches_examines_replays_and_announces_is_denied_nothing(site: Site, tmp_path: Path) -> None:
    """As the operator, and where a command only reads as an observer, too."""
    simulated = {
        f"microgrids.{agent}.devices.{device}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for device in ("gen", "pv", "ess")
    }
    changes = {"realtime_s": 0.2, "steps": 2_000, "profiles.repeat": True, **simulated}
    path = str(write_toml(tmp_path / "small.toml", small(changes)))
    record = tmp_path / "day.heron"
    with site.start("so", "run", path, "--record", str(record), "--steps", "3", "--json") as run:
        assert run.wait().code == 0
    with site.start("so", "run", path, "--json") as run:
        for user in ("so", "test"):
            with site.start(user, "tail", "--env-id", ENV, "--json") as tail:
                tail.wait_for('"run/state"')
            with site.start(user, "dashboard", "--port", "0") as dashboard:
                page = dashboard.wait_for("dashboard: http").split()[-1]
                until(lambda page=page: _shows_steps(page), "the page shows the run", 20.0)
        examined = site.call("so", "doctor", path)
        assert "GO        rights of operator: publishes on " in examined.out  # here any password will do
        announced = site.call("so", "home-assistant", path)
        assert (announced.code, announced.err) == (0, "")
        assert run.process.poll() is None
    replayed = site.call("so", "replay", str(record), "--env-id", "again", "--speed", "50")
    assert replayed.code == 0, replayed.err
    with site.start("MG1/ess", "device", "battery", "--agent", "MG1", "--name", "ess") as device:
        device.wait_for("online")
        asked = ("--device", "MG1/ess", "--env-id", "three_microgrids", "--yes", "--only", "confirm")
        kept = site.call("so", "conformance", *asked)
        assert kept.code == 0, kept.out + kept.err
    # doctor also tries what a client without a login may; here it gets in, and is denied
    stranger = f"heron/{ENV}-doctor/devices/doctor-agent/doctor-device/setpoint"
    assert [line for line in site.denied() if stranger not in line] == []


def _shows_steps(page: str) -> bool:
    with urllib.request.urlopen(f"{page}metrics", timeout=5.0) as answer:
        return b'agent="MG1"' in answer.read()


@pytest.mark.slow_but("mosquitto-three_microgrids", "three_microgrids-mosquitto")
@pytest.mark.parametrize("scenario", ["three_microgrids", "hil_battery"])
def test_the_shipped_scenarios_are_denied_nothing(site: Site, scenario: str) -> None:
    done = site.call("so", "run", scenario, "--steps", "2", "--json")
    assert done.code == 0, done.err
    assert done.result["deadline_misses"] == 0
    assert site.denied() == []


@pytest.mark.slow_but("mosquitto")
def test_what_a_role_must_not_do_is_seen_here(site: Site) -> None:
    """Or else the tests above could not fail."""
    stop = site.call("MG1/ess", "estop", "on", "--env-id", ENV)
    assert stop.code in {0, 1}
    until(lambda: len(site.denied()) >= 1, "a denied message")


def test_every_command_that_takes_a_broker_is_among_them() -> None:
    """A new command belongs into the tests above."""
    taking = set()
    for command in app.registered_commands:
        callback: Any = command.callback
        if "broker" in inspect.signature(callback).parameters:
            taking.add(command.name or callback.__name__)
    # bench measures brokers with messages of its own, on channels outside the wire contract
    # probe reads topics of boxes, none of the wire contract
    elsewhere = {"bench", "probe"}
    driving = {"run", "proxy", "authority", "estop", "take", "status", "top"}
    others = {"replay", "doctor", "dashboard", "tail", "conformance", "home_assistant"}
    assert taking - elsewhere == driving | others
