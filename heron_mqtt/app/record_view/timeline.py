"""The steps of a record, one after another, and what happened where between them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from heron_mqtt.json_object import Json
from heron_mqtt.record.reader import RecordFile

MARKS = 300
MARKED = ("stop", "fault", "fallback", "error")


@dataclass(frozen=True, slots=True)
class StepPlace:
    """Where a step is in a record.

    Attributes:
        n: Counted from 0 over all episodes.
        episode, step: Which.
        clock: Simulated time, RFC 3339; None where only a proxy recorded.
        price: $/MWh; None likewise.
        row: Of the time series; None likewise.
        ended_at_s: When it ended, since the record began; None = not known.
        diverged: Why the power flow has no solution.
    """

    n: int
    episode: int
    step: int
    clock: str | None = None
    price: float | None = None
    row: int | None = None
    ended_at_s: float | None = None
    diverged: str | None = None


class Timeline:
    """Finds steps in a record that may still grow.

    Args:
        record: Open.
    """

    def __init__(self, record: RecordFile) -> None:
        self._record = record
        self._has_grid = record.meta.get("role", "environment") == "environment"
        self._found: list[tuple[int, int]] = []  # of a proxy's record, which has no rows of steps
        self._read_to = 0

    def __len__(self) -> int:
        """How many steps there are by now."""
        if self._has_grid:
            return int(self._record.query("SELECT coalesce(max(id), 0) FROM step_row")[0][0])
        self._read_on()
        return len(self._found)

    def _read_on(self) -> None:
        rows = self._record.query(
            "SELECT max(id) AS last, episode, step FROM device_row WHERE id > ? "
            "GROUP BY episode, step ORDER BY min(id)",
            self._read_to,
        )
        known = set(self._found)
        for row in rows:
            self._read_to = max(self._read_to, row["last"])
            if (at := (row["episode"], row["step"])) not in known:
                self._found.append(at)
                known.add(at)

    def at(self, n: int) -> StepPlace:
        """Return step ``n``, from 0, which must be there."""
        if not self._has_grid:
            return self._of_proxy(n)
        row = self._record.query(
            "SELECT episode, step, clock, price_per_mwh, row, begun_at_s + took_s AS ended, diverged "
            "FROM step_row WHERE id = ?",
            n + 1,
        )[0]
        return StepPlace(
            n,
            row["episode"],
            row["step"],
            row["clock"],
            row["price_per_mwh"],
            row["row"],
            row["ended"],
            row["diverged"],
        )

    def _of_proxy(self, n: int) -> StepPlace:
        self._read_on()
        episode, step = self._found[n]
        ended = self._latest("max(sent_at_s + coalesce(round_trip_s, 0))", "device_row", episode, step)
        if ended is None:  # its devices are models: what it said of the step last
            ended = self._latest("max(at_s)", "message_row", episode, step)
        return StepPlace(n, episode, step, ended_at_s=ended)

    def _latest(self, what: str, table: str, episode: int, step: int) -> float | None:
        sql = f"SELECT {what} AS at_s FROM {table} WHERE episode = ? AND step = ?"  # noqa: S608 - our own names
        found: float | None = self._record.query(sql, episode, step)[0]["at_s"]
        return found

    def marks(self) -> list[Json]:
        """Return the first stops, faults, fallbacks and errors: the step in which each was, and what."""
        wanted = ", ".join("?" * len(MARKED))
        rows = self._record.query(
            f"SELECT at_s, episode, step, kind, subject, what FROM event_row WHERE kind IN ({wanted}) "  # noqa: S608
            f"ORDER BY id LIMIT {MARKS}",
            *MARKED,
        )
        return [
            {"n": n, "kind": row["kind"], "subject": row["subject"], "what": row["what"]}
            for row in rows
            if (n := self._place_of(row)) is not None
        ]

    def _place_of(self, event: sqlite3.Row) -> int | None:
        """Return the step in which an event was: the one it names, else the first that ended after it."""
        if not self._has_grid:
            at = (event["episode"], event["step"])
            return self._found.index(at) if at in self._found else None
        if event["step"] is not None:
            sql = "SELECT min(id) AS id FROM step_row WHERE episode = ? AND step = ?"
            found = self._record.query(sql, event["episode"], event["step"])
        else:
            sql = "SELECT min(id) AS id FROM step_row WHERE begun_at_s + took_s >= ?"
            found = self._record.query(sql, event["at_s"])
        return None if found[0]["id"] is None else int(found[0]["id"]) - 1


def data_of(event: sqlite3.Row) -> Json:
    """Return what else an event says; empty where it cannot be read."""
    try:
        found = json.loads(event["data"] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
