"""What the gateway needs of an agent, and the plain data that passes between the two."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.messages import Action, Command, Observation, Telemetry
from heron_mqtt.named_tuples import make_tuple
from heron_mqtt.protocols.base import HorizontalSession
from heron_mqtt.protocols.p2p import Trade


class LocalState(NamedTuple):
    """What one agent may know at the start of a step; the plain form of an ``Observation`` message.

    Attributes:
        dt_s: Length of the step, s.
        commanded: Whether a command for this step is on its way.
        p_load_mw, q_load_mvar: Sum of the microgrid's loads, MW and Mvar, negative = consuming.
        p_available_mw: By device with a profile, MW.
        vm_min_pu, vm_max_pu: Extreme bus voltages of the last step, pu; None = no bus has supply.
        loading_max_percent: Highest line or transformer loading of the last step, %; None likewise.
        clock_s: Seconds since local midnight at which the step begins; None = not told.
        forecast: Of the steps after this one, in order: ``price`` ($/MWh), ``p_load_mw``,
            ``p_available_<device>`` (MW); None = nothing is foretold.
        observation: Its own part as learners see it, entry by entry; None = its policy does not ask for it.
    """

    dt_s: float
    commanded: bool
    p_load_mw: float
    q_load_mvar: float
    p_available_mw: Mapping[str, float]
    vm_min_pu: float | None = None
    vm_max_pu: float | None = None
    loading_max_percent: float | None = None
    clock_s: float | None = None
    forecast: Mapping[str, Sequence[float]] | None = None
    observation: Sequence[float] | None = None

    def values(self, prefix: str) -> Mapping[str, float]:
        """Return the numbers by device as the message does; all there are begin with ``p_available_``."""
        return self.p_available_mw if prefix == "p_available_" else {}

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of that message."""
        fields: dict[str, Any] = {
            "type": "observation",
            "dt_s": self.dt_s,
            "commanded": self.commanded,
            "p_load_mw": self.p_load_mw,
            "q_load_mvar": self.q_load_mvar,
        }
        if self.vm_min_pu is not None:
            fields["vm_min_pu"] = self.vm_min_pu
            fields["vm_max_pu"] = self.vm_max_pu
            fields["loading_max_percent"] = self.loading_max_percent
        if self.clock_s is not None:
            fields["clock_s"] = self.clock_s
        if self.forecast is not None:
            fields["forecast"] = {name: list(values) for name, values in self.forecast.items()}
        if self.observation is not None:
            fields["observation"] = list(self.observation)
        for name, p_mw in self.p_available_mw.items():
            fields[f"p_available_{name}"] = p_mw
        return fields


@dataclass(slots=True)
class StepReport:
    """What one agent says of one step; the plain form of an ``Action`` message.

    Attributes:
        p_mw: By device, MW, positive = injected.
        q_mvar: By device, Mvar, positive = injected.
        soc: By storage device, at the end of the step, fraction of ``max_e_mwh``.
        cost: By generator, generation cost of the step, $.
        trades: By peer.
        fallbacks: By device: why a model's value stands in for the device's own.
        bounds: By device: what changed its setpoint on the way out.
        authority: By device, of those that are not simulated.
        residuals: By device, measured minus modelled power, MW, of those that were compared.
        missed: Phases that ended at their deadline.
    """

    p_mw: dict[str, float] = field(default_factory=dict)
    q_mvar: dict[str, float] = field(default_factory=dict)
    soc: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    trades: Mapping[str, Trade] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, str] = field(default_factory=dict)
    authority: dict[str, str] = field(default_factory=dict)
    residuals: dict[str, float] = field(default_factory=dict)
    missed: int = 0

    def to_message(self) -> Action:
        """Return it as the message of the wire contract."""
        return Action.model_validate(self.to_fields())

    def to_fields(self) -> dict[str, float | str]:
        """Return the fields of that message."""
        fields: dict[str, float | str] = {"type": "action", "missed": self.missed}
        for name, p_mw in self.p_mw.items():
            fields["p_" + name] = p_mw
        for name, q_mvar in self.q_mvar.items():
            fields["q_" + name] = q_mvar
        for name, soc in self.soc.items():
            fields["soc_" + name] = soc
        for name, cost in self.cost.items():
            fields["cost_" + name] = cost
        for prefix, seldom in (
            ("fallback_", self.fallbacks),
            ("bound_", self.bounds),
            ("authority_", self.authority),
            ("residual_", self.residuals),
        ):
            if seldom:
                for name, value in seldom.items():
                    fields[prefix + name] = value
        for peer, (mwh, price) in self.trades.items():
            fields["trade_" + peer] = mwh
            fields["price_" + peer] = price
        return fields

    @classmethod
    def from_message(cls, action: Action) -> StepReport:
        """Return the report that a message carries; a trade without its price is left out."""
        extras = action.__pydantic_extra__ or {}
        tables: tuple[dict[str, Any], ...] = ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})
        for (number, name), value in zip(_tables_of(tuple(extras)), extras.values(), strict=True):
            is_whole = type(value) is int and number != _NOT_OURS  # one that is not ours may be too large
            tables[number][name] = float(value) if is_whole else value
        p_mw, q_mvar, soc, cost, fallbacks, bounds, authority, residuals, sold, prices, _ = tables
        trades = {}
        for peer, mwh in sold.items():
            if peer in prices:
                trades[peer] = make_tuple(Trade, (mwh, prices[peer]))
        # by position, as in each step: by name it takes three times as long
        return cls(p_mw, q_mvar, soc, cost, trades, fallbacks, bounds, authority, residuals, action.missed)


_TABLES = ("p_", "q_", "soc_", "cost_", "fallback_", "bound_", "authority_", "residual_", "trade_", "price_")
"""Prefixes of an action's fields, in the order in which ``StepReport.from_message`` collects them."""
_NOT_OURS = len(_TABLES)
_MAX_LAYOUTS = 256  # actions whose names of fields are remembered; they come from the network


@functools.lru_cache(maxsize=_MAX_LAYOUTS)  # an agent names the same fields in nearly every step
def _tables_of(keys: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    """Return for each field the number of the table that it belongs to, and its name there."""
    parts = (key.partition("_") for key in keys)
    return tuple(
        (_TABLES.index(f"{word}_") if f"{word}_" in _TABLES else _NOT_OURS, name) for word, _, name in parts
    )


class Agent(Protocol):
    """One agent, driven through a step by a proxy (over a broker) or directly (centralized mode).

    The calls of one step, in this order: ``observe``, ``decide``, ``negotiate`` (the driver runs the
    session), ``conclude``. Then ``wanted``, if setpoints are sent or checked, ``simulate`` or ``measured``
    for each device, and ``report``. An agent may have ``simulate_each(devices)``, which is called instead
    where all are simulated with what is wanted.
    """

    agent_id: str
    peers: tuple[str, ...]
    """Agents it negotiates with; may be empty."""

    def reset(self, episode: int, seed: int | None) -> None:
        """Go back to the initial state."""

    def observe(self, observation: Observation | None, price: float | None) -> None:
        """Take what is known of the step; None = it did not arrive, continue with what is known.

        Args:
            observation: Local state. The environment's own agents get it as a ``LocalState`` in
                centralized mode: the same fields without the metadata of a message.
            price: The operator's price, $/MWh.
        """

    def decide(self, command: Command | None) -> None:
        """Plan the step: follow the command where there is one, else the agent's own policy.

        The environment's own agents get it as a ``StepCommand`` in centralized mode.
        """

    def negotiate(self) -> HorizontalSession | None:
        """Return this agent's part in the horizontal protocol of this step, if it takes part."""

    def conclude(self) -> Collection[str]:
        """Take what was negotiated into the plan; return the names of the devices to be driven."""

    def wanted(self) -> Mapping[str, SetpointRequest]:
        """Return the setpoints to send, one a device."""

    def limits(self, device: str) -> SetpointLimits:
        """Return what bounds a device's setpoint in this step."""

    def simulate(
        self, device: str, reason: str | None = None, *, setpoint: SetpointRequest | None = None
    ) -> None:
        """Let the device's model take the step; with ``reason`` it stands in for the real one.

        ``setpoint`` is the allowed setpoint, if it differs from the requested one.
        """

    def measured(
        self, device: str, telemetry: Telemetry, *, setpoint: SetpointRequest | None = None
    ) -> float:
        """Take what the device measured; its model follows it. Return measured minus modelled power, MW."""

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Compare a device that is read but not driven with its model; return the residual, MW."""

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Put the model where the device is; no time passes."""

    def report(self) -> StepReport:
        """Return what really happened in the step."""


def each_simulated(agent: Agent) -> Callable[[Iterable[str]], None]:
    """Return what has models take the step with what is wanted: the agent's own way, if it has one."""

    def one_by_one(devices: Iterable[str]) -> None:
        for name in devices:
            agent.simulate(name)

    own_way: Callable[[Iterable[str]], None] | None = getattr(agent, "simulate_each", None)
    return own_way or one_by_one
