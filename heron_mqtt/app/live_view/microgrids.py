"""What was told and done in one environment: microgrids by their steps, devices by their setpoints."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.app.live_view.trace import DeviceTrace
from heron_mqtt.app.operator_client.environments import MAX_NAMES
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.errors import MessageError
from heron_mqtt.json_object import Json
from heron_mqtt.messages import Action, LeaseState, Observation, RunState, parse_known_fields

SILENT_S = 1.6
"""A device that says it is online and has said nothing for so long is silent: red within 2 s on a page."""
STEPS = 20
BY_HAND = "by hand"
SENDER_LENGTH = 100  # of a sender, at most
GAPS, SEVERAL = 5, 1.5  # how many of its gaps are remembered, and how many times the longest one is silence


@dataclass(slots=True)
class MicrogridSeen:
    """What an agent's last step was like; powers MW, positive = injected into the grid."""

    observation: Observation | None = None
    action: Action | None = None
    action_at_s: float = 0.0
    missed: int = 0
    """Phases of all steps that ended at their deadline."""
    standing_in: set[str] = field(default_factory=set)
    """Devices for which a model stood in."""

    def as_json(self, now_s: float) -> Json:
        """Return it with its age."""
        told, done = self.observation, self.action
        found: Json = {"age_s": round(now_s - self.action_at_s, 2) if self.action_at_s else None}
        if told is not None:
            found |= {
                "load_mw": told.p_load_mw,
                "vm_min_pu": told.vm_min_pu,
                "vm_max_pu": told.vm_max_pu,
                "loading_max_percent": told.loading_max_percent,
            }
        if done is not None:
            fields = done.by_prefix()
            found |= {
                "p_mw": dict(fields.get("p_", {})),
                "soc": dict(fields.get("soc_", {})),
                "traded_mwh": sum(fields.get("trade_", {}).values()),
                "fallbacks": dict(fields.get("fallback_", {})),
                "missed": done.missed,
                "missed_so_far": self.missed,
            }
        return found


@dataclass(slots=True)
class DeviceLive:
    """What a device was told, and how long that holds."""

    setpoint_mw: float | None = None
    heard_at_s: float = 0.0
    """When its lease was last begun or renewed."""
    lease_s: float | None = None
    sender: str | None = None
    lease: LeaseState | None = None
    """Whose setpoints it follows, as it reports; None = not reported."""
    setpoints: int = 0
    fallbacks: int = 0
    why: str | None = None
    residual_mw: float | None = None
    """Measured minus modelled power, as its gateway has it of the last step."""
    answer_s: float | None = None
    """Between its newest setpoint and the telemetry that answers it, as both came here."""
    trace: DeviceTrace = field(default_factory=DeviceTrace)
    _unanswered: tuple[Any, Any, float] | None = None
    spoke_at_s: float | None = None
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))
    """Between its newest telemetry messages."""

    rejected: str | None = None
    """Why it rejected its last setpoint."""

    def note_telemetry(self, told: Mapping[str, Any], at_s: float) -> str | None:
        """Note its message; return why it rejects its setpoint, if this is new.

        Args:
            told: Fields of ``Telemetry``.
            at_s: When it came, by the loop's clock.
        """
        rejected, before = told.get("rejected") or None, self.rejected
        if self.spoke_at_s is not None:
            self.gaps_s.append(at_s - self.spoke_at_s)
        self.spoke_at_s = at_s
        if self._unanswered is not None:
            self._note_answer(self._unanswered, told, at_s)
        self.trace.note(at_s, self.told_mw(at_s), told["p_mw"])
        if rejected == before:
            return None
        self.rejected = rejected
        return rejected

    def _note_answer(self, asked: tuple[Any, Any, float], told: Mapping[str, Any], at_s: float) -> None:
        boot = told.get("ack_boot")
        if told.get("ack_seq") == asked[0] and (boot is None or boot == asked[1]):
            self.answer_s, self._unanswered = at_s - asked[2], None

    @property
    def silent_after_s(self) -> float:
        """After how long without telemetry it counts as silent; longer if it publishes seldom."""
        return max(SILENT_S, SEVERAL * max(self.gaps_s, default=0.0))

    def note_setpoint(self, fields: Mapping[str, Any], at_s: float) -> None:
        """Take a setpoint, renewal or release."""
        p_mw, lease_s = fields.get("p_mw"), fields.get("lease_s")
        self.heard_at_s = at_s
        if isinstance(lease_s, int | float) and math.isfinite(lease_s):
            self.lease_s = float(lease_s)
        self.sender = str(fields.get("sender") or BY_HAND)[:SENDER_LENGTH]
        if fields.get("release"):
            self.setpoint_mw, self.lease_s = None, None
        elif not fields.get("renewal") and isinstance(p_mw, int | float) and math.isfinite(p_mw):
            self.setpoint_mw = float(p_mw)
            self.setpoints += 1
            self._unanswered = (
                None if fields.get("seq") is None else (fields["seq"], fields.get("boot"), at_s)
            )

    def told_mw(self, now_s: float) -> float | None:
        """Return its setpoint, MW, positive = injected; one that it does not follow (any more) is none."""
        return None if self.lease_left_s(now_s) is None else self.setpoint_mw

    def lease_left_s(self, now_s: float) -> float | None:
        """Return how long what it was told last still holds, s, > 0; None if it does not.

        In a stop, and while another leads it, a setpoint comes with a lease and is rejected.
        """
        if self.lease_s is None or not self._is_followed():
            return None
        left_s = self.heard_at_s + self.lease_s - now_s
        return left_s if left_s > 0.0 else None

    def _is_followed(self) -> bool:
        lease = self.lease
        if lease is None:
            return True
        return lease.state == "held" and (lease.holder or BY_HAND)[:SENDER_LENGTH] == self.sender

    def as_json(self, now_s: float) -> Json:
        """Return it, without its points."""
        left_s = self.lease_left_s(now_s)
        return {
            "setpoint_mw": self.told_mw(now_s),
            "lease_left_s": None if left_s is None else round(left_s, 1),
            "setpoints": self.setpoints,
            "fallbacks": self.fallbacks,
            "why": self.why,
            "residual_mw": self.residual_mw,
            "answer_s": None if self.answer_s is None else round(self.answer_s, 4),
        }


class MicrogridsLive:
    """Microgrids and devices of one environment."""

    def __init__(self) -> None:
        self.price: float | None = None
        self.microgrids: dict[str, MicrogridSeen] = {}
        self.devices: dict[str, DeviceLive] = {}
        self.step_at_s = 0.0
        """When the newest step was first heard of."""
        self.periods_s: deque[float] = deque(maxlen=STEPS)
        """Between the newest steps, s."""
        self._stands: RunState | None = None

    def note(
        self, levels: list[str], fields: Mapping[str, Any], heard: Heard, *, is_repeated: bool = False
    ) -> None:
        """Take one message; what cannot be read is named by the operator's view of it.

        Args:
            levels: Of its channel, which is not telemetry: see ``LiveTelemetry``.
            fields: What it says.
            heard: The message.
            is_repeated: It came before, by its number: what was done and told counts once.
        """
        with contextlib.suppress(MessageError, OverflowError):
            self._note(levels, fields, heard, is_repeated)

    def _note(self, levels: list[str], fields: Mapping[str, Any], heard: Heard, is_repeated: bool) -> None:
        match levels:
            case ["operators", _, "price"]:
                value = fields.get("value")
                if isinstance(value, int | float) and math.isfinite(value):
                    self.price = float(value)
            case ["agents", agent, "observation"]:
                if (seen := self._microgrid(agent)) is not None:
                    seen.observation = parse_known_fields(Observation, fields)[0]
            case ["agents", agent, "action"] if not is_repeated:
                if (seen := self._microgrid(agent)) is not None:
                    seen.action, seen.action_at_s = parse_known_fields(Action, fields)[0], heard.at_s
                    seen.missed += 0 if heard.retained else seen.action.missed
                    self._note_fallbacks(agent, seen, seen.action)
                    self._note_residuals(agent, seen.action)
            case ["devices", agent, name, "setpoint"] if not (heard.retained or is_repeated):
                if (device := self.device(agent, name)) is not None:
                    device.note_setpoint(fields, heard.at_s)
            case ["devices", agent, name, "lease"] if not is_repeated:
                if (device := self.device(agent, name)) is not None:
                    device.lease = parse_known_fields(LeaseState, fields)[0]
            case ["run", "state"] if not heard.retained:
                self._note_run(parse_known_fields(RunState, fields)[0], heard.at_s)
            case _:
                pass

    def _note_run(self, run: RunState, at_s: float) -> None:
        """Take the position of the run; an operator publishes it several times within a step."""
        before, step = self._stands, run.step
        if before is not None and (before.boot, before.episode) == (run.boot, run.episode):
            if (before.state, before.step) == (run.state, step):
                return
            if before.state == run.state == "running" and before.step is not None and step is not None:
                if step < before.step:  # overtaken on its way
                    return
                self.periods_s.append((at_s - self.step_at_s) / (step - before.step))
        self._stands, self.step_at_s = run, at_s

    def _microgrid(self, agent: str) -> MicrogridSeen | None:
        if agent not in self.microgrids and len(self.microgrids) >= MAX_NAMES:
            return None
        return self.microgrids.setdefault(agent, MicrogridSeen())

    def device(self, agent: str, name: str) -> DeviceLive | None:
        """Return a device, known from now on; None where there are too many."""
        label = f"{agent}/{name}"
        found = self.devices.get(label)
        if found is None and len(self.devices) < MAX_NAMES:
            found = self.devices[label] = DeviceLive()
        return found

    def _note_fallbacks(self, agent: str, seen: MicrogridSeen, action: Action) -> None:
        why = action.by_prefix().get("fallback_", {})
        for name in seen.standing_in.difference(why):
            if (back := self.devices.get(f"{agent}/{name}")) is not None:
                back.why = None
        for name, reason in why.items():
            if (device := self.device(agent, name)) is not None:
                device.fallbacks += 1
                device.why = str(reason)[:200]
        seen.standing_in = set(why)

    def _note_residuals(self, agent: str, action: Action) -> None:
        found = action.by_prefix().get("residual_", {})
        for name in {*action.by_prefix().get("p_", {}), *found}:
            if (device := self.devices.get(f"{agent}/{name}")) is not None:
                device.residual_mw = found.get(name)
