"""``heron-mqtt`` and the record of a run: one run, and everything that a user does with it."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from mcap.exceptions import EndOfFile, McapError
from mcap.stream_reader import StreamReader

from heron_mqtt.app.verify import verify
from heron_mqtt.cli.command_line import run_command_line
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.record.export import export
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.report.page import report
from heron_mqtt.record.schema import VIEWS
from support.heron_command import HERON, Ended, heron, run_heron, until
from support.small_runs import STEPS, write_scenario


@dataclass(frozen=True)
class Run:
    """A run of the main job's kind: embedded broker, emulated devices as processes."""

    done: Ended
    record: Path
    csv: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    scenario = write_scenario(folder)
    record, table = folder / "day.heron", folder / "day.csv"
    done = run_heron(
        "run", str(scenario), "--steps", str(STEPS), "--json", "--record", str(record), "--csv", str(table)
    )
    assert done.code == 0, done.err
    return Run(done, record, table)


def test_the_record_of_a_run_verifies_with_the_head_that_it_printed(run: Run) -> None:
    told = run.done.result["record"]
    assert told["file"] == str(run.record)
    assert told["lost"] == 0
    done = run_heron("verify", str(run.record), "--head", told["head"])
    assert done.code == 0, done.out
    assert "FAILED" not in done.out


def test_verify_fails_with_the_counterexample_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    changed = tmp_path / "changed.heron"
    changed.write_bytes(run.record.read_bytes())
    connection = sqlite3.connect(changed)
    with connection:
        connection.execute("UPDATE device_row SET p_mw = p_mw + 0.001 WHERE id = 20")
    connection.close()
    done = run_heron("verify", str(changed))
    assert done.code == 1
    assert "table device_row: row 20 is not what was written" in done.out
    assert "MWh net recorded" in done.out


def test_the_record_holds_what_the_run_returned(run: Run) -> None:
    with RecordFile(run.record) as record:
        for agent, reward in run.done.result["rewards"].items():
            (row,) = record.query("SELECT sum(reward) AS total FROM agents WHERE agent = ?", agent)
            assert row["total"] == pytest.approx(reward, abs=1e-12)
        (row,) = record.query("SELECT count(*) AS n FROM messages WHERE direction = 'out'")
        # After the run has counted: operator and agents say goodbye and give their names back, and the nine
        # devices their leases.
        goodbyes = 4 + 4 + 9
        assert row["n"] == run.done.result["messages"]["published"] + goodbyes
        followed = record.query("SELECT 1 FROM devices WHERE acknowledged = 1 AND residual_mw = 0.0")
        assert len(followed) == 9 * STEPS


def test_csv_has_a_row_an_agent_and_step(run: Run) -> None:
    with run.csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * STEPS
    total = sum(float(row["reward"]) for row in rows if row["agent"] == "MG1")
    assert total == pytest.approx(run.done.result["rewards"]["MG1"], abs=1e-12)
    assert {"p_gen_mw", "soc_ess", "reward_grid"} <= set(rows[0])


def test_rows_of_the_csv_that_are_lost_fail_the_run(tmp_path: Path) -> None:
    path = write_scenario(tmp_path, {"steps": 2})
    done = run_heron("run", str(path), "--centralized", "--csv", "/dev/full", "--no-record")
    assert done.code == 1
    assert "csv /dev/full: No space left on device; the run continues" in done.out
    assert done.errors[-1] == "heron-mqtt: --csv /dev/full: 6 rows could not be written"
    assert "ran 2 steps" in done.out


def test_nothing_is_written_where_a_record_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.heron"
    kept.write_bytes(before := run.record.read_bytes())
    for command in (
        ["report", str(run.record), "--to", str(kept)],
        ["report", str(kept), "--to", str(kept)],
        ["calibrate", str(run.record), "--network", "--to", str(kept)],
        ["run", "--centralized", "--steps", "1", "--no-record", "--csv", str(kept)],
    ):
        code, _, err = here(monkeypatch, capsys, *command)
        assert code == 2, command
        assert f"{kept}: holds the record of a run, which is never overwritten" in "\n".join(err)
        assert kept.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--record", "day.heron"], "--record day.heron: {n} rows are missing"),
        (["--strict"], "--strict: {n} rows missing in the record"),
        ([], None),
    ],
)
def test_rows_that_are_missing_in_the_record_are_no_success(
    options: list[str], line: str | None, tmp_path: Path
) -> None:
    """A disk without room, here a limit of the size of a file; the run continues, its last line says it.

    Quick counterparts: test_run_summary.py, test_run_to_end.py.
    """
    path = write_scenario(tmp_path, {})
    run = [HERON, "run", str(path), "--centralized", "--record-messages", "--steps", "40", *options]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 130; exec "$@"', "bash", *run],
        cwd=tmp_path,
        env={**os.environ, "HERON_MQTT_RECORD": "runs"},
        capture_output=True,
        text=True,
        check=False,
    )
    (lost,) = re.findall(r"NOT WELL +(\d+) rows missing in the record\n", done.stdout)
    assert int(lost) > 0
    assert done.returncode == (0 if line is None else 1), done.stderr
    last = done.stderr.splitlines()[-1:]
    assert last == ([] if line is None else [f"heron-mqtt: {line.format(n=lost)}"])


def test_a_scenario_that_a_result_is_to_replace_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two arguments the wrong way round must not cost a file of the user's own; an earlier result is gone."""
    kept = write_scenario(tmp_path, {})
    before = kept.read_text()
    for command in (
        ["report", str(run.record), "--to", str(kept)],
        ["calibrate", str(run.record), "--network", "--to", str(kept)],
        ["run", str(kept), "--centralized", "--steps", "1", "--no-record", "--csv", str(kept)],
    ):
        code, _, err = here(monkeypatch, capsys, *command)
        assert code == 2, command
        assert f"{kept}: holds something else than an earlier result of this kind" in "\n".join(err)
        assert kept.read_text() == before
    page = tmp_path / "page.html"
    for _ in range(2):
        assert here(monkeypatch, capsys, "report", str(run.record), "--to", str(page))[0] == 0


def test_a_folder_is_no_record_of_a_run(run: Run) -> None:
    for folder in (".", "/"):
        done = run_heron("report", folder)
        assert (done.code, done.errors) == (2, [f"heron-mqtt: {folder}: a folder; expected a file"])


def test_pandas_reads_the_views(run: Run) -> None:
    connection = sqlite3.connect(run.record)
    devices = pd.read_sql("SELECT * FROM devices", connection)
    connection.close()
    assert len(devices) == 9 * STEPS
    assert devices["p_mw"].dtype == "float64"


def test_duckdb_reads_the_exported_views(run: Run, tmp_path: Path) -> None:
    export(run.record, "parquet", tmp_path)
    assert {path.stem for path in tmp_path.glob("*.parquet")} == set(VIEWS)
    found = duckdb.sql(
        f"SELECT agent, sum(reward) FROM '{tmp_path}/agents.parquet' GROUP BY agent"
    ).fetchall()
    assert dict(found) == pytest.approx(run.done.result["rewards"])


def test_csv_export_reads_back_exactly(run: Run, tmp_path: Path) -> None:
    done = run_heron("export", str(run.record), "--format", "csv", "--to", str(tmp_path))
    assert done.code == 0
    with (tmp_path / "devices.csv").open(newline="", encoding="utf-8") as file:
        exported = [float(row["p_mw"]) for row in csv.DictReader(file)]
    with RecordFile(run.record) as record:
        assert exported == [row["p_mw"] for row in record.query("SELECT p_mw FROM devices ORDER BY id")]


@pytest.mark.slow
def test_datasette_serves_the_views(run: Run) -> None:
    line = [
        str(Path(sys.executable).with_name("datasette")),
        str(run.record),
        "--get",
        "/day/steps.json?_size=3",
    ]
    done = subprocess.run(line, capture_output=True, timeout=60, check=True)
    assert len(json.loads(done.stdout)["rows"]) == 3


def test_a_truncated_mcap_can_be_read(run: Run, tmp_path: Path) -> None:
    (path,) = export(run.record, "mcap", tmp_path)
    whole = _mcap_messages(path)
    assert {"/steps", "/devices/MG1/ess", "/mqtt/agents/MG1/action"} <= {topic for topic, _ in whole}
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    part = _mcap_messages(path)
    assert len(part) > len(whole) // 3
    assert part == whole[: len(part)]


def _mcap_messages(path: Path) -> list[tuple[str, int]]:
    from mcap.records import Channel, Message

    topics: dict[int, str] = {}
    found: list[tuple[str, int]] = []
    with path.open("rb") as stream:
        try:
            for one in StreamReader(stream).records:
                if isinstance(one, Channel):
                    topics[one.id] = one.topic
                elif isinstance(one, Message):
                    found.append((topics[one.channel_id], one.log_time))
        except (EndOfFile, McapError):
            pass
    return found


# -- where records go ---------------------------------------------------------------------------------


def small_run(folder: Path, *more: str, record: str) -> Ended:
    scenario = write_scenario(folder)
    arguments = ("run", str(scenario), "--centralized", "--steps", "2", "--json", *more)
    with heron(*arguments, cwd=folder, environment={"HERON_MQTT_RECORD": record}) as program:
        return program.wait()


def test_without_options_the_record_is_in_runs_and_the_file_is_said(tmp_path: Path) -> None:
    done = small_run(tmp_path, record="")
    (file,) = (tmp_path / "runs").iterdir()
    assert done.code == 0
    assert file.name.endswith("-small.heron")
    assert str(file.relative_to(tmp_path)) == done.result["record"]["file"]
    assert any(line.startswith("record: runs/") for line in done.err.splitlines())


def test_a_directory_that_cannot_be_written_to_costs_the_record_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the directory should be")
    done = small_run(tmp_path, record="")
    assert done.code == 0
    assert done.result["record"] is None
    (line,) = [line for line in done.err.splitlines() if line.startswith("record:")]
    assert "this run is not recorded" in line


@pytest.mark.slow
def test_records_can_be_switched_off(tmp_path: Path) -> None:
    done = small_run(tmp_path, record="off")
    assert done.code == 0
    assert done.result["record"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, list[str]]:
    """Run the command line in this process; return exit code, output and lines of error."""
    monkeypatch.setattr(sys, "argv", ["heron-mqtt", *arguments])
    code = run_command_line()
    told = capsys.readouterr()
    return code, told.out, told.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--record", "taken.heron"), "exists already"),
        (("--record", "no/such/directory/x.heron"), "cannot be written"),
        (("--record", "x.heron", "--no-record"), "give one of them"),
        (("--csv", "no/such/directory/x.csv"), "cannot be written"),
        (("--publish-record",), "uses no broker"),
    ],
)
def test_what_was_asked_for_and_cannot_be_done_is_said_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.heron").write_text("")
    scenario = str(write_scenario(tmp_path))
    code, _, (line,) = here(monkeypatch, capsys, "run", scenario, "--centralized", *arguments)
    assert code == 2
    assert said in line


@pytest.mark.parametrize("command", ["verify", "export", "report", "what-if", "replay"])
def test_a_file_that_is_no_record_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "x.heron").write_text("nothing of the kind")
    more = ("--broker", "mqtt://127.0.0.1:1") if command == "replay" else ()
    code, _, (line,) = here(monkeypatch, capsys, command, str(tmp_path / "x.heron"), *more)
    assert code == 2
    assert "not a record of a run" in line


@pytest.mark.parametrize("command", ["verify", "report", "export", "replay", "what-if", "merge", "run"])
def test_every_command_has_an_example_in_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = here(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert f"Example: heron-mqtt {command}" in " ".join(out.split())


def test_what_if_prints_that_nothing_differs_and_what_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = here(monkeypatch, capsys, "what-if", str(run.record))
    assert code == 0
    assert "exact: nothing differs" in out
    code, out, _ = here(
        monkeypatch,
        capsys,
        "what-if",
        str(run.record),
        "--price",
        "x1.5",
        "--set",
        "market.import_adder_per_mwh=40",
    )
    assert code == 0
    assert "first difference: step 0" in out


def test_a_report_is_written_beside_the_record(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    code, out, _ = here(monkeypatch, capsys, "report", str(run.record), str(run.record), "--to", str(page))
    assert code == 0
    assert out.strip() == str(page)
    assert "A against B" in page.read_text(encoding="utf-8")


async def test_a_run_is_replayed_to_a_real_broker(run: Run) -> None:
    async with EmbeddedBroker() as server, MqttBroker(server.url, env_id="small") as watching:
        heard: list[str] = []
        await watching.subscribe("#", lambda message: heard.append(message.channel))
        arguments = ("replay", str(run.record), "--broker", server.url, "--speed", "50")
        with heron(*arguments) as program:
            done = await asyncio.to_thread(program.wait)
    assert done.code == 0, done.err
    assert f"{len(heard)} messages in" in done.out
    assert heard.count("agents/MG1/action") == STEPS


# -- how a run may end ---------------------------------------------------------------------------------


@pytest.mark.slow_but("9")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_record_of_a_run_that_was_stopped_verifies(tmp_path: Path, number: signal.Signals) -> None:
    scenario, record = write_scenario(tmp_path, {"realtime_s": 0.05, "steps": 1000}), tmp_path / "x.heron"
    with heron(
        "run", str(scenario), "--broker", "memory", "--record", str(record), "--record-messages"
    ) as run:
        run.wait_for("step 8/")
        if number == signal.SIGKILL:
            os.kill(run.pid, number)
        else:
            run.signal(number)
        run.wait()
    findings = verify(record)
    assert not [finding for finding in findings if finding.failed]
    with RecordFile(record) as file:
        assert file.query("SELECT count(*) AS n FROM steps")[0]["n"] >= 3
        assert (file.summary() is None) == (number == signal.SIGKILL)


@pytest.mark.slow
async def test_the_head_is_published_where_asked(tmp_path: Path) -> None:
    scenario, record = write_scenario(tmp_path), tmp_path / "x.heron"
    async with EmbeddedBroker() as server:
        arguments = ("run", str(scenario), "--steps", "2", "--json", "--devices", "simulated")
        with heron(
            *arguments, "--broker", server.url, "--record", str(record), "--publish-record"
        ) as program:
            done = await asyncio.to_thread(program.wait)
        async with MqttBroker(server.url, env_id="small") as broker:
            said = await broker.consume("run/record")
    assert said["head"] == done.result["record"]["head"]


def trajectory(path: Path) -> list[tuple[object, ...]]:
    with RecordFile(path) as record:
        devices = record.query("SELECT step, agent, device, p_mw, q_mvar, soc FROM devices ORDER BY id")
        agents = record.query("SELECT step, agent, reward, net_mwh, vm_min_pu FROM agents ORDER BY id")
    return [tuple(row) for row in (*devices, *agents)]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a scenario with imperfect devices and faults, and the record of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("noisy")
    changes = {
        "steps": 40,
        "realtime_s": 0.05,
        "microgrids.MG1.devices.ess.emulator": {"noise_mw": 1e-4, "lag_s": 200.0, "jitter_s": 0.001},
        "microgrids.MG2.devices.pv.emulator": {"noise_mw": 1e-4, "offset_mw": 1e-4},
        "randomisation": {"load_noise": 0.1, "initial_soc": [0.3, 0.7]},
        "faults": [
            {"at_step": 6, "device": "MG1/ess", "kind": "frozen", "steps": 12},
            {"at_step": 9, "device": "MG2/pv", "kind": "offset", "steps": 20, "value": 0.001},
        ],
    }
    scenario, record = write_scenario(folder, changes), folder / "whole.heron"
    done = run_heron("run", str(scenario), "--json", "--record", str(record))
    assert done.code == 0, done.err
    return scenario, record


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(5))
def test_a_run_killed_at_any_moment_and_resumed_gives_the_uninterrupted_trajectory(
    noisy: tuple[Path, Path], tmp_path: Path, moment: int
) -> None:
    scenario, whole = noisy
    record, rng = tmp_path / "x.heron", random.Random(moment)
    with heron("run", str(scenario), "--record", str(record)) as run:
        run.wait_for("step 1/")
        time.sleep(rng.uniform(0.0, 1.8))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    done = run_heron("run", str(scenario), "--resume", str(record), "--json")
    assert done.code == 0, done.err
    assert done.result["steps"] == 40
    assert trajectory(record) == trajectory(whole)
    assert not [finding for finding in verify(record) if finding.failed]


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_a_run_killed_at_any_moment_leaves_a_file_for_verify_and_report(tmp_path: Path, moment: int) -> None:
    scenario, record = write_scenario(tmp_path, {"realtime_s": 0.05, "steps": 1000}), tmp_path / "x.heron"
    rng = random.Random(moment)
    with heron("run", str(scenario), "--record", str(record)) as run:
        run.wait_for("record: ")
        time.sleep(rng.uniform(0.0, 4.0))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    until(lambda: not record.with_name("x.heron-wal").exists(), "the record is closed")
    findings = verify(record)
    assert not [finding for finding in findings if finding.failed]
    with RecordFile(record) as file:
        assert "<html" in report([(file, findings)])


@pytest.mark.parametrize("head", ["f", "not-a-hash-at-all", "f" * 65])
def test_a_head_that_proves_nothing_is_refused(head: str) -> None:
    done = run_heron("verify", "run.heron", "--head", head)
    assert done.code == 2
    expected = f"--head {head!r}: expected 12 to 64 hexadecimal digits, as the run printed them"
    assert done.errors == [f"heron-mqtt: {expected}"]
