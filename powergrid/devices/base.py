"""What every device model promises, and the arithmetic they share.

A model is a pure state machine: no clock, no randomness, no I/O. It uses IEEE-754 additions, multiplications,
divisions and square roots only, which are all correctly rounded. So equal inputs give bit-identical outputs
in the simulation, in the twin beside a real device and in an emulator.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import ConfigDict, Field

from heron_mqtt.deferred_model import DeferredModel
from heron_mqtt.named_tuples import make_tuple

__all__ = [
    "ConsumerSpecBase",
    "Device",
    "DeviceSpecBase",
    "DeviceState",
    "Measurement",
    "PolicyThresholds",
    "clip",
    "clip_q",
    "finite",
    "hours",
    "hours_of",
    "make_tuple",
]

S_PER_H = 3600.0
UNKNOWN: Any = nan
"""What was not asked yet: it equals nothing, not even itself."""

# Larger than any plant there is (the largest is 22.5 GW): a number above was meant in W or kW.
_MAX_MW = 1e5

PowerMw = Annotated[float, Field(ge=0.0, le=_MAX_MW)]
PositivePowerMw = Annotated[float, Field(gt=0.0, le=_MAX_MW)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


PandapowerTable = Literal["storage", "sgen", "load"]
"""Tables of pandapower in which a device can stand."""


class DeviceSpecBase(DeferredModel):
    """Nameplate of a device, and what its kind can do: all that the environment asks of a kind.

    Immutable, finite numbers only, unknown keys refused. A subclass gives ``kind`` its name, as
    ``Literal["wallbox"]`` with that default, and overrides what differs from the defaults here.

    Attributes:
        pandapower_table: Where the device stands in the network; decides pandapower's sign.
        has_soc: It has a state of charge, which is observed and reported.
        soc_has_band: The reward's preferred band of the state of charge holds for it.
        has_cost: Its steps may cost something beside energy; reported and part of the reward.
        profile_says: What its profile column says, for messages ("what the sun offers"); None = it has none.
        profile_holds: Without news the last value of the profile holds; else it counts as 0.
        profile_bounds: It goes no further than its profile says; else it may draw more: into a store, or to
            catch up.
        is_any_kind: It may stand for a device of any kind, which says another one in its birth.
        controls_q: Its reactive power can be set.
        rests_when_safe: Its safe state is no power; else it continues as it is, without commands.
        runs_foreign_code: A step may take long, or end its process: its emulator has one of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    pandapower_table: ClassVar[PandapowerTable] = "load"
    has_soc: ClassVar[bool] = False
    soc_has_band: ClassVar[bool] = False
    has_cost: ClassVar[bool] = False
    profile_says: ClassVar[str | None] = None
    profile_holds: ClassVar[bool] = True
    profile_bounds: ClassVar[bool] = True
    is_any_kind: ClassVar[bool] = False
    controls_q: ClassVar[bool] = True
    rests_when_safe: ClassVar[bool] = True
    runs_foreign_code: ClassVar[bool] = False

    kind: str

    @property
    @abstractmethod
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""

    @property
    @abstractmethod
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA, with the default filled in; infinite where there is none."""

    @property
    def gap_mw(self) -> tuple[float, float]:
        """The powers between these two, MW, cannot be held: off or at least the minimum. Equal = none."""
        return 0.0, 0.0

    @property
    def profile_mw(self) -> float:
        """What a per-unit profile of the device multiplies, MW, positive = injected; 0 without a profile."""
        return 0.0

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins, fraction; of kinds that have one."""
        return 0.0

    @property
    def action_range_mw(self) -> tuple[float, float, float] | None:
        """Setpoint, MW, at -1, 0 and +1 of the normalised action; None = the device has no action."""
        low, high = self.power_range_mw
        return low, 0.5 * (low + high), high

    @property
    def observed(self) -> tuple[str, ...]:
        """Prefixes of what an agent observes of the device, in this order."""
        return (
            "p_",
            "q_",
            *(("soc_",) if self.has_soc else ()),
            *(("p_available_",) if self.profile_says is not None else ()),
        )

    def safe_p_mw(self, p_available_mw: float | None) -> float:
        """Return the power, MW, that the device is taken to have while its agent is lost: its safe state.

        Args:
            p_available_mw: What its profile says of the step, MW; None without a profile.
        """
        if p_available_mw is None or self.rests_when_safe:
            return 0.0
        low, high = self.power_range_mw
        return clip(p_available_mw, low, min(high, self.rated_s_mva))

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return what the device does, MW, when its setpoint is a part of the planned power.

        Args:
            planned_mw: MW, positive = injected.
            factor: The part, in [0, 1].
        """
        return planned_mw * factor

    def located(self, find: Callable[[str], Path]) -> Self:
        """Return the nameplate with the full paths of its files; itself if it names none.

        Args:
            find: Returns the place of a file that is named relative to the scenario.

        Raises:
            ConfigError: One line for each mistake in such a file, with the key that names it.
        """
        return self

    def derated(self, efficiency_factor: float) -> Self:
        """Return the nameplate of a device that converts energy worse; itself where there is nothing to.

        Args:
            efficiency_factor: On its efficiencies, in (0, 1].
        """
        return self


class ConsumerSpecBase(DeviceSpecBase):
    """Nameplate of a device that only draws, at unity power factor, up to ``max_p_mw``."""

    controls_q: ClassVar[bool] = False

    max_p_mw: PositivePowerMw = Field(description="Largest consumption, MW, magnitude (p_mw >= -this)")

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""
        return -self.max_p_mw, 0.0

    @property
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA: it draws no reactive power."""
        return self.max_p_mw

    @property
    def profile_mw(self) -> float:
        """What the per-unit profile multiplies, MW, as an injection."""
        return -self.max_p_mw


class PolicyThresholds(Protocol):
    """The part of an agent's policy that a device's own policy may follow; ``PolicyTable`` has more."""

    @property
    def charge_below(self) -> float:
        """Energy is cheap at or below this price, $/MWh."""

    @property
    def discharge_above(self) -> float:
        """Energy is dear at or above this price, $/MWh."""

    @property
    def battery_share(self) -> float:
        """Part of a battery's power that is used, (0, 1]."""


class Measurement(NamedTuple):  # a dataclass that is frozen takes three times as long to make
    """What a device really did during one step.

    Attributes:
        p_mw: Active power held during the step, MW, positive = injected into the grid.
        q_mvar: Reactive power held during the step, Mvar, positive = injected into the grid.
        soc: State of charge at the end of the step, fraction of ``max_e_mwh``; None without a store.
        running: Whether the unit was synchronised during the step; None for what cannot be off.
        cost: Generation cost of the step, $, start and stop cost included; 0 for all but generators.
        clipped: The setpoint could not be followed: what happened differs from what was asked.
        loss_mwh: Energy lost inside the device during the step, MWh, >= 0; 0 for all but batteries.
    """

    p_mw: float
    q_mvar: float
    soc: float | None
    running: bool | None
    cost: float
    clipped: bool
    loss_mwh: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What the next step depends on, of a kind for which nothing does but its last power.

    Other kinds have their own, with ``p_mw`` in it; named tuples are made in a third of the time.

    Attributes:
        p_mw: Active power of the last step, MW, positive = injected into the grid.
    """

    p_mw: float


class Device(ABC):
    """One device: a spec that never changes and a state that only ``step`` and ``restore`` move.

    ``state`` is an immutable value, so ``saved = device.state`` and later ``device.state = saved`` is an
    exact undo. Power is positive when injected into the grid, everywhere.
    """

    spec_type: ClassVar[type[DeviceSpecBase]]
    """Nameplate of this kind; its ``kind`` is the kind's name."""
    is_dispatched: ClassVar[bool] = False
    """Its agent runs it by economic dispatch; then it has ``preview`` and ``economic_p_mw``."""
    script: ClassVar[str | None] = None
    """Name of its emulator on the command line; None = the kind's own name."""
    description: ClassVar[str] = ""
    """One line on it, for the help of its emulator; empty = made of the kind's name."""

    spec: DeviceSpecBase
    state: Any
    """What the next step depends on: a ``DeviceState``, or the kind's own immutable value."""

    @abstractmethod
    def __init__(self, spec: Any) -> None:
        """Make a device in its initial state; ``spec`` is a ``spec_type``."""

    @abstractmethod
    def reset(self) -> None:
        """Go back to the spec's initial state."""

    @abstractmethod
    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return the active power that can be held for the whole of the coming step.

        Args:
            dt_s: Length of the step, s, > 0.
            p_available_mw: What the profile offers during the step, MW, as an injection: >= 0 for PV,
                <= 0 for a load (its demand); None = no limit but the nameplate. Kinds without a
                profile, as batteries and generators, take only None.

        Returns:
            ``(p_min_mw, p_max_mw)``. Every setpoint in it is realised exactly (for a generator or an EV
            charger: except those strictly between 0 and its minimum, see there); one outside goes to the
            nearest edge.

        Raises:
            ValueError: ``dt_s`` or ``p_available_mw`` is out of its range or not finite.
        """

    @abstractmethod
    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Ask for a setpoint, hold for ``dt_s`` what is possible of it, and move the state.

        Active power comes first; reactive power gets what the apparent-power limit leaves,
        ``|q| <= sqrt(s_max_mva^2 - p^2)``.

        Args:
            p_mw: Wanted active power, MW, positive = injected.
            q_mvar: Wanted reactive power, Mvar, positive = injected.
            dt_s: Length of the step, s, > 0.
            p_available_mw: As in ``feasible``.

        Raises:
            ValueError: An argument is out of its range or not finite; the state has not moved.
        """

    @abstractmethod
    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Re-seed the state from telemetry, as after a step that ended with these values.

        What is None keeps the model's own value (``Generator`` infers ``running`` from the power).
        Telemetry of a quantity this kind of device has no state for changes nothing.

        Args:
            p_mw: Measured active power, MW, positive = injected.
            soc: Measured state of charge in [0, 1] (batteries).
            running: Whether the unit is synchronised (generators).
            time_in_state_s: How long it has been so, s, >= 0 (generators).

        Raises:
            ValueError: A value is out of its range or not finite; the state has not moved.
        """

    def project(self, p_mw: float, dt_s: float, p_available_mw: float | None = None) -> float:
        """Return the active power, MW, that ``step`` would realise for this setpoint; moves nothing."""
        return clip(finite("p_mw", p_mw), *self.feasible(dt_s, p_available_mw))

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Return the setpoint, MW, that the device's own policy asks for where no command does.

        Args:
            price: Of the step, $/MWh.
            policy: The agent's.
            dt_s: Length of the step, s.
            p_available_mw: As in ``feasible``.
        """
        return 0.0

    def preview(self, p_mw: float, dt_s: float) -> tuple[float, float]:
        """Return active power, MW, and cost, $, that ``step`` would have for this setpoint; moves nothing.

        Of devices that ``is_dispatched``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not dispatched")

    def economic_p_mw(self, price: float) -> float:
        """Return the power, MW, at which the marginal cost equals ``price``, $/MWh.

        Of devices that ``is_dispatched``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not dispatched")

    def follow(self, before: Any, p_mw: float, dt_s: float, cost: float) -> float:
        """Count what telemetry does not say, after ``restore``; return what the step cost, $.

        Args:
            before: State in which the step began.
            p_mw: What was measured, MW.
            dt_s: Length of the step, s.
            cost: What the model's own step cost, $.
        """
        return cost

    def missing_mw(self, soc: float, measured_soc: float, dt_s: float) -> float:
        """Return the power, MW, that would explain a state of charge other than the model's; 0 = unknown.

        Args:
            soc: The model's at the end of the step.
            measured_soc: The device's.
            dt_s: Length of the step, s.
        """
        return 0.0


def finite(name: str, value: float) -> float:
    """Return ``value`` as a plain float (numpy scalars too, -0.0 as 0.0).

    Raises:
        ValueError: It is NaN or infinite.
    """
    if not isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value) + 0.0


def hours(dt_s: float) -> float:
    """Return a step's length in h.

    Raises:
        ValueError: It is not a finite number > 0.
    """
    return hours_of(float(dt_s))


@functools.lru_cache(maxsize=16)  # every device of a step asks, several times
def hours_of(dt_s: float) -> float:
    """Return ``hours`` of a plain float, without a call of Python where it was asked before."""
    dt_h = dt_s / S_PER_H
    if not 0.0 < dt_h < inf:
        raise ValueError(f"dt_s must be a finite number of seconds > 0, got {dt_s}")
    return dt_h


def no_profile(kind: str, p_available_mw: float | None) -> None:
    """Refuse a profile value handed to a device that follows none."""
    if p_available_mw is not None:
        raise ValueError(
            f"p_available_mw must be None for a {kind}, which follows no profile, got {p_available_mw}"
        )


def clip(value: float, low: float, high: float) -> float:
    """Return the point of [low, high] nearest to ``value``, never -0.0."""
    if value < low:
        return low + 0.0
    if value > high:  # a third of the time of min(), and a step asks sixty times
        return high + 0.0
    return value + 0.0


def clip_q(q_mvar: float, p_mw: float, s_max_mva: float) -> float:
    """Return the reactive power, Mvar, that fits beside ``p_mw`` (|p_mw| <= s_max_mva)."""
    if q_mvar == 0.0:
        return 0.0
    limit = sqrt((s_max_mva - p_mw) * (s_max_mva + p_mw))
    return clip(q_mvar, -limit, limit)
