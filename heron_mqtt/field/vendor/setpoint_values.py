"""The values of a setpoint in the vendor's terms: numbers, words, formulas, packed bytes."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.built_ins import BUILT_INS, BuiltIns
from heron_mqtt.field.vendor.formula import Formula
from heron_mqtt.field.vendor.numbers import as_digits, as_number, interpolated, rounded, rounded_within
from heron_mqtt.field.vendor.parameters import as_text, placeholders
from heron_mqtt.field.vendor.payload_filling import (
    MessageContext,
    RenderedValue,
    payload_bytes,
    without_device,
)
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.tables import ValueTable
from heron_mqtt.field.vendor.units import per_si
from heron_mqtt.messages import Setpoint

QUANTITIES = ("p_mw", "q_mvar", "lease_s", "seq")
LONGEST_LEASE_S = 86_400.0
KnownFor = Callable[[Mapping[str, float]], Mapping[str, Any]]
"""Returns what formulas may use for the same setpoint with some quantities changed."""


class SetpointValue:
    """How one quantity of a setpoint, or a formula, becomes the vendor's number or word.

    Args:
        table: As the mapping has it.
        units_per_si: What one MW, Mvar or s is in its unit.
        formula: None = it has none.
        above: The values that its formula may use, or that it may pack.
    """

    def __init__(
        self,
        table: ValueTable,
        units_per_si: float,
        formula: Formula | None,
        above: Mapping[str, SetpointValue],
    ) -> None:
        self.table = table
        self.formula = formula
        self._per_si = units_per_si
        self.packed = placeholders([table.pack])
        """The values that it packs."""
        self._above = dict(above)  # a value below may be called as a quantity is
        used = set(self.packed if formula is None else formula.names)
        if table.quantity is not None:
            used.add(table.quantity)
        self.made_of: frozenset[str] = frozenset().union(
            *(above[n].made_of if n in above else {n} for n in used)
        )
        """The quantities and inputs that it is made of, also by way of values above it."""
        self.made_from: frozenset[str] = frozenset().union(
            *({n} | above[n].made_from for n in used if n in above)
        )
        """The values above it that it is made of, and those that these are made of."""
        self._decimals = 0 if table.quantity == "seq" else table.decimals
        self._ends: dict[float, float] = {}  # of the nameplate, and 0, by the sign of the power
        self._least: float | None = None  # that a lease may become; None: where it is rounded, one step
        self._largest: tuple[float, float] | None = None

    def bound_to(self, largest: tuple[float, float]) -> None:
        """Let rounding not lead beyond the nameplate: the lowest and the highest of the quantity, MW or Mvar.

        A formula is bounded by what it makes of them, with all else that it uses as it is then.
        """
        self._largest = largest
        if self.formula is None:
            for sign, raw in zip((-1.0, 1.0, 0.0), (*largest, 0.0), strict=True):
                self._ends[sign] = self._scaled(raw)

    def at_least(self, step: float) -> None:
        """Let a lease not be less than a step of the integer that holds it."""
        self._least = step if self._least is None else max(self._least, step)

    @property
    def is_number(self) -> bool:
        """Whether it is a number for a power of 0, as far as that can be computed without the device."""
        if self.table.pack is not None or self.formula is None:
            return True
        try:
            return not isinstance(self._at_rest(), str | bool)
        except MessageError:  # a division by what is measured, and the like
            return True

    def _at_rest(self) -> Any:
        """Return what it is for a power of 0, as far as that can be computed without the device.

        Raises:
            MessageError: It cannot.
        """
        if self.table.pack is not None or self.table.quantity == "uid":
            return ""
        names = () if self.formula is None else self.formula.names
        known = {n: self._above[n]._at_rest() if n in self._above else 0.0 for n in names}
        return self.render(Setpoint(p_mw=0.0, lease_s=1.0), known).json

    @property
    def is_fleeting(self) -> bool:
        """Whether it differs in every message without meaning anything else."""
        return self.table.quantity in {"seq", "lease_s", "uid"}

    @property
    def size_of(self) -> str | None:
        """The power that it is made of, p_mw or q_mvar; None: neither."""
        return next((name for name in ("p_mw", "q_mvar") if name in self.made_of), None)

    @property
    def is_lease(self) -> bool:
        """Whether it is the lease, as it is, or by a formula of it alone or of values that are."""
        return self.made_of == {"lease_s"}

    def render(
        self, setpoint: Setpoint, known: Mapping[str, Any], known_for: KnownFor | None = None
    ) -> RenderedValue:
        """Return the value.

        Args:
            setpoint: What it is a value of.
            known: What a formula may use: values before this one, inputs, quantities of the setpoint.
            known_for: Returns the same for another setpoint; None = it is not bounded by that.

        Raises:
            MessageError: It is not finite, or its formula has none.
        """
        table = self.table
        if self.formula is None:
            raw: Any = float(getattr(setpoint, str(table.quantity)) or 0.0)  # a safe state has no seq
        else:
            lacking = [name for name in self.formula.names if name not in known]
            if lacking:
                raise MessageError(f"{lacking[0]} of the device is not known yet")
            raw = self.formula.evaluate(known)
            if isinstance(raw, str | bool):
                return RenderedValue(raw, as_text(raw))
        power = None
        if self.formula is not None:
            power = float(getattr(setpoint, self.size_of or "p_mw") or 0.0)
        number = self.number(raw, power, self._ends_here(raw, known_for))
        if setpoint.lease_s > 0.0 and (self.is_lease or self._is_timer(number, setpoint, known_for)):
            number = self._lasting(number)
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
            return self._rounded(value, raw, self._ends)
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

    def _rounded(self, value: float, power: float, ends: Mapping[float, float]) -> float:
        """Return it rounded; where the nameplate is known, not beyond its end on the side of the power."""
        assert self._decimals is not None
        if self.table.rounding == "toward_zero":
            return rounded(value, self._decimals, toward_zero=True)
        signs = {0.0, math.copysign(1.0, power)} if power else {-1.0, 0.0, 1.0}
        if not signs <= ends.keys():
            return rounded(value, self._decimals, toward_zero=False)
        found = [ends[sign] for sign in signs]
        return rounded_within(value, self._decimals, min(found), max(found))

    def _ends_here(self, raw: float, known_for: KnownFor | None) -> Mapping[float, float]:
        """Return what it makes of the ends of the nameplate, and of 0; a formula, with all else as it is."""
        if self.formula is None:
            return self._ends
        ends: dict[float, float] = {}
        if known_for is None or self._largest is None or self._decimals is None or self.size_of is None:
            return ends
        if rounded(value := self._scaled(raw), self._decimals, toward_zero=False) == value:
            return ends
        for sign, end in zip((-1.0, 1.0, 0.0), (*self._largest, 0.0), strict=True):
            with contextlib.suppress(MessageError):  # it has none there; said where it is sent
                ends[sign] = self._scaled(self._evaluated(known_for({self.size_of: end})))
        return ends

    def _is_timer(self, number: float, setpoint: Setpoint, known_for: KnownFor | None) -> bool:
        """Whether it grows with the lease, and not with the power: a timer that may be off at rest.

        What has the size of the power, too, as an energy, is none.
        """
        if known_for is None or self.formula is None or "lease_s" not in self.made_of or number < 0.0:
            return False
        if self._lasting(number) == number:
            return False
        half = {name: 0.5 * float(getattr(setpoint, name) or 0.0) for name in ("p_mw", "q_mvar")}
        long: dict[str, float] = {"lease_s": LONGEST_LEASE_S}
        try:
            at_length, of_half = (self._evaluated(known_for(each)) for each in (long, {**long, **half}))
        except MessageError:
            return False
        return self._scaled(at_length) > number and at_length == of_half

    def _evaluated(self, known: Mapping[str, Any]) -> float:
        """Return the number that the formula comes to.

        Raises:
            MessageError: There is none.
        """
        assert self.formula is not None
        found = self.formula.evaluate(known)
        if isinstance(found, str | bool):
            raise MessageError(f"{self.formula.text}: {found!r} is no number")
        return found

    def _lasting(self, number: float) -> float:
        """Return the number of a lease so that what it becomes is not 0: a timer of 0 is none."""
        if self._least is None:
            return number or 10.0 ** -(self._decimals or 0)
        return max(number, self._least)

    def number(
        self, raw: float, power: float | None = None, ends: Mapping[float, float] | None = None
    ) -> float:
        """Return the vendor's number of a quantity, rounded and within ``min`` and ``max``.

        Args:
            raw: The quantity, or what a formula makes of it.
            power: The power that it is made of, MW; None = it is ``raw``.
            ends: What it is at the ends of the nameplate, and at 0, by sign; None = as a quantity is there.
        """
        value = self._bounded(raw, power, self._ends if ends is None else ends)
        bits = self.table.wrap
        if bits is not None:
            half = 1 << (bits - 1)
            value = min(max(value, -half), half - 1)
            value += (1 << bits) if value < 0 else 0
        return value

    def cut_by_wrap(self, known: Mapping[str, Any]) -> float | None:
        """Return the number that ``wrap`` has no bits for, and cuts; None: it fits.

        Args:
            known: The quantities of the setpoint, and what else a formula may use.

        Raises:
            MessageError: There is no such number.
        """
        if self.table.wrap is None:
            return None
        raw = known[str(self.table.quantity)] if self.formula is None else self.formula.evaluate(known)
        if isinstance(raw, str | bool):
            return None
        value = self._bounded(raw, None if self.formula is None else float(known["p_mw"]), self._ends)
        half = 1 << (self.table.wrap - 1)
        return None if -half <= value < half else value

    def _bounded(self, raw: float, power: float | None, ends: Mapping[float, float]) -> float:
        """Return the number rounded and within ``min`` and ``max``; see ``number``."""
        table, value = self.table, self._scaled(raw)
        if self._decimals is not None:
            value = self._rounded(value, raw if power is None else power, ends)
        if table.min is not None:
            value = max(value, table.min)
        if table.max is not None:
            value = min(value, table.max)
        return value

    def _digits(self, number: float) -> str:
        text = as_digits(number, self._decimals).replace(".", self.table.decimal)
        return text.zfill(self.table.width)


class SetpointValues:
    """All values of a setpoint, by name; compiled from ``[setpoint.values]``."""

    def __init__(self, tables: Mapping[str, ValueTable], inputs: tuple[str, ...], problems: Problems) -> None:
        self._values: dict[str, SetpointValue] = {}
        for name, value in tables.items():
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
            self._values[name] = SetpointValue(value, scale, formula, self._values)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(self._values)

    def bound_to(self, range_mw: tuple[float, float]) -> None:
        """Let rounding of powers not lead beyond the nameplate, MW, or as many Mvar of either sign."""
        largest = max(map(abs, range_mw))
        for value in self._values.values():
            if value.size_of == "p_mw":
                value.bound_to(range_mw)
            elif value.size_of == "q_mvar":
                value.bound_to((-largest, largest))

    def _known_for(self, setpoint: Setpoint, context: MessageContext) -> KnownFor:
        """Return what gives all that formulas may use for a setpoint that differs in some quantities."""

        def known(changed: Mapping[str, float]) -> dict[str, Any]:
            other = setpoint.model_copy(update=dict(changed))
            inputs = replace(without_device(), inputs=context.inputs)
            values = self.render(other, inputs, in_part=True, is_bounded=False)
            return {**_told_by(other, context), **{name: value.json for name, value in values.items()}}

        return known

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
    def mixed_with_power(self) -> frozenset[str]:
        """The quantities, and inputs, that are used beside a power by a value that is made of both."""
        powers = {"p_mw", "q_mvar"}
        mixed = (v.made_of - powers for v in self._values.values() if v.made_of & powers)
        return frozenset[str]().union(*mixed)

    @property
    def formula_names(self) -> frozenset[str]:
        """All that formulas of values use: inputs, quantities, other values."""
        formulas = [v.formula for v in self._values.values() if v.formula is not None]
        return frozenset(name for formula in formulas for name in formula.names)

    def __getitem__(self, name: str) -> SetpointValue:
        """Return how a value is made."""
        return self._values[name]

    def get(self, name: str) -> SetpointValue | None:
        """Return how a value is made; None if there is none of that name."""
        return self._values.get(name)

    def power_numbers(self, p_mw: float, names: Iterable[str]) -> dict[str, float]:
        """Return what each of these values that is a power alone comes to, in the device's own units."""
        powers = self._powers_alone(names)
        return {name: v.number(p_mw) for name, v in powers.items() if v.table.words is None}

    def bounds_power(self, names: Iterable[str]) -> bool:
        """Whether ``min`` and ``max`` bound every number of these that is a power alone; true without one."""
        return all(
            t.words is not None or (t.max is not None and (t.min is not None or t.absolute))
            for t in (value.table for value in self._powers_alone(names).values())
        )

    def beyond(self, setpoint: Setpoint, names: Iterable[str]) -> list[str]:
        """Return the limits of these values that a power is beyond, one line each.

        Where charging and discharging are two numbers, that of the other sign is 0 and none of that, unless
        no number is left for this one.
        """
        p_mw = setpoint.p_mw
        values = self._powers_alone(names)
        carries = {name: value for name, value in values.items() if not value.is_for_other_sign(p_mw)}
        found = {name: value.beyond(p_mw) for name, value in (carries or values).items()}
        return [f"setpoint.values.{name}: {why}" for name, why in found.items() if why is not None]

    def _powers_alone(self, names: Iterable[str]) -> dict[str, SetpointValue]:
        """Return those of these values that are a power, and not made of one by a formula."""
        among = frozenset(names)
        return {n: v for n, v in self._values.items() if n in among and v.table.quantity == "p_mw"}

    def powers(self, names: Iterable[str], quantity: str = "p_mw") -> frozenset[str]:
        """Return those of these values that are made of a power and numbers; all made of it, if none is."""
        made = [name for name in names if quantity in self.quantities([name])[0]]
        numbers = [n for n in made if self._values[n].table.words is None and self._values[n].is_number]
        return frozenset(numbers or made)

    def measured_by(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return which of these values, and those that they are made of, need inputs of the device: which."""
        found = {}
        for name in sorted(self.quantities(names)[1]):
            value = self._values[name]
            used = set() if value.formula is None else set(value.formula.names)
            if inputs := (used & value.made_of) - {*QUANTITIES}:
                found[name] = sorted(inputs)
        return found

    def render(
        self,
        setpoint: Setpoint,
        context: MessageContext,
        *,
        in_part: bool = False,
        is_bounded: bool = True,
    ) -> dict[str, RenderedValue]:
        """Return every value of a setpoint.

        Args:
            setpoint: The setpoint.
            context: What else formulas may use.
            in_part: Leave out those that cannot be computed.
            is_bounded: Let formulas not be rounded beyond the nameplate, nor timers to 0.

        Raises:
            MessageError: One is not finite, or its formula has none.
        """
        known = _told_by(setpoint, context)
        known_for = self._known_for(setpoint, context) if is_bounded else None
        values: dict[str, RenderedValue] = {}
        for name, value in self._values.items():
            try:
                if value.table.quantity == "uid":
                    uid = context.built_ins.new_uid()
                    values[name] = RenderedValue(uid, uid)
                elif value.table.pack is not None:
                    values[name] = value.packed_text(values, context.built_ins)
                else:
                    values[name] = value.render(setpoint, known, known_for)
            except MessageError as exc:
                if in_part:
                    known.pop(name, None)  # nor what an input of that name is
                    continue
                raise MessageError(f"setpoint.values.{name}: {exc}") from None
            known[name] = values[name].json
        return values

    def cut_by_wrap(self, setpoint: Setpoint, context: MessageContext) -> Iterator[tuple[str, float]]:
        """Yield the values of a setpoint that ``wrap`` has no bits for, each with its number.

        Raises:
            MessageError: As with ``render``.
        """
        values = self.render(setpoint, context)
        known = _told_by(setpoint, context)
        known |= {name: value.json for name, value in values.items()}
        for name, value in self._values.items():
            if (number := value.cut_by_wrap(known)) is not None:
                yield name, number

    def quantities(self, names: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Return what of a setpoint these values are made of, and all values that they are made of."""
        among = {name: self._values[name] for name in names if name in self._values}
        made_of = frozenset[str]().union(*(value.made_of for value in among.values()))
        made_from = frozenset(among).union(*(value.made_from for value in among.values()))
        return made_of & {*QUANTITIES, "uid"}, made_from


def _told_by(setpoint: Setpoint, context: MessageContext) -> dict[str, Any]:
    """Return what formulas may use besides other values.

    p_mw is what is wanted, also where the device's own p_mw is a field of its telemetry.
    """
    return {**context.inputs, **{name: float(getattr(setpoint, name) or 0.0) for name in QUANTITIES}}
