"""FieldGateway: everything between one agent and its devices: authority, envelope, leases, fallback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from heron_mqtt.field.gateway.authority import SENDS, AuthorityManager, Evidence
from heron_mqtt.field.gateway.clearance import apply_clearance
from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.field.gateway.envelope import Band
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.field.gateway.step_outcome import StepOutcome
from heron_mqtt.field.gateway.stop_signals import StopSignals
from heron_mqtt.field.gateway.twins import DeviceTwins, clamp_setpoints
from heron_mqtt.messages import Clearance, EmergencyStop, Level, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper, utc_now

log = logging.getLogger("heron_mqtt.gateway")

RENEWALS = 3  # a lease survives two lost renewals
ESTOP = "emergency stop"


class FieldGateway:
    """Drives one agent's devices, each with the authority it has.

    Args:
        agent_id: Owner of the devices.
        twins: Their models, which also stand in for them.
        devices: Their settings, by name.
        nameplates: Smallest and largest power by device, MW, positive = injected.
        broker: Carries the messages.
        stamper: Stamps what is published.
        notify: Called after every message, to have conditions looked at again.
        lease_s: How long a setpoint holds on a device without renewal, wall-clock s.
        monotonic: Clock for ages and waits, s.
        now: Clock for the record, UTC.
    """

    def __init__(
        self,
        agent_id: str,
        twins: DeviceTwins,
        devices: Mapping[str, DeviceSettings],
        nameplates: Mapping[str, tuple[float, float]],
        broker: MessageBroker,
        stamper: MessageStamper,
        *,
        notify: Callable[[], None],
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.agent_id = agent_id
        self.links: dict[str, DeviceLink] = {}
        self.authority = AuthorityManager(
            agent_id,
            devices,
            broker,
            stamper,
            evidence=self._evidence,
            on_change=self._authority_changed,
            now=now,
        )
        self._twins = twins
        self._settings = dict(devices)
        self._broker = broker
        self._stamper = stamper
        self._notify = notify
        self._lease_s = lease_s
        self._at = (0, 0)
        self._outcome = StepOutcome(
            twins, {name: settings.gateway.gate_mw(nameplates[name]) for name, settings in devices.items()}
        )
        self._sent: dict[str, SetpointRequest] = {}
        self._stop_signals = StopSignals(agent_id, broker, self.links, notify)
        self._renewal: asyncio.TimerHandle | None = None
        for name, settings in devices.items():
            self.links[name] = DeviceLink(
                agent_id,
                name,
                broker,
                lease_s=lease_s,
                on_change=notify,
                settings=settings.gateway,
                nameplate_mw=nameplates[name],
                s_max_mva=twins.limits(name).s_max_mva,
                monotonic=monotonic,
                now=now,
            )

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen to the devices, to requests for authority and to the emergency stop."""
        for link in self.links.values():
            await link.open()
        await self._stop_signals.open()
        await self.authority.open()

    def close(self) -> None:
        """Stop renewing leases, and stop listening. Idempotent."""
        if self._renewal is not None:
            self._renewal.cancel()
        self._stop_signals.close()
        self.authority.close()
        for link in self.links.values():
            link.close()

    @property
    def estop(self) -> EmergencyStop | None:
        """The emergency stop in force, if there is one."""
        return self._stop_signals.estop

    def absent(self, run: str | None, episode: int) -> list[str]:
        """Return the devices that setpoints will be sent to and that are not ready for an episode."""
        sent_to = [name for name in self.links if self.authority.level(name) in SENDS]
        return sorted(name for name in sent_to if not self.links[name].is_ready(run, episode))

    def begin_episode(self) -> None:
        """Let models begin where their devices are, of those that do not begin afresh.

        Emulators begin an episode as the models do; hardware is wherever the last one left it.
        """
        for name, link in self.links.items():
            follows = link.status is None or link.status.run is not None
            if (
                self.authority.level(name) in SENDS
                and not follows
                and link.telemetry is not None
                and link.is_fresh
            ):
                self._twins.reseed(name, link.telemetry)

    # -- one step ----------------------------------------------------------------------------------

    def skip_simulated(self, episode: int, step: int) -> bool:
        """Begin a step in which no setpoint can leave, if it is one: all is simulated and nothing stopped."""
        if self.estop is not None or not self.authority.all_simulated:
            return False
        self._begin_step(episode, step)
        self._schedule_renewal()
        self._outcome.begin_step({})
        return True

    def _begin_step(self, episode: int, step: int) -> None:
        self._at = (episode, step)
        self.authority.step = step
        self._sent = {}

    def clamp_setpoints(self, wanted: Mapping[str, SetpointRequest]) -> dict[str, SetpointRequest]:
        """Return the setpoints inside every bound of their devices; remembers which bound changed which.

        Simulated devices are left out of the memory: their models keep the same bounds without being told.
        """
        if self.estop is not None:
            self._outcome.begin_step(dict.fromkeys(wanted, ESTOP))
            return {name: want.zero() for name, want in wanted.items()}
        bands = {name: band for name in self._settings if (band := self._band(name)) is not None}
        allowed, reasons = clamp_setpoints(self._twins, wanted, bands)
        self._outcome.begin_step(
            {name: why for name, why in reasons.items() if self.authority.level(name) != "simulated"}
        )
        return allowed

    def _band(self, name: str) -> Band | None:
        """Return the band in force over a device."""
        table = self._settings[name].gateway.band
        if table is None or self.authority.level(name) != "limited":
            return None
        return Band(table.p_min_mw, table.p_max_mw)

    def clear(self, allowed: dict[str, SetpointRequest], clearance: Clearance | None) -> None:
        """Reduce setpoints to what the check of all together left; None = no answer: to nothing."""
        for name, reason in apply_clearance(allowed, clearance).items():
            self._outcome.remark(name, reason)

    def send(
        self, allowed: dict[str, SetpointRequest], *, dt_s: float | None, episode: int, step: int
    ) -> None:
        """Send setpoints to the devices under control; ``settle`` takes what came back.

        Args:
            allowed: What ``clamp_setpoints`` (and the check of all together) left of it; what has
                become forbidden since is taken out of it.
            dt_s: Length of the step, s; None = unknown: nothing is sent.
            episode: Under way.
            step: Under way.
        """
        self._begin_step(episode, step)
        self._keep_what_is_allowed_now(allowed)
        for name, setpoint in allowed.items():
            if dt_s is None or self.authority.level(name) not in SENDS:
                continue
            link = self.links[name]
            if link.health == "offline":
                continue  # nobody is there; its model stands in until it says that it is back
            link.send(setpoint, self._stamper, dt_s=dt_s, episode=episode, step=step)
            self._sent[name] = setpoint
        self._schedule_renewal()

    def _keep_what_is_allowed_now(self, allowed: dict[str, SetpointRequest]) -> None:
        """Hold to a stop or a demotion that came while the setpoints were being cleared."""
        for name, setpoint in allowed.items():
            if self.estop is not None:
                if setpoint != setpoint.zero():
                    self._outcome.remark(name, ESTOP)
                    allowed[name] = setpoint.zero()
            elif name in self._settings and (band := self._band(name)) is not None:
                p_mw = min(max(setpoint.p_mw, band.p_min_mw), band.p_max_mw)
                allowed[name] = replace(setpoint, p_mw=p_mw)

    def answered(self) -> bool:
        """Whether nobody is awaited: not who answered, fell silent before, or has said that it cannot."""
        return not any(self._is_awaited(name) for name in self._sent)

    def _is_awaited(self, name: str) -> bool:
        link = self.links[name]
        return (
            link.answer() is None
            and link.expects_answer
            and self.authority.level(name) in SENDS
            and link.health in {"online", "stale"}
        )

    def settle(self, allowed: Mapping[str, SetpointRequest]) -> int:
        """Take the step with telemetry where it answered and with models elsewhere.

        A device that takes no setpoints but measures is taken at its word: what it measures is what the
        grid gets, whatever was asked of it.

        Returns:
            1 if a device missed the deadline, else 0.
        """
        missed = False
        for name, setpoint in allowed.items():
            level, link = self.authority.level(name), self.links.get(name)
            if link is None or level == "simulated":
                self._twins.simulate(name, setpoint=setpoint)
                continue
            link.watch()
            if link.age_s is not None:
                link.stats.sample(link.stats.age_s, link.age_s)
            step, was_sent = self._at[1], name in self._sent
            if level == "shadow":
                self._outcome.compare(name, link, setpoint)
                continue
            missed |= was_sent and self._is_awaited(name)
            if (telemetry := self._truth(name, link)) is not None:
                self._outcome.follow(name, link, telemetry, setpoint, step)
            else:
                self._outcome.stand_in(name, link, setpoint, step, was_sent=was_sent)
        return int(missed)

    def _truth(self, name: str, link: DeviceLink) -> Telemetry | None:
        """Return what a device under control measured in this step; None while it says that it is faulty."""
        if name not in self._sent or link.health in {"fault", "offline"}:
            return None
        return link.answer() or link.unacknowledged()

    def reasons(self) -> dict[str, str]:
        """Return what changed setpoints of this step, by device."""
        return dict(self._outcome.remarks)

    def residuals(self) -> dict[str, float]:
        """Return measured minus modelled power of this step, MW, of each device that was compared."""
        return dict(self._outcome.residuals_mw)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return what happened to each device that was not merely simulated, by device."""
        found = {}
        for name, link in self.links.items():
            if self.authority.level(name) == "simulated" and not self.authority.history(name):
                continue
            trouble = self._broker.trouble(topics.device(self.agent_id, name, "telemetry"))
            found[name] = {
                "authority": self.authority.level(name),
                **link.stats.as_dict(),
                "lost": trouble.lost,
                "duplicated": trouble.duplicated,
                "changes": [str(change) for change in self.authority.history(name)],
            }
        return found

    def levels(self) -> dict[str, str]:
        """Return the authority of each device that is not simulated."""
        levels = {name: self.authority.level(name) for name in self.links}
        return {name: level for name, level in levels.items() if level != "simulated"}

    # -- authority ---------------------------------------------------------------------------------

    def _evidence(self, name: str) -> Evidence:
        link = self.links[name]
        return Evidence(link.health, link.is_fresh, self._outcome.steady[name])

    def _authority_changed(self, name: str, level: Level) -> None:
        link = self.links[name]
        self._outcome.steady[name] = 0
        if level not in SENDS or self._is_beyond_band(name):
            link.forget_setpoint()
        if link.telemetry is not None and link.is_fresh:
            self._twins.reseed(name, link.telemetry)  # begin where the device is: no jump
        self._notify()

    def _is_beyond_band(self, name: str) -> bool:
        """Whether what was sent last is more than the level in force allows."""
        band, sent = self._band(name), self._sent.get(name)
        return band is not None and sent is not None and not band.p_min_mw <= sent.p_mw <= band.p_max_mw

    # -- leases ------------------------------------------------------------------------------------

    def _schedule_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._sent:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(self._lease_s / RENEWALS, self._renew)

    def _renew(self) -> None:
        """Extend the leases of a step that takes longer than they do."""
        episode, step = self._at
        if self.estop is None:
            for name in self._sent:
                if self.authority.level(name) in SENDS and self.links[name].health != "offline":
                    self.links[name].renew(self._stamper, episode=episode, step=step)
        self._schedule_renewal()
