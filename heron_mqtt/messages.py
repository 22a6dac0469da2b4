"""Everything that crosses the wire, as frozen pydantic models.

One JSON object a message, flat, UTF-8. ``type`` names the model; metadata stands beside the fields.
Powers are MW and Mvar, **positive = injected into the grid**; energies MWh; prices $/MWh; durations s.
Fields a model does not know are ignored, fields that are wrong are refused, NaN and infinity too.

``docs/wire-contract.md`` shows each of them on its topic.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from heron_mqtt.errors import MessageError
from heron_mqtt.json_object import Json

Finite = Annotated[float, Field(allow_inf_nan=False)]
MAX_INTEGER = 1 << 63
"""Larger integers are refused: no field needs them, and a float cannot hold all of them."""
Identifier = Annotated[str, Field(min_length=1, max_length=200)]
MAX_REASON = 500  # characters of a text for people
UNNAMED_KIND = "device"  # what a device says in its birth whose program names no kind


def shortened(value: object, limit: int = 60) -> str:
    """Return a value for an error message; an integer of thousands of digits is not printed."""
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"an integer of about {value.bit_length() * 3 // 10} digits"
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _is_finite_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) <= MAX_INTEGER
    return type(value) is float and value - value == 0.0


class Message(BaseModel):
    """Metadata that every message of ours carries; foreign devices may leave all of it out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)
    for_records: ClassVar[frozenset[str]] = frozenset({"sent_at"})
    """Fields by which a receiver decides nothing: one that cannot be read counts as left out."""

    sender: Identifier | None = Field(
        None, description="Who published this: an agent, device or operator id."
    )
    env_id: Identifier | None = Field(None, description="The environment it belongs to.")
    episode: int | None = Field(None, ge=0, description="Counts resets; a new number means: start afresh.")
    step: int | None = Field(None, ge=0, description="Step of the episode, from 0.")
    seq: int | None = Field(None, ge=0, le=MAX_INTEGER, description="Rises by one per sender and channel.")
    boot: Identifier | None = Field(None, description="Chosen anew each time the sender starts.")
    sent_at: AwareDatetime | None = Field(None, strict=False, description="UTC, RFC 3339.")
    held_s: float | None = Field(
        None,
        ge=0,
        description="How long its sender stored it while the broker was away, s; left out: not stored.",
    )


class PriceSignal(Message):
    """The operator's price for the step, broadcast to its subordinates (retained)."""

    type: Literal["price"] = "price"
    value: float = Field(description="$/MWh; what a MWh sold to the grid earns.")


class _PerDevice(Message):
    """A message with one field a device or peer: ``<prefix><name>``.

    The names are only known at run time, so such fields are kept as extras and checked by prefix.
    """

    model_config = ConfigDict(extra="allow")
    number_prefixes: ClassVar[tuple[str, ...]] = ("p_", "q_")
    text_prefixes: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _extras_have_their_type(self) -> Self:
        texts = self.text_prefixes
        for name, value in (self.__pydantic_extra__ or {}).items():
            if texts and name.startswith(texts):
                if not isinstance(value, str):
                    raise ValueError(f"{name} must be a text, got {value!r}")
            elif type(value) is float and value - value == 0.0:  # nearly all: right, whatever the name
                continue
            elif name.startswith(self.number_prefixes) and not _is_finite_number(value):
                raise ValueError(f"{name} must be a finite number, got {shortened(value)}")
        return self

    def values(self, prefix: str) -> dict[str, float]:
        """Return the numbers whose field name begins with ``prefix``, keyed by the rest of the name."""
        n = len(prefix)
        return {k[n:]: float(v) for k, v in (self.__pydantic_extra__ or {}).items() if k.startswith(prefix)}

    def by_prefix(self) -> dict[str, dict[str, Any]]:
        """Return all such fields in one pass, for prefixes of one word: by ``<word>_``, then by name."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in (self.__pydantic_extra__ or {}).items():
            prefix, name = _split_at_word(key)
            is_number = type(value) is int and abs(value) <= MAX_INTEGER  # one that is not ours may be huge
            said = float(value) if is_number else value
            if prefix in found:
                found[prefix][name] = said
            else:
                found[prefix] = {name: said}
        return found


@functools.lru_cache(maxsize=10_000)  # the same few fields, in every step
def _split_at_word(key: str) -> tuple[str, str]:
    """Return the first word of a field's name with its ``_``, and the rest."""
    word, _, name = key.partition("_")
    return f"{word}_", name


Forecast = Annotated[list[float], Field(max_length=672)]
"""Values of the steps to come, in order."""


class Observation(_PerDevice):
    """What one agent may know at the start of a step; ``p_available_<device>`` in MW, of PV and loads."""

    type: Literal["observation"] = "observation"
    number_prefixes: ClassVar[tuple[str, ...]] = ("p_available_",)
    dt_s: float = Field(gt=0, description="Length of the step, s.")
    commanded: bool = Field(False, description="A command for this step is on its way: wait for it.")
    p_load_mw: float = Field(0.0, description="Sum of the microgrid's loads, MW, negative = consuming.")
    q_load_mvar: float = Field(0.0, description="Sum of the microgrid's loads, Mvar, negative = consuming.")
    vm_min_pu: float | None = Field(None, description="Lowest bus voltage of the microgrid, last step.")
    vm_max_pu: float | None = Field(None, description="Highest bus voltage of the microgrid, last step.")
    loading_max_percent: float | None = Field(
        None, description="Highest line or transformer loading, last step."
    )
    clock_s: float | None = Field(
        None, ge=0, lt=86_400, description="Local time of day at which the step begins, s since midnight."
    )
    forecast: dict[str, Forecast] | None = Field(
        None,
        description="Of the steps after this one: price ($/MWh), p_load_mw and p_available_<device> (MW).",
    )
    observation: Annotated[list[float], Field(max_length=100_000)] | None = Field(
        None,
        description="What a learner of this agent would see, entry by entry; for policies that ask for it.",
    )


class Command(_PerDevice):
    """Setpoints from upstream: ``p_<device>`` MW and ``q_<device>`` Mvar; others keep their policy."""

    type: Literal["command"] = "command"

    def powers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the setpoints by device, MW and Mvar."""
        return self.values("p_"), self.values("q_")


class Action(_PerDevice):
    """What really happened in the step.

    ``p_<device>`` MW and ``q_<device>`` Mvar, one a device; ``soc_<device>`` in [0, 1] of storage;
    ``cost_<device>`` generation cost of the step, $;
    ``trade_<peer>`` MWh, positive = sold to the peer, with its ``price_<peer>`` $/MWh;
    ``fallback_<device>`` why a model's value stands in for the device's own, ``bound_<device>`` what
    changed its setpoint on the way out, ``authority_<device>`` its level where it is not simulated,
    ``residual_<device>`` measured minus modelled power, MW, where there was something to compare.
    """

    type: Literal["action"] = "action"
    number_prefixes: ClassVar[tuple[str, ...]] = (
        "p_",
        "q_",
        "soc_",
        "cost_",
        "trade_",
        "price_",
        "residual_",
    )
    text_prefixes: ClassVar[tuple[str, ...]] = ("fallback_", "bound_", "authority_")
    missed: int = Field(0, ge=0, description="Phases of this step that ended at their deadline.")


class Offer(Message):
    """Energy for sale to one peer in this step; quantity 0 = nothing to sell."""

    type: Literal["offer"] = "offer"
    quantity: float = Field(ge=0, description="MWh in this step.")
    price: float = Field(description="Ask, $/MWh; 0 with quantity 0.")


class Accept(Message):
    """Answer to an offer: how much of it is wanted, at the ask; quantity 0 = none."""

    type: Literal["accept"] = "accept"
    quantity: float = Field(ge=0, description="MWh in this step.")


class Confirm(Message):
    """The seller's final message: how much is really sold, at which price; quantity 0 = none."""

    type: Literal["confirm"] = "confirm"
    quantity: float = Field(ge=0, description="MWh in this step, at most what was accepted.")
    price: float = Field(description="$/MWh, the ask of the offer.")


class Order(Message):
    """What an agent sells or wants in this step, told to the one that keeps the order book."""

    type: Literal["order"] = "order"
    quantity: float = Field(description="MWh in this step, positive = for sale, negative = wanted; 0 = none.")
    price: float = Field(description="Limit, $/MWh: least when selling, most when buying; 0 with quantity 0.")


class Fill(_PerDevice):
    """An agent's trades in this step, from the one that keeps the order book.

    ``trade_<peer>`` MWh, positive = sold to the peer; none where there is no trade.
    """

    type: Literal["fill"] = "fill"
    number_prefixes: ClassVar[tuple[str, ...]] = ("trade_",)
    price: float = Field(description="Of all trades of the step, $/MWh; 0 where there is no trade.")


class Consensus(Message):
    """One round of average consensus between peers."""

    type: Literal["consensus"] = "consensus"
    round: int = Field(ge=0, description="Round of this step, from 0.")
    value: float = Field(description="The sender's estimate, $/MWh.")


MAX_LEASE_S = 86_400.0
"""A device that may be left alone for longer than a day needs no lease."""


class Setpoint(Message):
    """What a device shall do, for at most ``lease_s``; after that it goes to its own safe state."""

    for_records = Message.for_records | {"episode", "step"}
    type: Literal["setpoint"] = "setpoint"
    p_mw: float = Field(description="MW, positive = injected; for PV an upper limit.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    lease_s: float = Field(
        gt=0, le=MAX_LEASE_S, description="Wall-clock seconds for which this holds without renewal."
    )
    renewal: bool = Field(False, description="The same setpoint again: extends the lease, changes nothing.")
    heard_boot: Identifier | None = Field(
        None, description="Echo: boot of the newest telemetry that the sender has of this device."
    )
    heard_seq: int | None = Field(None, ge=0, description="Echo: seq of that telemetry.")
    take_over: bool = Field(False, description="Displaces the present owner of the lease.")
    release: bool = Field(
        False, description="The owner gives the lease back: the device goes to its safe state now."
    )
    dt_s: float | None = Field(None, gt=0, description="Simulated seconds it is held; for emulators only.")
    p_available_mw: float | None = Field(None, description="What sun or load offer, MW; for emulators only.")


class Telemetry(Message):
    """What a device measures at its terminals."""

    type: Literal["telemetry"] = "telemetry"
    p_mw: float = Field(description="MW, positive = injected.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    soc: float | None = Field(None, ge=0, le=1, description="State of charge, fraction of max_e_mwh.")
    vm_pu: float | None = Field(None, ge=0, description="Terminal voltage, pu.")
    age_s: float | None = Field(
        None, ge=0, description="How old the measurement is, wall-clock s; left out: it is of now."
    )
    running: bool | None = Field(None, description="Whether a generator runs.")
    safe: bool | None = Field(None, description="Whether it is in its safe state.")
    safe_after_s: float | None = Field(
        None, ge=0, description="How long after its last setpoint it went safe by itself, wall-clock s."
    )
    stopped: bool | None = Field(None, description="Whether it knows of an emergency stop in force.")
    settable: bool | None = Field(
        None, description="False, in a stop: nothing here can set it; it is only read, or only watched."
    )
    rejected: str | None = Field(None, max_length=MAX_REASON, description="Why the device would not do it.")
    ack_seq: int | None = Field(None, ge=0, description="seq of the setpoint this answers.")
    ack_boot: Identifier | None = Field(None, description="boot of the sender of that setpoint.")


class Status(_PerDevice):
    """Presence of an agent or device, retained, and left behind as its will.

    ``episode`` and ``run`` tell for which episode of which run it is ready. A device's birth carries its
    nameplate: ``kind``, ``p_min_mw``, ``p_max_mw``, ``max_e_mwh``.
    """

    type: Literal["status"] = "status"
    number_prefixes: ClassVar[tuple[str, ...]] = ("soc_",)
    state: Literal["online", "fault", "offline"]
    reason: str | None = Field(None, max_length=MAX_REASON, description="Why, for people.")
    run: Identifier | None = Field(None, description="boot of the run/state whose episode it is ready for.")
    stopped: bool | None = Field(None, description="Whether it knows of an emergency stop in force.")
    kind: str | None = Field(None, description="Device kind, as scenarios name it: battery, pv, ...")
    p_min_mw: float | None = Field(None, description="Nameplate, MW, positive = injected.")
    p_max_mw: float | None = Field(None, description="Nameplate, MW, positive = injected.")
    max_e_mwh: float | None = Field(None, ge=0, description="Nameplate energy of storage, MWh.")
    soc: float | None = Field(None, ge=0, le=1, description="State of charge at birth.")


NO_RUN = "none"
"""``run`` of a device that follows episodes and has not heard of one yet."""


class RunState(Message):
    """Where the run stands (retained); ``lost`` is the environment's will."""

    type: Literal["run_state"] = "run_state"
    state: Literal["reset", "running", "finished", "lost"]
    scenario: str = ""
    seed: int | None = Field(None, description="Seed of the episode.")
    clock: AwareDatetime | None = Field(None, strict=False, description="Simulated time, UTC.")


Position = Annotated[int, Field(ge=0)]
"""Of an element in the lists of a network."""


class NetworkModel(Message):
    """The network of a run as a drawing (retained): lists, and positions in them.

    Order and length of ``bus``, ``line`` and ``trafo`` are those of the results in ``grid_results``.
    """

    type: Literal["network"] = "network"
    laid_out: bool = Field(False, description="x counts branches from the supply, y feeders; no coordinates.")
    bus: list[str] = Field(description="Names.")
    bus_kv: list[Finite] = Field(description="Nominal voltages, kV.")
    bus_agent: list[str] = Field(description="The microgrid that each belongs to; empty: none.")
    bus_x: list[Finite] = Field(description="Places in the drawing, any unit, growing to the right.")
    bus_y: list[Finite] = Field(description="The same, growing downwards.")
    line: list[str] = Field(description="Names.")
    line_from: list[Position] = Field(description="Positions in bus.")
    line_to: list[Position] = Field(description="Positions in bus.")
    line_open: list[Position] = Field([], description="Positions in line: out of service, or switched off.")
    trafo: list[str] = Field([], description="Names of transformers.")
    trafo_hv: list[Position] = Field([], description="Positions in bus.")
    trafo_lv: list[Position] = Field([], description="Positions in bus.")
    link_from: list[Position] = Field([], description="Of what connects buses and has no loading.")
    link_to: list[Position] = Field([], description="Positions in bus.")
    supply: list[Position] = Field([], description="Positions in bus: where the external grid is.")
    device: list[str] = Field([], description="AGENT/DEVICE.")
    device_kind: list[str] = Field([], description="Kinds.")
    device_bus: list[Position] = Field([], description="Positions in bus.")

    @model_validator(mode="after")
    def _lists_belong_together(self) -> Self:
        for first, *others in (
            ("bus", "bus_kv", "bus_agent", "bus_x", "bus_y"),
            ("line", "line_from", "line_to"),
            ("trafo", "trafo_hv", "trafo_lv"),
            ("link_from", "link_to"),
            ("device", "device_kind", "device_bus"),
        ):
            length = len(getattr(self, first))
            for other in others:
                if len(getattr(self, other)) != length:
                    raise ValueError(f"{other}: expected {length} entries, as many as {first} has")
        for name, table in _POSITIONS.items():
            if any(position >= len(getattr(self, table)) for position in getattr(self, name)):
                raise ValueError(f"{name}: expected positions in {table}")
        return self


_POSITIONS = {
    **dict.fromkeys(("line_from", "line_to", "trafo_hv", "trafo_lv", "link_from", "link_to"), "bus"),
    "supply": "bus",
    "device_bus": "bus",
    "line_open": "line",
}


class GridResults(Message):
    """What the power flow gave for a step (retained), in the order of ``network``; null without supply."""

    type: Literal["grid_results"] = "grid_results"
    vm_pu: list[Finite | None] = Field([], description="Voltage magnitudes of buses, pu.")
    line_loading_percent: list[Finite | None] = Field([], description="Current over thermal limit, %.")
    trafo_loading_percent: list[Finite | None] = Field([], description="Current over rated current, %.")
    diverged: str | None = Field(None, max_length=500, description="Why there is no solution.")


class RecordHead(Message):
    """The hash of the record of a run that has ended (retained): a later change of the file shows."""

    type: Literal["record"] = "record"
    head: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 over the heads of all hash chains, hex.")
    rows: int = Field(ge=0, description="Rows in the record.")
    lost: int = Field(0, ge=0, description="Rows that could not be recorded.")


class SetpointPlan(_PerDevice):
    """The setpoints an agent is about to send, for the check of all of them together (``[envelope]``)."""

    type: Literal["plan"] = "plan"


class Clearance(_PerDevice):
    """The operator's answer to a plan: what may be sent; never more than was planned.

    ``limit`` names the voltage or loading limit that bound, ``factor`` what is left of the plan.
    """

    type: Literal["clearance"] = "clearance"
    factor: float = Field(1.0, ge=0, le=1, description="Part of the planned power that may be sent.")
    limit: str | None = Field(None, max_length=500, description="The limit that bound; None = all clear.")


Level = Literal["simulated", "emulated", "shadow", "limited", "full"]


class AuthorityRequest(Message):
    """Asks for another level of authority over a device."""

    type: Literal["authority_request"] = "authority_request"
    level: Level
    who: Identifier = Field(description="Who asks, for the record.")
    why: str = Field("", max_length=500, description="Why, for the record.")


class AuthorityState(Message):
    """The level in force (retained), and the answer to the last request."""

    type: Literal["authority_state"] = "authority_state"
    level: Level
    requested: Level | None = None
    granted: bool = True
    reason: str = Field("", max_length=500, description="Which gate refused, or who asked and why.")
    request_seq: int | None = Field(None, ge=0, description="seq of the request this answers.")
    request_boot: Identifier | None = Field(None, description="boot of the sender of that request.")
    ceiling: Level | None = Field(
        None, description="The level to which it rises by itself once the gates pass."
    )
    demoted: bool | None = Field(None, description="A request lowered the ceiling.")
    manual_by: Identifier | None = Field(None, description="Who has the device in hand.")
    manual_p_mw: float | None = Field(
        None, description="The power that this person has asked for, which the device can hold, MW."
    )
    manual_s: float | None = Field(None, ge=0, description="For how long from now, s.")


ROUNDING_MW = 1e-9  # 1 mW: what a person asks for in kW was divided by 1000


class Take(Message):
    """A person takes one device in hand for a bounded time, within all bounds of its level."""

    type: Literal["take"] = "take"
    p_mw: float = Field(0.0, description="MW, positive = injected.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    for_s: float = Field(ge=0, le=MAX_LEASE_S, description="How long, wall-clock s; 0 = give it back now.")
    who: Identifier = Field(description="Who takes it, for the record.")
    why: str = Field("", max_length=500, description="Why, for the record.")
    request_seq: int | None = Field(
        None,
        ge=0,
        description="seq of the take that this one, with for_s = 0, withdraws; no other hold ends.",
    )
    request_boot: Identifier | None = Field(None, description="boot of the sender of that take.")

    @model_validator(mode="after")
    def _check_withdrawal(self) -> Take:
        if (self.request_seq is None) != (self.request_boot is None):
            raise ValueError("request_seq and request_boot go together")
        if self.request_seq is not None and self.for_s > 0.0:
            raise ValueError("for_s: a take that withdraws another one takes nothing; expected 0")
        return self


class Owner(Message):
    """Who holds a name: an environment, an agent or a device of which there must be one only (retained).

    ``asks`` (not retained) is the question of one that starts; the holder answers with ``holds``.
    """

    type: Literal["owner"] = "owner"
    state: Literal["asks", "holds", "free"]
    take_over: bool = Field(False, description="The one that asks will displace the holder.")
    who: str | None = Field(None, max_length=200, description="user@host and process, for people.")
    since: AwareDatetime | None = Field(None, strict=False, description="Held since, UTC.")
    term: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="How many have held the name so far; of two the later one."
    )


class LeaseState(Message):
    """Whose setpoints a device follows (retained); published when that changes, not at every renewal."""

    type: Literal["lease"] = "lease"
    state: Literal["held", "free"]
    holder: str | None = Field(None, max_length=200, description="sender of the setpoints; none: by hand.")
    holder_boot: str | None = Field(None, max_length=200, description="boot of that sender.")
    lease_s: float | None = Field(None, gt=0, description="Length of the lease, wall-clock s.")


class EmergencyStop(Message):
    """Everything to its safe state until it is released (retained).

    Whatever arrives on ``estop`` and is not a valid release counts as a stop: see
    ``heron_mqtt.field.emergency_stop``.
    """

    type: Literal["estop"] = "estop"
    active: bool
    who: Identifier | None = Field(None, description="Who pressed or released it.")
    why: str = Field("", max_length=500)


class StopConfirm(Message):
    """A gateway or device has heard a stop or its release."""

    type: Literal["estop_confirm"] = "estop_confirm"
    active: bool = Field(description="True: a stop is in force here.")
    safe: bool = Field(description="Whether the device, or every device of the gateway, is set to 0.")
    stop_boot: Identifier | None = Field(None, description="boot of the message that this confirms.")
    stop_seq: int | None = Field(None, ge=0, description="seq of the message that this confirms.")
    telemetry_seq: int | None = Field(
        None,
        ge=0,
        description="seq of its last telemetry of before the stop: only what is newer shows its power since.",
    )
    settable: bool | None = Field(
        None, description="False: nothing here can set the device; it is only read, or only watched."
    )


FaultKind = Literal[
    "silence", "stuck", "frozen", "offset", "ignore_setpoints", "reject_setpoints", "garbage", "reboot"
]


class OutboxKindReport(BaseModel):
    """What an outbox holds of one kind of channel."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    messages: int = Field(ge=0, le=MAX_INTEGER)
    size_bytes: int = Field(ge=0, le=MAX_INTEGER)
    dropped: int = Field(ge=0, le=MAX_INTEGER)


class OutboxReport(Message):
    """What waits in an outbox. Information only: no part of the contract, no program acts on it."""

    type: Literal["outbox"] = "outbox"
    client: Identifier = Field(description="Whose: its client id at the broker.")
    messages: int = Field(ge=0, le=MAX_INTEGER, description="How many wait, those on their way included.")
    size_bytes: int = Field(ge=0, le=MAX_INTEGER, description="What they count for.")
    max_bytes: int = Field(ge=1, le=MAX_INTEGER, description="What it may hold; then the oldest goes.")
    age_s: float | None = Field(None, ge=0, description="For how long the oldest has waited, s.")
    dropped: int = Field(ge=0, le=MAX_INTEGER, description="Given up since the program began.")
    disk_errors: int = Field(ge=0, le=MAX_INTEGER, description="Failures of its disk since then.")
    kinds: Annotated[dict[Identifier, OutboxKindReport], Field(max_length=20)] = Field(
        default_factory=dict, description="The same by kind of channel."
    )


class Fault(Message):
    """Tells an emulator to misbehave from the next step on; real devices ignore it."""

    type: Literal["fault"] = "fault"
    kind: FaultKind
    steps: int = Field(1, ge=1, le=1_000_000, description="For how many steps.")
    value: float = Field(0.0, description="Size of an offset, MW.")


WIRE_TYPES: dict[str, type[Message]] = {
    model.model_fields["type"].default: model
    for model in (
        *(PriceSignal, Observation, Command, Action, Offer, Accept, Confirm, Order, Fill, Consensus),
        *(Setpoint, Telemetry, Status, RunState, RecordHead, SetpointPlan, Clearance),
        *(NetworkModel, GridResults),
        *(AuthorityRequest, AuthorityState, Take, Owner, LeaseState, EmergencyStop, StopConfirm, Fault),
    )
}

M = TypeVar("M", bound=Message)


def parse(model: type[M], payload: Mapping[str, Any]) -> M:
    """Validate a decoded payload as ``model``.

    Spellings that leave no doubt are accepted: see ``normalized``.

    Raises:
        MessageError: One line naming each wrong field, what it held and what was expected.
    """
    try:  # model_validate without what it does about options that are not given: a quarter of its time
        return model.__pydantic_validator__.validate_python(payload)  # type: ignore[no-any-return]
    except ValidationError as exc:
        first = exc
    try:
        return model.model_validate(normalized(model, payload))
    except ValidationError:
        raise MessageError(f"not a valid {model.model_fields['type'].default}: {explain(first)}") from None


def fields_of(message: Message) -> Json:
    """Return what a message says, as it stands on the wire: fields that say nothing are left out."""
    # model_dump without what it does about options that are not given
    fields: Json = message.__pydantic_serializer__.to_python(message, exclude_none=True)
    return fields


def parse_known_fields(model: type[M], payload: Mapping[str, Any]) -> tuple[M, str]:
    """Validate a payload field by field: an optional field that is wrong is left out, the rest counts.

    For what devices say of themselves. Identity and numbering are never left out.

    Returns:
        The message, and one line naming what was left out; empty when nothing was.

    Raises:
        MessageError: As ``parse``: a required field is wrong, or identity or numbering.
    """
    try:
        return parse(model, payload), ""
    except MessageError:
        plain = normalized(model, payload)
    try:
        model.model_validate(plain)
    except ValidationError as exc:
        wrong = {str(error["loc"][0]) for error in exc.errors(include_url=False) if error["loc"]}
        optional = {n for n, f in model.model_fields.items() if not f.is_required()} - _NEVER_LEFT_OUT
        if not wrong or not wrong <= optional:
            raise MessageError(f"not a valid {model.model_fields['type'].default}: {explain(exc)}") from None
        kept = {name: value for name, value in plain.items() if name not in wrong}
        return parse(model, kept), f"left out what cannot be read: {explain(exc)}"
    raise AssertionError("normalized but not accepted by parse")  # pragma: no cover


_NEVER_LEFT_OUT = {"type", "sender", "env_id", "episode", "step", "seq", "boot", "ack_seq", "ack_boot"}
ROUNDING = 1e-3
"""How far a fraction may lie outside [0, 1] and still be its end: a device's own rounding."""


def normalized(model: type[Message], payload: Mapping[str, Any]) -> Json:
    """Return a payload with spellings that leave no doubt turned into the ones of the contract.

    ``5.0`` for an integer, ``1`` or ``0`` for a boolean, a number for an identifier, ``null`` for a field
    that is left out, a fraction that rounding has put just outside [0, 1], what is for records only and
    cannot be read (``sent_at``). A reason that is too long is cut: what it is the reason of counts.
    """
    plain: Json = {}
    for name, value in payload.items():
        field = model.model_fields.get(name)
        if value is None and (field is None or not field.is_required()):
            continue
        plain[name] = value if field is None else _normalized_value(name, field.annotation, value)
    for name in model.for_records & plain.keys():
        try:
            Message.model_validate({name: plain[name]})
        except ValidationError:
            del plain[name]
    return plain


def _normalized_value(name: str, annotation: Any, value: Any) -> Any:
    kinds = {annotation, *get_args(annotation)}
    kind = type(value)
    if bool in kinds and kind in {int, float} and value in {0, 1}:
        return bool(value)
    if int in kinds and kind is float and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if name in _IDENTIFIERS and kind in {int, float} and _is_finite_number(value):
        return str(int(value)) if value == int(value) else str(value)
    if name in _REASONS and kind is str:
        return value[:MAX_REASON]
    if name == "soc" and kind in {int, float} and _is_finite_number(value):
        return min(max(value, 0.0), 1.0) if -ROUNDING <= value <= 1.0 + ROUNDING else value
    return value


_IDENTIFIERS = {"sender", "env_id", "boot", "ack_boot", "heard_boot", "request_boot", "stop_boot", "run"}

_REASONS = {"reason", "rejected"}  # texts for people in what devices say; alone that they are there matters


def parse_any(payload: Mapping[str, Any]) -> Message:
    """Validate a payload as the model its ``type`` names; raises what ``model_of`` and ``parse`` raise."""
    return parse(model_of(payload), payload)


def model_of(payload: Mapping[str, Any]) -> type[Message]:
    """Return the model that a payload's ``type`` names.

    Raises:
        MessageError: Unknown type.
    """
    name = payload.get("type")
    model = WIRE_TYPES.get(name) if isinstance(name, str) else None
    if model is None:
        raise MessageError(f"unknown message type {name!r}; known: {', '.join(sorted(WIRE_TYPES))}")
    return model


def explain(exc: ValidationError, limit: int = 5) -> str:
    """Say in one line what a validation error found: field, value, expectation."""
    found = exc.errors(include_url=False, include_context=False)
    parts = []
    for error in found[:limit]:
        where = ".".join(str(part) for part in error["loc"])
        value = shortened(error["input"])
        shown = "" if error["type"] == "missing" or value.endswith("...") else f", got {value}"
        text = error["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {text}{shown}" if where else text)
    if len(found) > limit:
        parts.append(f"and {len(found) - limit} more")
    return "; ".join(parts)
