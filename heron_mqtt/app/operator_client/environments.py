"""Environments as a broker shows them: who is there, and which one is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from heron_mqtt.app.operator_client.observer import PRESENCE, Heard, Observer
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.errors import MessageError, NotReady
from heron_mqtt.field.emergency_stop import StopRegister, is_at_rest, is_reactive_at_rest
from heron_mqtt.field.gateway.authority import SENDS
from heron_mqtt.field.telemetry_order import TelemetryOrder
from heron_mqtt.json_object import Json
from heron_mqtt.messages import (
    AuthorityState,
    LeaseState,
    M,
    OutboxReport,
    Owner,
    RunState,
    Status,
    StopConfirm,
    Telemetry,
    parse_known_fields,
    shortened,
)
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.subscription import Received
from heron_mqtt.messaging.fields_reader import FieldsReader
from heron_mqtt.units import KW_PER_MW

MAX_NAMES = 10_000  # environments, agents and devices come from the network: what is kept stays bounded
MAX_OUTBOXES = 1_000
PRESENT = {"online", "fault"}
GOING = {"reset", "running"}

TELEMETRY = FieldsReader(Telemetry)
"""Most of what is heard is telemetry."""


@dataclass(slots=True)
class AgentSeen:
    """What is known of one agent."""

    status: Status | None = None
    status_at_s: float = 0.0
    """When it came, by the loop's clock."""
    owner: Owner | None = None
    confirm: StopConfirm | None = None
    """The newest confirmation of a stop or release that was heard live."""
    confirm_at_s: float = 0.0
    """When it came, by the loop's clock."""

    @property
    def is_present(self) -> bool:
        """Whether it is there, by its own messages."""
        return self.status is not None and self.status.state in PRESENT


@dataclass(slots=True)
class DeviceSeen(AgentSeen):
    """What is known of one device."""

    telemetry: Json | None = None
    """Fields of the newest that was heard live, as in ``Telemetry``; what the broker had kept has no age."""
    telemetry_at_s: float = 0.0
    order: TelemetryOrder = field(default_factory=TelemetryOrder)
    """Of the telemetry that was heard live."""
    numbers: int = 0
    """Telemetry of its present life that was heard live with a number, each above the one before."""
    authority: AuthorityState | None = None
    lease: LeaseState | None = None

    @property
    def is_present(self) -> bool:
        """Whether it is there: by its own messages, or because one has just come."""
        if self.status is None:
            return self.telemetry is not None
        return self.status.state in PRESENT

    def take_telemetry(self, told: Json, at_s: float) -> bool:
        """Take live telemetry, if it is new; return whether it is.

        Args:
            told: Its fields, as in ``Telemetry``.
            at_s: When it came, by the loop's clock.
        """
        boot = told.get("boot")
        # Who has just begun to look knows of no earlier life: a recording of one would count as a restart.
        # The birth, which the broker keeps, says which life is the present one.
        born = None if self.status is None or self.status.state == "offline" else self.status.boot
        if boot is not None and born not in {None, boot}:
            return False
        life = self.order.boot
        if not self.order.take(boot, told.get("seq")):
            return False
        self.numbers = (self.numbers if life == self.order.boot else 0) + (self.order.newest is not None)
        self.telemetry, self.telemetry_at_s = told, at_s
        return True

    @property
    def telemetry_is_of_stop(self) -> bool:
        """Whether the newest telemetry is of after the stop that the device has confirmed, by its number.

        If the confirmation contains no number, the telemetry must have arrived after it, and its number must
        be higher than that of an earlier message. The first message that is received from a device may be a
        recording. Also true for telemetry without numbers, and without a confirmation: then only its time of
        arrival can be used.
        """
        told, newest = self.confirm, self.order.newest
        if told is None:
            return True
        if told.telemetry_seq is not None:
            return newest is not None and told.boot in {None, newest[0]} and newest[1] > told.telemetry_seq
        return newest is None or (self.numbers > 1 and self.telemetry_at_s > self.confirm_at_s)

    @property
    def is_unprovable(self) -> bool:
        """Whether nothing could show that its telemetry is of after the stop: it has no numbers."""
        told = self.confirm
        return told is not None and told.telemetry_seq is None and self.order.newest is None

    @property
    def is_held(self) -> bool:
        """Whether its lease is held, by its last message."""
        return self.lease is not None and self.lease.state == "held"

    @property
    def is_undriven(self) -> bool:
        """Whether it is there, may be sent setpoints, and follows no one's."""
        if not self.is_present or self.authority is None or self.lease is None:
            return False
        return self.authority.level in SENDS and self.lease.state == "free"

    @property
    def may_have_power(self) -> bool:
        """Whether it may give power although it is offline: it measures, or a setpoint was never ended."""
        is_heard = self.telemetry is not None and self.telemetry_at_s > self.status_at_s
        return is_heard or self.is_held

    @property
    def is_not_ours(self) -> bool:
        """Whether its program says, in a stop, that nothing here can set it: it is only read, or watched."""
        told, telemetry = self.confirm, self.telemetry
        is_told = told is not None and told.active and told.settable is False
        return is_told or (telemetry is not None and telemetry.get("settable") is False)

    @property
    def unsafe(self) -> str | None:
        """What its newest telemetry says that contradicts a stop, for people; None = nothing does."""
        if self.telemetry is None:
            return None
        p_mw, q_mvar, status = self.telemetry["p_mw"], self.telemetry.get("q_mvar") or 0.0, self.status
        nameplate_mw = () if status is None else (status.p_min_mw, status.p_max_mw)
        if not is_at_rest(p_mw, nameplate_mw):
            return f"its telemetry reports {KW_PER_MW * p_mw:g} kW"
        if not is_reactive_at_rest(q_mvar, nameplate_mw):
            return f"its telemetry reports {KW_PER_MW * q_mvar:g} kvar"
        return "its telemetry reports that it is not safe" if self.telemetry.get("safe") is False else None


@dataclass(slots=True)
class EnvironmentSeen:
    """What is known of one environment.

    Attributes:
        env_id: Its name on the wire.
        outboxes: What clients say of theirs, by user (None = without a login) and client id: the report, and
            when it came by the loop's clock.
        unreadable: Messages that say nothing that can be understood, by channel.
    """

    env_id: str
    run: RunState | None = None
    run_at_s: float | None = None
    """When the newest ``run/state`` came that the broker had not kept, by the loop's clock."""
    run_owner: Owner | None = None
    stop: StopRegister = field(init=False)
    stop_at_s: float = 0.0
    """When the newest message on ``estop`` came, by the loop's clock."""
    agents: dict[str, AgentSeen] = field(default_factory=dict)
    devices: dict[str, DeviceSeen] = field(default_factory=dict)
    outboxes: dict[tuple[str | None, str], tuple[OutboxReport, float]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Messages of agents, devices and clients beyond the number that is kept."""

    def __post_init__(self) -> None:
        self.stop = StopRegister(self.env_id)

    @property
    def beyond(self) -> str | None:
        """Say that there are more names than are kept, so that not all is seen; None = there are not."""
        if not self.left_out:
            return None
        return (
            f"more than {MAX_NAMES} agents or devices, or {MAX_OUTBOXES} outboxes, are named at the broker: "
            f"{self.left_out} messages of further ones were ignored"
        )

    @property
    def is_alive(self) -> bool:
        """Whether anything of it is there: its run, an agent or a device."""
        is_going = self.run is not None and self.run.state in GOING
        members = [*self.agents.values(), *self.devices.values()]
        return is_going or any(member.is_present for member in members)

    @property
    def undriven(self) -> list[str]:
        """Devices that the run should drive, and whose lease is free: it has ended, or has not begun."""
        if self.run is None or self.run.state != "running" or self.stop.is_active:
            return []
        return [label for label, device in sorted(self.devices.items()) if device.is_undriven]

    def forget_confirmations(self) -> None:
        """Forget who has confirmed a stop or release: another one follows."""
        for member in (*self.agents.values(), *self.devices.values()):
            member.confirm = None

    def take(self, heard: Heard, levels: list[str] | None = None) -> None:
        """Take one message of this environment; what cannot be read is remembered as such.

        Args:
            heard: The message.
            levels: Of its channel, where they are known already.
        """
        if levels is None:
            levels = topics.levels(heard.channel)
        if levels == ["estop"]:
            if heard.fields is None and heard.malformed is None and heard.retained:
                return  # nothing is kept there
            self.stop_at_s = heard.at_s
            self.stop.take(
                Received(heard.fields or {}, heard.channel, heard.retained, malformed=heard.malformed)
            )
            return
        try:
            self._take(levels, heard)
        except MessageError as exc:
            self.note_unreadable(heard.channel, str(exc))

    def note_unreadable(self, channel: str, why: str) -> None:
        """Remember that a message says nothing that can be understood."""
        if len(self.unreadable) < MAX_NAMES:
            self.unreadable[channel] = why

    def device(self, agent: str, name: str) -> DeviceSeen | None:
        """Return a device, known from now on; None where there are too many."""
        label = f"{agent}/{name}"
        found = self.devices.get(label)
        if found is None and len(self.devices) < MAX_NAMES:
            found = self.devices[label] = DeviceSeen()
        self.left_out += found is None
        return found

    def _take(self, levels: list[str], heard: Heard) -> None:
        match levels:
            case ["devices", agent, name, leaf]:
                if (device := self.device(agent, name)) is not None:
                    _take_device(device, leaf, heard)
            case ["run", "state"]:
                self.run = _read(RunState, heard)
                if not heard.retained:
                    self.run_at_s = heard.at_s
            case ["run", "owner"]:
                self.run_owner = _held(heard, self.run_owner)
            case ["estop", "confirm", agent]:
                if not heard.retained and (who := self._agent(agent)) is not None:
                    who.confirm, who.confirm_at_s = _read(StopConfirm, heard), heard.at_s
            case ["estop", "confirm", agent, name]:
                if not heard.retained and (device := self.device(agent, name)) is not None:
                    device.confirm, device.confirm_at_s = _read(StopConfirm, heard), heard.at_s
            case ["agents", agent, leaf]:
                if (who := self._agent(agent)) is not None:
                    _take_presence(who, leaf, heard)
            case ["session", user, client, "outbox"]:
                report = _read(OutboxReport, heard)
                if report is not None and report.client != client:
                    raise MessageError(f"is of another client, {shortened(report.client)}")
                # The broker ensures that a user publishes for itself only: clients of two users are two.
                whose = None if user == topics.NO_USER else user, client
                if report is None:
                    return
                if whose in self.outboxes or len(self.outboxes) < MAX_OUTBOXES:
                    self.outboxes[whose] = report, heard.at_s
                else:
                    self.left_out += 1
            case _:
                pass

    def _agent(self, agent: str) -> AgentSeen | None:
        found = self.agents.get(agent)
        if found is None and len(self.agents) < MAX_NAMES:
            found = self.agents[agent] = AgentSeen()
        self.left_out += found is None
        return found


class Environments(dict[str, EnvironmentSeen]):
    """Every environment that was heard of, by name."""

    def take(self, heard: Heard, levels: list[str] | None = None) -> None:
        """Take one message; ``levels`` as in ``EnvironmentSeen.take``."""
        if (seen := self.get(heard.env_id)) is None:
            if len(self) >= MAX_NAMES:
                return
            seen = self[heard.env_id] = EnvironmentSeen(heard.env_id)
        seen.take(heard, levels)

    @property
    def alive(self) -> list[str]:
        """Names of those that are alive."""
        return sorted(env_id for env_id, view in self.items() if view.is_alive)


async def _alive(url: str) -> tuple[list[str], str]:
    """Return the environments of which something is alive, by what a broker has kept; and its address."""
    found = Environments()
    async with Observer(url, None, PRESENCE, found.take) as observer:
        await observer.settle()
    return found.alive, observer.options.address


async def find_environment(url: str, env_id: str | None) -> str:
    """Return the environment that is meant: the one that was named, or the only one that is alive.

    Raises:
        ConfigError: What was named cannot be an environment.
        NotReady: None is alive, or several are; names them.
        BrokerError: The broker is not there or refuses.
    """
    named = topics.checked_env_id(env_id)
    return named if named is not None else the_only_one(*await _alive(url))


def the_only_one(alive: Sequence[str], address: str) -> str:
    """Return the only environment that is alive at a broker; raises ``NotReady`` otherwise."""
    names = [printable(name) for name in alive]
    if len(names) == 1:
        return alive[0]
    if not names:
        raise NotReady(f"no environment is alive at {address}: name one with --env-id")
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise NotReady(f"{len(names)} environments are alive at {address}: {shown}: choose one with --env-id")


def _take_presence(member: AgentSeen, leaf: str, heard: Heard) -> None:
    if leaf == "status":
        member.status, member.status_at_s = _read(Status, heard), heard.at_s
    elif leaf == "owner":
        member.owner = _held(heard, member.owner)


def _take_device(device: DeviceSeen, leaf: str, heard: Heard) -> None:
    if leaf == "telemetry":
        if heard.malformed is not None and not heard.retained:
            raise MessageError(heard.malformed)
        # what was kept in an outbox says nothing of now
        fields = heard.fields
        if fields is None or heard.retained or fields.get("held_s") is not None:
            return
        device.take_telemetry(TELEMETRY.of_fields(fields), heard.at_s)
    elif leaf == "authority_state":
        device.authority = _read(AuthorityState, heard)
    elif leaf == "lease":
        device.lease = _read(LeaseState, heard)
    else:
        _take_presence(device, leaf, heard)


def _read(model: type[M], heard: Heard) -> M | None:
    """Return a message as a model; None where it was deleted."""
    if heard.malformed is not None:
        raise MessageError(heard.malformed)
    return None if heard.fields is None else parse_known_fields(model, heard.fields)[0]


def _held(heard: Heard, before: Owner | None) -> Owner | None:
    """Return who holds a name; a question changes nothing."""
    owner = _read(Owner, heard)
    return before if owner is not None and owner.state == "asks" else owner
