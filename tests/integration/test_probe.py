"""``heron-mqtt probe`` on a broker: an unknown box is listed, drafted, and its mapping tried."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from support.heron_command import run_heron
from support.mosquitto_server import Mosquitto


@contextmanager
def box(server: Mosquitto, root: str = "plant", **payloads: str) -> Iterator[None]:
    """Publish a box's payloads again and again."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", server.port)
    client.loop_start()
    done = threading.Event()

    def talk() -> None:
        while not done.wait(0.1):
            for name, payload in payloads.items():
                client.publish(f"{root}/{name}", payload)

    talking = threading.Thread(target=talk)
    talking.start()
    yield
    done.set()
    talking.join()
    client.loop_stop()
    client.disconnect()


@pytest.mark.slow
def test_an_unknown_box_becomes_a_mapping_that_reads_it(own_mosquitto: object, tmp_path: Path) -> None:
    server: Mosquitto = own_mosquitto()  # type: ignore[operator]
    file = tmp_path / "box.toml"
    on = ["probe", "--broker", server.url]
    with box(server, inverter='{"power": 1234.5, "voltage": 231.0}', soc="57"):
        told = run_heron(*on, "--listen", "1.5", "--write", str(file))
        assert told.code == 0, told.err
        assert "p_mw in W" in told.out
        assert "no shipped profile fits" in told.out
        seen = json.loads(run_heron(*on, "--listen", "1", "--topic", "plant/inverter", "--json").out)
        assert list(seen["topics"]) == ["plant/inverter"]
        assert seen["topics"]["plant/inverter"]["every_s"] == pytest.approx(0.1, abs=0.1)
        done = run_heron(*on, "--mapping", str(file), "--listen", "1.5", "--json")
        assert done.code == 0, done.err
        values = json.loads(done.out)
        assert values["p_mw"]["value"] == pytest.approx(0.0012345)
        assert values["soc"]["value"] == pytest.approx(0.57)
        assert '{"power": 1234.5, "voltage": 231.0}' in values["p_mw"]["sample"]
        file.write_text(file.read_text().replace('path = "power"', 'path = "powr"'))
        wrong = run_heron(*on, "--mapping", str(file), "--listen", "1.5")
    assert wrong.code == 1
    assert "powr" in wrong.out
    assert "1234.5" in wrong.out


def test_what_cannot_be_is_one_line(own_mosquitto: object, tmp_path: Path) -> None:
    server: Mosquitto = own_mosquitto()  # type: ignore[operator]
    (tmp_path / "there.toml").write_text("")
    for arguments, line in (
        (["--topic", "a/#/b"], "--topic a/#/b: "),
        (["--listen", "0"], "--listen 0: expected seconds"),
        (["--write", str(tmp_path / "there.toml")], "is there already; name another file"),
        (["--mapping", str(tmp_path / "none.toml")], "none.toml: no such file; shipped profiles are "),
        (["--mapping", str(tmp_path)], "a folder; expected a file; shipped profiles are "),
        (["--mapping", "device_profiles/opendtu.toml"], "parameters.serial: "),
        (
            ["--mapping", "device_profiles/opendtu.toml", "--set", "serial"],
            "--set serial: expected NAME=VALUE",
        ),
        (["--set", "serial=1"], "--set serial=1: needs --mapping FILE"),
    ):
        done = run_heron("probe", "--broker", server.url, *arguments)
        assert done.code == 2
        assert line in done.errors[0]
    silence = run_heron("probe", "--broker", server.url, "--listen", "0.3")
    assert silence.code == 1
    assert "no message in 0.3 s" in silence.out


def test_a_shipped_profile_is_tried_by_its_name(own_mosquitto: object) -> None:
    server: Mosquitto = own_mosquitto()  # type: ignore[operator]
    with box(server, "solar/0042/0", power="312.4", voltage="231.0"):
        done = run_heron(
            *("probe", "--broker", server.url, "--listen", "0.5", "--json"),
            *(
                "--mapping",
                "device_profiles/opendtu.toml",
                "--set",
                "serial=0042",
                "--set",
                "rated_mw=0.0006",
            ),
        )
    assert json.loads(done.out)["p_mw"]["value"] == pytest.approx(0.0003124), done.err


def test_messages_of_this_software_are_left_out_and_that_is_said(own_mosquitto: object) -> None:
    server: Mosquitto = own_mosquitto()  # type: ignore[operator]
    with box(server, soc="57"), box(server, "heron/lab/devices/MG1/ess", telemetry="{}"):
        alone = run_heron("probe", "--broker", server.url, "--listen", "0.5", "--topic", "heron/#")
        assert alone.code == 1
        assert re.match(
            r"no message of a device in 0\.5 s: \d+ messages on heron/# or \$SYS/# are left", alone.out
        )
        both = run_heron("probe", "--broker", server.url, "--listen", "0.5")
        assert both.code == 0
        assert re.match(
            r"\d+ messages on heron/# or \$SYS/# are left out: they come from this software", both.out
        )
        told = json.loads(run_heron("probe", "--broker", server.url, "--listen", "0.5", "--json").out)
        assert told["left_out"] > 0
        assert not [topic for topic in told["topics"] if topic.startswith("heron/")]
