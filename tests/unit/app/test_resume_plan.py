"""An interrupted run goes on from its record as if nothing had happened; or a clear line says why not."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.recording import Recording
from heron_mqtt.app.resume_plan import _read_anew, _stops, plan_resumed
from heron_mqtt.app.run_plan import RunOptions, RunPlan, plan_run
from heron_mqtt.app.run_summary import Summary
from heron_mqtt.app.runner import _undisturbed, new_summary, run
from heron_mqtt.app.verify import verify
from heron_mqtt.app.what_if import what_if
from heron_mqtt.config import shipped_config
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.run_part import RunPart, is_abandoned
from heron_mqtt.record.verify.chains import check_chains
from support.recorded_runs import forged, tampered
from support.small_runs import write_scenario

pytestmark = pytest.mark.usefixtures("built_once")

STEPS = 8
RANDOM = {
    "microgrids.MG3": ...,  # two trade with each other, too
    "randomisation": {"load_noise": 0.1, "price_noise_per_mwh": 2.0, "initial_soc": [0.3, 0.7]},
}
OPTIONS = RunOptions(steps=STEPS, seed=5, record="auto")


class Stop(Exception):
    """What ends a run in the middle of it."""


@dataclass
class Interruption:
    """Shows nothing of a run, and ends it after so many steps; None = never."""

    after: int | None = None

    def note(self, text: str) -> None:
        pass

    def opened(self, url: str) -> None:
        pass

    def step(self, summary: Summary, price: float, infos: Mapping[str, Any]) -> None:
        if summary.steps == self.after:
            raise Stop


def run_until(plan: RunPlan, after: int | None = None) -> Summary:
    """Run a plan to its end, or until it is interrupted after so many steps."""
    summary = new_summary(plan)
    try:
        asyncio.run(run(plan, Interruption(after), summary))
    except Stop:
        assert after is not None
    return summary


def trajectory(path: Path) -> list[tuple[Any, ...]]:
    with RecordFile(path) as record:
        return [
            tuple(row)
            for sql in (
                "SELECT step, agent, device, p_mw, q_mvar, soc, fallback, bound FROM device_row",
                "SELECT step, agent, reward, net_mwh, vm_min_pu, loading_max_percent, missed FROM agent_row",
                "SELECT step, row, price_per_mwh, clock FROM step_row",
                "SELECT step, seller, buyer, mwh, price_per_mwh FROM trade_row",
            )
            for row in record.query(f"{sql} ORDER BY id")
        ]


@dataclass(frozen=True)
class Case:
    """A run over one kind of broker: uninterrupted, interrupted after three steps, and that one resumed."""

    scenario: Path
    whole: Path
    cut: Path
    done: Path
    options: RunOptions


def make_case(folder: Path, kind: str) -> Case:
    scenario, centralized = write_scenario(folder, RANDOM), kind == "centralized"
    options = replace(OPTIONS, centralized=centralized, broker=None if centralized else kind)
    whole, cut, done = (folder / f"{name}.heron" for name in ("whole", "cut", "done"))
    for path, after in ((whole, None), (cut, 3)):
        run_until(plan_run(str(scenario), replace(options, record=str(path))), after)
    case = Case(scenario, whole, cut, Path(shutil.copy(cut, done)), options)
    run_until(resumed(case, done), 6)  # interrupted once more
    run_until(resumed(case, done))
    return case


@pytest.fixture(scope="module")
def centralized(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("centralized"), "centralized")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("memory"), "memory")


@pytest.fixture
def cut(case: Case, tmp_path: Path) -> Path:
    """Return a copy of the interrupted run's record."""
    return Path(shutil.copy(case.cut, tmp_path / "cut.heron"))


def resumed(case: Case, path: Path, **options: Any) -> RunPlan:
    return plan_resumed(path, str(case.scenario), RunOptions(record="auto", **options))


# -- it goes on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["case", pytest.param("centralized", marks=pytest.mark.slow)])
def test_interrupted_and_resumed_gives_the_trajectory_of_an_uninterrupted_run(
    kind: str, request: pytest.FixtureRequest
) -> None:
    made: Case = request.getfixturevalue(kind)
    assert trajectory(made.done) == trajectory(made.whole)
    with RecordFile(made.whole) as whole, RecordFile(made.done) as done:
        one, other = whole.summary(), done.summary()
    assert one is not None
    assert other is not None
    for name in ("steps", "rewards", "cost", "energy_mwh", "vm_pu", "trades", "fallbacks", "deadline_misses"):
        assert other[name] == one[name], name
    assert other["unknown_parts"] == 0
    assert other["messages"]["published"] >= one["messages"]["published"]


def test_a_resumed_record_verifies_and_what_if_repeats_it(case: Case) -> None:
    assert not [finding for finding in verify(case.done) if finding.failed]
    assert what_if(case.done).is_exact


def test_the_record_says_where_the_run_was_interrupted(case: Case) -> None:
    with RecordFile(case.cut) as record:
        head = record.head
    with RecordFile(case.done) as record:
        first, second, third = record.parts()
        events = record.query("SELECT * FROM events WHERE kind = 'resumed' ORDER BY id")
    assert (second.first, second.head, third.first) == ((1, 3), head, (1, 6))
    assert first.summary is not None
    assert [event["step"] for event in events] == [3, 6]
    assert 0.0 < events[0]["at_s"] < events[1]["at_s"]


def test_the_head_that_was_printed_at_the_interruption_still_holds(case: Case) -> None:
    with RecordFile(case.cut) as record, RecordFile(case.done) as done:
        found = check_chains(done, record.head)
        assert not found.failed
        assert "before step 3 was resumed" in found.note
        assert check_chains(done, "0" * 64).failed


def test_what_stood_there_before_a_run_was_resumed_cannot_be_changed(case: Case, tmp_path: Path) -> None:
    changed = tampered(
        case.done, tmp_path / "x.heron", "UPDATE device_row SET p_mw = p_mw + 0.001 WHERE step = 1"
    )
    with RecordFile(forged(changed)) as record:  # all of the chain is written anew
        assert "the head before step 3 was resumed" in check_chains(record).first


@pytest.mark.parametrize("step", [None, 3])
def test_a_record_cannot_be_lengthened_behind_the_end_of_its_run(
    case: Case, tmp_path: Path, step: int | None
) -> None:
    """As if it had been resumed after its last step, or in one that it had taken: the head before stands."""
    with RecordFile(case.whole) as record:
        head, done = record.head, record.heads()["step_row"][0]
        rows = {name: count for name, (count, _) in record.heads().items()}
    data = json.dumps({"rows": rows, "head": head})
    put_in = (
        "INSERT INTO event_row (id, at_s, episode, step, kind, what, data, hash) "
        f"SELECT max(id) + 1, max(at_s), 1, {done if step is None else step}, 'resumed', '', '{data}', x'' "
        "FROM event_row"
    )
    changed = tampered(case.whole, tmp_path / "x.heron", put_in)
    with RecordFile(forged(changed)) as record:
        assert record.heads()["event_row"][0] > 0
        found = check_chains(record, head)
    assert found.failed
    due = "its run had ended by then" if step is None else f"in step 3, and {done} steps were in it then"
    assert due in found.first


def test_a_run_killed_before_its_first_step_begins_anew_in_its_record(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "none.heron"
    plan = plan_run(str(case.scenario), replace(case.options, record=str(path)))
    Recording(plan, lambda text: None).close({})  # it came no further than that
    run_until(resumed(case, path))
    assert trajectory(path) == trajectory(case.whole)


def test_a_policy_remembers_what_it_saw_before_the_interruption(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting_policy.py").write_text(
        "import threading\n\nIN_LOOP = []\n\n\nclass Counting:\n"
        "    def __init__(self, env):\n"
        "        self.env, self.seen = env, 0\n"
        "    def act(self, agent, observation):\n"
        "        self.seen += 1\n"
        "        IN_LOOP.append(threading.current_thread() is threading.main_thread())\n"
        "        return self.env.action_space(agent).low * (self.seen % 7) / 10.0\n"
    )
    monkeypatch.chdir(tmp_path)
    options = replace(case.options, policy="counting_policy:Counting")
    for name, after in (("a", None), ("b", 4)):
        run_until(plan_run(str(case.scenario), replace(options, record=f"{name}.heron")), after)
    run_until(resumed(case, Path("b.heron")))
    assert trajectory(Path("b.heron")) == trajectory(Path("a.heron"))
    asked = sys.modules["counting_policy"].IN_LOOP
    half = len(asked) // 5  # 8 steps, 4, 4 once more and 4: the event loop had to serve devices meanwhile
    assert asked[-2 * half :] == [False] * half + [True] * half


def test_the_undisturbed_run_of_a_resumed_one_counts_each_step_once(case: Case, cut: Path) -> None:
    plan = resumed(case, cut)
    assert plan.resumed is not None
    plan.resumed.record.lock.close()
    assert _undisturbed(plan) == _undisturbed(replace(plan, resumed=None))


@dataclass
class Pressed(Interruption):
    """Has everything stopped during a run: presses ``estop`` after a step, over the run's own broker."""

    at: int = 2
    broker: InMemoryBroker | None = None

    def step(self, summary: Summary, price: float, infos: Mapping[str, Any]) -> None:
        if summary.steps == self.at and self.broker is not None:
            stop: dict[str, Any] = {
                "type": "estop",
                "active": True,
                "who": "ann",
                "why": "smoke",
                "boot": "o",
                "seq": 0,
            }
            self.broker.publish("estop", stop, retain=True)
        super().step(summary, price, infos)


def stopped_run(case: Case, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pressed = Pressed(after=4)

    def opened(*_: Any, **__: Any) -> InMemoryBroker:
        pressed.broker = InMemoryBroker()
        return pressed.broker

    with monkeypatch.context() as patch:
        patch.setattr("heron_mqtt.app.runner.open_broker", opened)
        plan = plan_run(str(case.scenario), replace(case.options, record=str(path)))
        with pytest.raises(Stop):
            asyncio.run(run(plan, pressed, new_summary(plan)))
    return path


def bounds_after(path: Path, step: int) -> set[str | None]:
    with RecordFile(path) as record:
        rows = record.query("SELECT bound FROM device_row WHERE step >= ?", step)
    return {row["bound"] for row in rows}


def test_a_stop_in_force_stays_in_force_when_the_run_is_resumed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stopped_run(case, tmp_path / "stopped.heron", monkeypatch)
    summary = run_until(resumed(case, path))
    assert summary.estop is not None
    assert (summary.estop["active"], summary.estop["who"], summary.estop["why"]) == (True, "ann", "smoke")
    assert bounds_after(path, 3) == {"emergency stop"}


def test_a_stop_that_could_not_be_read_is_found_in_what_the_run_did(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stopped_run(case, tmp_path / "stopped.heron", monkeypatch)
    no_event = "DELETE FROM event_row WHERE kind = 'stop'"
    for name, change in (
        ("ended", no_event),
        ("killed", f"{no_event} OR kind = 'summary'"),
    ):
        with RecordFile(tampered(path, tmp_path / f"{name}.heron", change)) as record:
            (stop,) = _stops(record, "small")
            assert stop["active"] is True, name
    with RecordFile(case.cut) as record:
        assert _stops(record, "small") == ()


EVENT = "INSERT INTO event_row (at_s, episode, step, kind, subject, what, data, hash) VALUES "
LATE = """(%s, 1, 3, 'late', 'MG1', 'late', '{"devices": {"ess": {"safe": %d}}}', x'00')"""


def test_the_summary_of_a_record_is_of_its_last_part_and_lost_rows_are_of_all(
    case: Case, tmp_path: Path
) -> None:
    lost = "UPDATE event_row SET data = json_set(data, '$.lost_rows', 2) WHERE kind = 'summary'"
    whole = tampered(case.done, tmp_path / "whole.heron", lost)
    killed = tampered(
        whole,
        tmp_path / "killed.heron",
        "DELETE FROM event_row WHERE id = (SELECT max(id) FROM event_row WHERE kind = 'summary')",
    )
    with RecordFile(whole) as record:
        told = record.summary()
        assert told is not None
        assert (told["steps"], told["lost_rows"], record.lost_rows()) == (STEPS, 6, 6)
    with RecordFile(killed) as record:
        assert record.summary() is None
        assert record.lost_rows() == 4


def test_what_a_gateway_did_late_in_a_step_that_was_done_again_is_left_out(
    case: Case, tmp_path: Path
) -> None:
    with RecordFile(case.done) as record:
        at_s = record.parts()[1].at_s
    rows = ", ".join(LATE % pair for pair in ((at_s - 1e-6, 0), (at_s + 1e-6, 1)))
    with RecordFile(tampered(case.done, tmp_path / "late.heron", EVENT + rows)) as record:
        assert record.late_devices() == {(1, 3, "MG1", "ess"): {"safe": 1}}
    only = tampered(case.done, tmp_path / "only.heron", EVENT + LATE % (at_s - 1e-6, 0))
    with RecordFile(only) as record:
        assert record.late_devices() == {}


def test_a_message_of_a_step_that_was_done_again_is_abandoned() -> None:
    parts = [RunPart(), RunPart(first=(1, 3), at_s=10.0)]
    assert is_abandoned(parts, 9.0, (1, 3))
    assert not is_abandoned(parts, 9.0, (1, 2))
    assert not is_abandoned(parts, 11.0, (1, 3))
    assert not is_abandoned(parts, 9.0, (None, None))
    assert not is_abandoned(parts[:1], 9.0, (1, 3))


# -- it is refused -----------------------------------------------------------------------------------------


def refusal(case: Case, path: Path, scenario: Path | None = None, **options: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        plan_resumed(path, str(scenario or case.scenario), RunOptions(record="auto", **options))
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_a_finished_run_is_refused(case: Case) -> None:
    assert f"its run is finished: {STEPS} steps of {STEPS}" in refusal(case, case.whole)


def test_a_record_that_someone_writes_to_is_refused(
    case: Case, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.app.resume_plan.WRITER_S", 0.0)
    first = resumed(case, cut)
    assert "another process writes to it" in refusal(case, cut)
    assert first.resumed is not None
    first.resumed.record.lock.close()
    run_until(resumed(case, cut))


def test_another_version_is_refused(case: Case, tmp_path: Path) -> None:
    older = "UPDATE meta SET value = json_set(value, '$.\"heron-mqtt\"', '0.0.1') WHERE key = 'versions'"
    told = refusal(case, tampered(case.cut, tmp_path / "x.heron", older))
    assert "recorded with heron-mqtt 0.0.1, here is" in told


def test_a_changed_scenario_is_refused_by_the_key_that_changed(case: Case, cut: Path, tmp_path: Path) -> None:
    other = write_scenario(tmp_path, {**RANDOM, "microgrids.MG2.devices.ess.max_e_mwh": 0.04})
    told = refusal(case, cut, other)
    assert "microgrids.MG2.devices.ess.spec.max_e_mwh is 0.04, the record has 0.03" in told


POLICY = """from powergrid.agents.policy import AgentPolicy


class Half(AgentPolicy):
    def decide(self, view):
        return {"p_ess": 0.001}
"""


def with_policy_files(folder: Path) -> tuple[Path, RunOptions]:
    """Return a scenario that names a policy file, a module, a network and profiles of its own."""
    (folder / "half.py").write_text(POLICY)
    (folder / "half_module.py").write_text(POLICY)
    (folder / "poor.toml").write_text("[impairment]\nrules = [{ delay_s = 0.001 }]\n")
    shutil.copy(shipped_config() / "profiles/price_week.csv", folder / "prices.csv")
    changes = {
        "microgrids.MG3": ...,
        "microgrids.MG1.policy": {"use": "half.py:Half"},
        "microgrids.MG2.policy": {"use": "half_module:Half"},
        "profiles.price_file": "prices.csv",
        "impairment": "poor.toml",
    }
    return write_scenario(folder, changes), replace(OPTIONS, record=str(folder / "run.heron"))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the scenario of a run that was interrupted after two steps, beside its record and its files."""
    folder = tmp_path_factory.mktemp("of_files")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        scenario, options = with_policy_files(folder)
        run_until(plan_run(str(scenario), options), 2)
        yield scenario


@pytest.mark.slow  # of one file: test_files_read.py
def test_a_file_that_was_edited_meanwhile_is_refused_by_its_key_and_name(of_files: Path) -> None:
    scenario, folder = of_files, of_files.parent
    path = folder / "run.heron"
    for key, name in (
        ("microgrids.MG1.policy.use", "half.py"),
        ("microgrids.MG2.policy.use", "half_module.py"),
        ("impairment", "poor.toml"),
        ("profiles.price_file", "prices.csv"),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(before + "\n")
        with pytest.raises(ConfigError, match=f"{key}: the file has changed .*{name}"):
            plan_resumed(path, str(scenario), RunOptions(record="auto"))
        if name == "half.py":
            assert [line for line in what_if(path).changed if key in line and name in line]
        (folder / name).write_text(before)
    assert what_if(path).changed == []
    told = next(finding for finding in verify(path) if finding.name == "files of the scenario")
    assert all(name in told.note for name in ("half.py", "half_module.py", "poor.toml", "prices.csv"))
    plan = plan_resumed(path, str(scenario), RunOptions(record="auto"))
    assert plan.resumed is not None
    plan.resumed.record.lock.close()


HELPED = """
import importlib.util
from pathlib import Path

from powergrid.agents.policy import AgentPolicy


FOLDER = Path({folder!r})


class Helped(AgentPolicy):
    def __init__(self, agent, weights):
        super().__init__(agent)
        self.weights = weights
        self.table = (FOLDER / "table.txt").read_text()
        spec = importlib.util.spec_from_file_location("by_path", FOLDER / "by_path.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    def decide(self, view):
        import late_helper
        import {helper}

        return {{"p_ess": {helper}.P_MW + late_helper.P_MW}}
"""


@pytest.mark.slow
def test_a_module_that_a_policy_imports_and_a_file_among_its_arguments_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick counterpart: test_loaded_modules.py."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helped.py").write_text(HELPED.format(helper="early_helper", folder=str(tmp_path)))
    (tmp_path / "weights.txt").write_text("0.001")
    (tmp_path / "table.txt").write_text("7")
    (tmp_path / "by_path.py").write_text("P_MW = 1.0\n")
    for name in ("early_helper", "late_helper"):
        (tmp_path / f"{name}.py").write_text("P_MW = 0.0005\n")
    policy = {"use": "helped.py:Helped", "arguments": {"weights": "weights.txt"}}
    scenario = write_scenario(tmp_path, {"microgrids.MG3": ..., "microgrids.MG1.policy": policy})
    path = tmp_path / "run.heron"
    run_until(plan_run(str(scenario), replace(OPTIONS, record=str(path))), 2)
    with RecordFile(path) as record:
        (row,) = record.query("SELECT data FROM event_row WHERE kind = 'modules' AND data LIKE '%late_h%'")
    assert {"early_helper", "late_helper"} <= json.loads(row["data"]).keys()

    def resumed() -> None:
        for name in ("early_helper", "late_helper"):
            sys.modules.pop(name, None)  # as in a program that is started for it
        plan = plan_resumed(path, str(scenario), RunOptions(record="auto"))
        try:
            run_until(plan, None)
        finally:
            assert plan.resumed is not None
            plan.resumed.record.lock.close()

    (tmp_path / "weights.txt").write_text("0.004")
    with pytest.raises(ConfigError, match=r"MG1\.policy\.arguments\.weights: the file has changed"):
        resumed()
    (tmp_path / "weights.txt").write_text("0.001")
    for name in ("table.txt", "by_path.py"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(before + "\n")
        with pytest.raises(ConfigError, match=f"file {name}, which a policy reads: the file has changed"):
            resumed()
        (tmp_path / name).write_text(before)
    for name in ("early_helper", "late_helper"):
        before = (tmp_path / f"{name}.py").read_text()
        (tmp_path / f"{name}.py").write_text("P_MW = 0.004  # another length\n")
        with pytest.raises(ConfigError, match=f"module {name}: the file has changed .* put it back"):
            resumed()
        (tmp_path / f"{name}.py").write_text(before)
    resumed()


def test_a_mapping_that_was_put_in_force_during_the_run_is_the_one_to_go_on_with(
    case: Case, tmp_path: Path
) -> None:
    """``--watch`` reads a mapping anew: the hash of the beginning is then that of another one."""
    put_in = (
        "INSERT INTO event_row (at_s, kind, subject, what, data, hash) VALUES "
        """(1.0, 'mapping', 'MG1/ess', 'read anew', '{"file": "box.toml", "sha256": "22"}', x''), """
        """(2.0, 'mapping', 'MG1/ess', 'refused', '{"problems": []}', x''), """
        """(3.0, 'mapping', 'MG1/pv', 'read anew', '{"file": "small.toml", "sha256": "33"}', x'')"""
    )
    ess, pv = (f"microgrids.MG1.devices.{name}.mapping" for name in ("ess", "pv"))
    with RecordFile(tampered(case.cut, tmp_path / "watched.heron", put_in)) as record:
        assert _read_anew(record, {ess: "11"}) == {ess: "22"}  # that of pv stands in the scenario itself
        assert _read_anew(record, {ess: "11", pv: "11"}) == {ess: "22", pv: "33"}


@pytest.mark.slow
def test_what_could_not_be_compared_with_a_record_of_an_older_version_is_said(
    of_files: Path, tmp_path: Path
) -> None:
    scenario = of_files
    kept = scenario.with_name("run.heron")
    older = tampered(kept, tmp_path / "older.heron", "DELETE FROM meta WHERE key = 'files'")
    plan = plan_resumed(forged(older), str(scenario), RunOptions(record="auto"))
    assert plan.resumed is not None
    plan.resumed.record.lock.close()
    (line,) = [note for note in plan.resumed.notes if "could not be compared" in note]
    assert "half.py, half_module.py" in line
    assert "poor.toml" in line


def test_a_changed_record_is_refused_with_the_row(case: Case, tmp_path: Path) -> None:
    changed = tampered(case.cut, tmp_path / "x.heron", "UPDATE device_row SET soc = 0.5 WHERE id = 12")
    assert "device_row: row 12 is not what was written; it is not resumed" in refusal(case, changed)


def test_options_that_the_record_says_are_refused_by_name(case: Case, cut: Path) -> None:
    for name, option in (("--steps", {"steps": 4}), ("--seed", {"seed": 1}), ("--days", {"days": 1.0})):
        assert refusal(case, cut, **option).startswith(f"{name}: the record contains it")


def test_a_priority_is_of_the_machine_and_takes_the_clock_of_the_record(case: Case, cut: Path) -> None:
    """It is given anew. This record has no clock, so it is refused for that, and not as one that is there."""
    assert "--priority 3: a run without a clock never waits" in refusal(case, cut, priority=3)


def test_a_scenario_of_ones_own_must_be_named(cut: Path) -> None:
    with pytest.raises(ConfigError, match=r"'small' is not a shipped one; give its file, too"):
        plan_resumed(cut, None, RunOptions(record="auto"))


def test_another_kind_of_broker_is_refused(case: Case, cut: Path, tmp_path: Path) -> None:
    assert "over a broker of the kind memory: leave --broker out" in refusal(case, cut, broker="embedded")
    direct = tmp_path / "direct.heron"
    plan = plan_run(str(case.scenario), replace(OPTIONS, record=str(direct), centralized=True))
    Recording(plan, lambda text: None).close({})
    assert "leave it or --broker out" in refusal(case, direct, broker="memory")


def test_an_agent_that_runs_elsewhere_is_refused(case: Case, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path, {**RANDOM, "microgrids.MG2.remote": True})
    path = tmp_path / "remote.heron"
    plan = plan_run(str(scenario), replace(OPTIONS, record=str(path), broker="embedded"))
    Recording(plan, lambda text: None).close({})
    assert "agent MG2 runs elsewhere (remote = true)" in refusal(case, path, scenario)


def test_what_is_no_record_is_refused(case: Case, tmp_path: Path) -> None:
    assert "no such file" in refusal(case, tmp_path / "nothing.heron")
    text = tmp_path / "text.heron"
    text.write_text("no record at all, but long enough to be looked at")
    assert "not a record of a run" in refusal(case, text)
