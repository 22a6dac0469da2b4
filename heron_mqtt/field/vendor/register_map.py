"""The registers of one device: what is read together, and what is written in which order.

Compiled from ``[registers]`` and ``[modbus]``; no I/O. Read values are cleaned like those of any payload
(``inputs``), written ones go the other way: (sign * value - offset) / scale, towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from heron_mqtt.errors import MessageError
from heron_mqtt.field.modbus.blocks import ReadBlock, RegisterSpan, read_blocks
from heron_mqtt.field.modbus.encoding import BCD_DIGITS, FLOATS, decode, encode, register_count
from heron_mqtt.field.modbus.registers import RegisterArea
from heron_mqtt.field.vendor.cleaning_keys import CleaningKeys, Scalar
from heron_mqtt.field.vendor.numbers import rounded
from heron_mqtt.field.vendor.parameters import PLACEHOLDER
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.register_tables import ModbusTable, RegisterTable, WriteFunction
from heron_mqtt.field.vendor.tables import InputKind, InputTable, TelemetryTable
from heron_mqtt.field.vendor.words import word_text

WRITABLE: frozenset[RegisterArea] = frozenset({"holding", "coil"})
LAST_ADDRESS = 65_535
MAX_WRITE = 123
"""Registers that one request can write."""


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """Neighbouring registers to write in one request.

    Attributes:
        names: What stands in them, for messages.
        area: "holding" or "coil".
        address: Of the first, from 0.
        words: 16 bits each; of a coil 0 or 1.
        single: By function 6, which some devices want; of a coil always by function 5.
    """

    names: tuple[str, ...]
    area: RegisterArea
    address: int
    words: tuple[int, ...]
    single: bool


@dataclass(frozen=True, slots=True)
class PollGroup:
    """Registers that are read equally often.

    Attributes:
        source: What the group is called where a topic would stand.
        period_s: How often, s.
        names: Of its registers.
    """

    source: str
    period_s: float
    names: tuple[str, ...]


class MappedRegister:
    """One value in registers.

    Args:
        name: Of the value.
        table: Where it stands, and how it is cleaned.
        modbus: What holds where the table leaves something open.
    """

    def __init__(self, name: str, table: RegisterTable, modbus: ModbusTable) -> None:
        self.name = name
        self.table = table
        self.span = RegisterSpan(
            name,
            table.area,
            table.address - modbus.first_address,
            register_count(table.holds, table.length or 1),
        )
        self._swap_words = modbus.swap_words if table.swap_words is None else table.swap_words
        self._swap_bytes = modbus.swap_bytes if table.swap_bytes is None else table.swap_bytes
        self._is_bit = table.holds == "bool"

    def value(self, words: Sequence[int]) -> Scalar | None:
        """Return what the registers hold, not cleaned yet; None = NaN, which means "not available"."""
        value = decode(words, self.table.holds, swap_words=self._swaps, swap_bytes=self._swap_bytes)
        return None if isinstance(value, float) and math.isnan(value) else value

    def words(self, value: Scalar) -> list[int]:
        """Return the registers that hold a value.

        Raises:
            MessageError: It does not fit.
        """
        try:
            return encode(
                self._raw(value),
                self.table.holds,
                length=self.table.length or 1,
                swap_words=self._swaps,
                swap_bytes=self._swap_bytes,
            )
        except ValueError as exc:
            raise MessageError(f"register {self.name}: {exc}") from None

    def shown(self, words: Sequence[int]) -> str:
        """Return the registers for people: as they are, and what they hold."""
        value = self.value(words)
        held = "NaN" if value is None else f"{value:.6g}" if isinstance(value, float) else repr(value)
        if self._is_bit:
            return held
        return f"{' '.join(f'{word:04x}' for word in words[:8])} = {held}"

    @property
    def step(self) -> float | None:
        """The number that one bit more of an integer stands for; None = it is none."""
        is_integer = self.table.holds not in FLOATS and self.table.holds not in {"string", "bool"}
        return abs(self.table.scale) if is_integer and self.table.words is None else None

    @property
    def _swaps(self) -> bool:
        return self._swap_words and self.table.holds != "string" and self.span.count > 1

    def _raw(self, value: Scalar) -> Scalar:
        table = self.table
        if isinstance(value, str) and table.words is not None:
            found = [word for word, meaning in table.words.items() if word_text(meaning) == value]
            if not found:
                known = ", ".join(word_text(meaning) for meaning in table.words.values())
                raise ValueError(f"{value!r} is not one of its words: {known}")
            value = _number(found[0])
            return value if table.holds in FLOATS else int(value)
        if isinstance(value, str) or table.holds in {"string", "bool"}:
            return word_text(value) if table.holds == "string" else value
        raw = (table.sign * float(value) - table.offset) / table.scale
        if table.holds in FLOATS or not math.isfinite(raw):
            return raw
        return int(rounded(raw, 0, toward_zero=True))


class RegisterMap:
    """All registers of one device.

    Args:
        registers: By name.
        modbus: How they are asked for.
        problems: Called with mistakes.
    """

    def __init__(
        self, registers: Mapping[str, RegisterTable], modbus: ModbusTable, problems: Problems
    ) -> None:
        self._modbus = modbus
        self.registers = {name: MappedRegister(name, table, modbus) for name, table in registers.items()}
        self._check_places(problems)

    # -- reading -----------------------------------------------------------------------------------

    def groups(self, names: Collection[str] | None = None) -> list[PollGroup]:
        """Return what is read equally often, the most frequent first; of some registers only, or of all."""
        found: dict[float, list[str]] = {}
        for name, register in self.registers.items():
            if names is None or name in names:
                found.setdefault(register.table.period_s or self._modbus.period_s, []).append(name)
        return [PollGroup(self._source(s), s, tuple(each)) for s, each in sorted(found.items())]

    def blocks(self, names: Iterable[str]) -> list[ReadBlock]:
        """Return the requests that read some registers."""
        table = self._modbus
        return read_blocks(
            [self.registers[name].span for name in names],
            max_gap=table.max_gap,
            max_registers=table.max_registers,
            boundaries=[b - table.first_address for b in table.boundaries],
        )

    def telemetry(self) -> list[TelemetryTable]:
        """Return the registers as what is read from payloads: each group is a topic, each register a path."""
        return [
            TelemetryTable.model_construct(
                topic=group.source,
                inputs={name: _as_input(self.registers[name]) for name in group.names},
                timestamp=self._modbus.timestamp,
                timestamp_tolerance_s=self._modbus.timestamp_tolerance_s,
                changed_by=self._modbus.changed_by,
            )
            for group in self.groups()
        ]

    def _source(self, period_s: float) -> str:
        return "registers" if period_s == self._modbus.period_s else f"registers/{period_s:g}s"

    # -- writing -----------------------------------------------------------------------------------

    def writes(
        self, values: Mapping[str, Scalar], function: WriteFunction | None
    ) -> tuple[RegisterWrite, ...]:
        """Return the requests that write values, in their order; neighbours that follow go in one.

        Raises:
            MessageError: A value does not fit its register.
        """
        single = (function or self._modbus.function) == "single"
        found: list[RegisterWrite] = []
        for names in self.requests(values, function):
            span = self.registers[names[0]].span
            words = tuple(word for name in names for word in self.registers[name].words(values[name]))
            found.append(RegisterWrite(names, span.area, span.address, words, single))
        return tuple(found)

    def requests(self, names: Iterable[str], function: WriteFunction | None) -> list[tuple[str, ...]]:
        """Return the registers of each request that writes some, in their order."""
        single = (function or self._modbus.function) == "single"
        most, boundaries = min(self._modbus.max_registers, MAX_WRITE), self._boundaries
        found: list[tuple[str, ...]] = []
        for name in names:
            span, last = self.registers[name].span, found[-1] if found else ()
            counts = [self.registers[each].span.count for each in last]
            first = self.registers[last[0]].span if last else span
            if (
                last
                and not single
                and first.area == span.area == "holding"
                and first.address + sum(counts) == span.address
                and sum(counts) + span.count <= most
                and span.address not in boundaries
            ):
                found[-1] = (*last, name)
            else:
                found.append((name,))
        return found

    def check_written(
        self,
        key: str,
        values: Mapping[str, Scalar],
        problems: Problems,
        function: WriteFunction | None = None,
    ) -> None:
        """Complain about registers of a message that are not there, or cannot be written so."""
        single = (function or self._modbus.function) == "single"
        for name, value in values.items():
            where = f"{key}.registers.{name}"
            register = self.registers.get(name)
            if register is None:
                problems.add(where, f"[registers] has no {name!r}; there are {', '.join(self.registers)}")
                continue
            if register.table.area not in WRITABLE:
                problems.add(
                    where, f"area {register.table.area!r} can only be read; expected holding or coil"
                )
            if single and register.table.area == "holding" and register.span.count > 1:
                problems.add(
                    where,
                    f"function 'single' writes the {register.span.count} registers of {register.table.holds} "
                    "one after the other, and in between the device has half of the old number and half of "
                    'the new one (65 kW on the way from 1 to -1 kW); give function = "multiple", or a type '
                    "of one register (int16, uint16) if the device supports nothing else",
                )
            if register.table.table is not None:
                problems.add(where, "a register with a table cannot be written: a table has no inverse")
            if isinstance(value, str) and PLACEHOLDER.search(value) is not None:
                is_whole = PLACEHOLDER.fullmatch(value) is not None
                if not is_whole and register.table.holds != "string" and register.table.words is None:
                    problems.add(where, f"{value!r}: a number is needed: no text may stand beside the value")
                continue
            if isinstance(value, str) and "{" in value:
                continue  # {now}, {counter:256}: known when it is sent
            try:
                register.words(value)
            except MessageError as exc:
                problems.add(where, str(exc).removeprefix(f"register {name}: "))

    @property
    def _boundaries(self) -> list[int]:
        """The addresses, from 0, that no request goes across."""
        return [b - self._modbus.first_address for b in self._modbus.boundaries]

    # -- mistakes ----------------------------------------------------------------------------------

    def _check_places(self, problems: Problems) -> None:
        most, boundaries = self._modbus.max_registers, self._boundaries
        for name, register in self.registers.items():
            span = register.span
            if span.address < 0 or span.end - 1 > LAST_ADDRESS:
                problems.add(
                    f"registers.{name}.address",
                    f"{register.table.address}: expected {self._modbus.first_address} (modbus.first_address) "
                    f"to {self._modbus.first_address + LAST_ADDRESS}",
                )
            if span.count > most:
                problems.add(
                    f"registers.{name}.length",
                    f"{span.count} registers; one request holds {most} at most (modbus.max_registers)",
                )
            across = [b for b in boundaries if span.address < b < span.end]
            if across:
                problems.add(
                    f"registers.{name}",
                    f"its {span.count} registers stand on both sides of boundary "
                    f"{across[0] + self._modbus.first_address} (modbus.boundaries); expected on one",
                )
        for first, second in _neighbours(self.registers.values()):
            if second.span.address < first.span.end:
                problems.add(
                    f"registers.{second.name}.address",
                    f"{second.table.address}: {first.table.area} register {second.table.address} belongs to "
                    f"{first.name} ({first.table.holds}, {first.span.count} registers from "
                    f"{first.table.address}) already; give one of them another address or type, or get "
                    "its parts by a formula",
                )
        for key in ("timestamp", "changed_by"):
            name = getattr(self._modbus, key)
            marker = None if name is None else self.registers.get(name)
            if name is None:
                continue
            if marker is None:
                problems.add(f"modbus.{key}", f"[registers] has no {name!r}")
            elif self.groups()[0].period_s != (marker.table.period_s or self._modbus.period_s):
                problems.add(
                    f"registers.{name}.period_s",
                    f"modbus.{key} names it: it must be read as often as the others",
                )


def _neighbours(registers: Iterable[MappedRegister]) -> Iterator[tuple[MappedRegister, MappedRegister]]:
    """Yield each register with the next one of its area."""
    ordered = sorted(registers, key=lambda r: (r.span.area, r.span.address))
    for first, second in pairwise(ordered):
        if first.span.area == second.span.area:
            yield first, second


def _as_input(register: MappedRegister) -> InputTable:
    table = register.table
    kinds: dict[str, InputKind] = {"string": "text", "bool": "boolean"}
    cleaning = {key: getattr(table, key) for key in CleaningKeys.model_fields}
    return InputTable.model_construct(
        path=register.name,
        type=kinds.get(table.holds, "number"),
        **{**cleaning, "absent": _both_signs(table)},
    )


def _both_signs(table: RegisterTable) -> list[Scalar]:
    """Return what means "not available", as the registers show it and as the number that they hold."""
    if table.holds in BCD_DIGITS:
        digits = BCD_DIGITS[table.holds]
        shown = [f"0x{a:0{digits}x}" for a in table.absent if isinstance(a, int) and not isinstance(a, bool)]
        return [*table.absent, *shown]
    if table.holds in FLOATS or table.holds in {"string", "bool"} or table.holds[0] == "u":
        return list(table.absent)
    turn = 1 << 16 * register_count(table.holds)
    return [
        a - turn if isinstance(a, int) and not isinstance(a, bool) and a >= turn >> 1 else a
        for a in table.absent
    ]


def _number(word: str) -> float:
    try:
        return float(int(word, 0))
    except ValueError:
        return float(word)
