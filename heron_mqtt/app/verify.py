"""``heron-mqtt verify``: every invariant of a record, recomputed from the record alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from heron_mqtt.app.verify_devices import check_devices
from heron_mqtt.app.verify_files import check_files
from heron_mqtt.app.verify_grid import check_balance
from heron_mqtt.errors import HeronError
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.beginning import check_beginning, has_steps
from heron_mqtt.record.verify.chains import check_chains
from heron_mqtt.record.verify.finding import Finding
from heron_mqtt.record.verify.leases import check_authority, check_leases
from heron_mqtt.record.verify.links import check_links
from heron_mqtt.record.verify.rows import check_rows
from heron_mqtt.record.verify.setpoints import check_setpoints_sent
from heron_mqtt.record.verify.trades import check_trades

RecordCheck = Callable[[RecordFile], Finding | Sequence[Finding]]

PHYSICS: tuple[tuple[str, RecordCheck], ...] = (
    ("energy balance", check_balance),
    ("setpoints and twins", check_devices),
)
RECORDED: tuple[tuple[str, RecordCheck], ...] = (
    ("files of the scenario", check_files),
    ("setpoints in rows as in messages", check_setpoints_sent),
    ("authority", check_authority),
    ("leases", check_leases),
    ("trades", check_trades),
    ("messages", check_links),
)


def verify(path: str | Path, head: str | None = None) -> list[Finding]:
    """Check a record.

    Args:
        path: The file.
        head: The hash that the run printed or published, or its beginning.

    Returns:
        One finding an invariant; one whose data cannot even be read has failed.

    Raises:
        DataError: It is not a record.
    """
    with RecordFile(path) as record:
        found = _run("hash chain of every table", partial(check_chains, head=head), record)
        found += _run("the beginning of the run is told", check_beginning, record)
        found += _run("no row is missing", partial(check_rows, head=head), record)
        checks = (*PHYSICS, *RECORDED) if has_steps(record) else RECORDED
        for name, check in checks:
            found += _run(name, check, record)
        return found


def _run(name: str, check: RecordCheck, record: RecordFile) -> list[Finding]:
    try:
        result = check(record)
    except (HeronError, KeyError, TypeError, ValueError) as exc:  # it reads otherwise than it was written
        broken = Finding(name)
        broken.check(False, f"cannot be checked: {type(exc).__name__}: {exc}")
        return [broken]
    return [result] if isinstance(result, Finding) else list(result)
