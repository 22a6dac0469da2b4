"""A setpoint, a stop and a release as what goes out to the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.outgoing import DeviceCommand, NotExpressible, RegisterCommand, ZeroMessages
from heron_mqtt.field.vendor.parameters import placeholders
from heron_mqtt.field.vendor.payload_filling import MessageContext, RenderedValue, without_device
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.register_map import RegisterMap
from heron_mqtt.field.vendor.setpoint_message import SetpointMessage
from heron_mqtt.field.vendor.setpoint_order import check_order
from heron_mqtt.field.vendor.setpoint_values import SetpointValues
from heron_mqtt.field.vendor.tables import SetpointTable
from heron_mqtt.messages import Setpoint

UNITS = {"p_mw": "MW", "q_mvar": "Mvar"}
ZERO: Final = Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0)
"""What a stop sets."""


class SentSetpoint(NamedTuple):
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
        self.messages, self._releases = (
            [
                SetpointMessage(i, m, self.values, registers, problems, f"setpoint.{key}[{i}]")
                for i, m in enumerate(messages)
            ]
            for key, messages in (("messages", table.messages), ("release", releases))
        )
        for message in self.messages:
            for name, step in message.steps():
                self.values[name].at_least(step)
        sent = frozenset(name for m in self.messages for name in m.sent)
        self.powers = self.values.powers(sent) if not problems else frozenset()
        """The values that are sent and are a power, as numbers, or else as words."""
        self._power_registers = {name for m in self.messages for name in m.registers_of(self.powers)}
        self.fixed_words: frozenset[tuple[str, int, int]] = frozenset()
        """What setpoints write into registers whatever the power is, as their mode: area, address, word."""
        self._check_use(problems)
        if not problems:
            check_order(self.messages, self.values, problems)
        if not problems:
            self.fixed_words = frozenset().union(*(m.fixed_words() for m in self.messages))
            self._check_zero(problems)

    def _check_zero(self, problems: Problems) -> None:
        """Refuse a mapping that cannot say 0, or that does not always hand the device back.

        What depends on inputs of the device or on learned levels is found when it is sent.
        """
        context = without_device()
        writes: dict[str, Callable[[], object]] = {"messages": lambda: self.encode(ZERO, context)}
        if self._releases:
            writes["release"] = lambda: self.release(context)
        for key, write in writes.items():
            try:
                write()
            except NotExpressible as exc:
                problems.add(f"setpoint.{key}", str(exc))
            except MessageError as exc:
                messages = self.messages if key == "messages" else self._releases
                if not self.waits_for_device(messages):
                    problems.add(f"setpoint.{key}", f"0 cannot be sent: {exc}")

    def waits_for_device(self, messages: Sequence[SetpointMessage]) -> bool:
        """Whether messages, or values beside them, need something that only the device can tell."""
        return bool(self.values.measured_by(self.values.names)) or any(m.learned for m in messages)

    def _check_use(self, problems: Problems) -> None:
        used = {name for m in self.messages for name in m.names}
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
        return self.values.quantities(name for m in self.messages for name in m.sent)[1]

    @property
    def mixed_with_power(self) -> frozenset[str]:
        """What formulas of values and of ``when`` use beside a power: quantities."""
        return self.values.mixed_with_power | frozenset(n for m in self.messages for n in m.when_names)

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
        sent = self.sent(setpoint, context)
        if not sent.indices:
            raise NotExpressible(
                f"no message is sent for {setpoint.p_mw:g} MW: the 'when' of each leaves it out"
            )
        return [self.messages[i].write(sent.values, context) for i in sent.indices], sent.values

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
                    m.meaning(theirs) for m in self.messages if m.applies(theirs, other)
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
        return [place for message in self.messages for place in message.power_places(powers, place_of)]

    def sent(self, setpoint: Setpoint, context: MessageContext) -> SentSetpoint:
        """Return which messages a setpoint sends, and its values.

        Raises:
            NotExpressible: What is sent would mean a power on the other side of 0.
            MessageError: A value is not finite, or something that it needs is not known yet.
        """
        values = self.values.render(setpoint, context)
        indices = tuple(i for i, m in enumerate(self.messages) if m.applies(values, setpoint))
        self._check_bounds([self.messages[i] for i in indices], values, setpoint, context)
        return SentSetpoint(indices, values)

    def stop(self, context: MessageContext) -> tuple[ZeroMessages, dict[str, RenderedValue]]:
        """Return the messages of an emergency stop: a setpoint of 0 in the order that brings 0 first.

        Raises:
            MessageError: As with ``encode``.
        """
        commands, values = self.encode(ZERO, context)
        applying = [m for m in self.messages if m.applies(values, ZERO)]
        return self._power_first(applying, commands), values

    def _power_first(self, applying: list[SetpointMessage], commands: list[DeviceCommand]) -> ZeroMessages:
        """Return the messages of 0 with what holds the power before the rest."""
        pairs = zip(applying, commands, strict=True)
        parts = (m.part(c, self.powers, self._power_registers) for m, c in pairs)
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

    def stop_in_part(self, context: MessageContext) -> tuple[ZeroMessages, dict[str, RenderedValue]]:
        """Return what of a stop can be computed and holds a power, or a word made of one; and its values.

        Raises:
            MessageError: Nothing can.
        """
        values = self.values.render(ZERO, context, in_part=True)
        made = [name for name in self.values.names if "p_mw" in self.values.quantities([name])[0]]
        known = [m for m in self.messages if m.names <= values.keys() and m.names & set(made)]
        applying = [m for m in known if m.applies(values, ZERO)]
        if not applying:
            raise MessageError("no part of a setpoint of 0 can be computed")
        found = [replace(m.write(values, context), pause_s=0.0) for m in applying]
        return self._power_first(applying, found), values

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
        return self.values.measured_by(name for m in self.messages for name in m.names)

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
