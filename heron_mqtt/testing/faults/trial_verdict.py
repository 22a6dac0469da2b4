"""What a trial has shown: setpoints and power that the safety case forbids, counted.

It uses the messages on the broker and the power of the devices, by the monotonic clock of this one process.
Nothing of the watched programs is imported.
"""

from __future__ import annotations

import time

from heron_mqtt.testing.faults.observer import Observed
from heron_mqtt.testing.faults.tally import LEASE_S, TOLERATED_S
from heron_mqtt.testing.faults.trial_site import IN_FLIGHT_S, LIMITS_MW, SHADOW, TimeSpan, TrialSite


def judge(site: TrialSite) -> None:
    """Look at everything that was seen in a trial, and count in its tally what must not be."""
    _Verdict(site).take()


class _Verdict:
    def __init__(self, site: TrialSite) -> None:
        self._site = site

    def take(self) -> None:
        """Look at everything that was seen in this trial, and count it in the tally of its fault."""
        now = time.monotonic()
        for name, (low, high) in LIMITS_MW.items():
            told = self._site.setpoints(name, self._site.begun)
            wrong = [m for m in told if not low - 1e-9 <= m.json.get("p_mw", 1e9) <= high + 1e-9]
            wrong += [m for m in told if not 0.0 < m.json.get("lease_s", -1.0) <= LEASE_S]
            self._count("outside", wrong)
            stops = [
                m
                for m in told
                if m.json["p_mw"] != 0.0 and self._within(m.at, self._site.stopped, IN_FLIGHT_S)
            ]
            self._count("after_stop", stops)
            self._count("second_owner", _interleaved(told))
            self._count("past_lease", [m for m in told if self._within(m.at, self._site.dead, LEASE_S)])
        self._count("to_shadow", self._site.setpoints(SHADOW, self._site.begun))
        seen = self._site.setpoints("MG1/ess", self._site.begun - 5.0)
        for device in self._site.powers:  # after a reconnect a device may hear what the observer does not
            heard = [m for m in list(device.heard) if m.payload not in self._site.injected]
            rightful = [m.at for m in [*seen, *heard] if self._is_rightful(m)]
            self._hold(f"MG1/ess ({device.boot})", device.power, rightful, now)
        shown = [m for m in self._site.observer.on("MG2/ess/telemetry") if m.at >= self._site.begun]
        shown = [m for m in shown if m.payload not in self._site.injected]
        rightful = [
            m.at for m in self._site.setpoints("MG2/ess", self._site.begun - 5.0) if self._is_rightful(m)
        ]
        for boot in {m.json["boot"] for m in shown} if not self._site.is_blind else ():
            life = [m for m in shown if m.json["boot"] == boot]  # what a dead process does is not known
            self._hold(f"MG2/ess ({boot})", _changes(life), rightful, life[-1].at)
        for message in shown:
            held_s = message.json.get("safe_after_s", 0.0) - self._site.device_stood_still_s
            self._held(held_s, "MG2/ess, by its own clock")

    def _count(self, what: str, messages: list[Observed]) -> None:
        if messages:
            setattr(self._site.tally, what, getattr(self._site.tally, what) + len(messages))
            for m in messages[:3]:
                self._site.note(
                    f"{what}: at +{m.at - self._site.begun:.3f} s {m.topic} {m.payload.decode()[:330]}"
                )

    def _within(self, at: float, spans: list[TimeSpan], grace_s: float) -> bool:
        return any(span.begin + grace_s < at < span.end for span in spans)

    def _is_rightful(self, setpoint: Observed) -> bool:
        """Whether no stop is in force, and the environment lives or has not been dead for longer than that.

        After its death a gateway renews until one lease after the last sign of life, with what is left.
        """
        if self._within(setpoint.at, self._site.stopped, 0.0):
            return False
        lease_s = setpoint.json.get("lease_s", LEASE_S)
        died_at = [span.begin for span in self._site.dead if span.begin < setpoint.at < span.end]
        return all(setpoint.at + lease_s <= begin + LEASE_S for begin in died_at)

    def _hold(self, name: str, power: list[tuple[float, float]], rightful: list[float], now: float) -> None:
        """Take the longest time for which a device had power after the last rightful message to it."""
        ends = [at for at, _ in power[1:]] + [now]
        for (begin, p_mw), end in zip(power, ends, strict=True):
            if p_mw == 0.0 or end < self._site.begun:
                continue
            # a device may hear a setpoint a moment before the observer does
            heard = sorted(begin if begin < at < begin + 0.1 else at for at in rightful)
            marks = [at for at in heard if max(begin, self._site.begun) < at < end] + [end]
            for mark in marks:
                before = [at for at in heard if at < mark]
                held_s = mark - (before[-1] if before else max(begin, self._site.begun - 5.0))
                self._held(held_s, f"{name} with {p_mw} MW, until +{mark - self._site.begun:.3f} s")

    def _held(self, held_s: float, what: str) -> None:
        self._site.tally.held_s = max(self._site.tally.held_s, held_s)
        if held_s > LEASE_S + TOLERATED_S:
            self._site.tally.past_lease += 1
            self._site.note(f"power for {held_s:.3f} s after the last rightful setpoint: {what}")


def _changes(shown: list[Observed]) -> list[tuple[float, float]]:
    """Return when the power of a device changed, as its telemetry shows it."""
    found: list[tuple[float, float]] = []
    for message in shown:
        p_mw = message.json.get("p_mw", 0.0)
        if not found or found[-1][1] != p_mw:
            found.append((message.at, p_mw))
    return found


def _interleaved(told: list[Observed]) -> list[Observed]:
    """Return the setpoints that came between those of an earlier owner."""
    owners = [(m.json.get("sender"), m.json.get("boot")) for m in told]
    last = {owner: i for i, owner in enumerate(owners)}
    first = {owner: i for i, owner in reversed(list(enumerate(owners)))}
    return [
        m
        for i, m in enumerate(told)
        if any(first[o] < first[owners[i]] and last[o] > i for o in last if o != owners[i])
    ]
