"""A record as the page shows it: what was recorded, step by step, whatever kind of record it is."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.record_view import RecordView
from heron_mqtt.errors import DataError
from heron_mqtt.record.reader import RecordFile
from support.recorded_runs import STEPS, record_run


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded run with emulated devices, one of which falls silent."""
    path = tmp_path_factory.mktemp("day") / "day.heron"
    record_run(path, emulated=True, faults={"MG1/ess": "silence@2:2"})
    return path


def at(path: Path, n: int) -> dict[str, Any]:
    with contextlib.closing(RecordView(path)) as view:
        return shown(view, n)


def shown(view: RecordView, n: int) -> dict[str, Any]:
    snapshot = view.snapshot(n)
    json.dumps(snapshot, allow_nan=False)
    return dict(snapshot["environments"][0])


def rows(path: Path, sql: str) -> list[dict[str, Any]]:
    with RecordFile(path) as record:
        return [dict(row) for row in record.query(sql)]


def test_each_step_shows_what_was_recorded_of_it(day: Path) -> None:
    with contextlib.closing(RecordView(day)) as view:
        for n, step in enumerate(rows(day, "SELECT * FROM steps ORDER BY id")):
            found = shown(view, n)
            assert (found["run"]["step"], found["price"]) == (step["step"], step["price_per_mwh"])
            for row in rows(day, f"SELECT * FROM devices WHERE step = {step['step']}"):
                device = found["devices"][f"{row['agent']}/{row['device']}"]
                assert device["setpoint_mw"] == row["sent_p_mw"]
                assert device["why"] == row["fallback"]
            for row in rows(day, f"SELECT * FROM agents WHERE step = {step['step']}"):
                assert found["microgrids"][row["agent"]]["vm_min_pu"] == row["vm_min_pu"]
        assert shown(view, STEPS - 1)["run"]["state"] == "finished"
        assert shown(view, 0)["run"]["state"] == "running"


def test_the_grid_is_solved_again_and_gives_what_was_recorded(day: Path) -> None:
    found = at(day, 3)
    assert found["grid"]["differs"] == []
    view = RecordView(day)
    network = view.network(view.env_id)
    view.close()
    assert network is not None
    for agent, one in found["microgrids"].items():
        own = [
            vm
            for vm, whose in zip(found["grid"]["vm_pu"], network["bus_agent"], strict=True)
            if whose == agent
        ]
        assert min(own) == pytest.approx(one["vm_min_pu"], abs=1e-5)


def test_a_record_whose_powers_do_not_fit_its_voltages_is_named(day: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(day, tmp_path / "changed.heron"))
    with sqlite3.connect(copy) as connection:
        connection.execute(
            "UPDATE agent_row SET vm_min_pu = vm_min_pu - 0.01 WHERE agent = 'MG1' AND step = 1"
        )
    connection.close()
    assert "the voltages of MG1, solved again, are not those that were recorded" in at(copy, 1)["problems"]
    assert at(copy, 2)["problems"] == at(day, 2)["problems"]


def test_a_fallback_is_a_problem_of_its_step_and_a_mark(day: Path) -> None:
    view = RecordView(day)
    marks = view.about()["marks"]
    view.close()
    begins = next(mark["n"] for mark in marks if mark["kind"] == "fallback")
    assert any("MG1/ess: its model replaced it" in problem for problem in at(day, begins)["problems"])
    assert at(day, begins - 1)["problems"] == []


def test_messages_and_counts_go_up_to_the_step(day: Path) -> None:
    view = RecordView(day)
    first, last = view.messages(0, "", 1_000), view.messages(STEPS - 1, "", 1_000)
    only = view.messages(STEPS - 1, "MG1/ess/telemetry", 1_000)
    view.close()
    assert 0 < len(first) < len(last)
    assert only
    assert {one["channel"] for one in only} == {"devices/MG1/ess/telemetry"}
    prices = [at(day, n)["channels"]["operators/system_operator/price"]["messages"] for n in (0, 3)]
    assert prices == [1, 4]


def test_a_series_has_every_step_of_a_device(day: Path) -> None:
    view = RecordView(day)
    series = view.series("MG1/ess")
    nobody = view.series("MG1/nobody")
    view.close()
    assert series["t"] == list(range(STEPS))
    told = [
        row["sent_p_mw"] for row in rows(day, "SELECT * FROM devices WHERE agent = 'MG1' AND device = 'ess'")
    ]
    assert series["told"] == told
    assert nobody == {"t": [], "told": [], "done": []}


def test_a_centralized_record_without_messages_has_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "direct.heron"
    record_run(path, centralized=True)
    found = at(path, 2)
    assert found["grid"]["vm_pu"]
    assert all(one["messages"] == 0 for one in found["channels"].values())


def test_a_record_that_is_being_written_grows(day: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(day, tmp_path / "growing.heron"))
    with sqlite3.connect(copy) as connection:
        connection.execute("CREATE TEMP TABLE later AS SELECT * FROM step_row WHERE id > 3")
        connection.execute("DELETE FROM step_row WHERE id > 3")
        connection.execute("DELETE FROM event_row WHERE kind = 'summary'")
        connection.commit()
        view = RecordView(copy)
        assert (view.about()["steps"], view.about()["is_ended"]) == (3, False)
        assert view.snapshot(2)["environments"][0]["run"]["state"] == "running, or cut off"
        with pytest.raises(DataError, match="no step 3; there are 0 to 2"):
            view.snapshot(3)
        connection.execute("INSERT INTO step_row SELECT * FROM later")
        connection.commit()
        assert view.about()["steps"] == STEPS
        view.snapshot(3)
        view.close()
    connection.close()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_one_clear_error_or_shows_what_is_left(
    day: Path, tmp_path: Path, share: float
) -> None:
    whole = day.read_bytes()
    path = tmp_path / "cut.heron"
    path.write_bytes(whole[: int(share * len(whole))])
    said = []
    try:
        view = RecordView(path)
    except DataError as exc:
        said.append(str(exc))
    else:
        for n in range(STEPS):
            try:
                view.snapshot(n)
            except DataError as exc:
                said.append(str(exc))
        view.close()
    assert said
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in said)


def test_a_record_of_a_proxy_with_models_alone_has_its_messages(day: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(day, tmp_path / "MG1.heron"))
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE meta SET value = 'MG1' WHERE key = 'role'")
        connection.execute("DELETE FROM step_row")
        connection.execute("UPDATE device_row SET sent_at_s = NULL")
    connection.close()
    prices = [at(copy, n)["channels"]["operators/system_operator/price"]["messages"] for n in (0, 3)]
    assert prices == [1, 4]


def test_a_record_of_a_proxy_has_its_devices_and_says_that_there_is_no_grid(
    day: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(day, tmp_path / "MG1.heron"))
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE meta SET value = 'MG1' WHERE key = 'role'")
        connection.execute("DELETE FROM step_row")
        connection.execute("DELETE FROM agent_row")
        connection.execute("DELETE FROM device_row WHERE agent <> 'MG1'")
    connection.close()
    view = RecordView(copy)
    about, found = view.about(), view.snapshot(2)["environments"][0]
    view.close()
    assert about["steps"] == STEPS
    assert about["why_no_grid"] == "this is the record of MG1: it has no grid"
    assert list(found["microgrids"]) == ["MG1"]
    assert found["devices"]["MG1/ess"]["setpoint_mw"] == at(day, 2)["devices"]["MG1/ess"]["setpoint_mw"]
    assert found["channels"]["devices/+/+/setpoint"]["messages"] > 0


def test_something_else_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello " * 1_000)
    with pytest.raises(DataError, match="not a record of a run"):
        RecordView(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such file"):
        RecordView(tmp_path / "nothing.heron")
