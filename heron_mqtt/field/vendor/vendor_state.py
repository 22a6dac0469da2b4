"""What is known of one vendor's device: inputs with their age, quantities made of them, presence.

``take`` takes payloads in; nothing here does I/O, and every time is handed in. ``report`` says of each input
and quantity what it is and, where it is not known, why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.heard_intervals import HeardIntervals
from heron_mqtt.field.vendor.inputs import InputValue, MissingValue
from heron_mqtt.field.vendor.known_inputs import KnownInput, KnownInputs
from heron_mqtt.field.vendor.learned_levels import LearnedLevels, LevelNote
from heron_mqtt.field.vendor.payloads import MAX_PAYLOAD_BYTES, sample
from heron_mqtt.field.vendor.presence_state import PresenceState
from heron_mqtt.field.vendor.quantities import Quantity, QuantityValue
from heron_mqtt.field.vendor.rounds import TopicRound
from heron_mqtt.field.vendor.sparkplug_node import REBIRTH_S, SparkplugNode
from heron_mqtt.field.vendor.telemetry import AvailabilityReader, ReadResult, TelemetryReader
from heron_mqtt.field.vendor.words import word_text
from heron_mqtt.messages import Status, Telemetry

TOGETHER_S = 0.2
"""How long values that are sent only when they change wait for others that change with them, s."""


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """What one payload changed.

    Attributes:
        fields: Field of ``Telemetry`` -> its new value, for those that were measured just now.
        problems: What could not be read, one line each, with the topic.
        notes: What people should know of learned levels, each once.
    """

    fields: Mapping[str, QuantityValue] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[LevelNote, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One input or quantity, for people.

    Attributes:
        name: Of the input, or of the field of ``Telemetry``.
        topics: Where it comes from.
        value: None = not known.
        age_s: Of the value, s; infinite where it is not known.
        payloads: How many have come on its topics.
        sample: The beginning of the last of them.
        why: Why there is no value, or none new.
    """

    name: str
    topics: tuple[str, ...]
    value: Any
    age_s: float
    payloads: int
    sample: str
    why: str


class VendorState:
    """What is known of one device.

    Times are of any one clock that does not go back, s.

    Args:
        mapping: Of the device.
        utc_s: The time of day, s since 1970, to which timestamps in payloads are compared.
        keeps_instance: Whether an instance that was learned has still to be told something.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        utc_s: Callable[[], float] = time.time,
        *,
        keeps_instance: Callable[[], bool] = lambda: False,
    ) -> None:
        self._mapping = mapping
        self._inputs = KnownInputs(mapping.telemetry, utc_s)
        # And since when; None = while it is heard.
        self._values: dict[str, tuple[QuantityValue, float | None]] = {}
        self._why: dict[str, str] = {}
        self._rounds = {
            name: TopicRound([n for n in q.inputs if n not in self._inputs.on_change], q.within_s)
            for name, q in mapping.quantities.items()
            if q.waits_for_round
        }
        self._due: dict[str, float] = {}
        self._nodes = {r.node_topic: SparkplugNode(r.node_topic) for r in mapping.telemetry if r.node_topic}
        self._asked_at: dict[str, float] = {}
        self.births_wanted: list[str] = []
        """Topics of Sparkplug nodes whose birth should be requested; the caller then empties the list."""
        self._presence = PresenceState(mapping.availability)
        self._levels = LearnedLevels(mapping.learned, keeps_instance)
        self._heard_at = -math.inf
        self.heard = HeardIntervals()
        """When it was heard itself."""

    # -- in ----------------------------------------------------------------------------------------

    def take(self, topic: str, payload: bytes, now_s: float, *, retained: bool = False) -> StateUpdate | None:
        """Take one payload in; returns what it changed, None if the topic is not of this device.

        What cannot be read is left out and told, the rest counts.

        Args:
            topic: Where it arrived.
            payload: As it arrived.
            now_s: When.
            retained: The broker had kept it: since when it holds is not known, so its values have no age.
        """
        readers = [(r, found) for r in self._mapping.telemetry if (found := _match(r, topic)) is not None]
        availability = [
            (a, found) for a in self._mapping.availability if (found := _match(a, topic)) is not None
        ]
        is_heartbeat = self._mapping.is_heartbeat(topic)
        if not readers and not availability and not is_heartbeat:
            return None
        if len(payload) > MAX_PAYLOAD_BYTES:
            return StateUpdate(
                problems=(f"{topic}: payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}",)
            )
        fields: dict[str, QuantityValue] = {}
        problems: list[str] = []
        notes: list[LevelNote] = []
        taken: list[tuple[TelemetryReader, ReadResult | None]] = []
        is_of_device = bool(availability) or is_heartbeat
        for reader, found in readers:
            if reader.node_topic is not None:
                is_of_device = True
                taken.append((reader, None))
                continue
            if reader.has_instances and not self._levels.takes(found, now_s, retained, notes):
                is_of_device = True
                continue
            try:
                document = reader.parse(payload) if payload else None
                why_not = reader.why_not(document) if payload else None
                if why_not is not None:
                    self._inputs.note_declined(reader, payload, why_not)
                    continue
                taken.append((reader, reader.read(document) if payload else reader.nothing()))
            except MessageError as exc:
                problems.append(f"{topic}: {exc}")
                self._inputs.note_unreadable(reader, payload, str(exc))
            is_of_device = True
        if is_of_device and not retained and self._mapping.proves_life(topic):
            self._heard_at = now_s
            if readers or is_heartbeat:  # of its end its broker tells
                self.heard.note(now_s)
        for reader, read in taken:
            if read is None:
                fields |= self._take_node(reader, topic, payload, now_s, retained, problems)
                continue
            problems += [f"{topic}: {p}" for p in read.problems.values()]
            fields |= self._take_found(reader, topic, read, sample(payload), now_s, retained, problems)
        was = self._presence.status()
        for each, found in availability:
            if not self._levels.takes(found, now_s, retained, notes):
                continue
            try:
                self._presence.take(each, topic, payload, now_s, retained=retained)
            except MessageError as exc:
                problems.append(f"{topic}: {exc}")
        if (now := self._presence.status()) is not None and now.state == "offline" and now != was:
            self.doubt("not reported since the device went offline")
        return StateUpdate(fields, tuple(problems), tuple(notes))

    def _take_node(
        self,
        reader: TelemetryReader,
        topic: str,
        payload: bytes,
        now_s: float,
        retained: bool,
        problems: list[str],
    ) -> dict[str, QuantityValue]:
        """Take in a message of a Sparkplug node: data, a birth, or a death."""
        assert reader.node_topic is not None
        node = self._nodes[reader.node_topic]
        try:
            news = node.take(topic, payload)
        except MessageError as exc:
            problems.append(f"{topic}: {exc}")
            self._inputs.note_unreadable(reader, payload, str(exc))
            return {}
        problems += [f"{topic}: {p}" for p in news.problems]
        if news.needs_birth:
            self._want_birth(node, now_s)
        if news.state is not None:
            reason = None if news.state == "online" else f"{topic}: it has died"
            status = Status.model_validate({"state": news.state, "reason": reason})
            self._presence.say(node.topic, status, now_s, retained=retained)
        if news.values is None:
            return {}
        shown = ", ".join(f"{name} = {value!r}" for name, value in news.values.items())[:60]
        return self._take_found(reader, topic, reader.read(news.values), shown, now_s, retained, problems)

    def take_document(
        self,
        topic: str,
        document: Mapping[str, Any],
        now_s: float,
        *,
        shown: Mapping[str, str] | None = None,
        unread: Mapping[str, Sequence[str]] | None = None,
    ) -> StateUpdate | None:
        """Take in what was read otherwise than by MQTT, such as registers.

        Args:
            topic: The ``topic`` of the tables that are to read it.
            document: Name -> value, in which a ``path`` finds it; not parsed.
            now_s: When it was read.
            shown: Name -> how the value looks where it stands, for people.
            unread: Why something could not be read -> the names that it harms.
        """
        readers = [r for r in self._mapping.telemetry if _match(r, topic) is not None]
        if not readers:
            return None
        if document:
            self._heard_at = now_s
        lost = {name: why for why, names in (unread or {}).items() for name in names}
        fields: dict[str, QuantityValue] = {}
        problems = [f"{topic}: {why} ({', '.join(names)})" for why, names in (unread or {}).items()]
        for reader in readers:
            for name in reader.inputs.keys() & lost.keys():
                self._inputs[name].why = lost[name]
            read = reader.read(document, names=None if shown is None else document.keys())
            problems += [f"{topic}: {p}" for p in read.problems.values()]
            sample = repr(document)[:60] if shown is None else shown
            fields |= self._take_found(reader, topic, read, sample, now_s, False, problems)
            self._take_registers_of_presence(read, now_s, problems)
        return StateUpdate(fields, tuple(problems))

    def _take_registers_of_presence(self, read: ReadResult, now_s: float, problems: list[str]) -> None:
        for each in self._mapping.availability:
            value = None if each.register is None else read.values.get(each.register)
            if value is None or isinstance(value, MissingValue | list):
                continue
            try:
                self._presence.take(each, each.topic, word_text(value).encode(), now_s)
            except MessageError as exc:
                problems.append(f"{each.topic}: {exc}")

    def connected(self, now_s: float) -> None:
        """Take in that there is a connection to the broker, which would tell of the device's end.

        Where availability proves life, what the device reported last is of now while that says online.
        """
        if self._mapping.lives_by_availability and self._presence.is_surely_online(now_s):
            self._heard_at = now_s

    def _want_birth(self, node: SparkplugNode, now_s: float) -> None:
        if now_s - self._asked_at.get(node.topic, -math.inf) >= REBIRTH_S:
            self._asked_at[node.topic] = now_s
            self.births_wanted.append(node.rebirth_topic)

    def reconnected(self, now_s: float) -> None:
        """Forget that what is known of presence was heard live: retained messages count again.

        The birth of a Sparkplug node is not retained, and it alone says that the node is there: it is wanted.
        """
        self._presence.reconnected()
        for node in self._nodes.values():
            if node.is_born:
                self._want_birth(node, now_s)
        self.doubt("not reported since the connection was lost")

    def doubt(self, why: str) -> None:
        """Forget what is reported only on change: another report may have been missed.

        Where ``[liveness]`` says what proves life; it does not prove that nothing was missed.
        """
        if self._mapping.table.liveness is None:
            return
        self._inputs.forget_changes(why)
        for quantity in self._mapping.quantities.values():
            if self._inputs.on_change & set(quantity.inputs):
                self._values.pop(quantity.name, None)
                self._due.pop(quantity.name, None)

    # -- quantities --------------------------------------------------------------------------------

    def _take_found(
        self,
        reader: TelemetryReader,
        topic: str,
        found: ReadResult,
        shown: str | Mapping[str, str],
        now_s: float,
        retained: bool,
        problems: list[str],
    ) -> dict[str, QuantityValue]:
        news = self._inputs.take(reader, topic, found, shown, now_s, retained=retained)
        problems += news.problems
        if news.is_old:
            self._make_of_old(reader)
            return {}
        return self._make(reader, topic, news.new, news.cleared, now_s, problems)

    def _make_of_old(self, reader: TelemetryReader) -> None:
        """Make the values for which there is nothing newer; they have no age."""
        for quantity in self._mapping.quantities.values():
            if quantity.name in self._values or not set(quantity.inputs) & reader.inputs.keys():
                continue
            if all(self._inputs[n].is_known for n in quantity.inputs):
                try:
                    self._values[quantity.name] = (self._compute(quantity), self._since(quantity))
                except MessageError as exc:
                    self._why[quantity.name] = str(exc)

    def _make(
        self,
        reader: TelemetryReader,
        topic: str,
        new: Set[str],
        cleared: Set[str],
        now_s: float,
        problems: list[str],
    ) -> dict[str, QuantityValue]:
        made: dict[str, QuantityValue] = {}
        for quantity in self._mapping.quantities.values():
            used = set(quantity.inputs)
            if used & cleared:
                self._values.pop(quantity.name, None)
            if not used & new or not self._is_complete(quantity, reader, used & new, now_s):
                continue
            self._publish(quantity, now_s, made, problems, f"{topic}: ")
        return made

    def _publish(
        self,
        quantity: Quantity,
        now_s: float,
        made: dict[str, QuantityValue],
        problems: list[str],
        where: str = "",
    ) -> None:
        try:
            value = self._compute(quantity)
        except MessageError as exc:
            self._why[quantity.name] = str(exc)
            problems.append(f"{where}{exc}")
            return
        self._why.pop(quantity.name, None)
        self._values[quantity.name] = (value, self._since(quantity))
        if self.age_s(quantity.name, now_s) < math.inf:
            made[quantity.name] = value

    def _compute(self, quantity: Quantity) -> QuantityValue:
        return quantity.value({name: self._inputs[name].value for name in quantity.inputs})

    def _is_complete(self, quantity: Quantity, reader: TelemetryReader, new: Set[str], now_s: float) -> bool:
        """Whether a value can be made now of what belongs together."""
        is_whole = quantity.name in self._rounds and self._rounds[quantity.name].add(new, now_s)
        if not all(self._inputs[name].is_known for name in quantity.inputs):
            return False
        if set(quantity.inputs) <= reader.inputs.keys():
            return True  # all of one payload
        waited_for = [name for name in quantity.inputs if name not in self._inputs.on_change]
        if not waited_for:
            self._due.setdefault(quantity.name, now_s + TOGETHER_S)
            return False
        if not quantity.waits_for_round:
            return all(now_s - self._inputs[name].at <= quantity.within_s for name in waited_for)
        return is_whole

    def _since(self, quantity: Quantity) -> float | None:
        ages = [self._inputs[name].at for name in quantity.inputs if name not in self._inputs.on_change]
        return min(ages) if ages else None

    @property
    def due_s(self) -> float | None:
        """When ``settle`` has something to do; None = not."""
        return min(self._due.values(), default=None)

    def settle(self, now_s: float) -> StateUpdate:
        """Make the values that have waited for others to change with them."""
        made: dict[str, QuantityValue] = {}
        problems: list[str] = []
        for name in [n for n, at in self._due.items() if at <= now_s]:
            del self._due[name]
            self._publish(self._mapping.quantities[name], now_s, made, problems)
        return StateUpdate(made, tuple(problems))

    # -- presence ----------------------------------------------------------------------------------

    def status(self, now_s: float | None = None) -> Status | None:
        """Return the worst last state of any availability topic, or its silence; None if none has published.

        Args:
            now_s: None = silence is not looked at.
        """
        return self._presence.status(now_s)

    def is_alive(self, now_s: float, within_s: float) -> bool:
        """Whether it has proven within so many s that it is there, by a power, a heartbeat, or as online."""
        return now_s - self._heard_at <= within_s or self._presence.is_surely_online(now_s)

    @property
    def proven_at(self) -> float:
        """When the device last gave a sign of life, s; -inf: never."""
        return self._heard_at

    @property
    def is_heard(self) -> bool:
        """Whether anything has come live."""
        return self._heard_at > -math.inf

    # -- learned -----------------------------------------------------------------------------------

    @property
    def learned(self) -> dict[str, str]:
        """Parameters that were learned from topics."""
        return self._levels.values

    @property
    def inputs(self) -> dict[str, InputValue]:
        """Named inputs that are known."""
        return self._inputs.values()

    # -- out ---------------------------------------------------------------------------------------

    def telemetry(self, now_s: float = 0.0, max_age_s: float = math.inf) -> Telemetry | None:
        """Return all that is known, or None while the power is not, or is older than ``max_age_s``.

        The other quantities have no limit: a state of charge that is a minute old is still one. While the
        device is offline those count for which the mapping says what they are then.
        """
        values = {name: value for name, (value, _) in self._values.items()}
        offline = self.offline_values(now_s)
        if "p_mw" not in offline and ("p_mw" not in values or self.age_s("p_mw", now_s) > max_age_s):
            return None
        return Telemetry.model_validate({**values, **offline})

    def offline_values(self, now_s: float | None = None) -> dict[str, QuantityValue]:
        """Return what the mapping says of quantities while the device is offline; empty while it is not."""
        status = self.status(now_s)
        if status is None or status.state != "offline":
            return {}
        return {n: v for n, q in self._mapping.quantities.items() if (v := q.offline) is not None}

    def age_s(self, quantity: str, now_s: float) -> float:
        """Return the age of a quantity's value, s; infinite if it is not known, or its age is not."""
        if quantity not in self._values:
            return math.inf
        since = self._values[quantity][1]
        return now_s - (self._heard_at if since is None else since)

    def ages_s(self, now_s: float) -> dict[str, float]:
        """Return quantity -> age of its value, s; infinite for values that the broker had kept."""
        return {name: self.age_s(name, now_s) for name in self._values}

    def missing(self) -> tuple[str, ...]:
        """Return the quantities that the mapping reads and for which there is no value."""
        return tuple(sorted(self._mapping.reads - self._values.keys()))

    def report(self, now_s: float) -> list[ReportLine]:
        """Return every quantity, and every named input, with what it is or why it is not known."""
        lines = []
        for name, quantity in self._mapping.quantities.items():
            known = [self._inputs[n] for n in quantity.inputs]
            value = self._values[name][0] if name in self._values else None
            newest = max(known, key=lambda k: k.payloads)
            lines.append(
                ReportLine(
                    name,
                    self._mapping.topics_of(name),
                    value,
                    self.age_s(name, now_s),
                    sum(k.payloads for k in known),
                    newest.sample,
                    self.why(name, now_s),
                )
            )
        for name, each in self._inputs.items():
            if name not in self._mapping.quantities:
                lines.append(
                    ReportLine(
                        name, each.topics, each.value, now_s - each.at, each.payloads, each.sample, each.why
                    )
                )
        return lines

    def why(self, quantity: str, now_s: float) -> str:
        """Return why a quantity has no value, or none new; empty if it has."""
        made_of = self._mapping.quantities[quantity]
        if quantity in self._why:
            return self._why[quantity]
        lacking = [
            f"{_named(name, self._inputs[name])}: {self._inputs[name].why}"
            for name in made_of.inputs
            if not self._inputs[name].is_known
            or (self._inputs[name].at == -math.inf and self._inputs[name].why)
        ]
        if lacking:
            return "; ".join(lacking)
        if len(made_of.inputs) > 1 and (waiting := self._waiting_for(made_of, now_s)):
            return (
                f"waits for {', '.join(waiting)}; an input that is sent only when it changes "
                "needs on_change = true"
            )
        return "; ".join(k.why for k in (self._inputs[n] for n in made_of.inputs) if k.why)

    def _waiting_for(self, quantity: Quantity, now_s: float) -> list[str]:
        current = self._rounds.get(quantity.name)
        names = [] if current is None else current.missing()
        return [f"{_named(n, self._inputs[n])} (last {now_s - self._inputs[n].at:.0f} s ago)" for n in names]


def _named(name: str, known: KnownInput) -> str:
    return f"{name} ({', '.join(known.topics)})"


def _match(reader: TelemetryReader | AvailabilityReader, topic: str) -> dict[str, str] | None:
    found: Iterable[dict[str, str] | None] = (p.match(topic) for p in reader.patterns)
    return next((f for f in found if f is not None), None)
