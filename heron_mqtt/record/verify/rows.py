"""Rows that are missing in a record: what the record knows of them, and what it cannot know."""

from __future__ import annotations

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.beginning import has_steps
from heron_mqtt.record.verify.finding import Finding


def check_rows(record: RecordFile, head: str | None = None) -> Finding:
    """Count the rows that are missing.

    Of rows that could not be written the end of the record tells. Whole steps, agents and devices that
    should stand in it are counted. Where the run did not come to its end, what it could not write before is
    not known.

    Args:
        record: The file.
        head: The hash that was printed when the run ended.

    Returns:
        ``failed`` is the number of rows.
    """
    found = Finding("no row is missing")
    there = sum(rows for rows, _ in record.heads().values())
    told = record.lost_rows()
    holes, where = _holes(record) if has_steps(record) else (0, "")
    missing = max(told, holes)
    if missing:
        why = f"{told} could not be written, as the end of the record says" if told >= holes else where
        found.first = f"{missing} rows are missing: {why}"
    ends_well = "merged" in record.meta or record.parts()[-1].summary is not None
    if not ends_well and not missing and head is not None and record.head.startswith(head.lower()):
        missing = 1
        found.first = "the end of its run is missing: it has the head that was printed then; rows are lost"
    found.failed = missing
    found.checked = there + missing if ends_well or missing else 0
    if not ends_well:
        (row,) = record.query("SELECT count(*) AS n FROM step_row")
        planned = record.options.get("steps")
        found.note = (
            "not known: the run has no end here (it was killed, still runs, or its disk was full); "
            f"{row['n']} steps{'' if planned is None else f' of {planned}'} are in it"
        )
    return found


def _holes(record: RecordFile) -> tuple[int, str]:
    """Return how many rows of finished steps are not there, and which first."""
    agents, devices = (
        len(record.agents),
        sum(len(m["devices"]) for m in record.scenario["microgrids"].values()),
    )
    missing, where = 0, ""
    last: dict[int, int] = {}
    steps = 0
    for row in record.each("SELECT episode, step FROM step_row ORDER BY episode, step"):
        steps += 1
        due = last.get(row["episode"], -1) + 1
        if row["step"] > due:
            missing += (row["step"] - due) * (1 + agents + devices)
            where = where or f"step {due} of episode {row['episode']}"
        last[row["episode"]] = row["step"]
    summary = record.summary() or {}
    ended = summary.get("steps")
    if "merged" not in record.meta and isinstance(ended, int) and len(last) <= 1 and ended > steps:
        whole = max(last.values(), default=-1) + 1
        if ended > whole:
            missing += (ended - whole) * (1 + agents + devices)
            where = where or f"step {whole} and those after it, of {ended}"
    for table, each in (("agent_row", agents), ("device_row", devices)):
        (row,) = record.query(f"SELECT count(*) AS n FROM {table}")  # noqa: S608 - our own names
        if row["n"] < steps * each:
            missing += steps * each - row["n"]
            where = where or f"{table} has {row['n']} rows for {steps} steps of {each}"
    return missing, where
