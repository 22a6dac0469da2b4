"""FieldGateway: everything between one agent and its devices: authority, envelope, leases, fallback."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from heron_mqtt.errors import UnsupportedFeature
from heron_mqtt.field.gateway.authority import RULES, Evidence
from heron_mqtt.field.gateway.authority_manager import AuthorityManager, Manual
from heron_mqtt.field.gateway.clearance import apply_clearance
from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.field.gateway.envelope import Band, SetpointLimits
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.field.gateway.gateway_leases import GatewayLeases
from heron_mqtt.field.gateway.hand_back import HAND_BACK_S, SHOWS_S, Unreturned
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.field.gateway.step_outcome import StepOutcome
from heron_mqtt.field.gateway.stop_signals import StopSignals
from heron_mqtt.field.gateway.twins import DeviceTwins, clamp_setpoints
from heron_mqtt.field.moving_deadline import MovingDeadline
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.messages import Clearance, EmergencyStop, Level, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper, utc_now

log = logging.getLogger("heron_mqtt.gateway")

ESTOP = "emergency stop"
NOT_HANDED_BACK = "released, and does not show it"
REAL_AFTER_ALL = "a real device answers where an emulator is expected: set external = true"


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
        take_over: Displace another holder of a device's lease, with the first setpoint.
        predecessors: Boots of earlier starts of this gateway, all dead: their leases are taken, too.
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
        take_over: bool = False,
        predecessors: frozenset[str] = frozenset(),
        monotonic: Callable[[], float] = steady_s,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        if devices and broker.features.external and not broker.features.retain:
            named = ", ".join(f"{agent_id}/{name}" for name in devices)
            raise UnsupportedFeature(
                f"{named}: cannot be driven over a broker without retained messages: an emergency stop would "
                "not reach a device that connects later; simulate it, or connect to an MQTT broker"
            )
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
            monotonic=monotonic,
            bounds=lambda name: (self._whatever_state[name], self._band(name)),
            why_no_manual_control=self._why_no_manual_control,
            may_have_waited=lambda: self.environment.has_just_paused,
            hand_back_s=lambda name: self._hand_back_s([name]) if self.links[name].hand_back.is_due else None,
        )
        self.environment = EnvironmentWatch(
            agent_id,
            broker,
            stamper.env_id,
            lease_s=lease_s,
            on_end=self._environment_ended,
            monotonic=monotonic,
        )
        """Which environment is served, and whether it is alive."""
        self._twins = twins
        self._settings = dict(devices)
        self._whatever_state = {
            name: SetpointLimits(*nameplates[name], twins.limits(name).s_max_mva, *nameplates[name])
            for name in devices
        }
        self._broker = broker
        self._stamper = stamper
        self._notify = notify
        self._at: tuple[int, int]  # episode and step, once one has begun
        self._outcome = StepOutcome(
            twins, {name: settings.gateway.gate_mw(nameplates[name]) for name, settings in devices.items()}
        )
        self._sent: dict[str, SetpointRequest] = {}
        self._awaited: list[str] = []  # of them, those that had not answered when that was last looked at
        self._unsent: dict[str, str] = {}  # by device, why nothing was sent in this step
        self._manual: dict[str, Manual] = {}  # by device, the setpoint of manual control in this step
        self._sent_by: dict[str, Manual | None] = {}  # of what was sent last; None = the agent's
        self._taken_up: dict[str, Telemetry] = {}  # by device, what its model was set to, for the record
        self._reseeded_since_sent: set[str] = set()  # devices whose models were set to telemetry
        self._to_reseed: set[str] = set()  # of these, models that then took a step that their device did not
        self._stop = StopSignals(agent_id, broker, stamper, stamper.env_id, self._stop_changed)
        self._leases = GatewayLeases(
            self.links, lease_s=lease_s, left_s=lambda: self.environment.left_s, monotonic=monotonic
        )
        self._renewing: asyncio.Task[None] | None = None
        self._renewal = MovingDeadline(lambda: self._leases.due_at, monotonic)
        self._hand_backs: set[asyncio.Task[None]] = set()
        self._let_go_of: list[str] = []  # at the end, those that did not show it when that was last looked at
        self._forget_reconnect: Callable[[], None] = lambda: None
        self._names = sorted(devices)
        self._first_asked = 0  # of them, whether it lacks something
        for name, settings in devices.items():
            self.links[name] = DeviceLink(
                agent_id,
                name,
                broker,
                env_id=stamper.env_id,
                lease_s=lease_s,
                on_change=partial(self._heard, name),
                settings=settings.gateway,
                nameplate_mw=nameplates[name],
                s_max_mva=self._whatever_state[name].s_max_mva,
                kind=settings.kind,
                take_over=take_over,
                predecessors=predecessors,
                monotonic=monotonic,
                now=now,
            )

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen to the environment, the devices, requests for authority and the emergency stop."""
        self._forget_reconnect = self._broker.on_reconnect(self._on_reconnect)
        await self._stop.open()
        await self.environment.open()
        for link in self.links.values():
            await link.open()
        await self.authority.open()

    def begin(self) -> None:
        """Say what is in force; called once the agent's name is ours and what the broker kept has come."""
        self.authority.begin()
        if self.links and self._renewing is None:
            loop = asyncio.get_running_loop()
            self._renewing = loop.create_task(self._renew_in_time(), name=f"renewals of {self.agent_id}")

    def begin_end(self) -> None:
        """Release the devices and renew nothing more; what they answer is still heard. Idempotent."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
            for link in self.links.values():
                link.release(self._stamper)
            self._let_go_of = self._not_handed_back()

    def release_again(self) -> None:
        """Release the devices again that do not show their release: the first message may be lost."""
        for name in self._not_handed_back():
            self.links[name].release_again(self._stamper)

    def is_handed_back(self) -> bool:
        """Whether every device that was driven shows its release; without those that have an adapter.

        Asked at every message of a device, so one that is awaited is looked at first.
        """
        awaited = self._let_go_of
        while awaited and not self._is_to_be_handed_back(awaited[-1]):
            awaited.pop()
        return not awaited

    def _not_handed_back(self) -> list[str]:
        return [name for name in self.links if self._is_to_be_handed_back(name)]

    def _is_to_be_handed_back(self, name: str) -> bool:
        return self.links[name].is_to_be_handed_back and not self._settings[name].has_adapter

    def shows_within_s(self) -> float:
        """Return how long released devices may take to show their release, by their measurements so far, s.

        Of those that do not show it yet, and are there and in no fault: those measure nothing that shows it.
        """
        return self._shows_within_s(self._not_handed_back())

    def _shows_within_s(self, names: Sequence[str]) -> float:
        links = (self.links[name] for name in names)
        there = (link.shows_within_s for link in links if link.health in {"online", "stale"})
        return SHOWS_S + max(there, default=0.0)

    def _hand_back_s(self, names: Sequence[str]) -> float:
        """Return how long devices have to show their release while this gateway continues, s."""
        return max(HAND_BACK_S, self._shows_within_s(names))

    async def hear_leases(self) -> None:
        """Hear what devices that have gone offline said last of their lease, of those to be handed back."""
        for name in self._not_handed_back():
            if self.links[name].is_offline:
                await self.links[name].hear_lease()

    def unreturned(self) -> dict[str, Unreturned]:
        """Return what is wrong, by device, with those that were driven and do not show their release.

        A device with an adapter is left out: the adapter hands it back, and reports the result.
        """
        found = {name: self.links[name].unreturned for name in self._not_handed_back()}
        return {name: one for name, one in found.items() if one is not None}

    def close(self) -> None:
        """Release the devices, renew nothing more and stop listening. Idempotent."""
        self._forget_reconnect()
        self.begin_end()
        for task in self._hand_backs:
            task.cancel()
        self._hand_backs.clear()
        self._stop.close()
        self.environment.close()
        self.authority.close()
        for link in self.links.values():
            link.close()

    def abandon(self) -> None:
        """Give the leases back, so that none is renewed: another gateway has taken the devices over."""
        for link in self.links.values():
            link.release(self._stamper)
            link.hand_back.forget()

    @property
    def estop(self) -> EmergencyStop | None:
        """The emergency stop in force, if there is one."""
        return self._stop.estop

    def absent(self, run: str | None, episode: int) -> list[str]:
        """Return the devices that setpoints are to be sent to and that are not ready, as text for people."""
        return [f"{name} ({why})" for name, why in self.lacks(run, episode).items()]

    def lacks(self, run: str | None, episode: int) -> dict[str, str]:
        """Return what lacks, by device, of those that setpoints are to be sent to and that are not ready.

        An emulator must be in the episode. A real device must have been heard as often as the gate of its
        level requires. If it was heard, but not often enough, it starts the run in shadow after the wait.
        """
        told = {name: self._lack(name, run, episode) for name in self._names}
        return {name: why for name, why in told.items() if why is not None}

    def is_complete(self, run: str | None, episode: int) -> bool:
        """Whether no device lacks anything.

        Asked at every message while thousands of devices may still be missing: it ends at the first that
        lacks something, and begins with that one the next time.
        """
        n = len(self._names)
        for i in range(self._first_asked, self._first_asked + n):
            if self._lack(self._names[i % n], run, episode) is not None:
                self._first_asked = i % n
                return False
        return True

    def _lack(self, name: str, run: str | None, episode: int) -> str | None:
        """Return what lacks of one device; None = nothing."""
        link = self.links[name]
        if not RULES[self.authority.ceiling(name)].sends:
            return None
        if self._settings[name].is_real:
            if self._is_proven(name):
                return None
            return link.waits_for(self._settings[name].gateway.gate_steps)
        if self._is_real_after_all(name):
            return REAL_AFTER_ALL
        if not link.is_ready(run, episode):
            return f"no birth for this episode on {link.status_topic}"
        return f"nothing on {link.telemetry_topic}" if link.telemetry is None else None

    def can_begin_in_shadow(self, name: str) -> bool:
        """Whether a run begins without a device that is not ready: a real one that was heard."""
        return self._settings[name].is_real and self.links[name].was_heard

    def _is_real_after_all(self, name: str) -> bool:
        """Whether a device that follows no episodes, a real one, answers where an emulator is expected."""
        status = self.links[name].status
        expects_emulator = self.authority.level(name) == "emulated" and not self._settings[name].is_real
        return expects_emulator and status is not None and status.state == "online" and status.run is None

    def _is_proven(self, name: str) -> bool:
        link, gate = self.links[name], self._settings[name].gateway.gate_steps
        return link.is_born and link.health == "online" and link.plausible_in_a_row >= gate

    def begin_episode(self) -> None:
        """Let models begin where their devices are, of those that do not begin afresh.

        Emulators begin an episode as the models do; hardware is wherever the last one left it.
        """
        self.authority.rise()
        self._to_reseed.clear()
        for name, link in self.links.items():
            follows = link.status is not None and link.status.run is not None
            is_followed = self.authority.sends(name) and (self._settings[name].is_real or not follows)
            if is_followed and link.telemetry is not None and link.is_fresh:
                self._reseed(name, link.telemetry)

    def _reseed(self, name: str, telemetry: Telemetry) -> None:
        """Set a model to what its device measured."""
        self._twins.reseed(name, telemetry)
        self._taken_up[name] = telemetry
        self._reseeded_since_sent.add(name)

    def taken_up(self) -> dict[str, Telemetry]:
        """Return, once, the telemetry that models were set to between steps, by device: for the record."""
        found, self._taken_up = self._taken_up, {}
        return found

    # -- one step ----------------------------------------------------------------------------------

    def skip_simulated(self, episode: int, step: int) -> bool:
        """Begin a step in which no setpoint can leave, if it is one: all is simulated and nothing stopped."""
        if self.estop is not None or not self.authority.all_simulated:
            return False
        self._begin_step(episode, step)
        self._outcome.begin_step({})
        return True

    def _begin_step(self, episode: int, step: int) -> None:
        self._at = (episode, step)
        self.authority.step = step
        self._sent = {}
        self._unsent = {}

    def clamp_setpoints(self, wanted: Mapping[str, SetpointRequest]) -> dict[str, SetpointRequest]:
        """Return the setpoints inside every bound of their devices; remembers which bound changed which.

        Simulated devices are left out of the memory: their models keep the same bounds without being told.
        """
        self.authority.rise()
        self._reseed_again()
        if self.estop is not None:
            self._manual = {}
            self._outcome.begin_step(dict.fromkeys(wanted, ESTOP))
            return {name: want.zero() for name, want in wanted.items()}
        told, self._manual = self.authority.override(wanted)
        bands = {name: band for name in self._settings if (band := self._band(name)) is not None}
        real = [name for name, settings in self._settings.items() if settings.is_real]
        allowed, reasons = clamp_setpoints(self._twins, told, bands, explained=real)
        for name, manual in self._manual.items():
            who = f"under manual control of {manual.who}"
            reasons[name] = f"{who}, {reasons[name]}" if name in reasons else who
        self._outcome.begin_step(
            {name: why for name, why in reasons.items() if self.authority.level(name) != "simulated"}
        )
        return allowed

    def _reseed_again(self) -> None:
        """Set models to telemetry again that stood in for a restarted device, so that nothing jumps."""
        for name in self._to_reseed:
            telemetry = self.links[name].telemetry
            if telemetry is not None:  # else its first telemetry does it
                self._reseed(name, telemetry)
        self._to_reseed.clear()

    def _band(self, name: str) -> Band | None:
        """Return the band in force over a device."""
        table = self._settings[name].gateway.band
        if not RULES[self.authority.level(name)].is_banded:
            return None
        if table is None:  # refused by the scenario, and by the gate; never full power in its place
            return Band(0.0, 0.0)
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
        self._reseeded_since_sent.clear()
        self._keep_what_is_allowed_now(allowed)
        shortest_s = math.inf
        for name, setpoint in allowed.items():
            if dt_s is None or not self.authority.sends(name):
                continue
            link, by = self.links[name], self._manual.get(name)
            left_s = self._leases.lease_s
            lease_s = self._lease_s(name, by, left_s)
            why = link.why_not_sent if left_s > 0.0 else self.environment.why_silent
            if why is None and lease_s <= 0.0:
                why = (
                    "manual control began meanwhile" if by is None else "it is no longer under manual control"
                )
            if self._is_real_after_all(name):
                why = REAL_AFTER_ALL
            if why is not None:
                self._unsent[name] = why
                continue
            link.send(setpoint, self._stamper, lease_s=lease_s, dt_s=dt_s, episode=episode, step=step)
            self._sent[name], self._sent_by[name] = setpoint, by
            shortest_s = min(shortest_s, lease_s)
        self._awaited = list(self._sent)
        if self._sent:
            self._leases.sent(shortest_s)
            self._renewal.moved()

    def _keep_what_is_allowed_now(self, allowed: dict[str, SetpointRequest]) -> None:
        """Hold to what came while the setpoints were being cleared: a stop, a demotion, a rebirth."""
        for name, setpoint in allowed.items():
            if self.estop is not None:
                if setpoint != setpoint.zero():
                    self._outcome.remark(name, ESTOP)
                    allowed[name] = setpoint.zero()
                continue
            if name not in self._settings or not self.authority.sends(name):
                continue
            limits, band = self._twins.limits(name), self._band(name)
            low, high = limits.feasible_min_mw, limits.feasible_max_mw
            if band is not None:
                low, high = max(low, band.p_min_mw), min(high, band.p_max_mw)
            # Only towards 0: what the check of all together has reduced must not grow again.
            p_mw = max(min(setpoint.p_mw, max(high, 0.0)), min(low, 0.0))
            if p_mw != setpoint.p_mw:
                allowed[name] = replace(setpoint, p_mw=p_mw)

    def answered(self) -> bool:
        """Whether no device is awaited: none that answered, fell silent before, or has said that it cannot.

        Asked at every message of a device, so one that is awaited is looked at first.
        """
        awaited = self._awaited
        while awaited and not self._is_awaited(awaited[-1]):
            awaited.pop()
        return not awaited and not any(self._is_awaited(name) for name in self._sent)

    def _is_awaited(self, name: str) -> bool:
        link = self.links[name]
        return (
            link.answer() is None
            and link.expects_answer
            and self.authority.sends(name)
            and link.health in {"online", "stale"}
        )

    def settle(self, allowed: Mapping[str, SetpointRequest]) -> int:
        """Take the step with telemetry where it answered and with models elsewhere.

        A device that takes no setpoints but measures is believed: what it measures is what the
        grid gets, whatever its setpoint was.

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
            if (age_s := link.age_s) is not None:
                link.stats.sample(link.stats.age_s, age_s)
            step, was_sent = self._at[1], name in self._sent
            if level == "shadow":
                self._outcome.compare(name, link, setpoint)
                continue
            missed |= was_sent and self._is_awaited(name)
            if (telemetry := self._truth(name, link)) is not None:
                self._outcome.follow(name, link, telemetry, setpoint, step)
            else:
                self._outcome.stand_in(
                    name, link, setpoint, step, was_sent=was_sent, unsent=self._unsent.get(name)
                )
                if name in self._reseeded_since_sent:
                    self._to_reseed.add(name)
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

    # -- what comes from outside the step ------------------------------------------------------------

    def _heard(self, name: str) -> None:
        """A message of a device has arrived."""
        link = self.links[name]
        if link.says_stopped:
            self._stop.hear_from(link.name)
        if link.takes_up_again():
            assert link.telemetry is not None
            self._reseed(name, link.telemetry)  # it begins from what it says of itself: no jump
        self._notify()

    def _evidence(self, name: str) -> Evidence:
        link = self.links[name]
        return Evidence(
            link.health, link.is_fresh, self._outcome.steady[name], link.plausible_in_a_row, link.is_born
        )

    def _authority_changed(self, name: str, level: Level) -> None:
        link = self.links[name]
        self._outcome.steady[name] = 0
        if not RULES[level].sends:
            self._let_go([name])
        elif self._is_beyond_band(name):
            link.forget_setpoint()
        if link.telemetry is not None and link.is_fresh:
            self._reseed(name, link.telemetry)  # begin where the device is: no jump
        self._notify()

    def _is_beyond_band(self, name: str) -> bool:
        """Whether what was sent last is more than the level in force allows."""
        band, sent = self._band(name), self._sent.get(name)
        return band is not None and sent is not None and not band.p_min_mw <= sent.p_mw <= band.p_max_mw

    def _stop_changed(self) -> None:
        if self.estop is not None:
            self._leases.end()  # devices receive the stop themselves; no lease may be renewed
            self.authority.end_manual_control(ESTOP)
        self._notify()

    def _why_no_manual_control(self) -> str | None:
        """Return why manual control cannot begin now; None if it can."""
        if self.estop is not None:
            return "an emergency stop is in force"
        if self.environment.left_s <= 0.0:
            return f"nothing is sent: {self.environment.why_silent}"
        return None

    def _environment_ended(self, why: str) -> None:
        if why.endswith("finished"):
            self._let_go(self._names)
            self._leases.end()
        else:
            self._leases.end()
            within_s = self._hand_back_s(self._due(self._names))
            self._watch_hand_back(self._names, self._leases.longest_s + within_s)
        self.authority.end_manual_control(why)
        self._notify()

    def _let_go(self, names: Sequence[str]) -> None:
        """Release devices while this gateway continues, and report those that do not show it in time."""
        for name in names:
            self.links[name].release(self._stamper)
        self._watch_hand_back(names, self._hand_back_s(self._due(names)))

    def _due(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.links[name].hand_back.is_due]

    def _watch_hand_back(self, names: Sequence[str], after_s: float) -> None:
        watched = self._due(names)
        if not watched:
            return
        task = asyncio.get_running_loop().create_task(
            self._report_unreturned(watched, after_s), name=f"devices of {self.agent_id} that were let go"
        )
        self._hand_backs.add(task)
        task.add_done_callback(self._hand_backs.discard)

    async def _report_unreturned(self, names: Sequence[str], after_s: float) -> None:
        await asyncio.sleep(after_s)
        for name in names:
            link = self.links[name]
            if not link.holds_setpoint and (left := link.unreturned) is not None:
                self._broker.stats.report("device", link.name, f"{NOT_HANDED_BACK}: {left.why}")

    def _on_reconnect(self) -> None:
        """The broker may have been restarted: what it kept may be gone, and what we knew of it old."""
        for link in self.links.values():
            link.on_reconnect()
        self._stop.on_reconnect()
        self.authority.begin()

    # -- leases ------------------------------------------------------------------------------------

    async def _renew_in_time(self) -> None:
        """Extend the leases of a step that takes longer than they do, while the environment is alive."""
        while True:
            await self._renewal.reached()
            await self.environment.caught_up()
            self._renew()

    def _lease_s(self, name: str, by: Manual | None, lease_s: float) -> float:
        """Return how long a setpoint of a device may last now, s; 0 = it may not be sent or renewed.

        A setpoint of manual control ends when the control ends or is withdrawn, unless manual control
        requests the same setpoint again. A setpoint of the agent ends when manual control begins. This does
        not apply to the zero of a stop.

        Args:
            name: The device.
            by: The manual control that the setpoint is of; None = the agent's own.
            lease_s: What a lease from now on may last, s, with or without manual control.
        """
        if self.estop is not None:
            return lease_s
        return min(lease_s, self.authority.manual_left_s(name, by))

    def _renew(self) -> None:
        episode, step = self._at
        leases_s = {
            name: math.floor(self._lease_s(name, self._sent_by.get(name), self._leases.lease_s) * 1e3) / 1e3
            for name in self._leases.renewable()
        }
        self._leases.sent(min(leases_s.values(), default=0.0))  # first of all: the next one is due
        if self.estop is not None:
            return
        for name, lease_s in leases_s.items():
            if lease_s > 0.0 and self.authority.sends(name):
                self.links[name].renew(self._stamper, lease_s=lease_s, episode=episode, step=step)
