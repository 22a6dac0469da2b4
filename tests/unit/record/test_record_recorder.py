"""RunRecorder: what the environment, the gateways and the broker did, as rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.app.recording import run_facts
from heron_mqtt.errors import DataError
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record import schema
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import RunRecorder
from heron_mqtt.record.verify.chains import check_chains
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import load_scenario, scenario_from_dict
from support.recorded_runs import STEPS, record_run
from support.small_grid import scenario

pytestmark = pytest.mark.usefixtures("built_once")

LOSSY = {"rules": [{"pattern": "p2p/#", "direction": "out", "loss": 0.3, "duplicate": 0.2}]}
QUICK = {"deadlines": {"upstream_s": 0.2, "peer_s": 0.1, "device_s": 0.2, "action_s": 2.0, "ready_s": 5.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordFile]:
    path = tmp_path_factory.mktemp("record") / "run.heron"
    record_run(path)
    with RecordFile(path) as record:
        yield record


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordFile]:
    path = tmp_path_factory.mktemp("record") / "lossy.heron"
    broker = ImpairedBroker(InMemoryBroker(), ImpairmentTable.model_validate(LOSSY), seed=5)
    record_run(path, steps=3, broker=broker, changes=QUICK)
    with RecordFile(path) as record:
        yield record


def test_every_step_agent_and_device_has_its_row(run: RecordFile) -> None:
    counts = {view: run.query(f"SELECT count(*) AS n FROM {view}")[0]["n"] for view in schema.VIEWS}
    assert counts["steps"] == STEPS
    assert counts["agents"] == 3 * STEPS
    assert counts["devices"] == 9 * STEPS
    assert counts["trades"] > 0
    assert counts["messages"] > 20 * STEPS


def test_a_step_is_recorded_as_the_environment_returned_it(tmp_path: Path) -> None:
    loaded = scenario_from_dict(scenario())
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(loaded))
    env = MultiAgentMicrogrids({"scenario": loaded, "recorder": recorder, "max_episode_steps": 3})
    env.reset(seed=1)
    returned = [env.step({}) for _ in range(3)]
    env.close()
    recorder.close()
    with RecordFile(tmp_path / "run.heron") as record:
        for step, (_, rewards, _, _, infos) in enumerate(returned):
            for agent, info in infos.items():
                (row,) = record.query("SELECT * FROM agents WHERE step = ? AND agent = ?", step, agent)
                assert row["reward"] == rewards[agent]
                assert row["net_mwh"] == info["net_mwh"]
                assert row["vm_min_pu"] == info["vm_pu"]["min"]
                assert row["reward_grid"] == info["reward_terms"]["grid"]
                for device, p_mw in info["p_mw"].items():
                    (one,) = record.query(
                        "SELECT * FROM devices WHERE step = ? AND agent = ? AND device = ?",
                        step,
                        agent,
                        device,
                    )
                    assert one["p_mw"] == p_mw
                    assert one["soc"] == info["soc"].get(device)


def test_the_phases_of_a_step_are_timed_and_add_up_to_it(run: RecordFile) -> None:
    for row in run.query("SELECT * FROM steps"):
        phases = [row["inform_s"], row["actions_s"], row["solve_s"]]
        assert all(phase > 0.0 for phase in phases)
        assert sum(phases) == pytest.approx(row["took_s"])
        assert row["clock"].endswith("Z")


def test_actions_from_the_caller_are_kept_beside_the_observation(tmp_path: Path) -> None:
    record_run(tmp_path / "run.heron", steps=2, centralized=True, actions={"MG1": [0.5] * 4})
    with RecordFile(tmp_path / "run.heron") as record:
        rows = record.query("SELECT agent, observation, command FROM agents WHERE step = 0")
        commands = {row["agent"]: row["command"] for row in rows}
        assert set(json.loads(commands["MG1"])) == {"p_gen", "p_ess", "p_pv", "q_pv"}
        assert commands["MG2"] is None
        assert json.loads(rows[0]["observation"])["dt_s"] == 900.0


def test_a_message_published_and_received_here_has_one_payload(run: RecordFile) -> None:
    rows = run.query("SELECT direction, payload FROM messages WHERE type = 'offer'")
    assert {row["direction"] for row in rows} == {"out", "in"}
    assert all((row["payload"] is None) == (row["direction"] == "in") for row in rows)


def test_messages_carry_what_the_wire_carried(run: RecordFile) -> None:
    (row,) = run.query(
        "SELECT * FROM messages WHERE type = 'price' AND direction = 'out' AND step = 2 LIMIT 1"
    )
    said = json.loads(row["payload"])
    assert (row["sender"], row["boot"], row["seq"]) == (said["sender"], said["boot"], said["seq"])
    assert row["size_bytes"] == len(row["payload"])
    assert row["sent_at"] == said["sent_at"]
    assert row["retained"] == 1


def test_what_an_impaired_network_did_stands_on_the_message(lossy: RecordFile) -> None:
    lost = lossy.query("SELECT * FROM messages WHERE network LIKE '%lost%'")
    assert lost
    assert all(row["channel"].startswith("p2p/") and row["direction"] == "out" for row in lost)
    for row in lost:
        arrived = lossy.query(
            "SELECT 1 FROM messages WHERE direction = 'in' AND channel = ? AND sender = ? AND boot = ? "
            "AND seq = ?",
            row["channel"],
            row["sender"],
            row["boot"],
            row["seq"],
        )
        assert not arrived
    summary = lossy.summary()
    assert summary is not None
    copies = lossy.query("SELECT count(*) AS n FROM messages WHERE network LIKE '%duplicated%'")[0]["n"]
    assert copies > 0


def test_missed_deadlines_are_counted_in_the_step(lossy: RecordFile) -> None:
    assert lossy.query("SELECT sum(missed) AS n FROM steps")[0]["n"] > 0


@pytest.mark.parametrize("what", ["removed", "replaced", "its folder removed"])
def test_a_record_that_is_not_in_its_place_any_more_is_lost(tmp_path: Path, what: str) -> None:
    said: list[str] = []
    path = tmp_path / "records" / "run.heron"
    path.parent.mkdir()
    recorder = RunRecorder(path, run_facts(load_scenario("three_microgrids")), report=said.append)
    recorder.event("note", "MG1", "something")
    if what == "replaced":
        (tmp_path / "other").write_bytes(b"another file")
        (tmp_path / "other").replace(path)
    elif what == "removed":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    told = recorder.close()
    assert (told["head"], sum(told["rows"].values()), told["lost"]) == (None, 0, 2)
    assert said.count(f"record {path}: was removed or replaced; the run continues and is not recorded") == 1


def test_what_a_broker_reports_becomes_an_event(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(scenario_from_dict(scenario())))
    broker = InMemoryBroker()
    recorder.attach(broker)
    broker.stats.reject("a/b", "not a message")
    recorder.close()
    with RecordFile(tmp_path / "run.heron") as record:
        (row,) = record.query("SELECT * FROM events WHERE kind LIKE 'report%'")
        assert (row["subject"], row["what"]) == ("a/b", "not a message")


def test_an_emergency_stop_a_fault_and_a_lease_become_events(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(scenario_from_dict(scenario())))
    broker = InMemoryBroker()
    recorder.attach(broker)
    for channel in ("estop", "devices/MG1/ess/lease"):
        broker.subscribe(channel, lambda message: None)
    broker.publish("estop", {"type": "estop", "active": True, "who": "ana"})
    broker.publish("devices/MG1/ess/lease", {"type": "lease", "state": "held", "holder": "MG1"})
    broker.publish("devices/MG1/ess/fault", {"type": "fault", "kind": "silence", "steps": 8})
    recorder.close()
    with RecordFile(tmp_path / "run.heron") as record:
        said = {row["kind"]: row["what"] for row in record.query("SELECT kind, what FROM events")}
        assert said["stop"] == "emergency stop pressed"
        assert said["lease"] == "lease held MG1"
        assert said["fault"] == "fault on request: silence for 8 steps"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "setpoint", "seq": 2**70, "sender": 7, "boot": [], "episode": "x", "step": True},
        {"type": ["estop"], "sent_at": 5},
        {"type": "run_state", "boot": None},
        {},
    ],
)
def test_nonsense_on_the_wire_is_recorded_and_hurts_nothing(
    tmp_path: Path, message: dict[str, object]
) -> None:
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(scenario_from_dict(scenario())))
    broker = InMemoryBroker()
    recorder.attach(broker)
    for channel in ("devices/MG1/ess/setpoint", "estop", "other"):
        broker.subscribe(channel, lambda message: None)
        broker.publish(channel, message)
    told = recorder.close()
    assert told["lost"] == 0
    with RecordFile(tmp_path / "run.heron") as record:
        assert len(record.query("SELECT * FROM messages")) == 6
        assert check_chains(record).verdict == "ok"


def test_the_record_holds_no_address_and_no_login(run: RecordFile) -> None:
    everything = "\n".join(map(str, run.connection.iterdump())) + json.dumps(run.meta)
    assert "mqtt://" not in everything
    assert "password" not in everything.lower().replace("password_file", "")  # a key of the scenario


def test_a_record_without_messages_still_has_the_rest(tmp_path: Path) -> None:
    loaded = scenario_from_dict(scenario())
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(loaded), keeps_messages=False)
    env = MultiAgentMicrogrids(
        {"scenario": loaded, "centralized": False, "recorder": recorder, "max_episode_steps": 2}
    )
    env.reset(seed=1)
    env.step({})
    env.close()
    told = recorder.close()
    assert told["rows"]["message"] == 0
    assert told["rows"]["device"] == 9


def test_two_episodes_are_kept_apart(tmp_path: Path) -> None:
    loaded = scenario_from_dict(scenario())
    recorder = RunRecorder(tmp_path / "run.heron", run_facts(loaded))
    env = MultiAgentMicrogrids({"scenario": loaded, "recorder": recorder, "max_episode_steps": 2})
    for _ in range(2):
        env.reset(seed=1)
        while env.agents:
            env.step({})
    env.close()
    recorder.close()
    with RecordFile(tmp_path / "run.heron") as record:
        rows = record.query("SELECT episode, step FROM steps ORDER BY id")
        assert [tuple(row) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]


# -- versions --------------------------------------------------------------------------------------


def test_a_later_layout_adds_columns_and_the_hashes_of_older_rows_still_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.heron"
    record_run(path, steps=2)

    def add_a_column(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE device_row ADD COLUMN temperature_c REAL")

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: add_a_column})
    before = path.read_bytes()
    with RecordFile(path) as record:
        assert record.version == 1
        assert record.query("SELECT temperature_c FROM device_row")[0]["temperature_c"] is None
        assert record.query("SELECT count(*) AS n FROM devices")[0]["n"] == 18
        assert check_chains(record).verdict == "ok"
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.heron"
    record_run(path, steps=1)
    connection = sqlite3.connect(path, isolation_level=None)

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE step_row ADD COLUMN extra REAL")
        raise sqlite3.OperationalError("no")

    with pytest.raises(sqlite3.OperationalError):
        schema.upgrade(connection, 1, {1: half}, 2)
    connection.close()
    with RecordFile(path) as record:
        assert record.version == 1
        assert check_chains(record).verdict == "ok"


def test_a_damaged_record_is_named_and_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "run.heron"
    record_run(path, steps=2)
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|not a record"), RecordFile(path) as record:
        record.query("SELECT * FROM device_row")


@pytest.mark.parametrize("view", list(schema.VIEWS))
def test_a_view_shows_every_row_of_its_table_once(run: RecordFile, view: str) -> None:
    table = f"{view.removesuffix('s')}_row"
    (row,) = run.query(
        f"SELECT (SELECT count(*) FROM {view}) AS seen, (SELECT count(*) FROM {table}) AS kept"
    )
    assert row["seen"] == row["kept"] > 0
