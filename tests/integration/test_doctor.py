"""The doctor finds what is wrong with a broker, and nothing where nothing is; the templates pass it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from heron_mqtt.app.acl_files import acl_file, foreign_rights, users_of
from heron_mqtt.app.doctor.examine import RIGHTS_CHANGE
from heron_mqtt.app.doctor.logins import Login
from heron_mqtt.app.doctor.rights import examine_rights
from heron_mqtt.app.doctor.vendor_topics import examine_vendor_device
from heron_mqtt.app.home_assistant.discovery import discovery
from heron_mqtt.app.vendor_adapters import mappings_at_broker
from heron_mqtt.cli.command_line import run_command_line
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from powergrid.scenario import HomeAssistantTable, LoadedScenario, load_scenario, scenario_from_dict
from support.doc_pages import ROOT, blocks
from support.heron_command import heron, run_heron, write_toml
from support.mosquitto_server import Mosquitto
from support.mosquitto_templates import template
from support.small_grid import scenario

LOADED = scenario_from_dict(scenario())
SITE = LOADED.scenario
USERS = [user for user in users_of(SITE) if user.name in {"operator", "observer", "MG1", "MG1/ess"}]
OPEN = "allow_anonymous true"
Server = Callable[..., Mosquitto]


@pytest.fixture
def logins(tmp_path: Path) -> Path:
    """Passwords, rights and a logins file for four users of the site."""
    (tmp_path / "users.txt").touch(mode=0o600)
    tables = []
    for user in USERS:
        subprocess.run(
            ["mosquitto_passwd", "-b", str(tmp_path / "users.txt"), user.name, f"pw {user.name}"], check=True
        )
        file = tmp_path / f"{user.name.replace('/', '-')}.pass"
        file.write_text(f"pw {user.name}\n")
        tables.append(f'["{user.name}"]\nrole = "{user.role}"\npassword_file = "{file.name}"\n')
    (tmp_path / "acl.txt").write_text(acl_file(LOADED, "mosquitto", doctor=True))
    (tmp_path / "logins.toml").write_text("\n".join(tables))
    return tmp_path / "logins.toml"


def examined(url: str, *more: str, cwd: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the doctor; return its exit code and its findings by name."""
    file = write_toml(cwd / "small.toml", scenario())
    done = run_heron("doctor", str(file), "--broker", url, "--json", *more, cwd=cwd)
    assert "Traceback" not in done.err
    return done.code, {finding["check"]: finding for finding in json.loads(done.out)["findings"]}


def verdicts(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: finding["verdict"] for name, finding in found.items() if finding["verdict"] == "no-go"}


@pytest.mark.parametrize("options", [(), pytest.param(("--stall",), marks=pytest.mark.slow)])
def test_the_template_for_a_site_passes_for_every_user(
    own_mosquitto: Server, tmp_path: Path, logins: Path, options: tuple[str, ...]
) -> None:
    server = own_mosquitto(*template("site.conf", tmp_path, without="persistence"))
    code, found = examined(server.url, "--logins", str(logins), *options, cwd=tmp_path)
    assert verdicts(found) == {}
    assert code == 0
    for user in USERS:
        label = user.name if user.name == user.role else f"{user.name} ({user.role})"
        assert found[f"rights of {label}"]["verdict"] == "go"
    assert found["no login"]["verdict"] == "go"
    assert found["wrong password"]["verdict"] == "go"
    assert found["stalled reader"]["figures"].get("lost", 0) == 0
    assert found["stalled reader"]["verdict"] == ("go" if options else "not tried")
    assert found["left behind"]["verdict"] == "go"


@pytest.mark.slow
def test_the_lines_of_the_page_make_a_broker_that_passes(own_mosquitto: Server, tmp_path: Path) -> None:
    write_toml(tmp_path / "site.toml", scenario())
    (block,) = (b for b in blocks(ROOT / "docs" / "pilots.md", "sh") if "mosquitto" in b.words)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-eu", "-c", block.text], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True
    )
    server = own_mosquitto(*template("site.conf", tmp_path, without="persistence"))
    code, found = examined(server.url, "--logins", "logins.toml", cwd=tmp_path)
    assert verdicts(found) == {}
    assert code == 0
    assert {name for name in found if name.startswith("rights of ")} >= {"rights of MG1/ess (device)"}


async def test_a_right_too_many_and_one_too_few_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANSWER_S", "SETTLE_S", "REFUSALS_S"):  # of a broker far away
        monkeypatch.setattr(f"heron_mqtt.app.doctor.rights.{name}", 0.3)
    env_id = f"{SITE.topic_env_id}-doctor"
    users, acl = tmp_path / "users", tmp_path / "acl"
    for user in USERS:
        add_credentials(user.name, user.role, b"pw", users_file=users, acl_file=acl)
    acl.write_text(_wrong(acl_file(LOADED, "mosquitto", doctor=True)))
    logins = {user.name: Login(user.name, user.role) for user in USERS}
    async with EmbeddedBroker(in_process=True, users_file=users, acl_file=acl) as broker:

        def connect(login: Login) -> MqttBroker:
            return MqttBroker(broker.url, env_id=env_id, username=login.name, password="pw")

        tried = [logins["MG1"], logins["MG1/ess"]]
        agent, device = await examine_rights(connect, tried, logins["operator"], env_id)
    assert (agent.verdict, agent.figures) == ("no-go", {"lacks": [], "must_not": ["publish on estop"]})
    assert device.verdict == "no-go"
    assert device.figures == {"lacks": ["publish on devices/MG1/ess/telemetry"], "must_not": []}


def _wrong(rights: str) -> str:
    """Return rights in which a device may not send its telemetry, and an agent may stop everything."""
    device = f"heron/{SITE.topic_env_id}-doctor/devices/MG1/ess/telemetry"
    assert device in rights
    too_many = "user MG1\ntopic write heron/+/estop\nuser MG1/ess\n"
    return rights.replace(f"topic write {device}\n", "").replace("user MG1/ess\n", too_many)


BOX = {
    "name": "box",
    "telemetry": [{"topic": "box/7/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
    "setpoint": {
        "values": {"p": {"quantity": "p_mw", "unit": "W"}, "n": {"quantity": "seq"}},
        "messages": [{"topic": "box/7/set/{n}", "payload": "{p}"}],
        "release": [{"topic": "box/7/mode", "payload": "auto"}],
        "answers": [{"topic": "box/7/state", "format": "text"}],
    },
    "keepalive": [{"topic": "box/7/poll", "period_s": 5.0}],
}


def with_box(**more: Any) -> LoadedScenario:
    """The scenario with MG1's battery as a vendor's device."""
    table = scenario()
    ess = table["microgrids"]["MG1"]["devices"]["ess"]
    ess.update(mapping=BOX, authority="full", **more)
    return scenario_from_dict(table)


def test_who_serves_a_vendors_device_has_rights_on_its_topics_and_the_device_the_reverse() -> None:
    rights = foreign_rights(with_box())
    serves = {"box/7/state": "read", "box/7/set/+": "write", "box/7/mode": "write", "box/7/poll": "write"}
    other = {"read": "write", "write": "read"}
    assert rights["operator"] == rights["MG1"] == serves
    assert rights["MG1/ess"] == {topic: other[right] for topic, right in serves.items()}
    assert rights.keys() == {"operator", "MG1", "MG1/ess"}
    for kind, row in (
        ("mosquitto", "topic read box/7/set/+"),
        ("emqx", '"box/7/set/+"'),
        ("nats", '"box.7.set.*"'),
    ):
        assert row in acl_file(with_box(), kind)
    elsewhere = with_box(broker={"url": "mqtt://127.0.0.1:1"})
    assert foreign_rights(elsewhere) == {}
    assert acl_file(elsewhere, "mosquitto") == acl_file(LOADED, "mosquitto")


def test_credentials_have_the_rights_on_vendors_topics_of_a_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the embedded broker they are those that ``acl`` writes for a site's broker."""
    table = scenario()
    table["microgrids"]["MG1"]["devices"]["ess"].update(mapping=BOX, authority="full")
    write_toml(file := tmp_path / "site.toml", table)
    monkeypatch.chdir(tmp_path)
    for name, role in (("ann", "operator"), ("MG1", "agent"), ("MG1/ess", "device"), ("MG2", "agent")):
        monkeypatch.setattr("sys.stdin", io.StringIO("a secret\n"))
        add = ["credentials", "add", name, "--role", role]
        assert run_command_line([*add, "--scenario", str(file)]) == 0
    rows = (tmp_path / "heron-acl.txt").read_text().split("user ")
    written = {head: set(lines) for head, *lines in (section.splitlines() for section in rows[1:])}
    site = acl_file(with_box(), "mosquitto").split("user ")
    wanted = {head: set(lines) for head, *lines in (section.splitlines() for section in site[1:])}
    wanted["ann"] = wanted["operator"]
    assert {name: {line for line in lines if line} for name, lines in written.items()} == {
        name: wanted[name] for name in written
    }
    assert "topic write box/7/set/+" in written["MG1"]
    capsys.readouterr()
    for wrong, what in (
        (["MG9", "--role", "agent"], "has no agent 'MG9'; it has MG1, "),
        (["MG1", "--role", "agent", "--env-id", "x"], "--env-id and --scenario: "),
    ):
        assert run_command_line(["credentials", "add", *wrong, "--scenario", str(file)]) == 2
        assert what in capsys.readouterr().err


def test_a_run_that_announces_to_home_assistant_has_the_right_to() -> None:
    table = {**scenario(), "integrations": {"home_assistant": {"prefix": "ha"}}}
    loaded = scenario_from_dict(table)
    (topic,) = foreign_rights(loaded)["operator"]
    assert foreign_rights(loaded) == {"operator": {topic: "readwrite"}}
    made = discovery(loaded.scenario, HomeAssistantTable(prefix="ha"))
    assert made
    assert all(topics.matches(topic, one) for one in made)
    assert f"topic readwrite {topic}\n" in acl_file(loaded, "mosquitto")


@pytest.mark.parametrize(("loaded", "verdict"), [(with_box(), "go"), (LOADED, "note")])
async def test_whether_a_vendors_device_comes_to_those_who_serve_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: LoadedScenario, verdict: str
) -> None:
    monkeypatch.setattr("heron_mqtt.app.doctor.vendor_topics.LISTEN_S", 0.5)
    users, acl = tmp_path / "users", tmp_path / "acl"
    for user in USERS:
        add_credentials(user.name, user.role, b"pw", users_file=users, acl_file=acl)
    acl.write_text(acl_file(loaded, "mosquitto"))
    ((_, mapping),) = mappings_at_broker(with_box()).items()
    async with EmbeddedBroker(in_process=True, users_file=users, acl_file=acl) as broker:

        def connect(login: Login) -> MqttBroker:
            return MqttBroker(broker.url, env_id=SITE.topic_env_id, username=login.name, password="pw")

        box = connect(Login("MG1/ess", "device"))
        async with RawMqtt(box.options, box.stats) as raw:
            raw.publish_raw("box/7/state", b'{"p": 100}', retain=True)
            serving = [Login("operator", "operator"), Login("MG1", "agent")]
            found = await examine_vendor_device(connect, serving, "MG1/ess", mapping)
    assert [one.check for one in found] == ["topics of MG1/ess, operator", "topics of MG1/ess, MG1"]
    assert [one.verdict for one in found] == [verdict, verdict]
    assert all("box/7/state" in one.what for one in found)


@pytest.mark.slow
def test_rights_too_many_and_too_few_are_named(own_mosquitto: Server, tmp_path: Path, logins: Path) -> None:
    acl = tmp_path / "acl.txt"
    acl.write_text(_wrong(acl.read_text()))
    server = own_mosquitto(*template("site.conf", tmp_path, without="persistence"))
    code, found = examined(server.url, "--logins", str(logins), cwd=tmp_path)
    assert code == 1
    told = found["rights of MG1/ess (device)"]
    assert told["verdict"] == "no-go"
    assert told["figures"]["lacks"] == ["publish on devices/MG1/ess/telemetry"]
    assert "heron-mqtt acl SCENARIO" in told["change"]
    told = found["rights of MG1 (agent)"]
    assert told["figures"] == {"lacks": [], "must_not": ["publish on estop"]}


@pytest.mark.slow_but("lines0")
@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([OPEN, "retain_available false"], "retained by name"),
        ([OPEN, "message_size_limit 20000"], "message size"),
    ],
)
def test_what_a_broker_does_not_do_is_found(
    own_mosquitto: Server, tmp_path: Path, lines: list[str], wrong: str
) -> None:
    code, found = examined(own_mosquitto(*lines).url, cwd=tmp_path)
    assert code == 1
    assert wrong in verdicts(found)
    assert found[wrong]["change"]


@pytest.mark.slow
def test_the_embedded_broker_passes_with_its_own_credentials(tmp_path: Path, logins: Path) -> None:
    """Quicker: that of the template above, on mosquitto; tests/embedded/test_rights_table.py."""
    users, acl = tmp_path / "heron-users.txt", tmp_path / "heron-acl.txt"
    for user in USERS:
        password = f"pw {user.name}".encode()
        add_credentials(user.name, user.role, password, users_file=users, acl_file=acl)
    acl.write_text(acl_file(LOADED, "mosquitto", doctor=True))
    with heron("broker", "--port", "0", "--users", str(users), "--acl", str(acl)) as program:
        url = program.wait_for("listening").split()[1]
        code, found = examined(url, "--logins", str(logins), cwd=tmp_path)
    assert verdicts(found) == {}
    assert code == 0


@pytest.mark.slow
def test_how_much_a_broker_keeps_for_who_is_away_is_told_and_is_no_condition(own_mosquitto: Server) -> None:
    server = own_mosquitto("allow_anonymous true", "max_queued_messages 100")
    done = run_heron("doctor", "--broker", server.url, "--json")
    (found,) = [f for f in json.loads(done.out)["findings"] if f["check"] == "kept session"]
    assert found["verdict"] == "note"
    assert 100 <= found["figures"]["kept"] < 1_500
    assert "max_queued_messages 0" in found["change"]


def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run_heron("doctor", "--broker", "mqtt://127.0.0.1:1")
    assert done.code == 1
    assert "no answer at mqtt://127.0.0.1:1" in done.out
    assert run_heron("doctor").errors == [
        "heron-mqtt: --broker: expected mqtt://host:port; no scenario names one either"
    ]


def test_rights_are_written_for_other_brokers() -> None:
    grid = load_scenario("three_microgrids")
    emqx = acl_file(grid, "emqx")
    assert emqx.rstrip().endswith("{deny, all}.")
    assert '{allow, {user, "MG1/ess"}, publish, [' in emqx
    nats = acl_file(grid, "nats")
    assert '"heron.three_microgrids.devices.MG1.ess.telemetry"' in nats
    assert "password: $MG1_ESS_PASSWORD" in nats
    with pytest.raises(ConfigError, match="--format rabbit: expected mosquitto, emqx, nats"):
        acl_file(grid, "rabbit")


@pytest.mark.slow
def test_a_killed_edge_forwards_everything_that_it_was_given(own_mosquitto: Server, tmp_path: Path) -> None:
    """3,000 messages are given to an edge whose uplink is down; it is killed, and both come back."""
    (tmp_path / "centre").mkdir()
    centre = Mosquitto(tmp_path / "centre", OPEN)
    centre.start()
    centre.stop()
    bridge = [
        line.replace("broker.example:1883", f"127.0.0.1:{centre.port}")
        for line in template("bridge.conf", tmp_path)
        if "remote_username" not in line and "remote_password" not in line
    ]
    kept = [line for line in template("site.conf", tmp_path) if line.startswith(("persistence", "autosave"))]
    edge = own_mosquitto(OPEN, *kept, *bridge)
    sender = paho.Client(paho.CallbackAPIVersion.VERSION2)
    sender.connect("127.0.0.1", edge.port)
    sender.loop_start()
    sent = [
        sender.publish("heron/site/devices/MG1/ess/telemetry", str(n).encode(), qos=1) for n in range(3000)
    ]
    for one in sent:
        one.wait_for_publish(20.0)
    time.sleep(1.5)  # autosave_interval
    edge.kill()
    sender.loop_stop()
    got: list[int] = []
    centre.start()
    reader = paho.Client(paho.CallbackAPIVersion.VERSION2)
    reader.on_message = lambda _client, _data, message: got.append(int(message.payload))
    reader.connect("127.0.0.1", centre.port)
    reader.subscribe("heron/#", qos=1)
    reader.loop_start()
    edge.start()
    end = time.monotonic() + 40.0
    while len(set(got)) < 3000 and time.monotonic() < end:
        time.sleep(0.05)
    reader.loop_stop()
    centre.stop()
    assert sorted(set(got)) == list(range(3000))


@pytest.mark.slow
def test_a_run_whose_messages_an_access_list_drops_names_the_rights(
    own_mosquitto: Server, tmp_path: Path
) -> None:
    acl = tmp_path / "acl.txt"
    acl.write_text("topic read heron/#\n")
    server = own_mosquitto(OPEN, f"acl_file {acl}")
    file = write_toml(tmp_path / "small.toml", scenario())
    done = run_heron("run", str(file), "--broker", server.url)
    assert done.code == 1
    (line,) = done.errors
    assert "heron/small/run/probe is acknowledged, but does not arrive" in line
    assert "may this user publish and read there? heron-mqtt acl names the rights" in line
    assert "another broker" not in line
    _, found = examined(server.url, cwd=tmp_path)
    kept, order = found["retained by name"], found["order"]
    assert (kept["verdict"], kept["change"]) == ("no-go", RIGHTS_CHANGE)
    assert (order["verdict"], found["rights of operator"]["verdict"]) == ("not tried", "no-go")
