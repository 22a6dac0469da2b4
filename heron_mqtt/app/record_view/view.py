"""RecordView: what ``LiveView`` says of a broker, said of a record at the end of a step."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from heron_mqtt.app.record_view.channels import recorded_channels
from heron_mqtt.app.record_view.grid import recorded_grid
from heron_mqtt.app.record_view.timeline import StepPlace, Timeline, data_of
from heron_mqtt.app.recorded_world import recorded_scenario
from heron_mqtt.errors import DataError
from heron_mqtt.json_object import Json
from heron_mqtt.messaging import topics
from heron_mqtt.record.merge import merged_offsets
from heron_mqtt.record.reader import RecordFile

EVENTS, PAYLOAD = 500, 2_000
POINTS = 2_000  # of a plot; a longer record is thinned out


class RecordView:
    """One record, read only; one that is being written is followed.

    Args:
        path: The file.

    Raises:
        DataError: It is not there, not a record, damaged, or newer than this program.
    """

    def __init__(self, path: str | Path) -> None:
        self.record = RecordFile(path)
        self.timeline = Timeline(self.record)
        self.env_id = recorded_scenario(self.record).topic_env_id
        self.grid, self.why_no_grid = recorded_grid(self.record)
        self._begun_at = _time(self.record.meta.get("begun_at"))

    def close(self) -> None:
        """Close the file."""
        self.record.close()

    def about(self) -> Json:
        """Return what the record is, and how far it goes by now."""
        record = self.record
        return {
            "file": record.path.name,
            "scenario": record.meta.get("scenario", ""),
            "mode": record.meta.get("mode", ""),
            "role": record.meta.get("role", ""),
            "begun_at": record.meta.get("begun_at"),
            "steps": len(self.timeline),
            "is_ended": record.summary() is not None,
            "merged": sorted(merged_offsets(record)),
            "has_messages": record.meta.get("keeps_messages") == "1",
            "why_no_grid": self.why_no_grid,
            "lost_rows": record.lost_rows(),
            "marks": self.timeline.marks(),
        }

    def network(self, env_id: str) -> Json | None:
        """Return the network, as in ``NetworkModel``; None where none is known."""
        return self.grid.network if self.grid is not None and env_id == self.env_id else None

    # -- at the end of a step ----------------------------------------------------------------------

    def snapshot(self, n: int) -> Json:
        """Return everything at the end of step ``n``, from 0, as ``LiveView.snapshot`` does.

        Raises:
            DataError: There is no such step, or the file is damaged.
        """
        steps = len(self.timeline)
        if not 0 <= n < steps:
            which = f"0 to {steps - 1}" if steps else "none yet"
            raise DataError(f"{self.record.path}: no step {n}; there are {which}")
        place = self.timeline.at(n)
        return {
            "broker": self.record.path.name,
            "connected": True,
            "unseen": 0,
            "at": n,
            "environments": [self._environment(place)],
        }

    def _environment(self, place: StepPlace) -> Json:
        record, at = self.record, (place.episode, place.step)
        agents = {
            row["agent"]: dict(row)
            for row in record.query("SELECT * FROM agent_row WHERE episode = ? AND step = ?", *at)
        }
        rows = {
            f"{row['agent']}/{row['device']}": dict(row)
            for row in record.query("SELECT * FROM device_row WHERE episode = ? AND step = ?", *at)
        }
        names = sorted({*agents, *(row["agent"] for row in rows.values())})
        devices = self._devices(rows)
        stop = self._stop(place)
        grid = None if self.grid is None else self.grid.results(place, rows, agents)
        return {
            "env_id": self.env_id,
            "run": self._run(place),
            "stop": stop,
            "agents": {name: {"state": None, "reason": None, "owner": None} for name in names},
            "devices": devices,
            "unreadable": {},
            "problems": _problems(place, stop, agents, devices, grid),
            "price": place.price,
            "step_age_s": None,
            "microgrids": self._microgrids(place, names, agents, rows),
            "network": int(self.grid is not None and self.grid.network is not None),
            "grid": grid,
            "channels": {} if place.ended_at_s is None else recorded_channels(record, place.ended_at_s),
            "events": self._events(place),
        }

    def _run(self, place: StepPlace) -> Json:
        is_last = place.n == len(self.timeline) - 1
        is_ended = self.record.summary() is not None
        state = "running" if not is_last else "finished" if is_ended else "running, or cut off"
        return {
            "state": state,
            "scenario": self.record.meta.get("scenario", ""),
            "episode": place.episode,
            "step": place.step,
            "clock": place.clock,
            "owner": None,
        }

    def _devices(self, rows: Mapping[str, Mapping[str, Any]]) -> Json:
        counted = {
            f"{row['agent']}/{row['device']}": row
            for row in self.record.query(
                "SELECT agent, device, count(sent_p_mw) AS setpoints, count(fallback) AS fallbacks "
                "FROM device_row WHERE id <= ? GROUP BY agent, device",
                max((row["id"] for row in rows.values()), default=0),
            )
        }
        return {label: _device(row, counted[label]) for label, row in sorted(rows.items())}

    def _microgrids(
        self,
        place: StepPlace,
        names: Sequence[str],
        agents: Mapping[str, Json],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> Json:
        traded: defaultdict[str, float] = defaultdict(float)
        for row in self.record.query(
            "SELECT seller, buyer, mwh FROM trade_row WHERE episode = ? AND step = ? AND void_reason IS NULL",
            place.episode,
            place.step,
        ):
            traded[row["seller"]] += row["mwh"] or 0.0
            traded[row["buyer"]] -= row["mwh"] or 0.0
        found: Json = {}
        for name in names:
            said = agents.get(name, {})
            own = {row["device"]: row for row in rows.values() if row["agent"] == name}
            found[name] = {
                "age_s": None,
                "load_mw": said.get("p_load_mw"),
                "vm_min_pu": said.get("vm_min_pu"),
                "vm_max_pu": said.get("vm_max_pu"),
                "loading_max_percent": said.get("loading_max_percent"),
                "p_mw": {device: row["p_mw"] for device, row in own.items() if row["p_mw"] is not None},
                "soc": {device: row["soc"] for device, row in own.items() if row["soc"] is not None},
                "traded_mwh": traded[name],
                "fallbacks": {d: row["fallback"] for d, row in own.items() if row["fallback"] is not None},
                "missed": said.get("missed") or 0,
            }
        return found

    # -- events ------------------------------------------------------------------------------------

    def _events(self, place: StepPlace) -> list[Json]:
        until_s = place.ended_at_s
        rows = self.record.query(
            "SELECT id, at_s, kind, subject, what, data FROM event_row WHERE kind <> 'summary' AND "
            "(? IS NULL OR at_s <= ?) ORDER BY id DESC LIMIT ?",
            until_s,
            until_s,
            EVENTS,
        )
        return [
            {
                "n": row["id"],
                "at_s": row["at_s"],
                "at": self._at(row["at_s"]),
                "ago_s": None if until_s is None else round(until_s - row["at_s"], 1),
                "kind": row["kind"],
                "subject": _subject(row["subject"]),
                "what": _sentence(row),
                "kept": False,
                "acknowledged": None,
            }
            for row in rows
        ]

    def _stop(self, place: StepPlace) -> Json | None:
        if place.ended_at_s is None:
            return None
        found = self.record.query(
            "SELECT data FROM event_row WHERE kind = 'stop' AND at_s <= ? ORDER BY id DESC LIMIT 1",
            place.ended_at_s,
        )
        if not found:
            return None
        said = data_of(found[0])
        if said.get("active", True) is False:
            return None
        return {"who": said.get("who"), "why": said.get("why")}

    def _at(self, at_s: float) -> str:
        if self._begun_at is None:
            return ""
        return (self._begun_at + timedelta(seconds=at_s)).isoformat(timespec="milliseconds")

    # -- messages and plots ------------------------------------------------------------------------

    def messages(self, n: int, containing: str, limit: int) -> list[Json]:
        """Return the newest messages up to the end of step ``n`` whose channel contains a text."""
        place = self.timeline.at(n)
        if place.ended_at_s is None:
            return []
        rows = self.record.query(
            "SELECT id, at_s, channel, retained, arrival, network, delay_s, payload, type, sender, seq, "
            "direction, source FROM message_row WHERE at_s <= ? AND instr(channel, ?) > 0 "
            "AND (direction = 'out' OR payload IS NOT NULL OR arrival <> 'new') ORDER BY id DESC LIMIT ?",
            place.ended_at_s,
            containing,
            limit,
        )
        return [
            {
                "n": row["id"],
                "at": self._at(row["at_s"]),
                "env_id": self.env_id,
                "channel": row["channel"],
                "retained": bool(row["retained"]),
                "readable": True,
                "note": _fate(row),
                "text": (row["payload"] or json.dumps({k: row[k] for k in ("type", "sender", "seq")}))[
                    :PAYLOAD
                ],
            }
            for row in reversed(rows)
        ]

    def series(self, label: str) -> Json:
        """Return a device's whole record as points: number of the step, told and measured, MW."""
        agent, _, name = label.rpartition("/")
        count = "SELECT count(*) AS n FROM device_row WHERE agent = ? AND device = ?"
        every = max(1, self.record.query(count, agent, name)[0]["n"] // POINTS)
        rows = self.record.query(
            "SELECT n, sent_p_mw, done FROM (SELECT row_number() OVER (ORDER BY id) - 1 AS n, sent_p_mw, "
            "coalesce(telemetry_p_mw, p_mw) AS done FROM device_row WHERE agent = ? AND device = ?) "
            "WHERE n % ? = 0",
            agent,
            name,
            every,
        )
        return {
            "t": [row["n"] for row in rows],
            "told": [row["sent_p_mw"] for row in rows],
            "done": [row["done"] for row in rows],
        }


def _device(row: Mapping[str, Any], counted: sqlite3.Row) -> Json:
    level, holder = row["authority"], row["lease_owner"]
    health = row["health"] or ("model" if level in {None, "simulated"} else "unknown")
    return {
        "health": health,
        "reason": None,
        "kind": None,
        "age_s": row["age_s"],
        "p_mw": row["p_mw"] if row["telemetry_p_mw"] is None else row["telemetry_p_mw"],
        "soc": row["soc"] if row["telemetry_soc"] is None else row["telemetry_soc"],
        "safe": None if row["safe"] is None else bool(row["safe"]),
        "stopped": None,
        "authority": None
        if level is None
        else {"level": level, "ceiling": None, "demoted": None, "why": row["bound"]},
        "lease": None
        if holder is None
        else {"state": "held", "holder": holder, "holder_boot": None, "lease_s": row["lease_s"]},
        "manual": None,
        "owner": None,
        "setpoint_mw": row["sent_p_mw"],
        "lease_left_s": None,
        "setpoints": counted["setpoints"],
        "fallbacks": counted["fallbacks"],
        "why": row["fallback"],
        "residual_mw": row["residual_mw"],
    }


def _problems(
    place: StepPlace,
    stop: Json | None,
    agents: Mapping[str, Json],
    devices: Mapping[str, Json],
    grid: Json | None,
) -> list[str]:
    found = []
    if stop is not None:
        found.append(f"emergency stop by {stop['who'] or 'unknown'}: {stop['why'] or 'no reason given'}")
    if place.diverged is not None:
        found.append(f"the power flow diverged: {place.diverged}")
    found += [f"agent {name}: {row['fallback']}" for name, row in sorted(agents.items()) if row["fallback"]]
    for label, device in devices.items():
        if device["why"] is not None:
            found.append(f"device {label}: its model replaced it: {device['why']}")
        elif device["health"] in {"offline", "fault", "silent", "stale"}:
            found.append(f"device {label} is {device['health']}")
    for name in (grid or {}).get("differs", ()):
        found.append(f"the voltages of {name}, solved again, are not those that were recorded")
    return found


def _subject(channel: str) -> str:
    """Return who an event is about: AGENT/DEVICE or an agent, where the record has a channel."""
    levels = topics.levels(channel)
    match levels:
        case ["devices", agent, name, _]:
            return f"{agent}/{name}"
        case ["agents", agent, _] | ["estop", "confirm", agent]:
            return agent
        case ["estop", "confirm", agent, name]:
            return f"{agent}/{name}"
        case ["estop"]:
            return "all devices"
        case _:
            return channel


def _sentence(event: sqlite3.Row) -> str:
    said = data_of(event)
    what = str(event["what"])
    if event["kind"] == "stop":
        is_stop = said.get("active", True) is not False
        who = said.get("who") or "unknown"
        return f"EMERGENCY STOP by {who}: {said.get('why') or '-'}" if is_stop else f"{what} by {who}"
    reason = said.get("reason")
    return f"{what}: {reason}"[:500] if isinstance(reason, str) and reason else what[:500]


def _fate(row: sqlite3.Row) -> str:
    """Say what became of a message on its way; empty where nothing did."""
    parts = []
    if row["arrival"] == "none":
        parts.append("LOST")
    elif row["arrival"] == "repeated":
        parts.append("REPEATED")
    elif row["arrival"] == "late":
        parts.append("LATE: kept while there was no connection")
    if row["network"]:
        parts.append(f"network: {row['network']}")
    if row["delay_s"]:
        parts.append(f"delayed by {row['delay_s'] * 1e3:.0f} ms")
    return ", ".join(parts)


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
