"""GatewayObserver: gets, step by step, what the gateway does with its devices; for a record.

The calls are made between the messages of a step, so they must return at once and must not raise. What is
sent, lease by lease, is seen at the broker (``MessageBroker.observe``) and not told here a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.messages import Telemetry

if TYPE_CHECKING:
    from heron_mqtt.field.gateway import FieldGateway


class ObservedDevice(NamedTuple):
    """One device as the gateway sees it at the end of a step; times are wall-clock s.

    Attributes:
        authority: Its level.
        health: online, stale, fault or offline.
        telemetry: The newest; None before the first.
        acknowledged: Whether that answers the newest setpoint.
        age_s: Of the telemetry, by our clock.
        round_trip_s: From the newest setpoint to its answer; None = no answer (yet).
        residual_mw: Measured minus modelled power of this step, MW; None = nothing to compare.
        taken_up: What the device said of itself when its model was put there, if it was since the last step.
    """

    authority: str
    health: str
    telemetry: Telemetry | None = None
    acknowledged: bool = False
    age_s: float | None = None
    round_trip_s: float | None = None
    residual_mw: float | None = None
    taken_up: Telemetry | None = None


class AgentReport(Protocol):
    """What an agent says of its step. Powers MW and Mvar, positive = injected."""

    @property
    def p_mw(self) -> Mapping[str, float]:
        """By device, MW."""

    @property
    def q_mvar(self) -> Mapping[str, float]:
        """By device, Mvar."""

    @property
    def soc(self) -> Mapping[str, float]:
        """By storage device, fraction."""

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """By device, why its model stood in."""

    @property
    def bounds(self) -> Mapping[str, str]:
        """By device, what changed its setpoint."""


class GatewayObserver(Protocol):
    """Called for each step of one agent and its devices; see the module."""

    def on_bounded(
        self, agent: str, wanted: Mapping[str, SetpointRequest], allowed: Mapping[str, SetpointRequest]
    ) -> None:
        """Take the setpoints as the agent wants them, and inside the bounds of each device."""

    def on_settled(
        self,
        agent: str,
        episode: int,
        step: int,
        allowed: Mapping[str, SetpointRequest],
        devices: Mapping[str, ObservedDevice],
    ) -> None:
        """Take the end of a step.

        Args:
            agent: Whose devices.
            episode: Of the step.
            step: That ends.
            allowed: The setpoints in force at its end, by device, also simulated ones: the bounded setpoints
                after the common check of all agents, a stop or a demotion.
            devices: Those that can be reached over the broker.
        """

    def on_report(self, agent: str, episode: int, step: int, report: AgentReport) -> None:
        """Take the agent's report of the step, when there is one."""


class _NoObserver:
    """Observes nothing."""

    def on_bounded(
        self, agent: str, wanted: Mapping[str, SetpointRequest], allowed: Mapping[str, SetpointRequest]
    ) -> None:
        pass

    def on_settled(
        self,
        agent: str,
        episode: int,
        step: int,
        allowed: Mapping[str, SetpointRequest],
        devices: Mapping[str, ObservedDevice],
    ) -> None:
        pass

    def on_report(self, agent: str, episode: int, step: int, report: AgentReport) -> None:
        pass


NO_OBSERVER: GatewayObserver = _NoObserver()


def observed(gateway: FieldGateway) -> dict[str, ObservedDevice]:
    """Return the state of each device of a gateway that is not merely simulated, once a step."""
    residuals, taken_up = gateway.residuals(), gateway.taken_up()
    return {
        name: _state(gateway.links[name], level, residuals.get(name), taken_up.get(name))
        for name, level in gateway.levels().items()
    }


def _state(
    link: DeviceLink, authority: str, residual_mw: float | None, taken_up: Telemetry | None
) -> ObservedDevice:
    return ObservedDevice(
        authority=authority,
        health=link.health,
        telemetry=link.telemetry,
        acknowledged=link.answer() is not None,
        age_s=link.age_s,
        round_trip_s=link.round_trip_s,
        residual_mw=residual_mw,
        taken_up=taken_up,
    )
