"""RunRecorder: the one object that everything in a run tells what happened.

It is handed to the environment (or to a remote proxy), which has it attached to the broker and to the
gateways. Whatever goes wrong with the file, the run continues: see ``writer``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic_core import to_json

from heron_mqtt.field.observer import AgentReport
from heron_mqtt.locked_file import LockedFile
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.stats import Report
from heron_mqtt.messaging.stamping import new_boot, utc_now
from heron_mqtt.record.base import Observable, Recorder
from heron_mqtt.record.device_log import TAKEN_UP, Columns, DeviceLog
from heron_mqtt.record.facts import RunFacts, StepFacts, digest
from heron_mqtt.record.guard import guarded
from heron_mqtt.record.message_log import MessageLog
from heron_mqtt.record.run_part import RESUMED, ResumedRecord
from heron_mqtt.record.schema import AGENT, DEVICE, EVENT, STEP, TRADE, RowTable
from heron_mqtt.record.sink import RecordSink, Row
from heron_mqtt.record.writer import RecordLimits, RecordWriter, create_record, log_trouble
from heron_mqtt.record.writer_process import WriterProcess

FORMAT = "heron-record"


class RunRecorder(Recorder):
    """Records one run in one file.

    Args:
        path: A file that does not exist yet.
        facts: What is known of the run.
        keeps_messages: Record every message; else only steps, agents, devices, trades and events.
        limits: Of the disk.
        report: Told, once a trouble, what is wrong with the file; may be called from another thread.
        own_process: Write in a process of its own, for where devices are answered; else in a thread.
        resumed: The file is there: where its run continues. None = a new one.
        elapsed: Clock of the record, s; only differences count.
        now: Time of day, UTC, for the beginning.

    Raises:
        OSError, sqlite3.Error: The file cannot be made, or not be written to.
    """

    def __init__(
        self,
        path: str | Path,
        facts: RunFacts,
        *,
        keeps_messages: bool = True,
        limits: RecordLimits | None = None,
        report: Callable[[str], None] | None = None,
        own_process: bool = False,
        resumed: ResumedRecord | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.path = Path(path)
        self.failures = 0
        self._facts = facts
        self._elapsed = elapsed
        self._begun_s = elapsed() - (0.0 if resumed is None else resumed.elapsed_s(now()))
        self._brokers: list[tuple[MessageBroker, dict[str, int]]] = []  # with its counters at the beginning
        self._is_remote = facts.role != "environment"
        self._report = report or log_trouble
        self._is_gone = False
        if resumed is None:
            files = {name: _packed(file) for name, file in facts.inputs.items()}
            create_record(self.path, _meta(facts, now(), keeps_messages), files)
        self._lock = LockedFile(self.path, is_inherited=True) if resumed is None else resumed.lock
        options: dict[str, Any] = {"source": facts.role, "limits": limits, "report": report}
        self._writer: RecordSink
        if own_process:
            self._writer = WriterProcess(self.path, None, **options, keeps_open=(self._lock.descriptor,))
        else:
            self._writer = RecordWriter(self.path, None, **options)
        self._together: list[tuple[RowTable, Row]] | None = None
        self.messages = MessageLog(self._writer, self.elapsed_s, keeps_messages=keeps_messages)
        self.devices = DeviceLog(self.messages, self.report if self._is_remote else None)
        self._fallbacks: dict[str, str] = {}
        self._seeded: int | None = None  # episode whose seed is recorded
        if resumed is not None:
            self._begin_part(resumed)

    # -- whom it listens to ------------------------------------------------------------------------

    def attach(self, broker: MessageBroker | None, proxies: Iterable[Observable] = ()) -> None:
        """Listen to a broker and to the gateways of proxies."""
        if broker is not None and all(broker is not known for known, _ in self._brokers):
            broker.observe(self.messages)
            broker.stats.listeners.append(self._on_report)
            self._brokers.append((broker, broker.stats.counts()))
        for proxy in proxies:
            proxy.observer = self.devices

    def elapsed_s(self) -> float:
        """Return the time since the record began, s."""
        return self._elapsed() - self._begun_s

    # -- what happened -----------------------------------------------------------------------------

    def _begin_part(self, resumed: ResumedRecord) -> None:
        at = resumed.first
        self._seeded = at[0] if at[1] > 0 else None
        what = f"interrupted before the end of step {at[1]}, and resumed there"
        data = {"rows": dict(resumed.rows), "head": resumed.head}
        self.event(RESUMED, self._facts.scenario, what, data, at=at)

    def _look_after(self) -> None:
        """Say once that the file was removed, or that another one is in its place: its rows go nowhere."""
        if self._is_gone or self._lock.is_in_place:
            return
        self._is_gone = True
        self._report(f"record {self.path}: was removed or replaced; the run continues and is not recorded")

    @guarded
    def step(self, facts: StepFacts) -> None:
        """Take a step of the environment, when it is done: the file has all of it or nothing."""
        self._look_after()
        rows: list[tuple[RowTable, Row]] = []
        self._together = rows
        try:
            self._take_step(facts)
        finally:
            self._together = None
        self._writer.add_together(rows)

    def _take_step(self, facts: StepFacts) -> None:
        missed, diverged, took_s = 0, None, math.fsum(facts.phases_s.values())
        at = facts.episode, facts.step
        if facts.seed is not None and facts.episode != self._seeded:
            self._seeded = facts.episode
            what = f"the random numbers of episode {facts.episode} come from seed {facts.seed}"
            self.event("seed", self._facts.scenario, what, {"seed": facts.seed}, at=at)
        for info in facts.infos.values():
            missed += info["missed"] + (info["fallback"] is not None)
            diverged = info.get("diverged", diverged)
        self._add(
            STEP,
            (
                *at,
                facts.row,
                facts.clock,
                facts.price,
                self.elapsed_s() - took_s,
                took_s,
                _json(facts.phases_s),
                missed,
                diverged,
            ),
        )
        for agent, info in facts.infos.items():
            self._agent(facts, agent, info)
            gateway = self.devices.take(agent, *at)
            told = facts.observations.get(agent)
            for name, p_mw in info["p_mw"].items():
                columns = gateway.get(name, {})
                if columns.get("p_available_mw") is None and told is not None:
                    columns["p_available_mw"] = told.get(f"p_available_{name}")
                columns["p_mw"], columns["q_mvar"] = p_mw, info["q_mvar"].get(name)
                columns["soc"] = info["soc"].get(name)
                columns["fallback"] = info["fallbacks"].get(name)
                columns["bound"] = info["bounds"].get(name)
                columns.setdefault("authority", info["authority"].get(name))
                self._device(at, agent, name, columns)
            self._note_fallbacks(at, agent, info)
        self._late(at)

    def report(self, agent: str, episode: int, step: int, report: AgentReport) -> None:
        """Take the end of an agent's step where the environment is elsewhere (a remote proxy)."""
        at, gateway = (episode, step), self.devices.take(agent, episode, step)
        for name, p_mw in report.p_mw.items():
            columns = gateway.get(name, {})
            columns["p_mw"], columns["q_mvar"] = p_mw, report.q_mvar.get(name)
            columns["soc"] = report.soc.get(name)
            columns["fallback"], columns["bound"] = report.fallbacks.get(name), report.bounds.get(name)
            self._device(at, agent, name, columns)

    def event(
        self,
        kind: str,
        subject: str,
        what: str,
        data: Mapping[str, Any] | None = None,
        *,
        at: tuple[int, int] | None = None,
    ) -> None:
        """Take one thing that happened.

        Args:
            kind: stop, authority, fault, fallback, back, taken up, seed, report, note, summary, ...
            subject: Channel, AGENT/DEVICE or file.
            what: A short sentence.
            data: More, as plain JSON.
            at: Episode and step.
        """
        episode, step = at or (None, None)
        row = (self.elapsed_s(), episode, step, kind, subject, what, None if data is None else _json(data))
        self._add(EVENT, row)

    def close(self, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Record the summary, write all that waits, close the file.

        Returns:
            ``file``, ``head`` (one hash over everything), ``rows`` by table, ``lost`` rows. If the file was
            removed or replaced during the run, all rows are lost, and ``head`` is None.
        """
        counts = []
        for broker, before in self._brokers:
            broker.observe(None)
            broker.stats.listeners.remove(self._on_report)
            now = broker.stats.counts()
            counts.append({name: now[name] - before[name] for name in now})
        self._brokers.clear()
        self._late(None)
        run = {
            "run": self.messages.run,
            "brokers": counts,
            "lost_rows": self._failures() + self._writer.lost_before,
        }
        self.event("summary", self._facts.scenario, "the end of the record", {**run, **(summary or {})})
        self._writer.close()
        self._look_after()
        self._lock.close()
        rows = {name.removesuffix("_row"): n for name, n in self._writer.rows.items()}
        return {
            "file": str(self.path),
            "head": None if self._is_gone else self._writer.head,
            "rows": dict.fromkeys(rows, 0) if self._is_gone else rows,
            "lost": self._lost() + (sum(rows.values()) if self._is_gone else 0),
        }

    def _lost(self) -> int:
        """Rows that are not in the file."""
        return self._writer.losses.total + self._failures()

    def _failures(self) -> int:
        return self.failures + self.messages.failures + self.devices.failures

    # -- rows --------------------------------------------------------------------------------------

    def _add(self, table: RowTable, row: Row) -> None:
        if (together := self._together) is None:
            self._writer.add(table, row)
        else:
            together.append((table, row))

    def _agent(self, facts: StepFacts, agent: str, info: Mapping[str, Any]) -> None:
        told, command = facts.observations.get(agent), facts.commands.get(agent)
        vm = info["vm_pu"]
        self._add(
            AGENT,
            (
                facts.episode,
                facts.step,
                agent,
                facts.rewards[agent],
                _json(info["reward_terms"]),
                info["p_load_mw"],
                None if told is None else told.get("q_load_mvar"),
                info["net_mwh"],
                vm["min"],
                vm["max"],
                info["loading_max_percent"],
                info["missed"],
                len(info["void_trades"]),
                info["fallback"],
                None if told is None else _json(told),
                None if command is None else _json(command),
            ),
        )
        for trade in info["trades"]:
            if trade.seller == agent:  # it stands on both sides
                both = (trade.seller, trade.buyer, trade.mwh, trade.price, None, None)
                self._add(TRADE, (facts.episode, facts.step, *both))
        for void in info["void_trades"]:
            seller, buyer = (agent, void.peer) if void.mwh > 0.0 else (void.peer, agent)
            row = (seller, buyer, abs(void.mwh), None, agent, void.reason)
            self._add(TRADE, (facts.episode, facts.step, *row))

    def _device(self, at: tuple[int, int], agent: str, name: str, columns: Columns) -> None:
        if (state := columns.get(TAKEN_UP)) is not None:
            what = "its model starts from the device's own values"
            self.event("taken up", f"{agent}/{name}", what, state, at=at)
        self._add(DEVICE, (*at, agent, name, *map(columns.get, _DEVICE_COLUMNS)))

    def _note_fallbacks(self, at: tuple[int, int], agent: str, info: Mapping[str, Any]) -> None:
        """Say when a model begins to stand in for a device, and when the device is back."""
        for name in info["p_mw"]:
            device, why = f"{agent}/{name}", info["fallbacks"].get(name)
            before = self._fallbacks.get(device)
            if why is not None and before is None:
                self.event("fallback", device, f"its model replaces it: {why}", at=at)
                self._fallbacks[device] = why
            elif why is None and before is not None:
                self.event("back", device, "followed again", at=at)
                del self._fallbacks[device]

    def _late(self, at: tuple[int, int] | None) -> None:
        """Record what gateways did in steps that the environment had ended without them."""
        for (agent, episode, step), devices in self.devices.left_behind().items():
            if self._is_remote or (at is not None and (episode, step) > at):
                continue
            what = "its devices were done after the step had ended"
            self.event("late", agent, what, {"devices": devices}, at=(episode, step))

    def _on_report(self, report: Report) -> None:
        self.event(f"report {report.kind}", report.where, report.what)


_DEVICE_COLUMNS = DEVICE.names[4:]
_FIRST = ("episode", "step", "agent", "device")
assert DEVICE.names[:4] == _FIRST, "the columns that _device() gives first"


def _json(value: Mapping[str, Any]) -> str:
    """Return JSON; what is not a finite number becomes null."""
    return to_json(value, inf_nan_mode="null").decode()


def _packed(file: Path) -> tuple[str, bytes]:
    data = file.read_bytes()
    return hashlib.sha256(data).hexdigest(), zlib.compress(data)


@functools.cache  # 5 ms, for each record that is begun, resumed or verified
def versions_here() -> Mapping[str, str]:
    """Return the versions of what a run's results depend on, by package."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("heron-mqtt", "pandapower", "lightsim2grid", "numpy", "paho-mqtt"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return MappingProxyType(versions)


def _meta(facts: RunFacts, now: datetime, keeps_messages: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "record_id": new_boot() + new_boot(),
        "begun_at": now.isoformat(timespec="milliseconds"),
        "role": facts.role,
        "scenario": facts.scenario,
        "scenario_json": facts.scenario_json,
        "scenario_text": facts.scenario_text,
        "mode": facts.mode,
        "broker": facts.broker,
        "seed": str(facts.seed),
        "step_s": repr(facts.step_s),
        "devices": facts.devices,
        "agents": _json_list(facts.agents),
        "options": _json(dict(facts.options)),
        "files": _json({key: {"name": p.name, "sha256": digest(p)} for key, p in facts.files.items()}),
        "versions": _json(dict(versions_here())),
        "keeps_messages": str(int(keeps_messages)),
    }


def _json_list(values: Iterable[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)
