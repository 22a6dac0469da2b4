"""From a plan to its recorders: which file, what is said of the run, and what when it cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heron_mqtt.app.named_files import named_files
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.stamping import utc_now
from heron_mqtt.record.base import Recorder, RecorderGroup
from heron_mqtt.record.facts import RunFacts
from heron_mqtt.record.run_files import KEPT, VARIABLE, default_directory, new_file, prune

if TYPE_CHECKING:
    from heron_mqtt.app.resumption import Resumption
    from heron_mqtt.app.run_plan import RunPlan
    from heron_mqtt.record.csv_rows import CsvRecorder
    from heron_mqtt.record.recorder import RunRecorder
    from powergrid.scenario import LoadedScenario

KEPT_WHOLE = ("profiles.file", "profiles.price_file", "network.source")
"""Keys of the files that a record contains; of the others it has a hash."""

AUTO = "auto"
"""``RunOptions.record``: a file in the default directory."""


class Recording:
    """What records one run: a file, a CSV file, both or nothing.

    Args:
        plan: Of the run.
        note: Takes a line for the user; also called by the writer's thread.
    """

    def __init__(self, plan: RunPlan, note: Callable[[str], None]) -> None:
        self._note = note
        self.file = _recorder(plan, note)
        self.csv = _csv(plan, note)
        self._told: dict[str, Any] | None = None

    @property
    def recorder(self) -> Recorder | None:
        """What the environment is handed."""
        parts: list[Recorder] = [one for one in (self.file, self.csv) if one is not None]
        return RecorderGroup(parts) if parts else None

    @property
    def csv_told(self) -> dict[str, Any] | None:
        """What is to be said of the CSV file: file, lost rows; None where none was asked for."""
        return None if self.csv is None else {"file": str(self.csv.path), "lost": self.csv.lost}

    def event(self, kind: str, subject: str, what: str, data: Mapping[str, Any] | None = None) -> None:
        """Record one thing that happened."""
        if self.file is not None:
            self.file.event(kind, subject, what, data)

    def close(self, summary: Mapping[str, Any]) -> dict[str, Any] | None:
        """End the files; return what is to be said of the record, None where there is none. Idempotent."""
        if self.csv is not None:
            self.csv.close()
        if self.file is not None and self._told is None:
            self._told = self.file.close(summary)
            note_lost_rows(self._told, self._note)
        return self._told


def note_lost_rows(told: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Say how many rows are missing in a record, if any are; given what closing it has returned."""
    if told["lost"]:
        note(f"record: {told['lost']} rows are missing in {told['file']}")


def run_facts(loaded: LoadedScenario, *, role: str = "environment", **more: Any) -> RunFacts:
    """Return what a record says of a scenario at its beginning."""
    scenario, source = loaded.scenario, Path(loaded.source)
    text = ""
    if source.is_file():
        with suppress(OSError, UnicodeDecodeError):
            text = source.read_text(encoding="utf-8")
    files = named_files(loaded, more.get("options", {}).get("policy"))
    return RunFacts(
        scenario=scenario.name,
        scenario_json=scenario.model_dump_json(),
        scenario_text=text,
        step_s=scenario.step_s,
        agents=tuple(scenario.microgrids),
        inputs={key: files[key] for key in KEPT_WHOLE if key in files},
        files=files,
        role=role,
        **more,
    )


def open_record(
    where: str, facts: RunFacts, note: Callable[[str], None], *, keeps_messages: bool
) -> RunRecorder | None:
    """Begin a record.

    Args:
        where: A file, or ``AUTO``.
        facts: Of the run.
        note: Takes a line for the user.
        keeps_messages: See ``RunRecorder``.

    Returns:
        None where records are switched off, or where this file was not asked for and cannot be made; the
        run continues without.

    Raises:
        ConfigError: The file that was asked for cannot be made.
    """
    from heron_mqtt.record.recorder import RunRecorder  # not for a run that is not recorded
    from heron_mqtt.record.writer import RecordLimits

    now, is_auto = utc_now(), where == AUTO
    directory = default_directory() if is_auto else None
    if is_auto and directory is None:
        return None
    path = Path(where) if directory is None else new_file(directory, facts.scenario, now)
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            prune(directory, KEPT - 1)
        recorder = RunRecorder(path, facts, keeps_messages=keeps_messages, report=note, own_process=True)
    except (OSError, sqlite3.Error) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        if not is_auto and isinstance(exc, FileExistsError):
            raise ConfigError(f"--record {path}: exists already; a record is never overwritten") from None
        if not is_auto:
            raise ConfigError(f"--record {path}: cannot be written: {why}") from None
        note(
            f"record: {path} cannot be written ({why}): this run is not recorded; use --record FILE, "
            f"--no-record or {VARIABLE}=DIRECTORY"
        )
        return None
    kept = f"; the newest {KEPT} are kept" if is_auto else ""
    note(f"record: {path} (at most {2 * RecordLimits().max_bytes >> 20} MB{kept})")
    return recorder


def _reopen(resumed: Resumption, facts: RunFacts, note: Callable[[str], None]) -> RunRecorder:
    """Continue with the record of a run that was interrupted."""
    from heron_mqtt.record.recorder import RunRecorder

    try:
        recorder = RunRecorder(
            resumed.path,
            facts,
            keeps_messages=resumed.keeps_messages,
            report=note,
            own_process=True,
            resumed=resumed.record,
        )
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError(f"--resume {resumed.path}: cannot be written: {exc}") from None
    note(f"record: {resumed.path}, which continues")
    return recorder


def _recorder(plan: RunPlan, note: Callable[[str], None]) -> RunRecorder | None:
    options = plan.options
    if options.record is None:
        return None
    impairment = None if plan.impairment is None else plan.impairment.model_dump(mode="json")
    facts = run_facts(
        plan.loaded,
        mode=plan.mode,
        broker=plan.broker,
        seed=plan.seed,
        devices=plan.devices,
        options={
            "steps": plan.steps,
            "realtime_s": plan.realtime_s,
            "network": options.network,
            "impairment": impairment,
            "policy": options.policy,
            "priority": options.priority,
        },
    )
    if plan.resumed is not None:
        return _reopen(plan.resumed, facts, note)
    keeps = options.is_reachable if options.record_messages is None else options.record_messages
    return open_record(options.record, facts, note, keeps_messages=keeps)


def _csv(plan: RunPlan, note: Callable[[str], None]) -> CsvRecorder | None:
    if plan.options.csv is None:
        return None
    from heron_mqtt.record.csv_rows import CsvRecorder

    path = Path(plan.options.csv)
    names = [name for grid in plan.loaded.scenario.microgrids.values() for name in grid.devices]
    try:
        return CsvRecorder(path, names, note)
    except OSError as exc:
        raise ConfigError(f"--csv {path}: cannot be written: {exc.strerror}") from None
