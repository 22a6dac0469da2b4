"""A setpoint in the vendor's terms: values, words, payloads, messages."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_json

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.built_ins import BUILT_INS, BuiltIns
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.formula import Formula
from heron_mqtt.field.vendor.numbers import as_digits, as_number, interpolated, rounded
from heron_mqtt.field.vendor.parameters import PLACEHOLDER, as_text, placeholders
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.register_map import RegisterMap, RegisterWrite
from heron_mqtt.field.vendor.sparkplug_payload import encode, require
from heron_mqtt.field.vendor.tables import MessageTable, Payload, SetpointTable, ValueTable
from heron_mqtt.field.vendor.units import Complain, per_si
from heron_mqtt.messages import Setpoint

QUANTITIES = ("p_mw", "q_mvar", "lease_s", "seq")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a device, ready to publish.

    Attributes:
        topic: The whole topic, not one of our channels.
        payload: As it goes out.
        qos: 0, 1 or 2.
        retain: Whether the broker keeps it.
        pause_s: How long to wait before it, s.
        meaning: What it tells the device, without what differs in every message (its number, the time, the
            lease): two messages of one meaning set the same.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class RegisterCommand:
    """Registers of a device to write, ready to be sent.

    Attributes:
        writes: The requests, in their order; one that is refused ends it.
        read_back: Read the registers afterwards, and take other words for a refusal.
        releases: It hands the device back: what a setpoint has written must not stand there afterwards.
        pause_s: As with ``Outgoing``.
        meaning: As with ``Outgoing``.
    """

    writes: tuple[RegisterWrite, ...]
    read_back: bool = False
    releases: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)


Command = Outgoing | RegisterCommand

ZERO: Final = Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0)
"""What a stop sets."""


class NotExpressible(MessageError):
    """A mapping has no message for what is to be sent, or one that means something else."""


@dataclass(frozen=True, slots=True)
class RenderedValue:
    """One value of a setpoint: as it stands in JSON, and as text."""

    json: Scalar
    text: str


class SetpointValue:
    """How one quantity of a setpoint, or a formula, becomes the vendor's number or word."""

    def __init__(self, table: ValueTable, units_per_si: float, formula: Formula | None) -> None:
        self.table = table
        self.formula = formula
        self._per_si = units_per_si
        self.packed = placeholders([table.pack])
        """The values that it packs."""
        self._decimals = 0 if table.quantity == "seq" else table.decimals

    @property
    def is_fleeting(self) -> bool:
        """Whether it differs in every message without meaning anything else."""
        return self.table.quantity in {"seq", "lease_s", "uid"}

    def render(self, setpoint: Setpoint, known: Mapping[str, Any]) -> RenderedValue:
        """Return the value.

        Args:
            setpoint: What it is a value of.
            known: What a formula may use: values before this one, inputs, quantities of the setpoint.

        Raises:
            MessageError: It is not finite, or its formula has none.
        """
        table = self.table
        if self.formula is None:
            raw: Any = float(getattr(setpoint, str(table.quantity)) or 0.0)  # a safe state has no seq
        else:
            raw = self.formula.evaluate(known)
            if isinstance(raw, str | bool):
                return RenderedValue(raw, as_text(raw))
        number = self.number(raw)
        if table.words is None:
            return RenderedValue(as_number(number, self._decimals), self._digits(number))
        word = [w.word for w in table.words if w.from_ is None or number >= w.from_][-1]
        return RenderedValue(word, as_text(word))

    def packed_text(self, values: Mapping[str, RenderedValue], built_ins: BuiltIns) -> RenderedValue:
        """Return the packed bytes as a text.

        Raises:
            MessageError: A value cannot be packed.
        """
        table = self.table
        assert table.pack is not None  # of any other kind ``render`` is asked
        data = payload_bytes(table.pack, values, built_ins, table.struct)
        text = data.hex() if table.bytes == "hex" else base64.b64encode(data).decode()
        return RenderedValue(text, text)

    def beyond(self, raw: float) -> str | None:
        """Return which of ``min`` and ``max`` turns ``raw`` into something else than was meant, and how."""
        table, value = self.table, self._scaled(raw)
        if table.max is not None and value > max(table.max, 0.0):
            return f"{value:g} is above max = {table.max:g}"
        if table.min is not None and value < min(table.min, 0.0):
            return f"{value:g} is below min = {table.min:g}"
        if table.min is not None and 0.0 < value < table.min:
            return f"{value:g} would be raised to min = {table.min:g}"
        return None

    def is_for_other_sign(self, raw: float) -> bool:
        """Whether ``min`` or ``max`` makes 0 of a number of the other sign: charging beside discharging."""
        table, value = self.table, self._scaled(raw)
        return (table.min == 0.0 and value < 0.0) or (table.max == 0.0 and value > 0.0)

    def bounded_powers(self, raw: float) -> list[float]:
        """Return the powers, MW, that ``min``, ``max`` or ``table`` make of one that they take across 0.

        They make something else than 0 of 0, or a power of the other sign; empty: they do not. A power that
        they only raise or lower stays one of its sign.
        """
        table, at_rest = self.table, self._unscaled(0.0)
        meant = self._meant(raw)
        low, high = self.table.min, self.table.max
        if table.table is not None:
            points = table.table
            low = points[0][0] if meant < points[0][0] else None
            high = points[-1][0] if meant > points[-1][0] else None
        bounded = meant if low is None else max(meant, low)
        bounded = bounded if high is None else min(bounded, high)
        side, was = bounded - at_rest, meant - at_rest
        if bounded == meant or side == 0.0 or side * was > 0.0:
            return []
        p_mw = side / table.scale / self._per_si
        return [p_mw, -p_mw] if table.absolute else [table.sign * p_mw]

    def _unscaled(self, raw: float) -> float:
        """Return the number of a power before ``table``, ``min`` and ``max``."""
        value = self.table.sign * raw * self._per_si
        return (abs(value) if self.table.absolute else value) * self.table.scale + self.table.offset

    def _meant(self, raw: float) -> float:
        value = self._unscaled(raw)
        if self.table.decimals is not None and self.table.table is None:
            return rounded(value, self.table.decimals, toward_zero=self.table.rounding == "toward_zero")
        return value

    def _scaled(self, raw: float) -> float:
        table = self.table
        value = self._unscaled(raw)
        if not math.isfinite(value):
            what = table.quantity or "a value"
            raise MessageError(f"setpoint: {what} = {raw!r} is not a finite number; it is not sent")
        if table.table is not None:
            value = interpolated(value, table.table)
        return value

    def number(self, raw: float) -> float:
        """Return the vendor's number of a quantity, rounded and within ``min`` and ``max``."""
        table, value = self.table, self._scaled(raw)
        if self._decimals is not None:
            value = rounded(value, self._decimals, toward_zero=table.rounding == "toward_zero")
        if table.min is not None:
            value = max(value, table.min)
        if table.max is not None:
            value = min(value, table.max)
        if table.wrap is not None:
            half = 1 << (table.wrap - 1)
            value = min(max(value, -half), half - 1)
            value += (1 << table.wrap) if value < 0 else 0
        return value

    def _digits(self, number: float) -> str:
        text = as_digits(number, self._decimals).replace(".", self.table.decimal)
        return text.zfill(self.table.width)


@dataclass(frozen=True, slots=True)
class MessageContext:
    """What messages may hold besides the setpoint.

    Attributes:
        built_ins: Time, counter and identifiers.
        inputs: Named inputs of the device that are known.
        learned: Parameters that were learned from topics.
    """

    built_ins: BuiltIns
    inputs: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, str] = field(default_factory=dict)


class SetpointWriter:
    """Turns setpoints into messages; compiled from ``[setpoint]``."""

    def __init__(
        self,
        table: SetpointTable,
        inputs: tuple[str, ...],
        problems: Problems,
        registers: RegisterMap | None = None,
    ) -> None:
        self.table = table
        self.registers = registers
        self._values: dict[str, SetpointValue] = {}
        for name, value in table.values.items():
            complain = problems.at(f"setpoint.values.{name}")
            formula = None
            if value.formula is not None:
                known = [n for n in (*QUANTITIES, *inputs) if n not in self._values]
                formula = Formula(value.formula, [*self._values, *known], complain)
                scale = 1.0
                for key in ("unit", "nominal_v", "phases", "rated_mw"):
                    if getattr(value, key) is not None:
                        complain(key, "not with a formula: its result is sent as it is")
            elif value.pack is not None:
                scale = 1.0
                for unknown in sorted(placeholders([value.pack]) - self._values.keys()):
                    complain("pack", f"no value above it is called {unknown}")
                if any(isinstance(v, str) and BUILT_INS.search(v) for v in value.pack):
                    complain("pack", "time and counter belong to a message; a value of quantity seq counts")
            else:
                scale = per_si(str(value.quantity), value, complain)
            self._values[name] = SetpointValue(value, scale, formula)
        self._release = table.release if isinstance(table.release, list) else []
        self._messages = [
            _Message(i, m, self, problems, f"setpoint.messages[{i}]") for i, m in enumerate(table.messages)
        ]
        self._releases = [
            _Message(i, m, self, problems, f"setpoint.release[{i}]") for i, m in enumerate(self._release)
        ]
        self._check_use(problems)
        if not problems:
            self._check_zero(problems)

    def _check_zero(self, problems: Problems) -> None:
        """Refuse a mapping that cannot say 0, or that does not always hand the device back.

        What depends on inputs of the device or on learned levels is found when it is sent.
        """
        context = MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))
        writes: dict[str, Callable[[], object]] = {"messages": lambda: self.encode(ZERO, context)}
        if self._releases:
            writes["release"] = lambda: self.release(context)
        for key, write in writes.items():
            try:
                write()
            except NotExpressible as exc:
                problems.add(f"setpoint.{key}", str(exc))
            except MessageError:
                pass

    def _check_use(self, problems: Problems) -> None:
        used = {name for m in self._messages for name in m.names}
        used |= {a.id.of for a in self.table.answers if a.id is not None and a.id.of is not None}
        used |= {name for a in self.table.answers for name in placeholders(a.topic)}
        waiting = [name for name in used if name in self._values]
        quantities: set[str] = set()
        while waiting:
            value = self._values[waiting.pop()]
            if value.table.quantity is not None:
                quantities.add(value.table.quantity)
                continue
            made_of = value.packed if value.formula is None else set(value.formula.names)
            quantities.update(made_of & set(QUANTITIES))
            more = (made_of & self._values.keys()) - used
            used |= more
            waiting += more
        for name in self._values.keys() - used:
            problems.add(f"setpoint.values.{name}", "no payload and no 'when' uses it")
        self.quantities = frozenset(quantities)
        if "p_mw" not in quantities:
            problems.add("setpoint", "no message carries p_mw")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(self._values)

    def lasting(self, names: Iterable[str]) -> list[str]:
        """Return the values by which two messages differ in what they mean; of packed bytes those in them."""
        every = {name: self._values[name] for name in self.packed(names)}
        return sorted(n for n, value in every.items() if value.table.pack is None and not value.is_fleeting)

    def packed(self, names: Iterable[str]) -> frozenset[str]:
        """Return these values, and those that are packed in them."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            found.add(name)
            waiting += self._values[name].packed & self._values.keys()
        return frozenset(found)

    @property
    def formula_names(self) -> frozenset[str]:
        """All that formulas of values use: inputs, quantities, other values."""
        formulas = [v.formula for v in self._values.values() if v.formula is not None]
        return frozenset(name for formula in formulas for name in formula.names)

    @property
    def has_release(self) -> bool:
        """Whether there are messages that hand the device back."""
        return bool(self._releases)

    def value(self, name: str) -> SetpointValue | None:
        """Return how a value is made; None if there is none of that name."""
        return self._values.get(name)

    def power_numbers(self, p_mw: float) -> dict[str, float]:
        """Return what each value that is a power alone comes to, in the device's own units."""
        return {
            name: value.number(p_mw)
            for name, value in self._values.items()
            if value.formula is None and value.table.quantity == "p_mw" and value.table.words is None
        }

    @property
    def bounds_power(self) -> bool:
        """Whether ``min`` and ``max`` bound every number that is a power alone; true where there is none."""
        powers = [v.table for v in self._values.values() if v.formula is None and v.table.quantity == "p_mw"]
        return all(
            t.words is not None or (t.max is not None and (t.min is not None or t.absolute)) for t in powers
        )

    def beyond(self, setpoint: Setpoint) -> list[str]:
        """Return the limits of the mapping that a power is beyond, one line each.

        Where charging and discharging are two numbers, that of the other sign is 0 and none of that, unless
        no number is left for this one.
        """
        p_mw = setpoint.p_mw
        values = {
            name: value
            for name, value in self._values.items()
            if value.formula is None and value.table.quantity == "p_mw"
        }
        carries = {name: value for name, value in values.items() if not value.is_for_other_sign(p_mw)}
        found = {name: value.beyond(p_mw) for name, value in (carries or values).items()}
        return [f"setpoint.values.{name}: {why}" for name, why in found.items() if why is not None]

    def render(self, setpoint: Setpoint, context: MessageContext) -> dict[str, RenderedValue]:
        """Return every value of a setpoint.

        Raises:
            MessageError: One is not finite, or its formula has none.
        """
        # p_mw is what is wanted, also where the device's own p_mw is a field of its telemetry.
        known: dict[str, Any] = dict(context.inputs)
        known |= {name: float(getattr(setpoint, name) or 0.0) for name in QUANTITIES}
        values: dict[str, RenderedValue] = {}
        for name, value in self._values.items():
            lacking = [] if value.formula is None else [n for n in value.formula.names if n not in known]
            if lacking:
                raise MessageError(f"setpoint.values.{name}: {lacking[0]} of the device is not known yet")
            try:
                if value.table.quantity == "uid":
                    uid = context.built_ins.new_uid()
                    values[name] = RenderedValue(uid, uid)
                elif value.table.pack is not None:
                    values[name] = value.packed_text(values, context.built_ins)
                else:
                    values[name] = value.render(setpoint, known)
            except MessageError as exc:
                raise MessageError(f"setpoint.values.{name}: {exc}") from None
            known[name] = values[name].json
        return values

    def encode(
        self, setpoint: Setpoint, context: MessageContext
    ) -> tuple[list[Command], dict[str, RenderedValue]]:
        """Return the messages that carry a setpoint, in the order in which to send them, and its values.

        Raises:
            NotExpressible: No message applies, or what is sent would mean a power on the other side of 0.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        values = self.render(setpoint, context)
        applying = [m for m in self._messages if m.applies(values, setpoint)]
        if not applying:
            raise NotExpressible(
                f"no message is sent for {setpoint.p_mw:g} MW: the 'when' of each leaves it out"
            )
        self._check_bounds(applying, values, setpoint, context)
        return [m.write(values, context) for m in applying], values

    def _check_bounds(
        self,
        applying: list[_Message],
        values: Mapping[str, RenderedValue],
        setpoint: Setpoint,
        context: MessageContext,
    ) -> None:
        """Refuse what would tell the device the same as another power that it must not be taken for."""
        sent = {name for m in applying for name in m.sent}
        for name in sent:
            value = self._values[name]
            if value.table.quantity != "p_mw" or value.table.words is not None:
                continue
            for p_mw in value.bounded_powers(setpoint.p_mw):
                other = setpoint.model_copy(update={"p_mw": p_mw})
                theirs = self.render(other, context)
                if [m.meaning(values) for m in applying] == [
                    m.meaning(theirs) for m in self._messages if m.applies(theirs, other)
                ]:
                    raise NotExpressible(
                        f"{setpoint.p_mw:g} MW cannot be sent: setpoint.values.{name} makes of it what it "
                        f"makes of {p_mw:g} MW; let its min, max and table have 0, or send another message"
                    )

    def release(self, context: MessageContext) -> list[Command]:
        """Return the messages that hand the device back.

        Raises:
            NotExpressible: None applies.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        values = self.render(ZERO, context) if any(m.names for m in self._releases) else {}
        applying = [m for m in self._releases if m.applies(values, ZERO)]
        if not applying:
            raise NotExpressible("no message hands the device back: the 'when' of each leaves it out")
        return [m.write(values, context) for m in applying]


class _Message:
    """One message of a setpoint or release."""

    def __init__(
        self, index: int, table: MessageTable, writer: SetpointWriter, problems: Problems, key: str
    ) -> None:
        complain = problems.at(key)
        self._index = index
        self._table = table
        self._registers = writer.registers
        if (table.registers is None) != (self._registers is None):
            wanted = "registers" if table.registers is None else "topic and payload"
            problems.add(key, f"the device is on {'Modbus' if self._registers else 'MQTT'}: give {wanted}")
        elif table.registers is not None and self._registers is not None:
            self._registers.check_written(key, table.registers, problems)
        if table.metrics is not None:
            try:
                require()
            except ConfigError as exc:
                complain("metrics", exc.problems[0])
        self._formula: Formula | None = None
        self._when: dict[str, list[Scalar]] = {}
        if isinstance(table.when, str):
            self._formula = Formula(table.when, [*writer.names, *QUANTITIES], complain, key="when")
        elif table.when is not None:
            self._when = table.when
            _check_when(table.when, writer, complain)
        in_it = placeholders([table.topic, table.payload, table.registers])
        self.names = {
            n
            for n in (*in_it, *self._when, *(self._formula.names if self._formula else ()))
            if n in writer.names
        }
        self.sent = writer.packed(n for n in in_it if n in writer.names)
        """The values that stand in it, or are packed in one that does."""
        self._lasting = writer.lasting(self.names)

    def applies(self, values: Mapping[str, RenderedValue], setpoint: Setpoint) -> bool:
        """Whether it is to be sent."""
        if self._formula is not None:
            known = {n: float(getattr(setpoint, n) or 0.0) for n in QUANTITIES}
            return bool(self._formula.evaluate({**known, **{n: v.json for n, v in values.items()}}))
        return all(_among(values[name].json, words) for name, words in self._when.items())

    def meaning(self, values: Mapping[str, RenderedValue]) -> tuple[Any, ...]:
        """Return what it tells the device: two of one meaning set the same."""
        return (self._index, *(values[n].json for n in self._lasting))

    def write(self, values: Mapping[str, RenderedValue], context: MessageContext) -> Command:
        """Return it, ready to send."""
        table = self._table
        context.built_ins.begin_message()
        every = {**{n: RenderedValue(t, t) for n, t in context.learned.items()}, **values}
        meaning = self.meaning(values)
        if table.registers is not None and self._registers is not None:
            filled = filled_registers(table.registers, every, context.built_ins)
            writes = self._registers.writes(filled, table.function)
            return RegisterCommand(writes, table.read_back, pause_s=table.pause_s, meaning=meaning)
        assert table.topic is not None  # the table says so
        assert table.payload is not None
        topic = filled_text(table.topic, every, context.built_ins)
        missing = PLACEHOLDER.search(topic)
        if missing is not None:
            raise MessageError(
                f"{{{missing[1]}}} is not known yet: no message was received on a topic with it"
            )
        if table.metrics is not None:
            known = _in_json(table.payload, every, context.built_ins)
            now_ms = int(context.built_ins.value("now", "unix_ms"))
            payload = encode(known, table.metrics, now_ms)
        else:
            payload = payload_bytes(table.payload, every, context.built_ins, table.struct)
        return Outgoing(topic, payload, table.qos, table.retain, table.pause_s, meaning)


def payload_bytes(
    payload: Payload, values: Mapping[str, RenderedValue], built_ins: BuiltIns, packing: str | None = None
) -> bytes:
    """Return a payload with its values filled in: a text as it is, a table or array as JSON, or packed.

    Raises:
        MessageError: A value cannot be packed.
    """
    if isinstance(payload, str):
        return filled_text(payload, values, built_ins).encode()
    document = _in_json(payload, values, built_ins)
    if packing is None:
        return to_json(document)
    try:
        return struct.pack(packing, *(v.encode() if isinstance(v, str) else v for v in document))
    except (struct.error, OverflowError) as exc:
        raise MessageError(f"{document!r} cannot be packed as {packing}: {exc}") from None


def filled_registers(
    registers: Mapping[str, Scalar], values: Mapping[str, RenderedValue], built_ins: BuiltIns
) -> dict[str, Scalar]:
    """Return what to write with its values filled in."""
    return {name: _in_json(value, values, built_ins) for name, value in registers.items()}


def filled_text(text: str, values: Mapping[str, RenderedValue], built_ins: BuiltIns) -> str:
    """Return a text with its values and built-in names filled in; unknown ones stay."""
    text = BUILT_INS.sub(lambda m: as_text(built_ins.value(m[1], m[2])), text)
    return PLACEHOLDER.sub(lambda m: values[m[1]].text if m[1] in values else m[0], text)


def _in_json(node: Any, values: Mapping[str, RenderedValue], built_ins: BuiltIns) -> Any:
    if isinstance(node, dict):
        return {key: _in_json(value, values, built_ins) for key, value in node.items()}
    if isinstance(node, list):
        return [_in_json(value, values, built_ins) for value in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    if whole is not None and whole[1] in values:
        return values[whole[1]].json
    built_in = BUILT_INS.fullmatch(node)
    if built_in is not None:
        return built_ins.value(built_in[1], built_in[2])
    return filled_text(node, values, built_ins)


def _check_when(when: Mapping[str, list[Scalar]], writer: SetpointWriter, complain: Complain) -> None:
    for name, words in when.items():
        value = writer.value(name)
        if value is None or (value.table.words is None and value.formula is None):
            complain(f"when.{name}", "expected a value of the setpoint that has words or a formula")
            continue
        known = [w.word for w in value.table.words or ()]
        for word in words:
            if known and not _among(word, known):
                complain(f"when.{name}", f"{word!r} is none of its words: {', '.join(map(repr, known))}")


def _among(word: Scalar, words: list[Scalar]) -> bool:
    return any(isinstance(word, bool) == isinstance(other, bool) and word == other for other in words)
