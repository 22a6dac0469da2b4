"""``heron-mqtt probe --send``: one test setpoint to a scripted box, and what it proves of the mapping."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from heron_mqtt.app.probe.mapped import mapping_of
from heron_mqtt.app.probe.trial import SetpointTrial, TrialOrder, TrialPlan
from heron_mqtt.app.vendor_adapters import vendor_devices
from heron_mqtt.cli.probe_trial import _consent
from heron_mqtt.errors import PlaceTaken
from heron_mqtt.messages import Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.scenario import LoadedScenario, scenario_from_dict
from support.heron_command import HERON, Ended, heron, run_heron, until
from support.mosquitto_server import Mosquitto
from support.paho_site import Site
from support.scripted_box import ScriptedBox
from support.small_grid import scenario
from support.waiting import until as eventually

NAMES = ["sign", "factor", "delay", "acknowledgement", "release"]


def arguments(url: str, file: Path, *more: str, send: str = "500W") -> list[str]:
    return [
        *("probe", "--broker", url, "--mapping", str(file), "--send", send, "--for", "2.5s"),
        *("--listen", "1.5", "--env-id", f"trial-{uuid.uuid4().hex[:8]}", "--yes", *more),
    ]


def tried(box: ScriptedBox, url: str, file: Path, *more: str, send: str = "500W") -> tuple[Ended, Any]:
    with box:
        done = run_heron(*arguments(url, file, "--json", *more, send=send))
    return done, json.loads(done.out) if done.out else None


def bad(report: Any) -> list[str]:
    return [name for name, verdict in report["verdicts"].items() if not verdict["good"]]


@pytest.fixture(scope="module")
def mosquitto(file_mosquitto: Mosquitto) -> Mosquitto:
    """One of this file's own: a stop that another test left, in whatever environment, forbids a trial."""
    return file_mosquitto


@pytest.fixture(scope="module")
def embedded_url() -> Iterator[str]:
    """One of this file's own, for the same reason."""
    server = EmbeddedBroker()
    run_sync(server.start())
    yield server.url
    run_sync(server.close())


@pytest.fixture(params=["mosquitto", "embedded"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "embedded":
        return str(request.getfixturevalue("embedded_url"))
    return str(request.getfixturevalue("mosquitto").url)


@pytest.fixture
def base() -> str:
    return f"plant/{uuid.uuid4().hex[:8]}"


@pytest.mark.slow_but("mosquitto")
def test_a_right_mapping_gets_five_good_verdicts_and_the_box_is_handed_back(
    url: str, base: str, tmp_path: Path
) -> None:
    box = ScriptedBox(url, base, delay_s=0.4, noise_w=3.0, own_w=20.0, answers="ok")
    with box:
        done = run_heron(*arguments(url, box.mapping(tmp_path)))
    assert done.code == 0, done.out + done.err
    lines = [line for line in done.out.splitlines() if line.startswith("good")]
    assert [re.match(r"good\s+(\w+):", line)[1] for line in lines] == NAMES  # type: ignore[index]
    assert f"  {base}/set 500" in done.err  # what is sent is shown before
    assert [told for told in box.told if told[0].endswith("/set")] == [(f"{base}/set", "500")] or len(
        {told[1] for told in box.told if told[0].endswith("/set")}
    ) == 1
    assert box.is_released


@pytest.mark.slow_but("opposite")
@pytest.mark.parametrize(
    ("script", "wrong", "words"),
    [
        ({"gain": -1.0}, {"sign"}, "opposite"),
        ({"shows": -1.0}, {"sign"}, "opposite"),
        ({"gain": 0.001}, {"factor"}, "W where kW is meant"),
        ({"limit_w": 310.0}, {"factor"}, "less than asked for"),
        ({"gain": 3.0, "limit_w": 600.0}, {"factor"}, "more than asked for"),
        ({"gain": 0.0}, {"sign", "factor", "delay"}, "the power stayed at"),
        ({"frees": False}, {"release"}, "the power is still"),
        ({"answers": "no"}, {"sign", "factor", "delay", "acknowledgement"}, "the door is open"),
    ],
    ids=["opposite", "meter-reversed", "1000th", "clamped", "too-much", "deaf", "not-freed", "rejects"],
)
def test_what_is_wrong_is_named_and_the_box_is_handed_back(
    mosquitto: Mosquitto, base: str, tmp_path: Path, script: dict[str, Any], wrong: set[str], words: str
) -> None:
    box = ScriptedBox(mosquitto.url, base, **script)
    done, report = tried(box, mosquitto.url, box.mapping(tmp_path))
    assert done.code == 1, done.err
    assert set(bad(report)) == wrong
    assert any(words in report["verdicts"][name]["text"] for name in wrong)
    assert box.is_released
    assert report["good"] is False


def test_more_than_the_maximum_is_broken_off_at_once_and_its_factor_named(
    mosquitto: Mosquitto, base: str, tmp_path: Path
) -> None:
    box = ScriptedBox(mosquitto.url, base, gain=1000.0)
    begun = time.monotonic()
    done, report = tried(box, mosquitto.url, box.mapping(tmp_path), "--max", "1kW")
    assert done.code == 1
    assert "its power is 500 kW, the test may go to 1 kW" in report["broken_off"]
    assert "W where kW is meant" in report["verdicts"]["factor"]["text"]
    assert report["power"][-1][0] < 1.0
    assert box.is_released
    assert time.monotonic() - begun < 30.0


@pytest.mark.slow
def test_a_box_that_is_at_power_and_drifts_is_judged_by_where_it_ends(
    mosquitto: Mosquitto, base: str, tmp_path: Path
) -> None:
    box = ScriptedBox(mosquitto.url, base, own_w=-700.0, drift_w_s=15.0, noise_w=4.0)
    done, report = tried(box, mosquitto.url, box.mapping(tmp_path))
    assert done.code == 0, report
    assert report["before"]["p_mw"] < -0.0005


@pytest.mark.slow
def test_power_older_than_the_reaction_is_no_answer(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(mosquitto.url, base, delay_s=1.0)
    done, report = tried(box, mosquitto.url, box.mapping(tmp_path, setpoint='confirm = "power"'))
    assert done.code == 1
    assert bad(report) == ["delay"]
    assert "settle_s = 0 is too short, use settle_s = 2" in report["verdicts"]["delay"]["text"]


@pytest.mark.slow
def test_a_missing_answer_is_named(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(mosquitto.url, base, answers="ok")
    file = box.mapping(tmp_path)
    file.write_text(file.read_text().replace(f"{base}/answer", f"{base}/other"))
    done, report = tried(box, mosquitto.url, file)
    assert done.code == 1
    assert bad(report) == ["acknowledgement"]
    assert f"nothing on {base}/other within 1 s" in report["verdicts"]["acknowledgement"]["text"]


def refused(box: ScriptedBox, url: str, file: Path, *more: str, send: str = "500W") -> str:
    done, report = tried(box, url, file, *more, send=send)
    assert done.code == 1, done.err
    assert report is None
    assert "nothing was sent" in done.errors[0]
    assert box.told == []
    return done.errors[0]


@pytest.mark.slow_but("mosquitto")
def test_without_telemetry_nothing_is_sent(url: str, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(url, base, mute=True)
    assert f"nothing has come ({base}/power)" in refused(box, url, box.mapping(tmp_path))


@pytest.mark.slow
def test_what_could_not_be_told_from_noise_is_not_sent(
    mosquitto: Mosquitto, base: str, tmp_path: Path
) -> None:
    box = ScriptedBox(mosquitto.url, base, noise_w=200.0)
    assert "could not be distinguished from that" in refused(box, mosquitto.url, box.mapping(tmp_path))
    there = ScriptedBox(mosquitto.url, f"{base}/2", own_w=499.0)
    assert "already" in refused(there, mosquitto.url, there.mapping(tmp_path))


@pytest.mark.slow_but("embedded")
def test_while_a_stop_is_in_force_nothing_is_sent(url: str, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(url, base)
    with Site(url, f"lab-{uuid.uuid4().hex[:6]}") as site:
        site.say("estop", {"type": "estop", "active": True, "who": "Ann"}, retain=True)
        line = refused(box, url, box.mapping(tmp_path))
    assert f"an emergency stop by Ann is in force in environment '{site.env_id}'" in line


@pytest.mark.slow_but("mosquitto")
def test_while_another_one_holds_the_lease_or_sends_setpoints_nothing_is_sent(
    url: str, base: str, tmp_path: Path
) -> None:
    box, file = ScriptedBox(url, base), None
    file = box.mapping(tmp_path)
    with Site(url, f"lab-{uuid.uuid4().hex[:6]}") as site:
        site.say("devices/MG9/ess/status", {"type": "status", "state": "online"}, retain=True)
        held = {"type": "lease", "state": "held", "holder": "MG9", "holder_boot": "b", "lease_s": 5.0}
        site.say("devices/MG9/ess/lease", held, retain=True)
        line = refused(box, url, file, "--device", "MG9/ess")
    assert f"MG9 holds the lease on MG9/ess in environment '{site.env_id}'" in line


def driving(env_id: str, file: Path) -> LoadedScenario:
    """Return a scenario in which MG1 drives the box of a mapping as its battery."""
    at = "microgrids.MG1.devices.ess"
    mapping = {f"{at}.authority": "full", f"{at}.mapping": tomllib.loads(file.read_text())}
    return scenario_from_dict(scenario({"env_id": env_id, **mapping}))


async def test_while_a_run_has_the_device_nothing_is_sent(
    mosquitto: Mosquitto, base: str, env_id: str, tmp_path: Path
) -> None:
    """It is claimed on this machine under whatever name, before anything is sent; then its lease is seen."""
    box = ScriptedBox(mosquitto.url, base)
    file = box.mapping(tmp_path)
    loaded = driving(env_id, file)
    stamper, channel = MessageStamper("MG1", env_id), topics.device("MG1", "ess", "setpoint")
    with box:
        async with (
            MqttBroker(mosquitto.url, env_id=env_id) as broker,
            vendor_devices(broker, loaded, ["MG1"]),
        ):
            drives = f"{base}/set: environment '{env_id[:16]}' drives it already, by process {os.getpid()} on"
            for more in (["--env-id", env_id], ["--device", "MG9/box"]):
                taken = await asyncio.to_thread(run_heron, *arguments(mosquitto.url, file, *more))
                assert taken.code == 1
                assert [drives in line for line in taken.errors] == [True]
            assert box.told == []
            broker.publish(channel, stamper.stamp(channel, Setpoint(p_mw=0.0001, lease_s=60.0)))
            await asyncio.to_thread(until, lambda: box.told, "the setpoint of the run")
            seen = await asyncio.to_thread(run_heron, *arguments(mosquitto.url, file))
            assert seen.code == 1
            assert "MG1 holds the lease on MG1/ess" in seen.errors[0]
            assert {text for _, text in box.told} == {"100.0"}


async def test_while_a_probe_has_the_box_no_run_of_this_machine_begins_to_drive_it(
    mosquitto: Mosquitto, base: str, env_id: str, tmp_path: Path
) -> None:
    box = ScriptedBox(mosquitto.url, base)
    file = box.mapping(tmp_path)
    loaded = driving(env_id, file)
    said = arguments(mosquitto.url, file, "--device", "MG9/box")
    with box, heron(*said) as program:
        await asyncio.to_thread(program.wait_for, "listening")
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            with pytest.raises(PlaceTaken, match=f"{base}/set: probe:MG9/box of environment 'trial-"):
                async with vendor_devices(broker, loaded, ["MG1"]):
                    pass
        program.signal(signal.SIGTERM)
        await asyncio.to_thread(program.wait)
        async with (
            MqttBroker(mosquitto.url, env_id=env_id) as broker,
            vendor_devices(broker, loaded, ["MG1"]),
        ):
            pass  # it is free again


@pytest.mark.slow_but("mosquitto")
def test_while_somebody_writes_to_the_box_nothing_is_sent(url: str, base: str, tmp_path: Path) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    port = int(url.rpartition(":")[2])
    client.connect("127.0.0.1", port)
    client.loop_start()
    box = ScriptedBox(url, base)
    with box, heron(*arguments(url, box.mapping(tmp_path))) as program:
        program.wait_for("listening")
        end = time.monotonic() + 30.0
        while program.process.poll() is None and time.monotonic() < end:
            client.publish(f"{base}/set", "-100")
            time.sleep(0.2)
        done = program.wait()
    client.loop_stop()
    client.disconnect()
    assert done.code == 1
    assert f"another client writes to the device: '-100' on {base}/set: nothing was sent" in done.errors[0]
    assert {text for _, text in box.told} == {"-100"}


def test_a_stop_during_the_test_ends_it_at_zero(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(mosquitto.url, base)
    given = arguments(mosquitto.url, box.mapping(tmp_path), "--for", "60s")
    env_id = given[given.index("--env-id") + 1]
    with box, heron(*given) as program, Site(mosquitto.url, env_id) as site:
        until(lambda: box.told, "a setpoint", 30.0)
        site.say("estop", {"type": "estop", "active": True, "who": "Ann"}, retain=True)
        done = program.wait(20.0)
    assert done.code == 1
    assert "an emergency stop" in done.out
    assert box.told[-1][1] in {"0", "0.0"}


@pytest.mark.slow
def test_a_box_that_says_it_is_offline_ends_the_test(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    more = '[[availability]]\ntopic = "{base}/state"\nonline = ["online"]\noffline = ["offline"]'
    box = ScriptedBox(mosquitto.url, base)
    file = box.mapping(tmp_path, more=more.format(base=base))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", int(mosquitto.url.rpartition(":")[2]))
    client.loop_start()
    with box, heron(*arguments(mosquitto.url, file, "--for", "60s")) as program:
        until(lambda: box.told, "a setpoint", 30.0)
        client.publish(f"{base}/state", "offline", 1)
        done = program.wait(30.0)
        until(lambda: box.is_released, "the release")
    client.loop_stop()
    client.disconnect()
    assert done.code == 1
    assert f"ended early: the device is offline: {base}/state: offline" in done.out


@pytest.mark.slow_but("embedded-15")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_it_the_box_is_handed_back(url: str, base: str, tmp_path: Path, number: int) -> None:
    box = ScriptedBox(url, base)
    with box, heron(*arguments(url, box.mapping(tmp_path), "--for", "60s")) as program:
        until(lambda: box.told, "a setpoint", 30.0)
        program.signal(number)
        done = program.wait(10.0)
        until(lambda: box.is_released, "the release")
    assert done.code == 130
    assert "handed back" in done.err


@pytest.mark.slow
def test_a_lost_connection_ends_it_and_the_box_is_handed_back_when_it_is_there_again(
    own_mosquitto: Callable[..., Mosquitto], base: str, tmp_path: Path
) -> None:
    server = own_mosquitto()
    box = ScriptedBox(server.url, base)
    with box, heron(*arguments(server.url, box.mapping(tmp_path), "--for", "60s")) as program:
        until(lambda: box.told, "a setpoint", 30.0)
        server.kill()
        program.wait_for("waiting up to")
        time.sleep(1.0)
        server.start()
        done = program.wait(30.0)
        until(lambda: box.is_released, "the release")
    assert done.code == 1
    assert "the connection to the broker was lost" in done.out


def test_bounds_and_options_are_one_line(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(mosquitto.url, base)
    file = box.mapping(tmp_path, value="max = 400")
    on = ["probe", "--broker", mosquitto.url]
    for given, line in (
        (["--send", "1W"], "--send: needs --mapping FILE"),
        (["--mapping", str(file), "--send", "500"], "--send 500: expected a power with its unit"),
        (["--mapping", str(file), "--send", "0W", "--yes"], "--send 0: shows neither sign nor scale"),
        (["--mapping", str(file), "--send", "2kW", "--yes"], "--send 2 kW: more than 1 kW"),
        (["--mapping", str(file), "--send", "500W", "--yes"], "setpoint.values.p: 500 is above max = 400"),
        (["--mapping", str(file), "--send", "300W", "--for", "1h", "--yes"], "--for 3600s: expected 2s to"),
        (["--mapping", str(file), "--send", "300W"], "in a script, add --yes"),
    ):
        done = run_heron(*on, *given)
        assert done.code == 2, (given, done.out, done.err)
        assert line in done.errors[0]


@pytest.mark.parametrize(("typed", "sends"), [("yes\n", True), ("no\n", False), ("y\n", False), ("", False)])
async def test_only_yes_is_consent(monkeypatch: pytest.MonkeyPatch, typed: str, sends: bool) -> None:
    ours, its = os.pipe()
    os.write(its, typed.encode())
    os.close(its)
    with open(ours) as stdin:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", stdin)
        assert await _consent() is sends


async def test_what_is_not_confirmed_is_not_sent(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    box = ScriptedBox(mosquitto.url, base)
    asked: list[TrialPlan] = []

    async def refuse(plan: TrialPlan) -> bool:
        asked.append(plan)
        return False

    with box:
        assert await trial_of(box, mosquitto.url, tmp_path, print).run(refuse) is None
    assert (len(asked), box.told) == (1, [])


def trial_of(box: ScriptedBox, url: str, folder: Path, say: Callable[[str], None]) -> SetpointTrial:
    order = TrialOrder(send_mw=0.0005, max_mw=0.001, for_s=60.0, listen_s=1.0)
    mapping = mapping_of(box.mapping(folder), "MG1/box")
    env_id = f"trial-{uuid.uuid4().hex[:8]}"
    return SetpointTrial(url, mapping, "MG1/box", env_id=env_id, order=order, say=say)


async def test_a_box_whose_connection_was_lost_is_handed_back(
    own_mosquitto: Callable[..., Mosquitto], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.app.probe.trial.WATCH_RELEASE_S", 0.5)
    server, said = own_mosquitto(), []

    async def confirm(_plan: TrialPlan) -> bool:
        return True

    box = ScriptedBox(server.url, base)
    with box:
        trial = asyncio.create_task(trial_of(box, server.url, tmp_path, said.append).run(confirm))
        await eventually(lambda: box.told, "a setpoint")
        await asyncio.to_thread(server.kill)
        await eventually(lambda: any("waiting up to" in line for line in said), "the loss")
        await asyncio.to_thread(server.start)
        report = await trial
        await eventually(lambda: box.is_released, "the release")
    assert report is not None
    assert not report.is_good
    assert "ended early: the connection to the broker was lost" in said


@pytest.mark.slow
def test_at_a_terminal_it_asks_and_only_yes_sends(mosquitto: Mosquitto, base: str, tmp_path: Path) -> None:
    with ScriptedBox(mosquitto.url, base) as box:
        given = [one for one in arguments(mosquitto.url, box.mapping(tmp_path)) if one != "--yes"]
        said, code = at_terminal(given, "no\n")
        assert code == 1
        assert "not confirmed: nothing was sent" in said
        assert box.told == []
        said, code = at_terminal(given, "yes\n")
    assert code == 0, said
    assert "Type yes to send" in said
    assert box.is_released


def at_terminal(given: list[str], typed: str) -> tuple[str, int]:
    """Run the command in a terminal of its own, and type when it asks."""
    ours, its = pty.openpty()
    process = subprocess.Popen([HERON, *given], stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    said, has_typed = "", False
    try:
        while True:
            try:
                chunk = os.read(ours, 4096).decode(errors="replace")
            except OSError:  # its end is closed
                break
            if not chunk:
                break
            said += chunk
            if not has_typed and "to send: " in said:
                os.write(ours, typed.encode())
                has_typed = True
        return said, process.wait(30.0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
