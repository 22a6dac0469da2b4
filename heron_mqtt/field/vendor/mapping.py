"""A vendor's topics and payloads <-> our messages, from configuration alone.

``load_mapping`` finds every mistake of a mapping; the ``DeviceMapping`` it returns translates, without
I/O. ``field.box`` merges what the topics of one box say. docs/device-mappings.md describes the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.config import read_toml, shipped_config, validate
from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor._mapping.incoming import (
    MAX_PAYLOAD_BYTES,
    AvailabilityReader,
    TelemetryReader,
    Value,
)
from heron_mqtt.field.vendor._mapping.outgoing import Outgoing, SetpointWriter, payload_bytes
from heron_mqtt.field.vendor._mapping.parameters import check_use, fill, gather, placeholders
from heron_mqtt.field.vendor._mapping.problems import Problems
from heron_mqtt.field.vendor._mapping.tables import MappingTable
from heron_mqtt.messages import Setpoint, Status
from heron_mqtt.messaging import topics

__all__ = ["Decoded", "DeviceMapping", "Keepalive", "Outgoing", "load_mapping"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one payload of a box said.

    Attributes:
        fields: Field of ``Telemetry`` -> value; None = no longer known. p_mw MW and q_mvar Mvar, positive =
            injected; soc in [0, 1]; vm_pu; running; ack_seq.
        status: Presence, if the topic tells it.
    """

    fields: Mapping[str, Value | None]
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A message that makes a box go on talking: ``first`` after each connection, then ``again``."""

    first: Outgoing
    again: Outgoing
    period_s: float


class DeviceMapping:
    """A compiled mapping for one device.

    Args:
        table: The mapping, its placeholders filled in.
        source: Where it stands, for errors.

    Raises:
        ConfigError: One line for each mistake: source, key and what was expected.
    """

    def __init__(self, table: MappingTable, source: str) -> None:
        problems = Problems(source)
        self.name = table.name
        self.source = source
        self._writer = None if table.setpoint is None else SetpointWriter(table.setpoint, problems)
        self._telemetry: dict[str, list[TelemetryReader]] = {}
        self._availability: dict[str, AvailabilityReader] = {}
        for i, telemetry in enumerate(table.telemetry):
            reader = TelemetryReader(telemetry, problems.at(f"telemetry[{i}]"))
            self._telemetry.setdefault(telemetry.topic, []).append(reader)
        for i, availability in enumerate(table.availability):
            if availability.topic in self._availability:
                problems.add(f"availability[{i}].topic", f"{availability.topic!r} is there already")
            self._availability[availability.topic] = AvailabilityReader(
                availability, problems.at(f"availability[{i}]")
            )
        if "p_mw" not in self.reads:
            problems.add("telemetry", "no topic gives p_mw; without it there is no telemetry")
        self._keepalives = tuple(
            Keepalive(
                Outgoing(k.topic, payload_bytes(first, {}), k.qos, False),
                Outgoing(k.topic, payload_bytes(k.payload, {}), k.qos, False),
                k.period_s,
            )
            for k in table.keepalive
            for first in [k.payload if k.first_payload is None else k.first_payload]
        )
        _check_topics(table, problems)
        problems.raise_if_any()

    @property
    def sets(self) -> frozenset[str]:
        """What a setpoint tells the box: of p_mw, q_mvar, lease_s, seq. Empty: the box can only be read."""
        return frozenset() if self._writer is None else self._writer.quantities

    @property
    def reads(self) -> frozenset[str]:
        """The fields of ``Telemetry`` that the box gives."""
        return frozenset(
            f.quantity for readers in self._telemetry.values() for r in readers for f in r.fields
        )

    def topics_of(self, quantity: str) -> tuple[str, ...]:
        """Return the topics that give one field of ``Telemetry``."""
        return tuple(
            topic
            for topic, readers in self._telemetry.items()
            if any(f.quantity == quantity for r in readers for f in r.fields)
        )

    def topic_filters(self) -> tuple[str, ...]:
        """Return the topics to subscribe to; none has a wildcard."""
        return tuple(dict.fromkeys((*self._telemetry, *self._availability)))

    def keepalives(self) -> tuple[Keepalive, ...]:
        """Return the messages to repeat for as long as the box is watched."""
        return self._keepalives

    def encode(self, setpoint: Setpoint) -> list[Outgoing]:
        """Return the messages that carry a setpoint, in the order in which to send them.

        Raises:
            ConfigError: The box can only be read.
            MessageError: A value is not finite.
        """
        if self._writer is None:
            raise ConfigError(f"{self.source}: {self.name} takes no setpoints: its mapping has no 'setpoint'")
        return self._writer.encode(setpoint)

    def decode(self, topic: str, payload: bytes) -> Decoded | None:
        """Return what a payload says; None if the topic is not of this box.

        Raises:
            MessageError: The payload does not fit: topic, expression, what was found, what was expected.
        """
        readers, availability = self._telemetry.get(topic, []), self._availability.get(topic)
        if not readers and availability is None:
            return None
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise MessageError(f"{topic}: payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
        fields: dict[str, Value | None] = {}
        status = None
        try:
            for reader in readers:
                fields.update(reader.read(payload))
            if availability is not None:
                state, word = availability.read(payload)
                status = Status(state=state, reason=None if state == "online" else f"{topic}: {word}"[:500])
        except MessageError as exc:
            raise MessageError(f"{topic}: {exc}") from None
        return Decoded(fields, status)


def load_mapping(
    given: str | Mapping[str, Any],
    *,
    agent: str,
    device: str,
    source: str,
    find: Callable[[str], Path] | None = None,
) -> DeviceMapping:
    """Return the mapping that a scenario gives for a device.

    Args:
        given: The name of a profile file, or a table: a mapping, or ``profile`` with ``parameters`` and
            whatever of the profile's tables is to be replaced.
        agent: Fills ``{agent}``, escaped as in our own topics.
        device: Fills ``{device}``, likewise.
        source: File and key of the mapping, for errors.
        find: Finds a profile file; by default among the shipped ones.

    Raises:
        ConfigError: One line for each mistake: source, key and what was expected.
    """
    own: dict[str, Any] = {"profile": given} if isinstance(given, str) else dict(given)
    profile = own.pop("profile", None)
    base: dict[str, Any] = {}
    if profile is not None:
        path = _profile_path(profile, source, find)
        base = read_toml(path)
        source = f"{source} (profile {path})"
    parameters, declared = own.pop("parameters", {}), base.pop("parameters", {})
    if not isinstance(parameters, Mapping) or not isinstance(declared, Mapping):
        raise ConfigError(f"{source}: parameters: expected a table, name = value")
    problems = Problems(source)
    data = {**base, **own}
    built_in = {"agent": topics.escape(agent), "device": topics.escape(device)}
    values = gather(declared, parameters, placeholders(data), problems)
    setpoint = data.get("setpoint")
    names = setpoint.get("values") if isinstance(setpoint, Mapping) else None
    check_use(
        data,
        set(declared),
        set(parameters),
        set(built_in),
        set(names) if isinstance(names, Mapping) else set(),
        problems,
    )
    problems.raise_if_any()
    filled = {**fill(data, {**values, **built_in}), "parameters": values}
    return DeviceMapping(validate(MappingTable, filled, source), source)


def _profile_path(profile: Any, source: str, find: Callable[[str], Path] | None) -> Path:
    shipped = shipped_config()
    path = (find or shipped.joinpath)(profile) if isinstance(profile, str) and profile else None
    if path is None or not path.is_file():
        known = ", ".join(f"device_profiles/{p.name}" for p in sorted(shipped.glob("device_profiles/*.toml")))
        raise ConfigError(f"{source}: profile = {profile!r}: no such file; shipped profiles are {known}")
    return path


def _check_topics(table: MappingTable, problems: Problems) -> None:
    read = {t.topic for t in table.telemetry} | {a.topic for a in table.availability}
    messages = [] if table.setpoint is None else table.setpoint.messages
    named = [
        *((f"setpoint.messages[{i}]", m.topic) for i, m in enumerate(messages)),
        *((f"telemetry[{i}]", t.topic) for i, t in enumerate(table.telemetry)),
        *((f"availability[{i}]", a.topic) for i, a in enumerate(table.availability)),
        *((f"keepalive[{i}]", k.topic) for i, k in enumerate(table.keepalive)),
    ]
    for key, topic in named:
        try:
            topics.check_channel(topic)
        except ValueError as exc:
            problems.add(f"{key}.topic", str(exc))
        if key.startswith("setpoint") and topic in read:
            problems.add(f"{key}.topic", f"{topic!r} is read too: the box's own words and ours would mix")
