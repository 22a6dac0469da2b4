"""``heron-mqtt run --resume``: the state of an interrupted run, found from its record alone.

The finished steps are repeated from the record, without messages (``ReplayEnv``). Agents, models, policies
and random numbers then have the same state as before. Every repeated step is compared with the record, which
needs no additional data for this. Emulated devices do the same for themselves
(``powergrid.emulators.history``). Hardware reports its state by telemetry.

The run continues in the same file: one run stays one file, its hash chain continues, and every other command
sees the whole run. An event records where the run was interrupted, and its head at that time.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from heron_mqtt.app.loaded_modules import MODULES
from heron_mqtt.app.named_files import named_files
from heron_mqtt.app.recording import KEPT_WHOLE, run_facts
from heron_mqtt.app.replay_env import ReplayEnv
from heron_mqtt.app.resumption import Resumption
from heron_mqtt.app.run_plan import RunOptions, RunPlan, plan_run
from heron_mqtt.app.what_if import Comparison, compare_step
from heron_mqtt.config import shipped_config, validate_recorded
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.field.gateway.gateway import ESTOP
from heron_mqtt.input_files import is_file, why_no_file
from heron_mqtt.locked_file import LockedFile
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.record.facts import digest
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import versions_here
from heron_mqtt.record.run_part import ResumedRecord
from heron_mqtt.record.schema import SCHEMA_VERSION
from heron_mqtt.record.verify.chains import check_chains
from powergrid.scenario import LoadedScenario, load_scenario

__all__ = ["plan_resumed"]

WRITER_S = 5.0
"""How long the writer of a run that was killed may take with what it has still to write, s."""


def plan_resumed(run: Path, scenario: str | None, options: RunOptions) -> RunPlan:
    """Decide how an interrupted run continues.

    Args:
        run: Its record; no other process can write to it from here on.
        scenario: Its file; None = a shipped one.
        options: What may differ from the run: the broker's address, and what does not change what happens.

    Raises:
        ConfigError: Something is asked for that the record says already, or the scenario has changed.
        DataError: The record cannot be gone on with; says why.
    """
    if given := [name for name, value in _said_by_the_record(options).items() if value]:
        raise ConfigError(*(f"{name}: the record contains it; leave it out with --resume" for name in given))
    lock = _locked(run)
    try:
        with RecordFile(run) as record:
            _check_kind(record)
            loaded = _same_scenario(record, scenario)
            plan = plan_run(loaded, _recorded_options(record, options))
            table = record.options.get("impairment")
            impairment = (
                None if table is None else validate_recorded(ImpairmentTable, table, f"{run}: options")
            )
            plan = replace(plan, impairment=impairment)
            _check_broker(record, plan)
            _check_sound(record)
            done = _finished_steps(record, plan)
            resumption = Resumption(
                run,
                ResumedRecord(
                    (1, done),
                    {name: rows for name, (rows, _) in record.heads().items()},
                    record.head,
                    datetime.fromisoformat(record.meta["begun_at"]),
                    _last_s(record),
                    lock,
                ),
                record.meta.get("keeps_messages") == "1",
                stops=_stops(record, loaded.scenario.topic_env_id),
                parts=record.parts(),
                modules=_modules(record),
                notes=_not_compared(record, named_files(loaded, record.options.get("policy"))),
            )
            short = _shortfalls(record)
        resumed = _take_again(resumption, plan, done, short) if done else resumption
        return replace(plan, resumed=resumed)
    except BaseException:
        lock.close()
        raise


def _said_by_the_record(options: RunOptions) -> dict[str, bool]:
    return {
        "--steps": options.steps is not None,
        "--days": options.days is not None,
        "--start": options.start is not None,
        "--until": options.until is not None,
        "--seed": options.seed is not None,
        "--centralized": options.centralized,
        "--devices": options.devices is not None,
        "--realtime": options.realtime_s is not None,
        "--network": options.network is not None,
        "--policy": options.policy is not None,
        "--record": options.record not in {None, "auto"},
        "--no-record": options.record is None,
        "--record-messages": options.record_messages is not None,
    }


def _locked(run: Path) -> LockedFile:
    """Keep other processes from writing to a record, once its writer has ended.

    Raises:
        DataError: There is none, it cannot be written to, or its run continues.
    """
    if not is_file(run):
        raise DataError(f"{run}: {why_no_file(run)}")
    ends = time.monotonic() + WRITER_S
    while True:
        try:
            return LockedFile(run, is_inherited=True)
        except BlockingIOError:
            if time.monotonic() > ends:
                raise DataError(f"{run}: its run has not ended: another process writes to it") from None
            time.sleep(0.1)
        except OSError as exc:
            raise DataError(f"{run}: cannot be written to: {exc.strerror}") from None


def _check_kind(record: RecordFile) -> None:
    path, meta = record.path, record.meta
    if meta.get("role") != "environment":
        raise DataError(f"{path}: the record of a proxy; resume the run of its environment")
    if "merged" in meta:
        raise DataError(f"{path}: merged of several records; resume the environment's own")
    if "steps" not in record.options or "policy" not in record.options:
        raise DataError(f"{path}: not recorded by heron-mqtt run of this version; it cannot be resumed")
    if record.version != SCHEMA_VERSION:
        raise DataError(f"{path}: its layout is an older one; begin a new run")
    recorded, here = json.loads(meta.get("versions", "{}")), versions_here()
    for package in sorted({*recorded, *here}):
        if recorded.get(package) != here.get(package):
            raise DataError(
                f"{path}: recorded with {package} {recorded.get(package, '(none)')}, here is "
                f"{here.get(package, '(none)')}; resume with the versions of the run, or begin a new one"
            )


def _same_scenario(record: RecordFile, scenario: str | None) -> LoadedScenario:
    """Return the scenario as the run had it, from its file.

    Raises:
        ConfigError: It has changed, or it is not said where it is.
    """
    name = record.meta["scenario"]
    if scenario is None and not is_file(shipped_config() / f"{name}.toml"):
        raise ConfigError(
            f"--resume {record.path}: its scenario {name!r} is not a shipped one; give its file, too: "
            f"heron-mqtt run SCENARIO.toml --resume {record.path}"
        )
    loaded = load_scenario(scenario or name)
    row = record.scenario.get("profiles", {}).get("start_row", 0)  # --start chose it
    profiles = loaded.scenario.profiles.model_copy(update={"start_row": row})
    loaded = loaded.model_copy(update={"scenario": loaded.scenario.model_copy(update={"profiles": profiles})})
    facts = run_facts(loaded, options={"policy": record.options.get("policy")})
    found = _difference(record.scenario, json.loads(facts.scenario_json))
    if found is not None:
        raise ConfigError(
            f"{loaded.source}: changed since the run of {record.path} began: {found}; put it back, or begin "
            "a new run"
        )
    _check_files(record, loaded, facts.files)
    return loaded


def _check_files(record: RecordFile, loaded: LoadedScenario, files: Mapping[str, Path]) -> None:
    """See that the files of a scenario are those of the run.

    Raises:
        ConfigError: One is not; names key and file.
    """
    kept = {row["name"]: row["sha256"] for row in record.query("SELECT name, sha256 FROM input_file")}
    recorded = record.files()
    due = kept if recorded is None else kept | {key: one.sha256 for key, one in recorded.items()}
    due |= _read_anew(record, due)
    for key, sha256 in sorted(due.items()):
        path = files.get(key)
        if path is None or digest(path) != sha256:
            gone = "" if recorded is None or key not in recorded else f" ({recorded[key].name})"
            what = f"the file{gone} is gone" if path is None else f"the file has changed ({path})"
            raise ConfigError(
                f"{loaded.source}: {key}: {what} since the run of {record.path} began; put it back, or begin "
                "a new run"
            )


def _read_anew(record: RecordFile, due: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of mappings that were put in force during the run (``--watch``), by key."""
    found = {}
    for row in record.query("SELECT subject, data FROM event_row WHERE kind = 'mapping' ORDER BY id"):
        agent, _, device = str(row["subject"]).partition("/")
        sha256 = json.loads(row["data"] or "{}").get("sha256")
        if sha256 is not None and (key := f"microgrids.{agent}.devices.{device}.mapping") in due:
            found[key] = str(sha256)
    return found


def _modules(record: RecordFile) -> dict[str, str]:
    """Return the modules of people's own that a run had loaded, by name: SHA-256, hex."""
    found: dict[str, str] = {}
    for row in record.query("SELECT data FROM event_row WHERE kind = ? ORDER BY id", MODULES):
        try:
            found |= {str(name): str(told["sha256"]) for name, told in json.loads(row["data"]).items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{record.path}: its list of modules cannot be read") from None
    return found


def _not_compared(record: RecordFile, files: Mapping[str, Path]) -> tuple[str, ...]:
    """Say which files could not be compared, as an older version kept no hashes of them."""
    names = [path.name for key, path in files.items() if key not in KEPT_WHOLE]
    if record.files() is not None or not names:
        return ()
    return (
        f"resumed: {record.path} is of an older version, without hashes of files: whether "
        f"{', '.join(dict.fromkeys(names))} changed since could not be compared",
    )


def _difference(recorded: Any, now: Any, key: str = "") -> str | None:
    """Return the first key whose values differ, with both; None = they do not."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in sorted({*recorded, *now}):
            where = f"{key}.{name}" if key else name
            found = _difference(recorded.get(name), now.get(name), where)
            if found is not None:
                return found
        return None
    if recorded == now:
        return None
    if json.dumps(recorded) == json.dumps(now):  # not a number is not itself
        return None
    return f"{key} is {json.dumps(now)}, the record has {json.dumps(recorded)}"


def _recorded_options(record: RecordFile, options: RunOptions) -> RunOptions:
    said, kind = record.options, record.meta.get("broker", "none")
    broker = options.broker
    if broker is None and kind in {"embedded", "memory"}:
        broker = kind
    return replace(
        options,
        steps=int(said["steps"]),
        seed=int(record.meta["seed"]),
        broker=broker,
        centralized=record.meta["mode"] == "centralized",
        devices="emulated" if record.meta["devices"] == "emulated" else "simulated",
        realtime_s=said.get("realtime_s"),
        policy=said.get("policy"),
    )


def _check_broker(record: RecordFile, plan: RunPlan) -> None:
    kind = record.meta.get("broker", "none")
    if plan.broker != kind:
        how = (
            "leave --broker out"
            if kind in {"embedded", "memory"}
            else f"name it: --broker {kind}://host:port"
        )
        raise ConfigError(f"--resume {record.path}: the run was over a broker of the kind {kind}: {how}")
    if plan.remote_agents:
        raise ConfigError(
            f"--resume {record.path}: agent {plan.remote_agents[0]} runs elsewhere (remote = true): where it "
            "was is not in this record; begin a new run"
        )


def _check_sound(record: RecordFile) -> None:
    chains = check_chains(record)
    if chains.failed:
        raise DataError(f"{record.path}: changed since it was written: {chains.first}; it is not resumed")


def _finished_steps(record: RecordFile, plan: RunPlan) -> int:
    """Return how many steps were finished.

    Raises:
        DataError: All were, or some are missing.
    """
    rows = record.query("SELECT episode, step, diverged FROM step_row ORDER BY id")
    for due, row in enumerate(rows):
        if (row["episode"], row["step"]) != (1, due):
            raise DataError(
                f"{record.path}: step {due} is missing in it (or it has more than one episode); it cannot be "
                "resumed"
            )
        if row["diverged"] is not None:
            raise DataError(f"{record.path}: its run ended: the power flow diverged in step {due}")
    if len(rows) >= plan.steps:
        raise DataError(f"{record.path}: its run is finished: {len(rows)} steps of {plan.steps}")
    grids = plan.loaded.scenario.microgrids
    due_rows = {"agent_row": len(grids), "device_row": sum(len(grid.devices) for grid in grids.values())}
    for table, due in due_rows.items():
        for row in record.query(f"SELECT step, count(*) AS n FROM {table} GROUP BY step"):  # noqa: S608
            if row["n"] != due:
                raise DataError(f"{record.path}: step {row['step']} is not whole in it; it cannot be resumed")
        (counted,) = record.query(f"SELECT count(*) AS n FROM {table}")  # noqa: S608
        if counted["n"] != due * len(rows):
            raise DataError(f"{record.path}: a step is not whole in it; it cannot be resumed")
    return len(rows)


def _stops(record: RecordFile, env_id: str) -> tuple[Received, ...]:
    """Return what was heard on ``estop``, in order; the last one is a stop if one was in force.

    A stop that could not be read is no event; what gateways did, and what the run said of itself, tell of it.
    """
    rows = record.query("SELECT at_s, data FROM event_row WHERE kind = 'stop' ORDER BY id")
    register, heard = StopRegister(env_id), []
    for row in rows:
        heard.append(_heard(row["data"]))
        register.take(heard[-1])
    if not register.is_active:
        last_s = rows[-1]["at_s"] if rows else -math.inf
        if (stop := _other_stop(record, last_s)) is not None:
            heard.append(Received(stop, topics.ESTOP))
    return tuple(heard)


def _heard(data: str | None) -> Received:
    try:
        said = json.loads(data or "{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return Received({}, topics.ESTOP, malformed="its data in the record cannot be read")
    return Received(said, topics.ESTOP)


def _other_stop(record: RecordFile, after_s: float) -> dict[str, Any] | None:
    """Return a stop in force at the end of which no event tells; None = there was none."""
    last = record.parts()[-1]
    estop = None if last.summary is None else last.summary.get("estop")
    if isinstance(estop, dict) and estop.get("active"):
        return {"active": True, "who": estop.get("who"), "why": estop.get("why")}
    held = record.query(
        "SELECT 1 FROM device_row AS d JOIN step_row AS s ON s.episode = d.episode AND s.step = d.step "
        "WHERE s.id = (SELECT max(id) FROM step_row) AND s.begun_at_s > ? AND instr(d.bound, ?) LIMIT 1",
        after_s,
        ESTOP,
    )
    return {"active": True, "why": "in force in the last step that was finished"} if held else None


def _last_s(record: RecordFile) -> float:
    """Return the latest time that stands in a record."""
    latest = [0.0]
    for what, table in (("at_s", "message_row"), ("at_s", "event_row"), ("begun_at_s + took_s", "step_row")):
        (row,) = record.query(f"SELECT max({what}) AS at_s FROM {table}")  # noqa: S608
        latest.append(row["at_s"] or 0.0)
    return max(latest)


def _shortfalls(record: RecordFile) -> dict[tuple[int, str], dict[str, Any]]:
    """Return by step and agent what the record has of missed deadlines and fallbacks, as ``infos`` do."""
    rows = record.query("SELECT step, agent, missed, fallback FROM agent_row")
    found = {
        (row["step"], row["agent"]): {"missed": row["missed"], "fallback": row["fallback"], "fallbacks": {}}
        for row in rows
    }
    for row in record.query(
        "SELECT step, agent, device, fallback FROM device_row WHERE fallback IS NOT NULL"
    ):
        one = found[row["step"], row["agent"]]
        if one["fallback"] is None:  # else nothing was heard of the agent, nor of its devices
            one["fallbacks"][row["device"]] = row["fallback"]
    return found


def _take_again(
    resumption: Resumption, plan: RunPlan, done: int, short: Mapping[tuple[int, str], Mapping[str, Any]]
) -> Resumption:
    """Take the finished steps once more, as the record has them."""
    env = ReplayEnv(resumption.path, n_steps=plan.steps)
    with contextlib.closing(env):
        observations, _ = env.reset()
        seen, steps, apart = [], [], []
        for number in range(done):
            seen.append(observations)
            observations, rewards, _, _, infos = env.step({})
            compared = Comparison()
            compare_step(compared, env, number, rewards, infos)
            if not compared.is_exact:
                apart.append(compared.first)
                env.put_as_recorded(number)
            for agent, info in infos.items():
                info.update(short.get((number, agent), {}))
            steps.append((rewards, infos, env.recorded[number].step["took_s"] * 1e3))
        notes = [f"resumed: {resumption.path}: {done} of {plan.steps} steps are done"]
        if apart:
            notes.append(
                f"resumed: {len(apart)} steps cannot be repeated from the record ({apart[0]}): the models "
                "were put where the record has them"
            )
        return replace(
            resumption,
            state=env.reached(),
            observations=seen,
            finished=steps,
            notes=(*resumption.notes, *notes),
        )
