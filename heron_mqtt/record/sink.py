"""RecordSink: where rows go, to be written by a thread or by a separate process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from heron_mqtt.record.schema import RowTable

Row = tuple[Any, ...]


@dataclass(slots=True)
class Losses:
    """Rows that are not in the file, by reason."""

    queue_full: int = 0
    disk: int = 0
    size: int = 0
    malformed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.queue_full + self.disk + self.size + self.malformed


class RecordSink(Protocol):
    """Takes rows and messages; its methods never wait and never raise, but for ``close``, which waits."""

    path: Path
    losses: Losses

    def add(self, table: RowTable, row: Row) -> None:
        """Take a row: the columns of the table, without id and hash."""

    def add_together(self, rows: Sequence[tuple[RowTable, Row]]) -> None:
        """Take rows of which the file has all or none, whenever the writing ends."""

    def sent(
        self, at_s: float, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> None:
        """Take a message that was published here."""

    def received(
        self,
        at_s: float,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: str,
    ) -> None:
        """Take a message that has arrived."""

    def crossed(
        self, at_s: float, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message."""

    @property
    def lost_before(self) -> int:
        """Rows that were lost before they reached the writer of the file, which tells of its own."""

    @property
    def rows(self) -> dict[str, int]:
        """Rows written, by table; final after ``close``."""

    @property
    def head(self) -> str:
        """One hash (hex) over all that was written; final after ``close``."""

    def close(self, within_s: float = 5.0) -> None:
        """Write what waits, and make one file of it. Idempotent."""
