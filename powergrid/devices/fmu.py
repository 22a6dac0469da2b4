"""A functional mock-up unit as a device: a manufacturer's or tool's model, run through FMI co-simulation.

Source: docs/models.md, FMU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from powergrid.devices.base import Device, Measurement, PolicyThresholds, clip, finite, hours
from powergrid.devices.fmu_nameplate import FmuNameplate
from powergrid.devices.fmu_units import FmuHistory, FmuUnits
from powergrid.devices.fmu_wiring import FmuWiring

__all__ = ["Fmu", "FmuSpec", "FmuState"]


class FmuSpec(FmuNameplate):
    """Nameplate of a functional mock-up unit (FMI 2 or 3, co-simulation), and its variables."""

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins, as the unit itself shows it."""
        return _first_soc(self)

    def located(self, find: Callable[[str], Path]) -> Self:
        """Return it with the whole path of its file, and check what the unit says of itself.

        Raises:
            ConfigError: One line for each mistake, with its key.
        """
        spec = self.model_copy(update={"file": str(find(self.file).absolute())})
        FmuWiring(spec)
        return spec


class FmuState(NamedTuple):
    """State of a unit.

    Attributes:
        p_mw: Power of the last step, MW.
        soc: State of charge, fraction; None = it shows none.
        running: Whether it runs; None = it does not say.
        history: The inputs since the unit began.
    """

    p_mw: float
    soc: float | None
    running: bool | None
    history: FmuHistory


class Fmu(Device):
    """A unit; its power is whatever it makes of the setpoint, known after the step.

    - A setpoint is clipped to the nameplate, which is what ``feasible`` gives: its own limits the unit keeps
      to itself. A reactive power is clipped to what the apparent power leaves beside it.
    - The power of a step is the mean of what the unit shows at the end of each communication step.
    - The state is what the unit was given since it began. A stored state is restored by FMI's own undo if the
      unit has it and it is one step. Otherwise the unit runs again from its beginning. So the unit must be
      deterministic.
    - Of telemetry only the state of charge can be handed to it, by beginning again with ``soc.start``.
    """

    spec_type = FmuSpec
    description = "A functional mock-up unit (FMI 2 or 3, co-simulation), emulated."

    spec: FmuSpec
    state: FmuState

    def __init__(self, spec: FmuSpec) -> None:
        self.spec = spec
        self._units = FmuUnits(spec)
        self.reset()
        _FIRST[spec.model_dump_json()] = self.state.soc

    def __copy__(self) -> Fmu:
        """Return a twin with the same state; the instances are shared, each continues by itself."""
        twin = object.__new__(type(self))
        twin.spec, twin._units, twin.state = self.spec, self._units, self.state
        return twin

    def __reduce__(self) -> Any:
        return _device, (self.spec, self.state)

    def reset(self) -> None:
        """Begin again."""
        if hasattr(self, "state"):
            self._units.release(self.state.history)
        self.state = self._begin(self.spec.initial_soc)

    def _begin(self, start_soc: float | None) -> FmuState:
        history = FmuHistory(start_soc=start_soc)
        p_mw, _, soc, running = self._units.shown(self._units.at(history).read(self._units.wiring.shown))
        return FmuState(p_mw, soc, running, history)

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return the nameplate; see ``Device``."""
        hours(dt_s)
        self._check_available(p_available_mw)
        return self.spec.power_range_mw

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Ask the unit for a power and let it take the step; see ``Device``.

        Raises:
            ModelFailed: The unit could not; the state has not moved.
        """
        wanted, wanted_q = finite("p_mw", p_mw), finite("q_mvar", q_mvar)
        asked = clip(wanted, *self.feasible(dt_s, p_available_mw))
        asked_q = self._reactive(wanted_q, asked)
        available = self.spec.profile_mw if p_available_mw is None else float(p_available_mw)
        history = FmuHistory(
            self.state.history, (asked, asked_q, available), float(dt_s), self.state.history.start_soc
        )
        p, q, soc, running = self._units.take(history)
        self.state = FmuState(p, soc, running, history)
        return Measurement(p, q, soc, running, 0.0, p != wanted or q != q_mvar)

    def _reactive(self, q_mvar: float, p_mw: float) -> float:
        """Return the reactive power that it is asked for, Mvar: what the apparent power leaves, or none."""
        if not self.spec.controls_q:
            return 0.0
        s_mva = self.spec.rated_s_mva
        most = math.sqrt((s_mva - p_mw) * (s_mva + p_mw))
        return clip(q_mvar, -most, most)

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take telemetry; a state of charge that differs lets the unit begin again with it, where it can."""
        p = finite("p_mw", p_mw)
        state = self.state
        if soc is not None and self.spec.has_soc:
            if not 0.0 <= soc <= 1.0:
                raise ValueError(f"soc must be within [0, 1], got {soc}")
            if soc != state.soc and self._units.wiring.soc_start is not None:
                self._units.release(state.history)
                state = self._begin(float(soc))
            state = state._replace(soc=float(soc))
        if running is not None and state.running is not None:
            state = state._replace(running=running)
        self.state = state._replace(p_mw=p)

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Return what the profile offers; else charge when energy is cheap and discharge when it is dear."""
        low, high = self.spec.power_range_mw
        if p_available_mw is not None:
            return clip(p_available_mw, low, high)
        if self.spec.has_soc and price <= policy.charge_below:
            return low
        if self.spec.has_soc and price >= policy.discharge_above:
            return high
        return clip(0.0, low, high)

    def _check_available(self, p_available_mw: float | None) -> None:
        if p_available_mw is None:
            return
        if self.spec.available is None:
            raise ValueError(f"p_available_mw must be None for a unit without profile, got {p_available_mw}")
        if finite("p_available_mw", p_available_mw) * self.spec.profile_mw < 0.0:
            expected = ">= 0" if self.spec.profile_mw > 0.0 else "<= 0"
            raise ValueError(f"p_available_mw of this unit must be {expected}, got {p_available_mw}")


def _device(spec: FmuSpec, state: FmuState) -> Fmu:
    made = Fmu(spec)
    made.state = state
    return made


_FIRST: dict[str, float | None] = {}
"""Nameplate -> state of charge with which its unit begins."""


def _first_soc(spec: FmuSpec) -> float:
    """Return the state of charge with which a unit begins; it is begun for that unless one has been."""
    key = spec.model_dump_json()
    if key not in _FIRST:
        Fmu(spec)
    return _FIRST[key] or 0.0
