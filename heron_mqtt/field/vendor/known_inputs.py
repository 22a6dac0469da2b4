"""The named inputs of one vendor's device: what each was last, how old that is, and why it is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.counter_rate import CounterRate
from heron_mqtt.field.vendor.inputs import InputValue, MissingValue
from heron_mqtt.field.vendor.payloads import sample
from heron_mqtt.field.vendor.telemetry import ReadResult, TelemetryReader
from heron_mqtt.messaging.stamping import utc_text


@dataclass(slots=True)
class KnownInput:
    """What is known of one input.

    Attributes:
        value: Its last value; None = not known.
        at: When that came, s; -inf if its age is not known.
        payloads: How many have come for it.
        sample: The beginning of the last of them.
        why: Why it is not known, or not new.
        topics: Where it comes from.
    """

    value: InputValue | None = None
    at: float = -math.inf
    payloads: int = 0
    sample: str = ""
    why: str = "nothing has come"
    topics: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether it has a value."""
        return self.value is not None


@dataclass(frozen=True, slots=True)
class InputNews:
    """What one payload changed.

    Attributes:
        new: The inputs that have a value of now.
        cleared: Those that have none any more.
        problems: What could not be made of a value, one line each, with the topic.
        is_old: Its values are not of now: they count only where there is nothing newer.
    """

    new: frozenset[str] = frozenset()
    cleared: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    is_old: bool = False


class KnownInputs:
    """All inputs that some readers fill, by name.

    Args:
        readers: Of telemetry.
        utc_s: The time of day, s since 1970, to which timestamps in payloads are compared.
    """

    def __init__(self, readers: Iterable[TelemetryReader], utc_s: Callable[[], float]) -> None:
        self._utc_s = utc_s
        self._inputs: dict[str, KnownInput] = {}
        self._rates: dict[str, CounterRate] = {}
        self._marks: dict[int, InputValue] = {}
        changing: set[str] = set()
        for reader in readers:
            for name, each in reader.inputs.items():
                known = self._inputs.setdefault(name, KnownInput())
                known.topics = tuple(dict.fromkeys((*known.topics, *reader.table.topics)))
                if each.rate is not None:
                    self._rates[name] = CounterRate(each.rate.per, each.rate.over_s, each.direction)
                if each.on_change:
                    changing.add(name)
        self.on_change = frozenset(changing)
        """Those that are reported only when they change."""

    def __getitem__(self, name: str) -> KnownInput:
        """Return what is known of one."""
        return self._inputs[name]

    def items(self) -> ItemsView[str, KnownInput]:
        """Return all of them, by name."""
        return self._inputs.items()

    def values(self) -> dict[str, InputValue]:
        """Return those that are known, by name."""
        return {name: known.value for name, known in self._inputs.items() if known.value is not None}

    def forget_changes(self, why: str) -> None:
        """Forget what is reported only when it changes: a report may have been missed, for this reason."""
        for name in self.on_change:
            known = self._inputs[name]
            known.value, known.at, known.why = None, -math.inf, why

    def note_unreadable(self, reader: TelemetryReader, payload: bytes, why: str) -> None:
        """Note a payload that cannot be read, and why."""
        for name in reader.inputs:
            known = self._inputs[name]
            known.payloads += 1
            known.sample = sample(payload)
            known.why = why

    def note_declined(self, reader: TelemetryReader, payload: bytes, why: str) -> None:
        """Note a payload that is not for a table: the reason where none has been for it yet."""
        for name in reader.inputs:
            known = self._inputs[name]
            if not known.is_known:
                known.payloads += 1
                known.sample = sample(payload)
                known.why = why

    def take(
        self,
        reader: TelemetryReader,
        topic: str,
        found: ReadResult,
        shown: str | Mapping[str, str],
        now_s: float,
        *,
        retained: bool,
    ) -> InputNews:
        """Take in what was read of one payload.

        Args:
            reader: That has read it.
            topic: Where it came, for problems.
            found: The values in it.
            shown: How it looks, or each of its registers by name.
            now_s: When it came.
            retained: The broker had kept it.
        """
        self._note_payload(reader, found, shown)
        self._take_marks(reader, found, now_s, retained)
        old = self._why_old(reader, found, retained)
        if old is not None:
            self._keep_as_old(reader, found, old)
            return InputNews(is_old=True)
        new: set[str] = set()
        cleared: set[str] = set()
        problems: list[str] = []
        stamp = None if reader.table.timestamp is None else self._inputs[reader.table.timestamp].value
        for name, given in found.values.items():
            known = self._inputs[name]
            value = self._as_rate(name, given, stamp if isinstance(stamp, float) else now_s, topic, problems)
            if isinstance(value, MissingValue):
                if not value.keeps:
                    known.value, known.at = None, -math.inf
                    cleared.add(name)
            else:
                known.value, known.at, known.why = value, now_s, ""
                new.add(name)
        return InputNews(frozenset(new), frozenset(cleared), tuple(problems))

    def _as_rate(
        self, name: str, value: InputValue | MissingValue, at_s: float, topic: str, problems: list[str]
    ) -> InputValue | MissingValue:
        """Return how fast a counter rises in place of where it stands; other values as they are."""
        counter = self._rates.get(name)
        if counter is None or not isinstance(value, float):
            return value
        why = "a counter: its rate is known after a second reading"
        try:
            rate = counter.add(value, at_s)
        except MessageError as exc:
            why = str(exc)
            problems.append(f"{topic}: {name}: {why}")
            rate = None
        if rate is not None:
            return rate
        if not self._inputs[name].is_known:
            self._inputs[name].why = why
        return MissingValue(keeps=True, why=why)

    def _note_payload(
        self, reader: TelemetryReader, found: ReadResult, shown: str | Mapping[str, str]
    ) -> None:
        for name in reader.inputs:
            known = self._inputs[name]
            if not isinstance(shown, str) and name not in shown:
                continue  # of this register nothing came
            known.payloads += 1
            known.sample = shown if isinstance(shown, str) else shown[name]
            value = found.values.get(name)
            if isinstance(value, MissingValue):
                known.why = value.why
            elif name in found.problems:
                known.why = found.problems[name]

    def _take_marks(self, reader: TelemetryReader, found: ReadResult, now_s: float, retained: bool) -> None:
        """Take in counters and times first: they say whether the rest is new."""
        for name in (reader.table.timestamp, reader.table.changed_by):
            value = None if name is None else found.values.get(name)
            if name is not None and value is not None and not isinstance(value, MissingValue):
                known = self._inputs[name]
                known.value, known.why = value, ""
                known.at = known.at if retained else now_s

    def _why_old(self, reader: TelemetryReader, found: ReadResult, retained: bool) -> str | None:
        """Return why the values of a payload are not of now; None if they are."""
        if retained:
            return "only a retained value has come: how old it is is not known"
        table = reader.table
        if table.timestamp is not None:
            stamp = self._inputs[table.timestamp].value
            if not isinstance(stamp, float):
                return f"the time of the measurement ({table.timestamp}) is not known"
            off_s = self._utc_s() - stamp
            if abs(off_s) > table.timestamp_tolerance_s:
                side = "old" if off_s > 0 else "ahead of our clock"
                return f"its {table.timestamp} says {_shown_time(stamp)}: {abs(off_s):.0f} s {side}"
        if table.changed_by is not None:
            mark = self._inputs[table.changed_by].value
            if mark is None:
                return f"{table.changed_by} is not known"
            before = self._marks.get(id(reader))
            self._marks[id(reader)] = mark
            if before is None or before == mark:
                return f"{table.changed_by} has not changed" + (" yet" if before is None else f": {mark}")
        return None

    def _keep_as_old(self, reader: TelemetryReader, found: ReadResult, why: str) -> None:
        marks = {reader.table.timestamp, reader.table.changed_by}
        for name, value in found.values.items():
            known = self._inputs[name]
            if name in marks:
                continue
            if not known.is_known and not isinstance(value, MissingValue) and name not in self._rates:
                known.value = value
            if known.at == -math.inf or not why.startswith("only a retained"):
                known.why = why


def _shown_time(stamp: float) -> str:
    try:
        return utc_text(datetime.fromtimestamp(stamp, UTC), "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{stamp:g}"
