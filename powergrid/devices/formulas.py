"""Physics written once, for one device and for many copies: formulas over numbers or arrays.

A kind states how its state moves as formulas that use nothing but arithmetic, comparisons and ``Ops``.
``FormulaDevice`` runs them on numbers, ``powergrid.batched`` on arrays with one entry for each copy. Both do
the same correctly rounded operations in the same order, so they agree to the last bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import inf, sqrt
from typing import Any, ClassVar, NamedTuple, TypeVar

from powergrid.devices.base import (
    UNKNOWN,
    Device,
    Measurement,
    PolicyThresholds,
    clip,
    finite,
    hours,
    hours_of,
    make_tuple,
    no_profile,
)

__all__ = ["SCALAR", "FormulaDevice", "Ops"]

V = TypeVar("V")
Value = Any
"""A number, or an array with one entry a copy."""
State = Any
"""A ``NamedTuple`` of values; ``p_mw``, and ``soc`` where the kind has one, are among them."""


class Ops(NamedTuple):
    """What formulas use beside arithmetic and comparisons.

    Attributes:
        where: (condition, if true, if false); both are worked out.
        minimum, maximum: Of two values.
        clip: (value, low, high), with low <= high; never -0.0.
        sqrt: The square root.
    """

    where: Callable[..., Value]
    minimum: Callable[..., Value]
    maximum: Callable[..., Value]
    clip: Callable[..., Value]
    sqrt: Callable[..., Value]


def _where(condition: bool, true: V, false: V) -> V:
    return true if condition else false


SCALAR = Ops(where=_where, minimum=min, maximum=max, clip=clip, sqrt=sqrt)


class FormulaDevice(Device):
    """A device whose physics is formulas, so that its batched form needs no code of its own.

    Subclasses implement ``begin``, ``limits`` and ``after``, and may override the rest. In formulas use
    ``x.where`` instead of ``if``, and write conditions as products or nested ``where`` instead of ``and``.
    """

    q_is_the_demands: ClassVar[bool] = False
    """The reactive power of a setpoint is that of the full demand, and not one to be kept."""

    spec: Any
    state: Any

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self._rated_s_mva = spec.rated_s_mva
        self._controls_q, self._has_soc = spec.controls_q, spec.has_soc
        # What a profile is multiplied by, whose sign its values have; None = the kind follows no profile.
        self._profile_mw: float | None = None if spec.profile_says is None else spec.profile_mw
        self.reset()
        # The last question, and the answer: a plan asks before the step, and with the same setpoint.
        self._asked: tuple[State, float, float, float | None, float] = (
            self.state,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
        )

    # -- the kind's formulas -----------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> State:
        """Return the state with which an episode begins, all numbers."""

    @abstractmethod
    def limits(self, state: State, dt_s: float, available: Value | None, x: Ops) -> tuple[Value, Value]:
        """Return the range of active power that can be held for the coming step, MW; see ``Device.feasible``.

        Args:
            state: At its beginning.
            dt_s: Its length, s.
            available: What the profile says of it, MW; None = no limit but the nameplate.
            x: Arithmetic.
        """

    @abstractmethod
    def after(
        self, state: State, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[State, Value, Value]:
        """Return the state after a step at a power that was found possible, its cost, $, and loss, MWh."""

    def realised(self, state: State, p_mw: Value, dt_s: float, available: Value | None, x: Ops) -> Value:
        """Return the power, MW, that becomes of a setpoint."""
        return x.clip(p_mw, *self.limits(state, dt_s, available, x))

    def reactive(self, q_mvar: Value, p_mw: Value, available: Value | None, x: Ops) -> Value:
        """Return the reactive power, Mvar, beside ``p_mw``: what the apparent-power limit leaves, or none."""
        if not self._controls_q:
            return 0.0 * p_mw + 0.0
        s_mva = self._rated_s_mva
        limit = x.sqrt((s_mva - p_mw) * (s_mva + p_mw))
        return x.clip(q_mvar, -limit, limit)

    def usual(
        self,
        state: State,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Return the setpoint, MW, of the device's own policy; see ``Device.usual_p_mw``."""
        return 0.0 * price

    def soc(self, state: State) -> Value | None:
        """Return the state of charge, None for kinds without."""
        return state.soc if self._has_soc else None

    # -- the same on numbers -----------------------------------------------------------------------

    def reset(self) -> None:
        """Go back to the initial state."""
        self.state = self.begin()

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return the range of power, MW; see ``Device``."""
        hours(dt_s)
        if p_available_mw is not None:
            self._check_available(p_available_mw)
        low, high = self.limits(self.state, float(dt_s), p_available_mw, SCALAR)
        return low + 0.0, high + 0.0

    def project(self, p_mw: float, dt_s: float, p_available_mw: float | None = None) -> float:
        """Return the active power, MW, that ``step`` would realise; moves nothing.

        Worked out once, since a plan asks before the step.
        """
        state, p, of_dt_s, available, realised = self._asked
        if state is self.state and p == p_mw and of_dt_s == dt_s and available == p_available_mw:
            return realised
        wanted = float(p_mw) + 0.0
        if wanted - wanted != 0.0:  # as ``finite`` finds, without its call
            finite("p_mw", p_mw)
        hours_of(float(dt_s))  # which checks it
        if p_available_mw is not None:
            profile_mw = self._profile_mw
            if profile_mw is None or not 0.0 <= p_available_mw * profile_mw < inf:
                self._check_available(p_available_mw)
            p_available_mw = float(p_available_mw)
        realised = self.realised(self.state, wanted, float(dt_s), p_available_mw, SCALAR)
        self._asked = self.state, wanted, dt_s, p_available_mw, realised
        return self._asked[-1]

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Hold what is possible for ``dt_s`` and move the state; see ``Device``."""
        state, of_p_mw, of_dt_s, of_available, p = self._asked
        if state is not self.state or of_p_mw != p_mw or of_dt_s != dt_s or of_available != p_available_mw:
            # Not what a subclass may have made of it: this one has checked, and keeps, all but what follows.
            p = FormulaDevice.project(self, p_mw, dt_s, p_available_mw)
        wanted_p, wanted_q = self._asked[1], finite("q_mvar", q_mvar) if q_mvar != 0.0 else 0.0
        available = None if p_available_mw is None else float(p_available_mw)
        q = self.reactive(wanted_q, p, available, SCALAR)
        state, cost, loss_mwh = self.after(self.state, p, float(dt_s), available, SCALAR)
        self.state = state
        clipped = p != wanted_p or (q != wanted_q and not self.q_is_the_demands)
        soc = state.soc if self._has_soc else None
        return make_tuple(Measurement, (p, q, soc, None, cost, clipped, loss_mwh))

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take power and, where the kind has one, the state of charge from telemetry; see ``Device``."""
        state = self.state._replace(p_mw=finite("p_mw", p_mw))
        if soc is not None and self.spec.has_soc:
            if not 0.0 <= soc <= 1.0:
                raise ValueError(f"soc must be within [0, 1], got {soc}")
            state = state._replace(soc=float(soc))
        self.state = state

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Return the setpoint, MW, of the device's own policy; see ``Device``."""
        available = None if p_available_mw is None else float(p_available_mw)
        usual: float = self.usual(self.state, price, policy, float(dt_s), available, SCALAR)
        return usual

    def _check_available(self, p_available_mw: float) -> None:
        """Check what the profile says against the sign of the nameplate's profile.

        Raises:
            ValueError: It is not finite, of the wrong sign, or the kind follows no profile.
        """
        sign = self._profile_mw
        if sign is None:
            no_profile(self.spec.kind, p_available_mw)
        elif finite("p_available_mw", p_available_mw) * sign < 0.0:
            expected = ">= 0" if sign > 0.0 else "<= 0"
            what = f"p_available_mw of a {self.spec.kind}"
            if sign < 0.0:
                what += f" is {self.spec.profile_says} as an injection and"
            raise ValueError(f"{what} must be {expected}, got {p_available_mw}")
