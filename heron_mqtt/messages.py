"""Everything that crosses the wire, as frozen pydantic models.

One JSON object a message, flat, UTF-8. ``type`` names the model; metadata stands beside the fields.
Powers are MW and Mvar, **positive = injected into the grid**; energies MWh; prices $/MWh; durations s.
Fields a model does not know are ignored, fields that are wrong are refused, NaN and infinity too.

``docs/wire-contract.md`` shows each of them on its topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from heron_mqtt.errors import MessageError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Identifier = Annotated[str, Field(min_length=1, max_length=200)]


class Message(BaseModel):
    """Metadata that every message of ours carries; foreign devices may leave all of it out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)

    sender: Identifier | None = Field(
        None, description="Who published this: an agent, device or operator id."
    )
    env_id: Identifier | None = Field(None, description="The environment it belongs to.")
    episode: int | None = Field(None, ge=0, description="Counts resets; a new number means: start afresh.")
    step: int | None = Field(None, ge=0, description="Step of the episode, from 0.")
    seq: int | None = Field(None, ge=0, description="Rises by one per sender and channel.")
    boot: Identifier | None = Field(None, description="Chosen anew each time the sender starts.")
    sent_at: AwareDatetime | None = Field(None, strict=False, description="UTC, RFC 3339.")


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
        for name, value in (self.__pydantic_extra__ or {}).items():
            if name.startswith(self.number_prefixes):
                if type(value) not in {float, int} or value - value != 0:
                    raise ValueError(f"{name} must be a finite number, got {value!r}")
            elif name.startswith(self.text_prefixes) and not isinstance(value, str):
                raise ValueError(f"{name} must be a text, got {value!r}")
        return self

    def values(self, prefix: str) -> dict[str, float]:
        """Return the numbers whose field name begins with ``prefix``, keyed by the rest of the name."""
        n = len(prefix)
        return {k[n:]: float(v) for k, v in (self.__pydantic_extra__ or {}).items() if k.startswith(prefix)}

    def by_prefix(self) -> dict[str, dict[str, Any]]:
        """Return all such fields in one pass, for prefixes of one word: by ``<word>_``, then by name."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in (self.__pydantic_extra__ or {}).items():
            word, _, name = key.partition("_")
            found.setdefault(f"{word}_", {})[name] = float(value) if type(value) is int else value
        return found


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


class Command(_PerDevice):
    """Setpoints from upstream: ``p_<device>`` MW and ``q_<device>`` Mvar; others keep their policy."""

    type: Literal["command"] = "command"


class Action(_PerDevice):
    """What really happened in the step.

    ``p_<device>`` MW and ``q_<device>`` Mvar, one a device; ``soc_<device>`` in [0, 1] of storage;
    ``cost_<device>`` generation cost of the step, $;
    ``trade_<peer>`` MWh, positive = sold to the peer, with its ``price_<peer>`` $/MWh;
    ``fallback_<device>`` why a model's value stands in for the device's own, ``bound_<device>`` what
    changed its setpoint on the way out, ``authority_<device>`` its level where it is not simulated.
    """

    type: Literal["action"] = "action"
    number_prefixes: ClassVar[tuple[str, ...]] = ("p_", "q_", "soc_", "cost_", "trade_", "price_")
    text_prefixes: ClassVar[tuple[str, ...]] = ("fallback_", "bound_", "authority_")
    missed: int = Field(0, ge=0, description="Phases of this step that ended at their deadline.")


class Offer(Message):
    """Energy for sale to one peer in this step; quantity 0 = nothing to sell."""

    type: Literal["offer"] = "offer"
    quantity: float = Field(ge=0, description="MWh in this step.")
    price: float = Field(description="Ask, $/MWh.")


class Accept(Message):
    """Answer to an offer: how much of it is wanted, at the ask; quantity 0 = none."""

    type: Literal["accept"] = "accept"
    quantity: float = Field(ge=0, description="MWh in this step.")


class Confirm(Message):
    """The seller's last word: how much is really sold, at which price; quantity 0 = none."""

    type: Literal["confirm"] = "confirm"
    quantity: float = Field(ge=0, description="MWh in this step, at most what was accepted.")
    price: float = Field(description="$/MWh, the ask of the offer.")


class Consensus(Message):
    """One round of average consensus between peers."""

    type: Literal["consensus"] = "consensus"
    round: int = Field(ge=0, description="Round of this step, from 0.")
    value: float = Field(description="The sender's estimate, $/MWh.")


class Setpoint(Message):
    """What a device shall do, for at most ``lease_s``; after that it goes to its own safe state."""

    type: Literal["setpoint"] = "setpoint"
    p_mw: float = Field(description="MW, positive = injected; for PV an upper limit.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    lease_s: float = Field(gt=0, description="Wall-clock seconds for which this holds without renewal.")
    renewal: bool = Field(False, description="The same setpoint again: extends the lease, changes nothing.")
    dt_s: float | None = Field(None, gt=0, description="Simulated seconds it is held; for emulators only.")
    p_available_mw: float | None = Field(None, description="What sun or load offer, MW; for emulators only.")


class Telemetry(Message):
    """What a device measures at its terminals."""

    type: Literal["telemetry"] = "telemetry"
    p_mw: float = Field(description="MW, positive = injected.")
    q_mvar: float = Field(0.0, description="Mvar, positive = injected.")
    soc: float | None = Field(None, ge=0, le=1, description="State of charge, fraction of max_e_mwh.")
    vm_pu: float | None = Field(None, ge=0, description="Terminal voltage, pu.")
    running: bool | None = Field(None, description="Whether a generator runs.")
    safe: bool | None = Field(None, description="Whether it is in its safe state.")
    safe_after_s: float | None = Field(
        None, ge=0, description="How long after its last setpoint it went safe by itself, wall-clock s."
    )
    rejected: str | None = Field(None, max_length=500, description="Why the device would not do it.")
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
    reason: str | None = Field(None, max_length=500, description="Why, for people.")
    run: Identifier | None = Field(None, description="boot of the run/state whose episode it is ready for.")
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


class EmergencyStop(Message):
    """Everything to its safe state until it is released (retained)."""

    type: Literal["estop"] = "estop"
    active: bool
    who: Identifier | None = Field(None, description="Who pressed or released it.")
    why: str = Field("", max_length=500)


FaultKind = Literal[
    "silence", "stuck", "frozen", "offset", "ignore_setpoints", "reject_setpoints", "garbage", "reboot"
]


class Fault(Message):
    """Tells an emulator to misbehave from the next step on; real devices ignore it."""

    type: Literal["fault"] = "fault"
    kind: FaultKind
    steps: int = Field(1, ge=1, le=1_000_000, description="For how many steps.")
    value: float = Field(0.0, description="Size of an offset, MW.")


WIRE_TYPES: dict[str, type[Message]] = {
    model.model_fields["type"].default: model
    for model in (
        *(PriceSignal, Observation, Command, Action, Offer, Accept, Confirm, Consensus),
        *(Setpoint, Telemetry, Status, RunState, SetpointPlan, Clearance),
        *(AuthorityRequest, AuthorityState, EmergencyStop, Fault),
    )
}

M = TypeVar("M", bound=Message)


def parse(model: type[M], payload: Mapping[str, Any]) -> M:
    """Validate a decoded payload as ``model``.

    Raises:
        MessageError: One line naming each wrong field, what it held and what was expected.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as exc:
        raise MessageError(f"not a valid {model.model_fields['type'].default}: {explain(exc)}") from None


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
        value = repr(error["input"])
        shown = "" if error["type"] == "missing" or len(value) > 60 else f", got {value}"
        text = error["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {text}{shown}" if where else text)
    if len(found) > limit:
        parts.append(f"and {len(found) - limit} more")
    return "; ".join(parts)
