"""What a record's tables show: the run, its agents and devices, messages, events, and two runs compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding
from heron_mqtt.units import KW_PER_MW

MAX_EVENTS = 500
SHOWN = "kind NOT IN ('summary')"


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: headings and rows of text; ``note`` stands below it."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    note: str = ""
    marks: list[str] = field(default_factory=list)
    """A class for each row: ``ok``, ``failed`` or the colour of an event."""


def run_facts(record: RecordFile) -> list[tuple[str, str]]:
    """Return what the run was, in a few words."""
    meta, summary = record.meta, record.summary()
    versions = json.loads(meta.get("versions", "{}"))
    (steps,) = record.query("SELECT count(*) AS n, sum(missed) AS missed FROM steps")
    facts = [
        ("scenario", meta.get("scenario", "")),
        ("begun", meta.get("begun_at", "").replace("T", " ")[:19] + " UTC"),
        ("mode", f"{meta.get('mode')} over {meta.get('broker')} broker, seed {meta.get('seed')}"),
        ("steps", f"{steps['n']} of {record.step_s:g} s, {steps['missed'] or 0} deadlines missed"),
        ("heron-mqtt", versions.get("heron-mqtt", "unknown")),
        ("head", record.head),
    ]
    impairment = record.options.get("impairment")
    if impairment:
        facts.append(("network", impairment.get("name") or "impaired"))
    if summary is None:
        facts.append(("end", "the run was killed: it did not end by itself"))
    elif summary.get("error"):
        facts.append(("end", str(summary["error"])))
    if lost := record.lost_rows():
        facts.append(("missing rows", str(lost)))
    return facts


AGENT_SUMS = (
    ("reward", "$", "sum(reward)"),
    ("cost", "$", "-sum(reward_generation + reward_grid + reward_trades)"),
    ("net", "MWh", "sum(net_mwh)"),
    ("lowest voltage", "pu", "min(vm_min_pu)"),
    ("highest voltage", "pu", "max(vm_max_pu)"),
    ("highest loading", "%", "max(loading_max_percent)"),
    ("missed", "", "sum(missed)"),
)


def agent_sums(record: RecordFile) -> dict[str, dict[str, float | None]]:
    """Return, by agent, each of ``AGENT_SUMS``."""
    columns = ", ".join(f"{sql} AS c{i}" for i, (_, _, sql) in enumerate(AGENT_SUMS))
    found = record.query(f"SELECT agent, {columns} FROM agents GROUP BY agent ORDER BY min(id)")  # noqa: S608
    return {row["agent"]: {name: row[f"c{i}"] for i, (name, _, _) in enumerate(AGENT_SUMS)} for row in found}


def agents(record: RecordFile) -> ReportTable:
    """Return a row an agent."""
    headings = ["agent", *(f"{name} {unit}".strip() for name, unit, _ in AGENT_SUMS)]
    rows = [
        [agent, *(number(value) for value in sums.values())] for agent, sums in agent_sums(record).items()
    ]
    return ReportTable("Agents", headings, rows)


def devices(record: RecordFile) -> ReportTable:
    """Return a row a device: what the loop did with it."""
    headings = [
        "device", "authority", "setpoints", "answered", "age ms p50 / p99", "round trip ms p50 / p99", "lost",
        "duplicated", "late", "fallbacks", "tracking kW", "residual kW", "safe after s", "energy MWh",
    ]  # fmt: skip
    summary = (record.summary() or {}).get("devices", {})
    rows = []
    for row in record.query(
        "SELECT agent, device, group_concat(DISTINCT authority) AS authority, "
        "sum(sent_p_mw IS NOT NULL) AS sent, sum(acknowledged) AS answered, "
        "sum(fallback IS NOT NULL) AS fallbacks, "
        "avg(abs(residual_mw)) * 1e3 AS residual, max(safe_after_s) AS safe, sum(p_mw) AS p "
        "FROM devices GROUP BY agent, device ORDER BY min(id)"
    ):
        name = f"{row['agent']}/{row['device']}"
        said: dict[str, Any] = summary.get(name, {})
        tracking_mw = said.get("tracking_error_mw")
        rows.append(
            [
                name,
                row["authority"] or "simulated",
                number(row["sent"]),
                number(row["answered"]),
                _quantiles(record, "age_s", row["agent"], row["device"]),
                _quantiles(record, "round_trip_s", row["agent"], row["device"]),
                *(number(said.get(key)) for key in ("lost", "duplicated", "late")),
                number(row["fallbacks"]),
                number(None if tracking_mw is None else tracking_mw * KW_PER_MW),
                number(row["residual"]),
                number(said.get("time_to_safe_s") or row["safe"]),
                number(row["p"] * record.step_s / 3600.0 if row["p"] is not None else None),
            ]
        )
    return ReportTable("Devices in the loop", headings, rows)


def _quantiles(record: RecordFile, column: str, agent: str, device: str) -> str:
    values = [
        row[0] * 1e3
        for row in record.query(
            f"SELECT {column} FROM devices WHERE agent = ? AND device = ? AND {column} IS NOT NULL "  # noqa: S608
            f"ORDER BY {column}",
            agent,
            device,
        )
    ]
    if not values:
        return "-"
    return " / ".join(f"{values[min(len(values) - 1, int(q * len(values)))]:.1f}" for q in (0.5, 0.99))


def messages(record: RecordFile) -> ReportTable:
    """Return a row a type of message."""
    headings = [
        "message",
        "sent",
        "received",
        "kB",
        "repeated",
        "lost in the network",
        "delayed",
        "longest delay ms",
    ]
    rows = [
        [
            row["type"] or "(other)",
            number(row["sent"]),
            number(row["received"]),
            number(row["bytes"] / 1e3),
            number(row["repeated"]),
            number(row["lost"]),
            number(row["delayed"]),
            number(None if row["delay"] is None else row["delay"] * 1e3),
        ]
        for row in record.query(
            "SELECT type, sum(direction = 'out') AS sent, "
            "sum(direction = 'in' AND arrival <> 'none') AS received, "
            "sum(size_bytes) AS bytes, sum(arrival = 'repeated') AS repeated, "
            "sum(coalesce(network LIKE '%lost%' OR network LIKE '%partitioned%', 0)) AS lost, "
            "sum(coalesce(network LIKE '%delayed%' OR network LIKE '%held%', 0)) AS delayed, "
            "max(delay_s) AS delay FROM messages GROUP BY type ORDER BY count(*) DESC"
        )
    ]
    note = "" if rows else "Messages were not recorded."
    return ReportTable("Messages", headings, rows, note)


def events(record: RecordFile) -> ReportTable:
    """Return a row an event."""
    (count,) = record.query(f"SELECT count(*) AS n FROM events WHERE {SHOWN}")  # noqa: S608
    found = record.query(f"SELECT * FROM events WHERE {SHOWN} ORDER BY id LIMIT ?", MAX_EVENTS)  # noqa: S608
    rows = [
        [number(row["at_s"]), number(row["step"]), row["kind"] or "", row["subject"] or "", row["what"] or ""]
        for row in found
    ]
    note = f"The first {MAX_EVENTS} of {count['n']} are shown." if count["n"] > MAX_EVENTS else ""
    marks = [(row["kind"] or "").split()[0] for row in found]
    return ReportTable("Events", ["at s", "step", "kind", "where", "what"], rows, note, marks)


def verdict(findings: Sequence[Finding]) -> ReportTable:
    """Return what ``verify`` found."""
    rows = [
        [one.name, one.verdict, str(one.checked), str(one.failed), one.first or one.note] for one in findings
    ]
    marks = ["failed" if one.failed else "ok" if one.checked else "" for one in findings]
    return ReportTable(
        "Proof", ["invariant", "", "checked", "failed", "first counterexample"], rows, "", marks
    )


def difference(first: RecordFile, second: RecordFile) -> ReportTable:
    """Return what differs between two runs, agent by agent."""
    one, other = agent_sums(first), agent_sums(second)
    rows = []
    for agent in dict.fromkeys((*one, *other)):
        for name, unit, _ in AGENT_SUMS:
            a, b = one.get(agent, {}).get(name), other.get(agent, {}).get(name)
            change = None if a is None or b is None else b - a
            rows.append([agent, f"{name} {unit}".strip(), number(a), number(b), number(change)])
    return ReportTable("Difference, agent by agent", ["agent", "", "A", "B", "B - A"], rows)


def step_difference(first: RecordFile, second: RecordFile) -> ReportTable:
    """Return, for each quantity of a step, how far two runs are apart, and where first."""
    headings = ["quantity", "steps compared", "apart by more than 1e-9", "largest", "first at"]
    rows = []
    for title, table, key, column in (
        ("power of a device, MW", "device_row", ("agent", "device"), "p_mw"),
        ("state of charge", "device_row", ("agent", "device"), "soc"),
        ("reward of an agent, $", "agent_row", ("agent",), "reward"),
        ("lowest voltage, pu", "agent_row", ("agent",), "vm_min_pu"),
    ):
        a, b = (_column(record, table, key, column) for record in (first, second))
        both = [(at, value, b[at]) for at, value in a.items() if at in b]
        apart = [(abs(x - y), at) for at, x, y in both if abs(x - y) > 1e-9]
        where = "" if not apart else f"step {apart[0][1][1]} {'/'.join(map(str, apart[0][1][2:]))}"
        rows.append([title, str(len(both)), str(len(apart)), number(max(apart)[0]) if apart else "0", where])
    return ReportTable("Difference, step by step", headings, rows)


def _column(
    record: RecordFile, table: str, key: tuple[str, ...], column: str
) -> dict[tuple[Any, ...], float]:
    names = ", ".join(("episode", "step", *key, column))
    sql = f"SELECT {names} FROM {table} WHERE {column} IS NOT NULL ORDER BY id"  # noqa: S608
    return {tuple(row)[:-1]: row[-1] for row in record.each(sql)}


def number(value: float | None) -> str:
    """Write a number for people; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
