"""One way to say how to reach the broker: the same in options, environment and scenario."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.cli.complaints import _as_option
from heron_mqtt.cli.run_commands import app
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.settings import EVERYWHERE, LASTING, SETTINGS, option_of, use_options, variable_of
from powergrid.scenario import BrokerTable, scenario_from_dict
from support.certificates import Certificates, key_of
from support.heron_command import Ended, heron, run_heron
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario


def test_a_setting_has_one_name_everywhere() -> None:
    arguments = set(inspect.signature(MqttBroker).parameters)
    assert set(EVERYWHERE) <= arguments
    assert set(EVERYWHERE) == set(BrokerTable.model_fields) - {"url"}


def test_every_command_that_takes_a_broker_takes_every_setting() -> None:
    seen = set()
    for command in app.registered_commands:
        callback: Any = command.callback
        parameters = inspect.signature(callback).parameters
        if "broker" in parameters:
            assert set(SETTINGS) <= set(parameters), callback.__name__
            assert bool(set(LASTING) & set(parameters)) == (callback.__name__ in {"run", "proxy"})
            seen.add(callback.__name__)
    assert {"run", "proxy", "authority", "estop"} <= seen


def test_options_reach_this_process_and_its_children_by_the_environment(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    use_options({"ca": "x.pem", "protocol": "5", "cert": None, "other": 1}, environment)
    assert environment == {"HERON_MQTT_CA": str(Path("x.pem").absolute()), "HERON_MQTT_PROTOCOL": "5"}


@pytest.mark.parametrize("url", ["mqtt://ann:s3cr3t@h", "wss://ann:s3cr3t@h/mqtt"])
def test_a_scenario_holds_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="a password does not belong into a scenario") as caught:
        scenario_from_dict({"name": "x", "broker": {"url": url}, "microgrids": {}})
    assert any("password_file" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("MqttBroker: key without cert: pass the client certificate too",
         "--key without cert: pass the client certificate too"),
        ("mqtt://h does not support MQTT 3.1.1: pass protocol='5'",
         "mqtt://h does not support MQTT 3.1.1: pass --protocol 5"),
        ("check username= and password= (or X and Y)", "check --username and --password-file (or X and Y)"),
        ("pass ca= (or set SSL_CERT_FILE)", "pass --ca (or set SSL_CERT_FILE)"),
        ("broker x:1: expected mqtt://", "--broker x:1: expected mqtt://"),
    ],
)  # fmt: skip
def test_refusals_name_options_not_parameters(problem: str, told: str) -> None:
    assert _as_option(problem) == told


@pytest.mark.slow
def test_a_run_over_tls_with_a_login_said_in_each_way(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """With emulated devices, in processes of their own: they must get in, too."""
    url, said = _over_tls_with_a_login(own_mosquitto, tmp_path)
    simulated = {f"microgrids.{a}.devices.{d}.authority": "simulated" for a in ("MG1", "MG2", "MG3")
                 for d in ("gen", "pv")}  # fmt: skip
    plain = write_scenario(tmp_path, simulated)
    folder = tmp_path / "with"
    folder.mkdir()
    complete = write_scenario(folder, {**simulated, "broker": {"url": url, **said}})
    ways = {
        "options": _run(plain, "--broker", url, *[x for k, v in said.items() for x in (option_of(k), v)]),
        "environment": _run(plain, "--broker", url, environment={variable_of(k): v for k, v in said.items()}),
        "scenario": _run(complete),
    }
    for way, done in ways.items():
        assert done.code == 0, (way, done.err)
        assert done.result["broker"] == "mqtt"
        assert "s3cr3t" not in done.err + done.out
    assert len({str(done.result["rewards"]) for done in ways.values()}) == 1
    refused = _run(plain, "--broker", url, "--ca", said["ca"])
    assert refused.code == 1
    assert "check --username and --password-file" in refused.errors[0]


def test_a_run_over_tls_with_a_login(own_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    url, said = _over_tls_with_a_login(own_mosquitto, tmp_path)
    simulated = {f"microgrids.{a}.devices.{d}.authority": "simulated" for a in ("MG1", "MG2", "MG3")
                 for d in ("gen", "pv", "ess")}  # fmt: skip
    environment = {variable_of(name): value for name, value in said.items()}
    done = _run(write_scenario(tmp_path, simulated), "--broker", url, environment=environment)
    assert (done.code, done.result["broker"]) == (0, "mqtt"), done.err
    assert "s3cr3t" not in done.err + done.out


def _over_tls_with_a_login(
    own_mosquitto: Callable[..., Mosquitto], folder: Path
) -> tuple[str, dict[str, str]]:
    """Return the address of a broker that takes nothing else, and what there is to say to reach it."""
    made = Certificates(folder)
    (folder / "password").write_text("s3cr3t\n")
    server = own_mosquitto(
        "allow_anonymous false", f"password_file {_password_file(folder)}",
        f"certfile {made.server}", f"keyfile {key_of(made.server)}",
    )  # fmt: skip
    said = {"username": "ann", "password_file": str(folder / "password"), "ca": made.ca, "protocol": "5"}
    return f"mqtts://127.0.0.1:{server.port}", said


def _run(path: Path, *options: str, environment: Mapping[str, str] | None = None) -> Ended:
    with heron("run", str(path), "--steps", "2", "--json", *options, environment=environment) as program:
        return program.wait()


def _password_file(folder: Path) -> Path:
    import subprocess

    path = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(path), "ann", "s3cr3t"], check=True)
    return path


def test_an_address_without_scheme_gets_a_hint() -> None:
    for command in (["run"], ["estop", "on"]):
        done = run_heron(*command, "--broker", "127.0.0.1:1883")
        assert done.code == 2
        assert "did you mean mqtt://127.0.0.1:1883?" in done.errors[0]
        assert "--broker" in done.errors[0]


@pytest.mark.slow
def test_an_outbox_said_in_each_way_is_used_and_what_is_wrong_with_it_is_one_line(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """By the run, and by nothing that it starts: its emulated devices would find the file in use."""
    url = own_mosquitto().url
    plain = write_scenario(tmp_path)
    folder = tmp_path / "with"
    folder.mkdir()
    complete = write_scenario(folder, {"broker": {"url": url, "outbox": "out.box", "outbox_max_mb": 5}})
    said = {name: tmp_path / name for name in ("options", "environment")}
    ways = {
        "options": _run(plain, "--broker", url, "--outbox", str(said["options"])),
        "environment": _run(
            plain, "--broker", url, environment={variable_of("outbox"): str(said["environment"])}
        ),
        "scenario": _run(complete),
    }
    for way, done in ways.items():
        assert done.code == 0, (way, done.err)
        assert done.result["devices"], "its devices were there"
    for path in (*said.values(), folder / "out.box"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    for options, told in {
        ("--outbox", str(tmp_path / "no" / "x")): f"--outbox {tmp_path}/no/x: there is no folder",
        ("--outbox-max-mb", "none"): "--outbox-max-mb 'none': expected megabytes, more than 0",
        ("--outbox-max-age-s", "0"): "--outbox-max-age-s '0': expected seconds, more than 0",
    }.items():
        done = _run(plain, "--broker", url, *options)
        assert done.code == 2
        (line,) = done.errors
        assert told in line
    done = _run(plain, "--broker", "memory", "--outbox", "x")
    assert done.code == 2
    assert "broker memory has none" in done.errors[0]
