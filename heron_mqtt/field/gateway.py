"""FieldGateway: everything between one agent and its devices: authority, envelope, leases, fallback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.authority import SENDS, AuthorityDesk, Evidence
from heron_mqtt.field.clearance import apply_clearance
from heron_mqtt.field.envelope import Band
from heron_mqtt.field.link import DeviceLink, Wanted
from heron_mqtt.field.models import Models, bounded
from heron_mqtt.field.settings import DeviceSettings
from heron_mqtt.messages import Clearance, EmergencyStop, Level, Telemetry, parse
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received, Subscription
from heron_mqtt.messaging.outbox import Outbox

log = logging.getLogger("heron_mqtt.gateway")

RENEWALS = 3  # a lease survives two lost renewals


class FieldGateway:
    """Drives one agent's devices, each with the authority it has.

    Args:
        agent_id: Owner of the devices.
        models: Their models, which also stand in for them.
        devices: Their settings, by name.
        nameplates: Smallest and largest power by device, MW, positive = injected.
        broker: Carries the messages.
        outbox: Stamps what is published.
        notify: Called after every message, to have conditions looked at again.
        lease_s: How long a setpoint holds on a device without renewal, wall-clock s.
        monotonic: Clock for ages and waits, s.
        now: Clock for the record, UTC.
    """

    def __init__(
        self,
        agent_id: str,
        models: Models,
        devices: Mapping[str, DeviceSettings],
        nameplates: Mapping[str, tuple[float, float]],
        broker: MessageBroker,
        outbox: Outbox,
        *,
        notify: Callable[[], None],
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.agent_id = agent_id
        self.estop: EmergencyStop | None = None
        """The emergency stop in force, if there is one."""
        self.links: dict[str, DeviceLink] = {}
        self.desk = AuthorityDesk(
            agent_id,
            devices,
            broker,
            outbox,
            evidence=self._evidence,
            on_change=self._authority_changed,
            now=now,
        )
        self._models = models
        self._settings = dict(devices)
        self._broker = broker
        self._outbox = outbox
        self._notify = notify
        self._lease_s = lease_s
        self._now = now
        self._at = (0, 0)
        self._steady = dict.fromkeys(devices, 0)
        self._bounds: dict[str, str] = {}
        self._sent: dict[str, Wanted] = {}
        self._subscription: Subscription | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._retain = {"retain": True} if broker.features.retain else {}
        for name, settings in devices.items():
            self.links[name] = DeviceLink(
                agent_id,
                name,
                broker,
                lease_s=lease_s,
                on_change=notify,
                settings=settings.gateway,
                nameplate_mw=nameplates.get(name),
                monotonic=monotonic,
            )

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen to the devices, to requests for authority and to the emergency stop."""
        for link in self.links.values():
            await link.open()
        if self.links:
            self._subscription = self._broker.subscribe(topics.ESTOP, self._on_estop)
            await self._subscription
        await self.desk.open()

    def close(self) -> None:
        """Stop renewing leases, and stop listening. Idempotent."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self._subscription is not None:
            self._subscription()
        self.desk.close()
        for link in self.links.values():
            link.close()

    def absent(self, run: str | None, episode: int) -> list[str]:
        """Return the devices that setpoints will be sent to and that are not ready for an episode."""
        return sorted(
            name
            for name, link in self.links.items()
            if self.desk.level(name) in SENDS and not link.is_ready(run, episode)
        )

    # -- one step ----------------------------------------------------------------------------------

    def bounded(self, wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
        """Return the setpoints inside every bound of their devices; remembers which bound changed which.

        Simulated devices are left out of the memory: their models keep the same bounds without being told.
        """
        if self.estop is not None:
            self._bounds = dict.fromkeys(wanted, "emergency stop")
            return {name: Wanted(0.0, 0.0, want.p_available_mw) for name, want in wanted.items()}
        bands = {
            name: Band(table.band.p_min_mw, table.band.p_max_mw)
            for name, table in ((name, settings.gateway) for name, settings in self._settings.items())
            if table.band is not None and self.desk.level(name) == "limited"
        }
        allowed, reasons = bounded(self._models, wanted, bands)
        self._bounds = {name: why for name, why in reasons.items() if self.desk.level(name) != "simulated"}
        return allowed

    def clear(self, allowed: dict[str, Wanted], clearance: Clearance | None) -> None:
        """Reduce setpoints to what the check of all together left; None = no answer: to nothing."""
        for name, reason in apply_clearance(allowed, clearance).items():
            before = self._bounds.get(name)
            self._bounds[name] = f"{before}, {reason}" if before else reason

    def send(self, allowed: Mapping[str, Wanted], *, dt_s: float | None, episode: int, step: int) -> None:
        """Send setpoints to the devices under control; ``settle`` takes what came back.

        Args:
            allowed: What ``bounded`` (and the check of all together) left of what was wanted.
            dt_s: Length of the step, s; None = unknown: nothing is sent.
            episode: Under way.
            step: Under way.
        """
        self._at = (episode, step)
        self.desk.step = step
        self._sent = {}
        for name, setpoint in allowed.items():
            if dt_s is None or self.desk.level(name) not in SENDS:
                continue
            link = self.links[name]
            if link.health == "offline":
                continue  # nobody is there; its model stands in until it says that it is back
            link.send(setpoint, self._outbox, dt_s=dt_s, episode=episode, step=step)
            self._sent[name] = setpoint
        self._schedule_renewal()

    def answered(self) -> bool:
        """Whether every device has answered that is expected to; one that fell silent is not waited for."""
        links = (self.links[name] for name in self._sent)
        return all(link.answer() is not None or not link.expects_answer for link in links)

    def settle(self, allowed: Mapping[str, Wanted]) -> int:
        """Take the step with telemetry where it answered and with models elsewhere.

        Returns:
            1 if a device missed the deadline, else 0.
        """
        missed = False
        for name, setpoint in allowed.items():
            level, link = self.desk.level(name), self.links.get(name)
            if link is None or level == "simulated":
                self._models.simulate(name, setpoint=setpoint)
            elif level == "shadow":
                self._models.simulate(name, setpoint=setpoint)
                if link.telemetry is not None and link.health == "online":
                    residual = self._models.shadowed(name, link.telemetry)
                    self._note(name, link, link.telemetry, setpoint, residual)
            elif (telemetry := self._trusted_answer(name, link)) is not None:
                residual = self._models.measured(name, telemetry, setpoint=setpoint)
                if absent := link.record.followed():
                    log.warning("%s: back in step %d, after %d steps", link.name, self._at[1], absent)
                self._note(name, link, telemetry, setpoint, residual)
            else:
                missed |= name in self._sent and link.expects_answer and link.answer() is None
                self._stand_in(name, link, setpoint)
        return int(missed)

    def _trusted_answer(self, name: str, link: DeviceLink) -> Telemetry | None:
        """Return the telemetry that answers this step's setpoint, unless the device says it is faulty."""
        return link.answer() if name in self._sent and link.health != "fault" else None

    def reasons(self) -> dict[str, str]:
        """Return what changed setpoints of this step, by device."""
        return dict(self._bounds)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return what happened to each device that was not merely simulated, by device."""
        found = {}
        for name, link in self.links.items():
            if self.desk.level(name) == "simulated" and not self.desk.history(name):
                continue
            trouble = self._broker.trouble(topics.device(self.agent_id, name, "telemetry"))
            found[name] = {
                "authority": self.desk.level(name),
                **link.record.as_dict(),
                "lost": trouble.lost,
                "duplicated": trouble.duplicated,
                "changes": [
                    f"step {c.step}: {c.before} -> {c.requested} by {c.who}: {c.reason or 'granted'}"
                    for c in self.desk.history(name)
                ],
            }
        return found

    def levels(self) -> dict[str, str]:
        """Return the authority of each device that is not simulated."""
        levels = {name: self.desk.level(name) for name in self.links}
        return {name: level for name, level in levels.items() if level != "simulated"}

    def _stand_in(self, name: str, link: DeviceLink, setpoint: Wanted) -> None:
        if name in self._sent and link.expects_answer:
            why = "no telemetry before the deadline"
        else:
            why = f"device {'silent' if link.health == 'online' else link.health}"
        self._steady[name] = 0
        link.give_up()
        if link.record.fell_back(link.waited_s if name in self._sent else 0.0) == 1:
            log.warning("%s: its model stands in from step %d: %s", link.name, self._at[1], why)
        self._models.simulate(name, why, setpoint=setpoint)

    def _note(
        self, name: str, link: DeviceLink, telemetry: Telemetry, setpoint: Wanted, residual: float
    ) -> None:
        record, settings = link.record, self._settings[name].gateway
        record.sample(record.residual_mw, residual)
        record.sample(record.age_s, link.age_s or 0.0)
        expected = (
            setpoint.p_mw if setpoint.p_available_mw is None else min(setpoint.p_mw, setpoint.p_available_mw)
        )
        record.sample(record.tracking_error_mw, telemetry.p_mw - expected)
        gate_mw = settings.gate_residual_mw
        if gate_mw is None:
            limits = self._models.limits(name)
            gate_mw = 0.05 * max(abs(limits.p_min_mw), abs(limits.p_max_mw))
        self._steady[name] = self._steady[name] + 1 if abs(residual) <= gate_mw else 0

    # -- authority ---------------------------------------------------------------------------------

    def _evidence(self, name: str) -> Evidence:
        return Evidence(self.links[name].health, self._steady[name])

    def _authority_changed(self, name: str, level: Level) -> None:
        link = self.links[name]
        self._steady[name] = 0
        if level not in SENDS:
            link.forget_setpoint()  # its lease runs out and it goes safe by itself
        if link.telemetry is not None and link.health == "online":
            self._models.reseed(name, link.telemetry)  # begin where the device is: no jump
        self._notify()

    # -- emergency stop ----------------------------------------------------------------------------

    def _on_estop(self, message: Received) -> None:
        try:
            stop = parse(EmergencyStop, message)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        self.estop = stop if stop.active else None
        log.warning(
            "%s: emergency stop %s by %s: %s",
            self.agent_id,
            "pressed" if stop.active else "released",
            stop.who or "unknown",
            stop.why or "no reason given",
        )
        if stop.active:
            for link in self.links.values():
                link.forget_setpoint()  # the devices hear the stop themselves; nothing must be renewed
        self._notify()

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
                if self.desk.level(name) in SENDS and self.links[name].health != "offline":
                    self.links[name].renew(self._outbox, episode=episode, step=step)
        self._schedule_renewal()
