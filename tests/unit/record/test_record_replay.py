"""replay: the same messages at the same distances, no commands to hardware; merge: no clock is trusted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.recording import run_facts
from heron_mqtt.app.verify import verify
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record.merge import merge, merged_offsets
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import RunRecorder
from heron_mqtt.record.replay import Replayed, replay
from powergrid.agents.proxies import make_proxy
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.field_rig import OpenMemoryBroker
from support.recorded_runs import forged, record_run, tampered
from support.small_grid import scenario
from support.virtual import run_virtual, virtual_now

pytestmark = pytest.mark.usefixtures("built_once")

Heard = list[tuple[float, str, Mapping[str, Any]]]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "run.heron"
    record_run(path, steps=3, emulated=True, changes={"microgrids.MG2.devices.ess.authority": "shadow"})
    return path


def replayed(
    path: Path, before: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> tuple[Replayed, Heard]:
    """Replay in virtual time; return what it did, and what a subscriber heard when."""

    async def go() -> tuple[Replayed, Heard]:
        heard: Heard = []
        async with InMemoryBroker() as broker:
            for channel, message in (before or {}).items():
                broker.publish(channel, message, retain=True)
            with RecordFile(path) as run:
                broker.subscribe("#", lambda m: heard.append((virtual_now(), m.channel, dict(m))))
                heard.clear()
                done = await replay(run, broker, **options)
        return done, heard

    return run_virtual(go())


def test_every_message_comes_once_with_its_payload_and_at_its_distance(record: Path) -> None:
    done, heard = replayed(record)
    with RecordFile(record) as run:
        rows = run.query(
            "SELECT at_s, channel, payload FROM messages WHERE payload IS NOT NULL ORDER BY at_s, id"
        )
    held_back = sum(done.held_back.values())
    assert done.published == len(heard) == len(rows) - held_back
    wanted = [(row["at_s"], row["channel"], json.loads(row["payload"])) for row in rows]
    wanted = [one for one in wanted if one[1] not in done.held_back]
    assert [(channel, message) for _, channel, message in heard] == [(c, m) for _, c, m in wanted]
    for (at, *_), (then, *_) in zip(heard, wanted, strict=True):
        assert at - heard[0][0] == pytest.approx(then - wanted[0][0], abs=1e-6)


def test_nobody_waits_for_a_run_that_was_interrupted_to_be_resumed(record: Path, tmp_path: Path) -> None:
    paused = tampered(
        record,
        tmp_path / "paused.heron",
        "UPDATE message_row SET at_s = at_s + 1000 WHERE step >= 2",
        "INSERT INTO event_row (at_s, episode, step, kind, subject, what, data, hash) "
        "VALUES (900, 1, 2, 'resumed', 'small', 'resumed', '{\"rows\": {}, \"head\": \"\"}', x'00')",
    )
    done, heard = replayed(paused)
    assert done.published == len(heard)
    assert done.took_s < 500.0


def test_ten_times_the_speed_takes_a_tenth_of_the_time(record: Path) -> None:
    slow, fast = replayed(record)[0], replayed(record, speed=10.0)[0]
    assert fast.took_s == pytest.approx(slow.took_s / 10.0, rel=1e-3)


def test_setpoints_of_devices_in_shadow_and_of_those_that_are_there_are_held_back(record: Path) -> None:
    there = {"devices/MG1/gen/status": {"type": "status", "state": "online", "sender": "MG1/gen"}}
    done, heard = replayed(record, before=there)
    channels = {channel for _, channel, _ in heard}
    assert "devices/MG1/gen/setpoint" in done.held_back
    assert "devices/MG1/gen/setpoint" not in channels
    assert "devices/MG3/gen/setpoint" in channels  # an emulator's, and no device of that name is there


@pytest.mark.parametrize(
    "channel",
    ["estop", "devices/MG1/gen/authority", "devices/MG1/gen/take", "run/owner", "devices/MG1/gen/fault"],
)
def test_stops_authority_and_claims_are_held_back_unless_asked_for(
    record: Path, tmp_path: Path, channel: str
) -> None:
    path = tampered(
        record, tmp_path / "t.heron",
        f"UPDATE message_row SET channel = '{channel}' WHERE id = (SELECT min(id) FROM message_row "
        "WHERE type = 'offer' AND direction = 'out')",
    )  # fmt: skip
    done, heard = replayed(path)
    assert done.held_back[channel] >= 1  # the run has some of its own on run/owner
    assert channel not in {one for _, one, _ in heard}
    done, heard = replayed(path, commands_real_devices=True)
    assert channel in {one for _, one, _ in heard}
    assert not done.held_back


def test_a_run_that_is_under_way_is_not_disturbed(record: Path) -> None:
    running = {
        "run/state": {"type": "run_state", "state": "running", "boot": "another", "episode": 1, "step": 4}
    }
    with pytest.raises(ConfigError, match="under way"):
        replayed(record, before=running)


def test_another_environment_gets_messages_of_its_own_name(record: Path) -> None:
    _, heard = replayed(record, env_id="rehearsal")
    assert {message["env_id"] for _, _, message in heard if "env_id" in message} == {"rehearsal"}


def test_a_record_without_messages_cannot_be_replayed(record: Path, tmp_path: Path) -> None:
    path = tampered(record, tmp_path / "t.heron", "UPDATE meta SET value = '0' WHERE key = 'keeps_messages'")
    with pytest.raises(ConfigError, match="were not recorded"):
        replayed(path)


# -- merge -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The two records of one run: the environment's, and that of MG2's proxy, whose clock began elsewhere."""
    folder = tmp_path_factory.mktemp("sides")
    loaded = scenario_from_dict(scenario({"microgrids.MG2.remote": True}))
    ours, theirs = folder / "environment.heron", folder / "MG2.heron"

    async def go() -> None:
        wire, far = OpenMemoryBroker(), None
        here = RunRecorder(ours, run_facts(loaded, seed=1))
        there = RunRecorder(theirs, run_facts(loaded, role="MG2"), elapsed=lambda: time.monotonic() + 1234.5)
        env = MultiAgentMicrogrids(
            {
                "scenario": loaded,
                "centralized": False,
                "message_broker": wire,
                "recorder": here,
                "max_episode_steps": 3,
            }
        )
        far = Bridge(wire)
        proxy = make_proxy(
            loaded.scenario, "MG2", far, env_id=loaded.scenario.topic_env_id, devices="simulated"
        )
        there.attach(far, [proxy])
        there._begun_s -= 77.0  # its record began 77 s earlier
        await proxy.start()
        serving = asyncio.create_task(proxy.run())
        await env.reset_async(seed=1)
        while env.agents:
            await env.step_async({})
        await env.close_async()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await proxy.close()
        here.close({"steps": 3})
        there.close()

    asyncio.run(go())
    return ours, theirs


class Bridge(OpenMemoryBroker):
    """Another client of the same wire: what it publishes goes there, what is there comes to it."""

    def __init__(self, wire: InMemoryBroker) -> None:
        super().__init__()
        self._wire = wire
        self._from_wire = False
        wire.subscribe("#", self._take)

    def _take(self, message: Any) -> None:
        self._from_wire = True
        try:
            self._dispatcher.arrive_decoded(message.channel, dict(message), retained=message.retained)
        finally:
            self._from_wire = False

    def publish(self, channel: str, message: Mapping[str, Any], *, retain: bool = False) -> Any:
        if self._dispatcher.tap is not None:
            self._dispatcher.tap.published(channel, message, None, retain)
        self.stats.published += 1
        return self._wire.publish(channel, message, retain=retain)

    def subscribe(self, channel: str, callback: Any) -> Any:
        return self._dispatcher.add(channel, callback)


def test_two_sides_become_one_record_that_verifies(sides: tuple[Path, Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole.heron"
    offsets = merge(sides, whole)
    assert set(offsets) == {"MG2"}
    assert not [finding for finding in verify(whole) if finding.failed]
    with RecordFile(whole) as record:
        assert {row["source"] for row in record.query("SELECT DISTINCT source FROM messages")} == {
            "environment", "MG2",
        }  # fmt: skip
        assert merged_offsets(record) == offsets
        assert len(record.query("SELECT * FROM devices")) == 27


def test_the_offset_comes_from_the_messages_and_holds_within_its_error(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    offset = merge(sides, tmp_path / "whole.heron")["MG2"]
    with RecordFile(sides[0]) as ours, RecordFile(sides[1]) as theirs:
        sql = "SELECT seq, at_s FROM messages WHERE direction = ? AND channel = ?"
        sent = {row["seq"]: row["at_s"] for row in ours.query(sql, "out", "agents/MG2/observation")}
        heard = {row["seq"]: row["at_s"] for row in theirs.query(sql, "in", "agents/MG2/observation")}
    true = min(heard[seq] - at for seq, at in sent.items())  # in one process: no time on the way
    assert 70.0 < true < 80.0
    assert offset.error_s is not None
    assert abs(offset.seconds - true) <= offset.error_s + 1e-4
    assert offset.exchanged > 10


def test_a_message_of_both_sides_has_one_payload(sides: tuple[Path, Path], tmp_path: Path) -> None:
    merge(sides, tmp_path / "whole.heron")
    with RecordFile(tmp_path / "whole.heron") as record:
        copies = record.query(
            "SELECT i.channel FROM messages AS i JOIN messages AS o "
            "ON (o.sender, o.boot, o.channel, o.seq) = (i.sender, i.boot, i.channel, i.seq) "
            "WHERE i.direction = 'in' AND o.direction = 'out' "
            "AND i.payload IS NOT NULL AND o.payload IS NOT NULL"
        )
    assert not copies


def test_what_one_side_sent_and_the_other_never_got_is_found(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    less = forged(
        tampered(
            sides[1], tmp_path / "less.heron",
            "DELETE FROM message_row WHERE id = (SELECT id FROM message_row WHERE type = 'observation' "
            "AND channel = 'agents/MG2/observation' AND direction = 'in' AND step = 1)",
        )
    )  # fmt: skip
    merge([sides[0], less], tmp_path / "whole.heron")
    broken = {finding.name: finding.first for finding in verify(tmp_path / "whole.heron") if finding.failed}
    assert "agents/MG2/observation" in broken["lost and duplicated alike on both sides"]


def test_records_of_different_runs_are_not_merged(
    sides: tuple[Path, Path], record: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not of the run"):
        merge([record, sides[1]], tmp_path / "x.heron")


def test_what_cannot_be_merged_is_said(sides: tuple[Path, Path], tmp_path: Path) -> None:
    for wrong, said in (
        ([sides[0]], "at least two"),
        ([sides[1], sides[0]], "name the environment's first"),
        ([sides[0], sides[0]], "two records of one side"),
    ):
        with pytest.raises(ConfigError, match=said):
            merge(wrong, tmp_path / "x.heron")
    (tmp_path / "x.heron").write_text("taken")
    with pytest.raises(ConfigError, match="exists already"):
        merge(sides, tmp_path / "x.heron")
