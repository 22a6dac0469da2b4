"""verify: it holds on what really happened, and every kind of change is caught, also where it is forged."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pandapower as pp
import pytest

from heron_mqtt.app.verify import RecordCheck, verify
from heron_mqtt.app.verify_devices import check_devices
from heron_mqtt.app.verify_files import check_files
from heron_mqtt.app.verify_grid import check_balance
from heron_mqtt.app.what_if import what_if
from heron_mqtt.errors import DataError
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.schema import TABLES, VIEWS
from heron_mqtt.record.verify.beginning import check_beginning
from heron_mqtt.record.verify.chains import check_chains
from heron_mqtt.record.verify.finding import Finding
from heron_mqtt.record.verify.leases import check_authority, check_leases
from heron_mqtt.record.verify.links import check_links
from heron_mqtt.record.verify.setpoints import check_setpoints_sent
from heron_mqtt.record.verify.trades import check_trades
from powergrid.networks import load_network
from powergrid.scenario import LoadedScenario
from powergrid.simulation.build import Blueprint, build
from support.field_rig import OpenMemoryBroker
from support.recorded_runs import forged, record_run, tampered

SHADOW = {
    "microgrids.MG2.devices.ess.authority": "shadow",
    "envelope.grid_check": True,
    "microgrids.MG3.devices.ess.emulator": {"efficiency_factor": 0.9, "noise_mw": 0.0001, "lag_s": 400.0},
}
QUICK = {"deadlines": {"upstream_s": 0.3, "peer_s": 0.2, "device_s": 0.2, "action_s": 3.0, "ready_s": 5.0}}
BUILT: dict[str, Blueprint] = {}
LOSSY = {"rules": [{"pattern": ["devices/+/+/setpoint", "devices/+/+/telemetry"], "loss": 0.08}]}

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(autouse=True)
def _grids_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of one scenario have one grid; building it takes most of a check."""

    def build_once(loaded: LoadedScenario) -> Blueprint:
        key = loaded.scenario.model_dump_json()
        if key not in BUILT:
            BUILT[key] = build(loaded)
        return BUILT[key]

    monkeypatch.setattr("heron_mqtt.app.recorded_world.build", build_once)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def record(folder: Path) -> Path:
    """Emulated devices, one of them in shadow, one that is not what its nameplate says; a grid check."""
    path = folder / "run.heron"
    record_run(path, steps=6, emulated=True, changes=SHADOW)
    return path


def broken(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.first for finding in findings if finding.failed}


def test_a_run_with_emulated_devices_holds_in_everything(record: Path) -> None:
    findings = verify(record)
    assert broken(findings) == {}
    looked_at = {finding.name: finding.checked for finding in findings}
    assert all(
        looked_at[name] > 0
        for name in looked_at
        if name != "time to the safe state within the lease"  # no device fell silent
    )


@pytest.mark.slow
def test_a_run_with_faults_and_losses_holds(folder: Path) -> None:
    broker = ImpairedBroker(OpenMemoryBroker(), ImpairmentTable.model_validate(LOSSY), seed=2)
    faults = {"MG1/ess": "silence@2:2", "MG2/gen": "reject_setpoints@1:2", "MG3/pv": "offset@1:3:0.001"}
    told = record_run(
        folder / "faults.heron", steps=6, emulated=True, changes=QUICK, broker=broker, faults=faults
    )
    assert told["lost"] == 0
    assert broken(verify(folder / "faults.heron")) == {}


@pytest.fixture(scope="module")
def reborn(folder: Path) -> Path:
    """A battery is born again; its model had gone on without it and is put back where the battery is."""
    path = folder / "reborn.heron"
    record_run(path, steps=8, emulated=True, faults={"MG1/ess": "reboot@2:2"}, changes=QUICK)
    return path


@pytest.mark.slow
def test_a_device_that_was_born_again_holds(reborn: Path) -> None:
    with RecordFile(reborn) as run:
        (event,) = run.query("SELECT subject, data FROM event_row WHERE kind = 'taken up'")
        assert event["subject"] == "MG1/ess"
    assert broken(verify(reborn)) == {}
    replayed = what_if(reborn)
    assert replayed.is_exact, replayed.first


def test_where_a_model_was_put_cannot_be_forged(reborn: Path, tmp_path: Path) -> None:
    statement = "UPDATE event_row SET data = json_set(data, '$.soc', 0.4) WHERE kind = 'taken up'"
    with RecordFile(forged(tampered(reborn, tmp_path / "t.heron", statement))) as changed:
        assert "which the device has not reported" in broken(list(check_devices(changed)))[TWINS]


@pytest.mark.parametrize("centralized", [True, False])
def test_a_run_of_models_alone_holds(folder: Path, centralized: bool) -> None:
    path = folder / f"models-{centralized}.heron"
    record_run(path, steps=3, centralized=centralized)
    assert broken(verify(path)) == {}


@pytest.mark.slow
def test_scaled_loads_and_those_out_of_service_are_no_power_from_nowhere(folder: Path) -> None:
    net = load_network("create_kerber_landnetz_freileitung_1")
    net.load["scaling"] = 0.6
    net.load.loc[net.load.index[0], "in_service"] = False
    pp.create_sgen(net, net.load.bus.iloc[1], p_mw=0.02, scaling=0.25)
    pp.to_json(net, folder / "scaled.json")
    path = folder / "scaled.heron"
    record_run(path, steps=2, centralized=True, changes={"network.source": str(folder / "scaled.json")})
    assert broken(verify(path)) == {}


LATE = {"rules": [{"pattern": ["agents/+/action"], "loss": 0.3}]}


@pytest.fixture(scope="module")
def late(folder: Path) -> Path:
    """Actions that do not reach the operator in time: the grid has the devices in their safe state then."""
    path = folder / "late.heron"
    deadlines = {**QUICK["deadlines"], "action_s": 0.5}
    broker = ImpairedBroker(OpenMemoryBroker(), ImpairmentTable.model_validate(LATE), seed=2)
    record_run(path, steps=8, emulated=True, broker=broker, changes={**SHADOW, "deadlines": deadlines})
    return path


def test_an_action_that_came_too_late_is_no_forgery(late: Path) -> None:
    with RecordFile(late) as run:
        assert run.query("SELECT id FROM agent_row WHERE fallback IS NOT NULL")
        bounds, twins = check_devices(run)
    assert broken([bounds, twins]) == {}


@pytest.mark.parametrize(
    ("said", "holds"),
    [(None, True), ('{"devices": {"ess": {"authority": "emulated"}}}', True),
     ('{"devices": {"ess": {"authority": "shadow"}}}', False)],
)  # fmt: skip
def test_a_setpoint_of_a_step_that_ended_without_its_agent_had_its_authority(
    record: Path, tmp_path: Path, said: str | None, holds: bool
) -> None:
    here = "agent = 'MG1' AND step = 2"
    statements = [
        f"UPDATE agent_row SET fallback = 'no action before the deadline' WHERE {here}",
        f"UPDATE device_row SET authority = NULL, sent_p_mw = NULL WHERE {here}",
    ]
    if said is not None:
        statements.append(
            "INSERT INTO event_row (at_s, episode, step, kind, subject, what, data, hash) "
            f"VALUES (1.0, 1, 2, 'late', 'MG1', 'after the step had ended', '{said}', x'00')"
        )
    with RecordFile(tampered(record, tmp_path / "t.heron", *statements)) as run:
        found = check_authority(run)
    assert (not found.failed) == holds, found.first


def test_that_an_action_came_too_late_cannot_be_forged(late: Path, tmp_path: Path) -> None:
    statement = "UPDATE agent_row SET fallback = 'late' WHERE fallback IS NULL"
    with RecordFile(forged(tampered(late, tmp_path / "t.heron", statement))) as changed:
        assert TWINS in broken(list(check_devices(changed)))


NO_END = "DELETE FROM event_row WHERE kind = 'summary'"
LOST = "UPDATE event_row SET data = json_set(data, '$.lost_rows', 7) WHERE kind = 'summary'"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (LOST, "7 rows are missing: 7 could not be written"),
        ("DELETE FROM step_row WHERE step = 2", "step 2 of episode 1"),
        ("DELETE FROM device_row WHERE step = 1", "device_row has"),
        ("UPDATE event_row SET data = json_set(data, '$.steps', 8) WHERE kind = 'summary'", "step 6 and"),
    ],
)
def test_rows_that_are_missing_are_counted(record: Path, tmp_path: Path, change: str, why: str) -> None:
    changed = forged(tampered(record, tmp_path / "changed.heron", change))
    found = next(one for one in verify(changed) if one.name == "no row is missing")
    assert found.verdict == "FAILED"
    assert found.failed > 0
    assert why in found.first
    assert f"{found.failed} rows are missing" in found.first
    whole = next(one for one in verify(record) if one.name == "no row is missing")
    assert (whole.verdict, whole.failed, whole.note) == ("ok", 0, "")
    assert whole.checked == sum(rows for rows, _ in RecordFile(record).heads().values())


def test_a_run_without_its_end_is_not_said_to_be_whole(record: Path, tmp_path: Path) -> None:
    changed = forged(tampered(record, tmp_path / "killed.heron", NO_END))
    found = next(one for one in verify(changed) if one.name == "no row is missing")
    assert (found.verdict, found.failed) == ("-", 0)
    assert "6 steps" in found.note
    with RecordFile(changed) as killed:
        head = killed.head
    printed = next(one for one in verify(changed, head) if one.name == "no row is missing")
    assert printed.verdict == "FAILED"  # a head is printed at the end
    assert "the end of its run is missing" in printed.first


def test_the_head_of_the_run_is_recognised_and_another_is_not(record: Path) -> None:
    (chains, *_) = verify(record)
    head = chains.note.split()[1].rstrip(":")
    assert broken(verify(record, head)) == {}
    assert "hash chain of every table" in broken(verify(record, "0123456789abcdef"))


def chain_of(path: Path) -> Finding:
    with RecordFile(path) as record:
        return check_chains(record)


# -- the chain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [table.name for table in TABLES])
@pytest.mark.parametrize("how", ["changed", "removed", "removed at the end", "put in"])
def test_any_row_that_is_touched_breaks_the_chain(record: Path, tmp_path: Path, table: str, how: str) -> None:
    columns = next(t.names for t in TABLES if t.name == table)
    last = f"(SELECT max(id) FROM {table})"
    middle = f"(SELECT min(id) FROM {table})"
    statement = {
        "changed": f"UPDATE {table} SET step = coalesce(step, 0) + 1 WHERE id = {middle}",
        "removed": f"DELETE FROM {table} WHERE id = {middle}",
        "removed at the end": f"DELETE FROM {table} WHERE id = {last}",
        "put in": f"INSERT INTO {table} ({', '.join(columns)}, hash) "
        f"SELECT {', '.join(columns)}, hash FROM {table} WHERE id = {last}",
    }[how]
    assert table in chain_of(tampered(record, tmp_path / "t.heron", statement)).first


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '7' WHERE key = 'seed'",
        "UPDATE meta SET value = replace(value, '0.95', '0.99') WHERE key = 'scenario_json'",
        "DELETE FROM meta WHERE key = 'versions'",
        "UPDATE input_file SET content = zeroblob(100) WHERE name = 'profiles.file'",
        "UPDATE input_file SET sha256 = 'aa' WHERE name = 'profiles.file'",
        "DELETE FROM chain WHERE table_name = 'device_row'",
        "UPDATE chain SET rows = rows - 1 WHERE table_name = 'trade_row'",
        "UPDATE chain SET head = '00' WHERE table_name = 'trade_row'",
    ],
)
def test_what_the_run_began_with_cannot_be_changed_either(
    record: Path, tmp_path: Path, statement: str
) -> None:
    assert chain_of(tampered(record, tmp_path / "t.heron", statement)).failed


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_a_view_that_shows_something_else_is_found(record: Path, tmp_path: Path, view: str) -> None:
    changed = Path(shutil.copy(record, tmp_path / "t.heron"))
    connection = sqlite3.connect(changed)
    connection.execute(f"DROP VIEW {view}")
    connection.execute(f"CREATE VIEW {view} AS {VIEWS[view]} LIMIT 3")
    connection.close()
    assert f"view {view} is not the one that was written" in chain_of(changed).first


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX mine ON device_row (agent)",
        "CREATE VIEW mine AS SELECT * FROM event_row LIMIT 1",
        "CREATE TABLE mine (a)",
    ],
)
def test_what_was_put_in_beside_is_found(record: Path, tmp_path: Path, statement: str) -> None:
    assert "mine was put in" in chain_of(tampered(record, tmp_path / "t.heron", statement)).first


def doctored(record: Path, file: Path, name: str, change: Callable[[str], str]) -> sqlite3.Connection:
    """Copy a record and change how one of its tables or indexes is described, without a look at the rows."""
    connection = sqlite3.connect(shutil.copy(record, file), isolation_level=None)
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    connection.execute("PRAGMA writable_schema = 1")
    connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (change(sql), name))
    return connection


def test_columns_that_have_changed_their_names_are_found(record: Path, tmp_path: Path) -> None:
    def swapped(text: str) -> str:
        return re.sub(r"\b(age_s|lease_s)\b", lambda m: {"age_s": "lease_s"}.get(m[0], "age_s"), text)

    connection = doctored(record, tmp_path / "t.heron", "device_row", swapped)
    (columns,) = connection.execute("SELECT columns FROM chain WHERE table_name = 'device_row'").fetchone()
    assert swapped(columns) != columns
    connection.execute("UPDATE chain SET columns = ? WHERE table_name = 'device_row'", (swapped(columns),))
    connection.close()
    assert "table device_row: its chain names the columns" in chain_of(tmp_path / "t.heron").first


def test_an_index_that_leaves_rows_out_is_found(record: Path, tmp_path: Path) -> None:
    first = Path(shutil.copy(record, tmp_path / "first.heron"))
    connection = sqlite3.connect(first, isolation_level=None)
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'device_at'").fetchone()
    connection.execute("DROP INDEX device_at")
    connection.execute(f"{sql} WHERE step > 1")
    connection.close()
    assert "index device_at is not the one that was written" in chain_of(first).first
    doctored(first, tmp_path / "second.heron", "device_at", lambda _: sql).close()
    assert "missing from index device_at" in chain_of(tmp_path / "second.heron").first


def test_a_trigger_that_was_put_in_is_found(record: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copy(record, tmp_path / "t.heron"))
    connection = sqlite3.connect(changed)
    connection.execute("CREATE TRIGGER quiet AFTER INSERT ON event_row BEGIN DELETE FROM event_row; END")
    connection.close()
    assert "trigger quiet was put in" in chain_of(changed).first


# -- what is forged, chain and all: the physics and the other side still know --------------------------

BALANCE = "energy balance of every step, by power flow"
GRID = "voltages and loadings as the power flow gives them"
REWARDS = "rewards follow from what happened"
BOUNDS = "setpoints inside nameplate, SOC, ramp, band and clearance"
TWINS = "twins against telemetry"
SHADOWED = "no setpoint to a device in shadow or simulated"
OWNER = "a lease has one owner"
OUTLIVED = "no lease outlived"
SAFE = "time to the safe state within the lease"
TRADES = "trades settled once, money conserved"
LINKS = "lost and duplicated alike on both sides"
SETPOINTS = "setpoints in rows as in messages"
BEGINNING = "the beginning of the run is told"
FILES = "files of the scenario"

CHECKS: dict[str, RecordCheck] = {
    **dict.fromkeys((BALANCE, GRID, REWARDS), check_balance),
    **dict.fromkeys((BOUNDS, TWINS), check_devices),
    SHADOWED: check_authority,
    **dict.fromkeys((OWNER, OUTLIVED, SAFE), check_leases),
    TRADES: check_trades,
    LINKS: check_links,
    SETPOINTS: check_setpoints_sent,
    BEGINNING: check_beginning,
    FILES: check_files,
}

DRIVEN_TELEMETRY = """
    SELECT t.id, t.payload FROM message_row t WHERE t.type = 'telemetry' AND t.payload IS NOT NULL
    AND (t.direction = 'out' OR t.arrival = 'new')
    AND (SELECT NOT coalesce(s.payload ->> '$.release', 0) FROM message_row s WHERE s.type = 'setpoint'
         AND s.channel = replace(t.channel, '/telemetry', '/setpoint') AND s.id < t.id
         ORDER BY s.id DESC LIMIT 1)
"""
"""Of devices under a lease: what others say, or one after its release, says nothing of leases."""

FORGED = {
    "more energy": (BALANCE, "UPDATE agent_row SET net_mwh = net_mwh + 0.001 WHERE id = 4"),
    "a smaller load": (BALANCE, "UPDATE agent_row SET p_load_mw = p_load_mw * 0.9 WHERE id = 4"),
    "another price": (BALANCE, "UPDATE step_row SET price_per_mwh = price_per_mwh + 1 WHERE id = 2"),
    "an agent left out": (BALANCE, "DELETE FROM agent_row WHERE id = 5"),
    "the last step left out": (
        BALANCE, "DELETE FROM step_row WHERE id = (SELECT max(id) FROM step_row)"
    ),
    "a device left out": (BALANCE, "DELETE FROM device_row WHERE id = 5"),
    "a device's power": (BALANCE, "UPDATE device_row SET p_mw = p_mw + 0.0001 WHERE id = 12"),
    "reactive power": (GRID, "UPDATE device_row SET q_mvar = 0.005 WHERE device = 'pv' AND step = 2"),
    "a better voltage": (GRID, "UPDATE agent_row SET vm_min_pu = 1.0 WHERE id = 4"),
    "a lower loading": (GRID, "UPDATE agent_row SET loading_max_percent = 1.0 WHERE id = 4"),
    "a reward": (REWARDS, "UPDATE agent_row SET reward = reward + 0.01 WHERE id = 4"),
    "a term": (
        REWARDS,
        "UPDATE agent_row SET reward = reward + 1, reward_terms = json_set(reward_terms, '$.grid', "
        "json_extract(reward_terms, '$.grid') + 1) WHERE id = 4",
    ),
    "beyond the nameplate": (
        BOUNDS, "UPDATE device_row SET sent_p_mw = 0.5, cleared_p_mw = 0.5 WHERE device = 'ess' AND step = 1 "
        "AND agent = 'MG1'",
    ),
    "more than was cleared": (
        BOUNDS, "UPDATE device_row SET sent_p_mw = sent_p_mw + 0.001 WHERE device = 'gen' AND step = 3 "
        "AND agent = 'MG1'",
    ),
    "more apparent power than there is": (
        BOUNDS, "UPDATE device_row SET sent_q_mvar = 0.05 WHERE device = 'pv' AND step = 3 AND agent = 'MG1'",
    ),
    "sent into shadow": (SHADOWED, "UPDATE device_row SET sent_p_mw = 0 WHERE authority = 'shadow'"),
    "authority": (SHADOWED, "UPDATE device_row SET authority = 'shadow' WHERE id = 13"),
    "telemetry": (TWINS, "UPDATE device_row SET telemetry_p_mw = telemetry_p_mw + 0.001 WHERE id = 12"),
    "a residual": (
        TWINS, "UPDATE device_row SET residual_mw = 0 WHERE agent = 'MG3' AND device = 'ess' AND step = 4"
    ),
    "a state of charge": (
        TWINS, "UPDATE device_row SET soc = soc + 0.01 WHERE agent = 'MG1' AND device = 'ess' AND step = 2"
    ),
    "a second owner": (
        OWNER, "UPDATE message_row SET boot = 'ffffffff' WHERE id = (SELECT max(id) FROM message_row "
        "WHERE type = 'setpoint' AND direction = 'out' AND NOT coalesce(payload ->> '$.release', 0))",
    ),
    "a lease outlived": (
        OUTLIVED, "UPDATE message_row SET payload = json_set(payload, '$.safe', json('false')), "
        f"at_s = at_s + 1000 WHERE id = (SELECT max(id) FROM ({DRIVEN_TELEMETRY}) "
        "WHERE NOT coalesce(payload ->> '$.safe', 1))",
    ),
    "slow to be safe": (
        SAFE, "UPDATE message_row SET payload = json_set(payload, '$.safe_after_s', 100.0) "
        f"WHERE id = (SELECT max(id) FROM ({DRIVEN_TELEMETRY}))",
    ),
    "a trade twice": (
        TRADES, "INSERT INTO trade_row (episode, step, seller, buyer, mwh, price_per_mwh, hash) "
        "SELECT episode, step, seller, buyer, mwh, price_per_mwh, x'00' FROM trade_row WHERE id = 1",
    ),
    "a trade less": (TRADES, "DELETE FROM trade_row WHERE id = 1"),
    "a trade's price": (TRADES, "UPDATE trade_row SET price_per_mwh = price_per_mwh + 1 WHERE id = 1"),
    "money from nothing": (
        TRADES, "UPDATE agent_row SET reward_terms = json_set(reward_terms, '$.trades', 5.0) WHERE id = 4"
    ),
    "a message that never arrived": (
        LINKS, "DELETE FROM message_row WHERE id = (SELECT max(id) FROM message_row WHERE type = 'offer' "
        "AND direction = 'in' AND step = 2)",
    ),
    "a message that was never sent": (
        LINKS, "DELETE FROM message_row WHERE id = (SELECT max(id) FROM message_row WHERE type = 'action' "
        "AND direction = 'out' AND step = 2)",
    ),
    "a message that arrived twice": (
        LINKS, "UPDATE message_row SET seq = seq - 1 WHERE id = (SELECT max(id) FROM message_row "
        "WHERE type = 'action' AND direction = 'in' AND step = 3)",
    ),
    "a setpoint in its message": (
        SETPOINTS, "UPDATE message_row SET payload = json_set(payload, '$.p_mw', 0.049) "
        "WHERE id = (SELECT max(id) FROM message_row WHERE type = 'setpoint' AND direction = 'out' "
        "AND NOT coalesce(payload ->> '$.release', 0))",
    ),
    "a setpoint in its row": (
        SETPOINTS, "UPDATE device_row SET sent_q_mvar = sent_q_mvar + 0.0001 WHERE id = "
        "(SELECT max(id) FROM device_row WHERE sent_seq IS NOT NULL)",
    ),
    "a setpoint without its message": (
        SETPOINTS, "UPDATE device_row SET sent_seq = 1000 WHERE id = "
        "(SELECT max(id) FROM device_row WHERE sent_seq IS NOT NULL)",
    ),
    "a setpoint that is no JSON": (
        SETPOINTS, "UPDATE message_row SET payload = '[[' "
        "WHERE id = (SELECT max(id) FROM message_row WHERE type = 'setpoint' AND direction = 'out')",
    ),
    "nothing said of the run": (BEGINNING, "DELETE FROM meta"),
    "whose record it is": (BEGINNING, "DELETE FROM meta WHERE key = 'role'"),
    "a proxy with a grid": (BEGINNING, "UPDATE meta SET value = 'MG1' WHERE key = 'role'"),
    "a proxy of nobody": (BEGINNING, "UPDATE meta SET value = 'proxy' WHERE key = 'role'"),
    "the files left out": (FILES, "DELETE FROM input_file"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forgery_with_a_perfect_chain_is_caught(record: Path, tmp_path: Path, what: str) -> None:
    invariant, statement = FORGED[what]
    path = forged(tampered(record, tmp_path / "t.heron", statement))
    with RecordFile(path) as changed:
        result = CHECKS[invariant](changed)
        found = broken([result] if isinstance(result, Finding) else list(result))
    assert invariant in found, found
    assert not chain_of(path).failed


@pytest.mark.parametrize(("retained", "is_broken"), [(1, False), (0, True)])
def test_what_the_broker_kept_comes_once_for_each_subscription(
    record: Path, tmp_path: Path, retained: int, is_broken: bool
) -> None:
    statement = (
        "INSERT INTO message_row (source, at_s, direction, channel, sender, boot, seq, type, retained, "
        "arrival, payload, hash) VALUES ('environment', 0.1, 'in', 'estop', 'jane', 'b1', 0, 'estop', "
        f"{retained}, 'new', '{{}}', x'00')"
    )
    with RecordFile(forged(tampered(record, tmp_path / "t.heron", statement, statement))) as run:
        assert bool(broken([check_links(run)])) is is_broken


@pytest.mark.parametrize("change", ["DELETE FROM meta", "UPDATE meta SET value = 'MG1' WHERE key = 'role'"])
def test_no_check_is_left_out_where_the_beginning_was_forged(
    record: Path, tmp_path: Path, change: str
) -> None:
    findings = verify(forged(tampered(record, tmp_path / "t.heron", change)))
    assert any(finding.name in {BALANCE, "energy balance"} for finding in findings), findings
    assert broken(findings)


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_was_never_written_is_named(record: Path, tmp_path: Path, version: int) -> None:
    damaged = shutil.copy(record, tmp_path / "t.heron")
    connection = sqlite3.connect(damaged)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(DataError, match=f"damaged: its layout is said to be version {version}, which no"):
        verify(damaged)


@pytest.mark.parametrize("is_rejected", [False, True])
def test_the_lease_of_a_setpoint_that_was_rejected_says_nothing_of_the_safe_state(
    record: Path, tmp_path: Path, is_rejected: bool
) -> None:
    """The power that ended was of the one before, whose lease may be longer."""
    setpoint = (
        "(SELECT max(id) FROM message_row WHERE type = 'setpoint' AND direction = 'out' "
        "AND NOT coalesce(payload ->> '$.release', 0) AND NOT coalesce(payload ->> '$.renewal', 0))"
    )
    answer = (
        "(SELECT min(t.id) FROM message_row t, message_row s WHERE t.type = 'telemetry' AND t.id > s.id "
        f"AND s.id = {setpoint} AND t.channel = replace(s.channel, '/setpoint', '/telemetry') "
        "AND (t.direction = 'out' OR t.arrival = 'new') AND t.payload IS NOT NULL)"
    )
    seq = f"(SELECT payload ->> '$.seq' FROM message_row WHERE id = {setpoint})"
    rejected = f", '$.rejected', 'locked', '$.ack_seq', {seq}" if is_rejected else ""
    path = record
    for i, statement in enumerate(
        [
            f"UPDATE message_row SET payload = json_set(payload, '$.safe_after_s', 2.0{rejected}) "
            f"WHERE id = {answer}",
            f"UPDATE message_row SET payload = json_set(payload, '$.lease_s', 0.001) WHERE id = {setpoint}",
        ]
    ):
        path = tampered(path, tmp_path / f"{i}.heron", statement)
    with RecordFile(path) as changed:
        assert (SAFE in broken(list(CHECKS[SAFE](changed)))) is not is_rejected


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE agent_row SET reward_terms = 'not json' WHERE id = 2",
        "UPDATE meta SET value = '{}' WHERE key = 'scenario_json'",
        "UPDATE device_row SET p_mw = 'much' WHERE id = 2",
        "DELETE FROM input_file WHERE name = 'profiles.file'",
        "DROP TABLE trade_row",
    ],
)
def test_what_cannot_be_checked_has_failed_without_a_traceback(
    record: Path, tmp_path: Path, statement: str
) -> None:
    path = Path(shutil.copy(record, tmp_path / "t.heron"))
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert broken(verify(path))
