"""A vendor's topics and payloads <-> our messages, from configuration alone.

Raw inputs are found in payloads and cleaned (``inputs``), formulas make quantities of them
(``quantities``), and setpoints become messages (``outgoing``) whose answers are understood (``answers``).
``load_mapping`` makes a mapping from a profile and its parameters. ``DeviceMapping`` finds its mistakes,
holds no state and does no I/O: ``vendor_state.VendorState`` keeps what is known of one device.
docs/device-mappings.md has the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from keyword import iskeyword
from typing import Any, Literal

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.answers import AnswerReader
from heron_mqtt.field.vendor.built_ins import NAMES, BuiltIns
from heron_mqtt.field.vendor.inputs import InputReader
from heron_mqtt.field.vendor.keepalives import Keepalive
from heron_mqtt.field.vendor.nameplate_check import NameplateCheck
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing, ZeroMessages
from heron_mqtt.field.vendor.parameters import PLACEHOLDER, placeholders
from heron_mqtt.field.vendor.payload_filling import (
    MessageContext,
    RenderedValue,
)
from heron_mqtt.field.vendor.problems import Problems
from heron_mqtt.field.vendor.quantities import Quantity
from heron_mqtt.field.vendor.register_map import RegisterMap
from heron_mqtt.field.vendor.register_tables import ModbusTable
from heron_mqtt.field.vendor.setpoint_writer import SetpointWriter
from heron_mqtt.field.vendor.sparkplug_node import SparkplugNode, state_topic
from heron_mqtt.field.vendor.tables import (
    FieldTable,
    MappingTable,
    QuantityTable,
    SetpointTable,
)
from heron_mqtt.field.vendor.telemetry import AvailabilityReader, TelemetryReader, patterns
from heron_mqtt.field.vendor.topic_patterns import TopicPattern
from heron_mqtt.field.vendor.units import Complain
from heron_mqtt.messages import Setpoint
from heron_mqtt.messaging import topics

__all__ = ["DeviceMapping", "Keepalive", "Outgoing"]


class DeviceMapping:
    """A compiled mapping for one device.

    Args:
        table: The mapping, its placeholders filled in.
        source: Where it stands, for errors.
        learned: Parameters to be learned from topics, and after how many s of silence another may follow.

    Raises:
        ConfigError: One line for each mistake: source, key and what was expected.
    """

    def __init__(self, table: MappingTable, source: str, learned: Mapping[str, float] | None = None) -> None:
        problems = Problems(source)
        self.name = table.name
        self.source = source
        self.table = table
        self.learned = dict(learned or {})
        self.registers = (
            RegisterMap(table.registers, table.modbus or ModbusTable(), problems) if table.registers else None
        )
        """Of a device on Modbus; None = it is on MQTT."""
        read = table.telemetry if self.registers is None else self.registers.telemetry()
        self.telemetry = [TelemetryReader(t, self._complain_of(i, problems)) for i, t in enumerate(read)]
        self.availability = [
            AvailabilityReader(a, problems.at(f"availability[{i}]")) for i, a in enumerate(table.availability)
        ]
        of_life = [] if table.liveness is None else table.liveness.topics
        self._life_patterns = patterns(of_life, problems.at("liveness"))
        self.inputs = self._gather_inputs(problems)
        self.quantities = self._make_quantities(table, problems)
        if "p_mw" not in self.quantities:
            place, what = ("telemetry", "topic") if self.registers is None else ("quantities", "formula")
            problems.add(place, f"no {what} gives p_mw; without it there is no telemetry")
        self._writer: SetpointWriter | None = None
        self._checked_range_mw: tuple[float, float] | None = None
        self.answers: list[AnswerReader] = []
        if table.setpoint is not None:
            self._writer = SetpointWriter(table.setpoint, tuple(self.inputs), problems, self.registers)
            self.answers = [
                AnswerReader(a, self._writer.values, problems.at(f"setpoint.answers[{i}]"))
                for i, a in enumerate(table.setpoint.answers)
            ]
            if table.setpoint.confirm == "answer" and not self.has_answers:
                problems.add("setpoint.confirm", "'answer' needs [[setpoint.answers]] or a field ack_seq")
        values = set(self._writer.values.names) if self._writer is not None else set()
        self.keepalives = tuple(
            Keepalive(
                k,
                k.while_ == "driven"
                or bool(placeholders([k.topic, k.payload, k.first_payload, k.registers]) & values),
                self.registers,
            )
            for k in table.keepalive
        )
        _check_topics(table, self, problems)
        _check_liveness(table, self, problems)
        _check_registers(table, self, problems)
        problems.raise_if_any()

    # -- what it can do ----------------------------------------------------------------------------

    @property
    def sets(self) -> frozenset[str]:
        """What a setpoint tells the device: of p_mw, q_mvar, lease_s, seq. Empty: it can only be read."""
        return frozenset() if self._writer is None else self._writer.quantities - {"uid"}

    @property
    def reads(self) -> frozenset[str]:
        """The fields of ``Telemetry`` that the device gives."""
        return frozenset(self.quantities)

    @property
    def setpoint(self) -> SetpointTable | None:
        """How setpoints are sent; None = it can only be read."""
        return self.table.setpoint

    @property
    def host_id(self) -> str | None:
        """The Sparkplug host application that we are to its node; None = none."""
        return None if self.table.sparkplug is None else self.table.sparkplug.host_id

    @property
    def lives_by_availability(self) -> bool:
        """Whether its availability topics alone prove that it is there."""
        return self.table.liveness is not None and self.table.liveness.by == "availability"

    def is_heartbeat(self, topic: str) -> bool:
        """Whether a message on a topic is the heartbeat that proves life."""
        return any(p.match(topic) is not None for p in self._life_patterns)

    def proves_life(self, topic: str) -> bool:
        """Whether a live message on a topic of the device proves that its power is of now."""
        if self.table.liveness is None or self.is_heartbeat(topic):
            return True
        wanted = set(self.quantities["p_mw"].inputs)
        readers = [r for r in self.telemetry if wanted & r.inputs.keys()]
        return any(p.match(topic) is not None for r in readers for p in r.patterns)

    @property
    def has_answers(self) -> bool:
        """Whether the device answers each setpoint."""
        return bool(self.answers) or "ack_seq" in self.quantities

    @property
    def confirmed_by(self) -> Literal["answer", "power", "sent"]:
        """What confirms a setpoint."""
        confirm = None if self.setpoint is None else self.setpoint.confirm
        return confirm or ("answer" if self.has_answers and self.setpoint is not None else "sent")

    @property
    def has_release(self) -> bool:
        """Whether the mapping says how the device is handed back: by messages, or by a setpoint of zero."""
        return self.setpoint is not None and self.setpoint.release is not None

    @property
    def polled(self) -> frozenset[str]:
        """The registers that are read: those that something is made of; not those that are only written."""
        if self.registers is None:
            return frozenset()
        used = {name for q in self.quantities.values() for name in q.inputs}
        used |= set() if self._writer is None else self._writer.values.formula_names
        used |= {a.register for a in self.availability if a.register is not None}
        modbus = self.table.modbus or ModbusTable()
        used |= {name for name in (modbus.timestamp, modbus.changed_by) if name is not None}
        return frozenset(used & self.registers.registers.keys())

    def topics_of(self, quantity: str) -> tuple[str, ...]:
        """Return the topics that give one field of ``Telemetry``."""
        wanted = set(self.quantities[quantity].inputs) if quantity in self.quantities else set()
        found = [t for r in self.telemetry if wanted & r.inputs.keys() for t in r.table.topics]
        return tuple(dict.fromkeys(found))

    def topic_filters(self) -> tuple[str, ...]:
        """Return what to subscribe to."""
        found = [r.patterns for r in self.telemetry] + [r.patterns for r in self.availability]
        found += [r.patterns for r in self.answers]
        found.append(self._life_patterns)
        return tuple(dict.fromkeys(p.filter for patterns in found for p in patterns))

    def command_filters(self) -> tuple[str, ...]:
        """Return the topics on which commands are sent to the device, as filters; without keepalives."""
        return tuple(dict.fromkeys(TopicPattern(topic).filter for topic in self._command_topics()))

    def written_filters(self) -> tuple[str, ...]:
        """Return everything that is published for the device, as filters: also polls and Sparkplug's own."""
        found = [TopicPattern(topic).filter for _, topic in _sent_topics(self.table)]
        found += [SparkplugNode(r.node_topic).rebirth_topic for r in self.telemetry if r.node_topic]
        if self.host_id is not None:
            found.append(state_topic(self.host_id))
        return tuple(dict.fromkeys(found))

    def command_places(self) -> tuple[str, ...]:
        """Return the same for a claim: a level that is learned keeps its ``{name}`` until that is known."""
        found = ("/".join(map(self._place_level, topic.split("/"))) for topic in self._command_topics())
        return tuple(dict.fromkeys(found))

    def power_places(self) -> tuple[str, ...]:
        """Return where the device's power is set, for a claim: two names must not set the same place.

        For registers, a place is area and address. For topics, it is the topic with the member of the payload
        that has the power, and the constants beside it. Several devices may share a topic and differ in these
        constants. Names of values do not count, nor what else is sent with the power, and what is learned
        keeps its ``{name}``.
        """
        found = () if self._writer is None else self._writer.power_places(self._place_text)
        return tuple(dict.fromkeys(found))

    def _place_text(self, text: str) -> str:
        return PLACEHOLDER.sub(lambda found: found[0] if found[1] in self.learned else "+", text)

    def _command_topics(self) -> list[str]:
        return [topic for key, topic in _sent_topics(self.table) if not key.startswith("keepalive")]

    def _place_level(self, level: str) -> str:
        return level if self.learned.keys() >= set(PLACEHOLDER.findall(level)) else "+"

    @property
    def rated_mw(self) -> float | None:
        """What the mapping says the device is rated for, MW; None = it does not say."""
        tables: list[Any] = [t.fields[n] for t in self.table.telemetry for n in t.fields if n == "p_mw"]
        tables += [q for name, q in self.table.quantities.items() if name == "p_mw"]
        if self.setpoint is not None:
            tables += [v for v in self.setpoint.values.values() if v.quantity == "p_mw"]
        return min((t.rated_mw for t in tables if t.rated_mw is not None), default=None)

    # -- what is sent ------------------------------------------------------------------------------

    def beyond(self, setpoint: Setpoint) -> list[str]:
        """Return which limits of the mapping a power is beyond: it would send something else than meant."""
        writer = self._writer
        found = [] if writer is None else writer.values.beyond(setpoint, writer.made_of)
        if self.rated_mw is not None and abs(setpoint.p_mw) > self.rated_mw:
            found.append(f"rated_mw = {self.rated_mw:g}: {setpoint.p_mw:g} MW is more than the device has")
        return found

    def check_range(self, range_mw: tuple[float, float]) -> None:
        """Refuse a mapping that does not tell the powers of a device, and 0, apart; bound it to them.

        From here on what is rounded is not beyond the range either. The same range again costs nothing: who
        loads a mapping may know it, and what drives the device asks in any case.

        Args:
            range_mw: From the lowest to the highest power of the device, MW, positive = injected.

        Raises:
            ConfigError: Two powers of different sign would be sent alike, 0 would leave a power in force, or
                no power of a sign that the device has can be sent.
        """
        if self._writer is None or self._checked_range_mw == range_mw:
            return
        self._writer.values.bound_to(range_mw)
        if found := NameplateCheck(self._writer, range_mw, self.inputs).problems():
            raise ConfigError(*(f"{self.source}.setpoint.messages: {problem}" for problem in found))
        self._checked_range_mw = range_mw

    def power_numbers(self, p_mw: float) -> dict[str, float]:
        """Return what a power comes to in the device's own units, by value; formulas and words left out."""
        writer = self._writer
        return {} if writer is None else writer.values.power_numbers(p_mw, writer.made_of)

    @property
    def bounds_power(self) -> bool:
        """Whether the mapping bounds the power that is sent to the device, by ``min`` and ``max``."""
        return self._writer is None or self._writer.values.bounds_power(self._writer.made_of)

    def encode(self, setpoint: Setpoint, context: MessageContext | None = None) -> list[DeviceCommand]:
        """Return the messages that carry a setpoint, in the order in which to send them.

        Raises:
            ConfigError: The device can only be read.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        return self.write(setpoint, context or MessageContext(BuiltIns()))[0]

    def write(
        self, setpoint: Setpoint, context: MessageContext
    ) -> tuple[list[DeviceCommand], dict[str, RenderedValue]]:
        """Return the messages that carry a setpoint, and the values in them.

        Raises:
            ConfigError: The device can only be read.
            MessageError: A value is not finite, or something that the messages need is not known yet.
        """
        if self._writer is None:
            raise ConfigError(f"{self.source}: {self.name} takes no setpoints: its mapping has no 'setpoint'")
        return self._writer.encode(setpoint, context)

    def stop(self, context: MessageContext) -> tuple[ZeroMessages, dict[str, RenderedValue]]:
        """Return the messages of an emergency stop in their order, and the values in them.

        Raises:
            MessageError: Something that the messages need is not known, or gives no number.
        """
        assert self._writer is not None
        return self._writer.stop(context)

    def stop_in_part(self, context: MessageContext) -> tuple[ZeroMessages, dict[str, RenderedValue]]:
        """Return what of a stop can be computed, and the values that can.

        Raises:
            MessageError: Nothing can.
        """
        assert self._writer is not None
        return self._writer.stop_in_part(context)

    def releases_to_zero(self, context: MessageContext) -> bool:
        """Whether what hands the device back is no more than a setpoint of 0; where not known, not."""
        try:
            return self._writer is not None and self._writer.releases_to_zero(context)
        except MessageError:
            return False

    @property
    def stop_needs(self) -> dict[str, list[str]]:
        """The values without which 0 cannot be sent, each with the inputs of the device that it needs."""
        return {} if self._writer is None else self._writer.stop_needs

    @property
    def releases_by_messages(self) -> bool:
        """Whether messages of its own hand the device back; else a setpoint of 0 does, or nothing."""
        return self._writer is not None and self._writer.has_release

    def release(self, context: MessageContext | None = None) -> list[DeviceCommand]:
        """Return the messages that hand the device back to its own control.

        Raises:
            MessageError: Something that the messages need is not known yet.
        """
        context = context or MessageContext(BuiltIns())
        if self._writer is None:
            return []
        if self._writer.has_release:
            return self._writer.release(context)[0]
        return self._writer.stop(context)[0].messages

    def write_release(self, context: MessageContext) -> tuple[list[DeviceCommand], dict[str, RenderedValue]]:
        """Return the messages of ``[[setpoint.release]]``, and the values in them.

        Raises:
            MessageError: Something that the messages need is not known yet.
        """
        assert self._writer is not None
        return self._writer.release(context)

    def release_without_zero(self, context: MessageContext) -> list[DeviceCommand]:
        """Return what of those messages still helps a device that refuses one of them.

        Raises:
            MessageError: Something that the messages need is not known yet.
        """
        assert self._writer is not None
        return self._writer.release_without_zero(context)

    @property
    def fixed_words(self) -> frozenset[tuple[str, int, int]]:
        """What setpoints write into registers whatever the power is: area, address, word."""
        return frozenset() if self._writer is None else self._writer.fixed_words

    # -- compiling ---------------------------------------------------------------------------------

    def _complain_of(self, index: int, problems: Problems) -> Complain:
        """Return what notes problems of what is read, where the user wrote it."""
        if self.registers is None:
            return problems.at(f"telemetry[{index}]")
        return lambda key, text: problems.add(f"registers.{key.removeprefix('inputs.')}", text)

    def _gather_inputs(self, problems: Problems) -> dict[str, InputReader]:
        found: dict[str, InputReader] = {}
        for i, reader in enumerate(self.telemetry):
            place = self._complain_of(i, problems)
            for name in reader.table.inputs:
                if name in {"p_mw", "q_mvar", "soc", "vm_pu", "running", "ack_seq", "lease_s", "seq", *NAMES}:
                    place(f"inputs.{name}", "is the name of a quantity; choose another")
                    continue
                if iskeyword(name) or name in {"true", "false", "pi"}:
                    place(f"inputs.{name}", "is a keyword of formulas; choose another name")
                    continue
                made = reader.inputs[name]
                if name in found and found[name].kind != made.kind:
                    place(
                        f"inputs.{name}",
                        f"is a {made.kind} here and a {found[name].kind} elsewhere; expected the same",
                    )
                found.setdefault(name, made)
        for i, reader in enumerate(self.telemetry):
            where = f"telemetry[{i}]" if self.registers is None else "modbus"
            for key in ("timestamp", "changed_by"):
                name = getattr(reader.table, key)
                if name is None:
                    continue
                if name not in found:
                    problems.add(
                        f"{where}.{key}",
                        f"there is no input {name!r}; there are {', '.join(found) or 'none'}",
                    )
                elif key == "timestamp" and found[name].kind != "time":
                    problems.add(
                        f"{where}.timestamp",
                        f'input {name} must be a time: give it time = "unix_s" or so',
                    )
        return found

    def _make_quantities(self, table: MappingTable, problems: Problems) -> dict[str, Quantity]:
        found: dict[str, Quantity] = {}
        places: dict[str, str] = {}
        tables: list[tuple[str, str, FieldTable | QuantityTable]] = [
            *(
                (name, f"telemetry[{i}].fields.{name}", field)
                for i, t in enumerate(table.telemetry)
                for name, field in t.fields.items()
            ),
            *((name, f"quantities.{name}", q) for name, q in table.quantities.items()),
        ]
        for name, key, each in tables:
            if name in places and name != "ack_seq":
                problems.add(
                    key,
                    f"{name} has a source already, {places[name]}: name both as inputs and say by "
                    f"[quantities.{name}] what it is (a + b, a - b); or give both inputs one name, then the "
                    "newest counts",
                )
                continue
            places[name] = key
            found[name] = Quantity(name, each, self.inputs, problems.at(key))
        return found


def _check_topics(table: MappingTable, mapping: DeviceMapping, problems: Problems) -> None:
    read: list[TopicPattern] = [p for r in mapping.telemetry if r.node_topic is None for p in r.patterns]
    read += [p for r in mapping.availability for p in r.patterns]
    read += [p for r in mapping.answers for p in r.patterns]
    seen: set[str] = set()
    for i, availability in enumerate(mapping.availability):
        if availability.topic in seen:
            problems.add(f"availability[{i}].topic", f"{availability.topic!r} is there already")
        seen.add(availability.topic)
    for key, topic in _sent_topics(table):
        plain = PLACEHOLDER.sub("x", topic)
        try:
            topics.check_channel(plain)
        except ValueError as exc:
            problems.add(f"{key}.topic", str(exc))
        if key.startswith("setpoint") and any(topic == p.text or p.match(plain) is not None for p in read):
            problems.add(
                f"{key}.topic", f"{topic!r} is read too: the device's own messages and ours would mix"
            )


def _check_liveness(table: MappingTable, mapping: DeviceMapping, problems: Problems) -> None:
    """Complain where nothing would prove that a device is there which reports only what changes."""
    life = table.liveness
    if life is None:
        for i, each in enumerate(table.telemetry):
            if each.reports == "on_change":
                problems.add(
                    f"telemetry[{i}].reports",
                    "'on_change' needs [liveness], which proves that it is there while nothing changes",
                )
        return
    if life.by == "poll" and not table.keepalive:
        problems.add("liveness.by", "'poll' needs a [[keepalive]] that asks")
    if life.by == "availability":
        if not table.availability:
            problems.add("liveness.by", "'availability' needs [[availability]]")
        for i, told in enumerate(table.availability):
            if not told.online or not told.offline:
                text = "must list the words of both online and offline: they prove life"
                problems.add(f"availability[{i}]", text)
    power = mapping.quantities.get("p_mw")
    on_change = {n for r in mapping.telemetry for n, each in r.inputs.items() if each.on_change}
    if power is None or not set(power.inputs) <= on_change:
        problems.add("liveness", "p_mw is reported always, which proves it; give its telemetry reports")
    elif mapping.setpoint is not None and mapping.setpoint.confirm == "power":
        problems.add(
            "setpoint.confirm", "'power': a power that stays as it is is not reported, so it cannot confirm"
        )


def _check_registers(table: MappingTable, mapping: DeviceMapping, problems: Problems) -> None:
    """Complain about topics on Modbus, and registers on MQTT."""
    registers = mapping.registers
    for i, availability in enumerate(table.availability):
        name, key = availability.register_, f"availability[{i}]"
        if (name is None) != (registers is None):
            problems.add(
                key, f"the device is on {'Modbus: give register' if registers else 'MQTT: give topic'}"
            )
        elif registers is not None and name not in registers.registers:
            problems.add(f"{key}.register", f"[registers] has no {name!r}")
    for i, keepalive in enumerate(table.keepalive):
        if (keepalive.registers is None) != (registers is None):
            wanted = "Modbus: give registers" if registers else "MQTT: give topic"
            problems.add(f"keepalive[{i}]", f"the device is on {wanted}")
        elif registers is not None and keepalive.registers is not None:
            registers.check_written(f"keepalive[{i}]", keepalive.registers, problems)
    if registers is None:
        return
    if table.setpoint is not None and table.setpoint.answers:
        problems.add(
            "setpoint.answers", "a device on Modbus has none: it answers each write (read_back in a message)"
        )
    if table.sparkplug is not None:
        problems.add("sparkplug", "the device is on Modbus; leave it out")
    if table.liveness is not None:
        problems.add("liveness", "the device is on Modbus: each reading proves it; leave it out")


def _sent_topics(table: MappingTable) -> Iterator[tuple[str, str]]:
    if table.setpoint is not None:
        for i, message in enumerate(table.setpoint.messages):
            if message.topic is not None:
                yield f"setpoint.messages[{i}]", message.topic
        if isinstance(table.setpoint.release, list):
            for i, message in enumerate(table.setpoint.release):
                if message.topic is not None:
                    yield f"setpoint.release[{i}]", message.topic
    for i, keepalive in enumerate(table.keepalive):
        if keepalive.topic is not None:
            yield f"keepalive[{i}]", keepalive.topic
