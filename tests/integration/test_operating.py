"""status, estop, take and authority from outside: what they prove, and what they say when they cannot.

The participants and the observer are plain paho, on mosquitto and on the embedded broker.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.cli.command_line import run_command_line
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker
from support.mosquitto_server import Mosquitto
from support.paho_site import Site, until

Cli = Callable[..., tuple[int, str, str]]
# everything but the right to stop
NO_STOP = "topic read heron/#\n" + "".join(
    f"topic write heron/+/{below}/#\n" for below in ("agents", "devices", "run")
)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto of this file: nothing else may be alive there."""
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_embedded() -> Iterator[str]:
    server = EmbeddedBroker()
    run_sync(server.start())
    yield server.url
    run_sync(server.close())


@pytest.fixture(params=["mosquitto", "embedded"])
def any_url(request: pytest.FixtureRequest, own_server: Mosquitto) -> str:
    """Either broker, where what the broker does matters."""
    return own_server.url if request.param == "mosquitto" else str(request.getfixturevalue("own_embedded"))


@pytest.fixture
def url(own_server: Mosquitto) -> str:
    return own_server.url


@pytest.fixture
def site(url: str, env_id: str) -> Iterator[Site]:
    with Site(url, env_id) as made:
        yield made


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["heron-mqtt", *arguments])
        capsys.readouterr()
        code = run_command_line()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on this machine has sent what it keeps long before."""
    monkeypatch.setattr("heron_mqtt.app.operator_client.stop.READ_BACK_S", 0.8)


# -- the emergency stop --------------------------------------------------------------------------------


def test_a_stop_that_all_confirm_is_proven(any_url: str, env_id: str, cli: Cli) -> None:
    with Site(any_url, env_id) as site:
        site.gateway("MG1")
        site.device("MG1/ess")
        told = ["--who", "ann", "--why", "smoke", "--wait", "3"]
        code, out, err = cli("estop", "on", "--broker", any_url, *told)
        with Site(any_url, env_id) as later:
            assert until(lambda: later.messages("estop"))
            kept = later.messages("estop")[0]
    assert (kept["active"], kept["who"], kept["why"]) == (True, "ann", "smoke")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"emergency stop pressed in environment {site.env_id}",
        "  gateway MG1: confirmed",
        "  device MG1/ess: confirmed",
    ]


@pytest.mark.parametrize(
    "hangs", ["before the stop", "once it has confirmed", "once it has confirmed, with no number"]
)
def test_a_recording_of_its_telemetry_confirms_no_stop_of_a_device_that_hangs(
    any_url: str, env_id: str, cli: Cli, hangs: str
) -> None:
    """Of the same life of the device, when it was at rest; nothing else is heard of it."""
    recorded = {
        "type": "telemetry",
        "p_mw": 0.0,
        "safe": True,
        "stopped": True,
        "boot": "d1",
        "sender": "MG1/ess",
    }
    with Site(any_url, env_id) as site:
        site.gateway("MG1")
        birth = {"type": "status", "state": "online", "kind": "battery", "boot": "d1"}
        site.say("devices/MG1/ess/status", birth, retain=True)
        site.answers["replay"] = lambda _: site.say("devices/MG1/ess/telemetry", {**recorded, "seq": 3})
        if hangs.startswith("once it has confirmed"):
            number = {} if hangs.endswith("no number") else {"telemetry_seq": 40}
            site.device_confirms("MG1/ess", boot="d1", **number)
        code, out, err = cli("estop", "on", "--broker", any_url, "--wait", "0.8")
    assert (code, out.splitlines()[1:]) == (1, ["  gateway MG1: confirmed"])
    if hangs.startswith("once it has confirmed"):
        assert err == "  device MG1/ess: confirmed, power not measured: no telemetry since within 0.8 s\n"
    else:
        assert err == (
            "  device MG1/ess: NOT CONFIRMED: no message within 0.8 s (it is online); telemetry that "
            "says it is safe does not confirm a stop\n"
        )


def test_a_stop_that_one_does_not_confirm_fails_loudly(site: Site, url: str, cli: Cli) -> None:
    site.gateway("MG1")
    site.device("MG1/ess", confirms=False)
    site.device("MG1/gen", safe=False)
    site.bare_device("MG1/pv", obeys=False)
    code, out, err = cli("estop", "on", "--broker", url, "--wait", "0.8")
    assert code == 1
    assert "  gateway MG1: confirmed" in out
    assert err.splitlines() == [
        "  device MG1/ess: NOT CONFIRMED: no message within 0.8 s (it is online)",
        "  device MG1/gen: NOT CONFIRMED: it has received the stop, but is not in its safe state",
        "  device MG1/pv: NOT CONFIRMED: no message within 0.8 s (it is online)",
    ]


def test_a_stop_waits_for_the_power_of_a_device_that_confirms_it(site: Site, url: str, cli: Cli) -> None:
    site.device("MG1/ess", every_s=1.2)
    code, out, err = cli("estop", "on", "--broker", url, "--wait", "30")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == ["  device MG1/ess: confirmed"]
    assert site.messages("devices/MG1/ess/telemetry"), "it has measured"


def test_a_device_that_confirms_a_stop_and_measures_nothing_is_named_and_fails(
    site: Site, url: str, cli: Cli
) -> None:
    site.gateway("MG1")
    site.device("MG1/ess", every_s=60.0)
    code, out, err = cli("estop", "on", "--broker", url, "--wait", "0.6")
    assert (code, out.splitlines()[1:]) == (1, ["  gateway MG1: confirmed"])
    assert err == "  device MG1/ess: confirmed, power not measured: no telemetry since within 0.6 s\n"
    code, _, err = cli("estop", "off", "--broker", url, "--wait", "0.8")
    assert (code, err) == (0, ""), "of a release nothing has to be measured"


def test_telemetry_that_knows_of_the_stop_does_not_outweigh_a_device_that_is_not_safe(
    site: Site, url: str, cli: Cli
) -> None:
    site.device("MG1/gen", safe=False)
    site.talk("MG1/gen", {"p_mw": 0.002, "stopped": True})
    site.say("devices/MG1/pv/status", {"state": "online"}, retain=True)
    site.talk("MG1/pv", {"p_mw": 0.002, "safe": False, "stopped": True})
    code, _, err = cli("estop", "on", "--broker", url, "--wait", "0.8")
    assert code == 1
    assert err.splitlines() == [
        "  device MG1/gen: NOT CONFIRMED: it has received the stop, but is not in its safe state",
        "  device MG1/pv: NOT CONFIRMED: no message within 0.8 s (it is online)",
    ]


def test_a_device_that_nothing_here_can_set_is_named_and_fails_only_without_any_confirmation(
    site: Site, url: str, cli: Cli
) -> None:
    site.device("MG1/pv", safe=False, settable=False)
    alone = cli("estop", "on", "--broker", url, "--wait", "0.8")
    site.gateway("MG1")
    site.device("MG1/ess")
    assert until(lambda: site.messages("devices/MG1/ess/telemetry"))
    code, out, err = cli("estop", "on", "--broker", url, "--wait", "0.8")
    why = "nothing here can set it: it is only read, or only watched; it measures 1 kW"
    assert err.splitlines() == [f"  device MG1/pv: NOT OURS TO STOP: {why}"]
    assert "  device MG1/ess: confirmed" in out.splitlines()
    assert (alone[0], code) == (1, 0)


def test_a_device_that_could_be_set_is_never_excused(site: Site, url: str, cli: Cli) -> None:
    site.gateway("MG1")
    site.device("MG1/gen", safe=False, settable=True)
    site.device("MG1/ess", confirms=False)
    code, _, err = cli("estop", "on", "--broker", url, "--wait", "0.8")
    assert code == 1
    assert "NOT OURS" not in err
    assert len(err.splitlines()) == 2


def test_a_release_says_who_is_still_stopped(site: Site, url: str, cli: Cli) -> None:
    site.gateway("MG1")
    site.bare_device("MG1/pv")
    cli("estop", "on", "--broker", url, "--wait", "3")
    code, out, err = cli("estop", "off", "--broker", url, "--wait", "3")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"emergency stop released in environment {site.env_id}"
    site.device("MG1/ess", active=True)
    code, _, err = cli("estop", "off", "--broker", url, "--wait", "0.8")
    assert code == 1
    assert err == "  device MG1/ess: STILL STOPPED or silent: it reports that a stop is in force\n"


def test_a_release_that_another_stop_follows_is_none(site: Site, url: str, cli: Cli) -> None:
    """As where an environment knows of a stop and says it again."""
    site.gateway("MG1")
    said: list[bool] = []

    def again(stop: dict[str, Any]) -> None:
        if not stop["active"] and not said:
            said.append(True)
            site.say(
                "estop", {"type": "estop", "active": True, "who": "bob", "boot": "b", "seq": 0}, retain=True
            )

    site.answers["again"] = again
    code, _, err = cli("estop", "off", "--broker", url, "--wait", "0.8")
    assert code == 1
    assert "emergency stop NOT released" in err
    assert "a stop by bob came after it and is in force" in err


def test_a_denied_stop_is_no_success_although_the_broker_acknowledges_it(
    request: pytest.FixtureRequest, tmp_path: Path, env_id: str, own_mosquitto: Any, cli: Cli
) -> None:
    acl = tmp_path / "acl"
    acl.write_text(NO_STOP)
    embedded = EmbeddedBroker(acl_file=acl)
    run_sync(embedded.start())
    request.addfinalizer(lambda: run_sync(embedded.close()))
    mosquitto = own_mosquitto("allow_anonymous true", f"acl_file {acl}")
    for url in (mosquitto.url, embedded.url):
        with Site(url, env_id) as site:
            site.gateway("MG1")
            code, out, err = cli("estop", "on", "--broker", url, "--wait", "0.8")
            assert (code, out) == (1, "")
            assert err.startswith(f"emergency stop NOT pressed in environment {env_id}: ")
            assert f"may this user publish on heron/{env_id}/estop?" in err
            assert site.messages("estop") == []


def test_a_stop_for_a_named_environment_is_sent_by_one_who_may_not_read_the_others(
    request: pytest.FixtureRequest, tmp_path: Path, env_id: str, cli: Cli
) -> None:
    """The right to stop counts; what cannot be proven for want of a right is said."""
    acl = tmp_path / "acl"
    acl.write_text(f"topic readwrite heron/{env_id}/estop\n")
    embedded = EmbeddedBroker(acl_file=acl)
    run_sync(embedded.start())
    request.addfinalizer(lambda: run_sync(embedded.close()))
    code, _, err = cli("estop", "on", "--broker", embedded.url, "--env-id", env_id, "--wait", "0.5")
    assert code == 1
    assert "there is no confirmation" in err
    assert "NOT pressed" not in err, "it stands at the broker"


def test_it_is_never_sent_to_an_environment_that_nobody_named(site: Site, url: str, cli: Cli) -> None:
    code, _, err = cli("estop", "on", "--broker", url)
    assert code == 1
    assert err == f"heron-mqtt: no environment is alive at {url}: name one with --env-id\n"
    other = f"{site.env_id}-2"
    site.run_state()
    site.run_state(env_id=other)
    site.run_state("finished", env_id=f"{site.env_id}-over")
    code, _, err = cli("estop", "on", "--broker", url)
    assert code == 1
    assert err == (
        f"heron-mqtt: 2 environments are alive at {url}: {site.env_id}, {other}: choose one with --env-id\n"
    )
    assert not [topic for topic, _, _ in site.seen if topic.endswith("/estop")]


def test_a_stop_that_nobody_confirms_is_left_and_said_to_be_unheard(site: Site, url: str, cli: Cli) -> None:
    code, out, err = cli("estop", "on", "--broker", url, "--env-id", site.env_id, "--wait", "0.6")
    assert code == 1
    assert out == f"emergency stop pressed in environment {site.env_id}\n"
    assert "there is no confirmation" in err
    assert site.messages("estop")[0]["active"] is True


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--why", "x" * 501], "--why has 501 characters: expected at most 500"),
        (["--who", ""], "--who '': an empty argument; give it a value, or leave it out"),
        (["--who=  "], "--who '  ': an empty argument"),
        (["--who", "a\nb"], "--who 'a\\nb': expected a name"),
        (["--who", "x" * 101], "--who has 101 characters: expected at most 100"),
        (["--env-id", ""], "--env-id '': an empty argument; give it a value, or leave it out"),
        (["--env-id", "x" * 201], "--env-id 'xx"),
        (["--env-id", "a\x00b"], "--env-id 'a\\x00b': expected the name of an environment"),
        (["--wait", "nan"], "--wait nan: expected seconds"),
    ],
)
def test_wrong_arguments_are_one_line_and_nothing_is_sent(
    arguments: list[str], complaint: str, cli: Cli
) -> None:
    for command in (["estop", "on"], ["authority", "MG1/ess", "shadow"]):
        if command[0] == "authority" and arguments[0] == "--wait":
            continue
        code, out, err = cli(*command, "--broker", "mqtt://127.0.0.1:1", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"heron-mqtt: {complaint}")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [["status"], ["estop", "on"], ["take", "MG1/ess", "--release"], ["authority", "MG1/ess", "full"]],
)
def test_a_broker_that_is_not_there_is_one_line(command: list[str], cli: Cli) -> None:
    code, out, err = cli(*command, "--broker", "mqtt://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err.startswith("heron-mqtt: ")
    assert err.count("\n") == 1


# -- status --------------------------------------------------------------------------------------------


def look(cli: Cli, url: str, *more: str) -> tuple[int, dict[str, Any]]:
    code, out, err = cli("status", "--broker", url, "--listen", "0.6", "--json", *more)
    assert err == ""
    (line,) = out.splitlines()
    return code, json.loads(line)


def test_plain_bare_devices_are_well(any_url: str, env_id: str, cli: Cli) -> None:
    with Site(any_url, env_id) as site:
        site.bare_device("MG1/ess")
        code, seen = look(cli, any_url)
    (environment,) = seen["environments"]
    device = environment["devices"]["MG1/ess"]
    assert (code, seen["well"], environment["env_id"], environment["run"]) == (0, True, site.env_id, None)
    assert (device["health"], device["p_mw"], device["authority"]) == ("online", 0.002, None)
    assert 0.0 <= device["age_s"] < 0.6


def test_nothing_alive_is_not_well(site: Site, url: str, cli: Cli) -> None:
    site.run_state("lost")
    code, seen = look(cli, url)
    assert code == 1
    assert seen["environments"] == []
    assert seen["not_alive"] == [{"env_id": site.env_id, "run": "lost"}]


def silent(site: Site) -> None:
    site.say("devices/MG1/pv/status", {"state": "online"}, retain=True)


def offline(site: Site) -> None:
    site.say("devices/MG1/pv/status", {"state": "offline"}, retain=True)


def fault(site: Site) -> None:
    site.say("devices/MG1/pv/status", {"state": "fault", "reason": "hot"}, retain=True)


def unborn(site: Site) -> None:
    site.talk("MG1/pv", {"p_mw": 0.0})


def below(site: Site) -> None:
    state = {"type": "authority_state", "level": "shadow", "ceiling": "full", "reason": "gate steady: 2 of 6"}
    site.say("devices/MG1/ess/authority_state", state, retain=True)


def stopped(site: Site) -> None:
    site.say("estop", {"type": "estop", "active": True, "who": "ann", "why": "smoke"}, retain=True)


def malformed_stop(site: Site) -> None:
    site.say("estop", b"\xff", retain=True)


def agent_gone(site: Site) -> None:
    site.say("agents/MG2/status", {"state": "offline"}, retain=True)


def two_runs(site: Site) -> None:
    site.say("run/owner", {"type": "owner", "state": "holds", "boot": "other", "who": "bob"}, retain=True)


def nonsense(site: Site) -> None:
    site.say("devices/MG1/ess/lease", b"[1]", retain=True)


def stranger(site: Site) -> None:
    site.say("agents/MG1/owner", {"type": "owner", "state": "holds", "boot": "g1", "who": "ann"}, retain=True)
    lease = {"type": "lease", "state": "held", "holder": "EVE", "holder_boot": "e1", "lease_s": 5.0}
    site.say("devices/MG1/ess/lease", lease, retain=True)


def orphan(site: Site) -> None:
    lease = {"type": "lease", "state": "held", "holder": "MG1", "holder_boot": "g0", "lease_s": 5.0}
    site.say("devices/MG1/ess/lease", lease, retain=True)


def by_hand(site: Site) -> None:
    site.say("devices/MG1/ess/lease", {"type": "lease", "state": "held", "lease_s": 5.0}, retain=True)


def not_handed_back(site: Site) -> None:
    lease = {"type": "lease", "state": "held", "holder": "MG1/ess", "holder_boot": "d1"}
    site.say("devices/MG1/ess/lease", lease, retain=True)


@pytest.mark.parametrize(
    ("trouble", "problem"),
    [
        (not_handed_back, "device MG1/ess is not handed back yet"),
        (stranger, "device MG1/ess is led by EVE (boot e1), which is not its agent's gateway (boot g1)"),
        (orphan, "device MG1/ess is led by MG1 (boot g0), and no gateway holds its agent's name"),
        (by_hand, "device MG1/ess is led by setpoints by hand: they have no sender"),
        (silent, "device MG1/pv has the status online, but has published nothing for 0.6 s"),
        (offline, "device MG1/pv is offline"),
        (fault, "device MG1/pv is in a fault: hot"),
        (unborn, "device MG1/pv publishes telemetry, but has no birth on its status channel"),
        (below, "device MG1/ess is at shadow, below full: gate steady: 2 of 6"),
        (stopped, "emergency stop by ann: smoke"),
        (malformed_stop, "emergency stop by unknown: a message on estop that cannot be read"),
        (agent_gone, "agent MG2 is offline"),
        (two_runs, "two runs: boot r1 publishes, and boot other holds the name"),
        (nonsense, "devices/MG1/ess/lease cannot be read: payload must be a JSON object, got list"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_not_well_is_said(
    trouble: Callable[[Site], None], problem: str, own_server: Mosquitto, env_id: str, cli: Cli
) -> None:
    with Site(own_server.url, env_id) as site:
        site.run_state()
        site.gateway("MG1")
        site.bare_device("MG1/ess")
        trouble(site)
        code, seen = look(cli, own_server.url)
        (environment,) = seen["environments"]
        assert code == 1
        (told,) = environment["problems"]
        assert told.startswith(problem)


@pytest.mark.parametrize(("speaks", "well"), [(False, False), (True, True)])
def test_a_run_whose_program_stands_still_is_named_when_a_lease_of_its_devices_has_ended(
    speaks: bool, well: bool, own_server: Mosquitto, env_id: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.app.operator_client.status.SIGN_OF_LIFE_S", 2.5)
    with Site(own_server.url, env_id) as site:
        site.run_state("running")
        site.gateway("MG1")
        site.bare_device("MG1/ess")
        level = {"type": "authority_state", "level": "limited", "ceiling": "limited"}
        site.say("devices/MG1/ess/authority_state", level, retain=True)
        site.say("devices/MG1/ess/lease", {"type": "lease", "state": "free"}, retain=True)
        again = threading.Timer(1.2, site.run_state, ("running",))  # after the time to listen, before the end
        if speaks:
            again.start()
        code, seen = look(cli, own_server.url)
        again.cancel()
    assert (code == 0, seen["well"]) == (well, well), seen
    problem = (
        "nothing was received from the run for 2 s, and the lease of MG1/ess is free: it may stand still"
    )
    assert seen["environments"][0]["problems"] == [] if well else [problem]


def test_the_table_fits_80_columns_and_obeys_no_control_characters(site: Site, url: str, cli: Cli) -> None:
    site.run_state()
    site.bare_device("MG1/ess")
    site.bare_device("a_microgrid_with_a_long_name/a_battery_with_a_long_name_too")
    reason = "\x1b[2Jvery long " * 30
    site.say("devices/MG1/gen/status", {"state": "fault", "reason": reason}, retain=True)
    lease = {"type": "lease", "state": "held", "holder": "MG1", "lease_s": 5.0}
    site.say("devices/MG1/ess/lease", lease, retain=True)
    state = {"type": "authority_state", "level": "limited", "ceiling": "limited", "manual_by": "ann"}
    state |= {"manual_p_mw": 0.005, "manual_s": 600.0}
    site.say("devices/MG1/ess/authority_state", state, retain=True)
    code, out, _ = cli("status", "--broker", url, "--listen", "0.6")
    assert code == 1
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    row = next(line for line in out.splitlines() if line.startswith("  MG1/ess"))
    assert row.split()[1] == "online"
    assert row.split()[4:] == ["limited", "MG1"]
    assert "manual   MG1/ess by ann, 5 kW, for 600 s when the gateway reported it" in out


# -- take and authority --------------------------------------------------------------------------------


TAKEN = ["take", "MG1/ess", "--p-kw", "5", "--for", "10m"]


def answering(site: Site, *, granted: bool, **changes: Any) -> None:
    """Play the gateway that answers requests; ``changes`` to what it says is in force."""
    site.run_state()

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        site.seen.append((message.topic, json.loads(message.payload or b"null"), bool(message.retain)))
        if message.payload and message.topic.endswith(("/take", "/authority")):
            asked = json.loads(message.payload)
            held = (
                {"manual_by": asked["who"], "manual_p_mw": asked["p_mw"], "manual_s": asked["for_s"] - 0.01}
                if granted and asked.get("for_s")
                else {}
            )
            site.say(
                "devices/MG1/ess/authority_state",
                {"type": "authority_state", "level": "limited", "granted": granted, "reason": "because"}
                | {"request_seq": asked["seq"], "request_boot": asked["boot"]}
                | held
                | changes,
            )

    site._client.on_message = on_message


def test_a_device_is_taken_in_hand_and_given_back(site: Site, url: str, cli: Cli) -> None:
    answering(site, granted=True)
    asked = ["--p-kw", "-5", "--q-kvar", "1.5", "--for", "10m", "--who", "ann", "--why", "test"]
    code, out, _ = cli("take", "MG1/ess", "--broker", url, *asked)
    assert (code, out) == (0, "MG1/ess: because\n")
    told = site.messages("devices/MG1/ess/take")[0]
    assert (told["p_mw"], told["q_mvar"], told["for_s"]) == (-0.005, 0.0015, 600.0)
    assert (told["who"], told["why"], told["type"]) == ("ann", "test", "take")
    code, _, _ = cli("take", "MG1/ess", "--broker", url, "--release")
    assert code == 0
    assert site.messages("devices/MG1/ess/take")[1]["for_s"] == 0.0
    assert cli("authority", "MG1/ess", "limited", "--broker", url)[:2] == (0, "MG1/ess: limited\n")


@pytest.mark.parametrize(
    ("command", "changes", "difference"),
    [
        (
            ["authority", "MG1/ess", "shadow"],
            {"level": "full"},
            "shadow was asked for and granted, but the level in force is full",
        ),
        (
            TAKEN,
            {"manual_by": None},
            "0.005 MW under manual control of ann was granted, but it is not under manual control",
        ),
        (
            TAKEN,
            {"manual_by": "b\u202eob"},
            "0.005 MW under manual control of ann was granted, but it is under manual control of b?ob",
        ),
        (TAKEN, {"manual_p_mw": 0.004}, "0.005 MW was asked for and granted, but 0.004 MW is in force"),
        (TAKEN, {"manual_p_mw": None}, "0.005 MW was asked for and granted, but no power is in force"),
        (TAKEN, {"manual_s": 6.0}, "600 s were asked for and granted, but 6 s is in force"),
        (TAKEN, {"manual_s": None}, "600 s were asked for and granted, but no time is in force"),
        (
            ["take", "MG1/ess", "--release"],
            {"manual_by": "bob", "manual_p_mw": 0.005, "manual_s": 9.0},
            "giving it back was granted, but it is under manual control of bob",
        ),
    ],
)
def test_an_answer_that_grants_something_else_than_was_asked_fails_and_a_take_is_withdrawn(
    command: list[str], changes: dict[str, Any], difference: str, site: Site, url: str, cli: Cli
) -> None:
    answering(site, granted=True, **changes)
    code, out, err = cli(*command, "--broker", url, "--who", "ann")
    assert (code, out) == (1, "")
    assert err.startswith(f"heron-mqtt: MG1/ess: {difference}; see heron-mqtt status")
    assert f"who else may publish on heron/{site.env_id}/devices/MG1/ess/authority_state" in err
    if "--for" in command:
        assert until(lambda: len(site.messages("devices/MG1/ess/take")) == 2)
        asked, withdrawn = site.messages("devices/MG1/ess/take")
        assert (withdrawn["for_s"], withdrawn["why"]) == (
            0.0,
            "withdrawn: the answer differs from the request",
        )
        assert (withdrawn["request_boot"], withdrawn["request_seq"]) == (asked["boot"], asked["seq"])


def test_a_take_without_an_answer_is_withdrawn(
    site: Site, url: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway or broker that stood still must not do later what is not waited for any more."""
    monkeypatch.setattr(
        "heron_mqtt.app.operator_client.requests.ask_gateway.__kwdefaults__", {"timeout_s": 0.3}
    )
    site.gateway("MG1")
    code, _, err = cli("take", "MG1/ess", "--p-kw", "5", "--for", "10m", "--broker", url)
    assert code == 1
    assert "no gateway answered for MG1/ess" in err
    assert until(lambda: len(site.messages("devices/MG1/ess/take")) == 2)
    asked, withdrawn = site.messages("devices/MG1/ess/take")
    assert (asked["p_mw"], asked["for_s"], withdrawn["for_s"]) == (0.005, 600.0, 0.0)
    assert (withdrawn["boot"], withdrawn["seq"]) == (asked["boot"], asked["seq"] + 1)
    assert (withdrawn["request_boot"], withdrawn["request_seq"]) == (asked["boot"], asked["seq"])


def test_a_refusal_is_exit_code_1_and_says_why(site: Site, url: str, cli: Cli) -> None:
    answering(site, granted=False)
    code, out, _ = cli("take", "MG1/ess", "--broker", url, "--p-mw", "0.005", "--for", "90s")
    assert (code, out) == (1, "MG1/ess: refused: because\n")


def test_take_and_authority_choose_no_environment_of_several(site: Site, url: str, cli: Cli) -> None:
    site.run_state()
    site.run_state(env_id=f"{site.env_id}-2")
    for command in (["take", "MG1/ess", "--release"], ["authority", "MG1/ess", "full"]):
        code, _, err = cli(*command, "--broker", url)
        assert code == 1
        assert "2 environments are alive" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected one of --p-kw and --p-mw (or --release)"),
        (["--p-kw", "5", "--p-mw", "1", "--for", "1m"], "expected one of --p-kw and --p-mw"),
        (["--p-kw", "5"], "--for is missing"),
        (["--p-kw", "5kW", "--for", "1m"], "--p-kw 5kW: expected a plain number"),
        (["--p-kw", "nan", "--for", "1m"], "--p-kw nan: expected a plain number"),
        (["--p-kw", "1e3", "--for", "1m"], "--p-kw 1e3: expected a plain number"),
        (["--p-kw", "9999999999", "--for", "1m"], "--p-kw 9999999999: expected a plain number"),
        (["--p-kw", "5", "--for", "10"], "--for 10: expected a time with its unit"),
        (["--p-kw", "5", "--for", ""], "--for '': an empty argument"),
        (["--p-kw", "5", "--for", "0s"], "--for 0s: expected more than 0 s"),
        (["--p-kw", "5", "--for", "25h"], "--for 25h: expected more than 0 s, and at most 24h"),
        (["--p-kw", "5", "--for", "-1m"], "--for -1m: expected a time with its unit"),
        (["--release", "--p-kw", "5"], "--release gives the device back: leave out --p-kw"),
    ],
)
def test_powers_and_times_are_read_strictly(arguments: list[str], complaint: str, cli: Cli) -> None:
    code, out, err = cli("take", "MG1/ess", "--broker", "mqtt://127.0.0.1:1", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"heron-mqtt: {complaint}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        *("run", "check", "device", "proxy", "broker", "bench", "status", "estop", "take", "authority"),
        *("credentials add", "credentials remove"),
    ],
)
def test_every_command_shows_an_example(command: str, cli: Cli) -> None:
    code, out, _ = cli(*command.split(), "--help")
    assert code == 0
    assert f"heron-mqtt {command}" in out.partition("Example:")[2]
