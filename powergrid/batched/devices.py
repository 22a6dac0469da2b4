"""The device models over many copies at once: the same physics, one array entry a copy.

A ``FormulaDevice`` needs nothing here: its formulas take arrays too. A kind without formulas is run copy by
copy. Battery and generator are written a second time, for the speed of single environments. ``BatteryArray``
and ``GeneratorArray`` have arrays in place of numbers. Their formulas and the order of these are the same, so
that results are the same to the last bit; tests check this. The scalar models are the reference: what is
allowed, refused and meant is written there. Arguments are not checked here. Not imported by
``powergrid.devices``, which does without numpy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from powergrid.devices import DEVICES, Battery, Device, DeviceSpecBase, Generator, make_device
from powergrid.devices.base import PolicyThresholds, hours
from powergrid.devices.battery import BatterySpec
from powergrid.devices.draws import DeviceDraw, drawn_device, drawn_soc
from powergrid.devices.formulas import FormulaDevice, Ops
from powergrid.devices.generator import CLOCK_TOLERANCE_S, GeneratorSpec

__all__ = [
    "BatteryArray",
    "DeviceArray",
    "GeneratorArray",
    "Measurements",
    "make_device_array",
]

Array = NDArray[np.float64]


class Measurements(NamedTuple):
    """What the copies of a device really did, each (n,); as ``powergrid.devices.Measurement``."""

    p_mw: Array
    q_mvar: Array
    soc: Array | None
    cost: Array


class DeviceArray(ABC):
    """(n,) copies of a device."""

    spec: DeviceSpecBase

    @abstractmethod
    def reset(self, where: Any = ...) -> None:
        """Put copies (all, or those of a mask or of indices) back into the spec's initial state."""

    def redraw(self, copies: NDArray[np.intp], draws: Sequence[DeviceDraw]) -> None:  # noqa: B027
        """Take what episodes that begin have drawn, a draw a copy; after ``reset``.

        Kinds without a preferred band of their state of charge begin as their nameplate says.
        """

    @abstractmethod
    def get_state(self) -> Any:
        """Return the copies' states; a value that later steps leave alone."""

    @abstractmethod
    def set_state(self, state: Any) -> None:
        """Put them back."""

    @abstractmethod
    def put_back(self, state: Any, copies: NDArray[np.bool_]) -> None:
        """Put some copies back, (n,) of a mask; the others continue from where they are."""

    @abstractmethod
    def project(self, p_mw: Array, dt_s: float, p_available_mw: Array | None = None) -> Array:
        """Return the (n,) active powers, MW, that ``step`` would realise; moves nothing."""

    @abstractmethod
    def step(
        self, p_mw: Array, q_mvar: Array, dt_s: float, p_available_mw: Array | None = None
    ) -> Measurements:
        """Ask for (n,) setpoints, hold for ``dt_s`` what is possible of them, and move the states."""

    @abstractmethod
    def usual_p_mw(
        self, price: Array, policy: PolicyThresholds, dt_s: float, p_available_mw: Array | None
    ) -> Array:
        """Return the (n,) setpoints, MW, of the device's own policy; ``price`` is (n,) $/MWh."""

    def preview(self, p_mw: Array, dt_s: float) -> tuple[Array, Array]:
        """Return (n,) active powers, MW, and costs, $, that ``step`` would have; of what is dispatched."""
        raise NotImplementedError(f"{type(self).__name__} is not dispatched")

    def economic_p_mw(self, price: Array) -> Array:
        """Return (n,) powers, MW, at which the marginal cost equals (n,) prices; of what is dispatched."""
        raise NotImplementedError(f"{type(self).__name__} is not dispatched")


def make_device_array(spec: DeviceSpecBase, n: int, *, varies: bool = False) -> DeviceArray:
    """Return ``n`` copies of the device that the spec names, in their initial states.

    Args:
        spec: Nameplate of all of them.
        n: How many.
        varies: Each copy's efficiencies are drawn.
    """
    device = DEVICES[spec.kind]
    if varies and spec.derated(0.5) is not spec:
        return CopiesArray(device, spec, n)
    written = ARRAY_FORMS.get(device)
    if written is not None:
        return written(spec, n)
    if issubclass(device, FormulaDevice):
        return FormulaArray(device, spec, n)
    return CopiesArray(device, spec, n)


class CopiesArray(DeviceArray):
    """Copies of a device, one model each, in a loop: for kinds that have no form over arrays.

    Args:
        device: The kind.
        spec: Nameplate of all of them.
        n: How many.
    """

    def __init__(self, device: type[Device], spec: DeviceSpecBase, n: int) -> None:
        self.spec = spec
        self._copies = [device(spec) for _ in range(n)]

    def reset(self, where: Any = ...) -> None:
        """See ``DeviceArray``."""
        for i in np.arange(len(self._copies))[where]:
            self._copies[i].reset()

    def redraw(self, copies: NDArray[np.intp], draws: Sequence[DeviceDraw]) -> None:
        """See ``DeviceArray``."""
        for copy, draw in zip(copies, draws, strict=True):
            self._copies[copy] = drawn_device(self.spec, draw)

    def get_state(self) -> Any:
        """See ``DeviceArray``."""
        return [(device.spec, device.state) for device in self._copies]

    def set_state(self, state: Any) -> None:
        """See ``DeviceArray``."""
        for i, (spec, of_device) in enumerate(state):
            if self._copies[i].spec != spec:
                self._copies[i] = make_device(spec)
            self._copies[i].state = of_device

    def put_back(self, state: Any, copies: NDArray[np.bool_]) -> None:
        """See ``DeviceArray``."""
        for copy in np.flatnonzero(copies):
            self._copies[copy].state = state[copy][1]

    def project(self, p_mw: Array, dt_s: float, p_available_mw: Array | None = None) -> Array:
        """See ``DeviceArray``."""
        asked = zip(self._copies, p_mw.tolist(), self._each(p_available_mw), strict=True)
        return np.array([device.project(p, dt_s, available) for device, p, available in asked])

    def step(
        self, p_mw: Array, q_mvar: Array, dt_s: float, p_available_mw: Array | None = None
    ) -> Measurements:
        """See ``DeviceArray``."""
        asked = zip(self._copies, p_mw.tolist(), q_mvar.tolist(), self._each(p_available_mw), strict=True)
        done = [device.step(p, q, dt_s, available) for device, p, q, available in asked]
        soc = np.array([measured.soc for measured in done], dtype=float) if self.spec.has_soc else None
        p, q, cost = np.array([(m.p_mw, m.q_mvar, m.cost) for m in done]).reshape(-1, 3).T
        return Measurements(p, q, soc, cost)

    def usual_p_mw(
        self, price: Array, policy: PolicyThresholds, dt_s: float, p_available_mw: Array | None
    ) -> Array:
        """See ``DeviceArray``."""
        asked = zip(self._copies, price.tolist(), self._each(p_available_mw), strict=True)
        return np.array([device.usual_p_mw(value, policy, dt_s, a) for device, value, a in asked])

    def preview(self, p_mw: Array, dt_s: float) -> tuple[Array, Array]:
        """See ``DeviceArray``."""
        found = [device.preview(p, dt_s) for device, p in zip(self._copies, p_mw.tolist(), strict=True)]
        p, cost = np.array(found).reshape(-1, 2).T
        return p, cost

    def economic_p_mw(self, price: Array) -> Array:
        """See ``DeviceArray``."""
        return np.array([d.economic_p_mw(v) for d, v in zip(self._copies, price.tolist(), strict=True)])

    def _each(self, p_available_mw: Array | None) -> list[Any]:
        return [None] * len(self._copies) if p_available_mw is None else p_available_mw.tolist()


class FormulaArray(DeviceArray):
    """Copies of a ``FormulaDevice``: its own formulas, on arrays.

    Args:
        device: The kind.
        spec: Nameplate of all of them.
        n: How many.

    Attributes:
        state: The kind's state, with an (n,) array for each of its values.
    """

    def __init__(self, device: type[FormulaDevice], spec: DeviceSpecBase, n: int) -> None:
        self.spec = spec
        self._formulas = device(spec)
        self._begin, self._shape = self._formulas.state, (n,)
        self.state: Any = self._begin._replace(
            **{name: np.full(n, value) for name, value in self._begin._asdict().items()}
        )

    def reset(self, where: Any = ...) -> None:
        """See ``DeviceArray``."""
        for values, begin in zip(self.state, self._begin, strict=True):
            values[where] = begin

    def get_state(self) -> Any:
        """See ``DeviceArray``."""
        return self.state._make(values.copy() for values in self.state)

    def set_state(self, state: Any) -> None:
        """See ``DeviceArray``."""
        self.state = state._make(values.copy() for values in state)

    def put_back(self, state: Any, copies: NDArray[np.bool_]) -> None:
        """See ``DeviceArray``."""
        self.state = _mixed(state, self.state, copies)

    def project(self, p_mw: Array, dt_s: float, p_available_mw: Array | None = None) -> Array:
        """See ``DeviceArray``."""
        p: Array = self._formulas.realised(self.state, p_mw, float(dt_s), p_available_mw, NUMPY)
        return p

    def step(
        self, p_mw: Array, q_mvar: Array, dt_s: float, p_available_mw: Array | None = None
    ) -> Measurements:
        """See ``DeviceArray``."""
        p = self.project(p_mw, dt_s, p_available_mw)
        q = self._formulas.reactive(q_mvar, p, p_available_mw, NUMPY)
        state, cost, _ = self._formulas.after(self.state, p, float(dt_s), p_available_mw, NUMPY)
        self.state = state._make(self._whole(values) for values in state)
        return Measurements(p, q, self._formulas.soc(self.state), self._whole(cost))

    def usual_p_mw(
        self, price: Array, policy: PolicyThresholds, dt_s: float, p_available_mw: Array | None
    ) -> Array:
        """See ``DeviceArray``."""
        usual = self._formulas.usual(self.state, price, policy, float(dt_s), p_available_mw, NUMPY)
        return self._whole(usual)

    def _whole(self, values: Any) -> Array:
        """Return one value a copy."""
        if isinstance(values, np.ndarray) and values.shape == self._shape:
            return values  # made again by the formulas
        return np.array(np.broadcast_to(values, self._shape))


class BatteryArray(DeviceArray):
    """Copies of a ``Battery``.

    Args:
        spec: Nameplate of all of them.
        n: How many.

    Attributes:
        p_mw: (n,) power of the last step, MW, positive = discharging.
        soc: (n,) state of charge, fraction of ``max_e_mwh``.
    """

    spec: BatterySpec

    def __init__(self, spec: BatterySpec, n: int) -> None:
        self.spec = spec
        self.p_mw, self.soc = np.zeros(n), np.zeros(n)
        self.reset()

    def reset(self, where: Any = ...) -> None:
        """See ``DeviceArray``."""
        self.p_mw[where], self.soc[where] = 0.0, self.spec.initial_soc

    def redraw(self, copies: NDArray[np.intp], draws: Sequence[DeviceDraw]) -> None:
        """See ``DeviceArray``."""
        self.soc[copies] = [drawn_soc(self.spec, draw) for draw in draws]

    def get_state(self) -> Any:
        """See ``DeviceArray``."""
        return self.p_mw.copy(), self.soc.copy()

    def set_state(self, state: Any) -> None:
        """See ``DeviceArray``."""
        self.p_mw, self.soc = (values.copy() for values in state)

    def put_back(self, state: Any, copies: NDArray[np.bool_]) -> None:
        """See ``DeviceArray``."""
        self.p_mw, self.soc = _mixed(state, (self.p_mw, self.soc), copies)

    def project(self, p_mw: Array, dt_s: float, p_available_mw: Array | None = None) -> Array:
        """See ``DeviceArray``."""
        spec, dt_h = self.spec, hours(dt_s)
        above_mwh = (self.soc - spec.min_soc) * spec.max_e_mwh
        below_mwh = (spec.max_soc - self.soc) * spec.max_e_mwh
        can_give_mw = (above_mwh / dt_h - spec.standby_loss_mw) * spec.efficiency_discharge
        can_take_mw = (below_mwh / dt_h + spec.standby_loss_mw) / spec.efficiency_charge
        low = -_clip(can_take_mw, 0.0, min(spec.max_p_charge_mw, spec.rated_s_mva))
        high = _clip(can_give_mw, 0.0, min(spec.max_p_discharge_mw, spec.rated_s_mva))
        if spec.ramp_mw_per_s is not None:
            reach_mw = spec.ramp_mw_per_s * float(dt_s)
            low, high = _clip(self.p_mw - reach_mw, low, high), _clip(self.p_mw + reach_mw, low, high)
        return _clip(p_mw, low, high)

    def step(
        self, p_mw: Array, q_mvar: Array, dt_s: float, p_available_mw: Array | None = None
    ) -> Measurements:
        """See ``DeviceArray``."""
        p = self.project(p_mw, dt_s)
        q = _clip_q(q_mvar, p, self.spec.rated_s_mva)
        self.p_mw, self.soc = p, self._after(p, hours(dt_s))
        return Measurements(p, q, self.soc, np.zeros(len(p)))

    def usual_p_mw(
        self, price: Array, policy: PolicyThresholds, dt_s: float, p_available_mw: Array | None
    ) -> Array:
        """See ``DeviceArray``."""
        charge = policy.battery_share * self.spec.max_p_charge_mw
        discharge = policy.battery_share * self.spec.max_p_discharge_mw
        wanted = np.where(price >= policy.discharge_above, discharge, 0.0)
        return np.where(price <= policy.charge_below, -charge, wanted)

    def _after(self, p_mw: Array, dt_h: float) -> Array:
        """Return the (n,) states of charge after holding feasible powers for ``dt_h``."""
        spec, soc = self.spec, self.soc
        from_cells_mwh = np.where(
            p_mw >= 0.0, p_mw / spec.efficiency_discharge * dt_h, p_mw * spec.efficiency_charge * dt_h
        )
        above_mwh = (soc - spec.min_soc) * spec.max_e_mwh
        standby_mwh = np.minimum(spec.standby_loss_mw * dt_h, np.maximum(0.0, above_mwh - from_cells_mwh))
        after = soc - (from_cells_mwh + standby_mwh) / spec.max_e_mwh
        return _clip(after, np.minimum(soc, spec.min_soc), np.maximum(soc, spec.max_soc))


class GeneratorArray(DeviceArray):
    """Copies of a ``Generator``.

    Args:
        spec: Nameplate of all of them.
        n: How many.

    Attributes:
        p_mw: (n,) power of the last step, MW, injected; 0 when off.
        running: (n,) bool.
        time_in_state_s: (n,) how long each has been running, or off, s.
    """

    spec: GeneratorSpec

    def __init__(self, spec: GeneratorSpec, n: int) -> None:
        self.spec = spec
        self.p_mw, self.running, self.time_in_state_s = np.zeros(n), np.zeros(n, dtype=bool), np.zeros(n)
        self.reset()

    def reset(self, where: Any = ...) -> None:
        """See ``DeviceArray``."""
        spec = self.spec
        p = spec.initial_p_mw
        if p is None:
            p = spec.min_p_mw if spec.initial_running else 0.0
        self.p_mw[where], self.running[where] = p, spec.initial_running
        self.time_in_state_s[where] = max(spec.min_up_s, spec.min_down_s)

    def get_state(self) -> Any:
        """See ``DeviceArray``."""
        return self.p_mw.copy(), self.running.copy(), self.time_in_state_s.copy()

    def set_state(self, state: Any) -> None:
        """See ``DeviceArray``."""
        self.p_mw, self.running, self.time_in_state_s = (values.copy() for values in state)

    def put_back(self, state: Any, copies: NDArray[np.bool_]) -> None:
        """See ``DeviceArray``."""
        now = self.p_mw, self.running, self.time_in_state_s
        self.p_mw, self.running, self.time_in_state_s = _mixed(state, now, copies)

    def project(self, p_mw: Array, dt_s: float, p_available_mw: Array | None = None) -> Array:
        """See ``DeviceArray``."""
        return self._decide(p_mw, dt_s)[1]

    def preview(self, p_mw: Array, dt_s: float) -> tuple[Array, Array]:
        """Return (n,) active powers, MW, and costs, $, that ``step`` would have; moves nothing."""
        running, p = self._decide(p_mw, dt_s)
        return p, self._cost(running, p, dt_s)

    def step(
        self, p_mw: Array, q_mvar: Array, dt_s: float, p_available_mw: Array | None = None
    ) -> Measurements:
        """See ``DeviceArray``."""
        running, p = self._decide(p_mw, dt_s)
        q = np.where(running, _clip_q(q_mvar, p, self.spec.rated_s_mva), 0.0)
        cost = self._cost(running, p, dt_s)
        self.time_in_state_s = np.where(running == self.running, self.time_in_state_s, 0.0) + float(dt_s)
        self.p_mw, self.running = p, running
        return Measurements(p, q, None, cost)

    def economic_p_mw(self, price: Array) -> Array:
        """Return the (n,) powers, MW, at which a running unit's marginal cost equals (n,) prices, $/MWh."""
        spec = self.spec
        margin = price - spec.cost_b_usd_per_mwh
        if spec.cost_c_usd_per_mw2h == 0.0:
            return np.where(margin > 0.0, spec.max_p_mw, spec.min_p_mw)
        return _clip(margin / (2.0 * spec.cost_c_usd_per_mw2h), spec.min_p_mw, spec.max_p_mw)

    def _cost(self, running: NDArray[np.bool_], p_mw: Array, dt_s: float) -> Array:
        spec = self.spec
        per_h = spec.cost_a_usd_per_h + (spec.cost_b_usd_per_mwh + spec.cost_c_usd_per_mw2h * p_mw) * p_mw
        cost: Array = np.where(running, per_h * hours(dt_s), 0.0)
        cost += np.where(running & ~self.running, spec.start_cost_usd, 0.0)
        cost += np.where(~running & self.running, spec.stop_cost_usd, 0.0)
        return cost

    def _decide(self, p_mw: Array, dt_s: float) -> tuple[NDArray[np.bool_], Array]:
        """Return (n,) running and powers, MW, for finite setpoints."""
        spec, was_running, time_s = self.spec, self.running, self.time_in_state_s
        reach_mw = math.inf if spec.ramp_mw_per_s is None else spec.ramp_mw_per_s * float(dt_s)
        low = np.where(was_running, np.maximum(spec.min_p_mw, self.p_mw - reach_mw), spec.min_p_mw)
        high = np.minimum(spec.max_p_mw, np.where(was_running, self.p_mw, spec.min_p_mw) + reach_mw)
        been_up = (time_s >= spec.min_up_s - CLOCK_TOLERANCE_S) & (low == spec.min_p_mw)
        been_down = time_s >= spec.min_down_s - CLOCK_TOLERANCE_S
        may_be_off, may_run = ~was_running | been_up, was_running | been_down
        running = may_run & ~(may_be_off & (p_mw <= 0.5 * spec.min_p_mw))
        return running, np.where(running, _clip(p_mw, low, high), 0.0)

    def usual_p_mw(
        self, price: Array, policy: PolicyThresholds, dt_s: float, p_available_mw: Array | None
    ) -> Array:
        """See ``DeviceArray``."""
        return np.zeros_like(price)  # its agent dispatches it


def _mixed(then: Any, now: Any, copies: NDArray[np.bool_]) -> Any:
    """Return states of which some copies are as they were then; new arrays."""
    mixed = [np.where(copies, old, new) for old, new in zip(then, now, strict=True)]
    return now._make(mixed) if hasattr(now, "_make") else tuple(mixed)


def _clip(value: Array, low: Any, high: Any) -> Array:
    clipped: Array = np.minimum(np.maximum(value, low), high)
    clipped += 0.0  # never -0.0
    return clipped


def _clip_q(q_mvar: Array, p_mw: Array, s_max_mva: float) -> Array:
    limit = np.sqrt((s_max_mva - p_mw) * (s_max_mva + p_mw))
    return _clip(q_mvar, -limit, limit)


ARRAY_FORMS: Mapping[type[Device], Callable[[Any, int], DeviceArray]] = {
    Battery: BatteryArray,
    Generator: GeneratorArray,
}
"""Kinds whose form over arrays is written out for speed; the others need none (docs/models.md)."""

NUMPY = Ops(where=np.where, minimum=np.minimum, maximum=np.maximum, clip=_clip, sqrt=np.sqrt)
