"""Mappings that are edited while a run goes on: taken between steps where right, refused where wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.mapping_watch import MappingWatch
from heron_mqtt.app.vendor_adapters import VendorAdapters, vendor_devices
from heron_mqtt.app.vendor_links import VendorLinks
from heron_mqtt.errors import BrokerUnavailable, PlaceTaken
from heron_mqtt.field.place_claim import PlaceClaim, place_name
from heron_mqtt.messages import EmergencyStop, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.record.reader import RecordFile
from powergrid.scenario import load_scenario
from support.forced_box import FORCED_BOX, TO_AUTO
from support.heron_command import heron, until
from support.modbus_box import ModbusBox
from support.mosquitto_server import Mosquitto
from support.scripted_box import ScriptedBox
from support.small_runs import write_scenario
from support.waiting import until as until_async

PROFILE = """
name = "scripted box"

[[telemetry]]
topic = "{base}/power"
format = "text"
fields.p_mw = { unit = "W" }

[setpoint.values.p]
quantity = "p_mw"
unit = "W"

[[setpoint.messages]]
topic = "{base}/set"
payload = "{p}"

[[setpoint.release]]
topic = "{base}/mode"
payload = "auto"

[parameters.base]
description = "Where its topics begin."
"""
IN_KW = PROFILE.replace('quantity = "p_mw"\nunit = "W"', 'quantity = "p_mw"\nunit = "kW"')
WRONG = PROFILE.replace('unit = "W"', 'unit = "horses"', 1)
OTHERS = {
    f"microgrids.{agent}.devices.{name}.authority": "simulated"
    for agent in ("MG1", "MG2", "MG3")
    for name in ("gen", "ess", "pv")
}


def scenario_file(folder: Path, env_id: str, *agents: str, **more: Any) -> Path:
    """Write a scenario whose batteries have one profile, and that profile."""
    (folder / "box.toml").write_text(PROFILE)
    changes: dict[str, Any] = {"env_id": env_id, "lease_s": 20.0, **OTHERS, **more}
    for agent in agents:
        at = f"microgrids.{agent}.devices.ess"
        changes[f"{at}.authority"] = "full"
        changes[f"{at}.gateway"] = {"gate_steps": 1}
        changes[f"{at}.mapping"] = {"profile": "box.toml", "parameters": {"base": f"{env_id}/{agent}"}}
    return write_scenario(folder, changes)


class Watched:
    """Adapters, the watch of their mappings, and a gateway by hand."""

    def __init__(self, adapters: VendorAdapters, broker: MqttBroker, file: Path, env_id: str) -> None:
        self.adapters, self.broker = adapters, broker
        self.notes: list[str] = []
        self.events: list[tuple[str, str, Any]] = []
        self.watch = MappingWatch(
            str(file),
            adapters,
            self.notes.append,
            lambda kind, subject, what, data=None: self.events.append((kind, subject, data)),
            every_s=0.05,
        )
        self._stamper = MessageStamper("MG1", env_id)

    def send(self, p_mw: float, agent: str = "MG1") -> None:
        channel = topics.device(agent, "ess", "setpoint")
        self.broker.publish(channel, self._stamper.stamp(channel, Setpoint(p_mw=p_mw, lease_s=30.0)))

    def unit(self, agent: str = "MG1") -> str | None:
        setpoint = self.adapters.mappings[agent, "ess"].setpoint
        assert setpoint is not None
        return setpoint.values["p"].unit


@asynccontextmanager
async def watched(url: str, file: Path, env_id: str, *agents: str) -> AsyncIterator[Watched]:
    loaded = load_scenario(file)
    async with (
        MqttBroker(url, env_id=env_id) as broker,
        vendor_devices(broker, loaded, agents) as adapters,
    ):
        site = Watched(adapters, broker, file, env_id)
        watching = asyncio.create_task(site.watch.run())
        await asyncio.sleep(0.2)
        try:
            yield site
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_a_changed_mapping_hands_the_box_back_and_speaks_its_new_terms(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file = scenario_file(tmp_path, env_id, "MG1")
    with ScriptedBox(mosquitto.url, f"{env_id}/MG1") as box:
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            births: list[Any] = []
            await site.broker.subscribe(topics.device("MG1", "ess", "status"), births.append)
            await until_async(lambda: box.told == [] and births, "the birth")
            site.send(0.0005)
            await until_async(lambda: (f"{env_id}/MG1/set", "500") in box.told, "a setpoint in W")
            (tmp_path / "box.toml").write_text(IN_KW)
            await until_async(lambda: site.notes and box.is_released, "the change")
            site.send(0.0005)
            await until_async(lambda: box.told[-1] == (f"{env_id}/MG1/set", "0.5"), "a setpoint in kW")
            boots = [b["boot"] for b in births if b["state"] == "online"]
            assert boots[0] != boots[-1]  # to a gateway it is born again
        await until_async(lambda: box.is_released, "the release")
    assert site.notes == [
        f"MG1/ess: its mapping was reloaded from {tmp_path / 'box.toml'}: handed back, and driven again "
        "as after a restart"
    ]
    ((kind, subject, data),) = site.events
    assert (kind, subject) == ("mapping", "MG1/ess")
    assert data["file"] == str(tmp_path / "box.toml")
    assert len(data["sha256"]) == 64


async def test_a_wrong_mapping_leaves_the_old_one_in_force_and_is_told_once(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = scenario_file(tmp_path, env_id, "MG1")
    with ScriptedBox(mosquitto.url, f"{env_id}/MG1") as box, caplog.at_level(logging.WARNING):
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            site.send(0.0005)
            await until_async(lambda: box.told, "a setpoint")
            (tmp_path / "box.toml").write_text(WRONG)
            await until_async(lambda: "horses" in caplog.text, "the refusal")
            await asyncio.sleep(0.5)
            told = [r.getMessage() for r in caplog.records if r.name == "heron_mqtt.mapping"]
            assert len(told) == 1
            for word in (str(tmp_path / "box.toml"), "telemetry[0].fields.p_mw.unit", "'horses'", "line 7)"):
                assert word in told[0]
            assert not box.is_released  # the setpoint goes on
            site.send(0.0006)
            await until_async(lambda: box.told[-1][1] == "600", "the old mapping at work")
            (tmp_path / "box.toml").write_text("name = no")
            await until_async(lambda: "not valid TOML" in caplog.text, "where it is wrong")
            assert "at line 1, column" in caplog.text
            (tmp_path / "box.toml").unlink()
            await until_async(lambda: "no such file" in caplog.text, "the file that is gone")
            (tmp_path / "box.toml").write_text(PROFILE)
            await until_async(lambda: site.notes, "that all is as before")
            assert site.notes == ["MG1/ess: its mapping is again the one that is in force"]
            assert not box.is_released
    assert [(kind, subject) for kind, subject, _ in site.events] == [("mapping", "MG1/ess")] * 3


async def test_editors_that_replace_a_file_and_files_half_written_are_taken_once_whole(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = scenario_file(tmp_path, env_id, "MG1")
    async with watched(mosquitto.url, file, env_id, "MG1") as site:
        beside = tmp_path / ".box.toml.swp"
        beside.write_text(IN_KW)
        beside.replace(tmp_path / "box.toml")
        await until_async(lambda: site.unit() == "kW", "the replaced file")
        text = PROFILE.replace("scripted", "slowly written")
        for end in range(0, len(text), 20):  # always another size when it is looked at
            (tmp_path / "box.toml").write_text(text[:end])
            await asyncio.sleep(0.03)
        (tmp_path / "box.toml").write_text(text)
        await until_async(lambda: site.unit() == "W", "the whole file")
    told = [r.getMessage() for r in caplog.records if r.name == "heron_mqtt.mapping"]
    assert told
    assert all("is that its unit, its scale, its sign?" in line for line in told), "a half file"


def claim_of(mosquitto: Mosquitto, topic: str) -> PlaceClaim:
    """Return another environment's claim of a box."""
    options = read_options(mosquitto.url, client_id="tests")
    return PlaceClaim([place_name(options.host, options.port, topic)], "other", "elsewhere:1883")


async def test_a_place_that_another_environment_drives_is_refused_and_claimed_only_once_it_is_taken(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file, base = scenario_file(tmp_path, env_id, "MG1"), f"{env_id}/MG1"
    before, after = claim_of(mosquitto, f"{base}/set"), claim_of(mosquitto, f"{base}b/set")
    with contextlib.closing(before), contextlib.closing(after):
        after.take()
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            file.write_text(file.read_text().replace(base, f"{base}b"))
            await until_async(lambda: site.events, "the refusal")
            assert "environment 'other' drives it already" in site.events[0][2]["problems"][0]
            assert site.notes == []
            with pytest.raises(PlaceTaken):
                before.take()  # the old mapping is in force
            after.close()
            file.write_text(file.read_text() + "\n")
            await until_async(lambda: site.notes, "the change")
            before.take()
            with pytest.raises(PlaceTaken):
                after.take()


async def test_a_change_that_is_refused_leaves_its_place_to_others(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(*args: Any) -> None:
        raise BrokerUnavailable("no answer")

    file, base = scenario_file(tmp_path, env_id, "MG1"), f"{env_id}/MG1"
    with contextlib.closing(claim_of(mosquitto, f"{base}b/set")) as after:
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            monkeypatch.setattr(VendorLinks, "open", no_answer)
            file.write_text(file.read_text().replace(base, f"{base}b"))
            await until_async(lambda: site.events, "the refusal")
            assert site.events[0][2]["problems"] == ["no answer"]
            after.take()


async def test_devices_that_share_a_file_are_all_changed_and_a_mistake_of_one_is_its_own(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = scenario_file(tmp_path, env_id, "MG1", "MG2")
    async with watched(mosquitto.url, file, env_id, "MG1", "MG2") as site:
        (tmp_path / "box.toml").write_text(IN_KW)
        await until_async(lambda: len(site.notes) == 2, "both")
        assert {site.unit("MG1"), site.unit("MG2")} == {"kW"}
        assert sorted(note.split(":")[0] for note in site.notes) == ["MG1/ess", "MG2/ess"]
        (tmp_path / "other.toml").write_text(PROFILE)
        text = file.read_text()
        at = text.index("box.toml")
        file.write_text(text[:at] + "none.toml" + text[at + 8 :].replace("box.toml", "other.toml"))
        await until_async(lambda: site.unit("MG2") == "W", "the right one")
        assert site.unit("MG1") == "kW"
        assert "MG1/ess: a changed mapping is not used" in caplog.text
        assert "none.toml" in caplog.text
        (tmp_path / "other.toml").write_text(IN_KW)  # a file that is named since the last change
        await until_async(lambda: site.unit("MG2") == "kW", "the file that is new")


async def test_what_is_no_mapping_waits_for_the_next_start_and_is_named(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = scenario_file(tmp_path, env_id, "MG1")
    async with watched(mosquitto.url, file, env_id, "MG1") as site:
        file.write_text(file.read_text().replace('"lease_s" = 20.0', '"lease_s" = 21.0'))
        await until_async(lambda: "lease_s has changed, too" in caplog.text, "the note")
        assert site.notes == []


async def test_during_a_stop_nothing_is_exchanged(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> None:
    file = scenario_file(tmp_path, env_id, "MG1")
    stamper = MessageStamper("tests", env_id)

    def stop(site: Watched, active: bool) -> None:
        stopped = EmergencyStop(active=active, who="tests")
        site.broker.publish(topics.ESTOP, stamper.stamp(topics.ESTOP, stopped))

    with ScriptedBox(mosquitto.url, f"{env_id}/MG1") as box:
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            site.send(0.0005)
            await until_async(lambda: box.told, "a setpoint")
            stop(site, True)
            await until_async(lambda: box.told[-1][1] == "0", "the stop")
            (tmp_path / "box.toml").write_text(IN_KW)
            await until_async(lambda: site.notes, "the note")
            assert site.notes == ["a changed mapping waits for the end of the emergency stop"]
            assert not box.is_released
            stop(site, False)
            await until_async(lambda: site.unit() == "kW", "the change")


MODBUS = FORCED_BOX + TO_AUTO
MOVED = MODBUS.replace("address = 10", "address = 30").replace("address = 20", "address = 40")


@asynccontextmanager
async def modbus_box(folder: Path, env_id: str) -> AsyncIterator[tuple[ModbusBox, Path]]:
    """A box with registers, and the file of a scenario in which it is driven."""
    box = await ModbusBox({1: {"holding": {address: [0] for address in (0, 10, 20, 30, 40)}}}).start()
    try:
        at = "microgrids.MG1.devices.ess"
        table = {
            f"{at}.modbus": {"address": f"127.0.0.1:{box.port}", "unit": 1},
            f"{at}.mapping": "box.toml",
            f"{at}.authority": "full",
            f"{at}.gateway": {"gate_steps": 1},
        }
        (folder / "box.toml").write_text(MODBUS)
        yield box, write_scenario(folder, {"env_id": env_id, "lease_s": 20.0, **OTHERS, **table})
    finally:
        await box.stop()


async def test_a_box_that_refuses_its_release_keeps_its_mapping_until_it_has_taken_it(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.app.mapping_watch.AGAIN_EVERY_S", 0.2)
    async with modbus_box(tmp_path, env_id) as (box, file):
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            leases: list[Any] = []
            await site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
            site.send(0.0005)
            await until_async(lambda: [box[10], box[20]] == [2, 500], "a setpoint")
            box.lies.refuse = {10: 4}
            (tmp_path / "box.toml").write_text(MOVED)
            await until_async(lambda: site.events, "that it waits")
            tried = len(box.writes())
            await until_async(lambda: len(box.writes()) > tried + 1, "further tries")
            assert len(site.events) == 1, "said once"
            assert site.events[0][2]["problems"] == ["it was not handed back, and may hold its last setpoint"]
            assert site.notes == []
            assert leases[-1]["state"] == "held"
            assert {address for address, _ in box.writes()} == {10, 20}, "the new mapping writes nothing"
            box.lies.refuse = {}
            await until_async(lambda: site.notes, "the change")
            assert box[10] == 0, "it was handed back by the old mapping"
            site.send(0.0007)
            await until_async(lambda: [box[30], box[40]] == [2, 700], "a setpoint by the new mapping")
        assert site.adapters.unreturned() == {}


async def test_a_box_that_never_takes_its_release_is_named_at_the_end_of_the_run(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    async with modbus_box(tmp_path, env_id) as (box, file):
        async with watched(mosquitto.url, file, env_id, "MG1") as site:
            site.send(0.0005)
            await until_async(lambda: [box[10], box[20]] == [2, 500], "a setpoint")
            box.lies.refuse = {10: 4}
            (tmp_path / "box.toml").write_text(MOVED)
            await until_async(lambda: site.events, "that it waits")
        assert list(site.adapters.unreturned()) == ["MG1/ess"]


@pytest.mark.slow
def test_a_run_takes_a_change_between_steps_and_records_it(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file, record = scenario_file(tmp_path, env_id, "MG1"), tmp_path / "run.heron"
    with (
        ScriptedBox(mosquitto.url, f"{env_id}/MG1") as box,
        heron(
            *("run", str(file), "--broker", mosquitto.url, "--realtime", "0.4", "--steps", "12"),
            *("--watch", "--record", str(record), "--json"),
        ) as program,
    ):
        until(lambda: len(sent(box)) >= 3, "setpoints", 40.0)
        (tmp_path / "box.toml").write_text(WRONG)
        program.wait_for("horses")
        (tmp_path / "box.toml").write_text(IN_KW)
        program.wait_for("was reloaded")
        before = len(sent(box))
        until(lambda: len(sent(box)) >= before + 3, "setpoints in kW", 20.0)
        done = program.wait()
        until(lambda: box.is_released, "the release")
    assert done.code == 0, done.err
    assert all(abs(value) >= 1.0 or value == 0.0 for value in sent(box)[:before])  # W
    assert all(abs(value) <= 10.0 for value in sent(box)[before:])  # kW
    device = done.result["devices"]["MG1/ess"]
    assert device["authority"] == "full"
    with RecordFile(record) as kept:
        rows = list(kept.query("SELECT subject, what, data FROM events WHERE kind = 'mapping'"))
    assert [row["subject"] for row in rows] == ["MG1/ess", "MG1/ess"]
    assert "horses" in rows[0]["data"]
    assert "was reloaded" in rows[1]["what"]


def sent(box: ScriptedBox) -> list[float]:
    return [float(text) for topic, text in box.told if topic.endswith("/set")]


@pytest.mark.slow
def test_a_remote_proxy_takes_a_change(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> None:
    file = scenario_file(tmp_path, env_id, "MG1", **{"microgrids.MG1.remote": True})
    broker = ["--broker", mosquitto.url]
    with (
        ScriptedBox(mosquitto.url, f"{env_id}/MG1") as box,
        heron("proxy", str(file), "--agent", "MG1", *broker, "--watch") as proxy,
        heron("run", str(file), *broker, "--realtime", "0.4", "--steps", "200", "--json") as program,
    ):
        until(lambda: len(sent(box)) >= 2, "setpoints", 40.0)
        (tmp_path / "box.toml").write_text(IN_KW)
        proxy.wait_for("was reloaded")
        before = len(sent(box))
        until(lambda: len(sent(box)) >= before + 3, "setpoints in kW", 20.0)
        program.signal(signal.SIGINT)
        program.wait()
    assert all(abs(value) <= 10.0 for value in sent(box)[before:])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["three_microgrids", "--watch"], "has a mapping; leave it out"),
        (["three_microgrids", "--watch", "--centralized"], "need a broker that they can reach"),
    ],
)
def test_where_there_is_nothing_to_watch_it_is_said(arguments: list[str], why: str) -> None:
    with heron("run", *arguments) as program:
        done = program.wait()
    assert done.code == 2
    assert f"--watch: {'no device' if 'has a' in why else 'devices'}" in done.errors[0]
    assert why in done.errors[0]
