"""From what the gateway does with its devices to the device columns of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.observer import AgentReport, ObservedDevice
from heron_mqtt.record.guard import guarded
from heron_mqtt.record.message_log import MessageLog

TAKEN_UP = "taken_up"
"""Beside the columns: where a device's model was put since the last step."""
MODEL_STATE = {"p_mw", "soc", "running"}
MAX_PENDING = 1_000  # agents' steps that wait for the environment's end of the step

Columns = dict[str, Any]


class DeviceLog:
    """Gathers, agent by agent, what a step did with each device; a ``GatewayObserver``.

    Args:
        messages: Knows what was sent and who holds a lease.
        on_report: Called with agent, episode, step and what the agent says of the step.
    """

    def __init__(
        self, messages: MessageLog, on_report: Callable[[str, int, int, AgentReport], None] | None = None
    ) -> None:
        self.failures = 0
        self._messages = messages
        self._on_report = on_report
        self._now: dict[str, dict[str, Columns]] = {}
        self._done: dict[tuple[str, int, int], dict[str, Columns]] = {}

    @guarded
    def on_bounded(
        self, agent: str, wanted: Mapping[str, SetpointRequest], allowed: Mapping[str, SetpointRequest]
    ) -> None:
        """Take the setpoints as wanted and as bounded; see ``GatewayObserver``."""
        self._now[agent] = {
            name: {
                "wanted_p_mw": want.p_mw,
                "wanted_q_mvar": want.q_mvar,
                "p_available_mw": want.p_available_mw,
                "bounded_p_mw": allowed[name].p_mw,
                "bounded_q_mvar": allowed[name].q_mvar,
            }
            for name, want in wanted.items()
        }

    @guarded
    def on_settled(
        self,
        agent: str,
        episode: int,
        step: int,
        allowed: Mapping[str, SetpointRequest],
        devices: Mapping[str, ObservedDevice],
    ) -> None:
        """Take the end of a step; see ``GatewayObserver``."""
        now = self._now.pop(agent, {})
        for name, setpoint in allowed.items():
            columns = now.setdefault(name, {})
            columns["cleared_p_mw"], columns["cleared_q_mvar"] = setpoint.p_mw, setpoint.q_mvar
        for name, state in devices.items():
            columns = now.setdefault(name, {})
            columns.update(_state(state))
            if state.taken_up is not None:
                columns[TAKEN_UP] = state.taken_up.model_dump(include=MODEL_STATE, exclude_none=True)
            columns["lease_owner"] = self._messages.holders.get((agent, name))
            self._add_sent(columns, (agent, name), episode, step)
        self._done[agent, episode, step] = now
        if len(self._done) > MAX_PENDING:
            del self._done[next(iter(self._done))]

    @guarded
    def on_report(self, agent: str, episode: int, step: int, report: AgentReport) -> None:
        """Take what the agent says; see ``GatewayObserver``."""
        if self._on_report is not None:
            self._on_report(agent, episode, step, report)

    def take(self, agent: str, episode: int, step: int) -> dict[str, Columns]:
        """Return the columns of an agent's devices in a step, by device, and forget them."""
        return self._done.pop((agent, episode, step), {})

    def left_behind(self) -> dict[tuple[str, int, int], dict[str, Columns]]:
        """Return what has not been taken yet, and forget it."""
        left, self._done = self._done, {}
        return left

    def _add_sent(self, columns: Columns, at: tuple[str, str], episode: int, step: int) -> None:
        at_s, sent = self._messages.setpoints.get(at, (0.0, {}))
        if (sent.get("episode"), sent.get("step")) != (episode, step):
            return
        columns.update(
            sent_p_mw=sent.get("p_mw"),
            sent_q_mvar=sent.get("q_mvar"),
            sent_seq=sent.get("seq"),
            sent_boot=sent.get("boot"),
            sent_at_s=at_s,
            lease_s=sent.get("lease_s"),
        )


def _state(state: ObservedDevice) -> Columns:
    columns: Columns = {
        "authority": state.authority,
        "health": state.health,
        "acknowledged": int(state.acknowledged),
        "age_s": state.age_s,
        "round_trip_s": state.round_trip_s,
        "residual_mw": state.residual_mw,
    }
    if (telemetry := state.telemetry) is not None:
        columns.update(
            telemetry_p_mw=telemetry.p_mw,
            telemetry_q_mvar=telemetry.q_mvar,
            telemetry_soc=telemetry.soc,
            telemetry_running=_flag(telemetry.running),
            telemetry_seq=telemetry.seq,
            ack_seq=telemetry.ack_seq,
            ack_boot=telemetry.ack_boot,
            safe=_flag(telemetry.safe),
            safe_after_s=telemetry.safe_after_s,
        )
    return columns


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)
