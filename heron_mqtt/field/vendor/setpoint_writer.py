"""A setpoint, a stop and a release as what goes out to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.command_places import CommandPlaces
from heron_mqtt.field.vendor.outgoing import DeviceCommand, NotExpressible, RegisterCommand, ZeroMessages
from heron_mqtt.field.vendor.parameters import placeholders
from heron_mqtt.field.vendor.payload_filling import MessageContext, RenderedValue
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.register_map import RegisterMap
from heron_mqtt.field.vendor.setpoint_message import SetpointMessage
from heron_mqtt.field.vendor.setpoint_order import check_order
from heron_mqtt.field.vendor.setpoint_values import SetpointValues
from heron_mqtt.field.vendor.tables import SetpointTable
from heron_mqtt.field.vendor.told_apart import confusions, passed_through, powers_to_try, sizes_in, together
from heron_mqtt.field.vendor.words import is_off
from heron_mqtt.messages import Setpoint

NEAR_REST = (0.02, 0.05)  # of the largest power
UNITS = {"p_mw": "MW", "q_mvar": "Mvar"}
ZERO: Final = Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0)
"""What a stop sets."""


def _of_power(p_mw: float) -> Setpoint:
    return ZERO.model_copy(update={"p_mw": p_mw})


class _Sent(NamedTuple):
    """What a setpoint sends: the indices of its messages, and the values in them."""

    indices: tuple[int, ...]
    values: dict[str, RenderedValue]


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
        self.values = SetpointValues(table.values, inputs, problems)
        releases = table.release if isinstance(table.release, list) else []
        self._messages, self._releases = (
            [
                SetpointMessage(i, m, self.values, registers, problems, f"setpoint.{key}[{i}]")
                for i, m in enumerate(messages)
            ]
            for key, messages in (("messages", table.messages), ("release", releases))
        )
        for message in self._messages:
            for name, step in message.steps():
                self.values[name].at_least(step)
        sent = frozenset(name for m in self._messages for name in m.sent)
        self._powers = self.values.powers(sent) if not problems else frozenset()
        self._power_registers = {name for m in self._messages for name in m.registers_of(self._powers)}
        self.fixed_words: frozenset[tuple[str, int, int]] = frozenset()
        """What setpoints write into registers whatever the power is, as their mode: area, address, word."""
        self._check_use(problems)
        if not problems:
            check_order(self._messages, self.values, problems)
        if not problems:
            self.fixed_words = frozenset().union(*(m.fixed_words() for m in self._messages))
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
            except MessageError as exc:
                messages = self._messages if key == "messages" else self._releases
                if not self._waits(messages):
                    problems.add(f"setpoint.{key}", f"0 cannot be sent: {exc}")

    def _waits(self, messages: Sequence[SetpointMessage]) -> bool:
        """Whether messages, or values beside them, need something that only the device can tell."""
        return bool(self.values.measured_by(self.values.names)) or any(m.learned for m in messages)

    def problems_of(self, range_mw: tuple[float, float]) -> list[str]:
        """Return why it is not for a device with this range, MW; empty: it is."""
        every = (self.unsendable, self.zero_is_no_rest, self.confusions)
        return [problem for problems in every for problem in problems(range_mw)]

    def unsendable(self, range_mw: tuple[float, float]) -> Iterator[str]:
        """Yield why no power of a sign that a device with this range has, MW, fits into what carries it."""
        context = MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))
        if self._waits(self._messages):
            return
        for bound in range_mw:
            problem = ""
            for p_mw in (0.01 * bound, bound) if bound else ():
                try:
                    self.encode(ZERO.model_copy(update={"p_mw": p_mw}), context)
                except NotExpressible:
                    break  # it is meant: said where it is asked for
                except MessageError as exc:
                    problem = str(exc)
                else:
                    break
            else:
                if problem:
                    yield f"no power {'below' if bound < 0.0 else 'above'} 0 can be sent: {problem}"

    def zero_is_no_rest(self, range_mw: tuple[float, float]) -> Iterator[str]:
        """Yield which value that is sent says off for a power and not for 0, or makes of 0 a small power.

        What is the same for 0 and for small powers of both signs is rounded, wherever the device begins to
        count; so is what has an ``offset``. Nothing else may differ between 0 and the largest power: beside
        the least current of a charger 0 may send that it is off.
        """
        context = MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))
        bounds = [bound for bound in range_mw if bound]
        if self._waits(self._messages):
            return
        try:
            rest, *full = (self._sent(_of_power(p_mw), context) for p_mw in (0.0, *bounds))
            is_flat = [
                not any(
                    self._differing(rest, self._sent(_of_power(part * bound), context)) for part in NEAR_REST
                )
                for bound in bounds
            ]
        except MessageError:
            return
        is_raised = any(is_flat) and (len(is_flat) == 1 or not all(is_flat))
        for name in sorted(self._powers):
            at_0 = rest.values[name].json
            if not isinstance(at_0, str):
                rises = any(abs(float(sent.values[name].json)) > abs(at_0) for sent in full)
                is_alone = all(self._differing(rest, sent) <= {name} for sent in full)
                counts = not self.values[name].table.offset
                if at_0 and is_raised and rises and is_alone and counts:
                    yield f"setpoint.values.{name}: 0 is sent as small powers are, {at_0:g}: 0 needs its own"
                continue
            for bound, sent in zip(bounds, full, strict=True):
                word = sent.values[name].json
                if not is_off(at_0) and isinstance(word, str) and is_off(word):
                    what = f"0 is sent as {at_0!r}, {bound:g} MW as {word!r}: expected the other way"
                    yield f"setpoint.values.{name}: {what} (of a contact that blocks, send true or false)"

    def _differing(self, one: _Sent, other: _Sent) -> set[str]:
        """Return the values by which two setpoints tell the device something else; ``""``: other messages."""
        names = self.values.lasting({name for i in one.indices for name in self._messages[i].sent})
        found = {name for name in names if one.values[name].json != other.values[name].json}
        return found if one.indices == other.indices else {*found, ""}

    def _check_use(self, problems: Problems) -> None:
        used = {name for m in self._messages for name in m.names}
        used |= {a.id.of for a in self.table.answers if a.id is not None and a.id.of is not None}
        used |= {name for a in self.table.answers for name in placeholders(a.topic)}
        self.quantities, made_of = self.values.quantities(used)
        for name in self.values.names:
            if name not in made_of:
                problems.add(f"setpoint.values.{name}", "no payload and no 'when' uses it")
        if "p_mw" not in self.quantities:
            problems.add("setpoint", "no message carries p_mw")

    @property
    def made_of(self) -> frozenset[str]:
        """The values that are sent, and those that they are made of; not those that only a ``when`` uses."""
        return self.values.quantities(name for m in self._messages for name in m.sent)[1]

    @property
    def has_release(self) -> bool:
        """Whether there are messages that hand the device back."""
        return bool(self._releases)

    def encode(
        self, setpoint: Setpoint, context: MessageContext
    ) -> tuple[list[DeviceCommand], dict[str, RenderedValue]]:
        """Return the messages that carry a setpoint, in the order in which to send them, and its values.

        Raises:
            NotExpressible: No message applies, or what is sent would mean a power on the other side of 0.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        values = self.values.render(setpoint, context)
        applying = [m for m in self._messages if m.applies(values, setpoint)]
        if not applying:
            raise NotExpressible(
                f"no message is sent for {setpoint.p_mw:g} MW: the 'when' of each leaves it out"
            )
        self._check_bounds(applying, values, setpoint, context)
        return [m.write(values, context) for m in applying], values

    def _check_bounds(
        self,
        applying: list[SetpointMessage],
        values: Mapping[str, RenderedValue],
        setpoint: Setpoint,
        context: MessageContext,
    ) -> None:
        """Refuse what would send the device the same as another power that it must not be taken for."""
        for name in {name for m in applying for name in m.sent}:
            value = self.values[name]
            quantity = value.table.quantity
            if quantity not in UNITS or value.table.words is not None:
                continue
            asked = getattr(setpoint, quantity) or 0.0
            for taken_for in value.bounded_powers(asked):
                other = setpoint.model_copy(update={quantity: taken_for})
                theirs = self.values.render(other, context)
                if [m.meaning(values) for m in applying] == [
                    m.meaning(theirs) for m in self._messages if m.applies(theirs, other)
                ]:
                    unit = UNITS[quantity]
                    raise NotExpressible(
                        f"{asked:g} {unit} cannot be sent: setpoint.values.{name} makes of it what it makes "
                        f"of {taken_for:g} {unit}; let its min, max and table have 0, or send another message"
                    )

    def power_places(self, place_of: Callable[[str], str]) -> list[str]:
        """Return where the power, active or reactive, is set; see ``SetpointMessage.power_places``."""
        of_power = {"p_mw", "q_mvar"}
        powers = [name for name in self.values.names if of_power & self.values.quantities([name])[0]]
        return [place for message in self._messages for place in message.power_places(powers, place_of)]

    def confusions(self, range_mw: tuple[float, float]) -> list[str]:
        """Return which powers of a device with this range, MW, and 0, the messages do not tell apart.

        Reactive power is tried up to the largest of them, Mvar; each of the two without the other and with
        the most of it of either sign. What depends on inputs of the device is left out.
        """
        context = MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))
        asked = {("p_mw", 0.0): powers_to_try(range_mw)}
        if "q_mvar" in self.quantities:
            largest = max(map(abs, range_mw))
            sizes = powers_to_try((-largest, largest))
            asked |= {("q_mvar", p_mw): sizes for p_mw in sorted({0.0, *range_mw}, key=abs)}
            asked |= {("p_mw", q_mvar): powers_to_try(range_mw) for q_mvar in (-largest, largest)}
        sent = {series: self._each_sent(*series, [0.0, *sizes], context) for series, sizes in asked.items()}
        indices = {one.indices for each in sent.values() for one in each.values()}
        places = CommandPlaces([m.command for m in self._messages], indices, self.values.names)
        told = {series: self._told(of_sizes, context, places) for series, of_sizes in sent.items()}
        zero = told["p_mw", 0.0].get(0.0)
        if zero is None:
            return []
        return list(dict.fromkeys(self._confusions(told, together(zero), self._words_of_zero(context))))

    def _confusions(
        self,
        told: Mapping[tuple[str, float], Mapping[float, Sequence[Mapping[Any, Any]]]],
        zero: Mapping[Any, Any],
        words: Sequence[Scalar],
    ) -> Iterator[str]:
        """Yield the same, given what is told: what 0 of both sets, and its words."""
        whole = {series: {p: together(r) for p, r in of_sizes.items()} for series, of_sizes in told.items()}
        sizes = frozenset().union(*(sizes_in(each) for each in whole.values()))
        for (quantity, beside), every in whole.items():
            unit, other = UNITS[quantity], UNITS["q_mvar" if quantity == "p_mw" else "p_mw"]
            shown = f"{unit} (with {beside:g} {other})" if beside else unit
            zero_here = every.pop(0.0, zero)
            told_as_0 = zero_here if beside else None  # with a power beside it, which is then the same
            each = {size: effects for size, effects in every.items() if effects != told_as_0}
            of_words = words if quantity == "p_mw" and not beside else ()
            for its_zero in (zero, zero_here) if beside else (zero,):
                yield from confusions(each, its_zero, of_words, unit=shown, sizes=sizes)
            requests = {p: r for p, r in told[quantity, beside].items() if p}
            yield from passed_through(requests, zero_here, unit=shown)

    def _told(
        self, of_sizes: Mapping[float, _Sent], context: MessageContext, places: CommandPlaces
    ) -> dict[float, list[dict[Any, Any]]]:
        """Return what the requests of each size set, if they fit what they write to."""
        found: dict[float, list[dict[Any, Any]]] = {}
        for size, one in of_sizes.items():
            with contextlib.suppress(MessageError):
                found[size] = self._requests(one, context, places)
        return found

    def _each_sent(
        self, quantity: str, beside: float, sizes: Sequence[float], context: MessageContext
    ) -> dict[float, _Sent]:
        """Return what is sent for each size of a quantity, MW or Mvar, beside one of the other, if it can."""
        other = "q_mvar" if quantity == "p_mw" else "p_mw"
        found: dict[float, _Sent] = {}
        for size in sizes:
            with contextlib.suppress(MessageError):
                found[size] = self._sent(ZERO.model_copy(update={other: beside, quantity: size}), context)
        return found

    def _words_of_zero(self, context: MessageContext) -> list[Scalar]:
        """Return the words that 0 is sent as, without those that say off."""
        rendered = self.values.render(ZERO, context)
        words = {
            word
            for name in self._powers
            if isinstance(word := rendered[name].json, str) or self.values[name].table.words is not None
        }
        return sorted((w for w in words if not (isinstance(w, bool) or is_off(w))), key=str)

    def _sent(self, setpoint: Setpoint, context: MessageContext) -> _Sent:
        """Return which messages a setpoint sends, and its values."""
        values = self.values.render(setpoint, context)
        indices = tuple(i for i, m in enumerate(self._messages) if m.applies(values, setpoint))
        self._check_bounds([self._messages[i] for i in indices], values, setpoint, context)
        return _Sent(indices, values)

    def _requests(self, sent: _Sent, context: MessageContext, places: CommandPlaces) -> list[dict[Any, Any]]:
        """Return what a setpoint sets, request by request; messages that no pause parts are one."""
        found: list[dict[Any, Any]] = []
        for message in (self._messages[i] for i in sent.indices):
            requests = message.effects(sent.values, context, places)
            if found and not (message.waits or message.is_of_registers):
                found[-1].update(requests.pop(0))
            found += requests
        return found

    def stop(self, context: MessageContext) -> tuple[ZeroMessages, dict[str, RenderedValue]]:
        """Return the messages of an emergency stop: a setpoint of 0 in the order that brings 0 first.

        Raises:
            MessageError: As with ``encode``.
        """
        commands, values = self.encode(ZERO, context)
        applying = [m for m in self._messages if m.applies(values, ZERO)]
        return self._power_first(applying, commands), values

    def _power_first(self, applying: list[SetpointMessage], commands: list[DeviceCommand]) -> ZeroMessages:
        """Return the messages of 0 with what holds the power before the rest."""
        pairs = zip(applying, commands, strict=True)
        parts = (m.part(c, self._powers, self._power_registers) for m, c in pairs)
        at_once: tuple[DeviceCommand, ...] = ()
        for part in (part for part in parts if part is not None):
            if not set(_contents(part)) <= {each for c in at_once for each in _contents(c)}:
                at_once = (*at_once, part)
        whole = commands
        if at_once:  # with 0 in it nothing of the rest can harm, so what is refused holds up nothing
            whole = [replace(c, goes_on=True) if isinstance(c, RegisterCommand) else c for c in whole]
        sent = [each for c in at_once for each in _contents(c)]
        if [each for c in whole for each in _contents(c)][: len(sent)] == sent:
            whole = _without_first(whole, len(sent))
        return ZeroMessages(at_once, tuple(whole))

    def releases_to_zero(self, context: MessageContext) -> bool:
        """Whether the release tells the device nothing but what a setpoint of 0 does: it is to be at 0 then.

        Raises:
            MessageError: Something of them cannot be computed.
        """
        if not self._releases:
            return self.table.release == "zero"
        zero = {each for c in self.encode(ZERO, context)[0] for each in _effects(c)}
        return all(each in zero for c in self.release(context)[0] for each in _effects(c))

    def stop_in_part(self, context: MessageContext) -> ZeroMessages:
        """Return what of a stop can be computed and holds a power, or a word that is made of one.

        Raises:
            MessageError: Nothing can.
        """
        values = self.values.render(ZERO, context, in_part=True)
        made = [name for name in self.values.names if "p_mw" in self.values.quantities([name])[0]]
        known = [m for m in self._messages if m.names <= values.keys() and m.names & set(made)]
        applying = [m for m in known if m.applies(values, ZERO)]
        if not applying:
            raise MessageError("no part of a setpoint of 0 can be computed")
        found = [replace(m.write(values, context), pause_s=0.0) for m in applying]
        return self._power_first(applying, found)

    def release_without_zero(self, context: MessageContext) -> list[DeviceCommand]:
        """Return what of a release still helps a device that refuses a part of it.

        That is what no setpoint does, and what holds the power. The rest of a setpoint, as its mode, may put
        an old power in force.

        Raises:
            MessageError: As with ``release``.
        """
        zero = {each for c in self.encode(ZERO, context)[0] for each in _effects(c)}
        found: list[DeviceCommand] = []
        for command in self.release(context)[0]:
            if not isinstance(command, RegisterCommand):
                found += [command] * any(each not in zero for each in _effects(command))
                continue
            writes = tuple(
                w
                for w in command.writes
                if self._power_registers.intersection(w.names)
                or any(each not in zero for each in _effects(replace(command, writes=(w,))))
            )
            if writes:
                found.append(replace(command, writes=writes, goes_on=True))
        return found

    @property
    def stop_needs(self) -> dict[str, list[str]]:
        """The values of a stop that need what the device measures, each with the inputs."""
        return self.values.measured_by(name for m in self._messages for name in m.names)

    def release(self, context: MessageContext) -> tuple[list[DeviceCommand], dict[str, RenderedValue]]:
        """Return the messages that hand the device back, and the values in them.

        Raises:
            NotExpressible: None applies.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        values = self.values.render(ZERO, context) if any(m.names for m in self._releases) else {}
        applying = [m for m in self._releases if m.applies(values, ZERO)]
        if not applying:
            raise NotExpressible("no message hands the device back: the 'when' of each leaves it out")
        return [m.write(values, context) for m in applying], values


def _contents(command: DeviceCommand) -> tuple[Any, ...]:
    """Return what a message does to the device, one after the other, whenever it is sent."""
    return command.writes if isinstance(command, RegisterCommand) else (command.meaning,)


def _without_first(commands: list[DeviceCommand], count: int) -> list[DeviceCommand]:
    """Return messages without so many of their contents, of which the first ones are."""
    left: list[DeviceCommand] = []
    for command in commands:
        has = len(_contents(command))
        if isinstance(command, RegisterCommand) and count < has:
            left.append(
                replace(command, writes=command.writes[count:], pause_s=0.0 if count else command.pause_s)
            )
        elif count < has:
            left.append(command)
        count = max(0, count - has)
    return left


def _effects(command: DeviceCommand) -> list[Any]:
    """Return what a message sets, each register by itself."""
    if isinstance(command, RegisterCommand):
        return [(w.area, w.address + i, word) for w in command.writes for i, word in enumerate(w.words)]
    return [(command.topic, command.payload)]
