"""A dispatchable generator: limits, ramp, minimum up and down time, quadratic cost.

Source: docs/models.md, generator.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from powergrid.devices.base import (
    UNKNOWN,
    Device,
    DeviceSpecBase,
    Measurement,
    PandapowerTable,
    PositivePowerMw,
    PowerMw,
    clip,
    clip_q,
    finite,
    hours,
    hours_of,
    make_tuple,
    no_profile,
)

__all__ = ["Generator", "GeneratorSpec", "GeneratorState"]

# Ten steps of 0.1 s add up to 0.9999999999999999 s, and that is one second up.
CLOCK_TOLERANCE_S = 1e-6

Cost = Annotated[float, Field(ge=0.0, le=1e9)]
DurationS = Annotated[float, Field(ge=0.0, le=1e9)]


class GeneratorSpec(DeviceSpecBase):
    """Nameplate of a generator. Cost of running for one hour at p: a + b p + c p^2, $."""

    pandapower_table: ClassVar[PandapowerTable] = "sgen"
    has_cost: ClassVar[bool] = True

    kind: Literal["generator"] = "generator"
    min_p_mw: PowerMw = Field(default=0.0, description="Smallest power when running, MW, injected")
    max_p_mw: PositivePowerMw = Field(description="Largest power, MW, injected")
    s_max_mva: PositivePowerMw | None = Field(
        default=None, description="Apparent power of the machine, MVA, >= max_p_mw; None = max_p_mw"
    )
    ramp_mw_per_s: PositivePowerMw | None = Field(
        default=None, description="Largest change of p_mw while running, MW/s; None = unlimited"
    )
    cost_a_usd_per_h: Cost = Field(default=0.0, description="Constant cost while running, $/h")
    cost_b_usd_per_mwh: Cost = Field(default=0.0, description="Linear cost, $/MWh (p in MW)")
    cost_c_usd_per_mw2h: Cost = Field(default=0.0, description="Quadratic cost, $/(MW^2 h) (p in MW)")
    start_cost_usd: Cost = Field(default=0.0, description="Cost of one start, $")
    stop_cost_usd: Cost = Field(default=0.0, description="Cost of one stop, $")
    min_up_s: DurationS = Field(default=0.0, description="Shortest time running before a stop, s")
    min_down_s: DurationS = Field(default=0.0, description="Shortest time off before a start, s")
    initial_running: bool = Field(default=False, description="Running after reset; free to switch at once")
    initial_p_mw: PowerMw | None = Field(
        default=None, description="Power after reset, MW, injected; None = min_p_mw when running, 0 when off"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_p_mw > self.max_p_mw:
            raise ValueError(f"min_p_mw must not exceed max_p_mw, got {self.min_p_mw} and {self.max_p_mw}")
        if self.s_max_mva is not None and self.s_max_mva < self.max_p_mw:
            raise ValueError(f"s_max_mva must be at least max_p_mw = {self.max_p_mw}, got {self.s_max_mva}")
        if self.initial_p_mw is not None:
            low, high = (self.min_p_mw, self.max_p_mw) if self.initial_running else (0.0, 0.0)
            if not low <= self.initial_p_mw <= high:
                raise ValueError(
                    f"initial_p_mw must be within [{low}, {high}] with initial_running = "
                    f"{str(self.initial_running).lower()}, got {self.initial_p_mw}"
                )
        return self

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""
        return 0.0, self.max_p_mw

    @property
    def gap_mw(self) -> tuple[float, float]:
        """The powers between these two, MW, cannot be held: below the minimum it is off."""
        return 0.0, self.min_p_mw

    @property
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA, with the default filled in."""
        return self.max_p_mw if self.s_max_mva is None else self.s_max_mva

    @property
    def action_range_mw(self) -> tuple[float, float, float]:
        """Setpoint, MW, at -1, 0 and +1 of the action: -1 is off."""
        return 0.0, 0.5 * self.max_p_mw, self.max_p_mw

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return a part of what was planned: nothing, or at least ``min_p_mw``."""
        told_mw = planned_mw * factor
        if told_mw < self.min_p_mw <= planned_mw:
            told_mw = self.min_p_mw if told_mw > 0.5 * self.min_p_mw else 0.0  # the rule of Generator
        return told_mw


class GeneratorState(NamedTuple):
    """How a generator runs.

    Attributes:
        p_mw: Active power of the last step, MW, 0 when off.
        running: Synchronised to the grid.
        time_in_state_s: How long it has been running, or off, s.
    """

    p_mw: float
    running: bool
    time_in_state_s: float


class Generator(Device):
    """A generator that is off at 0 MW or runs within [min_p_mw, max_p_mw].

    - A setpoint <= ``min_p_mw / 2`` means off, one between that and ``min_p_mw`` means ``min_p_mw``:
      the nearer of the two, and off at the tie. Off is a request: while the minimum up time or the
      ramp forbids it, the unit goes as low as it can.
    - A start synchronises at ``min_p_mw`` and ramps on from there within the same step; a stop needs
      ``min_p_mw`` within the ramp's reach.
    - ``feasible`` spans from 0 to the top whenever 0 is reachable; ``project`` tells what becomes of a
      setpoint in the gap between 0 and ``min_p_mw``.
    """

    spec_type = GeneratorSpec
    is_dispatched = True
    script = "genset"
    description = "A dispatchable generator set, emulated."

    spec: GeneratorSpec
    state: GeneratorState

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec
        self._rated_s_mva = spec.rated_s_mva
        # Attributes of a nameplate, which pydantic guards, take several times as long to read as these.
        self._min_p_mw, self._max_p_mw = spec.min_p_mw, spec.max_p_mw
        self._ramp_mw_per_s = spec.ramp_mw_per_s
        self._cost_a, self._cost_b = spec.cost_a_usd_per_h, spec.cost_b_usd_per_mwh
        self._cost_c = spec.cost_c_usd_per_mw2h
        # How long a state must have lasted before the next one, s.
        self._min_up_s = spec.min_up_s - CLOCK_TOLERANCE_S
        self._min_down_s = spec.min_down_s - CLOCK_TOLERANCE_S
        self.reset()
        self._worked_out: tuple[GeneratorState, float, tuple[bool, tuple[float, float] | None]]
        self._worked_out = self.state, UNKNOWN, UNKNOWN
        # The last question, and the answer.
        self._asked: tuple[GeneratorState, float, float, tuple[bool, float]]
        self._asked = self.state, UNKNOWN, UNKNOWN, UNKNOWN

    def reset(self) -> None:
        """Go back to the initial state, free to start or stop at once."""
        spec = self.spec
        p = spec.initial_p_mw
        if p is None:
            p = spec.min_p_mw if spec.initial_running else 0.0
        self.state = GeneratorState(p, spec.initial_running, max(spec.min_up_s, spec.min_down_s))

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return the span of reachable power, MW, 0 = off; see ``Device`` and the class for the gap."""
        no_profile("generator", p_available_mw)
        may_be_off, running_range = self._reachable(dt_s)
        if running_range is None:
            return 0.0, 0.0
        low, high = running_range
        return (0.0 if may_be_off else low), high

    def project(self, p_mw: float, dt_s: float, p_available_mw: float | None = None) -> float:
        """Return the active power, MW, that ``step`` would realise for this setpoint; moves nothing."""
        if p_available_mw is not None:
            no_profile("generator", p_available_mw)
        return self._decide(p_mw, dt_s)[1]

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Run, start or stop for ``dt_s``; an idle unit gives no reactive power; see ``Device``."""
        if p_available_mw is not None:
            no_profile("generator", p_available_mw)
        state, of_p_mw, of_dt_s, decided = self._asked
        if state is not self.state or of_p_mw != p_mw or of_dt_s != dt_s:
            decided = self._decide(p_mw, dt_s)  # which keeps what was asked
        running, p = decided
        dt_s = float(dt_s)
        wanted_p, wanted_q = self._asked[1], finite("q_mvar", q_mvar) if q_mvar != 0.0 else 0.0
        q = clip_q(wanted_q, p, self._rated_s_mva) if running and wanted_q else 0.0
        cost = self._cost(running, p, hours_of(dt_s))
        _, ran, time_in_state_s = self.state
        before_s = time_in_state_s if running == ran else 0.0
        self.state = make_tuple(GeneratorState, (p, running, before_s + dt_s))
        clipped = p != wanted_p or q != wanted_q
        return make_tuple(Measurement, (p, q, None, running, cost, clipped, 0.0))

    def preview(self, p_mw: float, dt_s: float) -> tuple[float, float]:
        """Return active power, MW, and cost, $, that ``step`` would have for this setpoint; moves nothing."""
        running, p = self._decide(p_mw, dt_s)
        return p, self._cost(running, p, hours(dt_s))

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take power and, if told, the switching state from telemetry; see ``Device``.

        Without ``running``, more than ``min_p_mw / 2`` means running (a running unit of
        ``min_p_mw`` = 0 may also idle at 0). Measured power is pulled into what the unit can do. Without
        ``time_in_state_s`` the count continues if the unit is as the model had it, and begins again if not.
        """
        p = finite("p_mw", p_mw)
        spec = self.spec
        if running is None:
            idling = spec.min_p_mw == 0.0 and self.state.running and p == 0.0
            running = idling or p > 0.5 * spec.min_p_mw
        if time_in_state_s is None:
            time_in_state_s = self.state.time_in_state_s if running == self.state.running else 0.0
        elif finite("time_in_state_s", time_in_state_s) < 0.0:
            raise ValueError(f"time_in_state_s must be >= 0, got {time_in_state_s}")
        p = clip(p, spec.min_p_mw, spec.max_p_mw) if running else 0.0
        self.state = GeneratorState(p, bool(running), float(time_in_state_s))

    def follow(self, before: Any, p_mw: float, dt_s: float, cost: float) -> float:
        """Count up and down time; return the cost, $, of what the generator did rather than its model."""
        assert isinstance(before, GeneratorState)
        spec, ran = self.spec, self.state.running
        cost = self.cost_per_h(p_mw) * hours(dt_s) if ran else 0.0
        time_in_state_s = before.time_in_state_s + dt_s
        if ran != before.running:
            cost += spec.start_cost_usd if ran else spec.stop_cost_usd
            time_in_state_s = dt_s
        self.state = self.state._replace(time_in_state_s=time_in_state_s)
        return cost

    def cost_per_h(self, p_mw: float) -> float:
        """Return the cost of running at ``p_mw``, $/h: a + b p + c p^2."""
        return self._cost_a + (self._cost_b + self._cost_c * p_mw) * p_mw

    def marginal_cost(self, p_mw: float) -> float:
        """Return the cost of one more MWh at ``p_mw``, $/MWh: b + 2 c p."""
        return self._cost_b + 2.0 * self._cost_c * p_mw

    def economic_p_mw(self, price: float) -> float:
        """Return the power, MW, at which a running unit's marginal cost equals ``price``, $/MWh.

        Clipped to [min_p_mw, max_p_mw]. With constant marginal cost (c = 0): ``max_p_mw`` where the
        price is above it, else ``min_p_mw``. Whether to run at all is not decided here.

        Raises:
            ValueError: ``price`` is not finite.
        """
        margin = finite("price", price) - self._cost_b
        if self._cost_c == 0.0:
            return self._max_p_mw if margin > 0.0 else self._min_p_mw
        return clip(margin / (2.0 * self._cost_c), self._min_p_mw, self._max_p_mw)

    def _cost(self, running: bool, p_mw: float, dt_h: float) -> float:
        """Return the cost, $, of a step at ``p_mw`` (0 when off), with the start or stop it begins with."""
        cost = self.cost_per_h(p_mw) * dt_h if running else 0.0
        if running != self.state.running:
            cost += self.spec.start_cost_usd if running else self.spec.stop_cost_usd
        return cost

    def _reachable(self, dt_s: float) -> tuple[bool, tuple[float, float] | None]:
        """Return (may be off, range when running or None if it may not run) for the coming step.

        Worked out once a state, since a plan asks several times before the step.
        """
        state, of_dt_s, reachable = self._worked_out
        if state is not self.state or of_dt_s != dt_s:
            reachable = self._work_out(dt_s)
            self._worked_out = self.state, dt_s, reachable
        return reachable

    def _work_out(self, dt_s: float) -> tuple[bool, tuple[float, float] | None]:
        hours_of(float(dt_s))  # which checks it
        p_mw, running, time_in_state_s = self.state
        low, high, ramp_mw_per_s = self._min_p_mw, self._max_p_mw, self._ramp_mw_per_s
        if not running:
            if time_in_state_s < self._min_down_s:
                return True, None
            if ramp_mw_per_s is not None:
                high = clip(low + ramp_mw_per_s * float(dt_s), low, high)
            return True, (low, high)
        if ramp_mw_per_s is not None:
            reach_mw = ramp_mw_per_s * float(dt_s)
            low, high = clip(p_mw - reach_mw, low, high), clip(p_mw + reach_mw, low, high)
        return time_in_state_s >= self._min_up_s and low == self._min_p_mw, (low, high)

    def _decide(self, p_mw: float, dt_s: float) -> tuple[bool, float]:
        """Return (running, power in MW) for a setpoint; worked out once, as a plan asks before the step.

        Raises:
            ValueError: ``p_mw`` is not finite, or ``dt_s`` out of its range.
        """
        state, of_p_mw, of_dt_s, decided = self._asked
        if state is self.state and of_p_mw == p_mw and of_dt_s == dt_s:
            return decided
        wanted = float(p_mw) + 0.0
        if wanted - wanted != 0.0:  # as ``finite`` finds, without its call
            finite("p_mw", p_mw)
        may_be_off, running_range = self._reachable(dt_s)
        if running_range is None or (may_be_off and wanted <= 0.5 * self._min_p_mw):
            decided = False, 0.0
        else:
            low, high = running_range
            decided = True, low if wanted < low else min(wanted, high)
        self._asked = self.state, wanted, dt_s, decided
        return decided
