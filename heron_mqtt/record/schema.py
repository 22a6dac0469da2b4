"""The tables of a record, the views that people use, and how older files become newer ones.

The tables are append-only; every row carries the hash that chains it to the row before (``chain``). The
views are the stable face: what they are called and what their columns mean does not change. docs/record.md
describes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

APPLICATION_ID = 0x48524E31  # "HRN1", so that `file` and we tell a record from any SQLite file
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its name and SQLite type."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class RowTable:
    """A chained table: ``id`` from 1 without gaps, the columns, and the ``hash`` of the row.

    Attributes:
        name: In the file.
        columns: What is hashed, in this order, behind the id.
    """

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the hashed columns, without the id."""
        return tuple(column.name for column in self.columns)

    def create(self) -> str:
        """Return the statement that makes the table."""
        body = ", ".join(f"{column.name} {column.kind}" for column in self.columns)
        return f"CREATE TABLE {self.name} (id INTEGER PRIMARY KEY, {body}, hash BLOB NOT NULL)"

    def insert(self) -> str:
        """Return the statement that appends a row: id, columns, hash."""
        marks = ", ".join("?" * (len(self.columns) + 2))
        return f"INSERT INTO {self.name} (id, {', '.join(self.names)}, hash) VALUES ({marks})"  # noqa: S608


def _table(name: str, columns: str) -> RowTable:
    pairs = (part.split() for part in columns.replace("\n", " ").split(",") if part.strip())
    return RowTable(name, tuple(Column(column, kind) for column, kind in pairs))


STEP = _table(
    "step_row",
    """episode INTEGER, step INTEGER, row INTEGER, clock TEXT, price_per_mwh REAL, begun_at_s REAL,
    took_s REAL, phases TEXT, missed INTEGER, diverged TEXT""",
)
AGENT = _table(
    "agent_row",
    """episode INTEGER, step INTEGER, agent TEXT, reward REAL, reward_terms TEXT, p_load_mw REAL,
    q_load_mvar REAL, net_mwh REAL, vm_min_pu REAL, vm_max_pu REAL, loading_max_percent REAL,
    missed INTEGER, void_trades INTEGER, fallback TEXT, observation TEXT, command TEXT""",
)
DEVICE = _table(
    "device_row",
    """episode INTEGER, step INTEGER, agent TEXT, device TEXT, p_mw REAL, q_mvar REAL, soc REAL,
    p_available_mw REAL, wanted_p_mw REAL, wanted_q_mvar REAL, bounded_p_mw REAL, bounded_q_mvar REAL,
    cleared_p_mw REAL, cleared_q_mvar REAL, sent_p_mw REAL, sent_q_mvar REAL, sent_seq INTEGER,
    sent_boot TEXT, sent_at_s REAL, lease_s REAL, telemetry_p_mw REAL, telemetry_q_mvar REAL,
    telemetry_soc REAL, telemetry_running INTEGER, telemetry_seq INTEGER, ack_seq INTEGER, ack_boot TEXT,
    acknowledged INTEGER, age_s REAL, round_trip_s REAL, health TEXT, authority TEXT, lease_owner TEXT,
    safe INTEGER, safe_after_s REAL, residual_mw REAL, fallback TEXT, bound TEXT""",
)
TRADE = _table(
    "trade_row",
    """episode INTEGER, step INTEGER, seller TEXT, buyer TEXT, mwh REAL, price_per_mwh REAL, reporter TEXT,
    void_reason TEXT""",
)
MESSAGE = _table(
    "message_row",
    """source TEXT, at_s REAL, direction TEXT, channel TEXT, sender TEXT, boot TEXT, seq INTEGER,
    episode INTEGER, step INTEGER, type TEXT, size_bytes INTEGER, sent_at TEXT, retained INTEGER,
    arrival TEXT, network TEXT, delay_s REAL, payload TEXT""",
)
EVENT = _table(
    "event_row",
    "at_s REAL, episode INTEGER, step INTEGER, kind TEXT, subject TEXT, what TEXT, data TEXT",
)
TABLES: tuple[RowTable, ...] = (STEP, AGENT, DEVICE, TRADE, MESSAGE, EVENT)

_PLAIN = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE input_file (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, content BLOB NOT NULL)",
    """CREATE TABLE chain (table_name TEXT PRIMARY KEY, columns TEXT NOT NULL, rows INTEGER NOT NULL,
        head TEXT NOT NULL)""",
)

_TERMS = ("generation", "grid", "trades", "voltage", "loading", "soc")
_REWARDS = ", ".join(f"json_extract(reward_terms, '$.{term}') AS reward_{term}" for term in _TERMS)

VIEWS: dict[str, str] = {
    "steps": """SELECT id, episode, step, row, clock, price_per_mwh, begun_at_s, took_s, missed, diverged,
        json_extract(phases, '$.inform') AS inform_s, json_extract(phases, '$.plans') AS plans_s,
        json_extract(phases, '$.check') AS check_s, json_extract(phases, '$.actions') AS actions_s,
        json_extract(phases, '$.solve') AS solve_s FROM step_row""",
    "agents": f"""SELECT id, episode, step, agent, reward, {_REWARDS}, p_load_mw, q_load_mvar, net_mwh,
        vm_min_pu, vm_max_pu, loading_max_percent, missed, void_trades, fallback, observation, command
        FROM agent_row""",  # noqa: S608 - made of our own names
    "devices": """SELECT d.id, d.episode, d.step, s.clock, d.agent, d.device, d.p_mw, d.q_mvar, d.soc,
        d.p_available_mw, d.wanted_p_mw, d.wanted_q_mvar, d.bounded_p_mw, d.bounded_q_mvar, d.cleared_p_mw,
        d.cleared_q_mvar, d.sent_p_mw, d.sent_q_mvar, d.sent_at_s, d.lease_s, d.telemetry_p_mw,
        d.telemetry_q_mvar, d.telemetry_soc, d.telemetry_running, d.acknowledged, d.age_s, d.round_trip_s,
        d.health, d.authority, d.lease_owner, d.safe, d.safe_after_s, d.residual_mw, d.fallback, d.bound
        FROM device_row AS d LEFT JOIN step_row AS s ON s.episode = d.episode AND s.step = d.step""",
    "trades": """SELECT t.id, t.episode, t.step, s.clock, t.seller, t.buyer, t.mwh, t.price_per_mwh,
        t.mwh * t.price_per_mwh AS usd, t.void_reason IS NULL AS settled, t.reporter, t.void_reason
        FROM trade_row AS t LEFT JOIN step_row AS s ON s.episode = t.episode AND s.step = t.step""",
    "messages": """SELECT id, source, at_s, direction, channel, type, sender, boot, seq, episode, step,
        size_bytes, sent_at, retained, arrival, network, delay_s, payload FROM message_row""",
    "events": "SELECT id, at_s, episode, step, kind, subject, what, data FROM event_row",
}

_INDEXES = (
    "CREATE INDEX step_at ON step_row (episode, step)",
    "CREATE INDEX device_at ON device_row (agent, device, episode, step)",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables and views of a new record."""
    for statement in (*_PLAIN, *(table.create() for table in TABLES), *_INDEXES):
        connection.execute(statement)
    create_views(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def create_views(connection: sqlite3.Connection, *, temporary: bool = False) -> None:
    """Make the views; ``temporary`` ones hide those in the file, which stays as it is."""
    kind = "TEMP VIEW" if temporary else "VIEW"
    for name, select in VIEWS.items():
        connection.execute(f"CREATE {kind} {name} AS {select}")


Migration = Callable[[sqlite3.Connection], None]

MIGRATIONS: dict[int, Migration] = {}
"""By version, what makes the next one of it. Columns are added, never changed: what was hashed stays."""


def upgrade(
    connection: sqlite3.Connection, version: int, migrations: Mapping[int, Migration], target: int
) -> None:
    """Bring a record of an older version to a newer one, in one transaction; hashes stay as they are."""
    connection.execute("BEGIN")
    try:
        for name in VIEWS:
            connection.execute(f"DROP VIEW IF EXISTS {name}")
        for older in range(version, target):
            migrations[older](connection)
        create_views(connection)
        connection.execute(f"PRAGMA user_version = {target}")
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
