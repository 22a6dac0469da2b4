"""The hash chains: nothing was changed, removed or put in between since it was written."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Set
from typing import NamedTuple

from heron_mqtt.errors import DataError
from heron_mqtt.record import chain, schema
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import versions_here
from heron_mqtt.record.run_part import RunPart
from heron_mqtt.record.schema import TABLES, RowTable
from heron_mqtt.record.verify.finding import Finding


def check_chains(record: RecordFile, head: str | None = None) -> Finding:
    """Recompute every hash.

    Args:
        record: The file.
        head: The hash that was printed or published when the run ended; the whole or its beginning.
    """
    found = Finding("hash chain of every table")
    files = _check_files(record, found)
    _check_layout(record, found)
    stated = record.heads()
    resumed = record.parts()[1:] if "merged" not in record.meta else []  # merging renumbers rows
    chains: dict[str, _Chain] = {}
    for table in TABLES:
        if table.name not in stated:
            found.check(False, f"table {table.name}: its chain is missing")
            continue
        marks = {part.rows.get(table.name, 0) for part in resumed}
        seed = chain.seed(record.meta, files, table.name)
        checked = _check_table(record, table, seed, stated[table.name], marks, found)
        if checked is not None:
            chains[table.name] = checked
    befores = []
    for part in resumed:
        rows_then = [(name, part.rows.get(name, 0)) for name in chains]
        before = chain.whole((name, n, chains[name].heads.get(n, "")) for name, n in rows_then)
        found.check(
            before == part.head,
            f"the head before step {part.first[1]} was resumed is {before}, not {part.head}",
        )
        befores.append((part, before))
        _check_resumption(record, part, found)
    whole = chain.whole((name, one.rows, one.head) for name, one in chains.items())
    if head is not None:
        said = head.lower()
        earlier = [part for part, before in befores if before.startswith(said)]
        if earlier and not whole.startswith(said):
            found.note = f"{head[:16]} was the head before step {earlier[0].first[1]} was resumed: it stands"
        else:
            found.check(whole.startswith(said), f"the head is {whole}, not {head}")
    elif not found.failed:
        found.note = f"head {whole[:16]}: compare it with what the run printed"
    return found


def _check_resumption(record: RecordFile, part: RunPart, found: Finding) -> None:
    """See that a run could continue where a part says that it did: a run that is finished is not resumed.

    Otherwise a record could be lengthened behind its end, and the head of that end would still hold.
    """
    at, done = part.first[1], part.rows.get("step_row", 0)
    found.check(at == done, f"it is said to be resumed in step {at}, and {done} steps were in it then")
    planned = record.options.get("steps")
    diverged = record.query("SELECT step FROM step_row WHERE id <= ? AND diverged IS NOT NULL", done)
    is_finished = bool(diverged) or (planned is not None and done >= planned)
    found.check(not is_finished, f"it is said to be resumed in step {at}, and its run had ended by then")


class _Chain(NamedTuple):
    """The chain of one table, computed from its rows.

    Attributes:
        rows: How many follow each other without a gap or a change.
        head: After these.
        heads: After as many rows as the table had before a part of the run, by that number.
    """

    rows: int
    head: str
    heads: dict[int, str]


def _check_table(
    record: RecordFile,
    table: RowTable,
    seed: bytes,
    stated: tuple[int, str],
    marks: Set[int],
    found: Finding,
) -> _Chain | None:
    """Recompute the chain of a table, to the first mistake; None if its columns are not those of the layout.

    Args:
        record: The file.
        table: Of it.
        seed: Where the chain begins.
        stated: Number of rows and head, as the file has them.
        marks: Numbers of rows after which the head is wanted.
        found: Takes what is wrong.
    """
    columns = _columns(record, table.name)
    due = table.names[: len(columns)]
    if tuple(columns) != due:  # no hash covers the names, and a column is read by its name
        found.check(False, f"table {table.name}: its chain names the columns {columns}, expected {list(due)}")
        return None
    n, value, heads = 0, seed, {0: seed.hex()}
    for row in record.each(f"SELECT id, {', '.join(columns)}, hash FROM {table.name} ORDER BY id"):  # noqa: S608
        n += 1
        if row[0] != n:
            found.check(False, f"table {table.name}: row {n} is gone, or row {row[0]} was put in")
            break
        value = chain.link(value, tuple(row)[:-1])
        if not found.check(value == row[-1], f"table {table.name}: row {n} is not what was written"):
            break
        if n in marks:
            heads[n] = value.hex()
    else:
        rows, _ = stated
        if n < rows:
            found.check(False, f"table {table.name}: ends with row {n}, {rows} rows were written")
        else:
            found.check((n, value.hex()) == stated, f"table {table.name}: {n - rows} rows were added behind")
    return _Chain(n, value.hex(), heads)


def _columns(record: RecordFile, table: str) -> list[str]:
    """Return the columns that a table's rows were hashed with; newer ones stand behind them."""
    (row,) = record.query("SELECT columns FROM chain WHERE table_name = ?", table)
    return list(map(str, json.loads(row["columns"])))


def _check_layout(record: RecordFile, found: Finding) -> None:
    """Look whether views and indexes still show every row: people read by these, and no chain covers them."""
    for row in record.query("PRAGMA integrity_check"):
        found.check(row[0] == "ok", f"the file is damaged: {row[0]}")
    made = sqlite3.connect(":memory:")
    try:
        schema.create(made)
        due = {
            name: (kind, sql)
            for kind, name, sql in made.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        }
    finally:
        made.close()
    there = {
        row["name"]: (row["type"], row["sql"])
        for row in record.query("SELECT type, name, sql FROM sqlite_master")
    }
    is_of_this_version = json.loads(record.meta.get("versions", "{}")) == versions_here()
    for name, (kind, sql) in due.items() if is_of_this_version else ():
        if kind in {"view", "index"}:
            is_ours = there.get(name) == (kind, sql)
            found.check(is_ours, f"{kind} {name} is not the one that was written: it may show something else")
    for name, (kind, _) in there.items():
        if name not in due and (kind == "trigger" or is_of_this_version):
            found.check(False, f"{kind} {name} was put in")


def _check_files(record: RecordFile, found: Finding) -> dict[str, str]:
    """Compare the input files with their digests; return the digests."""
    stated = {row["name"]: row["sha256"] for row in record.query("SELECT name, sha256 FROM input_file")}
    try:
        inputs = record.inputs()
    except DataError as exc:
        found.check(False, str(exc))
        return stated
    for name, data in inputs.items():
        digest = hashlib.sha256(data).hexdigest()
        found.check(digest == stated[name], f"input file {name} is not what the run began with")
    return stated
