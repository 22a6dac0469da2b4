"""What a run counts is what an observer counts."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from support.observer import Observer, PlainDevice
from support.safety_runs import on_mosquitto, run, until_driven, write

STEPS = 60


class AwkwardDevice(PlainDevice):
    """Speaks only when told something, refuses every seventh setpoint, loses and repeats telemetry."""

    def __init__(self, url: str) -> None:
        self.rng = random.Random(3)
        self.told = self.rejected = self.lost = self.repeated = 0
        self.ignores = False
        super().__init__(url, "small", period_s=1000.0)

    def _take(self, told: dict[str, Any]) -> None:
        if told.get("renewal") or told.get("release"):
            super()._take(told)
            return
        if self.ignores:
            return
        self.told += 1
        if self.told % 7 == 0:
            self.rejected += 1
            self._ack = {"ack_boot": told["boot"], "ack_seq": told["seq"]}
            self.say(rejected="locked")
            return
        if self.told > 2 and self.rng.random() < 0.2:  # the number is used up, the message never comes
            self.seq += 1
            self.lost += 1
        super()._take(told)
        if self.rng.random() < 0.2:
            self.repeated += 1
            self.client.publish(f"{self.base}/telemetry", self.newest, qos=1)


@on_mosquitto
def test_what_a_run_counts_is_what_an_observer_counts(tmp_path: Path, url: str) -> None:
    with Observer(url) as observer, run(write(tmp_path, steps=STEPS), url) as program:
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        with AwkwardDevice(url) as device:
            device.say()
            until_driven(observer, device)
            observer.publish("heron/small/devices/MG1/ess/telemetry", {"p_mw": 9.0})  # beyond the nameplate
            time.sleep(0.5)
            observer.publish("heron/small/estop", {"active": True, "who": "observer", "why": "counting"})
            time.sleep(0.5)
            observer.publish("heron/small/estop", {"active": False, "boot": "o", "seq": 1})
            device.ignores = True
            observer.wait("a model stands in", lambda: any("fallback_ess" in a for a in _actions(observer)))
            device.ignores = False
            device.say()
            done = program.wait()
            said = device.seq + 1
    assert done.code == 0, done.err
    told = done.result
    counted = told["devices"]["MG1/ess"]
    setpoints = [m for m in observer.setpoints() if not m.json.get("renewal")]
    seen = {
        "setpoints": len(setpoints),
        "telemetry": said - device.lost,
        "lost": device.lost,
        "duplicated": device.repeated,
        "rejected": len([m for m in observer.on("ess/telemetry") if "rejected" in m.json])
        - _repeats(observer),
        "refused": 1,
        "fallbacks": len([action for action in _actions(observer) if "fallback_ess" in action]),
    }
    assert min(device.lost, device.repeated, device.rejected, seen["fallbacks"]) > 0
    assert {key: counted[key] for key in seen} == seen
    assert (told["estop"]["who"], told["estop"]["active"]) == ("observer", False)


@on_mosquitto
def test_a_number_that_lies_makes_no_losses(tmp_path: Path, url: str) -> None:
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", period_s=1000.0) as device,
        run(write(tmp_path), url) as program,
    ):
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        for leap in (1, 1, 4, 804_726_914, 1, 3, 10**15, 1):
            device.seq += leap - 1
            device.say()
        observer.wait("it was heard", lambda: len(observer.on("MG1/ess/telemetry")) > 7)
        time.sleep(0.3)
        program.signal(2)
        done = program.wait()
    assert done.result["devices"]["MG1/ess"]["lost"] == 3 + 2


def _actions(observer: Observer) -> list[dict[str, Any]]:
    return [m.json for m in observer.on("agents/MG1/action")]


def _repeats(observer: Observer) -> int:
    """Return how many refusals came twice."""
    numbers = [m.json["seq"] for m in observer.on("ess/telemetry") if "rejected" in m.json]
    return len(numbers) - len(set(numbers))
