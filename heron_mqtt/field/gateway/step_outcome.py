"""What a step takes from each device, and what is said of it: followed, compared, or stood in for."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from heron_mqtt.field.gateway.clearance import expected_p_mw, tracking_error_mw
from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.field.gateway.twins import DeviceTwins
from heron_mqtt.messages import Telemetry

log = logging.getLogger("heron_mqtt.gateway")


class StepOutcome:
    """The outcome of one agent's steps, device by device.

    Args:
        twins: The devices' models.
        gates_mw: By device, the residual up to which it counts as steady, MW.
    """

    def __init__(self, twins: DeviceTwins, gates_mw: Mapping[str, float]) -> None:
        self.remarks: dict[str, str] = {}
        """By device, what came between what was wanted in this step and what was done."""
        self.residuals_mw: dict[str, float] = {}
        """By device, measured minus modelled power of this step, MW, where there is something to compare."""
        self.steady = dict.fromkeys(gates_mw, 0)
        """By device, steps in a row with a residual below its gate."""
        self._judged: dict[str, int] = {}  # the newest measurement that counted as evidence
        self._twins = twins
        self._gates_mw = dict(gates_mw)

    def begin_step(self, remarks: dict[str, str]) -> None:
        """Forget the remarks of the last step for those that this one begins with."""
        self.remarks = remarks
        self.residuals_mw = {}

    def remark(self, name: str, text: str) -> None:
        """Say something beside what was said before."""
        before = self.remarks.get(name)
        self.remarks[name] = f"{before}, {text}" if before else text

    def compare(self, name: str, link: DeviceLink, setpoint: SetpointRequest) -> None:
        """Let the model take the step, and compare a device that is read but not driven."""
        self._twins.simulate(name, setpoint=setpoint)
        if link.telemetry is not None and link.health == "online":
            residual = self._twins.shadowed(name, link.telemetry)
            self._note(name, link, link.telemetry, setpoint, residual)

    def follow(
        self, name: str, link: DeviceLink, telemetry: Telemetry, setpoint: SetpointRequest, step: int
    ) -> None:
        """Let the model follow the device, and report if the device did not follow the setpoint."""
        stats = link.stats
        residual = self._twins.measured(name, telemetry, setpoint=setpoint)
        if absent := stats.followed():
            log.warning("%s: back in step %d, after %d steps", link.name, step, absent)
        if link.answer() is None:
            link.give_up()
            stats.unacknowledged += 1
            self.remark(name, "not acknowledged by the device; what it measures is used")
        elif telemetry.rejected is not None and telemetry.stopped:
            stats.rejected_in_stop += 1  # the step says already that a stop is in force
        elif telemetry.rejected is not None:
            stats.rejected += 1
            self.remark(name, f"rejected by the device: {telemetry.rejected}")
        elif min(abs(residual), abs(tracking_error_mw(setpoint, telemetry.p_mw))) > self._gates_mw[name]:
            expected_mw, done_mw = telemetry.p_mw - residual, telemetry.p_mw
            if telemetry.stopped and abs(done_mw) <= self._gates_mw[name]:  # it came after the setpoint
                self.remark(name, f"emergency stop at the device ({expected_mw:.6g} -> {done_mw:.6g} MW)")
            else:
                stats.deviations += 1
                self.remark(name, f"not followed by the device ({expected_mw:.6g} -> {done_mw:.6g} MW)")
        link.compare(expected_p_mw(setpoint), telemetry.p_mw)
        self._note(name, link, telemetry, setpoint, residual)

    def stand_in(
        self,
        name: str,
        link: DeviceLink,
        setpoint: SetpointRequest,
        step: int,
        *,
        was_sent: bool,
        unsent: str | None = None,
    ) -> None:
        """Let the model take the step in place of a device that cannot be followed, and say why.

        Args:
            name: The device.
            link: To it.
            setpoint: What the model does instead.
            step: Under way.
            was_sent: Whether a setpoint was sent in this step.
            unsent: Why none was.
        """
        is_there = link.health in {"online", "stale"}
        if unsent is not None:
            why = unsent
        elif was_sent and link.was_refused:
            why = "its telemetry was refused"
        elif was_sent and link.expects_answer and is_there:
            why = "no telemetry before the deadline"
        else:
            why = f"device {'silent' if link.health == 'online' else link.health}"
        self.steady[name] = 0
        if was_sent:
            link.give_up()
        if link.stats.fell_back(link.waited_s if was_sent else 0.0) == 1:
            log.warning("%s: its model replaces it from step %d: %s", link.name, step, why)
        self._twins.simulate(name, why, setpoint=setpoint)

    def _note(
        self, name: str, link: DeviceLink, telemetry: Telemetry, setpoint: SetpointRequest, residual: float
    ) -> None:
        stats = link.stats
        stats.sample(stats.residual_mw, residual)
        self.residuals_mw[name] = residual
        stats.sample(stats.tracking_error_mw, tracking_error_mw(setpoint, telemetry.p_mw))
        if link.measurements == self._judged.get(name):
            return  # measured before an earlier step: no new evidence
        self._judged[name] = link.measurements
        self.steady[name] = self.steady[name] + 1 if abs(residual) <= self._gates_mw[name] else 0
